"""From a run's EEG in microvolts to the signals that a model sees: repaired, filtered, resampled, normalised.

Takes the EEG of a run as its data set reads it; gives float32 arrays (channels, samples) at the stored rate.
Preparation and prediction treat EEG alike, so both call these functions, in this order: ``fit_length`` to the scan,
``clean_eeg``, and a ``Normaliser`` fitted to the subject.

Causality: the filters are zero-phase, so a sample also holds a little of what came after it, up to half the filter's
length: 3.3 s for a high-pass of 0.5 Hz (``future_seconds`` tells).  A window ends 1 s before its volume's reference
time; a predictor that must never look ahead is prepared with ``high_pass_hz``, ``low_pass_hz`` and ``notch_hz`` None,
``pulse`` "none", and normalised over the "past".

Legend of shapes: C channels, N samples.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from mne.filter import create_filter, filter_data, notch_filter
from numpy.typing import NDArray
from scipy import fft
from scipy.signal.windows import hann

from datasets.bad_channels import FLAT_UV, find_bad_channels, interpolate
from datasets.errors import BadInput
from datasets.pulse import FEWEST_BEATS, PULSE_REDUCTIONS, find_beats, reduce_pulse
from datasets.recording import EegSignal
from datasets.resampling import resample

logger = logging.getLogger(__name__)

Signal = NDArray[np.float32]

NOTCH_FUTURE_SECONDS = 3.3  # half of mne's notch filter: 3.3 / its transition of 0.5 Hz / 2
STORED_RATES_HZ = (1000.0, 500.0, 250.0)
EEG_FILES = ("rereferenced", "noGA", "raw")
REFERENCES = ("recorded", "average")
PULSES = ("none", *PULSE_REDUCTIONS)
NORMALISED_OVER = ("subject", "first-run", "past")
FEWEST_VOLUMES = 32
PAST_SECONDS, PAST_STEP_SECONDS = 30.0, 5.0
SPECTRUM_STEP_HZ, SPECTRUM_TOP_HZ = 0.5, 120.0
CHANNELS_AT_ONCE = 8
MOST_BAD = 0.5
ROBUST_SAMPLES = 50_000


@dataclass(frozen=True, kw_only=True)
class EegSettings:
    """What a user may vary about the preparation of EEG; None leaves a filter out.

    Attributes:
        eeg_file: which of a run's files is read, where a data set (ds000116) has several.
        reference: "recorded", or "average" of all channels.
        high_pass_hz, low_pass_hz, notch_hz: zero-phase FIR filters; the notch also takes its frequency's multiples.
        pulse: how the pulse artefact is reduced: "none", "template" or "obs".
        interpolate_bad: whether bad channels are filled from their neighbours; they are listed in either case.
        normalisation: "zscore", "minmax" (a channel's extremes become -1 and 1) or "robust" (median and quartiles).
        normalise_over: "subject" (all its runs), "first-run", or "past": what came before in the same run, anew every
            5 s; the first 30 s use themselves.
        rate_hz: the stored rate; None is the highest of 1000, 500 and 250 Hz that the recording has.
    """

    eeg_file: str = "rereferenced"
    reference: str = "recorded"
    high_pass_hz: float | None = 0.5
    low_pass_hz: float | None = None
    notch_hz: float | None = None
    pulse: str = "none"
    interpolate_bad: bool = True
    normalisation: str = "zscore"
    normalise_over: str = "subject"
    rate_hz: float | None = None

    def __post_init__(self) -> None:
        choices = {
            "eeg_file": EEG_FILES,
            "reference": REFERENCES,
            "pulse": PULSES,
            "normalisation": tuple(NORMALISATIONS),
            "normalise_over": NORMALISED_OVER,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise BadInput(f"{name} must be one of {', '.join(allowed)}, but got {getattr(self, name)!r}")
        for name in ("high_pass_hz", "low_pass_hz", "notch_hz", "rate_hz"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise BadInput(f"{name} must be a number above 0, or None to leave it out, but got {value}")
        if self.high_pass_hz is not None and self.low_pass_hz is not None and self.high_pass_hz >= self.low_pass_hz:
            raise BadInput(
                f"high_pass_hz must be below low_pass_hz, but got {self.high_pass_hz} and {self.low_pass_hz}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class CleanEeg:
    """A run's EEG before normalisation.

    Attributes:
        eeg: float32 (channels, samples) in uV at ``rate_hz``.
        bad_channels: why each bad channel is bad; they are filled from their neighbours unless the settings forbid it.
        beats_s: seconds of the R peaks; empty where no heart beats are found.
        spectrum: ``frequency_hz`` up to 120 Hz, and there the median channel's power in dB of uV^2 / Hz, ``before_db``
            as it was recorded and ``after_db`` of ``eeg``.
    """

    eeg: Signal
    rate_hz: float
    bad_channels: dict[str, str] = field(default_factory=dict)
    beats_s: NDArray[np.float64]
    spectrum: dict[str, list[float]]


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelScale:
    """What is subtracted from each channel and what it is divided by, both (channels,), in the EEG's unit.

    A channel that is divided by 0 is constant: it becomes zeros.
    """

    centre: NDArray[np.float64]
    width: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Normaliser:
    """Normalises the runs of one subject: by one scale for all, or (``scale`` is None) each by its own past."""

    method: str
    rate_hz: float
    scale: ChannelScale | None

    def __call__(self, eeg: Signal) -> Signal:
        """Return a run's EEG (channels, samples) normalised; a constant channel becomes zeros, which is logged."""
        if self.scale is None:
            return _normalised_by_past(eeg, self.rate_hz, self.method)
        return normalise(eeg, self.scale)


def stored_rate_hz(rate_hz: float, settings: EegSettings) -> float:
    """Return the rate at which EEG of a rate is stored.

    Raises:
        BadInput: the settings want a higher rate than the recording has.
    """
    if settings.rate_hz is None:
        return next((rate for rate in STORED_RATES_HZ if rate <= rate_hz * (1 + 1e-4)), rate_hz)
    if settings.rate_hz > rate_hz * (1 + 1e-4):
        raise BadInput(f"rate_hz must be at most the recording's own rate, {rate_hz:g} Hz, but is {settings.rate_hz:g}")
    return settings.rate_hz


def fit_length(signal: EegSignal, num_volumes: int, *, repetition_time_s: float) -> tuple[EegSignal, int]:
    """Return the EEG cut to the scan, and how many of its volumes have EEG.

    EEG that is longer is cut (logged above 1 s); EEG that ends early by less than a volume holds its last value to the
    end; EEG that ends earlier keeps the volumes that it covers whole.  All but the first is logged.

    Raises:
        BadInput: less than half of the volumes, or fewer than 32, have EEG.
    """
    samples_per_volume = signal.rate_hz * repetition_time_s
    samples = round(num_volumes * samples_per_volume)
    available = signal.eeg_uv.shape[1]
    if available >= samples:
        if available - samples > signal.rate_hz:
            logger.warning("the EEG goes on for %.3f s after the scan; cut", (available - samples) / signal.rate_hz)
        return _with_length(signal, samples), num_volumes
    missing_s = (samples - available) / signal.rate_hz
    if samples - available < samples_per_volume:
        logger.warning("the EEG ends %.3f s before the scan; its end holds the last value", missing_s)
        return _with_length(signal, samples), num_volumes
    kept = int(available / samples_per_volume + 1e-6)
    if kept < min(FEWEST_VOLUMES, num_volumes) or 2 * kept < num_volumes:
        raise BadInput(
            f"the EEG ends {missing_s:.3f} s before the scan and covers {kept} of {num_volumes} volumes; it must cover "
            f"half of them, and {FEWEST_VOLUMES}: check that both belong to the same run, or exclude it"
        )
    logger.warning("the EEG ends %.3f s before the scan; %d of %d volumes are kept", missing_s, kept, num_volumes)
    return _with_length(signal, round(kept * samples_per_volume)), kept


def clean_eeg(signal: EegSignal, settings: EegSettings) -> CleanEeg:
    """Return a run's EEG at the stored rate, filtered, bad channels filled, with what was found on the way.

    Raises:
        BadInput: samples are not finite, most channels are bad, or a filter or a rate does not fit the recording.
    """
    eeg, names = signal.eeg_uv, signal.channel_names
    _check_finite(eeg, names, signal.rate_hz)
    rate_hz = stored_rate_hz(signal.rate_hz, settings)
    eeg = resample(eeg, signal.rate_hz, rate_hz)
    bad = _bad_channels(eeg, rate_hz, signal, settings)
    eeg = filtered(eeg, rate_hz, settings)
    if settings.interpolate_bad:
        eeg = interpolate(eeg, names, signal.locations_m, bad)
    beats_s = _beats(signal)
    if settings.pulse != "none":
        eeg = _without_pulse(eeg, rate_hz, beats_s, settings.pulse)
    if settings.reference == "average":
        eeg = _average_referenced(eeg, signal, bad)
    return CleanEeg(
        eeg=eeg,
        rate_hz=rate_hz,
        bad_channels=bad,
        beats_s=beats_s,
        spectrum=_spectra(signal.eeg_uv, signal.rate_hz, eeg, rate_hz),
    )


def filtered(eeg_uv: Signal, rate_hz: float, settings: EegSettings) -> Signal:
    """Return EEG (channels, samples) filtered by zero-phase FIR filters, in the unit it came in.

    Edges are reflected.  BadInput where a filter does not fit the sampling rate or the EEG is too short for it.
    Source: mne's "firwin" design with a Hamming window, https://mne.tools/stable/auto_tutorials/preprocessing.
    """
    _check_filters(eeg_uv.shape[1], rate_hz, settings)
    result = np.array(eeg_uv, dtype=np.float32)
    if (settings.high_pass_hz, settings.low_pass_hz, settings.notch_hz) == (None, None, None):
        return result
    for start in range(0, len(result), CHANNELS_AT_ONCE):  # mne works in float64, and a run in float64 is 100 MB
        chunk = slice(start, start + CHANNELS_AT_ONCE)
        result[chunk] = _filtered_chunk(result[chunk].astype(np.float64), rate_hz, settings)
    return result


def future_seconds(rate_hz: float, settings: EegSettings) -> float:
    """Return how far ahead a filtered sample sees: half of all filters' lengths, 0 where there is none."""
    seconds = 0.0 if settings.notch_hz is None else NOTCH_FUTURE_SECONDS
    if settings.high_pass_hz is not None or settings.low_pass_hz is not None:
        taps = create_filter(None, rate_hz, settings.high_pass_hz, settings.low_pass_hz, verbose="error")
        seconds += (len(taps) - 1) / 2 / rate_hz
    return seconds


def fit_normaliser(runs: Sequence[Signal], settings: EegSettings, rate_hz: float) -> Normaliser:
    """Return what normalises a subject's runs (channels, samples), given in order; nothing is fitted to the past."""
    if settings.normalise_over == "past":
        return Normaliser(method=settings.normalisation, rate_hz=rate_hz, scale=None)
    fitted_to = runs[:1] if settings.normalise_over == "first-run" else runs
    scale = channel_scale(fitted_to, settings.normalisation)
    return Normaliser(method=settings.normalisation, rate_hz=rate_hz, scale=scale)


def channel_scale(runs: Sequence[Signal], method: str = "zscore") -> ChannelScale:
    """Return each channel's scale over all runs (channels, samples) together, by one of NORMALISATIONS."""
    counts = {len(run) for run in runs}
    if len(counts) != 1 or sum(run.shape[1] for run in runs) == 0:
        raise BadInput(f"a subject's runs must have samples of the same channels, but have {sorted(counts)} channels")
    scales = [NORMALISATIONS[method]([run[channel] for run in runs]) for channel in range(counts.pop())]
    centre, width = np.array(scales).T
    is_constant = width <= np.finfo(np.float32).eps * np.abs(centre)
    return ChannelScale(centre=centre, width=np.where(is_constant, 0.0, width))


def normalise(eeg: Signal, scale: ChannelScale) -> Signal:
    """Return EEG (channels, samples) less the scale's centre, over its width; a constant channel becomes 0 (logged)."""
    if len(eeg) != len(scale.centre):
        raise ValueError(f"the scale must have the EEG's {len(eeg)} channels, but has {len(scale.centre)}")
    is_constant = scale.width == 0
    if is_constant.any():
        logger.warning("channels %s are constant and become zeros", np.flatnonzero(is_constant).tolist())
    return _scaled(eeg, scale)


def _scaled(eeg: Signal, scale: ChannelScale) -> Signal:
    factor = np.divide(1, scale.width, out=np.zeros_like(scale.width), where=scale.width > 0)
    scaled = eeg - scale.centre.astype(np.float32)[:, np.newaxis]
    scaled *= factor.astype(np.float32)[:, np.newaxis]
    return scaled


def _zscore_of(parts: Sequence[Signal]) -> tuple[float, float]:
    """Return mean and standard deviation of one channel's parts, computed in float64."""
    num_samples = sum(len(part) for part in parts)
    mean = sum(float(part.sum(dtype=np.float64)) for part in parts) / num_samples
    squares = sum(float(np.dot(deviation, deviation)) for deviation in (part - np.float64(mean) for part in parts))
    return mean, float(np.sqrt(squares / num_samples))


def _minmax_of(parts: Sequence[Signal]) -> tuple[float, float]:
    """Return the middle between one channel's extremes and half the way between them."""
    low, high = min(float(part.min()) for part in parts), max(float(part.max()) for part in parts)
    return (low + high) / 2, (high - low) / 2


def _robust_of(parts: Sequence[Signal]) -> tuple[float, float]:
    """Return one channel's median, and the standard deviation that its quartiles would have if it were Gaussian.

    Of evenly spaced samples, 50 000 or more where there are as many: EEG does not change from one sample to the next.
    """
    step = max(1, sum(len(part) for part in parts) // ROBUST_SAMPLES)
    low, middle, high = np.percentile(np.concatenate([part[::step] for part in parts]), [25, 50, 75])
    return float(middle), float(high - low) * 0.7413


NORMALISATIONS: dict[str, Callable[[Sequence[Signal]], tuple[float, float]]] = {
    "zscore": _zscore_of,
    "minmax": _minmax_of,
    "robust": _robust_of,
}


def _normalised_by_past(eeg: Signal, rate_hz: float, method: str) -> Signal:
    """Normalise every 5 s by all that came before them in the run, and the first 30 s by themselves."""
    first, step = round(PAST_SECONDS * rate_hz), round(PAST_STEP_SECONDS * rate_hz)
    parts = [normalise(eeg[:, :first], channel_scale([eeg[:, :first]], method))]
    for start in range(first, eeg.shape[1], step):
        parts.append(_scaled(eeg[:, start : start + step], channel_scale([eeg[:, :start]], method)))
    return np.concatenate(parts, axis=1)


def _with_length(signal: EegSignal, samples: int) -> EegSignal:
    """Return the signal with its rows cut, or continued by their last value."""
    missing = max(0, samples - signal.eeg_uv.shape[1])

    def fitted(rows: Signal) -> Signal:
        cut = rows[:, :samples]
        return np.pad(cut, ((0, 0), (0, missing)), mode="edge") if missing else cut

    return replace(
        signal,
        eeg_uv=fitted(signal.eeg_uv),
        ecg=None if signal.ecg is None else fitted(signal.ecg[np.newaxis])[0],
        eog=fitted(signal.eog) if len(signal.eog) else signal.eog,
    )


def _bad_channels(eeg: Signal, rate_hz: float, signal: EegSignal, settings: EegSettings) -> dict[str, str]:
    """Return the bad channels, logged.

    Raises:
        BadInput: more than half are bad.
    """
    names = signal.channel_names
    bad = dict.fromkeys(signal.listed_bad, "listed as bad") | find_bad_channels(eeg, rate_hz, names)
    if not bad:
        return bad
    listed = ", ".join(f"{name} ({reason})" for name, reason in bad.items())
    if len(bad) > MOST_BAD * len(names):
        unit = "; EEG must be in uV, and this may be another unit" if _is_small(eeg) else ""
        raise BadInput(f"{len(bad)} of {len(names)} channels are bad: {listed}; exclude the recording{unit}")
    placed = dict(zip(names, signal.locations_m, strict=True))
    kept = [name for name in bad if placed[name] is None or not settings.interpolate_bad]
    done = "interpolated" if not kept else f"interpolated but for {', '.join(kept)}" if len(kept) < len(bad) else "kept"
    logger.warning("bad channels, %s: %s", done, listed)
    return bad


def _is_small(eeg: Signal) -> bool:
    """Tell whether EEG varies in every channel, but by less than uV would: as volts or millivolts do."""
    deviations = eeg.std(axis=1, dtype=np.float64)
    return bool((deviations > 0).all() and np.median(deviations) < FLAT_UV)


def _beats(signal: EegSignal) -> NDArray[np.float64]:
    if signal.ecg is None:
        return np.empty(0)
    beats_s = find_beats(signal.ecg, signal.rate_hz)
    if not len(beats_s):
        logger.warning("no heart beats are found in the ECG")
    return beats_s


def _without_pulse(eeg: Signal, rate_hz: float, beats_s: NDArray[np.float64], method: str) -> Signal:
    if len(beats_s) < FEWEST_BEATS:
        logger.warning("the pulse artefact is not reduced: there are no heart beats to go by")
        return eeg
    return reduce_pulse(eeg, rate_hz, beats_s, method)


def _average_referenced(eeg: Signal, signal: EegSignal, bad: dict[str, str]) -> Signal:
    """Subtract the mean of the channels that are good or were filled."""
    if all(location is None for location in signal.locations_m):
        raise BadInput("the average reference needs electrodes, but these channels have no locations; use recorded")
    pairs = zip(signal.channel_names, signal.locations_m, strict=True)
    counted = [name not in bad or location is not None for name, location in pairs]
    return eeg - eeg[counted].mean(axis=0, dtype=np.float32)


def _spectra(before: Signal, before_hz: float, after: Signal, after_hz: float) -> dict[str, list[float]]:
    """Return the spectra of a run before and after, in steps of 0.5 Hz up to 120 Hz or just below half the rate."""
    top_hz = min(SPECTRUM_TOP_HZ, after_hz / 2 - SPECTRUM_STEP_HZ)
    frequency_hz = np.arange(SPECTRUM_STEP_HZ, top_hz + SPECTRUM_STEP_HZ / 2, SPECTRUM_STEP_HZ)
    return {
        "frequency_hz": frequency_hz.tolist(),
        "before_db": _median_power_db(before, before_hz, frequency_hz),
        "after_db": _median_power_db(after, after_hz, frequency_hz),
    }


def _median_power_db(eeg: Signal, rate_hz: float, frequency_hz: NDArray[np.float64]) -> list[float]:
    """Return the median channel's power in dB of uV^2 / Hz, from windows of 2 s, each faded at its ends."""
    length = min(round(rate_hz / SPECTRUM_STEP_HZ), eeg.shape[1])
    fade = hann(length, sym=False).astype(np.float32)
    own_hz = np.fft.rfftfreq(length, 1 / rate_hz)
    rows = []
    for channel in eeg:
        windows = channel[: len(channel) // length * length].reshape(-1, length)
        spectra = fft.rfft((windows - windows.mean(axis=1, keepdims=True)) * fade, axis=1)
        power = 2 * np.mean(np.abs(spectra) ** 2, axis=0, dtype=np.float64) / (rate_hz * np.sum(fade**2))
        rows.append(np.interp(frequency_hz, own_hz, power))
    median_db = 10 * np.log10(np.maximum(np.median(rows, axis=0), 1e-12))
    return [round(value, 2) for value in median_db.tolist()]


def where_not_finite(signals: Signal, rate_hz: float) -> str:
    """Say from when to when samples of signals (rows, samples) are not finite."""
    samples = np.flatnonzero(~np.isfinite(signals).all(axis=0))
    return (
        f"{len(samples)} samples between {samples[0] / rate_hz:.3f} s and {(samples[-1] + 1) / rate_hz:.3f} s are NaN "
        "or infinite"
    )


def _check_finite(eeg_uv: Signal, names: Sequence[str], rate_hz: float) -> None:
    if eeg_uv.ndim != 2:
        raise BadInput(f"EEG must be an array (channels, samples), but its shape is {eeg_uv.shape}")
    is_finite = np.isfinite(eeg_uv.sum(axis=1))
    if not is_finite.all():
        listed = ", ".join(name for name, finite in zip(names, is_finite, strict=True) if not finite)
        raise BadInput(
            f"EEG must be finite, but in channels {listed} {where_not_finite(eeg_uv, rate_hz)}; "
            "repair or exclude the recording"
        )


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


def _filtered_chunk(eeg: NDArray[np.float64], rate_hz: float, settings: EegSettings) -> NDArray[np.float64]:
    if settings.high_pass_hz is not None or settings.low_pass_hz is not None:
        eeg = filter_data(eeg, rate_hz, settings.high_pass_hz, settings.low_pass_hz, copy=False, verbose="error")
    if settings.notch_hz is not None:
        harmonics = np.arange(settings.notch_hz, rate_hz / 2, settings.notch_hz)
        eeg = notch_filter(eeg, rate_hz, harmonics, copy=False, verbose="error")
    return np.asarray(eeg)
