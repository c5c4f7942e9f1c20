"""A cluster of two real Ray nodes: what lies on one node's disk is refused before anything is written."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from searching import ROOT, environment, stop_after_fold_jobs
from small_study import write_small_study

from datasets.cluster import (
    LOCAL,
    check_every_node_sees,
    cluster_size,
    connected,
    in_this_process,
    is_in_this_process,
    results_in_order,
    run_tasks,
)
from datasets.errors import BadInput
from deploy.stack.ports import free_ports

OBJECT_STORE_BYTES = 80 * 1024**2  # the least that Ray takes is 75 MiB
PLACES = ("shards", "study-storage", "tracking", "job-storage")
UNREACHABLE_SECONDS = 60.0
QUICK_SEARCH = (
    "--trials", "1", "--max-epochs", "1", "--finalists", "0", "--no-finalist-scores", "--no-report", "--null-flips", "0"
)  # fmt: skip

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[str]:
    """Start two Ray nodes with ports and folder of their own; give the cluster's address, end them by their ids.

    Not on loopback: a driver replaces 127.0.0.1 by the machine's own address, where such a head would not listen.
    """
    port, agent, metrics = free_ports(3)
    own = {"object_store_memory": OBJECT_STORE_BYTES, "num_cpus": 1}
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            patch.delenv(name)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                **own,
                "gcs_server_port": port,
                "dashboard_agent_listen_port": agent,
                "metrics_export_port": metrics,
                "include_dashboard": False,
                "temp_dir": f"/tmp/r{os.getpid()}-{port}",  # Ray's sockets need a short path
            },
        )
        try:
            cluster.add_node(**own)
            yield cluster.address
        finally:
            cluster.shutdown()


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    return str(write_small_study(tmp_path_factory.mktemp("study") / "shards", volumes=20))


def run_search(home: Path, *arguments: str, seconds: float = 100, **changes: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "platform.search", "transformer", *arguments],
        cwd=ROOT,
        env={**environment(home), **changes},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def error_lines(done: "subprocess.CompletedProcess[str]") -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


@contextmanager
def silent_port() -> Iterator[int]:
    """Give a port that is bound, so that nobody else takes it, but does not listen: it refuses every connection."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_a_ray_that_does_not_start_in_time_is_one_line(monkeypatch):
    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because many things.")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(BadInput, match="Ray did not start within 30 s"), connected(LOCAL, 1):
        pass


def test_another_error_of_ray_s_start_is_not_hidden(monkeypatch):
    def init(**_: object) -> None:
        raise Exception("a fault of Ray's own")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(Exception, match="a fault of Ray's own") as raised, connected(LOCAL, 1):
        pass
    assert not isinstance(raised.value, BadInput)


@pytest.mark.slow
@pytest.mark.parametrize("named_by", ["--ray-address", "RAY_ADDRESS"])
def test_local_places_are_refused_on_two_nodes_and_nothing_is_written(two_nodes, shards, tmp_path, named_by):
    home = tmp_path / "home"
    by_option = named_by == "--ray-address"
    arguments = ("--ray-address", two_nodes) if by_option else ()
    changes = {} if by_option else {"RAY_ADDRESS": two_nodes}
    done = run_search(home, "--shards", shards, *arguments, **changes)
    assert done.returncode == 2, done.stderr
    assert len(error_lines(done)) == 1
    refusal = error_lines(done)[0]
    assert "the cluster has 2 nodes" in refusal
    for option, place in zip(PLACES, (shards, f"sqlite:///{home}", f"sqlite:///{home}", f"{home}/jobs"), strict=True):
        assert f"--{option} {place}" in refusal
    for remedy in ("s3:// storage", "PostgreSQL study storage", "MLflow server", "--shared-disk"):
        assert remedy in refusal
    assert "Traceback" not in done.stdout + done.stderr
    assert not home.exists()


@pytest.mark.slow
def test_with_a_shared_disk_the_same_places_are_not_refused(two_nodes, tmp_path):
    three = str(write_small_study(tmp_path / "three", subjects=3, volumes=20))
    done = run_search(tmp_path / "home", "--shards", three, "--ray-address", two_nodes, "--shared-disk")
    assert done.returncode == 2, done.stderr
    assert "a fold needs 4 or more subjects" in error_lines(done)[0]  # which only the shards' manifest tells


