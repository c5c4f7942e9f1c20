"""MLflow's tracking server on loopback: with accounts, its artifacts behind it.

Takes a folder, a port, where runs and artifacts are kept, and a password; gives a server.
"""

import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.stack.ports import LOOPBACK
from deploy.stack.server import Server

USER = "admin"
AUTHENTICATION_CACHE_SECONDS = 60
"""MLflow hashes the password anew on each request otherwise, which costs more than the request."""
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}


class MLflowServer(Server):
    """``mlflow server`` with basic authentication; artifacts pass through it, so clients need no keys for them."""

    name = "mlflow"
    start_seconds = 300.0  # 7 s on a quiet machine

    def __init__(
        self,
        folder: Path,
        *,
        port: int,
        password: str,
        runs: str,
        accounts: str,
        artifacts: str,
        needs: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(folder)
        self.port, self.password = port, password
        self._runs, self._accounts, self._artifacts = runs, accounts, artifacts
        self._needs = dict(needs or {})

    @property
    def uri(self) -> str:
        """Where clients find it."""
        return f"http://{LOOPBACK}:{self.port}"

    def credentials(self, password: str | None = None) -> dict[str, str]:
        """Return the account as MLflow's clients read it from the environment."""
        return {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": password or self.password}

    def make(self) -> None:
        """Write the settings of accounts; the first password comes from the environment."""
        (self.folder / "accounts.ini").write_text(
            "[mlflow]\ndefault_permission = READ\n"
            f"database_uri = {self._accounts}\nadmin_username = {USER}\n"
            f"auth_cache_ttl_seconds = {AUTHENTICATION_CACHE_SECONDS}\n"
        )
        key = self.folder / "session_key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_text(secrets.token_hex(32))

    def command(self) -> Sequence[str | Path]:
        """Return the command line, in which there is no secret."""
        return [
            sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", LOOPBACK,
            "--port", str(self.port), "--workers", "1", "--serve-artifacts",
            "--allowed-hosts", f"{LOOPBACK}:{self.port},localhost:{self.port}",
        ]  # fmt: skip

    def environment(self) -> Mapping[str, str]:
        """Name the databases and the account."""
        return {
            **QUIET,
            **self._needs,
            "MLFLOW_BACKEND_STORE_URI": self._runs,
            "MLFLOW_ARTIFACTS_DESTINATION": self._artifacts,
            "MLFLOW_AUTH_CONFIG_PATH": str(self.folder / "accounts.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": (self.folder / "session_key").read_text(),
        }

    def answers(self) -> bool:
        """Tell whether it is healthy."""
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=2.0).close()
        except OSError:
            return False
        return True
