"""Processes that train are killed by SIGKILL within an epoch; the job goes on and ends as if nothing had been."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from killable_job import NUM_EPOCHS, killable_job
from small_study import write_small_study

from datasets.cluster import LOCAL, connected
from platform.ledger.records import FoldRecord
from platform.ledger.studies import open_ledger
from platform.proposals.samplers import Proposal
from platform.racing.next_job import RacingSettings
from platform.study.fold_jobs import FoldJobs, StudySteps, run_fold_jobs
from platform.training.fold_job import run_fold_job
from platform.training.job import Job, Workers, snapshots_of
from platform.training.job_model import open_data

SCRIPT = Path(__file__).with_name("killable_job.py")
ROOT = SCRIPT.parent.parent
NEVER = 0
KILLED_AFTER_EPOCHS, STEPS_INTO_THE_NEXT = 2, 3


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return write_small_study(tmp_path_factory.mktemp("killed") / "shards", subjects=6, volumes=60, coupling=2.0)


# One process


def started(shards: Path, storage: Path, stand_still_at: int = NEVER) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(shards), str(storage), str(stand_still_at)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def finished(process: "subprocess.Popen[str]") -> tuple[int, dict]:
    """Return how many steps a process took to the end of its job, and the record."""
    lines = process.communicate(timeout=120)[0].splitlines()
    assert process.returncode == 0
    return lines.count("step"), json.loads(lines[-1])


def killed_after(process: "subprocess.Popen[str]", num_steps: int) -> None:
    for _ in range(num_steps):
        assert process.stdout.readline() == "step\n"
    process.send_signal(signal.SIGKILL)
    assert process.communicate(timeout=60)[0] == ""
    assert process.returncode == -signal.SIGKILL


def test_a_process_killed_in_the_middle_of_an_epoch_goes_on_from_the_last_whole_one_to_the_same_end(shards, tmp_path):
    all_steps, undisturbed = finished(started(shards, tmp_path / "undisturbed"))
    steps_per_epoch, rest = divmod(all_steps, NUM_EPOCHS)
    assert rest == 0 and steps_per_epoch > STEPS_INTO_THE_NEXT
    killed_at = KILLED_AFTER_EPOCHS * steps_per_epoch + STEPS_INTO_THE_NEXT
    storage = tmp_path / "jobs"
    killed_after(started(shards, storage, killed_at), killed_at)
    saved = snapshots_of(killable_job(shards, storage)).load()
    assert len(saved["history"]["loss"]) == KILLED_AFTER_EPOCHS
    steps, record = finished(started(shards, storage))
    assert steps == all_steps - KILLED_AFTER_EPOCHS * steps_per_epoch
    assert record == undisturbed
    assert len(record["loss"]) == NUM_EPOCHS
    assert not list((storage / "snapshots").iterdir())


@pytest.mark.slow
def test_a_process_killed_in_its_first_epoch_starts_anew_to_the_same_end(shards, tmp_path):
    all_steps, undisturbed = finished(started(shards, tmp_path / "undisturbed"))
    killed_after(started(shards, tmp_path / "jobs", 2), 2)
    assert finished(started(shards, tmp_path / "jobs")) == (all_steps, undisturbed)


# A group of workers


def descendants(pid: int) -> Iterator[int]:
    """Return the ids of the processes that a process started, and of those that they started."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            yield child
            yield from descendants(child)


def train_workers() -> list[int]:
    """Return the ids of Ray Train's workers among this process's own."""
    return [pid for pid in set(descendants(os.getpid())) if "RayTrainWorker" in name_of(pid)]


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # ended meanwhile
        return ""


def through_ray(job: Job, folder: Path) -> FoldRecord:
    """Run one fold job on two workers as a search does."""
    records: list[FoldRecord] = []
    jobs = FoldJobs(
        ledger=open_ledger(f"sqlite:///{folder / 'studies.db'}", "killed", {}),
        racing=RacingSettings(num_trials=1, num_folds=1, racing="none"),
        steps=StudySteps(
            propose=lambda *_: Proposal(params={}, distributions={}, configuration=dict(job.configuration)),
            job=lambda *_: job,
        ),
        deadline=math.inf,
        on_record=lambda _, record: records.append(record),
        on_told=lambda _: None,
    )
    run_fold_jobs(jobs, Workers(count=2, storage=str(folder / "jobs")), 1)
    return records[0]


class Killer(threading.Thread):
    """Kills the second worker of the group while the epoch after the first snapshot lasts."""

    def __init__(self, job: Job) -> None:
        super().__init__(daemon=True)
        self._snapshots = snapshots_of(job)
        self.is_over = threading.Event()
        self.killed: list[int] = []
        self.epochs_of_snapshot = 0

    def run(self) -> None:
        while not (saved := self._snapshots.load()) and not self.is_over.wait(0.05):
            pass
        self.killed = train_workers()[-1:]
        for pid in self.killed:
            os.kill(pid, signal.SIGKILL)
        self.epochs_of_snapshot = len(saved["history"]["loss"]) if saved else 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")
def test_a_worker_of_two_killed_in_the_middle_of_a_job_costs_neither_the_job_nor_its_score(shards, tmp_path):
    changes = {"dropout": 0.0}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = run_fold_job(killable_job(shards, tmp_path / "alone", **changes), Workers())
    finally:
        torch.set_num_threads(threads)
        open_data.cache_clear()
    job = killable_job(shards, tmp_path / "together", **changes)
    killer = Killer(job)
    with connected(LOCAL, 2):
        killer.start()
        record = through_ray(job, tmp_path)
    killer.is_over.set()
    killer.join(60)
    assert len(killer.killed) == 1
    assert 1 <= killer.epochs_of_snapshot < NUM_EPOCHS
    assert record.loss == pytest.approx(alone.loss, rel=1e-3)
    assert record.score == pytest.approx(alone.score, abs=0.01)
    assert record.test_score == pytest.approx(alone.test_score, abs=0.01)
