"""The truth behind a simulated study: written where preparation never looks, read by benchmarks.

Takes the folder of one subject's truth (``OUT-truth/sub001``); gives its geometry, poses and planted signal.
"""

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.simulator.anatomy import EPI_SHAPE
from datasets.simulator.bold import REPETITION_TIME_S, blobs, slice_times_s
from datasets.simulator.motion import poses
from datasets.simulator.runs import DrawnRun
from datasets.simulator.same_bytes import product
from datasets.simulator.sources import SOURCES, Floats, SubjectTraits
from datasets.simulator.space import HeadSpace
from datasets.storage import write_whole

_SPACE = ("scanner_from_mni", "warp_mm", "distortion_centre_mm", "distortion_width_mm", "distortion_mm")


@dataclass(frozen=True, kw_only=True)
class RunTruth:
    """What was behind one run.

    Attributes:
        time_s: from the scan's start, at which activity and physiology are known, (times,).
        eeg_amplitude, eeg_burst, eeg_phase, eeg_evoked: what moves the EEG, (sources, times).
        bold_visible, bold_hidden, bold_percent: what moves the BOLD, (sources, times), ``NeuralBold``'s fields.
        volume_poses: (volumes, 4, 4), from the head at rest (where ``true_epi_points`` and the T1 have it) to where it
            lies in the middle of each volume, mm; ``slice_motion`` (volumes, slices, 6) are mm and rad at each slice.
        eeg_slice_motion: the same of the motion behind the EEG, where a control has it apart.
        heart_rate_bpm, respiration, arousal, blood_arousal: the body behind the BOLD, (times,), but ``arousal``, which
            is the EEG's; ``beats_s``, ``blinks_s`` and ``eeg_beats_s`` likewise.
    """

    time_s: Floats
    eeg_amplitude: Floats
    eeg_burst: Floats
    eeg_phase: Floats
    eeg_evoked: Floats
    bold_visible: Floats
    bold_hidden: Floats
    bold_percent: Floats
    volume_poses: Floats
    slice_motion: Floats
    eeg_slice_motion: Floats
    heart_rate_bpm: Floats
    respiration: Floats
    arousal: Floats
    blood_arousal: Floats
    beats_s: Floats
    eeg_beats_s: Floats
    blinks_s: Floats


def read_space(subject_folder: Path) -> HeadSpace:
    """Return one subject's geometry."""
    arrays = _read_arrays(subject_folder / "subject.npz")
    return HeadSpace(**{name: arrays[name] for name in _SPACE})


def read_run(subject_folder: Path, name: str) -> RunTruth:
    """Return what was behind one run, by its legacy name as ``task001_run002``."""
    return RunTruth(**_read_arrays(subject_folder / f"{name}.npz"))


def true_epi_points(subject_folder: Path, points_mm: Floats) -> Floats:
    """Return where an EPI of the head at rest shows points (points, 3) of MNI, in mm of the scanner.

    A volume shows them where its pose (``true_poses``) leads from here; so does a reference made of a run's volumes.
    """
    return read_space(subject_folder).epi_points(np.asarray(points_mm, dtype=np.float64))


def true_poses(subject_folder: Path, name: str) -> Floats:
    """Return one run's poses (volumes, 4, 4) in the middle of each volume, from the head at rest, mm to mm."""
    return read_run(subject_folder, name).volume_poses


def planted_signal(subject_folder: Path, name: str, points_mm: Floats, times_s: Floats) -> Floats:
    """Return the neural signal in % of the mean at points (points, 3) of MNI and times of the scan, (times, points)."""
    truth = read_run(subject_folder, name)
    courses = np.stack([np.interp(times_s, truth.time_s, course) for course in truth.bold_percent])
    return product(courses.T, blobs(np.asarray(points_mm, dtype=np.float64)).T.astype(np.float64))


def run_name(task: int, run: int) -> str:
    """Return what a run is called in the truth: as the legacy layout calls it."""
    return f"task{task:03d}_run{run:03d}"


def write_subject_truth(subject_folder: Path, traits: SubjectTraits, space: HeadSpace | None) -> None:
    """Write one subject's traits, sources and geometry (where it has one)."""
    arrays = asdict(traits) | {
        "position_mm": np.array([source.position_mm for source in SOURCES]),
        "name": np.array([source.name for source in SOURCES]),
    }
    if space is not None:
        arrays |= {name: getattr(space, name) for name in _SPACE}
    _write_arrays(subject_folder / "subject.npz", arrays)


def write_run_truth(subject_folder: Path, name: str, drawn: DrawnRun, num_volumes: int) -> None:
    """Write what was behind one run."""
    activity, neural, blood = drawn.activity, drawn.neural, drawn.blood_body
    in_scan = activity.time_s >= 0
    at = neural.time_s
    middle_s = REPETITION_TIME_S * (np.arange(num_volumes, dtype=np.float64) + 0.5)
    truth = RunTruth(
        time_s=at,
        eeg_amplitude=activity.amplitude[:, in_scan],
        eeg_burst=activity.burst[:, in_scan],
        eeg_phase=activity.phase[:, in_scan],
        eeg_evoked=activity.evoked[:, in_scan],
        bold_visible=neural.visible,
        bold_hidden=neural.hidden,
        bold_percent=neural.percent,
        volume_poses=poses(drawn.blood_motion.at(middle_s)),
        slice_motion=_at_slices(drawn.blood_motion.at, num_volumes),
        eeg_slice_motion=_at_slices(drawn.motion.at, num_volumes),
        heart_rate_bpm=np.interp(at, blood.time_s, blood.heart_rate_bpm),
        respiration=np.interp(at, blood.time_s, blood.respiration),
        arousal=np.interp(at, drawn.body.time_s, drawn.body.arousal),
        blood_arousal=np.interp(at, blood.time_s, blood.blood_arousal),
        beats_s=blood.beats_s,
        eeg_beats_s=drawn.body.beats_s,
        blinks_s=drawn.body.blinks_s,
    )
    _write_arrays(subject_folder / f"{name}.npz", asdict(truth))


def _at_slices(parameters_at: Any, num_volumes: int) -> Floats:  # noqa: ANN401 - times to (times, 6)
    times = REPETITION_TIME_S * np.arange(num_volumes)[:, None] + slice_times_s()
    result: Floats = parameters_at(times.ravel()).reshape(num_volumes, EPI_SHAPE[2], 6)
    return result


def _write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_whole(path, buffer.getbuffer())


def _read_arrays(path: Path) -> dict[str, Any]:
    with np.load(path) as arrays:
        return dict(arrays)
