"""Lagged band power: a rhythm shows in its own band and channel, later, and never before it happened."""

import numpy as np
import pytest
import torch
from model_shapes import eeg, shape

from platform.data.band_power import (
    BANDS_HZ,
    PEAKS_SECONDS,
    PIECE_SECONDS,
    RESPONSE_SECONDS,
    haemodynamic_response,
    lagged_band_power,
    log_band_power,
)
from platform.models.band_power import BandPowerFeatures

RATE_HZ = 125
VOLUMES = 40
NUM_CHANNELS = 3
CHANNEL = 1
BURST_BEGINS_S, BURST_ENDS_S = 20.0, 22.0
ROUNDING = 1e-4


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((NUM_CHANNELS, 2 * VOLUMES * RATE_HZ)).astype(np.float16)


def burst(hertz: float, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Return a tone of two seconds in one channel, and silence."""
    time_s = np.arange(2 * VOLUMES * rate_hz) / rate_hz
    is_on = (time_s >= BURST_BEGINS_S) & (time_s < BURST_ENDS_S)
    eeg_CS = np.zeros((NUM_CHANNELS, len(time_s)))
    eeg_CS[CHANNEL] = 10 * np.sin(2 * np.pi * hertz * time_s) * is_on
    return eeg_CS.astype(np.float16)


def features_of(eeg_CS: np.ndarray) -> np.ndarray:
    """Return the features with their axes apart, shape (R, peaks, bands, channels)."""
    return lagged_band_power(eeg_CS, RATE_HZ, VOLUMES, 2.0).reshape(VOLUMES, len(PEAKS_SECONDS), len(BANDS_HZ), -1)


def raised_by(hertz: float) -> np.ndarray:
    """Return by how much a burst raises every feature of noise, shape (R, peaks, bands, channels)."""
    return features_of(noise() + burst(hertz)) - features_of(noise())


def test_features_are_peaks_times_bands_times_channels():
    features = lagged_band_power(noise(), RATE_HZ, VOLUMES, 2.0)
    assert features.shape == (VOLUMES, 3 * 7 * NUM_CHANNELS)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()


@pytest.mark.parametrize("rate_hz", [125, 250, 1000])
def test_log_power_has_a_row_for_every_whole_half_second(rate_hz):
    assert log_band_power(burst(10, rate_hz), rate_hz).shape == (4 * VOLUMES, 7 * NUM_CHANNELS)
    assert log_band_power(burst(10, rate_hz)[:, :-1], rate_hz).shape == (4 * VOLUMES - 1, 7 * NUM_CHANNELS)


@pytest.mark.parametrize("rate_hz", [125, 250, 1000])
def test_a_row_is_the_half_second_that_its_number_says_to_the_end_of_the_run(rate_hz):
    eeg_CS = np.zeros((NUM_CHANNELS, 2 * VOLUMES * rate_hz), np.float16)
    last_second = eeg_CS.shape[1] - rate_hz
    eeg_CS[:, last_second:] = burst(10, rate_hz)[:, round(BURST_BEGINS_S * rate_hz) :][:, :rate_hz]
    power_N = log_band_power(eeg_CS, rate_hz)[:, CHANNEL]
    assert np.flatnonzero(power_N > power_N[0]).tolist() == [4 * VOLUMES - 2, 4 * VOLUMES - 1]


@pytest.mark.parametrize("rate_hz", [125, 250])
@pytest.mark.parametrize("band", list(BANDS_HZ))
def test_a_tone_is_loudest_in_its_own_band_and_channel(band, rate_hz):
    low, high = BANDS_HZ[band]
    power = log_band_power(burst((low + high) / 2, rate_hz), rate_hz).reshape(4 * VOLUMES, len(BANDS_HZ), NUM_CHANNELS)
    during = power[round(BURST_BEGINS_S / PIECE_SECONDS) + 1]
    loudest_band, loudest_channel = np.unravel_index(during.argmax(), during.shape)
    assert list(BANDS_HZ)[loudest_band] == band
    assert loudest_channel == CHANNEL


def test_silence_has_finite_power():
    assert np.isfinite(log_band_power(np.zeros((NUM_CHANNELS, 1000), np.float16), RATE_HZ)).all()


def test_alpha_at_10_hz_raises_alpha_of_its_channel_at_later_volumes_only():
    raised = raised_by(10.0)
    begins_s = 2.0 * np.arange(VOLUMES)
    for band in ("alpha_low", "alpha_high"):  # half a second of 10 Hz reaches into both
        course_RP = raised[:, :, list(BANDS_HZ).index(band), CHANNEL]
        assert np.abs(course_RP[begins_s <= BURST_BEGINS_S]).max() < ROUNDING
        assert course_RP[(begins_s > BURST_ENDS_S) & (begins_s <= BURST_ENDS_S + 12)].min() > 0.01
        assert np.abs(course_RP[begins_s >= BURST_ENDS_S + RESPONSE_SECONDS]).max() < ROUNDING


def test_a_burst_raises_its_own_band_most_and_no_other_channel():
    raised = raised_by(9.25).max(axis=0)
    assert raised[:, :, CHANNEL].argmax(axis=1).tolist() == [list(BANDS_HZ).index("alpha_low")] * len(PEAKS_SECONDS)
    assert np.abs(np.delete(raised_by(9.25), CHANNEL, axis=3)).max() < ROUNDING


@pytest.mark.parametrize(("number", "peak_s"), list(enumerate(PEAKS_SECONDS)))
def test_each_feature_peaks_as_long_after_the_burst_as_its_name_says(number, peak_s):
    course_R = raised_by(9.25)[:, number, list(BANDS_HZ).index("alpha_low"), CHANNEL]
    middle_s = (BURST_BEGINS_S + BURST_ENDS_S) / 2
    assert 2.0 * course_R.argmax() == pytest.approx(middle_s + peak_s, abs=1.5)


@pytest.mark.parametrize("volume", [1, 7, 16, 20, VOLUMES - 1])
def test_eeg_after_a_volume_begins_never_changes_its_features(volume):
    eeg_CS, changed = noise(), noise()
    changed[:, 2 * volume * RATE_HZ :] *= 5
    difference = np.abs(features_of(changed) - features_of(eeg_CS)).max(axis=(1, 2, 3))
    assert difference[: volume + 1].max() < ROUNDING
    assert volume + 1 == VOLUMES or difference[volume + 1 :].min() > 0.01


def test_a_run_that_ends_early_has_the_same_features_as_far_as_it_goes():
    whole = lagged_band_power(noise(), RATE_HZ, VOLUMES, 2.0)
    begun = lagged_band_power(noise()[:, : 20 * 2 * RATE_HZ], RATE_HZ, 20, 2.0)
    np.testing.assert_allclose(begun, whole[:20], atol=ROUNDING)


@pytest.mark.parametrize(("tr_s", "rate_hz"), [(2.16, 125), (1.5, 250), (0.72, 125), (3.0, 125), (0.1, 250)])
def test_at_any_repetition_time_no_volume_knows_of_eeg_after_it_and_the_next_one_does(tr_s, rate_hz):
    volumes, changed_at = 40, 25
    samples = round(tr_s * rate_hz)
    eeg_CS = np.random.default_rng(1).standard_normal((NUM_CHANNELS, volumes * samples)).astype(np.float16)
    changed = eeg_CS.copy()
    changed[:, changed_at * samples :] *= 5
    before, after = (lagged_band_power(each, rate_hz, volumes, tr_s) for each in (eeg_CS, changed))
    assert before.shape == (volumes, len(PEAKS_SECONDS) * len(BANDS_HZ) * NUM_CHANNELS)
    assert np.isfinite(before).all()
    difference = np.abs(after - before).max(axis=1)
    assert difference[: changed_at + 1].max() < ROUNDING
    assert difference[-1] > 0.01


def test_two_seconds_are_still_cut_into_half_seconds():
    lagged = lagged_band_power(noise(), RATE_HZ, VOLUMES, 2.0)
    power_NF = log_band_power(noise(), RATE_HZ, 0.5) - log_band_power(noise(), RATE_HZ, 0.5)[0]
    response_N = haemodynamic_response(4.0, 0.5)
    expected = [np.convolve(power_NF[:, 0], response_N)[4 * volume - 1] for volume in range(1, VOLUMES)]
    np.testing.assert_allclose(lagged[1:, 0], expected, atol=1e-4)


@pytest.mark.parametrize("peak_s", PEAKS_SECONDS)
def test_a_response_peaks_where_said_and_sums_to_one(peak_s):
    response_N = haemodynamic_response(peak_s)
    assert response_N.argmax() * PIECE_SECONDS == peak_s
    assert response_N.sum() == pytest.approx(1, abs=1e-5)
    assert response_N.min() >= 0
    assert len(response_N) * PIECE_SECONDS == RESPONSE_SECONDS


def test_the_networks_features_of_a_recording_are_those_of_its_windows_one_by_one():
    small = shape(low_rank=False)
    features, samples = BandPowerFeatures(small), small.samples_per_volume
    recording_CS = eeg(num_windows=2).transpose(0, 1).flatten(1)
    windows = [recording_CS[:, at : at + small.num_samples] for at in range(0, small.num_samples, samples)]
    np.testing.assert_allclose(
        features.of_recording(recording_CS), features(torch.stack(windows)), rtol=1e-4, atol=1e-4
    )