@pytest.mark.slow
def test_places_that_every_node_sees_pass(two_nodes):
    with connected(two_nodes, None):
        assert len(ray.nodes()) == 2
        check_every_node_sees(
            {
                "shards": "s3://bucket/shards",
                "study-storage": "postgresql+psycopg2://user@host/studies",
                "tracking": "http://mlflow:5000",
                "job-storage": "s3://bucket/jobs",
            }
        )


@pytest.mark.slow
@pytest.mark.parametrize("place", ["shards", "relative/shards", "file:///shards", "sqlite:////studies.db"])
def test_only_the_place_on_one_node_is_named(two_nodes, place):
    with (
        connected(two_nodes, None),
        pytest.raises(BadInput, match=r"only one of them sees --second \S+; use s3://"),
    ):
        check_every_node_sees({"first": "s3://bucket/shards", "second": place, "third": "https://mlflow"})


@pytest.mark.slow
def test_a_ray_of_this_process_alone_passes_local_places_and_joins_no_cluster(two_nodes, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", two_nodes)
    with connected(LOCAL, 1):
        assert ray.get_runtime_context().gcs_address != two_nodes
        assert len(ray.nodes()) == 1
        check_every_node_sees({"shards": str(tmp_path), "study-storage": f"sqlite:///{tmp_path}/studies.db"})
    with connected(two_nodes, None):
        assert ray.get_runtime_context().gcs_address == two_nodes


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}"])
def test_an_address_where_no_ray_answers_is_refused_in_one_line(shards, tmp_path, address):
    with silent_port() as port:
        named = address.format(port=port)
        done = run_search(tmp_path / "home", "--shards", shards, "--ray-address", named, seconds=UNREACHABLE_SECONDS)
    assert done.returncode == 2, done.stderr
    assert len(error_lines(done)) == 1
    assert f"cannot connect to Ray at {named}" in error_lines(done)[0]
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "home").exists()


@pytest.fixture
def head_without_work() -> Iterator[Cluster]:
    """Start a Ray head that takes no work, as on Kubernetes before the autoscaler starts a first node."""
    port, agent, metrics = free_ports(3)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            patch.delenv(name)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "object_store_memory": OBJECT_STORE_BYTES,
                "gcs_server_port": port,
                "dashboard_agent_listen_port": agent,
                "metrics_export_port": metrics,
                "include_dashboard": False,
                "temp_dir": f"/tmp/r{os.getpid()}-{port}",
            },
        )
        try:
            yield cluster
        finally:
            cluster.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_on_a_cluster_that_is_still_to_grow_waits_for_its_first_node(head_without_work, tmp_path):
    shards = str(write_small_study(tmp_path / "shards", subjects=4, volumes=40))
    where = ("--shards", shards, "--ray-address", head_without_work.address, "--shared-disk")
    search = subprocess.Popen(
        [sys.executable, "-m", "platform.search", "transformer", *where, *QUICK_SEARCH],
        cwd=ROOT, env={**environment(tmp_path / "home"), "EEG2FMRI_CLUSTER_CPUS": "2"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    time.sleep(10)
    assert search.poll() is None
    head_without_work.add_node(num_cpus=2, object_store_memory=OBJECT_STORE_BYTES)
    printed = stop_after_fold_jobs(search, 1, signal.SIGKILL, group=True)
    assert "decoded 4 of 4 subjects" in printed
    assert "fold job 1:" in printed


def _refusing(number: int) -> int:
    if number < 0:
        raise BadInput(f"a number must not be negative, but got {number}")
    return number + os.getpid()


def test_in_this_process_tasks_need_no_ray():
    with in_this_process():
        assert cluster_size() == (1, 0.0)
        assert list(run_tasks(_refusing, [(1,), (2,)])) == [os.getpid() + 1, os.getpid() + 2]
        assert results_in_order(_refusing, [(3,)]) == [os.getpid() + 3]
        with pytest.raises(BadInput, match="must not be negative"):
            list(run_tasks(_refusing, [(-1,)]))
    assert not is_in_this_process()
