"""The only door between recordings and models: one Parquet file per recording, and a manifest that names them all.

Takes normalised EEG and z-scored BOLD of a run; gives shards, tables and a manifest on a disk or object storage,
and reads them back, each file checked against the SHA-256 that the manifest holds.

Legend of shapes: R rows (one per volume), C channels, S EEG samples per volume, V voxels within the mask.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from datasets.errors import BadInput
from datasets.storage import Storage

FORMAT = "eeg2fmri-shards"
SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
VOXELS = "voxels.parquet"
REPORT = "report.html"
"""Made of the rest, so no part of the data."""
ROWS_PER_GROUP = 34
SCALE = 0.002
"""What one step of a stored int16 means, in standard deviations: +-65.534 of them fit before a sample is clipped."""
EEG_SCALE = 0.004
"""The same for EEG, whose artefacts reach further: about 0.1 uV, no more than what amplifiers resolve."""
MINMAX_SCALE = 1 / 30_000
"""The same for EEG between -1 and 1: its standard deviation may be a hundredth of that."""


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A file that the manifest vouches for."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ShardEntry(FileEntry):
    """The shard of one recording, and the tables that lie beside it."""

    subject: str
    task: str
    run: int
    rows: int
    clipped: int
    events: FileEntry
    confounds: FileEntry

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """The shard itself and the tables beside it."""
        return (self, self.events, self.confounds)


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A recording that could not be used, and why."""

    recording: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the data dictates and every shard of a set shares: channels, rates, grid, scales."""

    channel_names: tuple[str, ...]
    channel_locations_m: tuple[tuple[float, float, float] | None, ...]
    eeg_rate_hz: float
    repetition_time_s: float
    reference_time_s: float
    grid_shape: tuple[int, int, int]
    grid_affine: tuple[tuple[float, ...], ...]
    template: str
    mask_sha256: str
    num_voxels: int
    scale: float = SCALE
    eeg_scale: float = EEG_SCALE

    @property
    def samples_per_volume(self) -> int:
        """EEG samples in one repetition time."""
        return round(self.eeg_rate_hz * self.repetition_time_s)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that makes up one prepared data set; it exists only when preparation is complete."""

    layout: Layout
    pipeline: Mapping[str, Any]
    shards: tuple[ShardEntry, ...]
    files: tuple[FileEntry, ...]
    skipped: tuple[Skipped, ...]

    @cached_property
    def subjects(self) -> tuple[str, ...]:
        """The subjects with at least one shard, sorted."""
        return tuple(sorted(self._by_subject))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the whole manifest: two data sets with one digest are the same to the last byte."""
        return hashlib.sha256(_canonical(_manifest_fields(self))).hexdigest()

    def of_subject(self, subject: str) -> tuple[ShardEntry, ...]:
        """Return the shards of one subject, in the order of task and run."""
        return self._by_subject.get(subject, ())

    @cached_property
    def _by_subject(self) -> dict[str, tuple[ShardEntry, ...]]:
        found: dict[str, list[ShardEntry]] = {}
        for shard in self.shards:
            found.setdefault(shard.subject, []).append(shard)
        return {subject: tuple(shards) for subject, shards in found.items()}


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One recording as it is stored: int16 in steps of the layout's scale."""

    eeg_RCS: NDArray[np.int16]
    bold_RV: NDArray[np.int16]


def quantise(values: NDArray[np.float32], scale: float = SCALE) -> tuple[NDArray[np.int16], int]:
    """Return values of any shape as int16 in steps of the scale, and how many had to be clipped."""
    steps = np.rint(values / np.float32(scale))
    limit = np.iinfo(np.int16).max
    num_clipped = int(np.count_nonzero(np.abs(steps) > limit))
    return np.clip(steps, -limit, limit).astype(np.int16), num_clipped


