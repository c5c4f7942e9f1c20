"""PostgreSQL on loopback, where the machine has it: a server of a test's own that may be killed and started again.

Takes nothing; gives a server with one database and one account with a password, for as long as a ``with`` lasts.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

START_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class PostgreSQL:
    """A server's programs, its folder, its port and the account that runs it (it refuses to run as root)."""

    programs: Path
    folder: Path
    port: int
    account: str | None
    user: str = "tester"
    password: str = "hunter2"
    running: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def url(self, database: str = "postgres", *, password: str | None = None) -> str:
        """Return the SQLAlchemy URL of a database."""
        word = self.password if password is None else password
        return f"postgresql+psycopg2://{self.user}:{word}@127.0.0.1:{self.port}/{database}"

    def make(self) -> None:
        """Make the server's files; passwords count."""
        if self.account is not None:
            shutil.chown(self.folder, self.account)
        secret = self.folder / "secret"
        secret.write_text(self.password)
        secret.chmod(0o644)
        self._run(
            "initdb", "-D", self._database, "-U", self.user, "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8",
            "--no-sync",
        )  # fmt: skip

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = ("-p", str(self.port), "-h", "127.0.0.1", "-k", str(self.folder), "-c", "fsync=off")
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [self.programs / "postgres", "-D", self._database, *options],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._as_account,
            )  # fmt: skip
        self.running.append(process)
        deadline = time.monotonic() + START_SECONDS
        while self._answer("-h", "127.0.0.1", "-p", str(self.port)):
            assert process.poll() is None and time.monotonic() < deadline, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.05)

    def kill(self) -> None:
        """End all its processes by SIGKILL, as a power cut does."""
        for process in self.running:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            for pid in (process.pid, *map(int, children)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
        self.running.clear()

    def _answer(self, *arguments: str) -> int:
        return subprocess.run([self.programs / "pg_isready", "-q", *arguments], check=False).returncode

    @property
    def _as_account(self) -> dict[str, Any]:
        return {} if self.account is None else {"user": self.account, "group": self.account, "extra_groups": []}

    @property
    def _database(self) -> str:
        return str(self.folder / "database")

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self.programs / program, *arguments], cwd=self.folder, check=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, **self._as_account,
        )  # fmt: skip


@contextlib.contextmanager
def running_postgresql() -> Iterator[PostgreSQL]:
    """Run a server for as long as a ``with`` lasts; the test is skipped where the machine has none."""
    server = PostgreSQL(
        programs=_programs(),
        folder=Path(tempfile.mkdtemp(prefix="postgresql-")),  # pytest's own folders are closed to other accounts
        port=_free_port(),
        account=_account(),
    )
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(server.folder)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def _programs() -> Path:
    pytest.importorskip("psycopg2", reason="needs a driver for PostgreSQL: pip install psycopg2-binary")
    found = [path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        pytest.skip("needs PostgreSQL's server: apt-get install postgresql")
    return found[-1] if found else Path(str(on_path)).resolve().parent


def _account() -> str | None:
    if os.geteuid():
        return None
    return "postgres" if "postgres" in {entry.pw_name for entry in pwd.getpwall()} else "nobody"
