"""Where bytes lie: local folders and object storage under one name, a URI.

Takes a local path, an ``s3://`` URI (with pyarrow's query options, as ``?scheme=http&endpoint_override=...``) or a
``gs://`` URI; gives bytes and files there.  A file appears whole or not at all; on object storage what may pass (a busy
server, a broken connection) is tried again for about a minute, and what was written is compared with what is stored.
"""

import base64
import contextlib
import errno
import hashlib
import os
import re
import secrets
import time
import urllib.parse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import platformdirs
import pyarrow as pa
from pyarrow import fs

from datasets.errors import BadInput
from datasets.object_storage import (
    ONE_PUT_BYTES,
    PART_BYTES,
    SCHEMES,
    WrongContent,
    advice,
    keys_in,
    may_pass,
    open_object_folder,
)
from datasets.redaction import without_passwords
from datasets.retries import Patience, first_line, persist

CLAIM_SECONDS = 20.0
CLAIM_WAIT_SECONDS = 0.2
_NO_HARD_LINKS = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK)

Result = TypeVar("Result")


class StorageUnusable(BadInput):
    """The storage refuses, or did not answer for as long as one waits: no fault of what was to be written or read."""


def home_folder() -> Path:
    """Return the absolute folder of everything that must last and was given no other place."""
    return Path(os.environ.get("EEG2FMRI_HOME") or platformdirs.user_data_dir("eeg2fmri")).expanduser().absolute()


