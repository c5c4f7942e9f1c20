"""Waves that simulated EEG is made of: noise of one band, and a shape that comes at given samples.

Takes arrays and seeds; gives float32 courses (samples,).
"""

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from datasets.simulator.sources import Floats

Floats32 = NDArray[np.float32]


def narrow_noise(band: tuple[float, float], num_samples: int, rate_hz: float, rng: np.random.Generator) -> Floats32:
    """Return noise of unit variance between two frequencies in Hz."""
    frequencies = fft.rfftfreq(num_samples, 1 / rate_hz)
    first, last = np.searchsorted(frequencies, band)
    spectrum = np.zeros(len(frequencies), dtype=np.complex64)
    spectrum[first:last] = rng.standard_normal(2 * (last - first), dtype=np.float32).view(np.complex64)
    noise: Floats32 = fft.irfft(spectrum, num_samples)
    return noise / noise.std()


def impulse_response(samples: NDArray[np.int64], sizes: Floats, wave: Floats, num_samples: int) -> Floats32:
    """Return the sum of one wave that starts at each of some samples, each as large as its size."""
    row = np.zeros(num_samples + len(wave), dtype=np.float32)
    for sample, size in zip(samples, sizes, strict=True):
        row[sample : sample + len(wave)] += size * wave
    return row[:num_samples]
