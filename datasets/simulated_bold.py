"""Turn neural activity into the BOLD of one run: blobs in MNI space, each slice at its own time, and noise.

Takes a subject's head and traits and the activity of one run; gives int16 volumes.  Later realism (head motion,
distortion, pulse and breathing) belongs beside ``_noise``: another term of the sum in ``simulate_bold``.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from datasets.simulated_anatomy import EPI_SHAPE, Head, mni_positions_mm
from datasets.simulated_sources import (
    SOURCES,
    Activity,
    Floats,
    SignalLevel,
    SubjectTraits,
    haemodynamics,
    standardised,
)

Floats32 = NDArray[np.float32]

REPETITION_TIME_S = 2.0
BLOB_FWHM_MM = 15.0
RESPONSIVE_WEIGHT = 0.5
"""A voxel is responsive where a source's blob is at least this high."""
NEURAL_PERCENT = 1.5
"""Standard deviation of the neural signal at a blob's centre, in % of the mean."""
DRIFT_PERCENT = 0.8
SMOOTH_NOISE_MM = 8.0
AUTOCORRELATION = 0.4
SMOOTH_PART = 0.5
"""Share of the noise variance that is smooth in space and autocorrelated in time; the rest is thermal."""
AIR_INTENSITY = 12.0
_MEAN_SQUARED_WEIGHT = 0.466
"""Of a blob over its responsive voxels: the mean of exp(-r^2) for r up to half its FWHM, by volume."""


@dataclass(frozen=True, kw_only=True)
class NeuralBold:
    """The sources' haemodynamic courses at ``time_s`` (s): ``visible`` and ``hidden`` (sources, times)."""

    time_s: Floats
    visible: Floats
    hidden: Floats


def neural_bold(activity: Activity, traits: SubjectTraits, level: SignalLevel) -> NeuralBold:
    """Return what the sources' activity does to blood: the part that EEG reflects, and the part that it does not."""
    in_scan = activity.time_s >= 0
    spontaneous = haemodynamics((activity.amplitude + activity.burst) / np.sqrt(2), traits.peak_s)
    evoked = haemodynamics(activity.evoked, traits.peak_s)
    part = np.where(activity.response.any(axis=1), level.evoked_part, 0.0)[:, None]
    visible = np.sqrt(1 - part) * standardised(spontaneous[:, in_scan]) + np.sqrt(part) * standardised(
        evoked[:, in_scan]
    )
    hidden = haemodynamics(activity.hidden, traits.peak_s)[:, in_scan]
    return NeuralBold(time_s=activity.time_s[in_scan], visible=visible, hidden=standardised(hidden))


def blobs(head: Head) -> Floats32:
    """Return each source's weight at each voxel of the EPI's grid, float32 (x, y, z, sources), 1 at its centre."""
    mni_mm = mni_positions_mm(EPI_SHAPE, head.epi_affine, head.scanner_from_mni)
    width_mm = BLOB_FWHM_MM / np.sqrt(8 * np.log(2))
    squared = np.stack([((mni_mm - np.array(source.position_mm)) ** 2).sum(axis=1) for source in SOURCES], axis=1)
    weights = np.exp(-0.5 * squared / width_mm**2).astype(np.float32).reshape(*EPI_SHAPE, len(SOURCES))
    result: Floats32 = weights * head.is_brain[..., None]
    return result


def simulate_bold(
    neural: NeuralBold, head: Head, gain: Floats, level: SignalLevel, num_volumes: int, rng: np.random.Generator
) -> NDArray[np.int16]:
    """Return the volumes of one run, int16 (64, 64, 32, volumes): slice k of volume v at 2 v + 2 k / 32 seconds."""
    weights = blobs(head)
    percent = NEURAL_PERCENT * _noise(head, level, num_volumes, rng)
    percent += DRIFT_PERCENT * _drift(num_volumes, rng)
    for index in range(EPI_SHAPE[2]):
        times: Floats = REPETITION_TIME_S * (np.arange(num_volumes, dtype=np.float64) + index / EPI_SHAPE[2])
        courses = neural_percent(neural, gain, level, times)
        percent[:, :, index] += weights[:, :, index] @ courses.astype(np.float32)
    percent *= head.mean_epi[..., None] / 100
    percent += head.mean_epi[..., None]
    percent[~head.is_brain] += AIR_INTENSITY * np.abs(
        rng.standard_normal((int((~head.is_brain).sum()), num_volumes), dtype=np.float32)
    )
    return np.clip(np.rint(percent), 0, 32767).astype(np.int16)


def neural_percent(neural: NeuralBold, gain: Floats, level: SignalLevel, times_s: Floats) -> Floats:
    """Return the sources' courses at a blob's centre in % of the mean, (sources, times)."""
    share = level.visible_part
    courses = np.sqrt(share) * gain[:, None] * neural.visible + np.sqrt(1 - share) * neural.hidden
    return NEURAL_PERCENT * np.stack([np.interp(times_s, neural.time_s, course) for course in courses])


def noise_variance(level: SignalLevel) -> float:
    """Return the noise's variance, in units of that at a blob's centre, which makes ``visible_share`` true."""
    return _MEAN_SQUARED_WEIGHT * (level.visible_part / level.visible_share - 1)


def _noise(head: Head, level: SignalLevel, num_volumes: int, rng: np.random.Generator) -> Floats32:
    """Return (x, y, z, volumes): noise smooth in space and AR(1) in time, and white noise of the scanner."""
    noise = rng.standard_normal((*EPI_SHAPE, num_volumes), dtype=np.float32)
    zooms_mm = np.abs(np.diag(head.epi_affine)[:3])
    for axis, zoom_mm in enumerate(zooms_mm):
        noise = gaussian_filter1d(noise, SMOOTH_NOISE_MM / 2.355 / zoom_mm, axis=axis, mode="wrap", truncate=3)
    for volume in range(1, num_volumes):
        noise[..., volume] *= np.sqrt(1 - AUTOCORRELATION**2)
        noise[..., volume] += AUTOCORRELATION * noise[..., volume - 1]
    variance = noise_variance(level)
    noise *= np.sqrt(SMOOTH_PART * variance) / noise.std()
    noise += np.float32(np.sqrt((1 - SMOOTH_PART) * variance)) * rng.standard_normal(noise.shape, dtype=np.float32)
    return noise


def _drift(num_volumes: int, rng: np.random.Generator) -> Floats32:
    """Return a slow drift of unit size, (x, y, z, volumes): a line and a wave, each with its own slope over space."""
    time = np.linspace(-1, 1, num_volumes, dtype=np.float32)
    drift = np.zeros((*EPI_SHAPE, num_volumes), dtype=np.float32)
    for shape in (time, np.cos(np.pi * time)):
        axes = [rng.normal(0, 0.5) * np.linspace(-1, 1, size) for size in EPI_SHAPE]
        slope = rng.normal() + axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :]
        drift += slope.astype(np.float32)[..., None] * shape
    return drift
