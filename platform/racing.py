"""Which fold job comes next: a pure function of the ledger and the settings.

Takes every trial's fold scores and the jobs in flight; gives the next step of the study.  No state is kept anywhere
else, so that a study goes on after any interruption as if there had been none.

Halving over subjects: a trial runs on the first folds of the shared order, and on twice as many each time that it is
among the better half of the earlier trials that ran on those folds (after Li et al. 2020, asynchronous halving).
A trial is compared only with trials at least ``commit_lag`` before it, all of which are settled when it is proposed:
the same study results from one worker or eight.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

RACINGS = ("none", "halving")


@dataclass(frozen=True, kw_only=True)
class RacingSettings:
    """How a study spends its fold jobs."""

    num_trials: int
    num_folds: int
    racing: str = "halving"
    first_folds: int = 4
    keep_share: float = 0.5
    commit_lag: int = 4

    def __post_init__(self) -> None:
        if self.racing not in RACINGS:
            raise ValueError(f"racing must be one of {RACINGS}, but got {self.racing!r}")
        if self.commit_lag < 1 or self.first_folds < 1 or not 0 < self.keep_share <= 1:
            raise ValueError(f"commit_lag and first_folds must be 1 or more and keep_share in (0, 1], but got {self}")

    @property
    def rungs(self) -> tuple[int, ...]:
        """Numbers of folds after which a trial is compared with the others; the last one is all folds."""
        if self.racing == "none":
            return (self.num_folds,)
        rungs = []
        folds = self.first_folds
        while folds < self.num_folds:
            rungs.append(folds)
            folds *= 2
        return (*rungs, self.num_folds)


@dataclass(frozen=True, kw_only=True)
class TrialProgress:
    """What the ledger holds of one trial: its score on each fold that is done, and whether a fold job failed."""

    number: int
    scores: Mapping[int, float] = field(default_factory=dict)
    is_failed: bool = False
    is_told: bool = False


@dataclass(frozen=True)
class RunFold:
    """Run this trial on this fold."""

    trial: int
    fold: int


@dataclass(frozen=True)
class Propose:
    """Ask the sampler for the trial of this number, when it is told of all trials up to ``told_up_to`` and no other."""

    trial: int
    told_up_to: int


@dataclass(frozen=True)
class Wait:
    """Nothing can start before a job in flight ends."""


@dataclass(frozen=True)
class Done:
    """Every trial is settled."""


Step = RunFold | Propose | Wait | Done


def next_job(trials: Sequence[TrialProgress], in_flight: Collection[tuple[int, int]], settings: RacingSettings) -> Step:
    """Return the study's next step.

    Args:
        trials: every trial so far, in the order of their numbers.
        in_flight: (trial, fold) of the jobs that run now.
        settings: how the study spends its jobs.
    """
    unsettled = [trial for trial in trials if not is_settled(trial, trials, settings)]
    for trial in unsettled:
        for fold in range(num_folds_wanted(trial, trials, settings)):
            if fold not in trial.scores and (trial.number, fold) not in in_flight:
                return RunFold(trial.number, fold)
    number = len(trials)
    told_up_to = number - settings.commit_lag
    if number < settings.num_trials and all(trial.number > told_up_to for trial in unsettled):
        return Propose(number, told_up_to)
    return Wait() if unsettled else Done()


def is_settled(trial: TrialProgress, trials: Sequence[TrialProgress], settings: RacingSettings) -> bool:
    """Tell whether a trial needs no more jobs: all folds that it deserves are done, or one of them failed."""
    if trial.is_told or trial.is_failed:
        return True
    return all(fold in trial.scores for fold in range(num_folds_wanted(trial, trials, settings)))


def num_folds_wanted(trial: TrialProgress, trials: Sequence[TrialProgress], settings: RacingSettings) -> int:
    """Return on how many folds, in the shared order, a trial deserves to run by what is known now."""
    for rung in settings.rungs[:-1]:
        if not all(fold in trial.scores for fold in range(rung)) or not _is_promoted(trial, trials, rung, settings):
            return rung
    return settings.rungs[-1]


def mean_score(trial: TrialProgress, num_folds: int) -> float:
    """Return the mean score over the first folds of the shared order."""
    return math.fsum(trial.scores[fold] for fold in range(num_folds)) / num_folds


def _is_promoted(trial: TrialProgress, trials: Sequence[TrialProgress], rung: int, settings: RacingSettings) -> bool:
    rivals = [
        mean_score(other, rung)
        for other in trials
        if other.number <= trial.number - settings.commit_lag
        and not other.is_failed
        and all(fold in other.scores for fold in range(rung))
    ]
    num_better = sum(score > mean_score(trial, rung) for score in rivals)
    return num_better < settings.keep_share * (len(rivals) + 1)
