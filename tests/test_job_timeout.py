"""Fold jobs that hang or take all memory, on real Ray: each fails alone, and the search goes on.

Only what a job trains is a stand-in.  It is pickled by value, as workers do not see the tests.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_killed_jobs import descendants, name_of

from datasets.cluster import LOCAL, connected
from datasets.errors import BadInput
from platform.data.folds import Fold
from platform.data.products import DataSettings
from platform.ledger.ledger import Ledger
from platform.ledger.records import LedgerTrial
from platform.ledger.studies import open_ledger
from platform.proposals.samplers import Proposal
from platform.racing.next_job import RacingSettings
from platform.study import fold_jobs
from platform.study.fold_jobs import FoldJobs, StudySteps, run_fold_jobs
from platform.study.job_clock import JobClock
from platform.training.config import Epochs
from platform.training.job import Job, Workers

TIMEOUT_S = 3.0
GROUP_TIMEOUT_S = 90.0
"""A group of workers takes its time to start, on a busy machine."""

MISBEHAVIOURS: Mapping[int, tuple[str, Callable[[], object]]] = {
    1: ("took more than 0.05 minutes", lambda: [None for _ in iter(int, 1)]),
    2: ("took more than 0.05 minutes", lambda: __import__("time").sleep(3600)),
    3: ("took more than 0.05 minutes", lambda: __import__("re").match("(a+)+b", "a" * 200)),  # in C, with Python's lock
    4: ("out of memory: ", lambda: __import__("torch").empty(2**56)),
    5: ("out of memory: ", lambda: __import__("numpy").empty(2**56)),
}
NUM_TRIALS = 8

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")


def standing_in(misbehaviours: Mapping[int, Callable[[], object]]) -> Callable[[dict, Workers], None]:
    """Return what runs a job whose training is this: some trials misbehave, the others score their number."""

    def run_job(config: dict, workers: Workers) -> None:
        from platform.ledger.records import FoldRecord
        from platform.study import fold_jobs
        from platform.training import fold_job as training

        def train_worker(config: dict) -> FoldRecord | str:
            job = config["job"]
            try:
                misbehaviours.get(job.trial, lambda: None)()
            except (RuntimeError, MemoryError) as error:
                return training.why_untrainable(error)
            return FoldRecord(trial=job.trial, fold=job.fold.number, score=float(job.trial), seed=job.seed)

        def run_here(job: object, _: object) -> FoldRecord:
            misbehaviours.get(job.trial, lambda: None)()
            return FoldRecord(trial=job.trial, fold=job.fold.number, score=float(job.trial), seed=job.seed)

        training._run_here, training._train_worker = run_here, train_worker
        fold_jobs.run_job(config, workers)

    return run_job


def searched(folder: Path, workers: Workers, *, num_trials: int, timeout_s: float, concurrency: int) -> Ledger:
    """Run trials of one fold each; raises where the search stops for what no job is to blame for."""
    ledger = open_ledger(f"sqlite:///{folder / 'studies.db'}", "hanging", {})
    jobs = FoldJobs(
        ledger=ledger,
        racing=RacingSettings(num_trials=num_trials, num_folds=1, racing="none"),
        steps=StudySteps(
            propose=lambda *_: Proposal(params={}, distributions={}, configuration={}),
            job=lambda trial, fold, repeat: a_job(trial, fold, repeat),
        ),
        deadline=math.inf,
        on_record=lambda *_: None,
        on_told=lambda *_: None,
        timeout_s=timeout_s,
    )
    run_fold_jobs(jobs, workers, concurrency)
    jobs.tell_settled(num_trials)
    return ledger


def a_job(trial: LedgerTrial, fold: int, repeat: int) -> Job:
    return Job(
        data=DataSettings(shards="", cache_folder=""),
        architecture="transformer",
        configuration={},
        epochs=Epochs(),
        seed=7,
        trial=trial.number,
        fold=Fold(number=fold, test="a", validation=("b", "c"), training=("d", "e")),
        repeat=repeat,
    )


def processes(*names: str) -> list[str]:
    """Return the names of Ray's processes that run one of these now."""
    every = [name_of(pid) for pid in set(descendants(os.getpid()))]
    return [each for each in every if any(name in each for name in names)]


def are_gone(*names: str) -> bool:
    """Wait until Ray has no such process any more."""
    deadline = time.monotonic() + 60
    while processes(*names) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not processes(*names)


