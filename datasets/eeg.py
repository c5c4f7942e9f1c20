"""From a run's EEG in microvolts to the signals that a model sees: filtered, of the right length, normalised.

Takes arrays (channels, samples); gives float32 arrays of the same layout.  Preparation and prediction treat EEG alike,
so both call these functions.

Causality: the filters are zero-phase, so a sample also holds a little of what came after it, up to half the filter's
length: 3.3 s for a high-pass of 0.5 Hz (``future_seconds`` tells).  A window ends 1 s before its volume's reference
time; a predictor that must never look ahead is prepared with ``high_pass_hz``, ``low_pass_hz`` and ``notch_hz`` None.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from mne.filter import create_filter, filter_data, notch_filter
from numpy.typing import NDArray

from datasets.errors import BadInput

logger = logging.getLogger(__name__)

Signal = NDArray[np.float32]

NOTCH_FUTURE_SECONDS = 3.3  # half of mne's notch filter: 3.3 / its transition of 0.5 Hz / 2


@dataclass(frozen=True, kw_only=True)
class EegSettings:
    """What a user may vary about the preparation of EEG; None leaves a filter out."""

    high_pass_hz: float | None = 0.5
    low_pass_hz: float | None = None
    notch_hz: float | None = None
    normalisation: str = "zscore"

    def __post_init__(self) -> None:
        if self.normalisation not in NORMALISATIONS:
            raise BadInput(f"normalisation must be one of {', '.join(NORMALISATIONS)}, but got {self.normalisation!r}")
        for name in ("high_pass_hz", "low_pass_hz", "notch_hz"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise BadInput(f"{name} must be a number above 0, or None to leave the filter out, but got {value}")
        if self.high_pass_hz is not None and self.low_pass_hz is not None and self.high_pass_hz >= self.low_pass_hz:
            raise BadInput(
                f"high_pass_hz must be below low_pass_hz, but got {self.high_pass_hz} and {self.low_pass_hz}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelScale:
    """Mean and standard deviation (channels,) of each channel over all runs of a subject, in the EEG's unit."""

    mean: NDArray[np.float64]
    standard_deviation: NDArray[np.float64]


def prepare_eeg(eeg_uv: Signal, rate_hz: float, settings: EegSettings) -> Signal:
    """Return EEG (channels, samples) filtered by zero-phase FIR filters, in the unit it came in.

    Edges are reflected.  BadInput where samples are not finite or a filter does not fit the sampling rate.
    Source: mne's "firwin" design with a Hamming window, https://mne.tools/stable/auto_tutorials/preprocessing.
    """
    _check(eeg_uv, rate_hz, settings)
    prepared = np.array(eeg_uv, dtype=np.float32)
    if (settings.high_pass_hz, settings.low_pass_hz, settings.notch_hz) == (None, None, None):
        return prepared
    for channel in range(len(prepared)):  # one by one: mne works in float64, and a run in float64 is 100 MB
        prepared[channel] = _filtered(prepared[channel].astype(np.float64), rate_hz, settings)
    return prepared


def future_seconds(rate_hz: float, settings: EegSettings) -> float:
    """Return how far ahead a filtered sample sees: half of all filters' lengths, 0 where there is none."""
    seconds = 0.0 if settings.notch_hz is None else NOTCH_FUTURE_SECONDS
    if settings.high_pass_hz is not None or settings.low_pass_hz is not None:
        taps = create_filter(None, rate_hz, settings.high_pass_hz, settings.low_pass_hz, verbose="error")
        seconds += (len(taps) - 1) / 2 / rate_hz
    return seconds


def fit_length(eeg: Signal, samples: int, *, samples_per_volume: int) -> Signal:
    """Return EEG (channels, samples) cut to ``samples``, or padded with zeros by less than one volume, which is logged.

    BadInput where a volume or more is missing: EEG and BOLD of a recording must last equally long.
    """
    missing = samples - eeg.shape[1]
    if missing >= samples_per_volume:
        raise BadInput(
            f"the EEG must last as long as the BOLD, {samples} samples, but has {eeg.shape[1]}: {missing} are missing, "
            f"a volume ({samples_per_volume}) or more; check that both belong to the same run, or exclude it"
        )
    if missing <= 0:
        return eeg[:, :samples]
    logger.warning("the EEG is %d samples shorter than the BOLD; its end is padded with zeros", missing)
    return np.pad(eeg, ((0, 0), (0, missing)))


