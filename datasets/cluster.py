"""The Ray cluster that a command runs on: this machine alone, or the one that RAY_ADDRESS names.

Takes an address and what must be seen by every node; gives a connected Ray for as long as a ``with`` lasts.
"""

import itertools
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray._private import ray_constants  # Ray's one way to stay on loopback
from ray.exceptions import RayError, RayTaskError

from datasets.errors import BadInput
from datasets.storage import open_storage

Result = TypeVar("Result")

LOCAL = "local"
CONNECT_SECONDS = 10.0
_TOO_BUSY = "node timed out during startup"
ENVIRONMENT = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1", "RAY_TRAIN_V2_ENABLED": "1"}
"""Ray Train's controller otherwise looks after its workers every 2 s, which a short fold job spends waiting."""
_IS_HERE: ContextVar[bool] = ContextVar("is_here", default=False)

_LOOPBACK_INTERFACE = "lo0" if sys.platform == "darwin" else "lo"
ON_LOOPBACK = {"GLOO_SOCKET_IFNAME": _LOOPBACK_INTERFACE, "NCCL_SOCKET_IFNAME": _LOOPBACK_INTERFACE}
"""What keeps the groups of workers of a local Ray on loopback, too."""


@contextmanager
def connected(address: str, cpus: int | None) -> Iterator[None]:
    """Connect to a Ray cluster, or start one for this process alone, and leave it in the end.

    The one that is started listens on loopback only.

    Args:
        address: ``local`` (never whatever cluster happens to run on this machine), ``auto`` or a cluster's address.
        cpus: CPUs of a local Ray; None for all.
    """
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = {**ENVIRONMENT, **ON_LOOPBACK, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
    is_local = address == LOCAL
    _check_somebody_listens(address)
    with _loopback_only() if is_local else nullcontext():
        _connect(address, environment if is_local else dict(ENVIRONMENT), cpus if is_local else None)
        try:
            yield
        finally:
            ray.shutdown()


def _connect(address: str, environment: dict[str, str], cpus: int | None) -> None:
    try:
        ray.init(
            address=address,
            runtime_env={"env_vars": environment},
            log_to_driver=False,
            logging_level=logging.ERROR,
            num_cpus=cpus,
            include_dashboard=False if address == LOCAL else None,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise BadInput(
            f"cannot connect to Ray at {address}: {reason}; start one, or give --ray-address local"
        ) from error
    except Exception as error:
        if _TOO_BUSY not in str(error):  # Ray raises a bare Exception for this alone
            raise
        raise BadInput(
            "Ray did not start within 30 s: too much else runs on this machine; once less does, run the command again"
        ) from error


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Let the Ray that is started meanwhile listen on loopback; by itself it listens on every interface.

    It does so on macOS and Windows, and anywhere else where this variable says so.  Its processes read the variable;
    this one has read it already, when Ray was imported.
    """
    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before, was_enabled = os.environ.get(name), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = was_enabled
        os.environ.pop(name)
        os.environ.update({} if before is None else {name: before})


@contextmanager
def in_this_process() -> Iterator[None]:
    """Run tasks and fold jobs in this process, one after the other, without Ray, as long as a ``with`` lasts.

    For many small studies, whose every Ray would cost more than they do themselves.
    """
    token = _IS_HERE.set(True)
    try:
        yield
    finally:
        _IS_HERE.reset(token)


def is_in_this_process() -> bool:
    """Tell whether tasks run here and no cluster is asked."""
    return _IS_HERE.get()


def _check_somebody_listens(address: str) -> None:
    """Refuse an address at which nobody listens: Ray itself would go on trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise BadInput(
            f"cannot connect to Ray at {address}: {error}; start one there, or give --ray-address local"
        ) from error


def address_from_environment() -> str:
    """Return RAY_ADDRESS, which a submitted job is given by its cluster; ``local`` where it is not set."""
    return os.environ.get("RAY_ADDRESS") or LOCAL


def check_every_node_sees(places: Mapping[str, str]) -> None:
    """Refuse places on one node's disks where the cluster has several nodes.

    Args:
        places: option name to path, URI or database URL.
    """
    num_nodes = sum(node["Alive"] for node in ray.nodes())
    if num_nodes < 2:  # noqa: PLR2004
        return
    local = [f"--{option} {place}" for option, place in places.items() if _is_on_one_node(place)]
    if local:
        raise BadInput(
            f"the cluster has {num_nodes} nodes, but only one of them sees {', '.join(local)}; use s3:// storage, "
            "a PostgreSQL study storage and an MLflow server, or, where all nodes mount these paths, --shared-disk"
        )


def _is_on_one_node(place: str) -> bool:
    if place.startswith("sqlite"):
        return True
    return open_storage(place).is_local if "://" not in place or place.startswith("file://") else False


def cluster_size() -> tuple[int, float]:
    """Return the CPUs and the GPUs of the connected cluster; where it grows with its work, what it may grow to.

    Ray does not tell how large its autoscaler may make a cluster, so that whoever set it up says it, in
    EEG2FMRI_CLUSTER_CPUS and EEG2FMRI_CLUSTER_GPUS: work that is not asked for makes no node start.
    """
    if is_in_this_process():
        return 1, 0.0
    resources = ray.cluster_resources()
    cpus, gpus = (max(resources.get(name, 0.0), _largest(f"EEG2FMRI_CLUSTER_{name}S")) for name in ("CPU", "GPU"))
    return int(cpus), gpus


def _largest(variable: str) -> float:
    text = os.environ.get(variable) or "0"
    if not text.isdigit():
        raise BadInput(f"{variable} must be an integer of at least 0, but is {text!r}")
    return float(text)


def run_tasks(
    task: Callable[..., Result],
    arguments: Sequence[tuple[Any, ...]],
    *,
    memory_bytes: int = 0,
    cpus: int = 1,
    gpus: float = 0.0,
    at_once: int | None = None,
) -> Iterator[Result]:
    """Run a function on the cluster once for each tuple of arguments; yield the results as they come.

    No more tasks are begun than the cluster has CPUs, or ``at_once``: a task that waits for tasks of its own gives its
    CPU away.  ``memory_bytes``, ``cpus`` and ``gpus`` are what each task takes, so that no node is given more of them
    than it can hold.

    Raises:
        BadInput, OSError: where a task did, with its own message.
    """
    if is_in_this_process():
        yield from (task(*each) for each in arguments)
        return
    remote = ray.remote(task).options(memory=_fitting(memory_bytes), num_cpus=cpus, num_gpus=gpus)
    todo = [*reversed(arguments)]
    running: list[Any] = []
    while todo or running:
        while todo and len(running) < (at_once or max(1, cluster_size()[0])):
            running.append(remote.remote(*todo.pop()))
        ready, running = ray.wait(running)
        yield _result(ready[0])


def results_in_order(task: Callable[..., Result], arguments: Sequence[tuple[Any, ...]]) -> list[Result]:
    """Run a function on the cluster once for each tuple of arguments, all at once; return the results in that order.

    What several tuples share is sent once.

    Raises:
        BadInput, OSError: where a task did, with its own message.
    """
    if is_in_this_process():
        return [task(*each) for each in arguments]
    remote = ray.remote(task)
    sent = {id(each): ray.put(each) for each in itertools.chain.from_iterable(arguments)}
    return [_result(each) for each in [remote.remote(*(sent[id(part)] for part in parts)) for parts in arguments]]


def _fitting(memory_bytes: int) -> int | None:
    """Return what a task may ask for: Ray would wait for ever for more than the largest node has."""
    largest = max((node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]), default=0)
    return int(min(memory_bytes, largest)) or None


def _result(reference: Any) -> Any:  # noqa: ANN401 - whatever the task gave
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, (BadInput, OSError)):
            raise error.cause from None
        raise
    except RayError as error:
        raise BadInput(
            f"a task on the cluster was lost ({type(error).__name__}): most often memory is full; run the same "
            "command again with fewer at once (--cpus, or --workers when preparing)"
        ) from error
