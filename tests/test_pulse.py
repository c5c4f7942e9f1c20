"""Heart beats are found in an ECG, and nothing else is taken for one; what they do to the EEG is reduced."""

import mne
import numpy as np
import pytest
from mne.preprocessing import apply_pca_obs
from scipy.signal import butter, sosfiltfilt
from small_eeg import add_wave, alpha_rhythm, ecg_with, heart_beats, pink_noise, small_eeg

from datasets.pulse import agreement, best_ecg, find_beats, is_plausible, outlying_intervals, reduce_pulse

RATE_HZ = 250.0


def ecg_of(beats_s: np.ndarray, seed: int, rate_hz: float = RATE_HZ, seconds: float = 120.0, **scanner) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return ecg_with(beats_s, round(seconds * rate_hz), rate_hz, rng, **scanner).astype(np.float32)


@pytest.mark.parametrize("rate_hz", [250.0, 1000.0])
@pytest.mark.parametrize("t_wave", [0.3, 2.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_beats_are_found_to_the_millisecond_also_under_a_t_wave_twice_as_high(
    rate_hz: float, t_wave: float, sign: int
) -> None:
    planted = heart_beats(120.0, np.random.default_rng(5))
    found = find_beats(sign * ecg_of(planted, 5, rate_hz, t_wave=t_wave), rate_hz)
    assert len(found) == pytest.approx(len(planted), abs=1)
    nearest = np.abs(found[:, None] - planted[None, :]).min(axis=1)
    assert np.median(nearest) < 0.004
    assert nearest.max() < 0.02


@pytest.mark.parametrize("rate_bpm", [45.0, 68.0, 110.0])
def test_most_beats_are_found_in_noise(rate_bpm: float) -> None:
    planted = heart_beats(120.0, np.random.default_rng(6), rate_bpm)
    found = find_beats(ecg_of(planted, 6, noise_uv=120.0), RATE_HZ)
    assert agreement(found, planted) > 0.93


def blinks(rng: np.random.Generator) -> np.ndarray:
    row = 20 * pink_noise(30_000, RATE_HZ, rng)
    for time_s in np.cumsum(0.4 + rng.exponential(3, 40)):
        if time_s < 119:
            add_wave(row, time_s, RATE_HZ, lambda t: 200 * np.exp(-0.5 * (t / 0.08) ** 2))
    return row


@pytest.mark.parametrize(
    "row_of",
    [
        blinks,
        lambda rng: 30 * pink_noise(30_000, RATE_HZ, rng),
        lambda rng: rng.normal(0, 10, 30_000),
        lambda rng: alpha_rhythm(30_000, RATE_HZ, rng),
        lambda rng: 60 * np.sin(2 * np.pi * 16 * np.arange(30_000) / RATE_HZ) + rng.normal(0, 1, 30_000),
        lambda rng: np.zeros(30_000),
        lambda rng: np.full(30_000, np.nan),
        lambda rng: rng.normal(0, 10, 1_000),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_no_beats_are_found_where_there_is_no_heart(row_of, seed: int) -> None:
    assert len(find_beats(row_of(np.random.default_rng(seed)).astype(np.float32), RATE_HZ)) == 0


@pytest.mark.parametrize(("rate_bpm", "plausible"), [(30.0, False), (40.0, True), (120.0, True), (150.0, False)])
def test_only_rates_of_35_to_130_are_plausible(rate_bpm: float, plausible: bool) -> None:
    assert is_plausible(np.arange(100) * 60 / rate_bpm) == plausible


def test_one_missed_beat_is_outlying_and_many_are_not_plausible() -> None:
    beats_s = np.arange(100) * 0.9
    assert np.flatnonzero(outlying_intervals(np.delete(beats_s, 50))).tolist() == [49]
    assert not is_plausible(np.delete(beats_s, np.arange(3, 97, 7)))
    assert not is_plausible(np.empty(0))


def test_agreement_is_the_share_of_beats_in_common() -> None:
    beats_s = np.arange(100) * 0.9
    assert agreement(beats_s, beats_s + 0.05) == 1
    assert agreement(beats_s, beats_s + 0.2) == 0
    assert agreement(beats_s[:50], beats_s) == 0.5
    assert agreement(beats_s, np.empty(0)) == 0


def test_the_lead_that_shows_beats_is_the_best() -> None:
    ecg = ecg_of(heart_beats(120.0, np.random.default_rng(1)), 1)
    noise = np.random.default_rng(0).normal(size=len(ecg)).astype(np.float32)
    assert best_ecg(np.stack([noise, ecg]), RATE_HZ) is not None
    assert np.array_equal(best_ecg(np.stack([noise, ecg]), RATE_HZ), ecg)
    assert np.array_equal(best_ecg(np.stack([noise, noise + 1]), RATE_HZ), noise)
    assert best_ecg(np.empty((0, 100), dtype=np.float32), RATE_HZ) is None


@pytest.fixture(scope="module")
def planted():
    return small_eeg(seed=1, seconds=240.0)


def band(rows: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    sections = butter(4, (low_hz, high_hz), "bandpass", fs=RATE_HZ, output="sos")
    return sosfiltfilt(sections, rows.astype(np.float64), axis=-1)[:, 1000:-1000]


def mean_correlation(rows: np.ndarray, others: np.ndarray) -> float:
    return float(np.mean([np.corrcoef(row, other)[0, 1] for row, other in zip(rows, others, strict=True)]))


def locked_rms(rows: np.ndarray, beats_s: np.ndarray) -> float:
    """Return the size of the mean beat."""
    centres = np.round((beats_s[3:-3] + 0.21) * RATE_HZ).astype(int)
    return float(np.sqrt(np.mean(rows[:, centres[:, None] + np.arange(-90, 90)].mean(axis=1) ** 2)))


@pytest.mark.parametrize(("method", "alpha_r", "alpha_power"), [("template", 0.97, 0.9), ("obs", 0.97, 0.9)])
def test_the_artefact_goes_and_a_rhythm_that_knows_no_beats_stays(
    planted, method: str, alpha_r: float, alpha_power: float
) -> None:
    beats_s = find_beats(planted.ecg.astype(np.float32), RATE_HZ)
    reduced = reduce_pulse(planted.total, RATE_HZ, beats_s, method)
    without = planted.background + planted.alpha
    assert reduced.dtype == np.float32
    artefact_left = locked_rms(reduced - without, planted.beats_s) / locked_rms(planted.pulse_artefact, planted.beats_s)
    assert artefact_left < 0.2
    assert mean_correlation(band(reduced, 9, 11), band(without, 9, 11)) > alpha_r
    assert np.mean(band(reduced, 9, 11) ** 2) > alpha_power * np.mean(band(without, 9, 11) ** 2)
    assert mean_correlation(band(reduced, 1, 8), band(without, 1, 8)) > mean_correlation(
        band(planted.total, 1, 8), band(without, 1, 8)
    )


def test_the_template_keeps_most_of_the_slow_eeg(planted) -> None:
    reduced = reduce_pulse(planted.total, RATE_HZ, planted.beats_s, "template")
    without = planted.background + planted.alpha
    assert mean_correlation(band(planted.total, 1, 8), band(without, 1, 8)) < 0.87
    assert mean_correlation(band(reduced, 1, 8), band(without, 1, 8)) > 0.95


def test_our_optimal_basis_set_keeps_more_than_that_of_mne(planted) -> None:
    rows, without = planted.total[:2], (planted.background + planted.alpha)[:2]
    info = mne.create_info(len(rows), RATE_HZ, "eeg", verbose="error")
    raw = mne.io.RawArray(rows.astype(np.float64), info, verbose="error")
    inner_s = planted.beats_s[2:-2] + 0.21
    theirs = apply_pca_obs(raw, raw.ch_names, qrs_times=inner_s, n_components=2, verbose="error").get_data()
    ours = reduce_pulse(rows, RATE_HZ, planted.beats_s, "obs")
    for low_hz, high_hz in ((1, 4), (9, 11)):
        kept, kept_by_mne = (
            mean_correlation(band(each, low_hz, high_hz), band(without, low_hz, high_hz)) for each in (ours, theirs)
        )
        assert kept > kept_by_mne


@pytest.mark.parametrize("method", ["template", "obs"])
def test_eeg_far_from_any_beat_is_left_alone(planted, method: str) -> None:
    some_s = planted.beats_s[(planted.beats_s > 60) & (planted.beats_s < 120)]
    reduced = reduce_pulse(planted.total, RATE_HZ, some_s, method)
    assert np.array_equal(reduced[:, :14_500], planted.total[:, :14_500])
    assert np.array_equal(reduced[:, 30_500:], planted.total[:, 30_500:])
    assert not np.array_equal(reduced[:, 20_000:21_000], planted.total[:, 20_000:21_000])
