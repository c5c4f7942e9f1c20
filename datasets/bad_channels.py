"""Find the channels of an EEG that show no brain, and fill them from their neighbours.

Takes EEG (channels, samples) in uV; gives the bad channels with the reason for each, or EEG without them.

Source: the criteria of PREP, Bigdely-Shamlo et al. (2015), https://doi.org/10.3389/fninf.2015.00016, but for RANSAC.
"""

from collections.abc import Collection, Sequence

import mne
import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfiltfilt

from datasets.resampling import resample

Signal = NDArray[np.float32]
Location = tuple[float, float, float]

FLAT_UV = 0.1
FLAT_SHARE = 0.25
FAR_DEVIATIONS = 5.0
"""PREP's robust z; a channel must also differ threefold: where all are much alike, five deviations are little."""

FAR_FACTOR = 3.0
LEAST_NOISE_UV = 1.0
LEAST_CORRELATION = 0.4
FEWEST_CHANNELS = 3
WINDOW_S = 5.0
_RATE_HZ = 250.0
_SLOWEST_HZ, _FAST_HZ = 1.0, 50.0
_SD_PER_MAD = 1.4826


def find_bad_channels(eeg_uv: Signal, rate_hz: float, names: Sequence[str]) -> dict[str, str]:
    """Return the bad channels and why, in the channels' order.

    Bad is a channel that is flat for a quarter of the time; whose amplitude, or noise above 50 Hz beside it, is more
    than five robust deviations and three times off the median channel's; or that in most windows of 5 s correlates with
    no two others by 0.4.
    """
    slow_hz = min(rate_hz, _RATE_HZ)
    slow_CN = resample(eeg_uv, rate_hz, slow_hz)
    is_flat = _flat(slow_CN, slow_hz)
    reasons = {name: "flat" for name, flat in zip(names, is_flat, strict=True) if flat}
    kept = np.flatnonzero(~is_flat)
    if len(kept) >= FEWEST_CHANNELS:
        found = _outlying(_high_passed(slow_CN[kept], slow_hz, _SLOWEST_HZ), slow_hz)
        reasons |= {names[kept[channel]]: reason for channel, reason in found.items()}
    return {name: reasons[name] for name in names if name in reasons}


def interpolate(
    eeg_uv: Signal, names: Sequence[str], locations_m: Sequence[Location | None], bad: Collection[str]
) -> Signal:
    """Return EEG with the bad channels filled from all good ones that have a location, by mne's spherical splines.

    A bad channel without a location stays as it is.
    """
    placed = [index for index, location in enumerate(locations_m) if location is not None]
    targets = [index for index in placed if names[index] in bad]
    if not targets:
        return eeg_uv
    weights_TP = _spline_weights([names[index] for index in placed], [locations_m[index] for index in placed], bad)
    sources = [index for index in placed if names[index] not in bad]
    weights_TS = weights_TP[:, [names[index] not in bad for index in placed]]
    filled = eeg_uv.copy()
    filled[targets] = weights_TS @ eeg_uv[sources]
    return filled


def _spline_weights(
    names: Sequence[str], locations_m: Sequence[Location | None], bad: Collection[str]
) -> NDArray[np.float32]:
    """Return what each channel adds to each bad one (bad, channels): mne's interpolation of one unit per channel."""
    info = mne.create_info(list(names), 1.0, "eeg", verbose="error")
    raw = mne.io.RawArray(np.eye(len(names)), info, verbose="error")
    montage = mne.channels.make_dig_montage(
        dict(zip(names, map(np.array, locations_m), strict=True)), coord_frame="head"
    )
    raw.set_montage(montage, verbose="error")
    raw.info["bads"] = [name for name in names if name in bad]
    raw.interpolate_bads(reset_bads=False, verbose="error")
    return raw.get_data(picks=raw.info["bads"]).astype(np.float32)


def _flat(eeg_CN: Signal, rate_hz: float) -> NDArray[np.bool_]:
    """Tell which channels have a deviation below 0.1 uV in a quarter of their seconds."""
    second = min(round(rate_hz), eeg_CN.shape[1])
    whole = eeg_CN.shape[1] // second * second
    deviation_CS = eeg_CN[:, :whole].reshape(len(eeg_CN), -1, second).std(axis=2, dtype=np.float64)
    return np.asarray((deviation_CS < FLAT_UV).mean(axis=1) >= FLAT_SHARE)


def _outlying(eeg_CN: Signal, rate_hz: float) -> dict[int, str]:
    """Return the channels, by number, that are unlike the others; a large one is called large, whatever else it is."""
    amplitude = _amplitude(eeg_CN)
    found = _off_median(amplitude, "amplitude {factor:.1f} times the median channel's")
    if rate_hz > 2.4 * _FAST_HZ:
        fast_CN = _high_passed(eeg_CN, rate_hz, _FAST_HZ)
        eeg_CN = eeg_CN - fast_CN
        noise = _amplitude(fast_CN)
        noisy = _off_median(noise / _amplitude(eeg_CN), "noise above 50 Hz {factor:.1f} times the median channel's")
        found = {channel: reason for channel, reason in noisy.items() if noise[channel] > LEAST_NOISE_UV} | found
    return _unlike_all_others(eeg_CN, rate_hz) | found


def _amplitude(eeg_CN: Signal) -> NDArray[np.float64]:
    """Return each channel's deviation as its quartiles tell it, so that a few large artefacts do not count."""
    low, high = np.percentile(eeg_CN, [25, 75], axis=1)
    return np.maximum((high - low) * 0.7413, 1e-6)


def _off_median(values: NDArray[np.float64], reason: str) -> dict[int, str]:
    """Return the channels whose value lies far from the median of all on a logarithmic scale."""
    distance = np.log(values) - np.median(np.log(values))
    deviation = _SD_PER_MAD * np.median(np.abs(distance))
    far = np.flatnonzero(np.abs(distance) > max(FAR_DEVIATIONS * float(deviation), float(np.log(FAR_FACTOR))))
    return {int(channel): reason.format(factor=np.exp(distance[channel])) for channel in far}


def _unlike_all_others(eeg_CN: Signal, rate_hz: float) -> dict[int, str]:
    """Return the channels whose correlation with their second most alike channel is low in most windows.

    It must also be half the median channel's: of channels that do not see one another, none is to blame.
    """
    width = round(WINDOW_S * rate_hz)
    starts = range(0, eeg_CN.shape[1] - width + 1, width)
    alike_WC = np.array([_second_largest_correlation(eeg_CN[:, start : start + width]) for start in starts])
    if not len(alike_WC):
        return {}
    typical = np.median(alike_WC, axis=0)
    least = min(LEAST_CORRELATION, float(np.median(typical)) / 2)
    return {
        int(channel): f"correlates with other channels by {typical[channel]:.2f} only"
        for channel in np.flatnonzero(typical < least)
    }


def _second_largest_correlation(window_CN: Signal) -> NDArray[np.float64]:
    centred = window_CN - window_CN.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = centred / np.maximum(length, 1e-12)
    correlation = np.abs(unit @ unit.T)
    np.fill_diagonal(correlation, 0)
    return np.asarray(np.sort(correlation, axis=1)[:, -2], dtype=np.float64)


def _high_passed(eeg_CN: Signal, rate_hz: float, above_hz: float) -> Signal:
    sections = butter(4, above_hz, "highpass", fs=rate_hz, output="sos")
    return np.stack([sosfiltfilt(sections, signal).astype(np.float32) for signal in eeg_CN])
