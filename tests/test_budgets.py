"""Budgets: which one ends a study, that no trial is cut short, and that the order in which jobs end plays no part."""

import dataclasses

import numpy as np
import pytest

from platform.racing.budgets import BudgetedRace, Budgets, is_over_gpu_hours
from platform.racing.next_job import Done, Propose, RacingSettings, RunFold, TrialProgress

NUM_FOLDS = 8


def settings_of(racing: str = "halving", **given) -> RacingSettings:
    return RacingSettings(**{"num_trials": 40, "num_folds": NUM_FOLDS, "racing": racing, "commit_lag": 3, **given})


def score_of(trial: int, fold: int, repeat: int = 0) -> float | None:
    random = np.random.default_rng([trial, fold, repeat])
    return None if trial % 7 == 5 and fold % 4 == 2 else trial % 5 / 5 + fold + random.normal() / 5


def played(
    settings: RacingSettings, budgets: Budgets, slots: int = 1, seed: int = 0, begun: list[TrialProgress] | None = None
) -> list[TrialProgress]:
    """Play a study whose jobs end in a random order; return its table."""
    random = np.random.default_rng(seed)
    trials = list(begun or [])
    in_flight: list[tuple[int, int, int]] = []
    race = BudgetedRace(settings, budgets)
    while True:
        step = race.next_job(trials, in_flight)
        if isinstance(step, Done):
            assert all(trials[number].is_failed for number, _, _ in in_flight)
            return trials
        if isinstance(step, Propose):
            trials = [
                dataclasses.replace(trial, is_told=trial.is_told or trial.number <= step.told_up_to) for trial in trials
            ]
            trials.append(TrialProgress(number=step.trial))
            continue
        if isinstance(step, RunFold):
            in_flight.append((step.trial, step.fold, step.repeat))
            if len(in_flight) < slots:
                continue
        job = in_flight.pop(int(random.integers(len(in_flight))))
        trials[job[0]] = ended(trials[job[0]], job, settings, trials)


def ended(trial, job, settings, trials):
    number, fold, repeat = job
    score = score_of(number, fold, repeat)
    race = BudgetedRace(settings, Budgets())
    if trial.is_told or (not trial.is_failed and race.is_settled(trial, trials)):
        return dataclasses.replace(trial, is_told=True, late={**trial.late, (fold, repeat): score})
    if score is None:
        return dataclasses.replace(trial, is_failed=True)
    return dataclasses.replace(trial, scores={**trial.scores, fold: score})


def table(trials: list[TrialProgress]) -> list[dict[int, float] | str]:
    """Return what must not depend on the order; which folds of a failed trial ended before it failed does."""
    return ["failed" if trial.is_failed else dict(sorted(trial.scores.items())) for trial in trials]


def num_jobs(trials: list[TrialProgress]) -> int:
    return sum(len(trial.scores) + sum(repeat == 0 for _, repeat in trial.late) for trial in trials)


@pytest.mark.parametrize("racing", ["none", "halving", "paired"])
@pytest.mark.parametrize("fold_jobs", [NUM_FOLDS, 30, 61, 100])
def test_a_study_never_runs_more_fold_jobs_than_its_budget_and_ends_with_a_complete_trial(racing, fold_jobs):
    if racing == "paired" and fold_jobs == NUM_FOLDS:
        pytest.skip("a quarter is kept back")
    trials = played(settings_of(racing), Budgets(fold_jobs=fold_jobs))
    assert num_jobs(trials) <= fold_jobs
    assert any(len(trial.scores) == NUM_FOLDS for trial in trials)
    assert len(trials) < 40 or racing == "paired"  # which may need no more for all of them


@pytest.mark.parametrize("racing", ["none", "halving", "paired"])
@pytest.mark.parametrize("budgets", [Budgets(fold_jobs=61), Budgets(fold_jobs=90, no_improvement=9)])
def test_the_same_study_results_at_any_concurrency(racing, budgets):
    expected = table(played(settings_of(racing), budgets))
    for slots in (2, 8, 30):
        for seed in range(4):
            assert table(played(settings_of(racing), budgets, slots, seed)) == expected


def test_every_trial_of_a_fold_job_budget_is_one_that_a_study_without_has():
    with_budget = table(played(settings_of(), Budgets(fold_jobs=90)))
    assert with_budget == table(played(settings_of(), Budgets()))[: len(with_budget)]
    assert len(with_budget) > 3


def test_a_greater_budget_goes_on_from_where_the_smaller_ended():
    begun = played(settings_of(), Budgets(fold_jobs=50))
    assert table(played(settings_of(), Budgets(fold_jobs=120), begun=begun)) == table(
        played(settings_of(), Budgets(fold_jobs=120))
    )


def complete(number: int, score: float) -> TrialProgress:
    return TrialProgress(number=number, scores=dict.fromkeys(range(NUM_FOLDS), score), is_told=True)


def test_no_improvement_counts_told_trials_since_the_best_one():
    race = BudgetedRace(settings_of(), Budgets(no_improvement=3))
    trials = [complete(0, 0.1), complete(1, 0.3), complete(2, 0.2), complete(3, 0.3), complete(4, 0.1)]
    assert not race.refusal(trials, 3)
    assert race.refusal(trials, 4) == "no improvement in 3 trials"
    assert not race.refusal([*trials[:4], complete(4, 0.4)], 4)


def test_before_a_trial_has_run_on_all_folds_nothing_can_improve():
    race = BudgetedRace(settings_of(), Budgets(no_improvement=1))
    trials = [TrialProgress(number=number, scores={0: 0.1}, is_told=True) for number in range(9)]
    assert not race.refusal(trials, 8)


def test_a_study_whose_trials_are_all_there_was_ended_by_no_budget():
    settings = settings_of(num_trials=2)
    assert not BudgetedRace(settings, Budgets(fold_jobs=8)).ended_by([complete(0, 0.1), complete(1, 0.1)])


def test_which_budget_ended_a_study_is_named():
    trials = played(settings_of(), Budgets(fold_jobs=61))
    race = BudgetedRace(settings_of(), Budgets(fold_jobs=61))
    assert "of 61 fold jobs are used up" in race.ended_by(trials)
    assert race.are_all_settled(trials)
    assert not BudgetedRace(settings_of(), Budgets()).are_all_settled(trials)


def test_gpu_hours_are_over_when_they_are_used():
    assert is_over_gpu_hours(3600.0, Budgets(gpu_hours=1.0))
    assert not is_over_gpu_hours(3599.0, Budgets(gpu_hours=1.0))
    assert not is_over_gpu_hours(1e9, Budgets())


@pytest.mark.parametrize("name", ["fold_jobs", "gpu_hours", "no_improvement"])
def test_a_budget_of_nothing_is_refused(name):
    with pytest.raises(ValueError, match="above 0"):
        Budgets(**{name: 0})
