"""Write a simulated study as prepared shards, without images: for statistics over hundreds of studies.

Takes settings and a folder; gives shards, tables and a manifest as preparation would leave them, and the truth beside.
Sources, levels and controls are those of the recordings; what preparation would do to them is done to the numbers: BOLD
at the mask's points and the volumes' reference time, blurred as by 6 mm, without drift; what head motion leaves behind
is a sum of maps times the motion; EEG above 0.5 Hz, z-scored over the subject's runs.

Legend of shapes: V volumes, X voxels of the mask, C channels, S samples.
"""

import dataclasses
import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import fft

from datasets.confounds import physiology_confounds
from datasets.errors import BadInput
from datasets.grid import (
    GRID_AFFINE,
    GRID_SHAPE,
    TEMPLATE,
    VOXEL_MM,
    mask_points_mm,
    mask_sha256,
    tissue_mask,
    tissue_probabilities,
)
from datasets.oddball import CHANNELS, TASKS, channel_locations_m
from datasets.recording import EegSignal
from datasets.shards import (
    MANIFEST,
    VOXELS,
    Layout,
    Manifest,
    ShardEntry,
    events_table,
    quantise,
    read_manifest,
    shard_names,
    shard_table,
    write_manifest,
    write_shard,
    write_table,
)
from datasets.simulator.bold import (
    BLOB_FWHM_MM,
    REPETITION_TIME_S,
    SMOOTH_NOISE_MM,
    SmoothNoise,
    blobs,
    body_maps,
    noise_percents,
)
from datasets.simulator.eeg import SimulatedEeg
from datasets.simulator.physiology import body_courses
from datasets.simulator.runs import DrawnRun
from datasets.simulator.same_bytes import product
from datasets.simulator.sources import Floats, draw_traits
from datasets.simulator.study import (
    SimulationSettings,
    in_processes,
    random_stream,
    runs_of,
    simulate_signals,
    subject_truth_folder,
)
from datasets.simulator.truth import run_name, write_run_truth, write_subject_truth
from datasets.storage import open_storage
from datasets.subject_files import voxel_table

Floats32 = NDArray[np.float32]

DEFAULT_EEG_RATE_HZ = 250
LOWEST_EEG_RATE_HZ = 200
SMOOTHING_MM = 6.0
HIGH_PASS_S = 128.0
HIGH_PASS_HZ = 0.5
MOTION_PERCENT_PER_MM = 0.4
"""What realignment leaves behind, in % of the mean, at the edges where it is largest."""
FD_RADIUS_MM = 50.0
MOTION_NAMES = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
TISSUE_NAMES = ("global_signal", "grey_signal", "white_signal", "csf_signal")
_MM_PER_FWHM = 1 / 2.355
_VOXEL_MM3 = 36.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Mask:
    """The mask's voxels: places (X, 3), the sources' ``weights`` (X, sources), tissues (X,)."""

    mni_mm: Floats
    weights: Floats32
    grey: Floats32
    white: Floats32
    fluid: Floats32


def simulate_shards(
    folder: Path, settings: SimulationSettings, workers: int, eeg_rate_hz: int, *, every: int = 1
) -> None:
    """Write a whole study as shards, and its truth beside it; leave a complete one alone.

    Args:
        folder: where to.
        settings: what is simulated.
        workers: processes.
        eeg_rate_hz: of the EEG.
        every: every so many-th voxel of the mask along each axis is there: the same study, seen at fewer places.

    Raises:
        BadInput: the folder holds other shards or something else, or the rate does not fit.
    """
    if eeg_rate_hz < LOWEST_EEG_RATE_HZ:
        raise BadInput(f"--eeg-rate must be at least {LOWEST_EEG_RATE_HZ} Hz, but got {eeg_rate_hz}")
    thinned = {"every": every} if every > 1 else {}
    pipeline = {"simulated": dataclasses.asdict(settings) | {"eeg_rate_hz": eeg_rate_hz} | thinned}
    if _is_complete(folder, pipeline):
        logger.info("%s already holds this study", folder)
        return
    subjects = _subjects(settings)
    jobs = [(simulate_subject_shards, folder, settings, subject, eeg_rate_hz, every) for subject in subjects]
    written: dict[int, list[ShardEntry]] = {}
    for subject, shards in in_processes(jobs, workers):
        written[subject] = shards
        logger.info("simulated %s (%d of %d)", _label(subject), len(written), settings.subjects)
    storage = open_storage(folder)
    manifest = Manifest(
        layout=fast_layout(eeg_rate_hz, every),
        pipeline=pipeline,
        shards=tuple(shard for subject in subjects for shard in written[subject]),
        files=(write_table(storage, VOXELS, voxel_table(thinned_mask(every))),),
        skipped=(),
    )
    write_manifest(storage, manifest)


