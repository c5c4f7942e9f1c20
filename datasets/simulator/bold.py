"""Turn activity, body and head motion into the BOLD of one run, each slice at its own time and head position.

Takes a subject's head and traits and one run's courses; gives int16 volumes.  What varies is a sum of maps times
courses: sources, heart, breath, arousal, drift.  A slice shows the head as it lies at that slice's time: the image at
rest by a second-order Taylor series where tissue has moved less than TAYLOR_MM (error below 0.05 % of the mean), by
its cubic spline elsewhere; the smoother maps by a first-order series.

Legend of shapes: V volumes, Z slices, N voxels in and around the head (slice by slice), B of them in the brain, K maps.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from datasets.simulator.anatomy import EPI_SHAPE, EPI_ZOOMS_MM, EpiVoxels, Head
from datasets.simulator.levels import SignalLevel
from datasets.simulator.motion import Motion, poses
from datasets.simulator.physiology import BODY_COURSES, Physiology, body_courses
from datasets.simulator.same_bytes import product
from datasets.simulator.sources import (
    SOURCES,
    Activity,
    Floats,
    SubjectTraits,
    haemodynamics,
    standardised,
)

Floats32 = NDArray[np.float32]

REPETITION_TIME_S = 2.0
BLOB_FWHM_MM = 15.0
RESPONSIVE_WEIGHT = 0.5
"""A voxel is responsive where a source's blob is at least this high."""
DRIFT_PERCENT = 0.8
SMOOTH_NOISE_MM = 8.0
AUTOCORRELATION = 0.4
SMOOTH_PART = 0.5
"""Share of the noise (body, arousal apart) that is smooth in space and autocorrelated in time; the rest is thermal."""
AIR_INTENSITY = 12.0
TAYLOR_MM = 0.5
MEAN_SQUARED_WEIGHT = 0.466
"""Of a blob over its responsive voxels: the mean of exp(-r^2) for r up to half its FWHM, by volume."""
_NOISE_GRID_WIDTHS = 1.4
_SMALLEST_WEIGHT = 1e-3


@dataclass(frozen=True, kw_only=True)
class NeuralBold:
    """The sources' haemodynamic courses at ``time_s`` (s), each (sources, times).

    ``visible`` and ``hidden`` are of unit variance; ``percent`` is their sum as this subject has it, in % of the mean
    at a blob's centre.
    """

    time_s: Floats
    visible: Floats
    hidden: Floats
    percent: Floats

    def at(self, times_s: Floats) -> Floats:
        """Return ``percent`` at any times of the scan, (sources, times)."""
        return np.stack([np.interp(times_s, self.time_s, course) for course in self.percent])


def slice_times_s() -> Floats:
    """Return when each slice of a volume is taken, from the volume's start: upwards, one after the other."""
    return REPETITION_TIME_S * np.arange(EPI_SHAPE[2], dtype=np.float64) / EPI_SHAPE[2]


def neural_bold(activity: Activity, traits: SubjectTraits, level: SignalLevel) -> NeuralBold:
    """Return what the sources' activity does to blood: the part that EEG reflects, and the part that it does not."""
    in_scan = activity.time_s >= 0

    def responses(rows: Floats) -> Floats:
        return standardised(haemodynamics(rows, traits.peak_s)[:, in_scan])

    answers = (np.abs(activity.response).sum(axis=1) > 0)[:, None]
    spontaneous = np.where(answers, 1.0, 1 / np.sqrt(1 - level.evoked_part))
    visible = np.sqrt(level.amplitude_part) * spontaneous * responses(activity.amplitude)
    visible += np.sqrt(level.burst_part) * spontaneous * responses(activity.burst)
    visible += np.sqrt(level.phase_part) * spontaneous * responses(activity.phase)
    visible += np.sqrt(level.evoked_part) * answers * responses(activity.evoked)
    hidden = responses(activity.hidden)
    share = level.visible_part
    percent = level.neural_percent * (np.sqrt(share) * traits.gain[:, None] * visible + np.sqrt(1 - share) * hidden)
    return NeuralBold(time_s=activity.time_s[in_scan], visible=visible, hidden=hidden, percent=percent)