def channel_scale(signals: Sequence[Signal]) -> ChannelScale:
    """Return each channel's mean and standard deviation over the signals (channels, samples) of one subject's runs.

    Computed in float64, one channel of one run at a time.
    """
    counts = {len(signal) for signal in signals}
    if len(counts) != 1 or sum(signal.shape[1] for signal in signals) == 0:
        raise BadInput(f"a subject's runs must have samples of the same channels, but have {sorted(counts)} channels")
    num_samples = sum(signal.shape[1] for signal in signals)
    mean = sum(signal.sum(axis=1, dtype=np.float64) for signal in signals) / num_samples
    squares = sum(_squares_about(signal, mean) for signal in signals)
    return ChannelScale(mean=mean, standard_deviation=np.sqrt(squares / num_samples))


def normalise(eeg: Signal, scale: ChannelScale) -> Signal:
    """Return EEG (channels, samples) z-scored per channel; a constant channel becomes 0, which is logged."""
    if len(eeg) != len(scale.mean):
        raise ValueError(f"the scale must have the EEG's {len(eeg)} channels, but has {len(scale.mean)}")
    is_constant = scale.standard_deviation <= np.finfo(np.float32).eps * np.abs(scale.mean)
    if is_constant.any():
        logger.warning("channels %s are constant and become zeros", np.flatnonzero(is_constant).tolist())
    factor = np.where(is_constant, 0.0, 1 / np.where(is_constant, 1.0, scale.standard_deviation))
    normalised = eeg - scale.mean.astype(np.float32)[:, np.newaxis]
    normalised *= factor.astype(np.float32)[:, np.newaxis]
    return normalised


NORMALISATIONS: dict[str, Callable[[Signal, ChannelScale], Signal]] = {"zscore": normalise}


def _check(eeg_uv: Signal, rate_hz: float, settings: EegSettings) -> None:
    if eeg_uv.ndim != 2:
        raise BadInput(f"EEG must be an array (channels, samples), but its shape is {eeg_uv.shape}")
    if not np.isfinite(eeg_uv).all():
        broken = np.flatnonzero(~np.isfinite(eeg_uv).all(axis=1)).tolist()
        raise BadInput(f"EEG must be finite, but channels {broken} are not; repair or exclude the recording")
    _check_filters(eeg_uv.shape[1], rate_hz, settings)


def _check_filters(num_samples: int, rate_hz: float, settings: EegSettings) -> None:
    for name in ("high_pass_hz", "low_pass_hz", "notch_hz"):
        value = getattr(settings, name)
        if value is not None and value >= rate_hz / 2:
            raise BadInput(f"{name} must be below half the sampling rate, {rate_hz / 2:g} Hz, but is {value:g}")
    filter_seconds = 2 * future_seconds(rate_hz, settings)
    if num_samples < filter_seconds * rate_hz:
        raise BadInput(
            f"EEG must last {filter_seconds:g} s or more to be filtered, but lasts {num_samples / rate_hz:g} s"
        )


def _filtered(channel: NDArray[np.float64], rate_hz: float, settings: EegSettings) -> NDArray[np.float64]:
    if settings.high_pass_hz is not None or settings.low_pass_hz is not None:
        channel = filter_data(
            channel, rate_hz, settings.high_pass_hz, settings.low_pass_hz, copy=False, verbose="error"
        )
    if settings.notch_hz is not None:
        harmonics = np.arange(settings.notch_hz, rate_hz / 2, settings.notch_hz)
        channel = notch_filter(channel, rate_hz, harmonics, copy=False, verbose="error")
    return np.asarray(channel)


def _squares_about(signal: Signal, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each channel's sum of squared deviations from its mean."""
    deviations = (channel - centre for channel, centre in zip(signal, mean, strict=True))
    return np.array([np.dot(deviation, deviation) for deviation in deviations])
