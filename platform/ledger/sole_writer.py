"""One search at a time per study: a claim that the operating system or the database takes back from whoever dies.

Takes the engine of a study's storage and the study's name; gives a claim.  On SQLite it is a lock on a file beside the
database, on PostgreSQL an advisory lock of a connection of its own: both end with the process that held them, however
it ended.  Other databases know no claim.
"""

import contextlib
import hashlib
from dataclasses import dataclass, field
from typing import Protocol

from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from datasets.errors import BadInput

_NOTICE_A_DEAD_MACHINE = ("tcp_keepalives_idle = 20", "tcp_keepalives_interval = 5", "tcp_keepalives_count = 4")
"""PostgreSQL notices a killed process at once, but a machine without power only by asking it: after 40 s."""


class Claim(Protocol):
    """The right to write to a study."""

    def take(self) -> None:
        """Take it, or take it again where the database forgot; BadInput where another process has it."""

    def release(self) -> None:
        """Give it back."""


def claim_on(engine: Engine, study: str) -> Claim:
    """Return the claim on a study in the storage of this engine."""
    if engine.dialect.name == "sqlite":
        return _FileClaim(study=study, lock=FileLock(f"{engine.url.database}.{study}.lock"))
    if engine.dialect.name == "postgresql":
        return _ConnectionClaim(study=study, engine=engine)
    return _NoClaim()


@dataclass(kw_only=True)
class _FileClaim:
    study: str
    lock: FileLock

    def take(self) -> None:
        if self.lock.is_locked:
            return
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise _refusal(self.study) from None

    def release(self) -> None:
        self.lock.release()


@dataclass(kw_only=True)
class _ConnectionClaim:
    study: str
    engine: Engine
    connection: Connection | None = field(default=None)

    def take(self) -> None:
        if self._is_held():
            return
        self.release()
        connection = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        connection.detach()  # the session's settings and its lock end with it
        self.connection = connection
        for setting in _NOTICE_A_DEAD_MACHINE:
            connection.execute(text(f"SET {setting}"))
        digest = hashlib.sha256(self.study.encode()).digest()
        key = int.from_bytes(digest[:8], "big", signed=True)
        if not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar():
            self.release()
            raise _refusal(self.study)

    def release(self) -> None:
        if self.connection is not None:
            with contextlib.suppress(SQLAlchemyError):  # the server may be gone: so is the lock
                self.connection.close()
        self.connection = None

    def _is_held(self) -> bool:
        if self.connection is None:
            return False
        try:
            return bool(self.connection.execute(text("SELECT true")).scalar())
        except SQLAlchemyError:
            return False


class _NoClaim:
    def take(self) -> None:
        pass

    def release(self) -> None:
        pass


def _refusal(study: str) -> BadInput:
    return BadInput(
        f"another search of study {study} is running: one at a time may write to it; wait for that one or end it, or "
        "choose another name with --study"
    )
