"""A real MLflow server on loopback that can be killed and started anew, and a relay in front of it.

Takes a folder and a port; gives a URL.  The relay counts requests, and loses the answers that it is told to lose.
"""

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

START_SECONDS = 90.0


@dataclass(kw_only=True)
class MlflowServer:
    """A server on SQLite, its files in a folder; in a process group of its own."""

    folder: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db",
            "--artifacts-destination", str(self.folder / "artifacts"), "--serve-artifacts",
            "--allowed-hosts", self.host,
        ]  # fmt: skip
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**kept, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_until_healthy(self.process)

    def kill(self) -> None:
        """Kill the server with all its processes."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _wait_until_healthy(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=2.0).close()
            except OSError:
                time.sleep(0.2)
            else:
                return
        log = (self.folder / "log").read_text()[-2000:]
        raise RuntimeError(f"MLflow did not start within {START_SECONDS:.0f} s: {log}")


@dataclass
class Relay:
    """What went through, method and path; ``loses`` says by a request's number whether its answer is lost."""

    loses: Callable[[int], bool] = lambda _: False
    requests: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def relay_to(host: str) -> Iterator[Relay]:
    """Stand between a client and the server at ``host``."""
    relay = Relay()

    class Handler(BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            relay.requests.append(f"{self.command} {self.path.partition('?')[0]}")
            number = len(relay.requests)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server = http.client.HTTPConnection(host)
            headers = {**dict(self.headers.items()), "Host": host, "Accept-Encoding": "identity"}
            server.request(self.command, self.path, body, headers)
            answer = server.getresponse()
            content = answer.read()
            server.close()
            if relay.loses(number):
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on  # noqa: N815 - the names that the server calls

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        relay.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield relay
        finally:
            server.shutdown()
            thread.join()
