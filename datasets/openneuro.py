"""What of a public data set lies where: the BIDS files on OpenNeuro's bucket, the EEG in OpenfMRI's old archives.

Takes addresses; gives lists of remote files, unpacked archives, and the record of what was fetched.
"""

import dataclasses
import gzip
import json
import re
import secrets
import shutil
import tarfile
import urllib.parse
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from datasets.downloads import CHUNK_BYTES, Local, NotThere, Remote, ask
from datasets.errors import BadInput
from datasets.retries import first_line
from datasets.storage import write_whole

RECORD = "fetched.json"
UNPACKING = ".unpacking-"
UNPACKED_SHARE = 1.5
"""How much larger than its archive what was in it is, at a guess."""
_UNREADABLE_ARCHIVE = (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile)
_SUBJECT = re.compile(r"(?:sub-?)?0*(?P<number>[1-9]\d*)")


@dataclass(frozen=True, kw_only=True)
class PublicDataSet:
    """Where a data set lies, and what its archives are called.

    Attributes:
        source: address of the BIDS files: bucket and prefix on a server that speaks S3.
        legacy_source: address of the folder with the archives.
        num_subjects: how many subjects have an archive.
        archive: the name of a subject's archive, ``{subject}`` being the number.
        optional_archives: archives that are taken where they are there.
    """

    source: str
    legacy_source: str
    num_subjects: int
    archive: str
    optional_archives: tuple[str, ...] = ()


DATA_SETS = {
    "ds000116": PublicDataSet(
        source="https://s3.amazonaws.com/openneuro.org/ds000116/",
        legacy_source="https://openfmri.s3.amazonaws.com/tarballs/",
        num_subjects=17,
        archive="ds116_sub{subject:03d}.tgz",
        optional_archives=("ds116_metadata.tgz",),
    )
}


@dataclass(frozen=True, kw_only=True)
class Archive:
    """An archive that was fetched and unpacked: what it was, and the bytes of every file that was in it."""

    name: str
    bytes: int
    sha256: str
    etag: str
    files: Mapping[str, int]


