"""Bad channels are found with a reason, good ones are left alone, and what is filled is like what was there."""

from functools import cache

import numpy as np
import pytest
from scipy.signal import butter, sosfiltfilt
from small_eeg import pink_noise

from datasets.bad_channels import find_bad_channels, interpolate
from datasets.oddball import CHANNELS, channel_locations_m

RATE_HZ = 250.0
LOCATIONS_M = channel_locations_m(CHANNELS)


def eeg_on_a_head(seed: int, rate_hz: float = RATE_HZ) -> np.ndarray:
    return _eeg_on_a_head(seed, rate_hz).copy()


@cache
def _eeg_on_a_head(seed: int, rate_hz: float, seconds: float = 40.0) -> np.ndarray:
    """Return EEG of SD 20 uV from 100 sources under a sphere, each seen by the electrodes near it, and noise."""
    rng = np.random.default_rng(seed)
    electrodes = np.array(LOCATIONS_M) - np.mean(LOCATIONS_M, axis=0) * [1, 1, 0]
    electrodes /= np.linalg.norm(electrodes, axis=1, keepdims=True)
    sources = rng.normal(size=(100, 3))
    sources[:, 2] = np.abs(sources[:, 2])
    sources /= np.linalg.norm(sources, axis=1, keepdims=True)
    gains = np.exp((electrodes @ sources.T - 1) / 0.15)
    eeg = gains @ np.stack([pink_noise(round(seconds * rate_hz), rate_hz, rng) for _ in sources])
    eeg *= 20 / eeg.std()
    return (eeg + rng.normal(0, 1.5, eeg.shape)).astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_good_channels_are_not_called_bad(seed: int, scale: float) -> None:
    assert find_bad_channels(scale * eeg_on_a_head(seed), RATE_HZ, CHANNELS) == {}


def planted(kind: str, channel: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    num_samples = len(channel)
    fast = sosfiltfilt(butter(4, 60, "highpass", fs=RATE_HZ, output="sos"), rng.normal(0, 45, num_samples))
    flat_third = np.where(np.arange(num_samples) < num_samples // 3, 7.0, channel)
    return {
        "flat": np.full(num_samples, -300.0),
        "flat for a third": flat_third,
        "disconnected": 20 * pink_noise(num_samples, RATE_HZ, rng),
        "white": rng.normal(0, 20, num_samples),
        "fast": channel + fast,
        "large": 8 * channel,
        "small": 0.1 * channel,
    }[kind]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("flat", "flat"),
        ("flat for a third", "flat"),
        ("disconnected", "correlates with other channels by 0."),
        ("white", "correlates with other channels by 0."),
        ("fast", "noise above 50 Hz "),
        ("large", "amplitude "),
        ("small", "amplitude 0.1 times"),
    ],
)
def test_a_bad_channel_is_found_for_its_reason(kind: str, reason: str) -> None:
    eeg = eeg_on_a_head(0)
    eeg[15] = planted(kind, eeg[15], np.random.default_rng(1))
    bad = find_bad_channels(eeg, RATE_HZ, CHANNELS)
    assert list(bad) == ["Cz"]
    assert bad["Cz"].startswith(reason)


def test_several_bad_channels_are_listed_in_the_channels_order() -> None:
    eeg, rng = eeg_on_a_head(0), np.random.default_rng(1)
    for channel, kind in ((20, "disconnected"), (3, "flat"), (10, "large")):
        eeg[channel] = planted(kind, eeg[channel], rng)
    assert list(find_bad_channels(eeg, RATE_HZ, CHANNELS)) == ["AF4", "FC1", "CP2"]


def test_of_channels_that_do_not_see_one_another_none_is_to_blame() -> None:
    eeg = np.random.default_rng(0).normal(0, 10, (34, 10_000)).astype(np.float32)
    assert find_bad_channels(eeg, RATE_HZ, CHANNELS) == {}


def test_short_or_slow_eeg_is_judged_by_what_it_shows() -> None:
    assert find_bad_channels(eeg_on_a_head(0)[:, :300], RATE_HZ, CHANNELS) == {}
    assert find_bad_channels(eeg_on_a_head(0, rate_hz=100.0), 100.0, CHANNELS) == {}
    assert find_bad_channels(np.zeros((34, 10), dtype=np.float32), RATE_HZ, CHANNELS) == dict.fromkeys(CHANNELS, "flat")


@pytest.mark.parametrize("names", [["Cz"], ["Fp1"], ["O2", "F3", "CP5"]])
def test_a_filled_channel_is_like_what_was_there_and_the_others_stay(names: list[str]) -> None:
    eeg = eeg_on_a_head(2)
    broken = eeg.copy()
    bad = [CHANNELS.index(name) for name in names]
    broken[bad] = 0
    filled = interpolate(broken, CHANNELS, LOCATIONS_M, names)
    assert filled.dtype == np.float32
    assert np.array_equal(np.delete(filled, bad, axis=0), np.delete(eeg, bad, axis=0))
    for channel in bad:
        assert np.corrcoef(filled[channel], eeg[channel])[0, 1] > 0.85


def test_a_channel_without_a_location_neither_fills_nor_is_filled() -> None:
    eeg = eeg_on_a_head(0)
    locations = (None, None, *LOCATIONS_M[2:])
    filled = interpolate(eeg, CHANNELS, locations, ["Fp1", "Cz"])
    assert np.array_equal(filled[0], eeg[0])
    changed = eeg.copy()
    changed[1] = 1e6
    assert np.array_equal(interpolate(changed, CHANNELS, locations, ["Fp1", "Cz"])[15], filled[15])


def test_no_bad_channels_return_the_eeg_itself() -> None:
    eeg = eeg_on_a_head(0)
    assert interpolate(eeg, CHANNELS, LOCATIONS_M, []) is eeg
