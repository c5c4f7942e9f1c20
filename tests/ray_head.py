"""A Ray head of a test's own: ports, folder and token of its own, killed at once and started anew.

Takes a folder for its log; gives its address, and the environment that a driver needs.
"""

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from searching import environment

from deploy.stack.ports import free_ports

START_SECONDS = 120.0
OBJECT_STORE_BYTES = 80 * 1024**2  # the least that Ray takes is 75 MiB


class RayHead:
    """``ray start --head`` on this machine; each start is a new cluster on ports of its own."""

    def __init__(self, folder: Path, cpus: int = 2) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._cpus = folder, cpus
        self._process: subprocess.Popen[bytes] | None = None
        self._temporary = Path()
        self.address = ""
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

    def start(self) -> None:
        """Start the head and wait until it answers; it listens on the machine's own address, as drivers expect."""
        port, client, agent, metrics = free_ports(4)
        self._temporary = Path(f"/tmp/r{os.getpid()}-{port}")  # Ray's sockets need a short path
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}",
            f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}",
            f"--metrics-export-port={metrics}", "--include-dashboard=false", f"--temp-dir={self._temporary}",
            f"--num-cpus={self._cpus}", f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats",
        ]  # fmt: skip
        log = self._folder / "ray.log"
        with log.open("wb") as written:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env={**environment(self._folder), **self.environment},
                stdout=written, stderr=written, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while not (found := re.search(r"--address='([\d.]+:\d+)'", log.read_text())):
            assert self._process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.1)
        self.address = found[1]

    def kill(self) -> None:
        """End every process of this head by SIGKILL, all at once, and remove its files."""
        if self._process is None:
            return
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _pids(self) -> list[int]:
        """Return the ids of its processes: those that name its temporary folder, and the workers below them."""
        assert self._process is not None
        named = [int(path.name) for path in Path("/proc").iterdir() if str(self._temporary) in _command_line(path)]
        own = {self._process.pid, *named} - {os.getpid()}
        return sorted(own | {child for pid in own for child in _descendants(pid)})


def _command_line(folder: Path) -> str:
    if not folder.name.isdigit():
        return ""
    try:
        return (folder / "cmdline").read_bytes().decode(errors="replace")
    except OSError:  # ended meanwhile
        return ""


def _descendants(pid: int) -> set[int]:
    found: set[int] = set()
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text().split()):
                found |= {child} | _descendants(child)
    return found