def simulate_subject_shards(
    folder: Path, settings: SimulationSettings, subject: int, eeg_rate_hz: int, every: int
) -> tuple[int, list[ShardEntry]]:
    """Write all runs of one subject; return the subject and what was written."""
    traits = draw_traits(settings.level, random_stream(settings, subject, 0, 0, "traits"))
    truth = subject_truth_folder(folder, subject)
    write_subject_truth(truth, traits, None)
    measured = []
    for task, run in runs_of(settings.runs):
        drawn, eeg = simulate_signals(settings, subject, task, run, traits, eeg_rate_hz)
        write_run_truth(truth, run_name(task, run), drawn, settings.volumes)
        measured.append((task, run, drawn, eeg, _high_passed(eeg.eeg, eeg_rate_hz)))
    _normalise([filtered for *_, filtered in measured])
    shards = [
        _write_run(folder, settings, subject, task, run, drawn, eeg, filtered, eeg_rate_hz, every)
        for task, run, drawn, eeg, filtered in measured
    ]
    return subject, shards


def thinned_mask(every: int) -> NDArray[np.bool_]:
    """Return the tissue mask at every so many-th voxel of the grid along each axis."""
    is_kept = np.zeros(GRID_SHAPE, bool)
    is_kept[::every, ::every, ::every] = True
    return np.asarray(tissue_mask() & is_kept)


def fast_layout(eeg_rate_hz: float, every: int = 1) -> Layout:
    """Return what every shard of a fast study shares."""
    mask = thinned_mask(every)
    x, y, z = GRID_SHAPE
    return Layout(
        channel_names=CHANNELS,
        channel_locations_m=channel_locations_m(CHANNELS),
        eeg_rate_hz=eeg_rate_hz,
        repetition_time_s=REPETITION_TIME_S,
        reference_time_s=REPETITION_TIME_S / 2,
        grid_shape=(x, y, z),
        grid_affine=tuple(tuple(float(value) for value in row) for row in GRID_AFFINE),
        template=TEMPLATE,
        mask_sha256=mask_sha256(mask),
        num_voxels=int(mask.sum()),
    )


