"""Findings: what the ledger says of the winner, by the right subjects, sealed until the search is over."""

import dataclasses
import statistics as plain

import numpy as np
import optuna
import pytest

from datasets.errors import BadInput
from platform.evidence.finalists import TEST
from platform.evidence.findings import findings, importance, validation_by_subject
from platform.evidence.statistics import BBC_CV, LOCKED_AWAY, MIXED_MODEL, NESTED
from platform.evidence.verdict import CONFOUND, EEG_SPECIFIC, NOTHING
from platform.ledger.ledger import Ledger
from platform.ledger.records import FoldRecord, LedgerTrial
from platform.ledger.studies import open_ledger
from platform.proposals.samplers import Proposal

NUM_FOLDS = 8
TRAINING = NUM_FOLDS - 3


def study(folder, trials: int = 4, *, level: float = 0.3, closed: bool = True, raced_out: int = 0) -> Ledger:
    """A ledger whose trials score near a level, the first ones best, the last ones on fewer folds."""
    ledger = open_ledger(f"sqlite:///{folder / 'studies.db'}", "small", {"seed": 7})
    rng = np.random.default_rng(0)
    for number in range(trials):
        ledger.add(Proposal(params={}, distributions={}, configuration={}))
        num_folds = 3 if number >= trials - raced_out else NUM_FOLDS
        for fold in range(num_folds):
            first, second, test = (level - 0.01 * number + rng.normal(0, 0.02, 3)).tolist()
            scores = {"score": (first + second) / 2, "test_score": test, "validation": ((first,), (second,))}
            ledger.commit(FoldRecord(trial=number, fold=fold, seconds=number + 1.0, **scores))
        ledger.tell(number, NUM_FOLDS)
    for fold in range(NUM_FOLDS):
        ledger.commit_baselines(fold, {"zero": (0.0, 0.0), "ridge_within_subject": (0.9, 0.9)})
    if closed:
        ledger.close()
    return ledger


def with_further(ledger: Ledger, **scores: float) -> Ledger:
    """Further scores of the winner that differ a little from fold to fold."""
    winner = findings(ledger).winner.number
    for fold in range(NUM_FOLDS):
        found = {name: score + 0.001 * fold for name, score in scores.items()}
        ledger.commit_further(f"trial-{winner:04d}", fold, {TEST: found})
    return ledger


def test_an_open_study_says_nothing(tmp_path):
    with pytest.raises(BadInput, match="the search of study small is not over"):
        findings(study(tmp_path, closed=False))


def test_the_raw_score_is_the_sealed_mean_and_the_corrected_one_lies_below(tmp_path):
    ledger = study(tmp_path)
    found = findings(ledger)
    test = list(ledger.test_scores(found.winner.number).values())
    assert found.raw.mean == pytest.approx(plain.fmean(test))
    assert found.raw.is_selected and not found.corrected.is_selected
    assert found.corrected.method == MIXED_MODEL
    assert found.bootstrapped is not None and found.bootstrapped.method == BBC_CV
    assert 0 < found.corrected.mean < found.raw.mean
    assert found.winner.number in found.leaders and found.cheapest in found.leaders


def test_where_trials_were_raced_out_there_is_no_second_opinion(tmp_path):
    found = findings(study(tmp_path, raced_out=2))
    assert found.bootstrapped is None
    assert found.corrected.mean < found.raw.mean


def test_validation_scores_belong_to_the_subjects_that_validated():
    """In fold k subject k tests; k + 1 and k + 2 validate, each at the epoch that is best for the other."""
    records = {
        fold: FoldRecord(trial=0, fold=fold, score=0.0, validation=((fold + 0.1, fold + 0.2), (fold + 0.5, fold + 0.4)))
        for fold in range(4)
    }
    trial = LedgerTrial(number=0, state="COMPLETE", params={}, configuration={}, records=records)
    found = validation_by_subject(trial, 4)
    assert found == pytest.approx(
        {subject: plain.fmean([(subject - 1) % 4 + 0.1, (subject - 2) % 4 + 0.4]) for subject in range(4)}
    )


def test_rivals_are_the_baselines_that_know_no_subject_and_the_runner_up(tmp_path):
    names = [each.rival for each in findings(study(tmp_path)).comparisons]
    assert names[0] == "zero" and names[1].startswith("runner-up, trial ") and len(names) == 2


@pytest.mark.parametrize(
    ("level", "further", "word"),
    [
        (0.0, {}, NOTHING),
        (0.3, {}, CONFOUND),
        (0.3, {"unique_r": 0.2, "unique_r_beyond_events": 0.2}, EEG_SPECIFIC),
        (0.3, {"unique_r": -0.1, "unique_r_beyond_events": -0.1}, CONFOUND),
    ],
)
def test_the_verdict_follows_the_scores(tmp_path, level, further, word):
    assert findings(with_further(study(tmp_path, level=level), **further)).verdict.word == word


def test_unselected_scores_stand_apart(tmp_path):
    ledger = study(tmp_path)
    ledger.note(LOCKED_AWAY, {"subjects": {"sub-20": 0.1, "sub-21": 0.3}})
    [found] = findings(ledger).unselected
    assert (found.method, found.mean, found.num_subjects) == (LOCKED_AWAY, pytest.approx(0.2), 2)


def test_a_nested_study_is_scored_by_its_subjects_and_not_by_its_pairs(tmp_path):
    ledger = study(tmp_path)
    subjects = {f"sub-{number:02d}": 0.1 + 0.01 * number for number in range(5)}
    ledger.note(NESTED, {"subjects": subjects, "winner": {name: score + 0.05 for name, score in subjects.items()}})
    found = findings(ledger)
    assert (found.corrected.mean, found.corrected.num_subjects) == (pytest.approx(0.12), 5)
    assert found.raw.mean == pytest.approx(0.17)
    assert found.corrected.method == NESTED


def test_the_choice_that_makes_the_scores_is_the_important_one():
    space = {name: optuna.distributions.FloatDistribution(0, 1) for name in ("matters", "does_not")}
    rng = np.random.default_rng(0)
    history, trials = [], []
    for number in range(40):
        params = dict(zip(space, rng.random(2).tolist(), strict=True))
        history.append(optuna.trial.create_trial(params=params, distributions=space, value=0.0))
        records = {
            fold: FoldRecord(trial=number, fold=fold, score=params["matters"] + 0.1 * fold + rng.normal(0, 0.05))
            for fold in range(3)
        }
        trials.append(LedgerTrial(number=number, state="COMPLETE", params=params, configuration={}, records=records))
    first, second = importance(trials, history, seed=0)
    assert first.parameter == "matters"
    assert first.share > 0.9 > 0.1 > second.share
    assert first.low <= first.share <= first.high
    assert importance(trials[:5], history, seed=0) == ()
    assert dataclasses.asdict(first) == dataclasses.asdict(importance(trials, history, seed=0)[0])
