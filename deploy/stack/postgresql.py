"""PostgreSQL on loopback, where the machine has it: for studies and for MLflow.

Takes a folder, a port and a password; gives a server that may be killed at any time and started again.
"""

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.errors import BadInput
from deploy.stack.ports import LOOPBACK
from deploy.stack.server import Server


def programs() -> Path | None:
    """Return the folder of the server's programs, None where there are none."""
    found = [path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        return None
    return found[-1] if found else Path(str(on_path)).resolve().parent


class PostgreSQL(Server):
    """A server with one account and the databases named; passwords count."""

    name = "postgresql"
    stop_signal = signal.SIGINT  # SIGTERM would wait for every client to leave

    def __init__(
        self, folder: Path, *, port: int, password: str, user: str = "tester", databases: Sequence[str] = ()
    ) -> None:
        super().__init__(folder)
        self.port, self.user, self.password, self.databases = port, user, password, tuple(databases)
        self.account = _account()

    def url(self, database: str = "postgres", *, password: str | None = None) -> str:
        """Return the SQLAlchemy URL of a database, password included."""
        word = self.password if password is None else password
        return f"postgresql+psycopg2://{self.user}:{word}@{LOOPBACK}:{self.port}/{database}"

    def place(self, database: str) -> str:
        """Return the SQLAlchemy URL of a database without a password, which then comes from PGPASSFILE."""
        return f"postgresql+psycopg2://{self.user}@{LOOPBACK}:{self.port}/{database}"

    def make(self) -> None:
        """Make the server's files, where it has none."""
        if self._database.exists():
            return
        if self.account is not None:
            shutil.chown(self.folder, self.account)
        secret = self.folder / "secret"
        secret.touch(mode=0o600)
        secret.write_text(self.password)
        if self.account is not None:
            shutil.chown(secret, self.account)
        done = subprocess.run(
            [
                str(self._program("initdb")), "-D", str(self._database), "-U", self.user, "-A", "scram-sha-256",
                f"--pwfile={secret}", "-E", "UTF8", "--no-sync",
            ],
            cwd=self.folder, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, **self._as_account,
        )  # fmt: skip
        secret.unlink()
        if done.returncode:
            raise BadInput(
                f"PostgreSQL's files could not be made in {self.folder}: {done.stderr.strip()[-500:]}; run by root "
                f"they belong to the account {self.account}, which must be able to enter that folder"
            )

    def command(self) -> Sequence[str | Path]:
        """Return the server's command line: TCP on loopback, no other door."""
        return [
            self._program("postgres"), "-D", self._database, "-p", str(self.port), "-h", LOOPBACK,
            "-c", "unix_socket_directories=", "-c", "fsync=off",
        ]  # fmt: skip

    def answers(self) -> bool:
        """Tell whether it takes connections."""
        asked = [self._program("pg_isready"), "-q", "-h", LOOPBACK, "-p", str(self.port)]
        return subprocess.run(asked, check=False).returncode == 0

    def start(self) -> None:
        """Start it, wait until it answers, and make the databases that are missing."""
        super().start()
        for name in self.databases:
            self._create(name)

    def _create(self, database: str) -> None:
        own: Mapping[str, str] = {**os.environ, "PGPASSWORD": self.password}
        done = subprocess.run(
            [self._program("createdb"), "-h", LOOPBACK, "-p", str(self.port), "-U", self.user, database],
            env=own, check=False, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode and "already exists" not in done.stderr:
            raise BadInput(f"PostgreSQL did not make the database {database}: {done.stderr.strip()}")

    @property
    def _as_account(self) -> dict[str, Any]:
        return {} if self.account is None else {"user": self.account, "group": self.account, "extra_groups": []}

    @property
    def _database(self) -> Path:
        return self.folder / "database"

    def _program(self, name: str) -> Path:
        found = programs()
        if found is None:
            raise BadInput("PostgreSQL's server is not installed; on Debian: apt-get install postgresql")
        return found / name


def _account() -> str | None:
    """Return the account that runs the server, None for the user's own: it refuses to run as root."""
    if os.geteuid():
        return None
    return "postgres" if "postgres" in {entry.pw_name for entry in pwd.getpwall()} else "nobody"
