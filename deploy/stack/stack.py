"""The whole platform's services on one machine: object storage, PostgreSQL and MLflow on loopback, and Ray.

With further Ray nodes Ray 2.60 replaces 127.0.0.1 by the machine's own address: it listens on every interface then, and
asks for the token.

Takes a folder, which keeps ports, secrets, process ids and everything that the services hold; gives their addresses and
the environment in which ``ray job submit -- python -m platform.search transformer`` needs no option.
"""

import dataclasses
import json
import logging
import os
import secrets
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from datasets.errors import BadInput
from datasets.storage import write_whole
from deploy.stack import object_store, ray_nodes
from deploy.stack.mlflow_server import MLflowServer
from deploy.stack.object_store import ObjectStoreServer
from deploy.stack.ports import free_ports
from deploy.stack.postgresql import PostgreSQL, programs
from deploy.stack.processes import Identity
from deploy.stack.ray_nodes import RayHead, RayWorkerNode
from deploy.stack.server import Server

logger = logging.getLogger(__name__)

BUCKET, USER = "eeg2fmri", "eeg2fmri"
STUDIES, RUNS, ACCOUNTS = "studies", "mlflow", "mlflow_accounts"
SECRETS = ("object_store", "postgresql", "mlflow", "ray")
PORTS = (*object_store.PORTS, "postgresql", "mlflow", *(f"ray.{name}" for name in ray_nodes.PORTS))


@dataclass(frozen=True, kw_only=True)
class StackSettings:
    """Where the stack keeps everything, and how large its Ray cluster is."""

    folder: Path
    cpus: int = 2
    nodes: int = 0
    """Ray nodes beside the head, each with one CPU; then the head itself has none."""


