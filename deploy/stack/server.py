"""A program on loopback: started and waited for, stopped in good order or killed, known again by a later command.

Takes a folder, a command and a question that tells whether the program answers; gives a process.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from datasets.errors import BadInput
from deploy.stack.processes import Identity, end, identity_of, kill, with_descendants

FOREIGN = ("EEG2FMRI_", "RAY_", "MLFLOW_", "AWS_", "PG")
"""Settings of the user's own that must not reach a server by chance."""


class Server:
    """One program of the stack; a subclass says how it is started and when it answers."""

    name: str
    start_seconds: ClassVar[float] = 60.0
    stop_signal: ClassVar[int] = signal.SIGTERM

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: Identity | None = None
        self.account: str | None = None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """The file that its output goes to."""
        return self.folder / "log"

    @property
    def marker(self) -> str:
        """What the command lines of all its processes hold, also of those that left it; "" where there is no such."""
        return ""

    def command(self) -> Sequence[str | Path]:
        """Return its command line, which every user of the machine can read."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """Return what it needs besides an environment without anybody's settings."""
        return {}

    def answers(self) -> bool:
        """Tell whether it does its work."""
        raise NotImplementedError

    def make(self) -> None:
        """Write what it needs before its first start; nothing where that is there."""

    def start(self) -> None:
        """Start it and wait until it answers; nothing where it runs.

        Raises:
            BadInput: where it ended or did not answer in time; it is ended then.
        """
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it; nothing where it runs."""
        if self.is_running():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.make()
        own = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        switched: dict[str, Any] = (
            {} if self.account is None else {"user": self.account, "group": self.account, "extra_groups": []}
        )
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                [str(word) for word in self.command()], cwd=self.folder, env={**own, **self.environment()},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **switched,
            )  # fmt: skip
        self.process = identity_of(self._child.pid)

    def wait(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + self.start_seconds
        while not self.answers():
            if self.is_running() and time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            self.kill()
            last = self.log.read_text(errors="replace").strip().splitlines()[-20:]
            raise BadInput(f"{self.name} did not start; see {self.log}, which ends with: {' / '.join(last)[-1500:]}")

    def is_running(self) -> bool:
        """Tell whether its process is there."""
        return self.process is not None and self.process.is_running()

    def stop(self) -> None:
        """End it in good order, with all its processes."""
        if self.process is not None:
            end(self.process, self.stop_signal, marker=self.marker)
        self._reap()

    def kill(self) -> None:
        """End all its processes at once, as a power cut does."""
        if self.process is not None:
            kill(with_descendants(self.process, self.marker))
        self._reap()

    def _reap(self) -> None:
        if self._child is not None:
            self._child.wait()
        self._child = self.process = None
