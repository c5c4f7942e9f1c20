"""The Slurm script: a head, workers, one search, and back into the queue when time is over; no Slurm here."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from searching import ROOT

SCRIPT = ROOT / "deploy" / "slurm.sbatch"
JOB = "4711"
STAND_INS = {
    "scontrol": """
if [[ $1 == show ]]; then printf '%s\\n' node-a node-b node-c; else echo "$*" >>"$CALLS/scontrol"; fi
""",
    "srun": """
for word in "$@"; do [[ $word == --nodelist=* ]] && export NODE=${word#*=}; done
while [[ $1 == --* ]]; do shift; done
exec "$@"
""",
    # A head announces its address; a worker joins only while the head runs.  A node fails once all others run.
    "ray": """
echo "$NODE $*" >>"$CALLS/ray"
cat "$RAY_AUTH_TOKEN_PATH" >"$CALLS/token-$NODE"; stat -c %a "$RAY_AUTH_TOKEN_PATH" >"$CALLS/mode-$NODE"
if [[ $NODE == "${FAILS_ON:-}" ]]; then
    [[ $* == *--head* ]] || until [[ $(wc -l <"$CALLS/running") -eq 2 ]]; do sleep 0.05; done
    echo "Ray cannot start"; exit 1
fi
[[ $* != *--address=* || -e $CALLS/head ]] || { echo "there is no head"; exit 1; }
[[ $* != *--head* ]] || touch "$CALLS/head"
port=$(printf '%s\\n' "$@" | sed -n 's/^--port=//p')
echo "Ray runtime started. --address='192.0.2.7:$port'"
trap 'echo "$NODE" >>"$CALLS/ended"; exit 0' TERM
echo "$NODE" >>"$CALLS/running"
while :; do sleep 0.05; done
""",
    "python": """
if [[ $1 == -c ]]; then echo -n drawn-token; exit; fi
echo "$*" >>"$CALLS/search"; echo "${RAY_AUTH_TOKEN:-none}" >"$CALLS/token-in-environment"
trap 'echo "ended in good order" >>"$CALLS/search"; exit 130' TERM
for _ in $(seq "${SEARCH_TICKS:-1}"); do sleep 0.05; done
exit "${SEARCH_STATUS:-0}"
""",
}


@pytest.fixture
def cluster(tmp_path):
    """Give the environment of a job on three nodes, all of which are this machine."""
    programs, calls = tmp_path / "programs", tmp_path / "calls"
    programs.mkdir()
    calls.mkdir()
    for name, text in STAND_INS.items():
        program = programs / name
        program.write_text(f"#!/usr/bin/env bash\n{text}")
        program.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "RAY_", "CLUSTER_"))}
    return {
        **kept,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "CALLS": str(calls),
        "CLUSTER_STATE": str(tmp_path),
        "CLUSTER_START_SECONDS": "60",
        "SLURM_JOB_ID": JOB,
        "SLURM_JOB_NODELIST": "node-[a-c]",
        "SLURM_CPUS_PER_TASK": "8",
    }


def start(cluster: dict[str, str], *words: str, **settings: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([str(SCRIPT), *words], env={**cluster, **settings}, text=True, stderr=subprocess.PIPE)


def run(cluster: dict[str, str], *words: str, **settings: str) -> tuple[int, str]:
    with start(cluster, *words, **settings) as job:
        _, errors = job.communicate(timeout=120)
    return job.returncode, errors


def called(cluster: dict[str, str], program: str) -> list[str]:
    path = Path(cluster["CALLS"]) / program
    return path.read_text().splitlines() if path.exists() else []


def test_a_search_runs_once_all_nodes_have_joined_and_ends_them(cluster):
    assert run(cluster, "transformer", "--trials", "3") == (0, "")
    port = 20000 + int(JOB) % 2000 * 10
    nodes = [line.split()[0] for line in called(cluster, "ray")]
    assert nodes[0] == "node-a"
    assert sorted(nodes) == ["node-a", "node-b", "node-c"]
    assert all(f"--address=192.0.2.7:{port}" in line for line in called(cluster, "ray")[1:])
    assert all("--num-cpus=8" in line for line in called(cluster, "ray"))
    search = f"-m platform.search transformer --trials 3 --ray-address 192.0.2.7:{port} --shared-disk"
    assert called(cluster, "search") == [search]
    assert sorted(called(cluster, "ended")) == ["node-a", "node-b", "node-c"]
    assert called(cluster, "scontrol") == []


def test_words_of_the_search_never_reach_a_shell(cluster, tmp_path):
    words = ("transformer", "--study", f"a b; touch {tmp_path}/touched; $(touch {tmp_path}/touched)")
    assert run(cluster, *words)[0] == 0
    assert called(cluster, "search")[0].startswith(f"-m platform.search {' '.join(words)} --ray-address")
    assert not (tmp_path / "touched").exists()


def test_the_token_is_drawn_for_the_job_read_by_its_owner_alone_and_gone_with_it(cluster, tmp_path):
    run(cluster, "transformer", RAY_AUTH_TOKEN="another")
    assert {called(cluster, f"token-node-{node}")[0] for node in "abc"} == {"drawn-token"}
    assert {called(cluster, f"mode-node-{node}")[0] for node in "abc"} == {"600"}
    assert called(cluster, "token-in-environment") == ["none"]
    assert not (tmp_path / f".eeg2fmri-{JOB}").exists()
    assert not any("drawn-token" in line for line in called(cluster, "ray"))


def test_the_job_ends_as_the_search_does(cluster):
    assert run(cluster, "transformer", SEARCH_STATUS="2")[0] == 2
    assert called(cluster, "scontrol") == []


def test_when_time_is_over_the_search_ends_in_good_order_and_the_job_goes_back_into_the_queue(cluster):
    with start(cluster, "transformer", SEARCH_TICKS="2000") as job:
        deadline = time.monotonic() + 60
        while not called(cluster, "search"):
            assert job.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        job.send_signal(signal.SIGTERM)  # as --signal=B:TERM does, to the script alone
        job.communicate(timeout=60)
    assert called(cluster, "search")[1:] == ["ended in good order"]
    assert called(cluster, "scontrol") == [f"requeue {JOB}"]
    assert sorted(called(cluster, "ended")) == ["node-a", "node-b", "node-c"]


@pytest.mark.parametrize(("failing", "ended"), [("node-a", []), ("node-c", ["node-a", "node-b"])])
def test_a_node_on_which_ray_does_not_start_ends_the_job_with_its_words(cluster, failing, ended):
    status, errors = run(cluster, "transformer", FAILS_ON=failing)
    assert status == 2
    assert "Ray cannot start" in errors
    assert errors.splitlines()[-1].startswith("error: Ray ended on a node before")
    assert called(cluster, "search") == []
    assert sorted(called(cluster, "ended")) == ended


def test_outside_of_a_job_it_says_so(cluster):
    del cluster["SLURM_JOB_NODELIST"]
    status, errors = run(cluster, "transformer")
    assert status
    assert "run this with sbatch" in errors
