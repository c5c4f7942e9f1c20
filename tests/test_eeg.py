"""EEG: filters, length, normalisation."""

import logging

import numpy as np
import pytest

from datasets import eeg
from datasets.errors import BadInput

RATE_HZ = 250.0
NO_FILTER = eeg.EegSettings(high_pass_hz=None)


def sine(frequency_hz: float, seconds: float = 60.0) -> np.ndarray:
    times = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    return np.sin(2 * np.pi * frequency_hz * times).astype(np.float32)[np.newaxis]


def middle_power(signal: np.ndarray) -> float:
    quarter = signal.shape[1] // 4
    return float(np.mean(signal[:, quarter:-quarter] ** 2))


def test_no_filter_returns_a_copy_of_what_came() -> None:
    signal = sine(10)
    prepared = eeg.prepare_eeg(signal, RATE_HZ, NO_FILTER)
    assert np.array_equal(prepared, signal)
    assert not np.shares_memory(prepared, signal)


def test_the_high_pass_removes_drift_and_keeps_alpha_where_it_is() -> None:
    alpha = 20 * sine(10)
    prepared = eeg.prepare_eeg(alpha + 50 * sine(0.02) + 300, RATE_HZ, eeg.EegSettings())
    quarter = alpha.shape[1] // 4
    assert prepared.dtype == np.float32
    assert (
        np.abs(prepared - alpha)[:, quarter:-quarter].max() < 0.5
    )  # of 350: the stop band of a Hamming window is at -53 dB


@pytest.mark.parametrize(
    ("settings", "removed_hz"),
    [
        (eeg.EegSettings(high_pass_hz=None, low_pass_hz=30.0), 60.0),
        (eeg.EegSettings(high_pass_hz=None, notch_hz=50.0), 50.0),
        (eeg.EegSettings(high_pass_hz=None, notch_hz=50.0), 100.0),
    ],
)
def test_low_pass_and_notch_remove_their_frequencies_and_keep_alpha(
    settings: eeg.EegSettings, removed_hz: float
) -> None:
    assert middle_power(eeg.prepare_eeg(sine(removed_hz), RATE_HZ, settings)) < 1e-4
    assert middle_power(eeg.prepare_eeg(sine(10), RATE_HZ, settings)) == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize(
    "settings",
    [
        NO_FILTER,
        eeg.EegSettings(),
        eeg.EegSettings(high_pass_hz=1.0, low_pass_hz=40.0),
        eeg.EegSettings(high_pass_hz=None, notch_hz=50.0),
        eeg.EegSettings(notch_hz=50.0),
    ],
)
def test_the_filters_see_ahead_as_far_as_they_say(settings: eeg.EegSettings) -> None:
    impulse = np.zeros((1, 10_001), dtype=np.float32)
    impulse[0, 5_000] = 1
    response = np.flatnonzero(np.abs(eeg.prepare_eeg(impulse, RATE_HZ, settings)[0]) > 1e-12)
    seen_ahead = (5_000 - response.min()) / RATE_HZ
    assert seen_ahead == pytest.approx(eeg.future_seconds(RATE_HZ, settings), abs=0.1)


def test_eeg_that_is_not_finite_is_refused_by_channel() -> None:
    signal = np.zeros((3, 5_000), dtype=np.float32)
    signal[1, 7] = np.nan
    with pytest.raises(BadInput, match=r"channels \[1\] are not"):
        eeg.prepare_eeg(signal, RATE_HZ, NO_FILTER)


def test_eeg_that_is_not_channels_by_samples_is_refused() -> None:
    with pytest.raises(BadInput, match="channels, samples"):
        eeg.prepare_eeg(np.zeros(5_000, dtype=np.float32), RATE_HZ, NO_FILTER)


