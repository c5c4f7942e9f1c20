"""A real HTTP proxy on loopback that does to chosen requests what networks and busy servers do.

Takes the address of a real server and a plan; gives an address that behaves as that server does, but for the faults.
"""

import http.client
import itertools
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

FAULTS = ("500", "502", "503", "slow-down", "reset", "drop-request", "drop-answer", "lost-answer", "corrupt", "hang")
"""The numbers: that status, unforwarded.  slow-down: S3's own 503.  reset: the connection, before anything is read.
drop-request: the connection breaks in the middle of the request's body.  drop-answer: in the middle of the answer.
lost-answer: the server did what it was asked, the answer is lost.  corrupt: one byte of the request's body arrives
otherwise.  hang: no answer until the proxy ends.  Beside them late: after LATE_SECONDS all goes well; and 403."""
LATE_SECONDS = 0.6
HOP_BY_HOP = {"connection", "expect", "keep-alive", "transfer-encoding"}
ANSWER_SECONDS = 30.0
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request that came: its number from 0, method, path with the query, and headers."""

    number: int
    method: str
    path: str
    headers: dict[str, str]


Plan = Callable[[Request], str | None]
"""Returns the fault that a request meets, or None."""


def every(step: int, *faults: str) -> Plan:
    """Return a plan by which every ``step``-th request meets the next of these faults, over and over."""
    endless, lock = itertools.cycle(faults), threading.Lock()

    def plan(request: Request) -> str | None:
        with lock:
            return next(endless) if request.number % step == step - 1 else None

    return plan


def first(number: int, fault: str, method: str = "", path: str = "") -> Plan:
    """Return a plan by which the first requests of this method, with this in their path, meet a fault."""
    left, lock = [number], threading.Lock()

    def plan(request: Request) -> str | None:
        if not request.method.startswith(method) or path not in request.path:
            return None
        with lock:
            left[0] -= 1
            return fault if left[0] >= 0 else None

    return plan


def always(fault: str) -> Plan:
    """Return a plan by which every request meets this fault."""
    return lambda request: fault


def never(request: Request) -> str | None:
    """Let every request pass: the plan of a proxy that does nothing."""
    return None


class FaultyServer(ThreadingHTTPServer):
    """The proxy; serves within a ``with``.

    Attributes:
        plan: which request meets which fault; may be exchanged at any time.
        requests, faults: what came, and what was done to it (request number, fault).
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream: str, plan: Plan = never) -> None:
        self.upstream, self.plan = upstream, plan
        self.requests: list[Request] = []
        self.faults: list[tuple[int, str]] = []
        self.ended = threading.Event()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    @property
    def endpoint(self) -> str:
        """Where the proxy listens: host and port."""
        return f"127.0.0.1:{self.server_address[1]}"

    def noted(self, method: str, path: str, headers: dict[str, str]) -> str | None:
        """Note a request and return the fault that it meets."""
        with self._lock:
            request = Request(number=len(self.requests), method=method, path=path, headers=headers)
            self.requests.append(request)
        fault = self.plan(request)
        if fault is not None:
            self.faults.append((request.number, fault))
        return fault

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: that connections break is what the proxy is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultyServer

    def _serve(self) -> None:
        fault = self.server.noted(self.command, self.path, dict(self.headers))
        if fault == "reset":
            return self._reset()
        if fault == "drop-request":
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            return self._reset()
        body = self._body()
        if fault == "hang":
            self.server.ended.wait()
            return self._reset()
        if fault in ("500", "502", "503", "slow-down", "403"):
            return self._refuse(fault)
        if fault == "late":
            self.server.ended.wait(LATE_SECONDS)
        if fault == "corrupt":
            body = _with_one_byte_changed(body)
        return self._forward(body, fault)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    def _refuse(self, fault: str) -> None:
        code = {"slow-down": "SlowDown", "500": "InternalError", "403": "AccessDenied"}.get(fault, "Unavailable")
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as planned</Message></Error>".encode()
        self.send_response(503 if fault == "slow-down" else int(fault))
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _forward(self, body: bytes, fault: str | None) -> None:
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=ANSWER_SECONDS)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP_BY_HOP | {"content-length"}:
                    upstream.putheader(name, value)
            if body or self.command in ("PUT", "POST"):
                upstream.putheader("Content-Length", str(len(body)))
            upstream.endheaders(body)
            answer = upstream.getresponse()
            content = answer.read()
        except OSError:
            return self._reset()
        finally:
            upstream.close()
        if fault == "lost-answer":
            return self._reset()
        return self._answer(answer, content, fault)

    def _answer(self, answer: http.client.HTTPResponse, content: bytes, fault: str | None) -> None:
        self.send_response_only(answer.status, answer.reason)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        for name, value in answer.getheaders():
            if name.lower() not in HOP_BY_HOP | {"content-length"}:
                self.send_header(name, value)
        if length is not None and answer.status != http.HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", length)
        self.end_headers()
        if fault == "drop-answer":
            self.wfile.write(content[: len(content) // 2])
            return self._reset()
        self.wfile.write(content)
        return None

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.connection.shutdown(socket.SHUT_RD)
        self.wfile.close()
        self.rfile.close()
        self.connection.close()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the standard library's name
        """Say nothing."""


def _with_one_byte_changed(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body
