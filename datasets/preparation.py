"""Recordings to shards: the steps of preparation in order, one subject at a time.

Takes recordings and settings; gives a subject's shards with what lies beside them, and in the end the manifest.
A subject's record is written when all its files are, the manifest when all subjects are: preparation that was
interrupted goes on with the next subject, and what has no manifest is not complete.

Legend of shapes: R volumes of a run, C channels, S EEG samples per volume, V voxels within the mask.
"""

import dataclasses
import hashlib
import json
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mne
import nibabel
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datasets.bold import BoldSeries, BoldSettings, prepare_bold
from datasets.eeg import NORMALISATIONS, ChannelScale, EegSettings, channel_scale, fit_length, prepare_eeg
from datasets.errors import BadInput
from datasets.grid import (
    GRID_AFFINE,
    GRID_SHAPE,
    TEMPLATE,
    mask_points_mm,
    mask_sha256,
    tissue_mask,
    tissue_probabilities,
)
from datasets.oddball import CHANNELS, marker_shift_s, read_bold, read_eeg, read_events
from datasets.recording import EegSignal, Events, Recording
from datasets.registration import Alignment, align
from datasets.shards import (
    VOXELS,
    FileEntry,
    Layout,
    Manifest,
    ShardEntry,
    Skipped,
    events_table,
    quantise,
    shard_entry,
    shard_names,
    shard_table,
    write_shard,
    write_table,
)
from datasets.storage import Storage, open_storage

logger = logging.getLogger(__name__)

PIPELINE_VERSION = 1
RATE_HZ = 1000.0
SHIFT_WARNED_S, SHIFT_REFUSED_S = 0.05, 0.5
REPETITION_TOLERANCE_S = 0.001
SECONDS_IN = {"sec": 1.0, "msec": 0.001}
_UNREADABLE_IMAGE = (
    OSError, ValueError, EOFError, zlib.error, nibabel.filebasedimages.ImageFileError,
    nibabel.spatialimages.HeaderDataError,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PreparationSettings:
    """What a user may vary about preparation; shards prepared under different settings are never mixed."""

    eeg: EegSettings = field(default_factory=EegSettings)
    bold: BoldSettings = field(default_factory=BoldSettings)

    @property
    def record(self) -> dict[str, Any]:
        """The settings as the manifest keeps them."""
        return {"version": PIPELINE_VERSION, **dataclasses.asdict(self)}


@dataclass(frozen=True, kw_only=True)
class SubjectRecord:
    """What one subject's preparation made, and of what.

    Attributes:
        subject: its label.
        pipeline: the settings' record.
        inputs: bytes of every raw file that was read, by recording and kind.
        shards, files: what was written for training, and beside it.
        skipped: recordings that could not be used.
        warnings: what a user should look at, one line each.
        alignment: how the subject was brought to the grid.
    """

    subject: str
    pipeline: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, int]]
    shards: tuple[ShardEntry, ...]
    files: tuple[FileEntry, ...]
    skipped: tuple[Skipped, ...]
    warnings: tuple[str, ...]
    alignment: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Run:
    """One readable recording: its filtered EEG (C, samples), and everything else but the volumes' series."""

    recording: Recording
    eeg: NDArray[np.float32]
    ecg: NDArray[np.float32]
    events: Events
    image: nibabel.Nifti1Image


class _Warnings(logging.Handler):
    """Collects what is warned of, one line each, for the subject's record: a worker's own log is seen by nobody."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning's text, once."""
        text = record.getMessage()
        if text not in self.lines:
            self.lines.append(text)


def prepare_subject(recordings: Sequence[Recording], shards_uri: str, settings: PreparationSettings) -> SubjectRecord:
    """Prepare all runs of one subject and return its record, which is written last.

    A recording that cannot be read is skipped and listed, not fatal; a subject may end up without any shard.
    """
    warned = _Warnings()
    room = logging.getLogger("datasets")
    room.addHandler(warned)
    try:
        return _prepare_subject(recordings, shards_uri, settings, warned.lines)
    finally:
        room.removeHandler(warned)


def _prepare_subject(
    recordings: Sequence[Recording], shards_uri: str, settings: PreparationSettings, warned: Sequence[str]
) -> SubjectRecord:
    storage = open_storage(shards_uri)
    subject = recordings[0].subject
    runs, skipped = _readable_runs(recordings, settings)
    shards: list[ShardEntry] = []
    files: list[FileEntry] = []
    alignment: Mapping[str, Any] = {}
    if runs:
        scale = channel_scale([run.eeg for run in runs])
        with _naming(subject):
            aligned = align(_mean_image(runs[0].image), _t1(runs[0].recording), method=settings.bold.registration)
        alignment = aligned.to_json()
        series = []
        for run in runs:
            shard, prepared = _write_run(storage, run, scale, aligned, settings)
            shards.append(shard)
            series.append(dataclasses.replace(prepared, z=prepared.z[:0]))
        files.append(_write_maps(storage, subject, series))
    record = SubjectRecord(
        subject=subject,
        pipeline=settings.record,
        inputs=input_sizes(recordings),
        shards=tuple(shards),
        files=tuple(files),
        skipped=tuple(skipped),
        warnings=tuple(warned),
        alignment=alignment,
    )
    storage.write(record_name(subject), _record_bytes(record))
    return record


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


