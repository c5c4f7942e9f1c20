"""Ports on loopback that nobody listens on.  Takes how many; gives their numbers."""

import socket
from contextlib import ExitStack

LOOPBACK = "127.0.0.1"


def free_ports(number: int) -> list[int]:
    """Return ports that nobody on this machine listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]
