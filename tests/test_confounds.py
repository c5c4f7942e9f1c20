"""What heart, eyes and muscles did is told per volume, and nan where nobody recorded it."""

import numpy as np
import pytest
from scipy.signal import butter, sosfiltfilt
from small_eeg import NAMES, add_wave, pink_noise

from datasets.confounds import PHYSIOLOGY_NAMES, physiology_confounds
from datasets.oddball import channel_locations_m
from datasets.recording import EegSignal

RATE_HZ, VOLUME_S, NUM_VOLUMES = 500.0, 2.0, 40
SAMPLES = round(RATE_HZ * VOLUME_S)
EMPTY = np.empty(0)
BURSTS = np.isin(np.arange(NUM_VOLUMES), [7, 8, 21])


def background(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([15 * pink_noise(NUM_VOLUMES * SAMPLES, RATE_HZ, rng) for _ in NAMES])


def signal_of(rows: np.ndarray, names: tuple[str, ...] = NAMES, **others) -> EegSignal:
    return EegSignal(
        eeg_uv=rows.astype(np.float32),
        channel_names=names,
        locations_m=channel_locations_m(names),
        rate_hz=RATE_HZ,
        **others,
    )


def confounds(signal: EegSignal, beats_s: np.ndarray = EMPTY) -> dict[str, np.ndarray]:
    return physiology_confounds(signal, beats_s, signal.rate_hz * VOLUME_S, NUM_VOLUMES)


def test_every_column_is_there_and_nan_where_it_was_not_recorded() -> None:
    columns = confounds(signal_of(np.zeros((2, NUM_VOLUMES * SAMPLES)), ("pair-1", "pair-2")))
    assert tuple(columns) == PHYSIOLOGY_NAMES
    for column in columns.values():
        assert column.shape == (NUM_VOLUMES,)
        assert np.isnan(column).all()


def test_pulse_rate_follows_the_heart_and_a_missed_beat_does_not_halve_it() -> None:
    beats_s = 0.3 + np.cumsum(np.r_[np.full(45, 60 / 70), np.full(52, 60 / 75)])
    columns = confounds(signal_of(background()), np.delete(beats_s, 20))
    assert columns["pulse_rate_bpm"][:14] == pytest.approx(70, abs=1)
    assert columns["pulse_rate_bpm"][-14:] == pytest.approx(75, abs=1)


def test_pulse_phase_is_the_way_from_beat_to_beat_also_beyond_the_last() -> None:
    beats_s = np.arange(0.4, 70.0, 0.9)
    columns = confounds(signal_of(background()), beats_s)
    phase = 2 * np.pi * (np.arange(NUM_VOLUMES) * VOLUME_S + VOLUME_S / 2 - 0.4) / 0.9
    assert columns["pulse_phase_cos"] == pytest.approx(np.cos(phase), abs=1e-6)
    assert columns["pulse_phase_sin"] == pytest.approx(np.sin(phase), abs=1e-6)


def test_ecg_power_is_the_log_variance_of_each_volume() -> None:
    sizes = np.exp(np.random.default_rng(0).normal(3, 0.5, NUM_VOLUMES))
    ecg = np.repeat(sizes, SAMPLES) * np.sin(2 * np.pi * 5 * np.arange(NUM_VOLUMES * SAMPLES) / RATE_HZ)
    columns = confounds(signal_of(background(), ecg=ecg.astype(np.float32)))
    assert columns["ecg_power"] == pytest.approx(np.log(sizes**2 / 2), abs=0.01)


def with_blinks(rows: np.ndarray, channels: range) -> np.ndarray:
    for channel in channels:
        for volume in np.flatnonzero(BURSTS):
            add_wave(rows[channel], (volume + 0.5) * VOLUME_S, RATE_HZ, lambda t: 200 * np.exp(-0.5 * (t / 0.1) ** 2))
    return rows


def test_eog_power_shows_the_blinks_of_the_eog_and_not_its_drift() -> None:
    eog = with_blinks(background(1)[:2], range(1)) + np.linspace(0, 5_000, NUM_VOLUMES * SAMPLES)
    power = confounds(signal_of(background(), eog=eog.astype(np.float32)))["eog_power"]
    assert power[BURSTS].min() > power[~BURSTS].max()


def test_without_an_eog_its_power_is_that_of_slow_waves_in_frontal_channels() -> None:
    power = confounds(signal_of(with_blinks(background(), range(2))))["eog_power"]
    assert power[BURSTS].min() > power[~BURSTS].max()
    elsewhere = confounds(signal_of(with_blinks(background(), range(8, 19))))["eog_power"]
    assert elsewhere == pytest.approx(confounds(signal_of(background()))["eog_power"])


def test_muscle_power_is_the_fast_power_of_temporal_channels() -> None:
    fast = np.random.default_rng(2).normal(size=NUM_VOLUMES * SAMPLES)
    fast = 20 * sosfiltfilt(butter(4, (70, 120), "bandpass", fs=RATE_HZ, output="sos"), fast)
    temporal = [NAMES.index(name) for name in ("T7", "T8", "F7", "F8")]
    rows = background()
    rows[temporal] += fast * np.repeat(BURSTS, SAMPLES)
    power = confounds(signal_of(rows))["muscle_power"]
    assert power[BURSTS].min() > power[~BURSTS].max() + 1
    one_only = background()
    one_only[temporal[0]] += 10 * fast
    assert confounds(signal_of(one_only))["muscle_power"] == pytest.approx(
        confounds(signal_of(background()))["muscle_power"], abs=0.5
    )


def test_muscles_are_not_seen_below_240_hz() -> None:
    signal = EegSignal(
        eeg_uv=np.ones((19, 200 * 80), dtype=np.float32),
        channel_names=NAMES,
        locations_m=channel_locations_m(NAMES),
        rate_hz=200.0,
    )
    assert np.isnan(confounds(signal)["muscle_power"]).all()


def test_volumes_need_not_be_a_whole_number_of_samples() -> None:
    columns = physiology_confounds(signal_of(background()), np.arange(0.4, 70.0, 0.9), 1.2345 * RATE_HZ, 60)
    assert columns["pulse_rate_bpm"] == pytest.approx(60 / 0.9)
    assert columns["eog_power"].shape == (60,)
    assert np.isfinite(columns["eog_power"]).all()