def complete_manifest(storage: Storage, records: Sequence[SubjectRecord], settings: PreparationSettings) -> Manifest:
    """Write the voxel table and return the manifest of these subjects, not written yet."""
    if not any(record.shards for record in records):
        reasons = "; ".join(sorted({skipped.reason for record in records for skipped in record.skipped}))
        raise BadInput(f"no recording could be prepared: {reasons}")
    voxels = write_table(storage, VOXELS, _voxel_table())
    own = [_entry_of(record) for record in records]
    return Manifest(
        layout=layout(),
        pipeline={**settings.record, "alignment": {record.subject: record.alignment for record in records}},
        shards=tuple(shard for record in records for shard in record.shards),
        files=(voxels, *own, *(file for record in records for file in record.files)),
        skipped=tuple(skipped for record in records for skipped in record.skipped),
    )


def input_sizes(recordings: Sequence[Recording]) -> dict[str, dict[str, int]]:
    """Return the bytes of every raw file of these recordings: what tells that the input is another one."""
    return {recording.name: _sizes(recording) for recording in recordings}


def record_name(subject: str) -> str:
    """Return where a subject's record lies, relative to the manifest."""
    return f"{subject}/subject.json"


def layout() -> Layout:
    """Return what every shard shares."""
    positions = mne.channels.make_standard_montage("colin27_1005").get_positions()["ch_pos"]
    mask = tissue_mask()
    x, y, z = GRID_SHAPE
    return Layout(
        channel_names=CHANNELS,
        channel_locations_m=tuple(_rounded(positions[name]) for name in CHANNELS),
        eeg_rate_hz=RATE_HZ,
        repetition_time_s=2.0,
        reference_time_s=1.0,
        grid_shape=(x, y, z),
        grid_affine=tuple(tuple(float(value) for value in row) for row in GRID_AFFINE),
        template=TEMPLATE,
        mask_sha256=mask_sha256(mask),
        num_voxels=int(mask.sum()),
    )


def _readable_runs(recordings: Sequence[Recording], settings: PreparationSettings) -> tuple[list[_Run], list[Skipped]]:
    runs, skipped = [], []
    for recording in recordings:
        try:
            runs.append(_read_run(recording, settings))
        except BadInput as error:
            skipped.append(Skipped(recording=recording.name, reason=str(error)))
    return runs, skipped


def _read_run(recording: Recording, settings: PreparationSettings) -> _Run:
    if recording.eeg is None:
        raise BadInput("it has no EEG; give the folder that holds the EEG with --eeg-root")
    image = read_bold(recording.bold)
    _check_repetition_time(image, recording)
    signal = read_eeg(recording.eeg)
    events = read_events(recording)
    _check_clock(recording, signal, events)
    samples_per_volume = round(signal.rate_hz * recording.repetition_time_s)
    samples = image.shape[3] * samples_per_volume
    eeg = fit_length(signal.eeg_uv, samples, samples_per_volume=samples_per_volume)
    ecg = fit_length(signal.ecg[np.newaxis], samples, samples_per_volume=samples_per_volume)[0]
    filtered = prepare_eeg(eeg, signal.rate_hz, settings.eeg)
    return _Run(recording=recording, eeg=filtered, ecg=ecg, events=events, image=image)


def _check_repetition_time(image: nibabel.Nifti1Image, recording: Recording) -> None:
    """Compare the header's repetition time with that of the data set, where the header names the time's unit.

    Without a unit the number is most often nobody's: NIfTI's own default is 1.
    """
    stated, unit = float(image.header.get_zooms()[3]), image.header.get_xyzt_units()[1]
    seconds = stated * SECONDS_IN.get(unit, 0.0)
    if seconds > 0 and abs(seconds - recording.repetition_time_s) > REPETITION_TOLERANCE_S:
        raise BadInput(
            f"its header states a repetition time of {seconds:g} s, the data set's is {recording.repetition_time_s:g} s"
        )


def _check_clock(recording: Recording, signal: EegSignal, events: Events) -> None:
    """Compare the stimulus markers in the EEG with the events: they tell whether both clocks are one."""
    shift_s = marker_shift_s(signal, events)
    if shift_s is None or abs(shift_s) <= SHIFT_WARNED_S:
        return
    message = f"the EEG's stimulus markers come {shift_s:+.3f} s after the events"
    if abs(shift_s) > SHIFT_REFUSED_S:
        raise BadInput(f"{message}: EEG and BOLD are not on one clock")
    logger.warning("%s: %s", recording.name, message)


