"""What a fold job costs beyond its training, and what a group of DDP workers costs beyond that.

Takes nothing; gives rows from a study so small that a job trains for a fraction of a second: the pace of fold jobs
through Ray Tune at concurrency 1 and 2, and one fold job in this process and on 2 workers of Ray Train.
"""

import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.study import TINY, write_study
from benchmarks.table import Row, print_table, times
from datasets.cluster import connected
from platform.data.folds import Fold, leave_one_subject_out
from platform.data.products import DataSettings
from platform.ledger.records import FoldRecord, LedgerTrial
from platform.ledger.studies import open_ledger
from platform.proposals.samplers import Proposal, propose
from platform.racing.next_job import RacingSettings
from platform.study.fold_jobs import FoldJobs, StudySteps, run_fold_jobs
from platform.training.config import Epochs
from platform.training.fold_job import run_fold_job
from platform.training.job import Job, Workers, job_seed
from search_spaces import SEARCH_SPACES

ARCHITECTURE = "transformer"
NUM_TRIALS = 4
EPOCHS = Epochs(maximum=2, patience=2)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds until the first record, seconds from record to record, and seconds that a job itself took."""

    first_s: float
    between_s: float
    job_s: float


def measure() -> list[Row]:
    """Run a tiny study twice, then one of its fold jobs twice."""
    with tempfile.TemporaryDirectory() as folder, connected("local", 2):
        place = Path(folder)
        manifest = write_study(place / "shards", TINY)
        data = DataSettings(shards=str(place / "shards"), cache_folder=str(place / "cache"))
        folds = leave_one_subject_out(manifest.subjects, 0)
        _pace(place, data, folds, concurrency=1, name="warm-up")  # fills the cache
        paces = [_pace(place, data, folds, concurrency=number, name=f"at-{number}") for number in (1, 2)]
        return [*_pace_rows(paces), *_worker_rows(place, data, folds[0])]


def _pace(place: Path, data: DataSettings, folds: Sequence[Fold], *, concurrency: int, name: str) -> Pace:
    """Run all fold jobs of a study of random trials and return their pace; the first two records are the start's."""
    records: list[tuple[float, FoldRecord]] = []
    jobs = FoldJobs(
        ledger=open_ledger(f"sqlite:///{place / 'studies.db'}", name, {}),
        racing=RacingSettings(num_trials=NUM_TRIALS, num_folds=len(folds), racing="none"),
        steps=StudySteps(propose=_propose, job=lambda trial, fold, _: _job(data, trial, folds[fold])),
        deadline=math.inf,
        on_record=lambda _, record: records.append((time.perf_counter(), record)),
        on_told=lambda _: None,
    )
    start = time.perf_counter()
    run_fold_jobs(jobs, Workers(storage=str(place / "jobs")), concurrency)
    moments, steady = [moment for moment, _ in records], records[2:]
    return Pace(
        first_s=moments[0] - start,
        between_s=(moments[-1] - moments[1]) / len(steady),
        job_s=statistics.fmean(record.seconds for _, record in steady),
    )


def _propose(number: int, told_up_to: int) -> Proposal:
    del told_up_to
    return propose([], "random", SEARCH_SPACES[ARCHITECTURE], 0, number)


def _job(data: DataSettings, trial: LedgerTrial, fold: Fold) -> Job:
    """Return a job of one configuration whatever the trial, so that all jobs are equally long."""
    return Job(
        data=data,
        architecture=ARCHITECTURE,
        configuration={"output_rank": 16},
        epochs=EPOCHS,
        seed=job_seed(0, trial.number, fold.number),
        trial=trial.number,
        fold=fold,
    )


def _pace_rows(paces: Sequence[Pace]) -> list[Row]:
    alone, two = paces
    return [
        _row("concurrency 1: to the first record (starting Tune and its actor), s", alone.first_s, alone.between_s),
        _row("concurrency 1: from record to record, s", alone.between_s, alone.between_s),
        _row("concurrency 1: of which beyond the job's own seconds, s", alone.between_s - alone.job_s, alone.between_s),
        _row("concurrency 2: from record to record, s", two.between_s, alone.between_s),
    ]


def _worker_rows(place: Path, data: DataSettings, fold: Fold) -> list[Row]:
    trial = LedgerTrial(number=0, state="RUNNING", params={}, configuration={}, records={})
    job = _job(data, trial, fold)
    run_fold_job(job, Workers())  # opens the data in this process, as a reused actor has it open
    here, group = (run_fold_job(job, Workers(count=count, storage=str(place / "jobs"))).seconds for count in (1, 2))
    return [
        _row("one fold job in a process that has run one before, s", here, here),
        _row("one fold job on 2 DDP workers, a new Ray Train group, s", group, here),
    ]


def _row(what: str, seconds: float, reference: float) -> Row:
    return Row(benchmark="fold_jobs", what=what, value=f"{seconds:.2f}", ratio=times(seconds, reference))


if __name__ == "__main__":
    print_table(measure())
