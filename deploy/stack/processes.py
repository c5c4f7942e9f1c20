"""Processes that outlive the command which started them, and are ended by nobody else's mistake.

Takes a process's id; gives an identity that a later process with the same id does not have (Linux: ``/proc``).
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_STATE, _PARENT, _STARTED = 0, 1, 19
"""Places in ``/proc/PID/stat``, counted behind the command's name, which is in brackets and may hold anything."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A process: its id, and when it started, in ticks since the machine did."""

    pid: int
    started: int

    def is_running(self) -> bool:
        """Tell whether this very process is there and has not ended."""
        found = _stat(self.pid)
        return found is not None and int(found[_STARTED]) == self.started and found[_STATE] not in "ZX"

    def send(self, number: int) -> None:
        """Send a signal, where the process is still there."""
        if self.is_running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def identity_of(pid: int) -> Identity | None:
    """Return the identity of a process, None where there is none."""
    found = _stat(pid)
    return None if found is None else Identity(pid=pid, started=int(found[_STARTED]))


def with_descendants(root: Identity, marker: str = "") -> list[Identity]:
    """Return a process, all below it, and all that name ``marker`` in their command line with what is below those."""
    parents = {pid: int(found[_PARENT]) for pid in _pids() if (found := _stat(pid)) is not None}
    wanted = {root.pid} if root.is_running() else set()
    if marker:
        wanted |= {pid for pid in parents if marker in command_line(pid)} - {os.getpid(), os.getppid()}
    while more := {pid for pid, parent in parents.items() if parent in wanted} - wanted:
        wanted |= more
    return [each for pid in sorted(wanted) if (each := identity_of(pid)) is not None]


def end(root: Identity, how: int = signal.SIGTERM, *, patience_s: float = 20.0, marker: str = "") -> None:
    """Ask a process to end, wait, and end by SIGKILL whatever is left of it and of those below it."""
    family = with_descendants(root, marker)
    root.send(how)
    deadline = time.monotonic() + patience_s
    while root.is_running() and time.monotonic() < deadline:
        time.sleep(0.05)
    kill([*family, *with_descendants(root, marker)])


def kill(family: Iterable[Identity], *, patience_s: float = 5.0) -> None:
    """End processes by SIGKILL, all at once, and wait until they are gone."""
    left = list(family)
    for each in left:
        each.send(signal.SIGKILL)
    deadline = time.monotonic() + patience_s
    while any(each.is_running() for each in left) and time.monotonic() < deadline:
        time.sleep(0.01)


def command_line(pid: int) -> str:
    """Return a process's command line, "" where it has ended."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _pids() -> list[int]:
    return [int(path.name) for path in PROC.iterdir() if path.name.isdigit()]


def _stat(pid: int) -> list[str] | None:
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()
