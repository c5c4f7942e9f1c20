"""What a closed study found: the one door from a ledger to all that a reader is told.

Takes a ledger whose search is over; gives estimates, comparisons, and the verdict.  The summary, MLflow and the report
read these, and estimate nothing of their own.

Test scores of other trials than the winner are read here only, to correct the winner's, and leave this module in no
other form.

Suffixes: T trials, S subjects, which are numbered as the folds that they test.
"""

import dataclasses
import itertools
import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, create_trial

from datasets.errors import BadInput
from platform.evidence.after_search import NULLS
from platform.evidence.finalists import TEST
from platform.evidence.nulls import WINNER_FLIPS
from platform.evidence.protocols import SHUFFLED, UNIT_OF, WITHIN, WITHOUT_FURTHER_SCORES
from platform.evidence.statistics import (
    LOCKED_AWAY,
    NESTED,
    RAW,
    Array,
    Comparison,
    Estimate,
    both,
    compared,
    corrected,
    corrected_by_bootstrap,
    estimate,
    mixed_means,
    smallest_effect,
)
from platform.evidence.verdict import Evidence, Step, Verdict, evidence_of, verdict
from platform.ledger.ledger import Ledger
from platform.ledger.records import LedgerTrial, best_trial
from platform.racing.paired import leaders, posterior
from platform.scores.baselines import FITTED_IN_SUBJECT
from platform.scores.selection import best_position

NOT_TRAINING, LEFT_OUT_OF_PAIRS = 3, 2
"""Subjects of a fold that do not train: one tests, two validate; or two that do both."""
RULED_OUT = 0.05
"""Chance of being better than the best, below which a trial does not lead with it."""
NUM_BOOTSTRAPS = 40
FEWEST_TRIALS = 10
"""With fewer the importance of a choice is noise."""
FEWEST_FLIPS = 19
"""With fewer no p is as low as .05."""
RUNNER_UP = "runner-up"
FOLD_PLAN = "fold_plan"
"""Under this a ledger keeps who validates and how many train, where that is not as ``leave_one_subject_out`` has it."""
REPLICATIONS = "replications"
"""Under this a ledger keeps what its winner's configuration showed in other data sets."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How much of the scores' spread a choice explains, and the 95 % interval over bootstrapped trials."""

    parameter: str
    share: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Null:
    """A score and what it is without coupling; ``p`` is one-sided."""

    name: str
    observed: float
    values: tuple[float, ...]
    p: float


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What is said of a study.

    Attributes:
        study: its name.
        is_closed: whether its search is over.
        winner: the best trial by validation.
        raw: its mean test score, which choosing it has raised.
        corrected: the same without what choosing added.
        bootstrapped: the same by BBC-CV, a second opinion; None unless all trials ran on all subjects.
        unselected: from subjects that chose nothing, by method; empty unless the study has some.
        comparisons: the winner against baselines and the runner-up, test scores.
        leaders: trials that cannot be told apart from the best, by validation, the best first.
        cheapest: the one of them with the least time for a fold job.
        smallest_effect: the test score that the study would have found in four of five cases.
        seed_sd: of finalists' mean scores over seeds; None where each ran with one.
        importance: of the choices, largest first; empty where there are too few trials.
        nulls: what was scored without coupling.
        verdict: one word, with reasons.
        unit: what a fold leaves out: a subject, a recording, or a share of shuffled windows.
        leak: what training had of the scored subjects, in words; "" for nothing.
    """

    study: str
    is_closed: bool
    winner: LedgerTrial
    raw: Estimate
    corrected: Estimate
    bootstrapped: Estimate | None
    unselected: tuple[Estimate, ...]
    comparisons: tuple[Comparison, ...]
    leaders: tuple[int, ...]
    cheapest: int
    smallest_effect: float
    seed_sd: float | None
    importance: tuple[Importance, ...]
    nulls: tuple[Null, ...]
    verdict: Verdict
    unit: str = "subject"
    leak: str = ""


def findings(ledger: Ledger) -> Findings:
    """Return what a closed study found.

    Raises:
        BadInput: the search is not over, or no trial has run on all folds.
    """
    winner = winner_of(ledger)
    is_nested = bool(ledger.noted(NESTED))
    raw, best, bootstrapped = _all_estimates(ledger, winner)
    comparisons = () if is_nested else _comparisons(ledger, winner, raw.mean - best.mean)
    lead = leading(ledger.trials, len(winner.scores))
    scores_S, num_training = _by_subject(ledger, winner), _num_training(ledger, winner)
    known = dataclasses.replace(_evidence(ledger, winner, raw, best), replications=_replications(ledger, winner))
    return Findings(
        study=ledger.name,
        is_closed=True,
        winner=winner,
        raw=raw,
        corrected=best,
        bootstrapped=bootstrapped,
        unselected=_unselected(ledger, num_training),
        comparisons=comparisons,
        leaders=tuple(trial.number for trial in lead),
        cheapest=min(lead, key=lambda trial: (trial.seconds_per_job, trial.number)).number,
        smallest_effect=smallest_effect(scores_S, num_training) if len(scores_S) > 1 else math.nan,
        seed_sd=_seed_sd(ledger.trials),
        importance=importance(ledger.trials, ledger.history(len(ledger.trials)), int(ledger.terms.get("seed", 0))),
        nulls=_nulls(ledger),
        verdict=verdict(known),
        unit=UNIT_OF[ledger.terms.get("folds", "loso")],
        leak=known.leak,
    )


def winner_of(ledger: Ledger) -> LedgerTrial:
    """Return the best trial of a study; BadInput where its search is not over, or no trial has run on all folds."""
    winner = best_trial(ledger.trials)
    if not ledger.is_closed:
        raise BadInput(f"the search of study {ledger.name} is not over; run its command again to its end")
    if winner is None:
        raise BadInput(f"study {ledger.name} has no trial on all folds; run its command with more --trials")
    return winner


def evidence(ledger: Ledger) -> Evidence:
    """Return what a closed study's verdict is made of, without what other data sets say; BadInput as ``findings``."""
    winner = winner_of(ledger)
    raw, best, _ = _all_estimates(ledger, winner)
    return _evidence(ledger, winner, raw, best)


