"""What the preparation of one subject made, and of what: a JSON file beside the subject's shards, written last.

Takes a storage and records; gives them back as they were written.  The record is what makes a subject complete.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets.errors import BadInput, may_pass
from datasets.recording import Recording
from datasets.shards import FileEntry, Layout, ShardEntry, Skipped, entry_of, layout_of, shard_entry
from datasets.storage import Storage

OPTIONAL = ("try_again", "packages")


@dataclass(frozen=True, kw_only=True)
class SubjectRecord:
    """What one subject's preparation made, and of what.

    Attributes:
        subject: its label.
        pipeline: the settings' record.
        inputs: bytes of every raw file that was read, by recording and file name.
        layout: what the subject's shards share; None where it has none.
        shards, files: what was written for training, and beside it.
        skipped: recordings that could not be used.
        try_again: those of them for a reason that may pass: the same command prepares the subject again.
        packages: versions of the packages that made it; nothing that a later preparation must agree with.
        warnings: what a user should look at, one line each.
        alignment: how the subject was brought to the grid.
        quality: figures by recording, as docs/formats.md lists them.
    """

    subject: str
    pipeline: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, int]]
    layout: Layout | None
    shards: tuple[ShardEntry, ...]
    files: tuple[FileEntry, ...]
    skipped: tuple[Skipped, ...]
    warnings: tuple[str, ...]
    alignment: Mapping[str, Any]
    quality: Mapping[str, Mapping[str, Any]]
    try_again: tuple[str, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)


def record_name(subject: str) -> str:
    """Return where a subject's record lies, relative to the manifest."""
    return f"{subject}/subject.json"


def write_subject_record(storage: Storage, record: SubjectRecord) -> None:
    """Write a record: the last act of a subject's preparation."""
    storage.write(record_name(record.subject), _record_bytes(record))


def read_subject_record(storage: Storage, subject: str) -> SubjectRecord | None:
    """Return a subject's record, or None where its preparation is not complete."""
    try:
        return _record(json.loads(storage.read(record_name(subject))))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{record_name(subject)} at {storage.uri} is not as preparation wrote it; "
            f"delete it to prepare {subject} again"
        ) from error


def record_entry(record: SubjectRecord) -> FileEntry:
    """Return the manifest's entry of a record's own file."""
    return entry_of(record_name(record.subject), _record_bytes(record))


def input_sizes(recordings: Sequence[Recording]) -> dict[str, dict[str, int]]:
    """Return the bytes of every raw file of these recordings: what tells that the input is another one."""
    return {recording.name: _sizes(recording.files) for recording in recordings}


def _sizes(paths: Iterable[Path]) -> dict[str, int]:
    """Return the bytes of those files that can be had; OSError where a disk or the network fails to tell."""
    sizes = {}
    for path in paths:
        try:
            sizes[path.name] = path.stat().st_size
        except OSError as error:  # not there, a link to itself, not permitted: the run is skipped, and says so
            if may_pass(error):
                raise
    return sizes


def _record(fields: Mapping[str, Any]) -> SubjectRecord:
    return SubjectRecord(
        **{
            **fields,
            "layout": None if fields["layout"] is None else layout_of(fields["layout"]),
            "shards": tuple(shard_entry(shard) for shard in fields["shards"]),
            "files": tuple(FileEntry(**file) for file in fields["files"]),
            "skipped": tuple(Skipped(**skipped) for skipped in fields["skipped"]),
            "warnings": tuple(fields["warnings"]),
            "try_again": tuple(fields.get("try_again", ())),
        }
    )


def _record_bytes(record: SubjectRecord) -> bytes:
    """Return a record as JSON; what is empty of OPTIONAL is left out, as records of before have it."""
    fields = dataclasses.asdict(record)
    kept = {name: value for name, value in fields.items() if value or name not in OPTIONAL}
    return (json.dumps(kept, sort_keys=True, indent=1) + "\n").encode()
