"""What a search costs beyond its jobs: its pace, memory, the sampler, a thousand slots, the commit lag.

Takes nothing; gives rows from jobs that only sleep, through the real ledger, racing rule and Ray Tune, and from runs of
the racing rule alone under a simulated clock.
"""

import dataclasses
import heapq
import itertools
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune

from benchmarks.table import Row, print_table, times
from datasets.cluster import connected
from platform.data.folds import Fold
from platform.data.products import DataSettings
from platform.ledger.records import FoldRecord, LedgerTrial, sealed
from platform.ledger.studies import open_ledger
from platform.proposals.samplers import Proposal, propose, study_in_memory
from platform.racing.next_job import Propose, Race, RacingSettings, RunFold, TrialProgress
from platform.study import fold_jobs
from platform.study.fold_jobs import FoldJobs, StudySteps, run_fold_jobs
from platform.training.config import Epochs
from platform.training.job import Job, Workers
from search_spaces import SEARCH_SPACES

NAME = "search_overhead"
SLOTS = 2
NUM_SLEEPING, SLEEP_SECONDS = 200, 1.0
NUM_EMPTY = 2000
NUM_FOLDS = 20
NUM_TOLD = 1000
NUM_ASKED = 5
SPACE = SEARCH_SPACES["transformer"]
VIRTUAL_SLOTS, VIRTUAL_JOBS, VIRTUAL_FOLDS = 1000, 10_000, 16
LAGS = (1, 4, 8, 16, 32)
LAG_SLOTS, LAG_TRIALS, LAG_SEEDS = 8, 64, 20
MIB = 1024**2


def measure() -> list[Row]:
    """Measure the pace of jobs, then the sampler, then the racing rule."""
    return [*_pace_rows(NUM_SLEEPING, NUM_EMPTY), *_sampler_rows(), *_virtual_rows(), *_lag_rows()]


# Jobs that sleep, through Ray Tune


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Moments at which records came, and the driver's memory at each."""

    start: float
    moments: list[float]
    rss_bytes: list[int]