def shard_table(
    subject: str, task: str, run: int, eeg_RCS: NDArray[np.int16], bold_RV: NDArray[np.int16], layout: Layout
) -> pa.Table:
    """Return a recording as a table of one row per volume, its layout in the schema's metadata."""
    rows = len(bold_RV)
    if len(eeg_RCS) != rows:
        raise ValueError(f"a shard pairs every volume with its EEG, but got {len(eeg_RCS)} and {rows} rows")
    volume = np.arange(rows)
    columns = {
        "subject": pa.array([subject] * rows),
        "task": pa.array([task] * rows),
        "run": pa.array(np.full(rows, run, np.int16)),
        "volume": pa.array(volume.astype(np.int32)),
        "time_s": pa.array(volume * layout.repetition_time_s + layout.reference_time_s),
        "eeg": _fixed_size_lists(eeg_RCS.reshape(rows, -1)),
        "bold": _fixed_size_lists(bold_RV),
    }
    metadata = {
        "format": FORMAT,
        "schema_version": str(SCHEMA_VERSION),
        "layout": json.dumps(dataclasses.asdict(layout)),
    }
    return pa.table(columns).replace_schema_metadata(metadata)


def write_shard(storage: Storage, name: str, table: pa.Table) -> FileEntry:
    """Write a shard's table as Parquet; the two signals delta-packed, without dictionaries or statistics."""
    plain = ["subject", "task", "run", "volume", "time_s"]
    return write_table(
        storage,
        name,
        table,
        row_group_size=ROWS_PER_GROUP,
        use_dictionary=["subject", "task"],
        write_statistics=plain,
        column_encoding={"eeg.list.element": "DELTA_BINARY_PACKED", "bold.list.element": "DELTA_BINARY_PACKED"},
    )


