"""From a run's BOLD image to z-scored series of the mask's voxels.

Takes a 4-D NIfTI image and the subject's alignment; gives float32 series (volumes, voxels), voxels in C order of the
mask: slice times corrected on the scanner's own grid, then each volume resampled once, at the mask's points only,
through motion and alignment together, then smoothed in the mask, high-passed and z-scored.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nibabel
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage, sparse

from datasets.errors import BadInput
from datasets.grid import GRID_SHAPE, VOXEL_MM, fluid_points_mm, tissue_probabilities
from datasets.registration import METHODS, Alignment
from datasets.slice_timing import SLICE_ORDERS, correct_slice_times

logger = logging.getLogger(__name__)

Series = NDArray[np.float32]
Mask = NDArray[np.bool_]

FWHM_PER_SIGMA = float(np.sqrt(8 * np.log(2)))
VOLUMES_AT_ONCE = 16
TAPS = 4
TISSUE_NAMES = ("global_signal", "grey_signal", "white_signal", "csf_signal")
TISSUE_PROBABILITY = 0.8  # of a voxel that counts as grey or as white: neighbours share little
CONSTANT_BELOW = 1e-5  # of a voxel's mean: float32 noise, a thousandth of what BOLD varies by


@dataclass(frozen=True, kw_only=True)
class BoldSettings:
    """What a user may vary about the preparation of BOLD; None leaves a step out.

    Attributes:
        registration: one of registration.METHODS.
        motion: whether head motion is estimated, and undone by the one resampling.
        slice_order: one of slice_timing.SLICE_ORDERS; None: what the data set says.
        fwhm_mm: of the smoothing within the mask.
        high_pass_seconds: slower changes are removed.
    """

    registration: str = "syn"
    motion: bool = True
    slice_order: str | None = None
    fwhm_mm: float | None = 6.0
    high_pass_seconds: float | None = 128.0

    def __post_init__(self) -> None:
        if self.registration not in METHODS:
            raise BadInput(f"registration must be one of {', '.join(METHODS)}, but got {self.registration!r}")
        if self.slice_order is not None and self.slice_order not in SLICE_ORDERS:
            raise BadInput(f"slice_order must be one of {', '.join(SLICE_ORDERS)}, but got {self.slice_order!r}")
        for name, value in (("fwhm_mm", self.fwhm_mm), ("high_pass_seconds", self.high_pass_seconds)):
            if value is not None and not 0 < value < np.inf:
                raise BadInput(f"{name} must be a number above 0, or None to leave the step out, but got {value}")


@dataclass(frozen=True, kw_only=True, eq=False)
class BoldSeries:
    """One run's prepared BOLD: a volume without its drift is ``mean + standard_deviation * z[volume]``.

    z is float32 (volumes, voxels); mean, standard_deviation (float32) and coverage (bool) are (voxels,).  Where
    coverage is False the voxel lay outside the field of view and all its numbers are 0.  ``tissue`` holds a series
    (volumes,) by each of TISSUE_NAMES, in % of its mean, high-passed as z is, but of voxels that were not smoothed.
    """

    z: Series
    mean: Series
    standard_deviation: Series
    coverage: Mask
    tissue: Mapping[str, NDArray[np.float64]]


def prepare_bold(
    image: nibabel.Nifti1Image,
    alignment: Alignment,
    mask: Mask,
    points_mm: NDArray[np.float64],
    settings: BoldSettings,
    *,
    repetition_time_s: float,
    poses: NDArray[np.float64] | None = None,
    slice_times_s: NDArray[np.float64] | None = None,
) -> BoldSeries:
    """Shift all slices to the middle of the volume's time, resample, smooth, high-pass and z-score one run.

    ``points_mm`` are the mask's points (voxels, 3), ``poses`` as in ``to_grid``, ``slice_times_s`` (slices,) the
    seconds at which the slices along the image's third axis are taken; None leaves the step out.  The mean is taken
    before, the standard deviation after the high-pass.  BadInput where the image cannot be used.
    """
    volumes, is_known = _volumes(image)
    if slice_times_s is not None:
        volumes = correct_slice_times(volumes, slice_times_s, repetition_time_s, reference_s=repetition_time_s / 2)
    everywhere = np.concatenate([points_mm, fluid_points_mm()])
    sampled, is_covered = _sample(volumes, is_known, image.affine, alignment.epi_points(everywhere), poses)
    series, coverage = sampled[:, : len(points_mm)], is_covered[: len(points_mm)]
    _check_coverage(coverage)
    fluid = sampled[:, len(points_mm) :][:, is_covered[len(points_mm) :]]
    tissue = tissue_signals(series, coverage, mask, fluid=fluid)
    if settings.fwhm_mm is not None:
        series = smooth_in_mask(series, mask, settings.fwhm_mm, coverage=coverage)
    mean = _mean(series)
    if settings.high_pass_seconds is not None:
        series = high_pass(series, repetition_time_s, settings.high_pass_seconds)
    z, _, deviation = standardise(series, smallest_deviation=CONSTANT_BELOW * np.abs(mean))
    return BoldSeries(
        z=z,
        mean=mean,
        standard_deviation=deviation,
        coverage=coverage,
        tissue={name: _percent(signal, repetition_time_s, settings) for name, signal in tissue.items()},
    )


def tissue_signals(
    series: Series, coverage: Mask, mask: Mask, *, fluid: Series | None = None
) -> dict[str, NDArray[np.float64]]:
    """Return the mean over covered voxels of each tissue, (volumes,), by TISSUE_NAMES; nan where there is no voxel.

    ``series`` are (volumes, voxels of the mask); ``fluid`` (volumes, points) is what the image has at
    ``grid.fluid_points_mm``, as the mask holds no fluid.
    """
    grey, white = tissue_probabilities()
    chosen = (coverage, coverage & (grey[mask] > TISSUE_PROBABILITY), coverage & (white[mask] > TISSUE_PROBABILITY))
    parts = [*(series[:, voxels] for voxels in chosen), series[:, :0] if fluid is None else fluid]
    nothing = np.full(len(series), np.nan)
    means = [part.mean(axis=1, dtype=np.float64) if part.shape[1] else nothing for part in parts]
    return dict(zip(TISSUE_NAMES, means, strict=True))


def to_grid(
    image: nibabel.Nifti1Image,
    alignment: Alignment,
    points_mm: NDArray[np.float64],
    *,
    poses: NDArray[np.float64] | None = None,
) -> tuple[Series, Mask]:
    """Return the image's series at points in MNI mm, (volumes, points), and which points it covers, (points,).

    Each volume is interpolated once, by a cubic B-spline.  ``poses`` (volumes, 4, 4) map a point of the scanner space
    that the alignment was made in to where that tissue lay at each volume, mm to mm; None means that nothing moved.
    A point is not covered, and its series 0, outside the field of view of any volume, and in a voxel that is not finite
    in all volumes, or is zero in all of them, as other pipelines leave what lies outside the brain.
    """
    series, covered = _sample(*_volumes(image), image.affine, alignment.epi_points(points_mm), poses)
    _check_coverage(covered)
    return series, covered


def smooth_in_mask(series: Series, mask: Mask, fwhm_mm: float, *, coverage: Mask | None = None) -> Series:
    """Smooth each volume (volumes, voxels) of the mask by a Gaussian that sees covered voxels of the mask only.

    The weights of the voxels that it sees are divided by their sum, so a constant stays constant up to the edge.
    Voxels that are not covered are 0 afterwards.
    """
    seen = np.array(mask)
    seen[mask] = True if coverage is None else coverage
    kept = seen[mask]
    sigma = fwhm_mm / VOXEL_MM / FWHM_PER_SIGMA
    weight = ndimage.gaussian_filter(seen.astype(np.float32), sigma, mode="constant")[seen]
    smoothed = np.zeros(series.shape, dtype=np.float32)
    volume = np.zeros(GRID_SHAPE, dtype=np.float32)
    for index, values in enumerate(series):
        volume[seen] = values[kept]
        smoothed[index, kept] = ndimage.gaussian_filter(volume, sigma, mode="constant")[seen] / weight
    return smoothed


def high_pass(series: Series, repetition_time_s: float, cutoff_s: float) -> Series:
    """Remove the mean and all cosines of a period above ``cutoff_s`` from series (volumes, voxels).

    Source: the discrete cosine set of SPM12's spm_filter: floor(2 T / cutoff) cosines beside the constant.
    """
    num_volumes = len(series)
    num_cosines = int(2 * num_volumes * repetition_time_s / cutoff_s)
    if num_cosines + 1 >= num_volumes:
        raise BadInput(
            f"the high-pass cut-off must be above {2 * repetition_time_s:g} s (two volumes) for anything to be left, "
            f"but is {cutoff_s:g} s"
        )
    centred = series - _mean(series)
    if not num_cosines:
        return centred
    angles = np.pi * (np.arange(num_volumes) + 0.5) / num_volumes
    cosines = np.sqrt(2 / num_volumes) * np.cos(angles[:, np.newaxis] * np.arange(1, num_cosines + 1))
    basis = cosines.astype(np.float32)
    centred -= basis @ (basis.T @ centred)
    return centred


def standardise(
    series: Series, *, smallest_deviation: NDArray[np.floating[Any]] | float = 0.0
) -> tuple[Series, Series, Series]:
    """Return series (volumes, voxels) z-scored per voxel, and the means and standard deviations (voxels,).

    A voxel that varies by no more than ``smallest_deviation`` counts as constant: its z and standard deviation are 0.
    """
    mean = _mean(series)
    z = series - mean
    deviation = np.sqrt(np.einsum("vx,vx->x", z, z) / len(series))
    varies = deviation > smallest_deviation
    z *= np.where(varies, 1 / np.where(varies, deviation, 1), 0).astype(np.float32)
    return z, mean, np.where(varies, deviation, 0).astype(np.float32)


def _percent(signal: NDArray[np.float64], repetition_time_s: float, settings: BoldSettings) -> NDArray[np.float64]:
    """Return a series (volumes,) in % about its mean, without what the high-pass removes."""
    mean = signal.mean()
    if not mean:
        return np.zeros_like(signal)
    percent = (100 * (signal / mean - 1)).astype(np.float32)[:, np.newaxis]
    if settings.high_pass_seconds is not None:
        percent = high_pass(percent, repetition_time_s, settings.high_pass_seconds)
    return percent[:, 0].astype(np.float64)


def _mean(series: Series) -> Series:
    return np.asarray(series.mean(axis=0, dtype=np.float64), dtype=np.float32)


def _volumes(image: nibabel.Nifti1Image) -> tuple[Series, Mask]:
    """Return the image (x, y, z, volumes), and which voxels (x, y, z) are finite in all volumes and not zero in all."""
    if len(image.shape) != 4 or min(image.shape[:3]) < TAPS or image.shape[3] < 2:
        raise BadInput(f"BOLD must be a 4-D image of 2 volumes and {TAPS} voxels an axis or more, but is {image.shape}")
    volumes = image.get_fdata(dtype=np.float32, caching="unchanged")
    is_finite = np.isfinite(volumes.sum(axis=3))
    if not is_finite.all():
        logger.warning("%d voxels of the BOLD image are not finite and count as not covered", (~is_finite).sum())
        volumes = np.where(is_finite[..., np.newaxis], volumes, 0)
    return np.asarray(volumes, dtype=np.float32), is_finite & volumes.any(axis=3)


def _check_coverage(covered: Mask) -> None:
    if not covered.any():
        raise BadInput("the BOLD image covers no voxel of the mask; check its affine and the registration")


def _sample(
    volumes: Series,
    is_known: Mask,
    affine: NDArray[np.float64],
    points_epi: NDArray[np.float64],
    poses: NDArray[np.float64] | None,
) -> tuple[Series, Mask]:
    to_voxels = np.linalg.inv(affine)
    if poses is not None:
        return _interpolate_moving(volumes, is_known, points_epi, to_voxels @ _checked(poses, volumes.shape[3]))
    voxels = apply_affine(to_voxels, points_epi)
    covered = _is_covered(voxels, is_known)
    return _interpolate_still(volumes, is_known, voxels, covered), covered


def _is_covered(voxels: NDArray[np.float64], is_known: Mask) -> Mask:
    """Tell which voxel coordinates (points, 3) lie in the field of view (voxels' full extent), in a known voxel."""
    last = np.array(is_known.shape) - 1
    inside = np.all((voxels >= -0.5) & (voxels <= last + 0.5), axis=1)
    if is_known.all():
        return np.asarray(inside)
    nearest = np.clip(np.rint(voxels), 0, last).astype(int)
    return np.asarray(inside & is_known[*nearest.T])


def _checked(poses: NDArray[np.float64], num_volumes: int) -> NDArray[np.float64]:
    if poses.shape != (num_volumes, 4, 4):
        raise ValueError(f"poses must have the shape {(num_volumes, 4, 4)}, but have {poses.shape}")
    return poses


def _coefficients(volumes: Series, is_known: Mask) -> Series:
    """Return cubic B-spline coefficients of volumes (x, y, z, volumes), 0 where unknown, mirrored at the borders."""
    coefficients = np.where(is_known[..., None], volumes, 0)
    for axis in range(3):
        coefficients = ndimage.spline_filter1d(coefficients, order=3, axis=axis, output=np.float32, mode="mirror")
    return coefficients


def _interpolate_still(volumes: Series, is_known: Mask, voxels: NDArray[np.float64], covered: Mask) -> Series:
    """Interpolate all volumes at the same points: one sparse matrix of weights, times the spline coefficients."""
    num_volumes = volumes.shape[3]
    weights = _spline_weights(voxels[covered], volumes.shape[:3])
    series = np.zeros((num_volumes, len(voxels)), dtype=np.float32)
    for start in range(0, num_volumes, VOLUMES_AT_ONCE):
        chunk = slice(start, start + VOLUMES_AT_ONCE)
        coefficients = _coefficients(volumes[..., chunk], is_known)
        series[chunk, covered] = (weights @ coefficients.reshape(weights.shape[1], -1)).T
    return series


def _interpolate_moving(
    volumes: Series, is_known: Mask, points_epi: NDArray[np.float64], to_voxels: NDArray[np.float64]
) -> tuple[Series, Mask]:
    """Interpolate each volume at its own points, through its own matrix (volumes, 4, 4) from mm to voxels."""
    series = np.zeros((volumes.shape[3], len(points_epi)), dtype=np.float32)
    covered = np.ones(len(points_epi), dtype=bool)
    for index, matrix in enumerate(to_voxels):
        voxels = apply_affine(matrix, points_epi)
        covered &= _is_covered(voxels, is_known)
        coefficients = _coefficients(volumes[..., index : index + 1], is_known)[..., 0]
        series[index] = ndimage.map_coordinates(coefficients, voxels.T, order=3, mode="mirror", prefilter=False)
    series[:, ~covered] = 0
    return series, covered


def _spline_weights(voxels: NDArray[np.float64], shape: tuple[int, ...]) -> sparse.csr_array:
    """Return the cubic B-spline weights (points, voxels) of the 64 neighbours of each point (points, 3).

    Source: Unser (1999), Splines: a perfect fit for signal and image processing, https://doi.org/10.1109/79.799930.
    """
    below = np.floor(voxels).astype(np.int64)
    along = [_taps(below[:, axis], voxels[:, axis] - below[:, axis], shape[axis]) for axis in range(3)]
    (x, weight_x), (y, weight_y), (z, weight_z) = along
    columns = (x[:, :, None, None] * shape[1] + y[:, None, :, None]) * shape[2] + z[:, None, None, :]
    weights = weight_x[:, :, None, None] * weight_y[:, None, :, None] * weight_z[:, None, None, :]
    starts = np.arange(len(voxels) + 1, dtype=np.int32) * TAPS**3
    size = (len(voxels), int(np.prod(shape)))
    return sparse.csr_array((weights.ravel(), columns.ravel().astype(np.int32), starts), shape=size)


def _taps(
    below: NDArray[np.int64], beyond: NDArray[np.float64], length: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the four neighbours (points, 4) along one axis, mirrored at its ends, and their weights."""
    index = np.abs(below[:, None] + np.arange(-1, 3))
    index = np.where(index > length - 1, 2 * (length - 1) - index, index)
    distance = np.abs(beyond[:, None] - np.arange(-1, 3))
    near, far = 2 / 3 - distance**2 + distance**3 / 2, (2 - distance) ** 3 / 6
    return index, np.where(distance < 1, near, far).astype(np.float32)