@dataclass(kw_only=True)
class Fetched:
    """The record of what a folder was given, by name."""

    files: dict[str, Local] = field(default_factory=dict)
    archives: dict[str, Archive] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the record whole, sorted by name."""
        fields = {
            kind: [dataclasses.asdict(table[name]) for name in sorted(table)]
            for kind, table in (("files", self.files), ("archives", self.archives))
        }
        write_whole(folder / RECORD, (json.dumps(fields, indent=1) + "\n").encode())


def read_record(folder: Path) -> Fetched:
    """Return the record of a folder, empty where there is none."""
    path = folder / RECORD
    if not path.exists():
        return Fetched()
    try:
        fields = json.loads(path.read_bytes())
        return Fetched(
            files={each["name"]: Local(**each) for each in fields["files"]},
            archives={each["name"]: Archive(**each) for each in fields["archives"]},
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} is not as fetch wrote it; delete it: what is there is then checked anew") from error


def list_bucket(source: str) -> list[Remote]:
    """Return every file below an address on a server that speaks S3, sorted by name.

    Args:
        source: ``https://server/bucket/prefix/``.
    """
    parts = urllib.parse.urlsplit(source)
    bucket, _, prefix = parts.path.lstrip("/").partition("/")
    prefix = urllib.parse.unquote(prefix).rstrip("/") + "/" if prefix.strip("/") else ""
    if parts.scheme not in ("http", "https") or not bucket:
        raise BadInput(f"--source must be http(s)://SERVER/BUCKET/PREFIX/, but got {source}")
    base = f"{parts.scheme}://{parts.netloc}/{bucket}"
    found: list[Remote] = []
    token = ""
    while True:
        page = _page(base, prefix, token)
        found += [remote for item in page.iterfind("{*}Contents") if (remote := _remote(base, prefix, item))]
        token = page.findtext("{*}NextContinuationToken", "")
        if page.findtext("{*}IsTruncated") != "true" or not token:
            break
    if not found:
        raise BadInput(f"there are no files at {source}; check --source")
    return sorted(found, key=lambda remote: remote.name)


def list_archives(data_set: PublicDataSet, source: str, subjects: Sequence[int]) -> list[Remote]:
    """Return the archives of these subjects, and the optional ones that are there."""
    needed = [_head(source, data_set.archive.format(subject=number)) for number in subjects]
    optional = []
    for name in data_set.optional_archives:
        try:
            optional.append(_head(source, name))
        except NotThere:
            continue
    return needed + optional


def subject_numbers(data_set: PublicDataSet, given: Sequence[str] | None) -> list[int]:
    """Return the numbers of the subjects that are given as ``sub-01``, ``sub001`` or ``1``; all where none is."""
    if not given:
        return list(range(1, data_set.num_subjects + 1))
    found = [_SUBJECT.fullmatch(each) for each in given]
    numbers = sorted({int(each["number"]) for each in found if each})
    if not all(found) or numbers[-1] > data_set.num_subjects:
        raise BadInput(f"--subjects must be sub-01 to sub-{data_set.num_subjects:02d}, but got {' '.join(given)}")
    return numbers


def of_subjects(remotes: Sequence[Remote], numbers: Sequence[int]) -> list[Remote]:
    """Return the files of these subjects, and those that belong to no single one."""
    folders = {f"sub-{number:02d}" for number in numbers}
    top = {remote.name: remote.name.split("/")[0] for remote in remotes}
    return [each for each in remotes if not top[each.name].startswith("sub-") or top[each.name] in folders]


def is_unpacked(folder: Path, archive: Archive) -> bool:
    """Tell whether every file that was in the archive is there, with its size."""
    place = folder / place_of(archive.name)
    return all(_has_size(place / name, num_bytes) for name, num_bytes in archive.files.items())


def place_of(archive: str) -> str:
    """Return the name of the folder that an archive is unpacked into."""
    return PurePosixPath(archive).name.split(".")[0]


def unpack(folder: Path, local: Local) -> Archive:
    """Unpack an archive into a folder of its name, whole or not at all; BadInput where it cannot be, or is unsafe."""
    place = folder / place_of(local.name)
    temporary = folder / f"{UNPACKING}{place.name}-{secrets.token_hex(4)}"
    try:
        _extract(folder / local.name, temporary)
    except _UNREADABLE_ARCHIVE as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise BadInput(
            f"cannot unpack {folder / local.name}: {first_line(error)}; delete it and fetch it again"
        ) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    within = _own_folder(temporary, place.name)
    files = {
        path.relative_to(within).as_posix(): path.stat().st_size for path in sorted(within.rglob("*")) if path.is_file()
    }
    _put(within, place, files)
    shutil.rmtree(temporary, ignore_errors=True)
    return Archive(**dataclasses.asdict(local), files=files)


def remove_leftovers(folder: Path) -> None:
    """Delete what an unpacking that was killed left."""
    for path in folder.glob(f"{UNPACKING}*"):
        shutil.rmtree(path)


def check_room(folder: Path, num_bytes: int, free: Callable[[Path], int] | None = None) -> None:
    """Refuse to begin where the disk has no room for so many bytes."""
    room = (free or _free)(folder)
    if room < num_bytes:
        raise BadInput(
            f"{folder} needs {num_bytes / 1e9:.1f} GB, but its disk has {room / 1e9:.1f} GB free; "
            "free some space, choose another folder or fewer --subjects"
        )


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _page(base: str, prefix: str, token: str) -> ElementTree.Element:
    query = {"list-type": "2", "prefix": prefix} | ({"continuation-token": token} if token else {})
    url = f"{base}?{urllib.parse.urlencode(query)}"
    body, _ = ask(url)
    try:
        page = ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise BadInput(f"{url} is no list of files as S3 gives one ({error}); check --source") from error
    if not page.tag.endswith("ListBucketResult"):
        raise BadInput(f"{url} is no list of files as S3 gives one; check --source")
    return page


def _remote(base: str, prefix: str, item: ElementTree.Element) -> Remote | None:
    key = item.findtext("{*}Key", "")
    name = key.removeprefix(prefix)
    if not name or name.endswith("/"):
        return None
    return Remote(
        name=_safe(name),
        url=f"{base}/{urllib.parse.quote(key)}",
        bytes=int(item.findtext("{*}Size", "0")),
        etag=item.findtext("{*}ETag", "").strip('"'),
    )


def _head(source: str, name: str) -> Remote:
    url = urllib.parse.urljoin(source.rstrip("/") + "/", name)
    _, headers = ask(url, "HEAD")
    num_bytes = headers.get("Content-Length")
    if num_bytes is None:
        raise BadInput(f"{url} does not tell its size; check --legacy-source")
    return Remote(name=name, url=url, bytes=int(num_bytes), etag=headers.get("ETag", "").strip('"'))


def _safe(name: str) -> str:
    """Return a name that stays within the folder; BadInput for one that would leave it."""
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        raise BadInput(f"the list of files names {name!r}, which would lie outside the folder; check --source")
    return name


def _extract(archive: Path, folder: Path) -> None:
    """Unpack and read on to the very end, where the checksum of the whole stands."""
    with gzip.open(archive) as stream:
        with tarfile.open(fileobj=stream, mode="r|") as members:
            for member in members:
                _extract_member(members, member, folder)
        while stream.read(CHUNK_BYTES):
            pass


def _extract_member(members: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Write a file or a folder of an archive; TarError for what is neither, or would lie elsewhere.

    By hand: Python before 3.11.4 has no filter of its own for what an archive may do.
    """
    name = PurePosixPath(member.name.lstrip("/"))
    if ".." in name.parts:
        raise tarfile.TarError(f"{member.name!r} would lie outside the folder")
    content = members.extractfile(member) if member.isreg() else None
    if member.isdir():
        (folder / name).mkdir(parents=True, exist_ok=True)
        return
    if content is None:
        raise tarfile.TarError(f"{member.name!r} is neither a file nor a folder")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with content, (folder / name).open("wb") as file:
        shutil.copyfileobj(content, file)


def _own_folder(temporary: Path, name: str) -> Path:
    """Return the folder that an archive's files are below: its own name may stand in it once more."""
    inner = list(temporary.iterdir())
    return inner[0] if [each.name for each in inner] == [name] and inner[0].is_dir() else temporary


def _put(within: Path, place: Path, files: Mapping[str, int]) -> None:
    """Give what was unpacked its name; what lies there already must be the same."""
    if not place.exists():
        within.replace(place)
        return
    if not all(_has_size(place / name, num_bytes) for name, num_bytes in files.items()):
        shutil.rmtree(within)
        raise BadInput(f"{place} is there, but not as in the archive; move it away and run the same command again")


def _has_size(path: Path, num_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == num_bytes
