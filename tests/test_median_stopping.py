"""Jobs below the median of earlier jobs of their fold end: when, with which reason, and against whom."""

import pytest
from two_workers import example_model, example_training

from platform.ledger.records import FoldRecord, LedgerTrial
from platform.training.config import Epochs, TrainingConfig
from platform.training.loop import History, Scored, train
from platform.training.median_stopping import GRACE_EPOCHS, MIN_JOBS, MedianCurve, median_curve

MAX_EPOCHS = GRACE_EPOCHS + 4


def steady(score: float, epochs: int = MAX_EPOCHS) -> tuple[list[float], list[float]]:
    return [score] * epochs, [score] * epochs


def test_the_curve_is_the_median_of_the_best_scores_so_far():
    falling = ([0.5, 0.1, 0.1], [0.5, 0.1, 0.1])
    curve = median_curve([falling, steady(0.4, 3), steady(0.1, 3), steady(0.2, 3), steady(0.6, 3)], 3)
    assert curve == MedianCurve(num_jobs=5, best_so_far=(0.4, 0.4, 0.4))


def test_a_job_that_ended_early_keeps_its_best():
    curve = median_curve([([0.1, 0.3], [0.1, 0.3])] * MIN_JOBS, 4)
    assert curve.best_so_far == (0.1, 0.3, 0.3, 0.3)


def test_too_few_jobs_make_no_curve():
    assert median_curve([steady(0.1)] * (MIN_JOBS - 1), MAX_EPOCHS) is None
    assert median_curve([steady(0.1)] * MIN_JOBS, MAX_EPOCHS) is not None


def test_a_job_ends_only_after_the_grace_and_only_strictly_below():
    curve = MedianCurve(num_jobs=9, best_so_far=(0.2,) * MAX_EPOCHS)
    below, at = (0.1, 0.2, 0.9), (0.1, 0.3, 0.0)
    assert not curve.stops([below] * (GRACE_EPOCHS - 1))
    assert curve.stops([below] * GRACE_EPOCHS)
    assert not curve.stops([at] * GRACE_EPOCHS)
    assert not curve.stops([at, *[below] * GRACE_EPOCHS])


def test_a_curve_says_nothing_of_later_epochs():
    assert not MedianCurve(num_jobs=5, best_so_far=(0.2,) * GRACE_EPOCHS).stops([(0.0, 0.0)] * (GRACE_EPOCHS + 1))


def trained(median: MedianCurve | None) -> History:
    scores = iter([(0.01 * epoch, 0.01 * epoch, 0.0) for epoch in range(MAX_EPOCHS)])
    return train(
        example_model(),
        example_training(),
        TrainingConfig(output_rank=0, batch_size=16),
        Epochs(maximum=MAX_EPOCHS, patience=MAX_EPOCHS),
        seed=0,
        evaluate=lambda _: Scored(scores=next(scores), trace=[]),
        median=median,
    )


def test_training_ends_below_the_median_and_says_so():
    history = trained(MedianCurve(num_jobs=7, best_so_far=(0.5,) * MAX_EPOCHS))
    assert len(history.scores) == len(history.loss) == GRACE_EPOCHS
    assert history.stop_reason == "below the median of 7 jobs"


@pytest.mark.parametrize("median", [None, MedianCurve(num_jobs=7, best_so_far=(0.0,) * MAX_EPOCHS)], ids=str)
def test_training_above_the_median_goes_on_to_the_end(median):
    assert len(trained(median).loss) == MAX_EPOCHS
    assert trained(median).stop_reason == "all epochs"


# Rivals


def trial(number: int, *, state: str = "PRUNED", score: float | None = 0.3) -> LedgerTrial:
    record = FoldRecord(trial=number, fold=0, score=score, validation=tuple(map(tuple, steady(0.3))))
    records = {0: record} if state != "RUNNING" else {}
    return LedgerTrial(number=number, state=state, params={}, configuration={}, records=records)


def curve_for(number: int, trials: list[LedgerTrial], commit_lag: int = 2) -> MedianCurve | None:
    from platform.study.jobs import rivals_curve

    return rivals_curve(trials, trials[number], 0, commit_lag=commit_lag, max_epochs=MAX_EPOCHS)


def test_rivals_are_the_trials_that_were_settled_when_the_trial_was_proposed():
    trials = [*[trial(number) for number in range(7)], trial(7, state="RUNNING")]
    assert curve_for(7, trials).num_jobs == 6
    assert curve_for(7, trials, commit_lag=3).num_jobs == 5
    assert curve_for(7, trials, commit_lag=4) is None


def test_failed_trials_are_no_rivals():
    trials = [trial(0, score=None, state="FAIL"), *[trial(number) for number in range(1, 8)], trial(8, state="RUNNING")]
    assert curve_for(8, trials).num_jobs == 6


def test_what_came_after_a_rival_was_told_does_not_count():
    late = {(0, 0): trial(0).records[0]}
    revived = LedgerTrial(number=0, state="COMPLETE", params={}, configuration={}, records=trial(0).records, late=late)
    trials = [revived, *[trial(number) for number in range(1, 7)], trial(7, state="RUNNING")]
    assert curve_for(7, trials).num_jobs == 5


def test_a_trial_that_was_told_is_never_stopped():
    trials = [*[trial(number) for number in range(8)]]
    assert curve_for(7, trials) is None