def write_table(storage: Storage, name: str, table: pa.Table, **parquet_options: Any) -> FileEntry:  # noqa: ANN401
    """Write a table as one Parquet file, whole or not at all, and return its entry for the manifest."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", compression_level=1, **parquet_options)
    content = buffer.getbuffer()
    storage.write(name, content)
    return entry_of(name, content)


def entry_of(name: str, content: bytes | memoryview) -> FileEntry:
    """Return the manifest's entry of a file that holds these bytes."""
    return FileEntry(name=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def read_file(storage: Storage, entry: FileEntry) -> bytes:
    """Return a file's bytes after comparing them with the manifest's hash; BadInput where they differ or are gone."""
    try:
        content = storage.read(entry.name)
    except FileNotFoundError as error:
        raise BadInput(
            f"{entry.name} is missing at {storage.uri}; prepare the shards again into a new folder"
        ) from error
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise BadInput(
            f"{entry.name} at {storage.uri} is not the file that the manifest names (its SHA-256 differs); "
            f"see all such files with: python -m datasets.verify {storage.uri}"
        )
    return content


def read_table(storage: Storage, entry: FileEntry) -> pa.Table:
    """Return a checked Parquet file as a table."""
    return pq.read_table(pa.BufferReader(read_file(storage, entry)))


def read_shard(storage: Storage, entry: ShardEntry, layout: Layout) -> Shard:
    """Return a checked shard as arrays."""
    table = read_table(storage, entry)
    eeg_RN, bold_RV = (_to_numpy(table[column]) for column in ("eeg", "bold"))
    return Shard(eeg_RCS=eeg_RN.reshape(len(eeg_RN), len(layout.channel_names), -1), bold_RV=bold_RV)


def write_manifest(storage: Storage, manifest: Manifest) -> None:
    """Write the manifest: the last act of preparation."""
    storage.write(MANIFEST, _canonical({**_manifest_fields(manifest), "sha256": manifest.digest}))


def read_manifest(storage: Storage) -> Manifest:
    """Return the manifest at a storage; BadInput where there is none, or where it is foreign or was changed."""
    try:
        content = storage.read(MANIFEST)
    except FileNotFoundError as error:
        raise BadInput(
            f"no manifest at {storage.uri}; make shards with: python -m datasets.prepare RAW {storage.uri} "
            "(and recordings to try, where you have none, with: python -m datasets.simulate RAW)"
        ) from error
    return parse_manifest(content, storage.uri)


def parse_manifest(content: bytes, uri: str) -> Manifest:
    """Return the manifest that these bytes hold; BadInput where they are not, to the last byte, what was written."""
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise BadInput(f"the manifest at {uri} is not JSON: {error}; prepare the shards again") from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise BadInput(f"{uri} holds no shards of this project ({MANIFEST} names another format)")
    if fields.get("schema_version") != SCHEMA_VERSION:
        raise BadInput(
            f"the shards at {uri} have schema version {fields.get('schema_version')}, this program reads "
            f"{SCHEMA_VERSION}; prepare them again"
        )
    claimed = fields.pop("sha256", None)
    if (
        hashlib.sha256(_canonical(fields)).hexdigest() != claimed
        or _canonical({**fields, "sha256": claimed}) != content
    ):
        raise BadInput(f"the manifest at {uri} was changed after it was written; prepare the shards again")
    return _manifest(fields)


def check_files(storage: Storage, manifest: Manifest) -> list[str]:
    """Return one line for every file that is missing, foreign or differs from the manifest in any byte."""
    faults = []
    named = {MANIFEST, REPORT}
    for entry in all_files(manifest):
        named.add(entry.name)
        try:
            read_file(storage, entry)
        except BadInput as error:
            faults.append(str(error).split(";")[0])
    foreign = sorted(set(storage.names()) - named)
    return faults + [f"{name} at {storage.uri} is not named by the manifest" for name in foreign]


def all_files(manifest: Manifest) -> list[FileEntry]:
    """Return every file that the manifest vouches for."""
    return [*manifest.files, *(file for shard in manifest.shards for file in shard.files)]


def shard_entry(fields: Mapping[str, Any]) -> ShardEntry:
    """Return the entry that ``dataclasses.asdict`` made these fields of."""
    tables = {key: FileEntry(**fields[key]) for key in ("events", "confounds")}
    return ShardEntry(**{**fields, **tables})


def _manifest_fields(manifest: Manifest) -> dict[str, Any]:
    fields = {field.name: getattr(manifest, field.name) for field in dataclasses.fields(manifest)}
    plain = json.loads(json.dumps(fields, default=dataclasses.asdict))
    return {"format": FORMAT, "schema_version": SCHEMA_VERSION, **plain}


def _manifest(fields: Mapping[str, Any]) -> Manifest:
    return Manifest(
        layout=layout_of(fields["layout"]),
        pipeline=fields["pipeline"],
        shards=tuple(shard_entry(shard) for shard in fields["shards"]),
        files=tuple(FileEntry(**file) for file in fields["files"]),
        skipped=tuple(Skipped(**skipped) for skipped in fields["skipped"]),
    )


def layout_of(fields: Mapping[str, Any]) -> Layout:
    """Return the layout that ``dataclasses.asdict``, or JSON made of that, holds."""
    return Layout(**{key: _tuples(value) for key, value in fields.items()})


def _tuples(value: Any) -> Any:  # noqa: ANN401 - JSON
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _canonical(fields: Mapping[str, Any]) -> bytes:
    return (json.dumps(fields, sort_keys=True, indent=1) + "\n").encode()


def _fixed_size_lists(values_RN: NDArray[np.int16]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values_RN).reshape(-1)), values_RN.shape[1])


def _to_numpy(column: pa.ChunkedArray) -> NDArray[np.int16]:
    lists = column.combine_chunks()
    values: NDArray[np.int16] = lists.flatten().to_numpy(zero_copy_only=True)
    return values.reshape(len(lists), -1)


def shard_names(subject: str, task: str, run: int) -> dict[str, str]:
    """Return where a recording's shard and the tables beside it lie, relative to the manifest."""
    stem = f"{subject}/{subject}_task-{task}_run-{run}"
    return {"shard": f"{stem}.parquet", "events": f"{stem}_events.parquet", "confounds": f"{stem}_confounds.parquet"}


def events_table(onset_s: NDArray[np.float64], duration_s: NDArray[np.float64], kind: Sequence[str]) -> pa.Table:
    """Return stimuli as a table: onset and duration in seconds from the run's start, and their kind."""
    return pa.table({"onset_s": onset_s, "duration_s": duration_s, "kind": pa.array(list(kind), pa.string())})
