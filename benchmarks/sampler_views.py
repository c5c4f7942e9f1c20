"""What samplers make of raced-out and failed trials: as Optuna reads them, and as ``seen_trials`` shows them.

Each study is a toy: halving over 12 subjects that differ three times as much as configurations do, with noise as large
as the spread of configurations.  Regret is in units of that spread.

    python -m benchmarks.sampler_views [SAMPLER ...] [--seeds N]
"""

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Sequence
from unittest import mock

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from platform.proposals import samplers
from platform.proposals.seen_trials import SeenTrial, as_seen_by
from platform.racing.next_job import Propose, Race, RacingSettings, RunFold, TrialProgress
from search_spaces import SearchSpace

NUM_FOLDS, NUM_TRIALS = 12, 64
SUBJECT_SPREAD, NOISE = 3.0, 1.0
_KINDS = ("a", "b", "c", "d")
_SPREAD = 0.36
"""Standard deviation of the quality below over random configurations."""
View = Callable[[str, Sequence[FrozenTrial]], list[FrozenTrial]]


def suggest(trial: optuna.Trial) -> dict[str, float | str]:
    """Ask for four numbers, one kind, and a number that only one kind has."""
    asked: dict[str, float | str] = {f"x{at}": trial.suggest_float(f"x{at}", 0.0, 1.0) for at in range(4)}
    asked["kind"] = trial.suggest_categorical("kind", _KINDS)
    if asked["kind"] == "c":
        asked["y"] = trial.suggest_float("y", 1e-4, 1.0, log=True)
    return asked


SPACE = SearchSpace(suggest=suggest, default={**{f"x{at}": 0.5 for at in range(4)}, "kind": "a"})


def quality(configuration: dict[str, float | str]) -> float:
    """Return a configuration's true score, 0 at the best, in units of the spread."""
    places = zip((0.2, 0.8, 0.4, 0.7), (1.0, 1.0, 0.5, 0.5), strict=True)
    lost = sum(weight * (float(configuration[f"x{at}"]) - best) ** 2 for at, (best, weight) in enumerate(places))
    lost += {"a": 0.4, "b": 0.6, "c": 0.0, "d": 0.8}[str(configuration["kind"])]
    lost += 0.1 * abs(np.log10(float(configuration.get("y", 1e-2))) + 2)
    return -lost / _SPREAD


def fails(configuration: dict[str, float | str]) -> bool:
    """Tell whether a configuration diverges, where half of the space does."""
    return float(configuration["x0"]) > 0.5


def as_optuna_reads(sampler: str, history: Sequence[FrozenTrial]) -> list[FrozenTrial]:  # noqa: ARG001
    """Return the history as it is."""
    return list(history)


def without_racing(sampler: str, history: Sequence[FrozenTrial]) -> list[FrozenTrial]:  # noqa: ARG001
    """Return raced-out trials as COMPLETE with the mean of what they ran on, whichever folds these were."""
    shown = []
    for trial in history:
        if trial.state == TrialState.PRUNED:
            kept = {
                name: getattr(trial, name)
                for name in ("params", "distributions", "datetime_start", "datetime_complete", "number")
            }
            value = max(trial.intermediate_values.items())[1]
            trial = SeenTrial(
                **kept, state=TrialState.COMPLETE, value=value, user_attrs={}, system_attrs={"cost": 0.0},
                intermediate_values={}, trial_id=trial.number,
            )  # fmt: skip
        shown.append(trial)
    return shown


VIEWS: dict[str, View] = {"as Optuna reads": as_optuna_reads, "plain means": without_racing, "shown": as_seen_by}