def leading(trials: Sequence[LedgerTrial], num_folds: int) -> list[LedgerTrial]:
    """Return the trials on all folds that cannot be told apart from the best, the best first."""
    complete = [trial for trial in trials if trial.state == "COMPLETE"]
    if len(complete) < 2:  # noqa: PLR2004 - nothing to compare
        return complete
    return [complete[at] for at in leaders([trial.scores for trial in complete], num_folds, RULED_OUT)]


def importance(trials: Sequence[LedgerTrial], history: Sequence[FrozenTrial], seed: int) -> tuple[Importance, ...]:
    """Return each choice's share of the spread of trials (PED-ANOVA, Watanabe et al. 2023), largest first.

    A trial counts with its posterior mean, so that those which ran on other subjects can be compared.

    Args:
        trials: the study's.
        history: the same as Optuna knows them.
        seed: of the bootstrap.
    """
    scored = [trial for trial in trials if trial.scores and history[trial.number].params]
    if len(scored) < FEWEST_TRIALS:
        return ()
    values = posterior(_table([trial.scores for trial in scored])).means_T
    drawn_from = [(history[trial.number], float(value)) for trial, value in zip(scored, values, strict=True)]
    rng = np.random.default_rng(seed)
    whole = _shares(drawn_from)
    drawn = [
        _shares([drawn_from[at] for at in rng.integers(0, len(scored), len(scored))]) for _ in range(NUM_BOOTSTRAPS)
    ]
    ends = {name: np.quantile([each.get(name, 0.0) for each in drawn], [0.025, 0.975]) for name in whole}
    return tuple(
        Importance(parameter=name, share=share, low=float(ends[name][0]), high=float(ends[name][1]))
        for name, share in sorted(whole.items(), key=lambda item: (-item[1], item[0]))
    )


def _shares(trials: Sequence[tuple[FrozenTrial, float]]) -> dict[str, float]:
    """Return the shares of the choices that all trials have; none where all trials are as good."""
    if len({value for _, value in trials}) == 1:
        return {}
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        create_trial(params=trial.params, distributions=trial.distributions, value=value) for trial, value in trials
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's own, where the best trials of a draw are all alike
        return dict(get_param_importances(study, evaluator=PedAnovaImportanceEvaluator()))


