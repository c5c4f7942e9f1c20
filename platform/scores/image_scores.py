"""Scores of volumes as images, as published work reports them: MSE, SSIM, PSNR, all given the subject's own mean image.

Takes predictions and volumes of one run over the mask, and the subject's mean and standard deviation; gives one number
per score.  They are reported and nothing is ever ranked by them: "always the mean" scores almost as well as the truth,
so they are worth only what they are beyond the prediction of the mean (``zero``).

Volumes are counted in units of the subject's median, volume / median - 1; the median is one number, that of the mean
image within the mask.  Outside the mask images are 0, and count for nothing.

Legend of shapes: T volumes of one run, V voxels of the mask, X Y Z the grid.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from platform.scores.metrics import FloatArray

SSIM_WINDOW = 7
SSIM_VOLUMES = 16
"""Volumes of a run, evenly spaced, of which SSIM is the mean: each costs as much as all other scores."""
_K1, _K2 = 0.01, 0.03

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class SubjectImage:
    """A subject's own mean image.

    Attributes:
        mean_V, deviation_V: over the subject's runs, in the images' own units.
        indices_V3: grid index of each voxel.
        grid_shape: of the grid.
    """

    mean_V: Floats
    deviation_V: Floats
    indices_V3: NDArray[np.int64]
    grid_shape: tuple[int, int, int]

    @property
    def median(self) -> float:
        """The subject's median: of the mean image, within the mask."""
        return float(np.median(self.mean_V))

    @property
    def data_range(self) -> float:
        """From the darkest to the brightest voxel of the mean image, in units of the median."""
        return float(np.ptp(self.mean_V)) / self.median


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageRun:
    """One run in units of the subject's median: prediction and truth."""

    prediction_TV: FloatArray
    target_TV: FloatArray
    subject: SubjectImage


def image_scores(prediction_TV: FloatArray, target_TV: FloatArray, subject: SubjectImage) -> dict[str, float]:
    """Return every score of one run's z-scored volumes, neither of them high-passed; none without a mean image."""
    if subject.median <= 0 or subject.data_range <= 0:
        return {}
    run = ImageRun(
        prediction_TV=_in_medians(prediction_TV, subject), target_TV=_in_medians(target_TV, subject), subject=subject
    )
    return {name: score(run) for name, score in IMAGE_SCORES.items()}


def mean_squared_error(run: ImageRun) -> float:
    """Return the mean over volumes and voxels of the squared error, in the units of the published table."""
    return float(np.square(run.prediction_TV - run.target_TV, dtype=np.float64).mean())


def peak_signal_to_noise(run: ImageRun) -> float:
    """Return the mean image's range over the error, squared, in dB; infinite for a perfect prediction."""
    error = mean_squared_error(run)
    return float(10 * np.log10(run.subject.data_range**2 / error)) if error > 0 else float("inf")


def structural_similarity(run: ImageRun) -> float:
    """Return SSIM (Wang et al. 2004, windows of 7 x 7 x 7 voxels, smaller on a smaller grid), averaged over the mask.

    Voxels whose window reaches over the grid's edge count as scikit-image counts them: the image is mirrored there.
    """
    num_volumes = len(run.target_TV)
    chosen = np.unique(np.linspace(0, num_volumes - 1, min(SSIM_VOLUMES, num_volumes)).round().astype(int))
    return float(np.mean([_similarity(run.prediction_TV[at], run.target_TV[at], run.subject) for at in chosen]))


IMAGE_SCORES: dict[str, Callable[[ImageRun], float]] = {
    "mse_given_own_mean": mean_squared_error,
    "ssim_given_own_mean": structural_similarity,
    "psnr_db_given_own_mean": peak_signal_to_noise,
}


def _in_medians(scored_TV: FloatArray, subject: SubjectImage) -> FloatArray:
    volumes_TV = subject.mean_V + subject.deviation_V * scored_TV
    return np.asarray(volumes_TV / subject.median - 1, np.float32)


def _similarity(prediction_V: FloatArray, target_V: FloatArray, subject: SubjectImage) -> float:
    grid = tuple(subject.indices_V3.T)
    images = np.zeros((2, *subject.grid_shape))
    images[0][grid], images[1][grid] = prediction_V, target_V
    return float(similarity_map(images[0], images[1], subject.data_range)[grid].mean())


def similarity_map(one_XYZ: Floats, other_XYZ: Floats, data_range: float) -> Floats:
    """Return SSIM around every voxel."""
    window = min(SSIM_WINDOW, *(side - (side + 1) % 2 for side in one_XYZ.shape))
    unbiased = window**3 / (window**3 - 1)

    def mean(image_XYZ: Floats) -> Floats:
        return np.asarray(uniform_filter(image_XYZ, window))

    mean_one, mean_other = mean(one_XYZ), mean(other_XYZ)
    variance_one, variance_other, covariance = (
        unbiased * (mean(first * second) - mean_first * mean_second)
        for first, second, mean_first, mean_second in (
            (one_XYZ, one_XYZ, mean_one, mean_one),
            (other_XYZ, other_XYZ, mean_other, mean_other),
            (one_XYZ, other_XYZ, mean_one, mean_other),
        )
    )
    low, high = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    alike = (2 * mean_one * mean_other + low) * (2 * covariance + high)
    return np.asarray(alike / ((mean_one**2 + mean_other**2 + low) * (variance_one + variance_other + high)))
