"""Lagged log band power: what EEG rhythms, seen through haemodynamic responses, may tell about each volume.

Takes the EEG of one run; gives features for every volume.  Method: log power in bands, convolved with gamma-shaped
responses that peak at several delays (Laufs et al. 2003; de Munck et al. 2009).

A run is cut into pieces of about half a second, a whole number of them per volume, so that one ends where each volume
begins whatever the repetition time.

Legend of shapes: C channels, S samples, N pieces of a run, R volumes, F features.
"""

import numpy as np
from numpy.typing import NDArray

BANDS_HZ = {
    "delta": (1.0, 4.0),
    "theta": (4.0, 8.0),
    "alpha_low": (8.0, 10.5),
    "alpha_high": (10.5, 13.0),
    "beta_low": (13.0, 20.0),
    "beta_high": (20.0, 30.0),
    "gamma": (30.0, 45.0),
}
PEAKS_SECONDS = (4.0, 6.0, 8.0)
PIECE_SECONDS = 0.5
RESPONSE_SECONDS = 30.0
_FLOOR = 1e-6
_ROUNDING = 1e-6


def lagged_band_power(
    eeg_CS: NDArray[np.float16], rate_hz: float, num_volumes: int, repetition_time_s: float
) -> NDArray[np.float32]:
    """Return one row per volume from EEG that ended when the volume began, shape (R, bands x channels x peaks).

    Power is counted from the run's first piece: from its mean, a volume would know of the EEG after it.
    """
    pieces_per_volume = max(1, round(repetition_time_s / PIECE_SECONDS))
    piece_s = repetition_time_s / pieces_per_volume
    power_NF = log_band_power(eeg_CS, rate_hz, piece_s)
    power_NF -= power_NF[0].copy()
    begins_R = np.arange(num_volumes) * pieces_per_volume
    lagged = []
    for peak_s in PEAKS_SECONDS:
        response_N = haemodynamic_response(peak_s, piece_s)
        convolved_NF = _convolve_causally(power_NF, response_N)
        lagged.append(np.vstack([np.zeros_like(power_NF[:1]), convolved_NF])[begins_R])
    return np.concatenate(lagged, axis=1).astype(np.float32)


def log_band_power(eeg_CS: NDArray[np.float16], rate_hz: float, piece_s: float = PIECE_SECONDS) -> NDArray[np.float32]:
    """Return log power in every band of every whole piece, shape (N, bands x channels): tapered periodograms."""
    samples = int(piece_s * rate_hz + _ROUNDING)  # at 125 Hz half a second is 62.5 samples: every other one skips one
    num_pieces = int(eeg_CS.shape[1] / rate_hz / piece_s + _ROUNDING)
    starts_N = (np.arange(num_pieces) * piece_s * rate_hz + _ROUNDING).astype(np.int64)
    pieces_CNS = eeg_CS[:, starts_N[:, np.newaxis] + np.arange(samples)].astype(np.float32)
    length = 2 * max(samples, int(PIECE_SECONDS * rate_hz))  # short pieces are padded, so that no band is empty
    spectrum_CNH = np.fft.rfft(pieces_CNS * np.hanning(samples).astype(np.float32), n=length, axis=2)
    power_CNH = (spectrum_CNH.real**2 + spectrum_CNH.imag**2) / samples
    hertz_H = np.fft.rfftfreq(length, 1 / rate_hz)
    bands = [power_CNH[:, :, (hertz_H >= low) & (hertz_H < high)].mean(axis=2) for low, high in BANDS_HZ.values()]
    return np.log(np.concatenate(bands) + _FLOOR).T.astype(np.float32)


def haemodynamic_response(peak_s: float, piece_s: float = PIECE_SECONDS) -> NDArray[np.float32]:
    """Return a gamma-shaped response that peaks after the given time, sampled once a piece, with sum 1."""
    seconds = np.arange(0, RESPONSE_SECONDS, piece_s)
    response = seconds**peak_s * np.exp(-seconds)
    return (response / response.sum()).astype(np.float32)


def _convolve_causally(series_NF: NDArray[np.float32], response_N: NDArray[np.float32]) -> NDArray[np.float32]:
    length = len(series_NF) + len(response_N)
    product = np.fft.rfft(series_NF, length, axis=0) * np.fft.rfft(response_N, length)[:, None]
    convolved: NDArray[np.float32] = np.fft.irfft(product, length, axis=0)[: len(series_NF)].astype(np.float32)
    return convolved
