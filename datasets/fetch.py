"""``python -m datasets.fetch ds000116 RAW``: download the public files, check and unpack them, resumable.

Arguments and order only: ``datasets.openneuro`` knows what lies where, ``datasets.downloads`` how to get it.
"""

import argparse
import logging
from collections.abc import Sequence, Set
from contextlib import closing
from pathlib import Path

from filelock import FileLock, Timeout

from datasets.command_line import CommandParser, positive_integer, run_command
from datasets.downloads import Downloads, Local, Remote, fault_of, gigabytes, known_digest, part_of, size_of
from datasets.errors import BadInput
from datasets.openneuro import (
    DATA_SETS,
    UNPACKED_SHARE,
    Fetched,
    check_room,
    is_unpacked,
    list_archives,
    list_bucket,
    of_subjects,
    read_record,
    remove_leftovers,
    subject_numbers,
    unpack,
)

logger = logging.getLogger(__name__)

PARTS = ("both", "bids", "eeg")
LOCK = ".fetch.lock"
SHOWN_FAULTS = 5


def main() -> None:
    """Fetch what the folder lacks, and write down what it was given."""
    arguments = parse_arguments()
    files, archives = listed(arguments)
    if arguments.dry_run:
        print(described(files + archives))
        return
    arguments.raw.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(arguments.raw / LOCK, timeout=0):
            fetch(arguments.raw, files, archives, connections=arguments.connections, keep=arguments.keep_archives)
    except Timeout as error:
        raise BadInput(f"another fetch is writing to {arguments.raw}; wait for it, or end it") from error
    print(f"{len(files)} files and {len(archives)} archives are whole, at {arguments.raw}")
    print(f"next: python -m datasets.prepare {arguments.raw} SHARDS")


def parse_arguments() -> argparse.Namespace:
    """Parse the command line and the environment."""
    parser = CommandParser(
        prog="python -m datasets.fetch",
        description="Download a public data set, check every file and unpack its archives.\n"
        "The same command goes on where it stopped.",
    )
    add = parser.add_option
    parser.add_argument("data_set", choices=sorted(DATA_SETS), help="which data set")
    parser.add_argument("raw", type=Path, metavar="RAW", help="folder that the files go to")
    add("--subjects", nargs="+", metavar="SUBJECT", help="only these, as sub-01")
    add(
        "--parts",
        choices=PARTS,
        default="both",
        help="bids: the images and events; eeg: the archives that hold the EEG",
    )
    add("--source", metavar="URL", help="where the BIDS files are (else OpenNeuro's bucket)")
    add("--legacy-source", metavar="URL", help="where the archives are (else OpenfMRI's bucket)")
    add("--connections", type=positive_integer, default=4, metavar="N", help="downloads at once")
    add("--keep-archives", action="store_true", help="keep an archive after it was unpacked")
    add("--dry-run", action="store_true", help="only list what there is, with sizes")
    return parser.parse_args()


def listed(arguments: argparse.Namespace) -> tuple[list[Remote], list[Remote]]:
    """Return the files and the archives that the arguments ask for."""
    data_set = DATA_SETS[arguments.data_set]
    numbers = subject_numbers(data_set, arguments.subjects)
    files, archives = [], []
    if arguments.parts != "eeg":
        files = of_subjects(list_bucket(arguments.source or data_set.source), numbers)
    if arguments.parts != "bids":
        archives = list_archives(data_set, arguments.legacy_source or data_set.legacy_source, numbers)
    return files, archives


def described(remotes: Sequence[Remote]) -> str:
    """Return each file with its size, and the sum."""
    lines = [f"{remote.bytes:>14,}  {remote.name}" for remote in remotes]
    return "\n".join([*lines, f"{sum(remote.bytes for remote in remotes):>14,}  bytes in {len(remotes)} files"])