def blobs(mni_mm: Floats, fwhm_mm: float = BLOB_FWHM_MM) -> Floats32:
    """Return each source's weight at points (points, 3) of MNI space, float32 (points, sources), 1 at its centre."""
    width_mm = fwhm_mm / np.sqrt(8 * np.log(2))
    squared = np.stack([((mni_mm - np.array(source.position_mm)) ** 2).sum(axis=1) for source in SOURCES], axis=1)
    result: Floats32 = np.exp(-0.5 * squared / width_mm**2).astype(np.float32)
    return result


def noise_variance(level: SignalLevel) -> float:
    """Return the variance of all that is not neural, in units of that at a blob's centre.

    It makes ``visible_share`` true; body and arousal are part of it, drift, motion and the transient are not.
    """
    return MEAN_SQUARED_WEIGHT * (level.visible_part / level.visible_share - 1)


def noise_percents(level: SignalLevel) -> tuple[float, float]:
    """Return the standard deviations of smooth and of thermal noise in % of the mean."""
    nuisance = level.nuisance
    rest = level.neural_percent**2 * noise_variance(level) * (1 - nuisance.body_share - nuisance.arousal_share)
    return float(np.sqrt(SMOOTH_PART * rest)), float(np.sqrt((1 - SMOOTH_PART) * rest))


def body_maps(
    mni_mm: Floats, grey: Floats32, fluid: Floats32, level: SignalLevel, transient_percent: float
) -> Floats32:
    """Return how far each of BODY_COURSES moves voxels, in % of the mean, (voxels, courses).

    The pulse is strongest in fluid and arrives later away from the brain's base; breath acts on all, more so below; the
    slow courses act on grey matter.
    """
    delay = np.linalg.norm(mni_mm - np.array([0.0, -20.0, -40.0]), axis=1) / 80
    heart = 0.4 + 1.2 * fluid
    breath = 1 - mni_mm[:, 2] / 150
    slow = 0.4 + 0.8 * grey
    maps = np.stack(
        [
            heart * np.cos(delay), heart * np.sin(delay),
            breath * np.cos(mni_mm[:, 1] / 60), breath * np.sin(mni_mm[:, 1] / 60),
            slow, slow, slow, np.ones(len(mni_mm)),
        ],
        axis=1,
    )  # fmt: skip
    responsive = (blobs(mni_mm) >= RESPONSIVE_WEIGHT).any(axis=1)
    size = np.sqrt((maps[responsive] ** 2).mean(axis=0))
    budget = level.neural_percent**2 * noise_variance(level)
    share = level.nuisance.body_share / 6
    shares = np.array([*[share] * 6, level.nuisance.arousal_share, 0.0])
    scale = np.sqrt(budget * shares)
    scale[BODY_COURSES.index("transient")] = transient_percent
    result: Floats32 = (maps * (scale / size)).astype(np.float32)
    return result


def simulate_bold(
    neural: NeuralBold,
    head: Head,
    motion: Motion,
    body: Physiology,
    level: SignalLevel,
    num_volumes: int,
    rng: np.random.Generator,
) -> NDArray[np.int16]:
    """Return the volumes of one run, int16 (x, y, z, V), slice k of volume v taken at 2 v + ``slice_times_s()[k]``."""
    times_ZV = slice_times_s()[:, None] + REPETITION_TIME_S * np.arange(num_volumes)
    voxels, brain = head.epi, np.flatnonzero(head.epi.is_brain)
    percent_VB, slopes_3VB = _courses_of_brain(neural, head, brain, body, level, times_ZV, rng)
    back_VZ = np.linalg.inv(poses(motion.at(times_ZV.T.ravel()))).reshape(num_volumes, EPI_SHAPE[2], 4, 4)
    smooth_percent, thermal_percent = (np.float32(percent) for percent in noise_percents(level))
    indices = np.stack(np.unravel_index(voxels.index[brain], EPI_SHAPE[::-1])[::-1], axis=1)
    smooth = SmoothNoise(indices, EPI_SHAPE, EPI_ZOOMS_MM, SMOOTH_NOISE_MM, rng)
    volumes = np.empty((num_volumes, int(np.prod(EPI_SHAPE))), dtype=np.int16)
    for volume, percent_B in enumerate(percent_VB):
        moved_3N = _moved(voxels, back_VZ[volume])
        percent_B += (moved_3N[:, brain] * slopes_3VB[:, volume]).sum(axis=0)
        percent_B += smooth_percent * smooth.next()
        percent_N = thermal_percent * rng.standard_normal(len(voxels.index), dtype=np.float32)
        percent_N[brain] += percent_B
        image = np.float32(AIR_INTENSITY) * np.abs(rng.standard_normal(volumes.shape[1], dtype=np.float32))
        shown_N = _shown(head, moved_3N) * (1 + percent_N / 100)
        image[voxels.index] = np.maximum(image[voxels.index], shown_N)
        volumes[volume] = np.rint(image).clip(0, 32767)
    result: NDArray[np.int16] = volumes.reshape(num_volumes, *EPI_SHAPE[::-1]).transpose(3, 2, 1, 0)
    return result


