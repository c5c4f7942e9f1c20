"""Files from web servers onto a disk: resumable, checked, several at once.

Takes what lies where and what is known of it; gives files that are whole, and what was found of each.
"""

import hashlib
import http.client
import logging
import os
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.errors import BadInput
from datasets.retries import Patience, first_line, persist

logger = logging.getLogger(__name__)

SILENT_SECONDS = 20.0
PROGRESS_SECONDS = 10.0
CHUNK_BYTES = 1024**2
WHOLE_FILES = 3
"""How often a file whose checksum is wrong is fetched anew."""
MAY_PASS = (408, 425, 429, 500, 502, 503, 504)
NO_SUCH_RANGE, PARTIAL = 416, 206
AGENT = "eeg2fmri-platform (python -m datasets.fetch)"
_ANNEX_KEY = re.compile(r"(?P<kind>MD5|SHA256)E?-s(?P<bytes>\d+)--(?P<digest>[0-9a-f]+)(?:\.[A-Za-z0-9.]*)?")
_PLAIN_MD5 = re.compile(r"[0-9a-f]{32}")
_RANGE = re.compile(r"bytes (?P<start>\d+)-\d+/(?P<total>\d+|\*)")


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file on a web server.

    Attributes:
        name: where it goes, relative to the folder of all files.
        url, bytes, etag: where it is, and what the server says of it; an ETag of 32 hexadecimal digits is its MD5.
    """

    name: str
    url: str
    bytes: int
    etag: str


@dataclass(frozen=True, kw_only=True)
class Digest:
    """A checksum and a size that are known from elsewhere: ``kind`` is md5 or sha256."""

    kind: str
    hexadecimal: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Local:
    """A file that is whole and was checked."""

    name: str
    bytes: int
    sha256: str
    etag: str


class NotThere(BadInput):
    """The server has no such file, or shows it to nobody."""


class Unreachable(BadInput):
    """Nothing came for as long as one waits."""


class Stopped(Exception):  # noqa: N818 - it is no error
    """The downloads were told to end."""


def ask(url: str, method: str = "GET", patience: Patience | None = None) -> tuple[bytes, Any]:
    """Return the body and the headers of an answer; BadInput where there is none for as long as one waits."""
    request = urllib.request.Request(url, method=method, headers={"User-Agent": AGENT})

    def once() -> tuple[bytes, Any]:
        with _open(request) as answer:
            return answer.read(), answer.headers

    try:
        return persist(once, may_pass=may_pass, patience=patience or Patience())
    except (OSError, http.client.HTTPException) as error:
        raise _refusal(url, error) from error


def may_pass(error: Exception) -> bool:
    """Tell whether the same request may well succeed a little later."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in MAY_PASS
    if isinstance(error, urllib.error.URLError):
        return not isinstance(error.reason, ssl.SSLCertVerificationError)
    return isinstance(error, (ConnectionError, TimeoutError, http.client.HTTPException))


def known_digest(path: Path) -> Digest | None:
    """Return what a git-annex link says of its file: a clone of OpenNeuro's repository holds links without content."""
    if not path.is_symlink():
        return None
    return annex_digest(path.readlink().name)


def annex_digest(key: str) -> Digest | None:
    """Return the checksum in a git-annex key such as ``MD5E-s30575877--57bc58de...nii.gz``."""
    found = _ANNEX_KEY.fullmatch(key)
    if found is None:
        return None
    return Digest(kind=found["kind"].lower(), hexadecimal=found["digest"], bytes=int(found["bytes"]))


def fault_of(remote: Remote, path: Path, known: Digest | None = None) -> tuple[str, str]:
    """Return what is wrong with a file, empty where nothing is, and its SHA-256."""
    size = path.stat().st_size
    if size != remote.bytes:
        return f"it has {size} bytes, not {remote.bytes}", ""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            sha256.update(chunk)
            md5.update(chunk)
    found = {"md5": md5.hexdigest(), "sha256": sha256.hexdigest()}
    if known is not None and (known.bytes, known.hexadecimal) != (size, found[known.kind]):
        return f"its {known.kind.upper()} is {found[known.kind]}, git-annex says {known.hexadecimal}", ""
    if _PLAIN_MD5.fullmatch(remote.etag) and remote.etag != found["md5"]:
        return f"its MD5 is {found['md5']}, the server says {remote.etag}", ""
    return "", found["sha256"]