def fetch(folder: Path, files: Sequence[Remote], archives: Sequence[Remote], *, connections: int, keep: bool) -> None:
    """Fetch what is missing and unpack the archives; everything that is whole is written down at once.

    Raises:
        BadInput: where files could not be fetched, after all others were.
    """
    remove_leftovers(folder)
    record = read_record(folder)
    packed = [remote for remote in archives if not has_archive(folder, record, remote)]
    missing = [remote for remote in (*files, *packed) if not has_file(folder, record, remote)]
    check_room(folder, room_for(folder, missing, packed))
    if missing:
        logger.info("fetching %d files, %s", len(missing), gigabytes(sum(remote.bytes for remote in missing)))
    faults = unpack_what_is_here(folder, record, packed, missing, keep=keep)
    faults += fetch_missing(folder, record, missing, {remote.name for remote in packed}, connections, keep=keep)
    if faults:
        shown = " | ".join(faults[:SHOWN_FAULTS])
        raise BadInput(f"{len(faults)} of the files are not there yet: {shown}")


def unpack_what_is_here(
    folder: Path, record: Fetched, packed: Sequence[Remote], missing: Sequence[Remote], *, keep: bool
) -> list[str]:
    """Unpack the archives that an earlier command has fetched; return why some could not be."""
    here = [remote.name for remote in packed if remote not in missing]
    return [fault for name in here for fault in unpacked(folder, record, record.files[name], keep=keep)]


def fetch_missing(
    folder: Path, record: Fetched, missing: Sequence[Remote], archives: Set[str], connections: int, *, keep: bool
) -> list[str]:
    """Fetch files, unpack those that are archives; return for each file that is not there why, or that it waits."""
    faults, left = [], {remote.name for remote in missing}
    with closing(Downloads(folder, connections).fetch_all(missing)) as results:
        for result in results:
            if isinstance(result, BadInput):
                faults.append(str(result))
                continue
            left.discard(result.name)
            record.files[result.name] = result
            record.write(folder)
            if result.name in archives:
                faults += unpacked(folder, record, result, keep=keep)
    return faults + [f"{len(left) - len(faults)} others were not tried"] * (len(left) > len(faults))


def has_file(folder: Path, record: Fetched, remote: Remote) -> bool:
    """Tell whether a file is there whole; one that is not written down is read and compared first."""
    path, known = folder / remote.name, record.files.get(remote.name)
    if not path.is_file() or path.stat().st_size != remote.bytes:
        return False
    if known is not None and (known.bytes, known.etag) == (remote.bytes, remote.etag):
        return True
    fault, sha256 = fault_of(remote, path, known_digest(path))
    if fault:
        logger.info("%s: %s; fetching it again", remote.name, fault)
        return False
    record.files[remote.name] = Local(name=remote.name, bytes=remote.bytes, sha256=sha256, etag=remote.etag)
    record.write(folder)
    return True


def has_archive(folder: Path, record: Fetched, remote: Remote) -> bool:
    """Tell whether an archive was unpacked, and all of it is still there."""
    known = record.archives.get(remote.name)
    return known is not None and known.etag == remote.etag and is_unpacked(folder, known)


def unpacked(folder: Path, record: Fetched, local: Local, *, keep: bool) -> list[str]:
    """Unpack an archive and write that down; return why that could not be done, if so."""
    try:
        record.archives[local.name] = unpack(folder, local)
    except BadInput as error:
        return [str(error)]
    if not keep:
        record.files.pop(local.name, None)
    record.write(folder)
    if not keep:
        (folder / local.name).unlink()
    logger.info("unpacked %s", local.name)
    return []


def room_for(folder: Path, missing: Sequence[Remote], packed: Sequence[Remote]) -> int:
    """Return about how many bytes the disk must still have: what is to come, and what archives hold."""
    to_come = sum(remote.bytes - size_of(part_of(folder / remote.name)) for remote in missing)
    return round(to_come + UNPACKED_SHARE * sum(remote.bytes for remote in packed))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