class SmoothNoise:
    """Noise of unit variance at some voxels of a grid, smooth in space, AR(1) in time, float32, volume after volume.

    White noise on a coarse grid times a Gaussian of ``fwhm_mm`` at each voxel, one axis after another.
    """

    def __init__(
        self,
        voxels: NDArray[np.integer[Any]],
        shape: tuple[int, ...],
        zooms_mm: tuple[float, ...],
        fwhm_mm: float,
        rng: np.random.Generator,
    ) -> None:
        x, y, z = voxels.T.astype(np.int64)
        self.index = (x * shape[2] + z) * shape[1] + y
        self.kernels = [_kernel(size, zoom, fwhm_mm / 2.355) for size, zoom in zip(shape, zooms_mm, strict=True)]
        self.rng = rng
        self.last = self._fresh()

    def next(self) -> Floats32:
        """Return the next volume at the voxels."""
        fresh = np.float32(np.sqrt(1 - AUTOCORRELATION**2)) * self._fresh()
        self.last = np.float32(AUTOCORRELATION) * self.last + fresh
        return self.last

    def _fresh(self) -> Floats32:
        x, y, z = self.kernels
        white = self.rng.standard_normal((z.shape[1], y.shape[1] * x.shape[1]), dtype=np.float32)
        in_slices = (z @ white).reshape(z.shape[0], y.shape[1], x.shape[1])
        in_rows = y @ in_slices.transpose(1, 0, 2).reshape(y.shape[1], -1)
        in_columns = x @ in_rows.reshape(y.shape[0], z.shape[0], x.shape[1]).transpose(2, 1, 0).reshape(x.shape[1], -1)
        result: Floats32 = in_columns.ravel()[self.index]
        return result


def _kernel(size: int, zoom_mm: float, width_mm: float) -> sparse.csr_array:
    """Return the Gaussian weights (voxels, coarse points) along one axis, each voxel's squares summing to 1.

    Sparse: most weights are 0.
    """
    voxels = zoom_mm * np.arange(size)
    step_mm = _NOISE_GRID_WIDTHS * width_mm
    coarse = np.arange(-2 * step_mm, voxels[-1] + 2.1 * step_mm, step_mm)
    weights = np.exp(-0.5 * ((voxels[:, None] - coarse) / width_mm) ** 2)
    weights[weights < _SMALLEST_WEIGHT] = 0
    return sparse.csr_array((weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32))


