"""One run to its shard: volumes corrected and brought to the grid, EEG normalised, confounds beside them.

Takes a run that was read, what the whole subject shares (the normaliser, the reference), and a storage; gives the
files of the run, and what the subject's own files and the quality report need of it.

Legend of shapes: R volumes of a run, C channels, S EEG samples per volume, V voxels within the mask.
"""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import nibabel
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datasets.bold import TISSUE_NAMES, BoldSeries, BoldSettings, prepare_bold
from datasets.confounds import PHYSIOLOGY_NAMES
from datasets.derivatives import read_pipeline_confounds
from datasets.eeg import EegSettings, Normaliser
from datasets.errors import BadInput
from datasets.grid import GRID_AFFINE, GRID_SHAPE, TEMPLATE, mask_points_mm, mask_sha256, tissue_mask
from datasets.images import AFFINE_TOLERANCE_MM, read_image
from datasets.motion import MOTION_NAMES, Motion, estimate_motion, realigned_mean
from datasets.quality.measures import slice_latency, temporal_snr
from datasets.reading import Run, checked_bold, points_read, read_slice_times
from datasets.recording import SCANNER, Recording
from datasets.registration import Alignment, align, epi_brain
from datasets.shards import (
    EEG_SCALE,
    MINMAX_SCALE,
    Layout,
    ShardEntry,
    events_table,
    quantise,
    shard_names,
    shard_table,
    write_shard,
    write_table,
)
from datasets.slice_timing import named_slice_times
from datasets.storage import Storage

logger = logging.getLogger(__name__)

PIPELINE_VERSION = 4
MASK_ABOVE = 0.5
IN_TEMPLATE = "header"
"""How images get to the grid that lie in a template's space already."""
CONFOUNDS = (*PHYSIOLOGY_NAMES, *MOTION_NAMES, "framewise_displacement", *TISSUE_NAMES)
"""Columns of every run's table of confounds, beside the volume's number."""


