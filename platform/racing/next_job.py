"""Which fold job comes next: a pure function of the ledger and the settings.

Takes every trial's fold scores and the jobs in flight; gives the next step of the study.  No state is kept anywhere
else, so that a study goes on after any interruption as if there had been none.

Stage 1 proposes trials and gives each its first folds.  A trial is compared only with trials at least ``commit_lag``
before it, all of which are settled when it is proposed: the same study results from one worker or eight.  ``halving``
(after Li et al. 2020, asynchronous halving) works in brackets of consecutive trials, each with the shared order of
folds rotated: a trial runs on twice as many folds each time that it is among the better half of its bracket.
``paired`` gives a trial twice as many folds while its chance of being better than the best so far is high enough.

Stage 2, for ``paired`` only, begins when all trials are settled: in rounds, more folds are given to those trials,
raced out or not, that may still win (``platform.racing.paired``).  A round depends on the rounds before it alone.
Last, finalists run again with other seeds.
"""

import functools
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from platform.racing.paired import Array, Posterior, posterior

RACINGS = ("none", "halving", "paired")
FIRST_FOLDS = {"none": 1, "halving": 4, "paired": 1}
"""Folds that every trial gets, by racing."""
NUM_REPEATS = 3
"""Seeds of a finalist, the search's own among them."""
MIN_RIVALS = 4
"""Earlier trials without which none is given more folds in stage 1 of ``paired``."""
TRIALS_PER_MODEL = 8
"""Trials after which stage 1 of ``paired`` estimates its model anew."""


@functools.cache
def _rotated(num_folds: int, shift: int) -> tuple[int, ...]:
    return tuple((at + shift) % num_folds for at in range(num_folds))


