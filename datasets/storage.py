"""Where bytes lie: local folders and object storage under one name, a URI.

Takes a local path or an ``s3://`` URI (with pyarrow's query options, as ``?scheme=http&endpoint_override=...``);
gives bytes and files there.  A file appears whole or not at all.
"""

import os
import re
import secrets
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import pyarrow as pa
from pyarrow import fs

from datasets.errors import BadInput

SCHEMES = ("s3", "file")
ONE_PUT = "allow_delayed_open=true"  # pyarrow then sends a small file in one request instead of three


def home_folder() -> Path:
    """Return the absolute folder of everything that must last and was given no other place."""
    return Path(os.environ.get("EEG2FMRI_HOME") or platformdirs.user_data_dir("eeg2fmri")).expanduser().absolute()


@dataclass(frozen=True, kw_only=True)
class Storage:
    """A folder on a file system that pyarrow reads and writes."""

    uri: str
    filesystem: fs.FileSystem
    root: str

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
            raise FileNotFoundError(f"no file {name} at {self.uri}")
        return int(found.size)

    def read(self, name: str) -> bytes:
        """Return a file's bytes; FileNotFoundError where there is none."""
        try:
            with self.filesystem.open_input_file(self.path(name)) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise self._unusable("read", error) from error

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write a file whole: on a disk under a temporary name, flushed, renamed; on object storage as one object."""
        if self.is_local:
            write_whole(Path(self.path(name)), content)
            return
        whole = pa.py_buffer(content)  # what is no bytes must fail here: closing the stream would leave an empty file
        try:
            with self.filesystem.open_output_stream(self.path(name)) as stream:
                stream.write(whole)
        except (OSError, pa.ArrowException) as error:
            raise self._unusable("write to", error) from error

    def names(self, folder: str = "") -> list[str]:
        """Return the names of all files below a folder, relative to the storage's own folder, sorted.

        A name that starts with a dot is left out: a killed write leaves its temporary file under such a name.
        """
        selector = fs.FileSelector(self.path(folder), recursive=True, allow_not_found=True)
        try:
            found = self.filesystem.get_file_info(selector)
        except (OSError, pa.ArrowException) as error:
            raise self._unusable("list", error) from error
        files = (item for item in found if item.type == fs.FileType.File and not item.base_name.startswith("."))
        return sorted(item.path[len(self.root) + 1 :] for item in files)

    def _info(self, name: str) -> fs.FileInfo:
        try:
            return self.filesystem.get_file_info(self.path(name))
        except (OSError, pa.ArrowException) as error:
            raise self._unusable("reach", error) from error

    def _unusable(self, verb: str, error: BaseException) -> BadInput:
        return BadInput(f"cannot {verb} {self.uri}: {_first_line(error)}; check the URI and the credentials")


def open_storage(uri: str | os.PathLike[str]) -> Storage:
    """Open a local folder (which need not exist yet) or an ``s3://`` URI."""
    text = os.fspath(uri)
    scheme = text.split("://", 1)[0] if "://" in text else "file"
    if scheme not in SCHEMES:
        raise BadInput(f"a URI must be a local folder or start with s3:// or file://, but got {text}")
    if scheme == "file":
        path = urllib.parse.unquote(text.removeprefix("file://"))
        folder = str(Path(path).expanduser().absolute())
        if Path(folder).is_file():
            raise BadInput(f"{folder} is a file; give a folder")
        return Storage(uri=folder, filesystem=fs.LocalFileSystem(), root=folder)
    shown = without_secrets(text)
    request = text if ONE_PUT in text else text + ("&" if "?" in text else "?") + ONE_PUT
    try:
        filesystem, root = fs.FileSystem.from_uri(request)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BadInput(f"cannot open {shown}: {_first_line(error).replace(request, shown)}") from error
    return Storage(uri=shown, filesystem=filesystem, root=root.rstrip("/"))


def without_secrets(uri: str) -> str:
    """Return the URI without the credentials it may carry, for messages and records.

    Credentials whose ``/`` or ``?`` were not written as ``%2F`` or ``%3F`` are taken out as well.
    """
    scheme, separator, rest = uri.partition("://")
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in host:
        return scheme + separator + host.rpartition("@")[2] + rest[len(host) :]
    return scheme + separator + (rest.rpartition("@")[2] if ":" in host else rest)


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


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