@dataclass(frozen=True, kw_only=True)
class Storage:
    """A folder on a file system that pyarrow reads and writes.

    Attributes:
        uri: without credentials, for messages and records.
        filesystem, multipart: what reaches the folder, and what large files are written with.
        root: the folder's path in the file systems.
        patience: how long to go on trying where it is object storage.
    """

    uri: str
    filesystem: fs.FileSystem
    multipart: fs.FileSystem
    root: str
    patience: Patience = field(default_factory=Patience)

    @property
    def is_local(self) -> bool:
        """Whether only this node (or what shares its disks) sees the folder."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def path(self, name: str) -> str:
        """Return the path of a file below the folder, as the file system wants it."""
        return f"{self.root}/{name}" if name else self.root

    def exists(self, name: str) -> bool:
        """Tell whether a file is there."""
        return self._info(name).type == fs.FileType.File

    def size(self, name: str) -> int:
        """Return a file's size in bytes; FileNotFoundError where there is none."""
        found = self._info(name)
        if found.type != fs.FileType.File:
            self._check_bucket()
            raise FileNotFoundError(f"no file {name} at {self.uri}")
        return int(found.size)

    def read(self, name: str) -> bytes:
        """Return a file's bytes; FileNotFoundError where there is none."""
        try:
            return self._persist("read", lambda: self._get(name))
        except FileNotFoundError:
            self._check_bucket()
            raise

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write a file whole: on a disk under a temporary name, flushed, renamed; on object storage as one object.

        What object storage then holds is compared with the content: by the server's own MD5 where it tells one, else
        by reading it back.

        Raises:
            StorageUnusable: where object storage refuses, or goes on failing; then no part of the content is visible.
            OSError: where the disk is full or may not be written.
        """
        if self.is_local:
            write_whole(Path(self.path(name)), content)
            return
        whole = pa.py_buffer(content)
        self._persist("write to", lambda: self._put_and_check(name, whole))

    def remove(self, name: str) -> None:
        """Delete a file, if it is there: a deletion whose answer was lost is tried again."""
        self._persist("delete from", lambda: self._delete(name))

    def names(self, folder: str = "") -> list[str]:
        """Return the names of all files below a folder, relative to the storage's own folder, sorted.

        A name that starts with a dot is left out: a killed write leaves its temporary file under such a name.
        """
        files = (item for item in self._list(folder, recursive=True) if not item.base_name.startswith("."))
        return sorted(item.path[len(self.root) + 1 :] for item in files)

    def _list(self, folder: str, *, recursive: bool) -> list[fs.FileInfo]:
        selector = fs.FileSelector(self.path(folder), recursive=recursive, allow_not_found=True)
        found = self._persist("list", lambda: self.filesystem.get_file_info(selector))
        return [item for item in found if item.type == fs.FileType.File]

    def _info(self, name: str) -> fs.FileInfo:
        return self._persist("reach", lambda: self.filesystem.get_file_info(self.path(name)))

    def _get(self, name: str) -> bytes:
        with self.filesystem.open_input_file(self.path(name)) as stream:
            size = stream.size()
            content = bytes(stream.read())
        if len(content) != size:
            raise WrongContent(f"{name} has {size} bytes, but only {len(content)} came")
        return content

    def _put_and_check(self, name: str, content: pa.Buffer) -> None:
        """Write one object and compare it; in a thread of its own, as no Ctrl-C may come before the content does.

        pyarrow closes a stream that is left early, and so writes a file of what it was given until then.
        """
        with ThreadPoolExecutor(max_workers=1) as uninterrupted:
            uninterrupted.submit(self._put, name, content).result()
        if not self._holds(name, content):
            raise WrongContent(
                f"what is stored as {name} is not what was written; another program may be writing there"
            )

    def _put(self, name: str, content: pa.Buffer) -> None:
        filesystem = self.multipart if content.size > ONE_PUT_BYTES else self.filesystem
        with filesystem.open_output_stream(self.path(name)) as stream:
            stream.write(content)

    def _holds(self, name: str, content: pa.Buffer) -> bool:
        with self.filesystem.open_input_stream(self.path(name)) as stream:
            told = {key.lower(): value for key, value in stream.metadata().items()}
        tag = told.get("etag", b"").strip(b'"').decode()
        if tag in _tags(content) or told.get("md5hash") == base64.b64encode(_md5(content)):
            return True
        return self._get(name) == content.to_pybytes()

    def _delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(self.path(name))

    def _check_bucket(self) -> None:
        """Refuse a bucket that is not there: without it no file is, and nothing can be written."""
        if self.is_local:
            return
        bucket = self.root.split("/")[0]
        try:
            found = self.filesystem.get_file_info(bucket).type
        except (OSError, pa.ArrowException):  # whoever may not ask still may read
            return
        if found == fs.FileType.NotFound:
            raise StorageUnusable(f"there is no bucket {bucket} for {self.uri}: create it, or check the URI")

    def _persist(self, verb: str, call: Callable[[], Result]) -> Result:
        began = time.monotonic()
        try:
            return persist(call, may_pass=may_pass, patience=self.patience)
        except FileNotFoundError as error:
            if verb == "read":
                raise
            raise self._unusable(verb, error, began) from error
        except (OSError, pa.ArrowException) as error:
            raise self._unusable(verb, error, began) from error

    def _unusable(self, verb: str, error: Exception, began: float) -> StorageUnusable:
        tried = f" (tried for {time.monotonic() - began:.0f} s)" if may_pass(error) else ""
        return StorageUnusable(f"cannot {verb} {self.uri}{tried}: {first_line(error)}; {advice(error)}")


def open_storage(uri: str | os.PathLike[str], patience: Patience | None = None) -> Storage:
    """Open a local folder (which need not exist yet), an ``s3://`` or a ``gs://`` URI."""
    text = os.fspath(uri)
    patience = patience or Patience()
    scheme = text.split("://", 1)[0] if "://" in text else "file"
    if scheme not in (*SCHEMES, "file"):
        raise BadInput(f"a URI must be a local folder or start with s3://, gs:// or file://, but got {text}")
    if scheme != "file":
        shown = without_secrets(text)
        place = open_object_folder(text, shown)
        return Storage(
            uri=shown, filesystem=place.filesystem, multipart=place.multipart, root=place.root, patience=patience
        )
    path = urllib.parse.unquote(text.removeprefix("file://"))
    folder = str(Path(path).expanduser().absolute())
    if Path(folder).is_file():
        raise BadInput(f"{folder} is a file; give a folder")
    disk = fs.LocalFileSystem()
    return Storage(uri=folder, filesystem=disk, multipart=disk, root=folder, patience=patience)


def claim(storage: Storage, name: str, content: bytes, *, seconds: float = CLAIM_SECONDS) -> bytes:
    """Write a small file if none is there, and return what is there in the end: of several writers one wins.

    On a disk the file is linked into place, which succeeds once; where the file system has no hard links it is created
    exclusively, and a writer killed in that moment leaves it short.

    On object storage, where pyarrow cannot ask for "only if none is there", each writer lays down a candidate of its
    own and then lists them all.  Who sees no candidate of other content writes the file; of those who see each other,
    all but the first by name withdraw.  Two writers cannot overlook each other where a listing shows whatever was
    written before it, as AWS, Google and MinIO promise; on a store that does not promise it, two writers within the
    delay of its listings may both win.  So may they where someone deletes candidates.

    Raises:
        StorageUnusable: where a candidate of other content stays for ``seconds`` without becoming the file.
    """
    if storage.is_local:
        return _claim_on_disk(Path(storage.path(name)), content)
    candidate = _Candidate(storage=storage, name=name, content=content)
    try:
        return candidate.settle(seconds)
    finally:
        candidate.withdraw()