class Stack:
    """All services of one folder, those that an earlier command started included."""

    def __init__(self, settings: StackSettings) -> None:
        self.folder = settings.folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        ports, words = self._kept("ports.json", _new_ports), self._kept("secrets.json", _new_secrets)
        self.object_store = ObjectStoreServer(
            self.folder / "object-store",
            ports={name: ports[name] for name in object_store.PORTS},
            secret_key=words["object_store"],
            bucket=BUCKET,
            access_key=USER,
        )
        self.postgresql = self._postgresql(ports["postgresql"], words["postgresql"])
        self.mlflow = self._mlflow(ports["mlflow"], words["mlflow"])
        known = self._known()
        num_nodes = max(settings.nodes, sum(name.startswith("ray-node-") for name in known))
        self.ray = RayHead(
            self.folder / "ray",
            ports={name: ports[f"ray.{name}"] for name in ray_nodes.PORTS},
            token=words["ray"],
            cpus=0 if settings.nodes else settings.cpus,
            ip="127.0.0.1",
            needs=self.job_environment(),
            temporary=Path(f"/tmp/ray-{ports['ray.gcs']}"),
            is_alone=num_nodes == 0,
        )
        self.nodes = [
            RayWorkerNode(self.folder / f"ray-node-{number}", head=self.ray, number=number)
            for number in range(1, num_nodes + 1)
        ]
        for server in self.servers:
            if server.name in known:
                server.process = Identity(**known[server.name])

    @property
    def servers(self) -> list[Server]:
        """The services in the order in which they need each other."""
        database = [] if self.postgresql is None else [self.postgresql]
        return [self.object_store, *database, self.mlflow, self.ray, *self.nodes]

    def secrets(self) -> Mapping[str, str]:
        """Return every password and token, by the service that asks for it."""
        return self._kept("secrets.json", _new_secrets)

    def start(self) -> None:
        """Start what does not run; where one cannot be started, stop what this call started."""
        with self._alone():
            started: list[Server] = []
            try:
                for server in self.servers:
                    if not server.is_running():
                        logger.info("starting %s", server.name)
                        started.append(server)
                        self._start(server)
            except BaseException:
                for server in reversed(started):
                    server.stop()
                self._record()
                raise
            self._write_environment()

    def stop(self) -> list[str]:
        """Stop what this stack started and nothing else; return the names of what ran."""
        with self._alone():
            running = [server for server in reversed(self.servers) if server.is_running()]
            for server in running:
                logger.info("stopping %s", server.name)
                server.stop()
                self._record()
            self.ray.stop()  # what a killed head left behind
            return [server.name for server in running]

    def job_environment(self) -> dict[str, str]:
        """Return what a search or a preparation on this stack needs, no password in a URL."""
        store = self.object_store.store
        password_file = {} if self.postgresql is None else {"PGPASSFILE": str(self.folder / "pgpass")}
        return {
            "EEG2FMRI_HOME": str(self.folder / "home"),
            "EEG2FMRI_SHARDS": store.place("shards"),
            "EEG2FMRI_JOB_STORAGE": store.place("jobs"),
            "EEG2FMRI_STUDY_STORAGE": self._database(STUDIES),
            "EEG2FMRI_TRACKING": self.mlflow.uri,
            **store.keys(),
            **password_file,
            **self.mlflow.credentials(),
        }

    def environment(self) -> dict[str, str]:
        """Return what a user exports who submits jobs to this stack, or runs commands on it."""
        return {**self.job_environment(), **self.ray.authentication(), "RAY_ADDRESS": self.ray.jobs}

    def addresses(self) -> dict[str, str]:
        """Return where each service answers, without secrets."""
        return {
            "object-store": f"http://{self.object_store.store.endpoint}/{BUCKET}",
            **({} if self.postgresql is None else {"postgresql": f"127.0.0.1:{self.postgresql.port}"}),
            "mlflow": self.mlflow.uri,
            "ray-head": self.ray.jobs,
            **{node.name: "joined to ray-head" for node in self.nodes},
        }

    def _start(self, server: Server) -> None:
        if server is self.postgresql:
            self._write_password_file()
        server.launch()
        self._record()
        server.start()

    def _postgresql(self, port: int, password: str) -> PostgreSQL | None:
        if programs() is None:
            logger.warning("PostgreSQL is not installed: studies and MLflow's runs go to SQLite in %s", self.folder)
            return None
        return PostgreSQL(
            self.folder / "postgresql", port=port, password=password, user=USER, databases=(STUDIES, RUNS, ACCOUNTS)
        )

    def _mlflow(self, port: int, password: str) -> MLflowServer:
        store = self.object_store.store
        needs = {**store.keys(), "MLFLOW_S3_ENDPOINT_URL": f"http://{store.endpoint}"}
        return MLflowServer(
            self.folder / "mlflow",
            port=port,
            password=password,
            runs=self._database(RUNS),
            accounts=self._database(ACCOUNTS),
            artifacts=f"s3://{BUCKET}/mlflow",
            needs={**needs, "PGPASSFILE": str(self.folder / "pgpass")},
        )

    def _database(self, name: str) -> str:
        if self.postgresql is None:
            return f"sqlite:///{self.folder / name}.db"
        return self.postgresql.place(name)

    def _write_password_file(self) -> None:
        """Write the password where PostgreSQL's clients look for it; they refuse a file that others may read."""
        assert self.postgresql is not None
        server = self.postgresql
        _write_private(self.folder / "pgpass", f"127.0.0.1:{server.port}:*:{server.user}:{server.password}\n")

    def _write_environment(self) -> None:
        lines = [f"export {name}={shlex.quote(value)}" for name, value in self.environment().items()]
        _write_private(self.folder / "environment", "\n".join(lines) + "\n")

    def _kept(self, name: str, new: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what an earlier start wrote, or what is new, written."""
        path = self.folder / name
        if not path.exists():
            _write_private(path, json.dumps(new()))
        return json.loads(path.read_text())

    def _known(self) -> dict[str, dict[str, int]]:
        """Return the processes that an earlier command started."""
        path = self.folder / "processes.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def _record(self) -> None:
        running = {server.name: dataclasses.asdict(server.process) for server in self.servers if server.process}
        write_whole(self.folder / "processes.json", json.dumps(running).encode())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            with FileLock(self.folder / "lock", timeout=0):
                yield
        except Timeout:
            raise BadInput(f"another command is starting or stopping the stack in {self.folder}; wait for it") from None


def _new_ports() -> dict[str, int]:
    return dict(zip(PORTS, free_ports(len(PORTS)), strict=True))


def _new_secrets() -> dict[str, str]:
    return {name: secrets.token_hex(24) for name in SECRETS}


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, from its first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