def _all_estimates(ledger: Ledger, winner: LedgerTrial) -> tuple[Estimate, Estimate, Estimate | None]:
    return _nested_estimates(ledger) if ledger.noted(NESTED) else _estimates(ledger, winner)


def _estimates(ledger: Ledger, winner: LedgerTrial) -> tuple[Estimate, Estimate, Estimate | None]:
    """Return the winner's test score as it is, and less what choosing added: by the mixed model, and by BBC-CV."""
    num_training, num_subjects = _num_training(ledger, winner), len(winner.scores)
    trials = _scored(ledger)
    at, seed = trials.index(winner), int(ledger.terms.get("seed", 0))
    validation_TS, test_TS = _by_trial_and_subject(ledger, trials, num_subjects)
    return (
        estimate(_test_scores(ledger, winner.number), num_training, RAW),
        corrected(validation_TS, test_TS, at, num_training),
        corrected_by_bootstrap(validation_TS, test_TS, at, num_training, seed),
    )


def _nested_estimates(ledger: Ledger) -> tuple[Estimate, Estimate, None]:
    """Return what a nested study says of the trial that all subjects chose, and of choosing by the others only."""
    nested = ledger.noted(NESTED)
    chosen_S, own_S = (
        np.array([scores for _, scores in sorted(nested[key].items())]) for key in ("winner", "subjects")
    )
    num_training = len(own_S) - LEFT_OUT_OF_PAIRS
    return estimate(chosen_S, num_training, RAW), estimate(own_S, num_training, NESTED), None


def validation_by_subject(
    trial: LedgerTrial, num_folds: int, plan: Sequence[Sequence[int]] | None = None
) -> dict[int, float]:
    """Return what a trial scored on every subject while it validated, each at the epochs that the other one chose.

    Without a plan, which tells it by fold, the two next subjects in the folds' order validate the fold of subject k.
    """
    found: dict[int, list[float]] = {}
    for fold, record in trial.records.items():
        if len(record.validation) != 2 or not all(record.validation):  # noqa: PLR2004 - two validation subjects
            continue
        first, second = record.validation
        one, other = plan[fold] if plan else ((fold + 1) % num_folds, (fold + 2) % num_folds)
        found.setdefault(one, []).append(first[best_position(second)])
        found.setdefault(other, []).append(second[best_position(first)])
    return {subject: statistics.fmean(scores) for subject, scores in found.items()}


def _unselected(ledger: Ledger, num_training: int) -> tuple[Estimate, ...]:
    found = []
    for method in (NESTED, LOCKED_AWAY):
        scores = (ledger.noted(method) or {}).get("subjects", {})
        if scores:
            shared = num_training if method == NESTED else 0
            found.append(estimate(np.array([scores[subject] for subject in sorted(scores)]), shared, method))
    return tuple(found)


def _comparisons(ledger: Ledger, winner: LedgerTrial, optimism: float) -> tuple[Comparison, ...]:
    """Return the winner against the baselines that could take its place, and against the runner-up."""
    rivals = {
        name: np.array([scores.test[fold] for fold in sorted(winner.scores)])
        for name, scores in ledger.baselines().items()
        if name not in FITTED_IN_SUBJECT and set(winner.scores) <= set(scores.test)
    }
    added, num_training = dict.fromkeys(rivals, optimism), _num_training(ledger, winner)
    scores_S = _test_scores(ledger, winner.number)
    second = best_trial(trial for trial in ledger.trials if trial.number != winner.number)
    if second is not None:
        name = f"{RUNNER_UP}, trial {second.number}"
        rivals[name] = _test_scores(ledger, second.number)
        trials = _scored(ledger)
        means = mixed_means(both(*_by_trial_and_subject(ledger, trials, len(winner.scores))))
        ahead = means[trials.index(winner)] - means[trials.index(second)]
        added[name] = float(np.mean(scores_S - rivals[name])) - ahead
    return compared(scores_S, rivals, added, num_training)


