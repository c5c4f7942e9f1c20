"""Error and CPU seconds of head motion and of the fMRI chain after it, on a full-size run of a template-made head.

Takes nothing; gives rows: how far off the poses of 170 volumes are within the brain, beside what there was to find and
what dipy's rigid registration leaves of a few volumes, and the CPU seconds of each step.
"""

import time
from collections.abc import Callable
from typing import Any

import nibabel
import numpy as np
from dipy.align.imaffine import AffineRegistration, MutualInformationMetric
from dipy.align.transforms import RigidTransform3D
from nibabel.affines import apply_affine
from nilearn import datasets as nilearn_datasets
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from benchmarks.table import Row, print_table, times
from datasets.bold import BoldSettings, prepare_bold
from datasets.grid import fluid_points_mm, mask_points_mm, tissue_mask
from datasets.motion import estimate_motion, motion_from_parameters, realigned_mean
from datasets.registration import Alignment
from datasets.slice_timing import named_slice_times

Floats = NDArray[np.float64]

SHAPE, NUM_VOLUMES, REPETITION_TIME_S = (64, 64, 32), 170, 2.0
AFFINE = np.array([[-3.0, 0, 0, 96], [0, 3, 0, -115], [0, 0, 4, -58], [0, 0, 0, 1]])
CENTRE_MM = np.array([0.0, -20, 10])
DRIFT = np.array([0.5, 0.5, 0.8, 0.006, 0.004, 0.004])
SPIKE, NUM_SPIKES = np.array([1.0, 1.0, 1.5, 0.02, 0.015, 0.015]), 8
NOISE, ACTIVATION = 10.0, 0.03
DIPY_VOLUMES = (40, 85, 130)


def measure() -> list[Row]:
    """Scan a moving head, then find its motion and prepare the run."""
    truth = _poses()
    image = _scan(truth)
    motion, seconds = _timed(lambda: estimate_motion(image))
    _, mean_seconds = _timed(lambda: realigned_mean(image, motion))
    chosen = [0, *DIPY_VOLUMES]
    dipys, dipy_seconds = _timed(lambda: _by_dipy(image, chosen))
    _ = tissue_mask(), fluid_points_mm()  # once a process
    bold_seconds = _timed(lambda: _prepared(image, motion.poses))[1]
    few = motion.poses[chosen]
    return [
        _row("mean distance within the brain that there is to find, mm", f"{_error_mm(np.eye(4)[None], truth):.3f}"),
        _row("mean error of estimate_motion, mm", f"{_error_mm(motion.poses, truth):.3f}"),
        _row("estimate_motion, CPU s", f"{seconds:.1f}"),
        _row(f"mean error on {len(chosen)} volumes, estimate_motion, mm", f"{_error_mm(few, truth[chosen]):.3f}"),
        _row(f"mean error on {len(chosen)} volumes, dipy's rigid, mm", f"{_error_mm(dipys, truth[chosen]):.3f}"),
        _row(
            "dipy's rigid, CPU s for as many volumes",
            f"{dipy_seconds / len(DIPY_VOLUMES) * NUM_VOLUMES:.0f}",
            times(dipy_seconds / len(DIPY_VOLUMES) * NUM_VOLUMES, seconds),
        ),
        _row("realigned_mean, CPU s", f"{mean_seconds:.1f}"),
        _row("prepare_bold with slice times and poses, CPU s", f"{bold_seconds:.1f}"),
    ]


def _row(what: str, value: str, ratio: str = "") -> Row:
    return Row(benchmark="motion", what=what, value=value, ratio=ratio)