@dataclass(frozen=True, kw_only=True)
class RacingSettings:
    """How a study spends its fold jobs.

    Attributes:
        num_trials, num_folds: the study's size.
        racing: one of ``RACINGS``.
        first_folds: folds that every trial gets; None for the rule's own number.
        keep_share: share of trials that ``halving`` promotes.
        bracket_trials: trials of a bracket of ``halving``, at the least; a bracket has 8 times the lag or more.
        commit_lag: trials proposed before one must be settled.
        risk: chance to be better than the best so far, below which stage 1 of ``paired`` drops a trial.
        tolerance: gain, in units of the spread between trials, for which stage 2 of ``paired`` gives more folds.
        mean_folds: folds per trial, on average, after which ``paired`` gives finalists alone the folds that they lack;
            None for a fifth of all folds, but 3 or more.
        finalists: trials that run with other seeds at the end; with ``paired``, so many at least have all folds.
    """

    num_trials: int
    num_folds: int
    racing: str = "halving"
    first_folds: int | None = None
    keep_share: float = 0.5
    bracket_trials: int = 32
    commit_lag: int = 4
    risk: float = 0.5
    tolerance: float = 0.0003
    mean_folds: float | None = None
    finalists: int = 0

    def __post_init__(self) -> None:
        if self.racing not in RACINGS:
            raise ValueError(f"racing must be one of {RACINGS}, but got {self.racing!r}")
        if self.commit_lag < 1 or self.start_folds < 1 or not 0 < self.keep_share <= 1:
            raise ValueError(f"commit_lag and first_folds must be 1 or more and keep_share in (0, 1], but got {self}")
        if not 0 < self.risk <= 1 or self.tolerance <= 0 or self.finalists < 0 or self.bracket_trials < 1:
            raise ValueError(
                "risk must be in (0, 1], tolerance above 0, finalists 0 or more and bracket_trials 1 or more, "
                f"but got {self}"
            )

    @property
    def start_folds(self) -> int:
        """Folds that every trial gets."""
        return FIRST_FOLDS[self.racing] if self.first_folds is None else self.first_folds

    @functools.cached_property
    def rungs(self) -> tuple[int, ...]:
        """Numbers of folds after which a trial is compared with the others; the last one is all folds."""
        if self.racing == "none":
            return (self.num_folds,)
        rungs = []
        folds = self.start_folds
        while folds < self.num_folds:
            rungs.append(folds)
            folds *= 2
        return (*rungs, self.num_folds)

    @property
    def most_jobs(self) -> int:
        """Fold jobs that ``paired`` spends, repeats not counted; fewer trials' first folds are never left out."""
        mean_folds = max(self.num_folds / 5, 3.0) if self.mean_folds is None else self.mean_folds
        return int(self.num_trials * mean_folds)

    @functools.cached_property
    def bracket(self) -> int:
        """Trials of a bracket: enough of them that the lag leaves most of them rivals."""
        return max(self.bracket_trials, 8 * self.commit_lag)

    @property
    def round_jobs(self) -> int:
        """Fold jobs of a round of stage 2, more or less: wide enough for parallel workers."""
        return max(self.num_folds, self.num_trials // 8)

    def order(self, trial: int) -> tuple[int, ...]:
        """Return the order in which a trial runs on folds: the shared one, rotated from bracket to bracket."""
        shift = trial // self.bracket * self.start_folds if self.racing == "halving" else 0
        return _rotated(self.num_folds, shift % self.num_folds)


@dataclass(frozen=True, kw_only=True)
class TrialProgress:
    """What the ledger holds of one trial.

    Attributes:
        number: the trial's.
        scores: its score on each fold that was done before it was told.
        is_failed: whether one of those fold jobs failed.
        is_told: whether it was told.
        late: what came after it was told, by fold and repeat; None where the job failed.
    """

    number: int
    scores: Mapping[int, float] = field(default_factory=dict)
    is_failed: bool = False
    is_told: bool = False
    late: Mapping[tuple[int, int], float | None] = field(default_factory=dict)

    def score_of(self, fold: int) -> float | None:
        """Return the score of a fold, whenever it came; None where there is none."""
        return self.scores.get(fold, self.late.get((fold, 0)))

    def is_recorded(self, fold: int, repeat: int) -> bool:
        """Tell whether a fold job has ended, well or not."""
        return (fold, repeat) in self.late or (repeat == 0 and fold in self.scores)


@dataclass(frozen=True)
class RunFold:
    """Run this trial on this fold; repeats other than 0 are a finalist's, with other seeds."""

    trial: int
    fold: int
    repeat: int = 0


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
    """Every trial is settled, and every finalist has all its repeats."""


Step = RunFold | Propose | Wait | Done
FoldJob = tuple[int, int, int]
"""Trial, fold, repeat."""


def next_job(trials: Sequence[TrialProgress], in_flight: Collection[FoldJob], settings: RacingSettings) -> Step:
    """Return the study's next step.

    Args:
        trials: every trial so far, in the order of their numbers.
        in_flight: (trial, fold, repeat) of the jobs that run now.
        settings: how the study spends its jobs.
    """
    return Race(settings).next_job(trials, in_flight)


def is_settled(trial: TrialProgress, trials: Sequence[TrialProgress], settings: RacingSettings) -> bool:
    """Tell whether stage 1 has no more jobs for a trial: all folds that it deserves are done, or one of them failed."""
    return Race(settings).is_settled(trial, trials)


def num_folds_wanted(trial: TrialProgress, trials: Sequence[TrialProgress], settings: RacingSettings) -> int:
    """Return on how many folds, in its order, stage 1 lets a trial run by what is known now."""
    return Race(settings).num_folds_wanted(trial, trials)


def mean_score(trial: TrialProgress, folds: Collection[int]) -> float:
    """Return the mean score over the given folds."""
    return math.fsum(trial.scores[fold] for fold in folds) / len(folds)


class Race:
    """The racing of one study, asked again and again as its table grows.

    It keeps nothing but conclusions that no later record can change; ``next_job`` gives the same without them.
    """

    def __init__(self, settings: RacingSettings) -> None:
        self._settings = settings
        self._settled: set[int] = set()
        self._promoted: dict[tuple[int, int], bool] = {}
        self._wanted: dict[tuple[int, int], int] = {}
        self._models: dict[int, tuple[Posterior, int] | None] = {}
        self._rounds: list[list[FoldJob]] = []
        self._recorded: set[FoldJob] = set()
        self._finals: list[FoldJob] | None = None

    def next_job(self, trials: Sequence[TrialProgress], in_flight: Collection[FoldJob]) -> Step:
        """Return the study's next step."""
        open_trials = [trial for trial in trials if not trial.is_told and trial.number not in self._settled]
        unsettled = [trial for trial in open_trials if not self.is_settled(trial, trials)]
        num_running = Counter(trial for trial, _, _ in in_flight)
        for trial in unsettled:
            if len(trial.scores) + num_running[trial.number] < self.num_folds_wanted(trial, trials):
                return self._missing_fold(trial, trials, in_flight)
        number = len(trials)
        told_up_to = number - self._settings.commit_lag
        if number < self._settings.num_trials and all(trial.number > told_up_to for trial in unsettled):
            return Propose(number, told_up_to)
        return Wait() if unsettled else self._late_job(trials, in_flight)

    def _missing_fold(
        self, trial: TrialProgress, trials: Sequence[TrialProgress], in_flight: Collection[FoldJob]
    ) -> RunFold:
        wanted = self._settings.order(trial.number)[: self.num_folds_wanted(trial, trials)]
        missing = (fold for fold in wanted if fold not in trial.scores)
        return RunFold(trial.number, next(fold for fold in missing if (trial.number, fold, 0) not in in_flight))

    def are_all_settled(self, trials: Sequence[TrialProgress]) -> bool:
        """Tell whether stage 1 is over."""
        return len(trials) >= self._settings.num_trials and all(self.is_settled(trial, trials) for trial in trials)

    def is_settled(self, trial: TrialProgress, trials: Sequence[TrialProgress]) -> bool:
        """Tell whether stage 1 has no more jobs for a trial."""
        if trial.is_told or trial.is_failed or trial.number in self._settled:
            return True
        num_wanted = self.num_folds_wanted(trial, trials)
        if len(trial.scores) < num_wanted:
            return False
        if not all(fold in trial.scores for fold in self._settings.order(trial.number)[:num_wanted]):
            return False
        self._settled.add(trial.number)
        return True

    def num_folds_wanted(self, trial: TrialProgress, trials: Sequence[TrialProgress]) -> int:
        """Return on how many folds, in its order, stage 1 lets a trial run by what is known now."""
        key = trial.number, len(trial.scores)
        if key not in self._wanted:
            self._wanted[key] = self._count_wanted(trial, trials)
        return self._wanted[key]

    def _count_wanted(self, trial: TrialProgress, trials: Sequence[TrialProgress]) -> int:
        order = self._settings.order(trial.number)
        for rung in self._settings.rungs[:-1]:
            if not all(fold in trial.scores for fold in order[:rung]):
                return rung
            key = trial.number, rung
            if key not in self._promoted:
                self._promoted[key] = self._is_promoted(trial, trials, rung)
            if not self._promoted[key]:
                return rung
        return self._settings.num_folds

    def _is_promoted(self, trial: TrialProgress, trials: Sequence[TrialProgress], rung: int) -> bool:
        if self._settings.racing == "halving":
            return self._is_in_better_half(trial, trials, rung)
        return self._may_win(trial, trials, rung)

    def _is_in_better_half(self, trial: TrialProgress, trials: Sequence[TrialProgress], rung: int) -> bool:
        folds = self._settings.order(trial.number)[:rung]
        begin = trial.number // self._settings.bracket * self._settings.bracket
        rivals = [
            mean_score(other, folds)
            for other in trials
            if begin <= other.number <= trial.number - self._settings.commit_lag
            and not other.is_failed
            and all(fold in other.scores for fold in folds)
        ]
        own = mean_score(trial, folds)
        num_better = sum(score > own for score in rivals)
        return num_better < self._settings.keep_share * (len(rivals) + 1)

    def _may_win(self, trial: TrialProgress, trials: Sequence[TrialProgress], rung: int) -> bool:
        """Tell whether a trial may be better than the best so far; the first has all folds, to tie them together."""
        if trial.number == 0:
            return True
        known = (trial.number - self._settings.commit_lag + 1) // TRIALS_PER_MODEL * TRIALS_PER_MODEL
        model = self._model(trials, known)
        if model is None:
            return False
        found, best = model
        own = {fold: trial.scores[fold] for fold in self._settings.order(trial.number)[:rung]}
        return found.chance_above(own, best) >= self._settings.risk

    def _model(self, trials: Sequence[TrialProgress], known: int) -> tuple[Posterior, int] | None:
        """Return what stage 1 tells of the trials before the number given, and the place of the best of them."""
        if known not in self._models:
            rivals = [trial.scores for trial in trials if trial.number < known and not trial.is_failed]
            self._models[known] = None
            if len(rivals) >= MIN_RIVALS:
                found = posterior(_table(rivals, self._settings.num_folds))
                self._models[known] = found, int(np.argmax(found.means_T))
        return self._models[known]

    def _late_job(self, trials: Sequence[TrialProgress], in_flight: Collection[FoldJob]) -> Step:
        """Return the next step of stage 2, every trial being settled."""
        missing = self._missing(trials)
        step = next((job for job in missing if job not in in_flight), None)
        if step is not None:
            return RunFold(*step)
        return Wait() if missing else Done()

    def _missing(self, trials: Sequence[TrialProgress]) -> list[FoldJob]:
        """Return the jobs of the first round that is not over, or else of the finalists, that have not ended."""
        at = 0
        while self._settings.racing == "paired":
            if at == len(self._rounds):
                self._rounds.append(self._planned(trials))
            if not self._rounds[at]:
                break
            if missing := self._unrecorded(trials, self._rounds[at]):
                return missing
            at += 1
        if self._finals is None:
            self._finals = self._repeats(trials)
        return self._unrecorded(trials, self._finals)

    def _unrecorded(self, trials: Sequence[TrialProgress], jobs: Sequence[FoldJob]) -> list[FoldJob]:
        ended = [job for job in jobs if job not in self._recorded and trials[job[0]].is_recorded(*job[1:])]
        self._recorded.update(ended)
        return [job for job in jobs if job not in self._recorded]

    def _planned(self, trials: Sequence[TrialProgress]) -> list[FoldJob]:
        """Return the next round by what stage 1 and the rounds before it have found: no other record counts."""
        jobs = [job for planned in self._rounds for job in planned]
        known = {trial.number: dict(trial.scores) for trial in trials if trial.scores and not trial.is_failed}
        for number, fold, _ in jobs:
            score = trials[number].score_of(fold)
            if score is None:
                known.pop(number, None)
            elif number in known:
                known[number][fold] = score
        return _round(known, self._settings) if known else []

    def _repeats(self, trials: Sequence[TrialProgress]) -> list[FoldJob]:
        """Return the finalists' jobs: the best of those that have all folds, with other seeds."""
        folds = range(self._settings.num_folds)
        means: dict[int, float] = {}
        for trial in trials if self._settings.finalists else ():
            scores = [score for fold in folds if (score := trial.score_of(fold)) is not None]
            if not trial.is_failed and len(scores) == len(folds):
                means[trial.number] = math.fsum(scores) / len(scores)
        best = sorted(means, key=lambda number: (-means[number], number))[: self._settings.finalists]
        return [(number, fold, repeat) for number in best for repeat in range(1, NUM_REPEATS) for fold in folds]


def _round(known: Mapping[int, Mapping[int, float]], settings: RacingSettings) -> list[FoldJob]:
    """Return a round of fold jobs: of trials that may still win, else of the best that have not all folds."""
    numbers = list(known)
    found = posterior(_table(list(known.values()), settings.num_folds))
    gains = dict(zip(numbers, found.gains(settings.num_folds).tolist(), strict=True))
    unfinished = [number for number in numbers if len(known[number]) < settings.num_folds]
    means = dict(zip(numbers, found.means_T.tolist(), strict=True))
    best = sorted(numbers, key=lambda each: (-means[each], each))[: max(settings.finalists, 1)]
    owed = [job for number in best for job in _further(number, known[number], settings.num_folds, settings)]
    left = settings.most_jobs - sum(len(of_trial) for of_trial in known.values()) - len(owed)
    jobs: list[FoldJob] = []
    for number in sorted(unfinished, key=lambda each: (-gains[each], each)):
        if gains[number] < settings.tolerance or len(jobs) >= min(settings.round_jobs, left):
            break
        jobs += _further(number, known[number], len(known[number]), settings)
    if jobs := jobs[: max(left, 0)]:
        return jobs
    num_whole = len(numbers) - len(unfinished)
    return owed if left >= 0 or num_whole < max(settings.finalists, 1) else []


def _further(number: int, known: Mapping[int, float], most: int, settings: RacingSettings) -> list[FoldJob]:
    missing = [fold for fold in settings.order(number) if fold not in known]
    return [(number, fold, 0) for fold in missing[:most]]


def _table(scores: Sequence[Mapping[int, float]], num_folds: int) -> Array:
    return np.array([[of_trial.get(fold, math.nan) for fold in range(num_folds)] for of_trial in scores])
