"""What the heart, the eyes and the muscles did at each volume: series that may drive EEG and BOLD alike.

Takes the EEG of a run as its data set reads it, and its heart beats; gives one value per volume and confound.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, median_filter
from scipy.signal import butter, sosfiltfilt

from datasets.pulse import outlying_intervals
from datasets.recording import EegSignal

Signal = NDArray[np.float32]
Series = NDArray[np.float64]

PULSE_NAMES = ("pulse_rate_bpm", "pulse_phase_cos", "pulse_phase_sin")
PHYSIOLOGY_NAMES = (*PULSE_NAMES, "ecg_power", "eog_power", "muscle_power")
EOG_HZ = (1.0, 15.0)
FRONTAL_HZ = (1.0, 4.0)
MUSCLE_HZ = (70.0, 120.0)
FRONTAL = ("Fp1", "Fpz", "Fp2", "AF7", "AF3", "AFz", "AF4", "AF8")
TEMPORAL = ("FT9", "FT7", "T7", "TP7", "TP9", "FT10", "FT8", "T8", "TP8", "TP10", "T3", "T4", "F7", "F8")
"""Channels over the temporal muscles; T3 and T4 are the older names of T7 and T8."""

_SMOOTHED_BEATS = 2.0
_FLOOR_UV2 = 1e-3


def physiology_confounds(
    signal: EegSignal, beats_s: Series, samples_per_volume: float, num_volumes: int
) -> dict[str, Series]:
    """Return, per volume, what was recorded beside the brain; nan throughout where it was not.

    pulse_rate_bpm: beats a minute about the volume's middle, smoothed over some five beats.
    pulse_phase_cos, pulse_phase_sin: the volume's middle on the circle from one R peak to the next.
    ecg_power: log variance of the ECG.
    eog_power: log power of 1 to 15 Hz, the mean of the EOG leads; where no EOG was recorded, of 1 to 4 Hz, the mean of
        the frontal channels: blinks, and some of the brain's slow waves.
    muscle_power: log power of 70 to 120 Hz, the median of the temporal channels; in a scanner this also holds what is
        left of the gradient artefact.

    Powers are natural logarithms of uV^2.  ``samples_per_volume`` counts at the signal's rate and need not be whole.
    """
    edges = np.round(np.arange(num_volumes + 1) * samples_per_volume).astype(int)
    middle_s = (np.arange(num_volumes, dtype=np.float64) + 0.5) * samples_per_volume / signal.rate_hz
    frontal, temporal = _channels(signal, FRONTAL), _channels(signal, TEMPORAL)
    ecg = signal.eeg_uv[:0] if signal.ecg is None else signal.ecg[np.newaxis]
    eog, eog_hz = (signal.eog, EOG_HZ) if len(signal.eog) else (frontal, FRONTAL_HZ)
    return {
        **_pulse(beats_s, middle_s),
        "ecg_power": _log_power(ecg, signal.rate_hz, None, edges, np.mean),
        "eog_power": _log_power(eog, signal.rate_hz, eog_hz, edges, np.mean),
        "muscle_power": _log_power(temporal, signal.rate_hz, MUSCLE_HZ, edges, np.median),
    }


def _pulse(beats_s: Series, middle_s: Series) -> dict[str, Series]:
    """Return the pulse's rate and phase at some times; before the first and after the last beat it goes on as there."""
    if len(beats_s) < 3:
        return {name: np.full(len(middle_s), np.nan) for name in PULSE_NAMES}
    intervals = np.diff(beats_s)
    usual = median_filter(intervals, 11, mode="nearest")
    regular = np.where(outlying_intervals(beats_s), usual, intervals)
    rate_bpm = gaussian_filter1d(60 / regular, _SMOOTHED_BEATS, mode="nearest")
    phase = 2 * np.pi * _beat_number(beats_s, middle_s, float(usual[0]), float(usual[-1]))
    return {
        "pulse_rate_bpm": np.interp(middle_s, (beats_s[1:] + beats_s[:-1]) / 2, rate_bpm),
        "pulse_phase_cos": np.cos(phase),
        "pulse_phase_sin": np.sin(phase),
    }


def _beat_number(beats_s: Series, times_s: Series, first_s: float, last_s: float) -> Series:
    """Return times as numbers of beats: linear between beats, and beyond the first and the last at the usual pace."""
    number = np.interp(times_s, beats_s, np.arange(len(beats_s)))
    number += np.minimum(times_s - beats_s[0], 0) / first_s
    return np.asarray(number + np.maximum(times_s - beats_s[-1], 0) / last_s)


def _channels(signal: EegSignal, names: Sequence[str]) -> Signal:
    return signal.eeg_uv[[index for index, name in enumerate(signal.channel_names) if name in names]]


def _log_power(
    rows: Signal,
    rate_hz: float,
    band_hz: tuple[float, float] | None,
    edges: NDArray[np.int64],
    joined: Callable[..., Series],
) -> Series:
    """Return the log variance of rows (rows, samples) from edge to edge, joined over rows; nan where there are none."""
    if not len(rows) or (band_hz is not None and band_hz[1] >= rate_hz / 2):
        return np.full(len(edges) - 1, np.nan)
    powers = []
    for row in rows:
        values = row.astype(np.float64)
        if band_hz is not None:
            values = sosfiltfilt(butter(4, band_hz, "bandpass", fs=rate_hz, output="sos"), values)
        powers.append([values[start:stop].var() for start, stop in zip(edges[:-1], edges[1:], strict=True)])
    return joined(np.log(np.maximum(powers, _FLOOR_UV2)), axis=0)