def _courses_of_brain(
    neural: NeuralBold,
    head: Head,
    brain: NDArray[np.intp],
    body: Physiology,
    level: SignalLevel,
    times_ZV: Floats,
    rng: np.random.Generator,
) -> tuple[Floats32, Floats32]:
    """Return brain voxels' courses in % at their slices' times, (V, B), and how they change per mm, (3, V, B)."""
    voxels = head.epi
    mni_mm, grey, fluid = voxels.mni_mm[brain], voxels.grey[brain], voxels.fluid[brain]
    weights_BK = blobs(mni_mm)
    slopes_3BK = _blob_slopes(weights_BK, mni_mm, head)
    body_BK = body_maps(mni_mm, grey, fluid, level, body.transient_percent)
    drift_BK, drift_2 = _drift_maps(voxels.points_mm[brain], rng), _drift_courses(times_ZV)
    maps_BK = np.hstack([weights_BK, body_BK, drift_BK])
    starts = np.searchsorted(brain, voxels.starts)
    shape = (times_ZV.shape[1], len(brain))
    percent_VB, slopes_3VB = np.empty(shape, dtype=np.float32), np.empty((3, *shape), dtype=np.float32)
    for number, times_V in enumerate(times_ZV):
        within = slice(starts[number], starts[number + 1])
        sources_VK = neural.at(times_V).T.astype(np.float32)
        others_VK = np.vstack([body_courses(body, times_V), drift_2[:, number]]).T.astype(np.float32)
        percent_VB[:, within] = product(np.hstack([sources_VK, others_VK]), maps_BK[within].T)
        for axis, slopes_BK in enumerate(slopes_3BK):
            slopes_3VB[axis, :, within] = product(sources_VK, slopes_BK[within].T)
    return percent_VB, slopes_3VB


def _blob_slopes(weights_BK: Floats32, mni_mm: Floats, head: Head) -> Floats32:
    """Return how the blobs change per mm along the scanner's axes, (3, B, sources), the warp's own slope left out."""
    width_mm = BLOB_FWHM_MM / np.sqrt(8 * np.log(2))
    mni_of_step = np.linalg.inv(head.space.scanner_from_mni)[:3, :3]
    slopes = np.empty((3, *weights_BK.shape), dtype=np.float32)
    for index, source in enumerate(SOURCES):
        towards = product(np.array(source.position_mm) - mni_mm, mni_of_step) / width_mm**2
        slopes[:, :, index] = towards.T * weights_BK[:, index]
    return slopes


def _drift_maps(points_mm: Floats32, rng: np.random.Generator) -> Floats32:
    """Return how far a line and a wave over the run move voxels, (N, 2), each with its own slope over space."""
    reach_mm = np.array(EPI_SHAPE) * np.array(EPI_ZOOMS_MM) / 2
    slopes = rng.normal(0, 0.5, (3, 2))
    maps = rng.normal(size=2) + product((points_mm - points_mm.mean(axis=0)) / reach_mm, slopes)
    result: Floats32 = (DRIFT_PERCENT * maps).astype(np.float32)
    return result


def _drift_courses(times_s: Floats) -> Floats:
    """Return a line and a wave over the run at times of any shape, (2, ...)."""
    time = 2 * times_s / times_s.max() - 1
    return np.stack([time, np.cos(np.pi * time)])


def _moved(voxels: EpiVoxels, back_Z44: Floats) -> Floats32:
    """Return how far from each voxel the tissue lies at rest that it shows now, (3, N) in mm."""
    moved_3N = np.empty((3, len(voxels.index)), dtype=np.float32)
    change = (back_Z44[:, :3] - np.eye(4)[:3]).astype(np.float32)
    for number, (start, stop) in enumerate(zip(voxels.starts[:-1], voxels.starts[1:], strict=True)):
        turn, shift = change[number, :, :3], change[number, :, 3:]
        moved_3N[:, start:stop] = turn @ voxels.points_mm[start:stop].T + shift
    return moved_3N


def _shown(head: Head, moved_3N: Floats32) -> Floats32:
    """Return what each voxel shows of the head at rest, that far from itself."""
    x, y, z = moved_3N
    xx, yy, zz, xy, xz, yz = head.epi.curvature
    slope_x, slope_y, slope_z = head.epi.slope
    shown = head.epi.intensity + x * (slope_x + 0.5 * x * xx + y * xy + z * xz)
    shown += y * (slope_y + 0.5 * y * yy + z * yz) + z * (slope_z + 0.5 * z * zz)
    far = np.flatnonzero(x * x + y * y + z * z > TAYLOR_MM**2)
    if len(far):
        shown[far] = head.epi_at(head.epi.points_mm[far] + moved_3N[:, far].T)
    result: Floats32 = shown
    return result