@dataclass(frozen=True, kw_only=True)
class PreparationSettings:
    """What a user may vary about preparation; shards prepared under different settings are never mixed."""

    bold_source: str = "raw"
    eeg: EegSettings = field(default_factory=EegSettings)
    bold: BoldSettings = field(default_factory=BoldSettings)

    @property
    def record(self) -> dict[str, Any]:
        """The settings as the manifest keeps them."""
        return {"version": PIPELINE_VERSION, **dataclasses.asdict(self)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """What all runs of a subject are brought to: the first run's mean, and the way from there to the grid.

    ``motion`` is the first run's own (``run`` is its name), which need not be estimated again; None where none is.
    """

    run: str
    mean: nibabel.Nifti1Image
    motion: Motion | None
    t1: nibabel.Nifti1Image | None
    alignment: Alignment


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedRun:
    """What was written of a run, the maps of its volumes (no series), and figures for the quality report."""

    name: str
    shard: ShardEntry
    series: BoldSeries
    quality: Mapping[str, Any]


def align_subject(run: Run, settings: BoldSettings) -> Reference:
    """Return the reference that a subject's first run gives; BadInput where it cannot be aligned."""
    recording = run.recording
    is_raw = recording.space == SCANNER
    t1 = read_image(recording.t1, "T1") if is_raw and recording.t1 is not None else None
    bold = _cut(checked_bold(recording), run.num_volumes)
    motion = estimate_motion(bold) if is_raw and settings.motion else None
    mean = _mean_image(bold) if motion is None else realigned_mean(bold, motion)
    method = settings.registration if is_raw else IN_TEMPLATE
    return Reference(run=recording.name, mean=mean, motion=motion, t1=t1, alignment=align(mean, t1, method=method))


def prepare_run(
    run: Run, normaliser: Normaliser, reference: Reference, storage: Storage, settings: PreparationSettings
) -> PreparedRun:
    """Prepare a run, write its shard and the tables beside it, and return what the subject needs of it."""
    recording = run.recording
    image = _cut(checked_bold(recording), run.num_volumes)
    motion = _motion(image, run, reference, settings.bold)
    slice_times_s = _slice_times(image, run, settings.bold)
    mask = tissue_mask()
    bold = prepare_bold(
        image,
        reference.alignment,
        mask,
        mask_points_mm(mask),
        settings.bold,
        repetition_time_s=recording.repetition_time_s,
        poses=None if motion is None else motion.poses,
        slice_times_s=slice_times_s,
    )
    shard = _write_run(run, normaliser(run.clean.eeg), bold, motion, shared_layout(run, settings), storage)
    if shard.clipped:
        logger.warning("%s: %d samples beyond 32.8 standard deviations are clipped", recording.name, shard.clipped)
    return PreparedRun(
        name=recording.name,
        shard=shard,
        series=dataclasses.replace(bold, z=bold.z[:0]),
        quality=_quality(run, image, bold, shard, slice_times_s),
    )


def shared_layout(run: Run, settings: PreparationSettings) -> Layout:
    """Return what every shard made like this run's shares."""
    mask, recording = tissue_mask(), run.recording
    x, y, z = GRID_SHAPE
    return Layout(
        channel_names=run.channel_names,
        channel_locations_m=run.locations_m,
        eeg_rate_hz=run.clean.rate_hz,
        repetition_time_s=recording.repetition_time_s,
        reference_time_s=recording.repetition_time_s / 2,
        grid_shape=(x, y, z),
        grid_affine=tuple(tuple(float(value) for value in row) for row in GRID_AFFINE),
        template=TEMPLATE if recording.space == SCANNER else recording.space,
        mask_sha256=mask_sha256(mask),
        num_voxels=int(mask.sum()),
        eeg_scale=MINMAX_SCALE if settings.eeg.normalisation == "minmax" else EEG_SCALE,
    )


def _write_run(
    run: Run,
    eeg_CN: NDArray[np.float32],
    bold: BoldSeries,
    motion: Motion | None,
    layout: Layout,
    storage: Storage,
) -> ShardEntry:
    recording, events, rows = run.recording, run.events, run.num_volumes
    key = (recording.subject, recording.task, recording.run)
    eeg_RCS, clipped_eeg = quantise(eeg_CN.reshape(len(eeg_CN), rows, -1).transpose(1, 0, 2), layout.eeg_scale)
    bold_RV, clipped_bold = quantise(bold.z, layout.scale)
    names = shard_names(*key)
    entry = write_shard(storage, names["shard"], shard_table(*key, eeg_RCS, bold_RV, layout))
    return ShardEntry(
        **dataclasses.asdict(entry),
        subject=recording.subject,
        task=recording.task,
        run=recording.run,
        rows=rows,
        clipped=clipped_eeg + clipped_bold,
        events=write_table(storage, names["events"], events_table(events.onset_s, events.duration_s, events.kind)),
        confounds=write_table(storage, names["confounds"], _confounds_table(run, bold, motion)),
    )


def _confounds_table(run: Run, bold: BoldSeries, motion: Motion | None) -> pa.Table:
    """Return what else may drive both sides, one row per volume; nan where it is not known."""
    rows = run.num_volumes
    columns = {name: np.full(rows, np.nan) for name in CONFOUNDS}
    columns |= {**run.physiology, **bold.tissue}
    if run.recording.confounds is not None:
        columns |= _of_pipeline(run)
    if motion is not None:
        columns |= dict(zip(MOTION_NAMES, motion.parameters.T, strict=True))
        columns["framewise_displacement"] = motion.framewise_displacement_mm
    return pa.table({"volume": np.arange(rows, dtype=np.int32), **{name: columns[name] for name in CONFOUNDS}})


def _of_pipeline(run: Run) -> dict[str, NDArray[np.float64]]:
    assert run.recording.confounds is not None
    found = read_pipeline_confounds(run.recording.confounds)
    return {name: series[: run.num_volumes] for name, series in found.items() if name in CONFOUNDS}


def _motion(image: nibabel.Nifti1Image, run: Run, reference: Reference, settings: BoldSettings) -> Motion | None:
    if not settings.motion or run.recording.space != SCANNER:
        return None
    if run.recording.name == reference.run:
        return reference.motion
    return estimate_motion(image, reference=reference.mean)


def _slice_times(image: nibabel.Nifti1Image, run: Run, settings: BoldSettings) -> NDArray[np.float64] | None:
    """Return when each slice was taken; None where nothing is to be corrected, or nobody says (which is logged)."""
    recording, num_slices = run.recording, image.shape[2]
    if recording.space != SCANNER:
        return None
    if settings.slice_order is not None:
        return named_slice_times(settings.slice_order, num_slices, recording.repetition_time_s)
    times_s = read_slice_times(recording, num_slices)
    if times_s is None:
        logger.warning(
            "nobody says when each slice is taken, so slice times are not corrected; give --slice-order, "
            "or, to say that this is meant, --slice-order none"
        )
    return times_s


def _quality(
    run: Run,
    image: nibabel.Nifti1Image,
    bold: BoldSeries,
    shard: ShardEntry,
    slice_times_s: NDArray[np.float64] | None,
) -> dict[str, Any]:
    recording, clean = run.recording, run.clean
    volumes = np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged"))
    brain = _brain(image, recording)
    is_raw = recording.space == SCANNER
    return {
        "volumes": run.num_volumes,
        "tsnr": _figure(temporal_snr(volumes, brain)),
        "coverage": _figure(bold.coverage.mean()),
        "marker_shift_s": _figure(run.marker_shift_s),
        "bad_channels": dict(clean.bad_channels),
        "num_beats": len(clean.beats_s),
        "spectrum": clean.spectrum,
        "num_slices": image.shape[2] if is_raw else None,
        "slice_times_s": None if slice_times_s is None else [_figure(time_s) for time_s in slice_times_s],
        "slice_latency": slice_latency(volumes, brain, run.events, recording.repetition_time_s) if is_raw else None,
        "clipped": shard.clipped,
    }


def _brain(image: nibabel.Nifti1Image, recording: Recording) -> NDArray[np.bool_]:
    """Return which voxels are brain: as the pipeline says whose volumes these are, else as the volumes show it."""
    if recording.brain_mask is None:
        return epi_brain(_mean_image(image))
    mask = read_image(recording.brain_mask, "brain mask", around_mm=points_read(recording))
    if mask.shape != image.shape[:3] or not np.allclose(mask.affine, image.affine, atol=AFFINE_TOLERANCE_MM):
        raise BadInput(f"{recording.brain_mask} must have the shape and affine of the BOLD; give the mask of this run")
    return np.asarray(mask.get_fdata(dtype=np.float32) > MASK_ABOVE)


def _figure(value: float | None) -> float | None:
    """Return a number as JSON keeps it, to six digits; None where there is none."""
    return None if value is None or not np.isfinite(value) else float(f"{value:.6g}")


def _cut(image: nibabel.Nifti1Image, num_volumes: int) -> nibabel.Nifti1Image:
    """Return the image's first volumes: those that have EEG."""
    if image.shape[3] == num_volumes:
        return image
    values = image.get_fdata(dtype=np.float32)[..., :num_volumes]
    return nibabel.Nifti1Image(values, image.affine, image.header)


def _mean_image(image: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    volumes = image.get_fdata(dtype=np.float32, caching="unchanged")
    mean = np.nan_to_num(volumes.mean(axis=3, dtype=np.float32), posinf=0.0, neginf=0.0)
    return nibabel.Nifti1Image(mean, image.affine)
