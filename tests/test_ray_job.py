"""``ray job submit -- python -m platform.search transformer`` on a real Ray head: from the wheel, from the checkout."""

import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from environments import borrowing_python
from searching import ROOT, environment, table
from small_study import write_small_study

from deploy.stack.ports import free_ports

SEARCH = ("python", "-m", "platform.search", "transformer")
START_SECONDS = 180.0

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]


@dataclass(frozen=True, kw_only=True)
class Head:
    """A Ray head of this test's own, configured for a study as a cluster would be."""

    address: str
    python: Path
    environment: dict[str, str]
    home: Path

    def job(self, *arguments: str, cwd: Path, seconds: float = 600) -> "subprocess.CompletedProcess[str]":
        """Run a ``ray job`` command against this head."""
        verb, *rest = arguments
        command = [self.python, "-m", "ray.scripts.scripts", "job", verb, "--address", self.address, *rest]
        return subprocess.run(
            command, cwd=cwd, env=self.environment, capture_output=True, text=True, timeout=seconds, check=False
        )


@contextmanager
def running_head(folder: Path, python: Path) -> Iterator[Head]:
    """Start a head with this Python, configured for a search, and end it by its process ids."""
    port, client, dashboard, agent, metrics = free_ports(5)
    settings = {
        "EEG2FMRI_SHARDS": str(write_small_study(folder / "shards", volumes=60)),
        "EEG2FMRI_TRIALS": "4",
        "EEG2FMRI_FINALISTS": "0",
        "EEG2FMRI_MAX_EPOCHS": "2",
        "EEG2FMRI_NO_FINALIST_SCORES": "true",
        "EEG2FMRI_NULL_FLIPS": "7",
        "EEG2FMRI_COMMIT_LAG": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PATH": f"{python.parent}:{os.environ['PATH']}",
    }
    env = {**environment(folder / "home"), **settings}
    temporary = Path(f"/tmp/r{os.getpid()}-{port}")  # Ray's sockets need a short path
    command = [
        python, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}",
        f"--ray-client-server-port={client}", f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}",
        "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--temp-dir={temporary}", "--num-cpus=2",
        "--disable-usage-stats",
    ]  # fmt: skip
    with (folder / "ray.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
        head = Head(address=f"http://127.0.0.1:{dashboard}", python=python, environment=env, home=folder / "home")
        try:
            wait_for(
                lambda: head.job("list", cwd=folder).returncode == 0, f"the head to take jobs, see {folder}/ray.log"
            )
            yield head
        finally:
            end_all(process, str(temporary))


def wait_for(is_there, what: str, seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not is_there():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.5)


def end_all(process: "subprocess.Popen[bytes]", temporary: str) -> None:
    """End this head's processes by their ids: those that name its own temporary folder."""
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and temporary in command_line(folder):
            os.kill(int(folder.name), 9)


def command_line(folder: Path) -> str:
    try:
        return (folder / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def test_a_job_from_the_checkout_is_stopped_and_goes_on_when_submitted_again(tmp_path):
    python = borrowing_python(tmp_path, with_wheel=False)
    with running_head(tmp_path, python) as head:
        submit = ("submit", "--submission-id", "first", "--no-wait", "--working-dir", ".", "--", *SEARCH)
        started = head.job(*submit, cwd=ROOT)
        assert started.returncode == 0, started.stderr
        wait_for(lambda: "fold job 2:" in head.job("logs", "first", cwd=ROOT).stdout, "two fold jobs", 480)
        stopped = head.job("stop", "first", cwd=ROOT)
        assert stopped.returncode == 0, stopped.stderr
        before = fold_records(head.home)
        assert len(before) >= 2
        ended = head.job("submit", "--working-dir", ".", "--", *SEARCH, cwd=ROOT)
        assert ended.returncode == 0, ended.stdout[-3000:]
    assert "best configuration (trial" in ended.stdout
    assert "fold job 1:" not in ended.stdout
    after = fold_records(head.home)
    assert {key: after[key] for key in before} == before
    assert len(after) > len(before)
    assert states(head.home) <= {"COMPLETE", "PRUNED"}


@pytest.mark.slow
def test_a_job_runs_from_any_folder_where_the_wheel_is_installed(tmp_path):
    python = borrowing_python(tmp_path, with_wheel=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with running_head(tmp_path, python) as head:
        ended = head.job("submit", "--", *SEARCH, cwd=elsewhere)
        assert ended.returncode == 0, ended.stdout[-3000:]
    assert "best configuration (trial" in ended.stdout
    assert states(head.home) <= {"COMPLETE", "PRUNED"}


def fold_records(home: Path) -> dict[str, object]:
    """Return the fold records by trial and fold, whatever the trial's state."""
    keys = ((key.split("/", 3), record) for key, record in table(home)["records"].items())
    return {f"{number}/{key}": record for (_, number, _, key), record in keys if key.startswith("fold/")}


def states(home: Path) -> set[str]:
    """Return the states of the trials."""
    return {key.split("/")[2] for key in table(home)["records"]}
