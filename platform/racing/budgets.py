"""What ends a study before its last trial: a pure function of the ledger's table and the settings.

Takes every trial's fold scores and the budgets; gives the next step that they allow, or the name of the one that ended
the study.

No budget ends a trial half-way: a trial is proposed only when the fold jobs left suffice for all folds of it and of
every trial before it, so that the leader always runs to its end and the study is the same at any concurrency.
"""

import dataclasses
import itertools
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from platform.racing.next_job import Done, FoldJob, Propose, Race, RacingSettings, RunFold, Step, TrialProgress, Wait

_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """What a study may use up; None for no bound.

    Attributes:
        fold_jobs: jobs of the search itself, finalists' repeats not counted.
        gpu_hours: wall time of jobs times the GPUs that each holds.
        no_improvement: told trials in a row without a new best one on all folds.
    """

    fold_jobs: int | None = None
    gpu_hours: float | None = None
    no_improvement: int | None = None

    def __post_init__(self) -> None:
        if any(value is not None and value <= 0 for value in dataclasses.astuple(self)):
            raise ValueError(f"budgets must be above 0, but got {self}")


class BudgetedRace(Race):
    """A race that proposes no further trial than its budgets allow; the last one then is the one before.

    Like any race it keeps nothing but conclusions that no later record can change.
    """

    def __init__(self, settings: RacingSettings, budgets: Budgets) -> None:
        super().__init__(settings)
        self._budgets = budgets
        self._ended: dict[int, Race] = {}

    def next_job(self, trials: Sequence[TrialProgress], in_flight: Collection[FoldJob]) -> Step:
        """Return the study's next step within its budgets."""
        step = super().next_job(trials, in_flight)
        if isinstance(step, Propose) and self.refusal(trials, step.told_up_to):
            if self._may_fit(trials):
                return Wait()
            step = self._ended_at(len(trials)).next_job(trials, in_flight)
        if isinstance(step, RunFold) and not self._is_affordable(step, trials, in_flight):
            return Wait() if in_flight else Done()
        return step

    def are_all_settled(self, trials: Sequence[TrialProgress]) -> bool:
        """Tell whether no trial will follow, and all are settled."""
        if super().are_all_settled(trials):
            return True
        is_settled = all(self.is_settled(trial, trials) for trial in trials)
        return is_settled and bool(self.ended_by(trials))

    def ended_by(self, trials: Sequence[TrialProgress]) -> str:
        """Return which budget keeps the study from its next trial, in words; "" where none does."""
        if len(trials) >= self._settings.num_trials:
            return ""
        return self.refusal(trials, len(trials) - self._settings.commit_lag)

    def refusal(self, trials: Sequence[TrialProgress], told_up_to: int) -> str:
        """Return why no further trial may be proposed now, in words; "" where one may."""
        budgets = self._budgets
        if budgets.no_improvement is not None and _stale(trials, told_up_to, self._settings) >= budgets.no_improvement:
            return f"no improvement in {budgets.no_improvement} trials"
        if budgets.fold_jobs is None:
            return ""
        used = sum(self._most_jobs(trial, trials) for trial in trials)
        if used + self._needed() <= budgets.fold_jobs:
            return ""
        return f"{used} of {budgets.fold_jobs} fold jobs are used up, and with one more trial they might not suffice"

    def _needed(self) -> int:
        """Return the jobs that must be left for a trial to be proposed."""
        return self._settings.num_folds + _kept_back(self._budgets.fold_jobs or 0, self._settings.racing)

    def _may_fit(self, trials: Sequence[TrialProgress]) -> bool:
        """Tell whether jobs may be left for one more trial once those that still run are raced out."""
        told_up_to = len(trials) - self._settings.commit_lag
        without = dataclasses.replace(self._budgets, fold_jobs=None)
        if self._budgets.fold_jobs is None or BudgetedRace(self._settings, without).refusal(trials, told_up_to):
            return False
        fewest = sum(_fewest_jobs(trial, self._settings) for trial in trials)
        is_open = not all(self.is_settled(trial, trials) for trial in trials)
        return is_open and fewest + self._needed() <= self._budgets.fold_jobs

    def _ended_at(self, num_trials: int) -> Race:
        if num_trials not in self._ended:
            self._ended[num_trials] = Race(dataclasses.replace(self._settings, num_trials=num_trials))
        return self._ended[num_trials]

    def _most_jobs(self, trial: TrialProgress, trials: Sequence[TrialProgress]) -> int:
        return _fewest_jobs(trial, self._settings) if self.is_settled(trial, trials) else self._settings.num_folds

    def _is_affordable(self, step: RunFold, trials: Sequence[TrialProgress], in_flight: Collection[FoldJob]) -> bool:
        """Tell whether a job after the last trial fits; others were reserved, and a finalist's repeat always fits."""
        if step.repeat or self._budgets.fold_jobs is None or not self.is_settled(trials[step.trial], trials):
            return True
        late = sum(repeat == 0 for trial in trials for _, repeat in trial.late)
        running = sum(repeat == 0 for _, _, repeat in in_flight)
        used = sum(_fewest_jobs(trial, self._settings) for trial in trials)
        return used + late + running < self._budgets.fold_jobs


def fewest_fold_jobs(racing: str, num_folds: int) -> int:
    """Return the least budget of fold jobs that lets one trial run on all folds."""
    return next(jobs for jobs in itertools.count(num_folds) if num_folds + _kept_back(jobs, racing) <= jobs)


def _kept_back(fold_jobs: int, racing: str) -> int:
    """Return the jobs that no trial is proposed for: ``paired`` needs them to choose between the leaders at the end."""
    return fold_jobs // 4 if racing == "paired" else 0


def is_over_gpu_hours(gpu_seconds: float, budgets: Budgets) -> bool:
    """Tell whether no job may start because of the GPU hours used so far."""
    return budgets.gpu_hours is not None and gpu_seconds >= budgets.gpu_hours * _SECONDS_PER_HOUR


def _fewest_jobs(trial: TrialProgress, settings: RacingSettings) -> int:
    """Return the jobs that a trial takes for certain.

    A failed one counts as all folds up to its rung: how many of them end before the failure stops it is up to chance.
    """
    if trial.is_failed:
        return next((rung for rung in settings.rungs if rung > len(trial.scores)), settings.num_folds)
    return len(trial.scores)


def _stale(trials: Sequence[TrialProgress], told_up_to: int, settings: RacingSettings) -> int:
    """Return how many told trials came after the best one; 0 before any has run on all folds."""
    told = [trial for trial in trials if trial.number <= told_up_to]
    complete = [trial for trial in told if len(trial.scores) == settings.num_folds and not trial.is_failed]
    if not complete:
        return 0
    best = max(complete, key=lambda trial: (statistics.fmean(trial.scores.values()), -trial.number))
    return told[-1].number - best.number