@dataclass(kw_only=True)
class _Candidate:
    """What one writer lays down beside a file that it would like to write."""

    storage: Storage
    name: str
    content: bytes
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    lies_there: bool = False

    @property
    def prefix(self) -> str:
        """How the names of all candidates for the file begin."""
        return f".{self.name.rpartition('/')[2]}.claim-"

    @property
    def like(self) -> str:
        """How the names of all candidates with the same content begin."""
        return f"{self.prefix}{hashlib.sha256(self.content).hexdigest()[:16]}-"

    def settle(self, seconds: float) -> bytes:
        """Wait until the file is there, or this writer is the one to write it; return the file's content."""
        folder, _, base = self.name.rpartition("/")
        own = self.like + self.token
        end = time.monotonic() + seconds
        while True:
            found = {item.base_name for item in self.storage._list(folder, recursive=False)}
            others = sorted(each for each in found if each.startswith(self.prefix) and not each.startswith(self.like))
            if base in found or self.storage.exists(self.name):
                return self.storage.read(self.name)
            if not others and self.lies_there and own in found:
                self.storage.write(self.name, self.content)
                return self.content
            if not others:
                self.lay()
            elif others[0] < own:
                self.withdraw()
            if time.monotonic() > end:
                raise StorageUnusable(
                    f"{others[0] if others else own} at {self.storage.uri} says that something else began {self.name} "
                    "but did not end; where nothing is running there, delete that file and run the same command again"
                )
            time.sleep(CLAIM_WAIT_SECONDS if others else 0)

    def lay(self) -> None:
        """Write the candidate."""
        self.storage.write(self._place, self.content)
        self.lies_there = True

    def withdraw(self) -> None:
        """Delete the candidate, where it was written."""
        if self.lies_there:
            self.storage.remove(self._place)
        self.lies_there = False

    @property
    def _place(self) -> str:
        folder, separator, _ = self.name.rpartition("/")
        return f"{folder}{separator}{self.like}{self.token}"


def without_secrets(uri: str) -> str:
    """Return the URI, or several with commas between, without the credentials they may carry, for messages.

    Credentials whose ``/`` or ``?`` were not written as ``%2F`` or ``%3F`` are taken out as well.
    """
    several = re.split(r",(?=\w+://)", uri)
    if len(several) > 1:
        return ",".join(map(without_secrets, several))
    scheme, separator, rest = without_passwords(uri).partition("://")
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in host:
        return scheme + separator + host.rpartition("@")[2] + rest[len(host) :]
    return scheme + separator + (rest.rpartition("@")[2] if ":" in host else rest)


def has_keys(uri: str) -> bool:
    """Tell whether a URI is one of ``s3://`` that holds keys."""
    return keys_in(uri) is not None


def keys_to_environment(uris: Sequence[str]) -> list[str]:
    """Return URIs without the keys that ``s3://`` ones among them hold, which then stand in this process's environment.

    Raises:
        BadInput: where two of them hold different keys.
    """
    held = {keys for keys in map(keys_in, uris) if keys is not None}
    if len(held) > 1:
        raise BadInput(
            f"{' and '.join(map(without_secrets, uris))} hold different keys; give all of them one pair, best in "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    for key, secret in held:
        os.environ.update(AWS_ACCESS_KEY_ID=key, AWS_SECRET_ACCESS_KEY=secret)
        os.environ.pop("AWS_SESSION_TOKEN", None)  # another pair's
    return [uri if keys_in(uri) is None else without_secrets(uri) for uri in uris]


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a local file so that it is there whole or not at all, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        error.filename = error.filename or str(path)  # a full disk does not say where it is
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _flush_folder(folder: Path) -> None:
    """Make a renaming last: it is a change of the folder, not of the file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _claim_on_disk(path: Path, content: bytes) -> bytes:
    if not path.exists():
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        write_whole(temporary, content)
        try:
            _link(temporary, path)
            _flush_folder(path.parent)
        finally:
            temporary.unlink()
    return path.read_bytes()


def _link(temporary: Path, path: Path) -> None:
    """Give a file its final name unless there is one of that name."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _create(path, temporary.read_bytes())


def _create(path: Path, content: bytes) -> None:
    try:
        with path.open("xb") as stream:
            stream.write(content)
    except FileExistsError:
        return


def _tags(content: pa.Buffer) -> tuple[str, str]:
    """Return the ETags that S3 gives to this content when it comes in one piece, and in pyarrow's parts."""
    starts = range(0, max(content.size, 1), PART_BYTES)
    parts = b"".join(_md5(content[start : start + PART_BYTES]) for start in starts)
    return _md5(content).hex(), f"{_md5(parts).hex()}-{len(starts)}"


def _md5(content: bytes | pa.Buffer) -> bytes:
    return hashlib.md5(content, usedforsecurity=False).digest()