def _timed(action: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    result = action()
    return result, time.process_time() - start


def _poses() -> Floats:
    """Return poses (volumes, 4, 4) that drift smoothly, with spikes."""
    random = np.random.default_rng(0)
    drift = ndimage.gaussian_filter1d(random.standard_normal((NUM_VOLUMES, 6)), 12, axis=0)
    parameters = drift / drift.std(axis=0) * DRIFT
    parameters[random.choice(NUM_VOLUMES, NUM_SPIKES, replace=False)] += SPIKE * random.standard_normal((NUM_SPIKES, 6))
    return motion_from_parameters(parameters, centre_mm=CENTRE_MM).poses


def _scan(poses: Floats) -> nibabel.Nifti1Image:
    """Return the run: an EPI-like head whose right hemisphere's top is active, and noise of about 1 %."""
    head, active, to_mni = _head()
    random = np.random.default_rng(1)
    volumes = np.empty((*SHAPE, len(poses)), dtype=np.float32, order="F")
    for index, pose in enumerate(poses):
        tissue = head + np.float32(ACTIVATION * np.sin(2 * np.pi * index / 20)) * active
        matrix = np.linalg.inv(pose @ to_mni) @ AFFINE
        volumes[..., index] = ndimage.affine_transform(tissue, matrix, output_shape=SHAPE, order=3, prefilter=False)
        volumes[..., index] += NOISE * random.standard_normal(SHAPE)
    image = nibabel.Nifti1Image(volumes, AFFINE)
    image.get_fdata(dtype=np.float32)
    return image


def _head() -> tuple[NDArray[np.float32], NDArray[np.float32], Floats]:
    """Return the spline coefficients of the head and of its active part, and the affine of both."""
    template = nilearn_datasets.load_mni152_template(resolution=1)
    grey = nilearn_datasets.load_mni152_gm_template(resolution=1).get_fdata(dtype=np.float32)
    white = nilearn_datasets.load_mni152_wm_template(resolution=1).get_fdata(dtype=np.float32)
    fluid = np.clip((template.get_fdata(dtype=np.float32) > 0.1) - grey - white, 0, 1)
    tissue = ndimage.gaussian_filter(900 * grey + 700 * white + 1100 * fluid, 1.2)
    active = np.zeros_like(tissue)
    active[120:150, 80:130, 100:130] = tissue[120:150, 80:130, 100:130]
    coefficients = [ndimage.spline_filter(part, order=3, output=np.float32) for part in (tissue, active)]
    return coefficients[0], coefficients[1], template.affine


def _error_mm(found: Floats, truth: Floats) -> float:
    """Return the mean distance between where poses put points of the brain, without what is common to all."""
    points = np.random.default_rng(5).uniform(-1, 1, (3000, 3))
    points = CENTRE_MM + points[np.linalg.norm(points, axis=1) < 1] * [65, 80, 55]
    back = np.stack([apply_affine(matrix, points) for matrix in np.linalg.inv(truth) @ found])
    middle, average = points.mean(axis=0), back.mean(axis=0)
    rotation = Rotation.align_vectors(average - average.mean(axis=0), points - middle)[0]
    common = rotation.apply(points - middle) + average.mean(axis=0)
    return float(np.linalg.norm(back - common, axis=2).mean())


def _by_dipy(image: nibabel.Nifti1Image, chosen: list[int]) -> Floats:
    """Return the poses (chosen, 4, 4) of some volumes from the first of them, by mutual information."""
    volumes = np.moveaxis(image.get_fdata(dtype=np.float32)[..., chosen].astype(np.float64), 3, 0)
    registration = AffineRegistration(metric=MutualInformationMetric(nbins=32), verbosity=0)
    found = [np.eye(4)]
    for volume in volumes[1:]:
        optimum = registration.optimize(
            volumes[0],
            volume,
            RigidTransform3D(),
            None,
            static_grid2world=AFFINE,
            moving_grid2world=AFFINE,
        )
        found.append(optimum.affine)
    return np.stack(found)


def _prepared(image: nibabel.Nifti1Image, poses: Floats) -> object:
    return prepare_bold(
        image,
        Alignment(method="header", epi_to_t1=np.eye(4), t1_to_mni=np.eye(4)),
        tissue_mask(),
        mask_points_mm(tissue_mask()),
        BoldSettings(),
        repetition_time_s=REPETITION_TIME_S,
        poses=poses,
        slice_times_s=named_slice_times("ascending", SHAPE[2], REPETITION_TIME_S),
    )


if __name__ == "__main__":
    print_table(measure())
