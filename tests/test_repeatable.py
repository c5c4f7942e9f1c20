"""The same seed gives the same study, bit for bit, at any concurrency, interrupted or not."""

import os
import signal
import time
from pathlib import Path

import pytest
from kill_storm import read_log
from standin_study import Standin, start_standin, table_of

pytestmark = pytest.mark.timeout(900)

MINUTES = 60.0
LAG = 8
RACINGS = ["halving", pytest.param("paired", marks=pytest.mark.slow)]


def standin(folder: Path, racing: str, **fields: object) -> Standin:
    folder.mkdir()
    return Standin(
        storage_url=f"sqlite:///{folder / 'studies.db'}", log=str(folder / "log"), job_storage=str(folder / "jobs"),
        racing=racing, commit_lag=LAG, num_trials=16, num_subjects=8, **fields,
    )  # fmt: skip


def table_after(study: Standin) -> str:
    """Run a study to its end in a process of its own and return its table."""
    process = start_standin(study)
    printed, _ = process.communicate(timeout=6 * MINUTES)
    assert process.returncode == 0, printed[-3000:]
    return table_of(study)


def kill_after(study: Standin, num_commits: int) -> None:
    """Start a study and kill its driver with all that it started, once so many records are committed."""
    process = start_standin(study)
    deadline = time.monotonic() + 3 * MINUTES
    while sum(line[0] == "commit" for line in read_log(study)) < num_commits:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope="module", params=RACINGS)
def one_at_a_time(request, tmp_path_factory) -> tuple[str, str]:
    """The racing rule, and the table of a study that ran one job at a time."""
    study = standin(tmp_path_factory.mktemp("alone") / "study", request.param, concurrency=1)
    return request.param, table_after(study)


@pytest.mark.parametrize("concurrency", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_a_study_is_the_same_at_any_concurrency(one_at_a_time, tmp_path, concurrency):
    racing, table = one_at_a_time
    study = standin(tmp_path / "study", racing, concurrency=concurrency, cpus=concurrency, seconds=0.05)
    assert table_after(study) == table


@pytest.mark.slow
def test_a_study_killed_and_gone_on_with_at_another_concurrency_is_the_same(one_at_a_time, tmp_path):
    racing, table = one_at_a_time
    study = standin(tmp_path / "study", racing, concurrency=8, cpus=8, seconds=0.1)
    for num_commits in (3, 20, 41):
        kill_after(study, num_commits)
    assert table_after(study.changed(concurrency=1)) == table