def test_a_recording_shorter_than_the_filter_is_refused() -> None:
    with pytest.raises(BadInput, match=r"must last 6\.6 s or more"):
        eeg.prepare_eeg(sine(10, seconds=6), RATE_HZ, eeg.EegSettings())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"normalisation": "minmax"}, "one of zscore"),
        ({"high_pass_hz": 0.0}, "high_pass_hz must be a number above 0"),
        ({"notch_hz": float("nan")}, "notch_hz must be a number above 0"),
        ({"high_pass_hz": 40.0, "low_pass_hz": 40.0}, "high_pass_hz must be below low_pass_hz"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        eeg.EegSettings(**wrong)


def test_a_filter_above_half_the_sampling_rate_is_refused() -> None:
    with pytest.raises(BadInput, match="low_pass_hz must be below half the sampling rate, 125 Hz"):
        eeg.prepare_eeg(sine(10), RATE_HZ, eeg.EegSettings(low_pass_hz=125.0))


def test_the_scale_is_that_of_all_runs_together() -> None:
    rng = np.random.default_rng(0)
    runs = [(rng.normal(5, 3, (4, length)) * [[1], [10], [100], [1]]).astype(np.float32) for length in (1_000, 1_500)]
    scale = eeg.channel_scale(runs)
    together = np.concatenate(runs, axis=1).astype(np.float64)
    assert scale.mean == pytest.approx(together.mean(axis=1))
    assert scale.standard_deviation == pytest.approx(together.std(axis=1))


def test_the_scale_survives_a_large_offset() -> None:
    signal = (1e5 + np.random.default_rng(0).normal(0, 10, (1, 100_000))).astype(np.float32)
    assert eeg.channel_scale([signal]).standard_deviation[0] == pytest.approx(10, rel=0.01)


def test_runs_of_different_channels_have_no_common_scale() -> None:
    with pytest.raises(BadInput, match=r"\[2, 3\] channels"):
        eeg.channel_scale([np.zeros((2, 5), dtype=np.float32), np.zeros((3, 5), dtype=np.float32)])


def test_no_runs_have_no_scale() -> None:
    with pytest.raises(BadInput, match="must have samples"):
        eeg.channel_scale([])


def test_normalised_runs_have_mean_zero_and_deviation_one() -> None:
    runs = [np.random.default_rng(seed).normal(7, 20, (3, 5_000)).astype(np.float32) for seed in range(2)]
    scale = eeg.channel_scale(runs)
    together = np.concatenate([eeg.normalise(run, scale) for run in runs], axis=1)
    assert together.dtype == np.float32
    assert together.mean(axis=1) == pytest.approx(0, abs=1e-4)
    assert together.std(axis=1) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_a_constant_channel_becomes_zeros_and_is_logged(value: float, caplog: pytest.LogCaptureFixture) -> None:
    signal = np.concatenate([np.full((1, 3_000), value), np.random.default_rng(0).normal(size=(1, 3_000))])
    signal = signal.astype(np.float32)
    with caplog.at_level(logging.WARNING):
        normalised = eeg.normalise(signal, eeg.channel_scale([signal]))
    assert not normalised[0].any()
    assert normalised[1].std() == pytest.approx(1, abs=1e-4)
    assert "channels [0] are constant" in caplog.text


def test_a_scale_of_other_channels_is_refused() -> None:
    scale = eeg.channel_scale([np.ones((2, 10), dtype=np.float32)])
    with pytest.raises(ValueError, match="3 channels"):
        eeg.normalise(np.ones((3, 10), dtype=np.float32), scale)


@pytest.mark.parametrize("length", [1_000, 1_001, 1_999])
def test_eeg_of_the_right_length_or_longer_is_cut(length: int) -> None:
    signal = np.arange(length, dtype=np.float32)[np.newaxis]
    assert np.array_equal(eeg.fit_length(signal, 1_000, samples_per_volume=100), signal[:, :1_000])


def test_eeg_shorter_by_less_than_a_volume_is_padded_with_zeros_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        fitted = eeg.fit_length(np.ones((2, 901), dtype=np.float32), 1_000, samples_per_volume=100)
    assert fitted.shape == (2, 1_000)
    assert fitted.dtype == np.float32
    assert fitted.sum() == 2 * 901 and not fitted[:, 901:].any()
    assert "99 samples shorter" in caplog.text


def test_eeg_shorter_by_a_volume_is_refused() -> None:
    with pytest.raises(BadInput, match="100 are missing"):
        eeg.fit_length(np.ones((2, 900), dtype=np.float32), 1_000, samples_per_volume=100)
