"""Signals at another sampling rate, without aliasing.

Takes float32 signals (rows, samples) at one rate; gives them at another, as long in seconds.
"""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

LARGEST_FACTOR = 20_000
"""Rates are taken as a ratio of whole numbers up to this: 5 kHz to 1 kHz as 1 / 5, 512 Hz to 500 Hz as 125 / 128."""


def resample(signals: NDArray[np.float32], rate_hz: float, new_rate_hz: float) -> NDArray[np.float32]:
    """Return signals (rows, samples) at another rate, float32, round(samples * new_rate_hz / rate_hz) long.

    A polyphase filter removes what the new rate cannot hold; ends are continued by their last value, so that an offset
    makes no step.  The same rate returns the signals themselves.
    """
    ratio = (Fraction(new_rate_hz) / Fraction(rate_hz)).limit_denominator(LARGEST_FACTOR)
    if ratio == 1:
        return signals
    length = round(signals.shape[1] * new_rate_hz / rate_hz)
    resampled = np.empty((len(signals), length), dtype=np.float32)
    for row, signal in enumerate(signals):
        values = resample_poly(signal, ratio.numerator, ratio.denominator, padtype="edge")[:length]
        resampled[row, : len(values)] = values
        resampled[row, len(values) :] = values[-1]
    return resampled
