"""Ray nodes with something of their own, on this machine: a network that can be cut, a disk that can be full, a clock.

Takes a Ray head and what is of the node's own; gives a node of that head's cluster.  Networks and disks need root: they
are namespaces of Linux, gone with the last process in them.
"""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.stack.ports import LOOPBACK
from deploy.stack.ray_nodes import RayHead, RayWorkerNode
from deploy.stack.server import Server

FORWARDING = Path(__file__).with_name("forwarding.py")
CLOCK_SOURCE = Path(__file__).with_name("own_clock.c")


# A network


@dataclass(kw_only=True)
class Network:
    """A cable from this machine to a namespace, through a switch in a namespace of its own, where it is cut."""

    name: str = field(default_factory=lambda: f"eeg{secrets.token_hex(3)}")
    subnet: str = field(default_factory=lambda: f"10.213.{secrets.randbelow(256)}")

    def make(self) -> None:
        """Make both namespaces, the switch and both cables."""
        for namespace in (self.switch, self.namespace):
            _ip("netns", "add", namespace)
            _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self.switch, "link", "set", "bridge", "up")
        for port, end in (("here", self.name), ("there", "cable")):
            _ip("-n", self.switch, "link", "add", port, "type", "veth", "peer", "name", end)
            _ip("-n", self.switch, "link", "set", port, "master", "bridge", "up")
        _ip("-n", self.switch, "link", "set", self.name, "netns", str(os.getpid()))
        _ip("address", "add", f"{self.here}/24", "dev", self.name)
        _ip("link", "set", self.name, "up")
        _ip("-n", self.switch, "link", "set", "cable", "netns", self.namespace)
        _ip("-n", self.namespace, "address", "add", f"{self.there}/24", "dev", "cable")
        _ip("-n", self.namespace, "link", "set", "cable", "up")
        _ip("-n", self.namespace, "route", "add", "default", "via", self.here)

    def cut(self) -> None:
        """Let nothing through, and tell nobody."""
        _ip("-n", self.switch, "link", "set", "there", "down")

    def heal(self) -> None:
        """Let everything through again."""
        _ip("-n", self.switch, "link", "set", "there", "up")

    def remove(self) -> None:
        """Leave nothing behind; what was not made is no error."""
        for namespace in (self.switch, self.namespace):
            subprocess.run(["ip", "netns", "delete", namespace], check=False, capture_output=True)

    @property
    def here(self) -> str:
        """This end's address."""
        return f"{self.subnet}.1"

    @property
    def there(self) -> str:
        """The other end's address."""
        return f"{self.subnet}.2"

    @property
    def namespace(self) -> str:
        """Where the other end is."""
        return f"{self.name}-there"

    @property
    def switch(self) -> str:
        """Where the switch is."""
        return f"{self.name}-switch"

    def inside(self, command: Sequence[str | Path]) -> list[str | Path]:
        """Return the command line of a program at the other end."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}", *command]


class RemoteNode(RayWorkerNode):
    """A Ray node at the other end of a network; what it finds on loopback here, it finds on loopback there."""

    def __init__(self, folder: Path, *, head: RayHead, number: int, network: Network, ports: Sequence[int]) -> None:
        super().__init__(folder, head=head, number=number)
        self.network = network
        pairs = [(port, (network.here, LOOPBACK), False) for port in ports]
        pairs += [(port, (LOOPBACK, network.here), True) for port in ports]
        self._forwarders = [
            Forwarder(folder / f"forward-{number}", network=network, port=port, hosts=hosts, is_inside=is_inside)
            for number, (port, hosts, is_inside) in enumerate(pairs)
        ]

    def command(self) -> Sequence[str | Path]:
        """Return the command line, under the network's own address."""
        usual = [word for word in super().command() if not str(word).startswith("--node-ip-address=")]
        return self.network.inside([*usual, f"--node-ip-address={self.network.there}"])

    def launch(self) -> None:
        """Start what forwards, then the node."""
        for each in self._forwarders:
            each.start()
        super().launch()

    def end(self) -> None:
        """End the node and what forwards."""
        self.kill()
        for each in self._forwarders:
            each.kill()


class Forwarder(Server):
    """Forwards a port from one host to another, at one end of a network."""

    name = "forwarder"

    def __init__(self, folder: Path, *, network: Network, port: int, hosts: tuple[str, str], is_inside: bool) -> None:
        super().__init__(folder)
        self._network, self._port, self._hosts, self._is_inside = network, port, hosts, is_inside

    def command(self) -> Sequence[str | Path]:
        """Return the command line."""
        usual = [sys.executable, FORWARDING, *self._hosts, str(self._port)]
        return self._network.inside(usual) if self._is_inside else usual

    def answers(self) -> bool:
        """Tell whether it listens."""
        return "listens" in self.log.read_text()


# A disk


class NodeWithOwnDisk(RayWorkerNode):
    """A Ray node that alone sees a disk of so many bytes in a folder."""

    def __init__(self, folder: Path, *, head: RayHead, number: int, place: Path, num_bytes: int) -> None:
        super().__init__(folder, head=head, number=number)
        self.place, self._num_bytes = place, num_bytes

    @property
    def disk(self) -> Path:
        """The disk, as others reach it while the node runs."""
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}/root{self.place}")

    def command(self) -> Sequence[str | Path]:
        """Return the command line in a mount namespace."""
        self.place.mkdir(parents=True, exist_ok=True)
        mount_and_go_on = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'
        own = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount_and_go_on, "sh"]
        return [*own, str(self._num_bytes), self.place, *super().command()]

    def fill_up(self) -> Path:
        """Write a file that leaves no room at all, and return it."""
        filler = self.disk / "filler"
        with filler.open("wb") as file:
            status = os.statvfs(self.disk)
            os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize)
        return filler


# A clock


class NodeWithOwnClock(RayWorkerNode):
    """A Ray node all of whose processes read another time of day."""

    def __init__(self, folder: Path, *, head: RayHead, number: int, clock: Mapping[str, str]) -> None:
        super().__init__(folder, head=head, number=number)
        self._clock = dict(clock)

    def environment(self) -> Mapping[str, str]:
        """Give it what the head has, and a clock."""
        return {**super().environment(), **self._clock}


def clock(folder: Path, ahead_seconds: int) -> dict[str, str]:
    """Return the environment in which a program reads a time of day that is so much ahead; waits are not touched."""
    library = folder / "own_clock.so"
    if not library.exists():
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, CLOCK_SOURCE, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "CLOCK_AHEAD_SECONDS": str(ahead_seconds)}


# What this machine can do


def why_no_network() -> str:
    """Return what keeps this machine from networks of its own, "" where nothing does."""
    if os.geteuid() or not all(shutil.which(name) for name in ("ip", "nsenter")):
        return "needs root, iproute2 and nsenter, for a network of its own"
    network = Network()
    try:
        network.make()
    except subprocess.CalledProcessError as error:
        return f"needs network namespaces: {error.stderr.decode().strip()}"
    finally:
        network.remove()
    return ""


def why_no_disk() -> str:
    """Return what keeps this machine from a disk that one node alone sees, "" where nothing does."""
    asked = ["unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if os.geteuid() or shutil.which("unshare") is None or subprocess.run(asked, check=False).returncode:
        return "needs root and mount namespaces, for a disk of its own"
    return ""


def why_no_clock() -> str:
    """Return what keeps this machine from another clock, "" where nothing does."""
    return "" if shutil.which("gcc") else "needs gcc, for a clock of its own"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