def _evidence(ledger: Ledger, winner: LedgerTrial, raw: Estimate, best: Estimate) -> Evidence:
    protocol = "nested" if ledger.noted(NESTED) else ledger.terms.get("folds", "")
    has_none = protocol in WITHOUT_FURTHER_SCORES
    further = {} if has_none else ledger.further_scores(f"trial-{winner.number:04d}")
    without = (
        f"it has none by subject under --protocol {protocol}"
        if has_none
        else "it was not computed (--no-finalist-scores)"
    )
    optimism, num_training = raw.mean - best.mean, _num_training(ledger, winner)

    def step(name: str, missing: str) -> Step:
        scores = [scores[TEST][name] for _, scores in sorted(further.items()) if name in scores.get(TEST, {})]
        if len(scores) < len(winner.scores):
            return Step(missing=missing if further else without)
        own = estimate(np.array(scores), num_training, RAW, mean=statistics.fmean(scores) - optimism)
        return Step(mean=own.mean, low=own.low)

    return Evidence(
        score=Step(mean=best.mean, low=best.low),
        beyond_confounds=step("unique_r", "the shards hold no confounds, or not of every subject"),
        beyond_events=step("unique_r_beyond_events", "not of every subject"),
        nulls=[
            (null.name, null.p)
            for null in _nulls(ledger)
            if null.name == WINNER_FLIPS and len(null.values) >= FEWEST_FLIPS
        ],
        is_control=ledger.terms.get("pairing", "recorded") != "recorded",
        is_within=ledger.terms.get("folds") == WITHIN,
        is_shuffled=ledger.terms.get("folds") == SHUFFLED,
    )


def _replications(ledger: Ledger, winner: LedgerTrial) -> tuple[tuple[str, Evidence], ...]:
    """Return what other data sets say of this winner; of an earlier one nothing is said."""
    return tuple(
        (f"in another data set (study {each['study']})", evidence_of(each["evidence"]))
        for each in ledger.noted(REPLICATIONS) or ()
        if each["own_trial"] == winner.number
    )


def _nulls(ledger: Ledger) -> tuple[Null, ...]:
    return tuple(
        Null(name=each["name"], observed=each["observed"], values=tuple(each["values"]), p=each["p"])
        for each in ledger.noted(NULLS) or ()
    )


def _seed_sd(trials: Sequence[LedgerTrial]) -> float | None:
    """Return the standard deviation over seeds, pooled over the trials that ran with several."""
    means = [trial.means_by_repeat for trial in trials if len(trial.means_by_repeat) > 1]
    if not means:
        return None
    squares = math.fsum(statistics.variance(each) * (len(each) - 1) for each in means)
    return math.sqrt(squares / sum(len(each) - 1 for each in means))


def _scored(ledger: Ledger) -> list[LedgerTrial]:
    return [trial for trial in ledger.trials if trial.scores]


def _by_trial_and_subject(ledger: Ledger, trials: Sequence[LedgerTrial], num_subjects: int) -> tuple[Array, Array]:
    """Return what trials scored on subjects that validated, and on those that were left out."""
    plan = (ledger.noted(FOLD_PLAN) or {}).get("validation")
    return (
        _table([validation_by_subject(trial, num_subjects, plan) for trial in trials], num_subjects),
        _table([ledger.test_scores(trial.number) for trial in trials], num_subjects),
    )


def _test_scores(ledger: Ledger, trial: int) -> Array:
    return np.array([score for _, score in sorted(ledger.test_scores(trial).items())])


def _by_subject(ledger: Ledger, winner: LedgerTrial) -> Array:
    nested = ledger.noted(NESTED)
    if nested:
        return np.array([score for _, score in sorted(nested["winner"].items())])
    return _test_scores(ledger, winner.number)


def _num_training(ledger: Ledger, winner: LedgerTrial) -> int:
    nested, plan = ledger.noted(NESTED), ledger.noted(FOLD_PLAN)
    if plan:
        return int(plan["num_training"])
    left = len(nested["subjects"]) - LEFT_OUT_OF_PAIRS if nested else len(winner.scores) - NOT_TRAINING
    return max(left, 1)


def _table(scores: Sequence[Mapping[int, float]], num_subjects: int | None = None) -> Array:
    """Return a row for each trial and a column for each subject, nan where there is no score."""
    width = num_subjects or 1 + max(itertools.chain.from_iterable(scores))
    return np.array([[each.get(subject, math.nan) for subject in range(width)] for each in scores])