def _pace_rows(num_sleeping: int, num_empty: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder, connected("local", SLOTS):
        _pace(Path(folder), "warm-up", 2 * NUM_FOLDS, 0.0)
        sleeping = _pace(Path(folder), "sleeping", num_sleeping, SLEEP_SECONDS)
        empty = _pace(Path(folder), "empty", num_empty, 0.0)
    ideal = num_sleeping * SLEEP_SECONDS / SLOTS
    seconds = sleeping.moments[-1] - sleeping.moments[0] + SLEEP_SECONDS
    per_job = (empty.moments[-1] - empty.moments[NUM_FOLDS]) / (len(empty.moments) - NUM_FOLDS - 1)
    grown = (empty.rss_bytes[-1] - empty.rss_bytes[NUM_FOLDS]) / MIB
    return [
        _row(f"{num_sleeping} jobs of 1 s on {SLOTS} slots, s", f"{seconds:.1f}", times(seconds, ideal, 3)),
        _row("the same with the start of Tune and its actors, s", f"{sleeping.moments[-1] - sleeping.start:.1f}"),
        _row(f"an empty job on {SLOTS} slots, from record to record, s", f"{per_job:.3f}"),
        _row(f"growth of the driver over {num_empty} empty jobs, MiB", f"{grown:.1f}"),
    ]


def _pace(place: Path, name: str, num_jobs: int, seconds: float) -> Pace:
    """Run jobs that sleep and return when their records came."""
    pace = Pace(start=time.perf_counter(), moments=[], rss_bytes=[])

    def noted(*_: object) -> None:
        pace.moments.append(time.perf_counter())
        pace.rss_bytes.append(_rss_bytes())

    jobs = FoldJobs(
        ledger=open_ledger(f"sqlite:///{place / 'studies.db'}", name, {}),
        racing=RacingSettings(num_trials=num_jobs // NUM_FOLDS, num_folds=NUM_FOLDS, racing="none"),
        steps=StudySteps(propose=_random, job=lambda trial, fold, _: _job(trial, fold)),
        deadline=math.inf,
        on_record=noted,
        on_told=lambda _: None,
    )
    with jobs.ledger.sole_writer(), _sleeping(seconds):
        run_fold_jobs(jobs, Workers(storage=str(place / "jobs")), SLOTS)
    return pace


@contextmanager
def _sleeping(seconds: float) -> Iterator[None]:
    """Return a context in which jobs sleep in place of training."""
    real = fold_jobs.run_job

    def run_job(config: dict[str, Any], workers: Workers) -> None:
        del workers
        time.sleep(seconds)
        job: Job = config["job"]
        assert job.fold is not None
        tune.report({"record": sealed(FoldRecord(trial=job.trial, fold=job.fold.number, score=0.5)), "score": 0.5})

    fold_jobs.run_job = run_job
    try:
        yield
    finally:
        fold_jobs.run_job = real


def _random(number: int, told_up_to: int) -> Proposal:
    del told_up_to
    return propose([], "random", SPACE, 0, number)


def _job(trial: LedgerTrial, fold: int) -> Job:
    return Job(
        data=DataSettings(shards="/nowhere", cache_folder="/nowhere"),
        architecture="transformer",
        configuration=trial.configuration,
        epochs=Epochs(),
        seed=0,
        trial=trial.number,
        fold=Fold(number=fold, test="1", validation=("2", "3"), training=("4",)),
    )


def _rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# The sampler


def _sampler_rows() -> list[Row]:
    """Return how long TPE takes for a proposal after so many trials, with the reading of the ledger."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = open_ledger(f"sqlite:///{folder}/studies.db", "sampler", {})
        ledger._study.add_trials(_told_trials())  # noqa: SLF001 - as a search leaves them, without its hours
        ledger = open_ledger(f"sqlite:///{folder}/studies.db", "sampler", {})
        seconds = []
        for number in range(NUM_TOLD, NUM_TOLD + NUM_ASKED):
            start = time.perf_counter()
            propose(ledger.history(NUM_TOLD), "tpe", SPACE, 0, number)
            seconds.append(time.perf_counter() - start)
    return [_row(f"a proposal of TPE after {NUM_TOLD} trials, s", f"{statistics.median(seconds):.2f}")]


def _told_trials() -> list[Any]:
    rng = np.random.default_rng(0)
    study = study_in_memory(_random_sampler())
    for _ in range(NUM_TOLD):
        trial = study.ask()
        SPACE.suggest(trial)
        study.tell(trial, float(rng.normal()))
    return study.trials


def _random_sampler() -> Any:  # noqa: ANN401 - Optuna's
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=0)


# The racing rule under a simulated clock


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """What a simulated search did; its slots are busy or not until the last job starts."""

    num_jobs: int
    busy_share: float
    seconds: float
    deciding_s: float
    best: float


def simulated(settings: RacingSettings, slots: int, score: Callable[[int, int], float], seed: int) -> Simulated:
    """Run a search whose jobs last for random times (lognormal, half to twice a second) under a simulated clock."""
    rng = np.random.default_rng(seed)
    race, trials, in_flight = Race(settings), [], set()
    running: list[tuple[float, tuple[int, int, int]]] = []
    spans: list[tuple[float, float]] = []
    now = deciding = 0.0
    while True:
        while len(running) < slots:
            begin = time.perf_counter()
            step = race.next_job(trials, in_flight)
            deciding += time.perf_counter() - begin
            if isinstance(step, Propose):
                trials = _told(race, trials, step.told_up_to)
                trials.append(TrialProgress(number=step.trial))
            elif isinstance(step, RunFold):
                key, seconds = (step.trial, step.fold, step.repeat), float(rng.lognormal(0, 0.35))
                in_flight.add(key)
                heapq.heappush(running, (now + seconds, key))
                spans.append((now, now + seconds))
            else:
                break
        if not running:
            break
        now, key = heapq.heappop(running)
        in_flight.discard(key)
        trial = trials[key[0]]
        trials[key[0]] = dataclasses.replace(trial, scores={**trial.scores, key[1]: score(key[0], key[1])})
    whole = [math.fsum(trial.scores.values()) for trial in trials if len(trial.scores) == settings.num_folds]
    return Simulated(
        num_jobs=len(spans), busy_share=_busy_share(spans, slots), seconds=now, deciding_s=deciding,
        best=max(whole, default=math.nan) / settings.num_folds if whole else math.nan,
    )  # fmt: skip


def _busy_share(spans: list[tuple[float, float]], slots: int) -> float:
    last = spans[-1][0]
    return math.fsum(min(end, last) - start for start, end in spans) / (slots * last)


def _told(race: Race, trials: list[TrialProgress], up_to: int) -> list[TrialProgress]:
    """Mark settled trials as told, so that a decision need not look at them again."""
    return [
        dataclasses.replace(trial, is_told=True)
        if trial.number <= up_to and not trial.is_told and race.is_settled(trial, trials)
        else trial
        for trial in trials
    ]


def _virtual_rows() -> list[Row]:
    rows = []
    for racing in ("none", "halving"):
        num_trials = VIRTUAL_JOBS // (VIRTUAL_FOLDS if racing == "none" else 6)
        settings = RacingSettings(
            num_trials=num_trials, num_folds=VIRTUAL_FOLDS, racing=racing, commit_lag=VIRTUAL_SLOTS
        )
        start = time.perf_counter()
        found = simulated(settings, VIRTUAL_SLOTS, _score_of(0), 0)
        seconds = time.perf_counter() - start
        what = f"{found.num_jobs} jobs on {VIRTUAL_SLOTS} slots, racing {racing}"
        rows.append(_row(f"{what}: slots busy, simulated", f"{found.busy_share:.1%}"))
        rows.append(
            _row(f"{what}: deciding, ms a job", f"{1e3 * found.deciding_s / found.num_jobs:.2f} (all {seconds:.0f} s)")
        )
    return rows


def _lag_rows() -> list[Row]:
    """Return what the commit lag costs on 8 slots: slots busy, time, and the best score against lag 1."""
    rows, reference = [], 0.0
    for lag in LAGS:
        settings = RacingSettings(num_trials=LAG_TRIALS, num_folds=VIRTUAL_FOLDS, racing="halving", commit_lag=lag)
        found = [simulated(settings, LAG_SLOTS, _score_of(seed), seed) for seed in range(LAG_SEEDS)]
        seconds = statistics.fmean(each.seconds for each in found)
        reference = reference or seconds
        busy, jobs, best = (
            statistics.fmean(values)
            for values in zip(*((each.busy_share, each.num_jobs, each.best) for each in found), strict=True)
        )
        what = f"commit lag {lag} on {LAG_SLOTS} slots, {LAG_TRIALS} trials: busy; jobs; best mean score, spreads"
        rows.append(_row(what, f"{busy:.0%}; {jobs:.0f}; {best:.2f}", times(seconds, reference)))
    return rows


def _score_of(seed: int) -> Callable[[int, int], float]:
    """Return scores with a spread of 1 over trials, subjects' effects of 1 and noise of 1."""
    rng = np.random.default_rng(seed)
    quality, subject = rng.normal(size=20_000), rng.normal(size=VIRTUAL_FOLDS)
    noise = rng.normal(size=(20_000, VIRTUAL_FOLDS))
    return lambda trial, fold: float(quality[trial] + subject[fold] + noise[trial, fold])


def _row(what: str, value: str, ratio: str = "") -> Row:
    return Row(benchmark=NAME, what=what, value=value, ratio=ratio)


if __name__ == "__main__":
    if sys.argv[1:] == ["--rules"]:
        print_table([*itertools.chain(_sampler_rows(), _virtual_rows(), _lag_rows())])
    elif sys.argv[1:] == ["--pace"]:
        print_table(_pace_rows(NUM_SLEEPING, NUM_EMPTY))
    else:
        print_table(measure())