LOST_PROCESS = """Failure # 1 (occurred at noon)
The actor died unexpectedly before finishing this task.
\tip: 10.0.0.5
"""
RAISED = """Failure # 2 (occurred at one)
\033[36mray::ImplicitFunc.train()\033[39m (pid=7, ip=10.0.0.5, actor_id=ab, repr=run_job)
  File "storage.py", line 7, in write_whole
OSError: [Errno 28] No space left on device: '/cache/x'

"""


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        (None, ""),
        (LOST_PROCESS, ""),
        (LOST_PROCESS + RAISED, ": OSError: [Errno 28] No space left on device: '/cache/x' (on the node 10.0.0.5)"),
        (RAISED + LOST_PROCESS, ""),
    ],
    ids=["none", "lost", "raised", "lost at last"],
)
def test_a_job_that_goes_on_in_another_process_is_told_of_in_one_line(caplog, tmp_path, errors, told):
    file = tmp_path / "error.txt"
    file.write_text(errors or "")
    trial = SimpleNamespace(
        trial_id="tune", num_failures=1, config={"job": a_job(SimpleNamespace(number=3), 2, 0)},
        error_file=str(file) if errors else None,
    )  # fmt: skip
    JobClock(math.inf, lambda _: None, lambda _: None, 2).on_trial_recover(0, [trial], trial)
    assert [record.getMessage() for record in caplog.records] == [
        f"trial 3 on fold 2 lost its process, or an error ended it: it goes on in another one (1 of 2 times){told}"
    ]


def test_storage_that_takes_none_of_tune_s_own_files_is_one_line_of_ray_s_log():
    error = OSError("could not connect\nDetails: many")
    record = logging.LogRecord("ray", logging.ERROR, "storage.py", 1, "Caught", (), (OSError, error, None))
    assert fold_jobs.in_one_line(record)
    shown = logging.Formatter("%(levelname)s %(message)s").format(record)
    assert shown == "WARNING job storage is away; the search goes on meanwhile: could not connect"


@pytest.mark.slow
def test_an_error_that_ends_a_job_again_and_again_is_told_with_its_node_at_the_end(tmp_path, monkeypatch, caplog):
    write_to_a_full_disk = lambda: (os := __import__("os")).write(os.open("/dev/full", os.O_WRONLY), b"x")  # noqa: E731
    monkeypatch.setattr(fold_jobs, "run_job", standing_in({0: write_to_a_full_disk}))
    wanted = r"ended 3 times .* by OSError: \[Errno 28\] No space left on device \(on the node [\d.]+\): "
    with connected(LOCAL, 2), pytest.raises(BadInput, match=wanted):
        searched(tmp_path, Workers(storage=str(tmp_path / "jobs")), num_trials=1, timeout_s=60.0, concurrency=1)
    told = [record.getMessage() for record in caplog.records if "it goes on in another one" in record.getMessage()]
    assert len(told) == 2
    assert all("No space left on device" in line for line in told)


@pytest.mark.slow
def test_jobs_that_hang_or_find_no_memory_fail_alone_with_the_reason(tmp_path, monkeypatch):
    deeds = {number: misbehave for number, (_, misbehave) in MISBEHAVIOURS.items()}
    monkeypatch.setattr(fold_jobs, "run_job", standing_in(deeds))
    with connected(LOCAL, 2):
        ledger = searched(
            tmp_path,
            Workers(storage=str(tmp_path / "jobs")),
            num_trials=NUM_TRIALS,
            timeout_s=TIMEOUT_S,
            concurrency=2,
        )
        assert are_gone("ImplicitFunc")
    for trial in ledger.trials:
        expected, _ = MISBEHAVIOURS.get(trial.number, ("", None))
        assert trial.state == ("FAIL" if expected else "COMPLETE")
        assert trial.failure.startswith(expected) and bool(trial.failure) == bool(expected)
        assert trial.records[0].seed == 7
    assert ledger.trials[1].records[0].seconds >= TIMEOUT_S


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_group_of_workers_that_hangs_is_ended_with_all_its_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(fold_jobs, "run_job", standing_in({0: lambda: __import__("time").sleep(3600)}))
    workers = Workers(count=2, storage=str(tmp_path / "jobs"))
    with connected(LOCAL, 2):
        ledger = searched(tmp_path, workers, num_trials=2, timeout_s=GROUP_TIMEOUT_S, concurrency=1)
        assert are_gone("ImplicitFunc", "RayTrainWorker", "TrainController")
    assert [trial.state for trial in ledger.trials] == ["FAIL", "COMPLETE"]
    assert ledger.trials[0].failure == "took more than 1.5 minutes"