def _write_run(
    storage: Storage, run: _Run, scale: ChannelScale, alignment: Alignment, settings: PreparationSettings
) -> tuple[ShardEntry, BoldSeries]:
    recording = run.recording
    mask = tissue_mask()
    with _naming(recording.name):
        bold = prepare_bold(
            run.image,
            alignment,
            mask,
            mask_points_mm(mask),
            settings.bold,
            repetition_time_s=recording.repetition_time_s,
        )
    eeg = NORMALISATIONS[settings.eeg.normalisation](run.eeg, scale)
    num_channels, rows = len(eeg), len(bold.z)
    eeg_RCS, clipped_eeg = quantise(eeg.reshape(num_channels, rows, -1).transpose(1, 0, 2))
    bold_RV, clipped_bold = quantise(bold.z)
    names = shard_names(recording.subject, recording.task, recording.run)
    table = shard_table(recording.subject, recording.task, recording.run, eeg_RCS, bold_RV, layout())
    entry = write_shard(storage, names["shard"], table)
    events = run.events
    shard = ShardEntry(
        **dataclasses.asdict(entry),
        subject=recording.subject,
        task=recording.task,
        run=recording.run,
        rows=rows,
        clipped=clipped_eeg + clipped_bold,
        events=write_table(storage, names["events"], events_table(events.onset_s, events.duration_s, events.kind)),
        confounds=write_table(storage, names["confounds"], _confounds_table(run, bold)),
    )
    if shard.clipped:
        logger.warning("%s: %d samples beyond 32.8 standard deviations are clipped", recording.name, shard.clipped)
    return shard, bold


def _confounds_table(run: _Run, bold: BoldSeries) -> pa.Table:
    """Return what else may drive both sides, one row per volume: the ECG's power and BOLD's global signal."""
    rows = len(bold.z)
    ecg_RS = run.ecg.reshape(rows, -1).astype(np.float64)
    return pa.table(
        {
            "volume": np.arange(rows, dtype=np.int32),
            "ecg_power": np.log(ecg_RS.var(axis=1) + 1.0),
            "global_signal": bold.z[:, bold.coverage].mean(axis=1, dtype=np.float64),
        }
    )


def _write_maps(storage: Storage, subject: str, series: Sequence[BoldSeries]) -> FileEntry:
    """Write the subject's mean and standard deviation over runs, and where every run covers the mask."""
    table = pa.table(
        {
            "mean": np.mean([run.mean for run in series], axis=0),
            "standard_deviation": np.sqrt(np.mean([run.standard_deviation**2 for run in series], axis=0)),
            "coverage": np.all([run.coverage for run in series], axis=0),
        }
    )
    return write_table(storage, f"{subject}/{subject}_maps.parquet", table)


def _voxel_table() -> pa.Table:
    mask = tissue_mask()
    grey, white = tissue_probabilities()
    indices_V3, points_V3 = np.argwhere(mask), mask_points_mm(mask)
    return pa.table(
        {
            **{axis: indices_V3[:, number].astype(np.int16) for number, axis in enumerate("ijk")},
            **{f"{axis}_mm": points_V3[:, number].astype(np.float32) for number, axis in enumerate("xyz")},
            "grey": grey[mask],
            "white": white[mask],
        }
    )


def _mean_image(image: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    volumes = np.asanyarray(image.dataobj)
    return nibabel.Nifti1Image(volumes.mean(axis=3, dtype=np.float32), image.affine)


def _t1(recording: Recording) -> nibabel.Nifti1Image | None:
    if recording.t1 is None:
        return None
    try:
        image = nibabel.Nifti1Image.from_filename(recording.t1)
        image.get_fdata(dtype=np.float32)
    except _UNREADABLE_IMAGE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"cannot read the T1 {recording.t1}: {reason}; download it again") from error
    return image


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Say whose image it was that could not be used."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{what}: {error}") from error


def _record(fields: Mapping[str, Any]) -> SubjectRecord:
    return SubjectRecord(
        **{
            **fields,
            "shards": tuple(shard_entry(shard) for shard in fields["shards"]),
            "files": tuple(FileEntry(**file) for file in fields["files"]),
            "skipped": tuple(Skipped(**skipped) for skipped in fields["skipped"]),
            "warnings": tuple(fields["warnings"]),
        }
    )


def _entry_of(record: SubjectRecord) -> FileEntry:
    content = _record_bytes(record)
    return FileEntry(name=record_name(record.subject), bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _record_bytes(record: SubjectRecord) -> bytes:
    return (json.dumps(dataclasses.asdict(record), sort_keys=True, indent=1) + "\n").encode()


def _sizes(recording: Recording) -> dict[str, int]:
    files: dict[str, Path | None] = {"bold": recording.bold, "eeg": recording.eeg, "t1": recording.t1}
    files |= {path.name: path for path in recording.events}
    return {kind: path.stat().st_size for kind, path in files.items() if path is not None}


def _rounded(position: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (round(float(value), 5) for value in position)
    return x, y, z
