"""``python -m benchmarks.preparation``: how near preparation comes to a simulated study's truth, and what it costs.

Simulates two subjects at full size with motion, warped heads and artefacts, prepares them, and compares: head motion,
where points of the mask lie in the EPI, the planted signal; then CPU time, memory, bytes, and two workers against one.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from benchmarks.table import Row, print_table, times
from datasets.bold import BoldSettings, high_pass, prepare_bold, smooth_in_mask
from datasets.grid import mask_points_mm, tissue_mask
from datasets.motion import Motion, estimate_motion, realigned_mean
from datasets.oddball import find_recordings
from datasets.preparation import prepare_subject
from datasets.reading import checked_bold, read_slice_times
from datasets.recording import Recording
from datasets.registration import align, epi_brain
from datasets.run_preparation import PreparationSettings
from datasets.shards import read_manifest
from datasets.simulator.study import SimulationSettings, simulate_study, truth_folder
from datasets.simulator.truth import planted_signal, true_epi_points, true_poses
from datasets.storage import open_storage

NAME = "preparation"
STUDY = SimulationSettings(subjects=2, runs=2, volumes=170, signal="realistic", seed=3)
NAIVE_BYTES = 155 * (34 * 30_000 + 64_820) * 4
RESPONSIVE = 0.5
"""A voxel counts where the planted signal's standard deviation is at least this share of the largest."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class TrueAlignment:
    """The way to the EPI that a perfect registration would find; stands where an ``Alignment`` does."""

    subject: Path
    from_rest: Floats

    def epi_points(self, points_mm: Floats) -> Floats:
        """Return where points of MNI space lie in the reference, mm."""
        return np.asarray(apply_affine(self.from_rest, true_epi_points(self.subject, points_mm)))


def measure() -> list[Row]:
    """Return one row for each figure."""
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "raw"
        simulate_study(study, STUDY, workers=2)
        recordings = [each for each in find_recordings(study) if each.subject == "sub-01"]
        truth = truth_folder(study) / "sub001"
        return [
            *accuracy(recordings[0], truth, run="task001_run001"),
            *cost(recordings, Path(folder) / "cost"),
            *workers(study, Path(folder)),
        ]


def accuracy(recording: Recording, truth: Path, run: str) -> list[Row]:
    """Compare a run's motion, its way to MNI and its signal with the truth."""
    image = checked_bold(recording)
    motion, poses = estimate_motion(image), true_poses(truth, run)
    reference = realigned_mean(image, motion)
    from_rest = _average([np.linalg.inv(found) @ true for found, true in zip(motion.poses, poses, strict=True)])
    brain_mm = apply_affine(reference.affine, np.argwhere(epi_brain(reference)))
    t1 = nibabel.Nifti1Image.from_filename(recording.t1)
    alignment = align(reference, t1, method=BoldSettings().registration)
    perfect = TrueAlignment(subject=truth, from_rest=from_rest)
    points_mm = mask_points_mm(tissue_mask())
    misplaced_mm = np.linalg.norm(alignment.epi_points(points_mm) - perfect.epi_points(points_mm), axis=1)
    true_motion = [true @ np.linalg.inv(from_rest) for true in poses]
    found_r, true_r, still_r = (
        _planted_r(image, recording, way, moved, truth, run)
        for way, moved in ((alignment, motion.poses), (perfect, np.array(true_motion)), (alignment, None))
    )
    return [
        _row("head motion, mean error in the brain", f"{_motion_error_mm(motion, poses, from_rest, brain_mm):.3f} mm"),
        _row("  to be removed", f"{_moved_mm(poses, brain_mm):.3f} mm"),
        _row("mask point to EPI, median error", f"{np.median(misplaced_mm):.2f} mm"),
        _row("  95th percentile", f"{np.percentile(misplaced_mm, 95):.2f} mm"),
        _row("r with the planted signal, everything estimated", f"{found_r:.4f}", times(found_r, true_r)),
        _row("  true motion and warp", f"{true_r:.4f}", "1 x"),
        _row("  estimated warp, no motion correction", f"{still_r:.4f}", times(still_r, true_r)),
    ]