class Downloads:
    """Fetches files into a folder, several at once; ends soon when told to.

    A file grows under a hidden name that ends in ``.part``; beside it stands the ETag of what it is a part of.
    """

    def __init__(self, folder: Path, connections: int, patience: Patience | None = None) -> None:
        self.folder = folder
        self.patience = patience or Patience()
        self._connections = connections
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._came, self._last_came = 0, time.monotonic()

    def fetch_all(self, remotes: Sequence[Remote]) -> Generator[Local | BadInput, None, None]:
        """Yield each file as it is whole, or why it could not be fetched; says how far it is.

        Where nothing comes on any connection, those after the first are not tried in vain.

        Raises:
            OSError: where the disk is full or may not be written.
        """
        total, began, reported = sum(map(self._missing, remotes)), time.monotonic(), time.monotonic()
        with ThreadPoolExecutor(max_workers=self._connections) as pool:
            waiting: set[Future[Local]] = {pool.submit(self.fetch, remote) for remote in remotes}
            try:
                while waiting:
                    done, waiting = wait(waiting, PROGRESS_SECONDS, FIRST_COMPLETED)
                    for future in done:
                        result = _result(future)
                        yield result
                        if isinstance(result, Unreachable) and self._is_silent():
                            return
                    if time.monotonic() - reported > PROGRESS_SECONDS:
                        reported = time.monotonic()
                        logger.info(progress(self._came, total, reported - began, len(waiting)))
            finally:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)

    def fetch(self, remote: Remote) -> Local:
        """Fetch one file and check it; BadInput where it cannot be had or its checksum stays wrong."""
        path = self.folder / remote.name
        path.parent.mkdir(parents=True, exist_ok=True)
        part, known = part_of(path), known_digest(path)
        try:
            for _ in range(WHOLE_FILES):
                self._complete(remote, part)
                fault, sha256 = fault_of(remote, part, known)
                if not fault:
                    _finish(part, path)
                    return Local(name=remote.name, bytes=remote.bytes, sha256=sha256, etag=remote.etag)
                logger.info("%s: %s; fetching it again", remote.name, fault)
                _forget(part)
        except (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException) as error:
            raise _refusal(remote.url, error) from error
        raise BadInput(f"{remote.url}: {fault}; it was fetched {WHOLE_FILES} times: try again later")

    def _complete(self, remote: Remote, part: Path) -> None:
        """Go on with a part until it is as long as the file; every byte that comes renews the patience."""
        _begin(part, remote.etag)
        while part.stat().st_size < remote.bytes:
            persist(lambda: self._continue(remote, part), may_pass=self._is_worth_trying, patience=self.patience)

    def _continue(self, remote: Remote, part: Path) -> None:
        """Append what one request gives; an answer that breaks off counts as good where anything came."""
        start = part.stat().st_size
        headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
        if start:
            headers |= {"Range": f"bytes={start}-"} | ({"If-Range": f'"{remote.etag}"'} if remote.etag else {})
        with part.open("r+b") as stream:
            try:
                with _open(urllib.request.Request(remote.url, headers=headers)) as answer:
                    stream.seek(_start_of(answer, remote))
                    stream.truncate()
                    self._receive(answer, stream, remote.bytes - stream.tell())
            except urllib.error.HTTPError as error:
                if error.code != NO_SUCH_RANGE:
                    raise
                stream.truncate(0)
            except (ConnectionError, TimeoutError, http.client.HTTPException):
                if stream.tell() <= start:
                    raise
        if part.stat().st_size <= start:
            raise ConnectionError(f"{remote.url} gave nothing beyond byte {start}")

    def _receive(self, answer: Any, stream: Any, num_bytes: int) -> None:  # noqa: ANN401 - file objects
        while num_bytes > 0 and (chunk := answer.read1(min(CHUNK_BYTES, num_bytes))):
            if self._stop.is_set():
                raise Stopped
            stream.write(chunk)
            num_bytes -= len(chunk)
            with self._lock:
                self._came, self._last_came = self._came + len(chunk), time.monotonic()

    def _is_worth_trying(self, error: Exception) -> bool:
        return may_pass(error) and not self._stop.is_set()

    def _is_silent(self) -> bool:
        return time.monotonic() - self._last_came >= self.patience.seconds

    def _missing(self, remote: Remote) -> int:
        return remote.bytes - size_of(part_of(self.folder / remote.name))


def part_of(path: Path) -> Path:
    """Return where a file grows."""
    return path.with_name(f".{path.name}.part")


def size_of(path: Path) -> int:
    """Return a file's size, 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def progress(came: int, total: int, seconds: float, files: int) -> str:
    """Return how far the downloads are, how fast they go and how long they still take."""
    rate = came / seconds if seconds > 0 else 0.0
    left = f"{duration((total - came) / rate)} left" if rate > 0 else "waiting for the server"
    return f"{gigabytes(came)} of {gigabytes(total)}, {files} files to go, {rate / 1e6:.1f} MB/s, {left}"


def duration(seconds: float) -> str:
    """Return seconds in words, as "3 min"."""
    minutes = round(max(seconds, 0) / 60)
    if minutes < 1:
        return "less than a minute"
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"  # noqa: PLR2004


def gigabytes(num_bytes: float) -> str:
    """Return a size in words, as "1.23 GB"."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"  # noqa: PLR2004


def _open(request: urllib.request.Request) -> Any:  # noqa: ANN401 - urllib's answer
    try:
        return urllib.request.urlopen(request, timeout=SILENT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        raise


def _start_of(answer: Any, remote: Remote) -> int:  # noqa: ANN401 - urllib's answer
    """Return the byte at which an answer begins: 0 where the server sends the whole file."""
    if answer.status != PARTIAL:
        return 0
    found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if found is None or found["total"] not in ("*", str(remote.bytes)):
        raise http.client.HTTPException(f"{remote.url} answers with a range that was not asked for")
    return int(found["start"])


def _begin(part: Path, etag: str) -> None:
    """Keep a part only where it is one of the same file."""
    of = part.with_suffix(".etag")
    if not part.exists() or not of.exists() or of.read_text() != etag:
        part.write_bytes(b"")
        of.write_text(etag)


def _finish(part: Path, path: Path) -> None:
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    part.replace(path)
    _forget(part)


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_suffix(".etag").unlink(missing_ok=True)


def _result(future: "Future[Local]") -> Local | BadInput:
    try:
        return future.result()
    except BadInput as error:
        return error


def _refusal(url: str, error: Exception) -> BadInput:
    message = f"cannot fetch {url}: {first_line(error)}"
    if may_pass(error):
        return Unreachable(f"{message}; see that this machine reaches it, then run the same command again")
    kind = NotThere if isinstance(error, urllib.error.HTTPError) else BadInput
    return kind(f"{message}; check the address (--source, --legacy-source)")
