"""What a process and all below it show while they run: where they listen, and their command lines (Linux: ``/proc``).

Takes a process's id; gives addresses and command lines.
"""

import contextlib
import ipaddress
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deploy.stack.processes import command_line, identity_of, with_descendants

LISTENS = "0A"
SECONDS_BETWEEN = 0.3


@dataclass
class Watched:
    """All that was seen: (address, command line) of every listener, and every command line."""

    listeners: set[tuple[str, str]] = field(default_factory=set)
    command_lines: set[str] = field(default_factory=set)

    def beyond_loopback(self) -> list[str]:
        """Return the listeners that others than this machine can reach."""
        return sorted(f"{address} {line}" for address, line in self.listeners if not is_loopback(address))


def is_loopback(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def listening_sockets() -> dict[str, str]:
    """Return the address of every TCP socket that listens, by the number of its inode."""
    found = {}
    for family in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENS:
                found[fields[9]] = address_of(fields[1].partition(":")[0])
    return found


def address_of(words: str) -> str:
    """Return an address that the kernel writes as 32-bit words, each in this machine's (little) order of bytes."""
    parts = [bytes.fromhex(words[at : at + 8])[::-1] for at in range(0, len(words), 8)]
    return str(ipaddress.ip_address(b"".join(parts)))


def look(pid: int, seen: Watched) -> None:
    """Add what a process and all below it show now."""
    root = identity_of(pid)
    family = [] if root is None else with_descendants(root)
    sockets = listening_sockets()
    for each in family:
        line = command_line(each.pid)
        seen.command_lines.add(line)
        seen.listeners |= {(sockets[inode], line[:200]) for inode in open_sockets(each.pid) if inode in sockets}


def open_sockets(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):  # ended meanwhile
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found |= set(re.findall(r"socket:\[(\d+)\]", str(descriptor.readlink())))
    return found


@contextmanager
def watching(pid: int) -> Iterator[Watched]:
    """Look again and again for as long as a ``with`` lasts."""
    seen, is_over = Watched(), threading.Event()

    def go_on() -> None:
        while not is_over.wait(SECONDS_BETWEEN):
            look(pid, seen)

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join()