def cost(recordings: Sequence[Recording], shards: Path) -> list[Row]:
    """Prepare one run and then two of a subject, each in a process of its own, and compare their CPU time."""
    one, two = (_in_own_process(recordings[:count], shards / str(count)) for count in (1, 2))
    record = json.loads((shards / "1" / "sub-01" / "subject.json").read_text())
    size = record["shards"][0]["bytes"]
    return [
        _row("CPU of a further run of 170 volumes", f"{two['cpu_s'] - one['cpu_s']:.1f} s"),
        _row("CPU of a subject, beside its runs", f"{2 * one['cpu_s'] - two['cpu_s']:.1f} s"),
        _row("largest memory of the process", f"{two['memory_gb']:.2f} GB"),
        _row("a run's shard", f"{size / 1e6:.1f} MB"),
        _row("one row per window, float32", f"{NAIVE_BYTES / 1e6:.0f} MB", times(NAIVE_BYTES, size)),
    ]


def workers(study: Path, folder: Path) -> list[Row]:
    """Prepare both subjects by the command, with one worker and with two."""
    seconds, digests = [], []
    for count in (1, 2):
        shards = folder / f"workers-{count}"
        start = time.perf_counter()
        command = (sys.executable, "-m", "datasets.prepare", str(study), str(shards), "--workers", str(count))
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
        digests.append(read_manifest(open_storage(shards)).digest)
    same = "same bytes" if digests[0] == digests[1] else "OTHER BYTES"
    return [
        _row("two subjects of two runs, 1 worker", f"{seconds[0]:.0f} s", "1 x"),
        _row("the same with 2 workers", f"{seconds[1]:.0f} s, {same}", times(seconds[0], seconds[1])),
    ]


def _planted_r(
    image: nibabel.Nifti1Image, recording: Recording, alignment: object, poses: Floats | None, truth: Path, run: str
) -> float:
    """Return the mean correlation of prepared voxels with the signal planted there, over responsive voxels."""
    mask, tr_s = tissue_mask(), recording.repetition_time_s
    points_mm, settings = mask_points_mm(mask), BoldSettings()
    series = prepare_bold(
        image,
        alignment,  # type: ignore[arg-type] # the truth stands for it
        mask,
        points_mm,
        settings,
        repetition_time_s=tr_s,
        poses=poses,
        slice_times_s=read_slice_times(recording, image.shape[2]),
    )
    middle_s = tr_s * (np.arange(image.shape[3]) + 0.5)
    planted = planted_signal(truth, run, points_mm, middle_s).astype(np.float32)
    planted = high_pass(smooth_in_mask(planted, mask, settings.fwhm_mm or 6.0), tr_s, settings.high_pass_seconds or 128)
    strength = planted.std(axis=0)
    chosen = series.coverage & (strength > RESPONSIVE * strength.max())
    z = planted[:, chosen] / strength[chosen]
    return float((z * series.z[:, chosen]).mean(axis=0).mean())


def _motion_error_mm(motion: Motion, poses: Floats, from_rest: Floats, points_mm: Floats) -> float:
    rest_mm = apply_affine(np.linalg.inv(from_rest), points_mm)
    errors = [
        np.linalg.norm(apply_affine(found, points_mm) - apply_affine(true, rest_mm), axis=1).mean()
        for found, true in zip(motion.poses, poses, strict=True)
    ]
    return float(np.mean(errors))


def _moved_mm(poses: Floats, points_mm: Floats) -> float:
    average = _average(list(poses))
    return float(
        np.mean([np.linalg.norm(apply_affine(pose @ np.linalg.inv(average), points_mm) - points_mm, axis=1).mean()
                 for pose in poses])
    )  # fmt: skip


def _average(poses: Sequence[Floats]) -> Floats:
    """Return the rigid matrix nearest to all of these."""
    average = np.eye(4)
    average[:3, :3] = Rotation.from_matrix([pose[:3, :3] for pose in poses]).mean().as_matrix()
    average[:3, 3] = np.mean([pose[:3, 3] for pose in poses], axis=0)
    return average


def _in_own_process(recordings: Sequence[Recording], shards: Path) -> dict[str, float]:
    names = [recording.name for recording in recordings]
    study = recordings[0].bold[0].parents[3]
    command = (sys.executable, "-m", "benchmarks.preparation", str(study), str(shards), *names)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    cost: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return cost


def _prepare_and_tell(study: Path, shards: Path, names: Sequence[str]) -> None:
    start = time.process_time()
    recordings = [recording for recording in find_recordings(study) if recording.name in names]
    prepare_subject(recordings, str(shards), PreparationSettings())
    memory_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({"cpu_s": time.process_time() - start, "memory_gb": memory_gb}))


def _row(what: str, value: str, ratio: str = "") -> Row:
    return Row(benchmark=NAME, what=what, value=value, ratio=ratio)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _prepare_and_tell(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
    else:
        print_table(measure())