@dataclasses.dataclass
class Study:
    """One toy study while it is played."""

    sampler: str
    seed: int
    is_failing: bool = False
    trials: list[TrialProgress] = dataclasses.field(default_factory=list)
    proposals: list[samplers.Proposal] = dataclasses.field(default_factory=list)
    told: dict[int, FrozenTrial] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        random = np.random.default_rng([self.seed, 99])
        self.subjects = random.normal(0, SUBJECT_SPREAD, NUM_FOLDS)

    def score(self, trial: int, fold: int) -> float:
        """Return the score of a fold job."""
        noise = np.random.default_rng([self.seed, trial, fold]).normal(0, NOISE)
        return quality(self.proposals[trial].configuration) + self.subjects[fold] + noise

    def tell(self, race: Race, up_to: int) -> None:
        """Tell the settled trials up to a number."""
        for trial in self.trials[: max(0, up_to + 1)]:
            if trial.is_told or not race.is_settled(trial, self.trials):
                continue
            self.trials[trial.number] = dataclasses.replace(trial, is_told=True)
            self.told[trial.number] = self.frozen(trial)

    def frozen(self, trial: TrialProgress) -> FrozenTrial:
        """Return a told trial as the ledger keeps it."""
        proposal = self.proposals[trial.number]
        scores = trial.scores
        is_complete = len(scores) == NUM_FOLDS
        state = TrialState.FAIL if trial.is_failed else TrialState.COMPLETE if is_complete else TrialState.PRUNED
        mean = statistics.fmean(scores.values()) if scores else 0.0
        found = create_trial(
            state=state,
            value=mean if state == TrialState.COMPLETE else None,
            params=proposal.params,
            distributions=proposal.distributions,
            user_attrs={f"fold/{fold:04d}": {"score": score, "seconds": 1.0} for fold, score in scores.items()},
            intermediate_values={len(scores): mean} if scores else {},
        )
        found.number = trial.number
        return found

    def history(self, told_up_to: int) -> list[FrozenTrial]:
        """Return what a sampler may know."""
        running = [
            create_trial(state=TrialState.RUNNING, params=each.params, distributions=each.distributions)
            for each in self.proposals
        ]
        for number, trial in enumerate(running):
            trial.number = number
        return [self.told[n] if n <= told_up_to and n in self.told else running[n] for n in range(len(running))]


def play(sampler: str, view: View, seed: int, *, is_failing: bool = False, num_trials: int = NUM_TRIALS) -> Study:
    """Play one study to its end."""
    study = Study(sampler=sampler, seed=seed, is_failing=is_failing)
    race = Race(RacingSettings(num_trials=num_trials, num_folds=NUM_FOLDS, racing="halving"))
    with mock.patch.object(samplers, "as_seen_by", view):
        while True:
            step = race.next_job(study.trials, ())
            if isinstance(step, Propose):
                study.tell(race, step.told_up_to)
                history = study.history(step.told_up_to)
                study.proposals.append(samplers.propose(history, sampler, SPACE, seed, step.trial))
                study.trials.append(TrialProgress(number=step.trial))
            elif isinstance(step, RunFold):
                trial = study.trials[step.trial]
                if is_failing and fails(study.proposals[step.trial].configuration):
                    study.trials[step.trial] = dataclasses.replace(trial, is_failed=True)
                else:
                    scores = {**trial.scores, step.fold: study.score(step.trial, step.fold)}
                    study.trials[step.trial] = dataclasses.replace(trial, scores=scores)
            else:
                return study


def regret(study: Study) -> float:
    """Return how far the best proposal of all is from the best there is."""
    complete = [trial for trial in study.trials if len(trial.scores) == NUM_FOLDS]
    best = max(complete, key=lambda trial: statistics.fmean(trial.scores.values()))
    return -quality(study.proposals[best.number].configuration)


def late_regret(study: Study) -> float:
    """Return the mean distance of the later half of proposals from the best there is."""
    half = study.proposals[len(study.proposals) // 2 :]
    return -statistics.fmean(quality(each.configuration) for each in half)


def late_failures(study: Study) -> float:
    """Return the share of the later half of proposals that fail."""
    half = study.proposals[len(study.proposals) // 2 :]
    return statistics.fmean(fails(each.configuration) for each in half)


def main() -> None:
    """Print a table of every sampler and view."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("samplers", nargs="*", default=["tpe", "cma-es", "nsga2"])
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--trials", type=int, default=NUM_TRIALS)
    given = parser.parse_args()
    print(
        "sampler | view | winner's regret (SE) | later proposals' regret (SE) | later failures, half the space failing"
    )
    for sampler in given.samplers:
        for name, view in VIEWS.items() if sampler not in ("random", "qmc") else [("shown", as_seen_by)]:
            if sampler == "nsga2" and name != "shown":
                continue  # it needs the costs that are shown
            plain = [play(sampler, view, seed, num_trials=given.trials) for seed in range(given.seeds)]
            failing = [
                play(sampler, view, seed, is_failing=True, num_trials=given.trials) for seed in range(given.seeds)
            ]
            shown = [_with_error([measure(study) for study in plain]) for measure in (regret, late_regret)]
            failures = _with_error([late_failures(study) for study in failing])
            print(f"{sampler} | {name} | {shown[0]} | {shown[1]} | {failures}", flush=True)


def _with_error(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.2f} ({statistics.stdev(values) / len(values) ** 0.5:.2f})"


if __name__ == "__main__":
    main()