def fast_bold(settings: SimulationSettings, drawn: DrawnRun, rng: np.random.Generator, every: int = 1) -> Floats32:
    """Return one run's BOLD in % of the mean as preparation would leave it before the z-score, (V, X)."""
    mask, level = _mask(every), settings.level
    middle_s = REPETITION_TIME_S * (np.arange(settings.volumes, dtype=np.float64) + 0.5)
    body_XK = body_maps(mask.mni_mm, mask.grey, mask.fluid, level, drawn.blood_body.transient_percent)
    motion_XK = _motion_maps(mask, rng)
    parameters_VK = drawn.blood_motion.at(middle_s) * _IN_MM
    courses = [drawn.neural.at(middle_s), body_courses(drawn.blood_body, middle_s), parameters_VK.T]
    maps_XK = np.hstack([mask.weights, body_XK, motion_XK])
    percent: Floats32 = product(np.vstack(courses).T.astype(np.float32), maps_XK.T)
    size = np.float32(_smoothed_noise_percent(*noise_percents(level)))
    fwhm_mm = float(np.hypot(SMOOTH_NOISE_MM, SMOOTHING_MM))
    x, y, z = (-(-size // every) for size in GRID_SHAPE)
    voxels = np.argwhere(thinned_mask(every)) // every
    noise = SmoothNoise(voxels, (x, y, z), (VOXEL_MM * every,) * 3, fwhm_mm, rng)
    for percent_X in percent:
        percent_X += size * noise.next()
    return _without_drift(percent)


_IN_MM = np.array([1.0, 1.0, 1.0, FD_RADIUS_MM, FD_RADIUS_MM, FD_RADIUS_MM])


def _is_complete(folder: Path, pipeline: dict[str, Any]) -> bool:
    if (folder / MANIFEST).is_file():
        if read_manifest(open_storage(folder)).pipeline != pipeline:
            raise BadInput(f"{folder} holds other shards; choose another folder or delete them")
        return True
    foreign = [path.name for path in folder.iterdir() if not path.name.startswith("sub-")] if folder.exists() else []
    if set(foreign) - {VOXELS}:
        raise BadInput(f"{folder} must be a new or empty folder, but holds something else; choose another one")
    return False


def _subjects(settings: SimulationSettings) -> range:
    return range(1, settings.subjects + 1)


def _label(subject: int) -> str:
    return f"sub-{subject:02d}"


def _write_run(
    folder: Path,
    settings: SimulationSettings,
    subject: int,
    task: int,
    run: int,
    drawn: DrawnRun,
    eeg: SimulatedEeg,
    filtered: Floats32,
    eeg_rate_hz: int,
    every: int,
) -> ShardEntry:
    storage, names = open_storage(folder), shard_names(_label(subject), TASKS[task], run)
    percent = fast_bold(settings, drawn, random_stream(settings, subject, task, run, "bold"), every)
    tissue = _tissue_signals(percent, every)
    percent /= percent.std(axis=0)
    layout = fast_layout(eeg_rate_hz, every)
    bold_VX, clipped_bold = quantise(percent, layout.scale)
    per_volume = filtered.reshape(len(filtered), settings.volumes, -1).transpose(1, 0, 2)
    eeg_VCS, clipped_eeg = quantise(per_volume, layout.eeg_scale)
    table = shard_table(_label(subject), TASKS[task], run, eeg_VCS, bold_VX, layout)
    events = drawn.activity.events
    confounds = _confounds(settings, drawn, eeg, tissue, eeg_rate_hz)
    return ShardEntry(
        **dataclasses.asdict(write_shard(storage, names["shard"], table)),
        subject=_label(subject),
        task=TASKS[task],
        run=run,
        rows=settings.volumes,
        clipped=clipped_bold + clipped_eeg,
        events=write_table(storage, names["events"], events_table(events.onset_s, events.duration_s, events.kind)),
        confounds=write_table(storage, names["confounds"], pa.table(confounds)),
    )


def group_maps() -> Floats32:
    """Return how strongly each voxel of the mask follows each source in the group, (sources, X)."""
    return _mask(1).weights.T


@lru_cache(maxsize=1)
def _mask(every: int) -> _Mask:
    mask = thinned_mask(every)
    points = mask_points_mm(mask)
    grey, white = (tissue[mask] for tissue in tissue_probabilities())
    blurred_mm = np.hypot(BLOB_FWHM_MM, SMOOTHING_MM)
    weights = blobs(points, float(blurred_mm)) * np.float32((BLOB_FWHM_MM / blurred_mm) ** 3)
    fluid = np.clip(1 - grey - white, 0, 1)
    return _Mask(mni_mm=points, weights=weights, grey=grey, white=white, fluid=fluid)


def _motion_maps(mask: _Mask, rng: np.random.Generator) -> Floats32:
    """Return what each motion parameter leaves behind in % per mm, (X, 6): most at edges, another sign on each side."""
    sides = product(np.tanh((mask.mni_mm - mask.mni_mm.mean(axis=0)) / 30), rng.normal(0, 1, (3, len(MOTION_NAMES))))
    result: Floats32 = (MOTION_PERCENT_PER_MM * (0.3 + 1.4 * mask.fluid[:, None]) * sides).astype(np.float32)
    return result


def _smoothed_noise_percent(smooth_percent: float, thermal_percent: float) -> float:
    """Return the noise's standard deviation after smoothing by SMOOTHING_MM, one field for both kinds."""
    before, after = SMOOTH_NOISE_MM * _MM_PER_FWHM, SMOOTHING_MM * _MM_PER_FWHM
    smooth = smooth_percent**2 * (before**2 / (before**2 + after**2)) ** 1.5
    thermal = thermal_percent**2 * _VOXEL_MM3 / (8 * np.pi**1.5 * after**3)
    return float(np.sqrt(smooth + thermal))


def _without_drift(percent_VX: Floats32) -> Floats32:
    """Return series less their mean and the cosines slower than HIGH_PASS_S, as preparation's high-pass does."""
    num_volumes = len(percent_VX)
    num_cosines = min(int(2 * num_volumes * REPETITION_TIME_S / HIGH_PASS_S), num_volumes - 2)
    angles = np.pi * (np.arange(num_volumes) + 0.5) / num_volumes
    basis = np.cos(angles[:, None] * np.arange(num_cosines + 1)).astype(np.float32)
    basis /= np.linalg.norm(basis, axis=0)
    percent_VX -= product(basis, product(basis.T, percent_VX))
    return percent_VX


def _high_passed(eeg: Floats32, rate_hz: float) -> Floats32:
    """Return EEG (C, S) without what is slower than HIGH_PASS_HZ, by a smooth step of the spectrum."""
    frequencies = fft.rfftfreq(eeg.shape[1], 1 / rate_hz)
    step = 0.5 - 0.5 * np.cos(np.pi * np.clip(frequencies / HIGH_PASS_HZ, 0, 1))
    filtered: Floats32 = fft.irfft(fft.rfft(eeg, axis=1) * step.astype(np.float32), eeg.shape[1], axis=1)
    return filtered


def _normalise(runs: list[Floats32]) -> None:
    """Z-score each channel over all runs of a subject, in place; each run has a mean of 0 already."""
    variance = np.mean([np.square(run).mean(axis=1, dtype=np.float64) for run in runs], axis=0)
    for run in runs:
        run /= np.sqrt(variance).astype(np.float32)[:, None]


def _tissue_signals(percent_VX: Floats32, every: int) -> dict[str, Floats]:
    mask = _mask(every)
    weights = np.stack([np.ones_like(mask.grey), mask.grey, mask.white, mask.fluid], axis=1)
    means = np.einsum("vx,xt->vt", percent_VX, weights / weights.sum(axis=0))
    return dict(zip(TISSUE_NAMES, means.T.astype(np.float64), strict=True))


def _confounds(
    settings: SimulationSettings, drawn: DrawnRun, eeg: SimulatedEeg, tissue: dict[str, Floats], eeg_rate_hz: int
) -> dict[str, Any]:
    """Return the columns of the run's table of confounds: physiology as measured, motion as it was."""
    signal = EegSignal(
        eeg_uv=eeg.eeg,
        channel_names=CHANNELS,
        locations_m=channel_locations_m(CHANNELS),
        rate_hz=eeg_rate_hz,
        ecg=eeg.ecg,
        eog=eeg.eog,
    )
    beats_s = drawn.body.beats_s[(drawn.body.beats_s >= 0) & (drawn.body.beats_s < settings.duration_s)]
    middle_s = REPETITION_TIME_S * (np.arange(settings.volumes, dtype=np.float64) + 0.5)
    parameters = drawn.blood_motion.at(middle_s)
    steps = np.abs(np.diff(parameters * _IN_MM, axis=0, prepend=parameters[:1] * _IN_MM))
    return {
        "volume": np.arange(settings.volumes, dtype=np.int32),
        **physiology_confounds(signal, beats_s, REPETITION_TIME_S * eeg_rate_hz, settings.volumes),
        **dict(zip(MOTION_NAMES, parameters.T, strict=True)),
        "framewise_displacement": steps.sum(axis=1),
        **tissue,
    }
