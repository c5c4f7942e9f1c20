"""Ray nodes on this machine: a head with token authentication, and further nodes that join it.

Takes folders and ports; gives a cluster's address and the environment that drivers and submitters need.
"""

import os
import re
import shutil
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.stack.ports import LOOPBACK, free_ports
from deploy.stack.server import Server

OBJECT_STORE_BYTES = 80 * 1024**2  # the least that Ray takes is 75 MiB
LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Without it Ray listens on every interface, whatever address it is told; with it no further node can join."""
PORTS = ("gcs", "client", "dashboard", "agent", "metrics")


class RayHead(Server):
    """``ray start --head``; each start is a new cluster.

    With ``ip`` None it is known by the machine's own address, as drivers outside of jobs expect.  It listens on every
    interface, unless ``is_alone``: then on loopback, and no node can join.
    """

    name = "ray-head"
    start_seconds = 120.0

    def __init__(
        self,
        folder: Path,
        *,
        ports: Mapping[str, int],
        token: str,
        cpus: int = 2,
        ip: str | None = None,
        needs: Mapping[str, str] | None = None,
        temporary: Path | None = None,
        python: str | Path = sys.executable,
        has_dashboard: bool = True,
        is_alone: bool = False,
    ) -> None:
        super().__init__(folder)
        self.ports, self.cpus, self.ip = dict(ports), cpus, ip
        self.python, self.has_dashboard = Path(python), has_dashboard
        self.is_alone = is_alone
        self.token_file = folder / "token"
        self._token, self._needs = token, dict(needs or {})
        # Ray's sockets need a short path.
        self.temporary = temporary or Path(f"/tmp/ray-{os.getpid()}-{ports['gcs']}")

    @property
    def marker(self) -> str:
        """Every process of the head and of the nodes that joined it names this folder."""
        return f"{self.temporary}/"

    @property
    def jobs(self) -> str:
        """Where jobs are submitted."""
        return f"http://{LOOPBACK}:{self.ports['dashboard']}"

    @property
    def address(self) -> str:
        """Where drivers and further nodes find the cluster; "" where it has not started."""
        text = self.log.read_text() if self.log.exists() else ""
        if self.is_alone:  # then Ray tells no address: nobody is to join
            return f"{LOOPBACK}:{self.ports['gcs']}" if "Ray runtime started" in text else ""
        found = re.findall(r"--address='([\d.]+:\d+)'", text)
        return found[-1] if found else ""

    def authentication(self) -> dict[str, str]:
        """Return what head, nodes, drivers and submitters must set alike."""
        reach = LOOPBACK_ONLY if self.is_alone else {}
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_file), **reach}

    def make(self) -> None:
        """Write the token, readable to its owner alone."""
        self.token_file.touch(mode=0o600)
        self.token_file.write_text(self._token)
        self.log.write_bytes(b"")

    def command(self) -> Sequence[str | Path]:
        """Return the command line, in which there is no secret."""
        jobs = [f"--dashboard-port={self.ports['dashboard']}", f"--dashboard-host={LOOPBACK}"]
        return [
            self.python, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={self.ports['gcs']}",
            f"--ray-client-server-port={self.ports['client']}", f"--dashboard-agent-listen-port={self.ports['agent']}",
            f"--metrics-export-port={self.ports['metrics']}", f"--temp-dir={self.temporary}",
            f"--num-cpus={self.cpus}", f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats",
            *(jobs if self.has_dashboard else ["--include-dashboard=false"]),
            *([] if self.ip is None else [f"--node-ip-address={self.ip}"]),
        ]  # fmt: skip

    def environment(self) -> Mapping[str, str]:
        """Give jobs what they need: they inherit the head's environment, and its first ``python``."""
        return {
            **self._needs,
            **self.authentication(),
            "PATH": f"{self.python.parent}:{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
        }

    def answers(self) -> bool:
        """Tell whether nodes can join, and jobs be submitted."""
        return bool(self.address) and (not self.has_dashboard or self._takes_jobs())

    def kill(self) -> None:
        """End every process of this cluster by SIGKILL, all at once, and remove its files."""
        super().kill()
        self._forget()

    def stop(self) -> None:
        """End every process of this cluster and remove its files."""
        super().stop()
        self._forget()

    def _forget(self) -> None:
        shutil.rmtree(self.temporary, ignore_errors=True)

    def _takes_jobs(self) -> bool:
        request = urllib.request.Request(f"{self.jobs}/api/jobs/", headers={"Authorization": f"Bearer {self._token}"})
        try:
            urllib.request.urlopen(request, timeout=5.0).close()
        except OSError:
            return False
        return True


class RayWorkerNode(Server):
    """``ray start --address``: a further node of a head's cluster, on this machine."""

    start_seconds = 120.0

    def __init__(self, folder: Path, *, head: RayHead, number: int, cpus: int = 1) -> None:
        super().__init__(folder)
        self.name = f"ray-node-{number}"
        self.head, self.cpus = head, cpus
        self._ports = free_ports(2)

    def command(self) -> Sequence[str | Path]:
        """Return the command line, in which there is no secret."""
        agent, metrics = self._ports
        return [
            self.head.python, "-m", "ray.scripts.scripts", "start", "--block", f"--address={self.head.address}",
            f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}", f"--num-cpus={self.cpus}",
            f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats",
            *([] if self.head.ip is None else [f"--node-ip-address={self.head.ip}"]),
        ]  # fmt: skip

    def environment(self) -> Mapping[str, str]:
        """Give it what the head has."""
        return self.head.environment()

    def make(self) -> None:
        """Begin a new log: what an earlier start wrote is no answer of this one."""
        self.log.write_bytes(b"")

    def answers(self) -> bool:
        """Tell whether it has joined."""
        return "Ray runtime started" in self.log.read_text()
