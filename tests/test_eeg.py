"""EEG: length, filters, repair, rate, normalisation."""

import logging
import pickle

import numpy as np
import pytest
from small_eeg import NAMES, small_eeg

from datasets import eeg
from datasets.errors import BadInput
from datasets.oddball import channel_locations_m
from datasets.recording import EegSignal

RATE_HZ = 250.0
NO_FILTER = eeg.EegSettings(high_pass_hz=None)


def sine(frequency_hz: float, seconds: float = 60.0, rate_hz: float = RATE_HZ) -> np.ndarray:
    times = np.arange(int(seconds * rate_hz)) / rate_hz
    return np.sin(2 * np.pi * frequency_hz * times).astype(np.float32)[np.newaxis]


def middle_power(signal: np.ndarray) -> float:
    quarter = signal.shape[1] // 4
    return float(np.mean(signal[:, quarter:-quarter] ** 2))


def signal_of(rows: np.ndarray, rate_hz: float = RATE_HZ, **others) -> EegSignal:
    names = NAMES[: len(rows)]
    return EegSignal(
        eeg_uv=rows.astype(np.float32),
        channel_names=names,
        locations_m=channel_locations_m(names),
        rate_hz=rate_hz,
        **others,
    )


@pytest.fixture(scope="module")
def parts():
    return small_eeg(seconds=70.0)


def test_no_filter_returns_a_copy_of_what_came() -> None:
    signal = sine(10)
    prepared = eeg.filtered(signal, RATE_HZ, NO_FILTER)
    assert np.array_equal(prepared, signal)
    assert not np.shares_memory(prepared, signal)


def test_the_high_pass_removes_drift_and_keeps_alpha_where_it_is() -> None:
    alpha = 20 * sine(10)
    prepared = eeg.filtered(alpha + 50 * sine(0.02) + 300, RATE_HZ, eeg.EegSettings())
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
    assert middle_power(eeg.filtered(sine(removed_hz), RATE_HZ, settings)) < 1e-4
    assert middle_power(eeg.filtered(sine(10), RATE_HZ, settings)) == pytest.approx(0.5, rel=0.02)


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
    response = np.flatnonzero(np.abs(eeg.filtered(impulse, RATE_HZ, settings)[0]) > 1e-12)
    seen_ahead = (5_000 - response.min()) / RATE_HZ
    assert seen_ahead == pytest.approx(eeg.future_seconds(RATE_HZ, settings), abs=0.1)


def test_a_recording_shorter_than_the_filter_is_refused() -> None:
    with pytest.raises(BadInput, match=r"must last 6\.6 s or more"):
        eeg.filtered(sine(10, seconds=6), RATE_HZ, eeg.EegSettings())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"normalisation": "rank"}, "normalisation must be one of zscore, minmax, robust, but got 'rank'"),
        ({"normalise_over": "future"}, "normalise_over must be one of"),
        ({"reference": "Cz"}, "reference must be one of recorded, average"),
        ({"pulse": "ica"}, "pulse must be one of none, template, obs"),
        ({"eeg_file": "clean"}, "eeg_file must be one of rereferenced, noGA, raw"),
        ({"rate_hz": -1.0}, "rate_hz must be a number above 0"),
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
        eeg.filtered(sine(10), RATE_HZ, eeg.EegSettings(low_pass_hz=125.0))


@pytest.mark.parametrize(
    ("method", "centre", "width"),
    [
        ("zscore", np.mean, np.std),
        ("minmax", lambda x: (x.max() + x.min()) / 2, lambda x: (x.max() - x.min()) / 2),
        ("robust", np.median, lambda x: np.subtract(*np.percentile(x, [75, 25])) / 1.349),
    ],
)
def test_the_scale_is_that_of_all_runs_together(method: str, centre, width) -> None:
    rng = np.random.default_rng(0)
    runs = [(rng.normal(5, 3, (4, length)) * [[1], [10], [100], [1]]).astype(np.float32) for length in (1_000, 1_500)]
    scale = eeg.channel_scale(runs, method)
    together = np.concatenate(runs, axis=1).astype(np.float64)
    assert scale.centre == pytest.approx([centre(channel) for channel in together], rel=1e-4)
    assert scale.width == pytest.approx([width(channel) for channel in together], rel=1e-3)


def test_the_scale_survives_a_large_offset() -> None:
    signal = (1e5 + np.random.default_rng(0).normal(0, 10, (1, 100_000))).astype(np.float32)
    assert eeg.channel_scale([signal]).width[0] == pytest.approx(10, rel=0.01)


def test_runs_of_different_channels_have_no_common_scale() -> None:
    with pytest.raises(BadInput, match=r"\[2, 3\] channels"):
        eeg.channel_scale([np.zeros((2, 5), dtype=np.float32), np.zeros((3, 5), dtype=np.float32)])


def test_no_runs_have_no_scale() -> None:
    with pytest.raises(BadInput, match="must have samples"):
        eeg.channel_scale([])


def two_runs() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(7, size, (3, 20_000)).astype(np.float32) for size in (20, 40)]


def normalised(runs: list[np.ndarray], **settings: str) -> list[np.ndarray]:
    normaliser = eeg.fit_normaliser(runs, eeg.EegSettings(**settings), RATE_HZ)
    return [pickle.loads(pickle.dumps(normaliser))(run) for run in runs]


def test_runs_normalised_over_the_subject_have_mean_zero_and_deviation_one_together() -> None:
    together = np.concatenate(normalised(two_runs()), axis=1)
    assert together.dtype == np.float32
    assert together.mean(axis=1) == pytest.approx(0, abs=1e-4)
    assert together.std(axis=1) == pytest.approx(1, abs=1e-4)


def test_runs_normalised_over_the_first_run_keep_their_relation_to_it() -> None:
    first, second = normalised(two_runs(), normalise_over="first-run")
    assert first.std() == pytest.approx(1, abs=1e-3)
    assert second.std() == pytest.approx(2, abs=0.05)


def test_minmax_puts_the_extremes_of_the_subject_at_one() -> None:
    together = np.concatenate(normalised(two_runs(), normalisation="minmax"), axis=1)
    assert together.min(axis=1) == pytest.approx(-1, abs=1e-5)
    assert together.max(axis=1) == pytest.approx(1, abs=1e-5)


def test_the_robust_scale_does_not_see_an_artefact() -> None:
    runs = two_runs()[:1]
    with_artefact = [runs[0].copy()]
    with_artefact[0][:, 100:300] = 5_000
    without, seen = (normalised(each, normalisation="robust")[0] for each in (runs, with_artefact))
    assert seen[:, 1_000:].std() == pytest.approx(without[:, 1_000:].std(), rel=0.03)


@pytest.mark.parametrize("method", ["zscore", "minmax", "robust"])
def test_normalising_over_the_past_never_looks_ahead_after_the_first_30_s(method: str) -> None:
    run = two_runs()[0]
    changed = run.copy()
    at = 12_345
    changed[:, at:] *= 100
    before, after = (normalised([each], normalise_over="past", normalisation=method)[0] for each in (run, changed))
    assert np.array_equal(before[:, :at], after[:, :at])
    assert not np.array_equal(before[:, at:], after[:, at:])


def test_normalising_over_the_past_comes_to_the_scale_of_the_whole_run() -> None:
    run = two_runs()[0]
    past, whole = normalised([run], normalise_over="past")[0], normalised([run])[0]
    assert past.shape == run.shape
    assert np.abs(past[:, -1_000:] - whole[:, -1_000:]).max() < 0.1


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
@pytest.mark.parametrize("over", ["subject", "past"])
def test_a_constant_channel_becomes_zeros_and_is_logged(
    value: float, over: str, caplog: pytest.LogCaptureFixture
) -> None:
    signal = np.concatenate([np.full((1, 9_000), value), np.random.default_rng(0).normal(size=(1, 9_000))])
    with caplog.at_level(logging.WARNING):
        (result,) = normalised([signal.astype(np.float32)], normalise_over=over)
    assert not result[0].any()
    assert result[1].std() == pytest.approx(1, abs=0.05)
    assert caplog.text.count("channels [0] are constant") == 1


def test_a_scale_of_other_channels_is_refused() -> None:
    scale = eeg.channel_scale([np.ones((2, 10), dtype=np.float32)])
    with pytest.raises(ValueError, match="3 channels"):
        eeg.normalise(np.ones((3, 10), dtype=np.float32), scale)


def lasting(samples: int) -> EegSignal:
    rows = np.arange(2 * samples, dtype=np.float32).reshape(2, samples)
    return signal_of(rows, ecg=rows[0] + 1, eog=rows + 2)


def fitted(samples: int, num_volumes: int = 40) -> tuple[EegSignal, int]:
    return eeg.fit_length(lasting(samples), num_volumes, repetition_time_s=2.0)


@pytest.mark.parametrize(("samples", "warned"), [(20_000, False), (20_250, False), (20_251, True), (40_000, True)])
def test_eeg_that_goes_on_after_the_scan_is_cut(samples: int, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    signal, kept = fitted(samples)
    assert kept == 40
    assert np.array_equal(signal.eeg_uv, lasting(samples).eeg_uv[:, :20_000])
    assert np.array_equal(signal.ecg, lasting(samples).ecg[:20_000])
    assert signal.eog.shape == (2, 20_000)
    assert ("after the scan" in caplog.text) == warned


def test_eeg_that_ends_within_the_last_volume_holds_its_last_value(caplog: pytest.LogCaptureFixture) -> None:
    signal, kept = fitted(19_501)
    assert kept == 40
    assert signal.eeg_uv.shape == (2, 20_000)
    assert (signal.eeg_uv[:, 19_501:] == signal.eeg_uv[:, 19_500:19_501]).all()
    assert signal.ecg.shape == (20_000,)
    assert "the EEG ends 1.996 s before the scan" in caplog.text


@pytest.mark.parametrize(("samples", "volumes"), [(19_500, 39), (18_700, 37), (16_000, 32)])
def test_eeg_that_ends_volumes_early_keeps_the_volumes_that_it_covers(
    samples: int, volumes: int, caplog: pytest.LogCaptureFixture
) -> None:
    signal, kept = fitted(samples)
    assert kept == volumes
    assert signal.eeg_uv.shape == (2, 500 * volumes)
    assert signal.ecg.shape == (500 * volumes,)
    assert f"{volumes} of 40 volumes are kept" in caplog.text


@pytest.mark.parametrize(("samples", "num_volumes"), [(15_999, 40), (42_000, 170)])
def test_eeg_of_less_than_32_volumes_or_half_the_scan_is_refused(samples: int, num_volumes: int) -> None:
    with pytest.raises(BadInput, match=rf"covers {samples // 500} of {num_volumes} volumes"):
        fitted(samples, num_volumes)


def test_volumes_that_are_no_whole_number_of_samples_are_fitted_as_well() -> None:
    signal, kept = eeg.fit_length(lasting(20_000), 40, repetition_time_s=1.2345)
    assert (signal.eeg_uv.shape[1], kept) == (round(40 * 1.2345 * 250), 40)


def test_eeg_that_is_not_finite_is_refused_with_channel_and_time(parts) -> None:
    rows = parts.total.copy()
    rows[1, 500:750] = np.nan
    with pytest.raises(BadInput, match=r"in channels Fp2 250 samples between 2\.000 s and 3\.000 s are NaN"):
        eeg.clean_eeg(signal_of(rows), NO_FILTER)


def test_clean_eeg_is_filtered_and_says_what_it_found(parts) -> None:
    clean = eeg.clean_eeg(signal_of(parts.total + 300, ecg=parts.ecg.astype(np.float32)), eeg.EegSettings())
    assert clean.eeg.shape == parts.total.shape
    assert clean.eeg.dtype == np.float32
    assert (clean.rate_hz, clean.bad_channels) == (250.0, {})
    assert np.abs(clean.eeg.mean(axis=1)).max() < 1
    assert len(clean.beats_s) == pytest.approx(len(parts.beats_s), abs=1)


def test_the_spectra_show_alpha_and_what_a_filter_took(parts) -> None:
    spectrum = eeg.clean_eeg(signal_of(parts.total), eeg.EegSettings(low_pass_hz=40.0)).spectrum
    frequency_hz, before_db, after_db = (np.array(spectrum[name]) for name in ("frequency_hz", "before_db", "after_db"))
    assert (frequency_hz[0], frequency_hz[-1]) == (0.5, 120.0)
    at = {hz: int(np.flatnonzero(frequency_hz == hz)[0]) for hz in (6.0, 10.0, 60.0)}
    assert before_db[at[10.0]] > before_db[at[6.0]] + 3
    assert after_db[at[10.0]] == pytest.approx(before_db[at[10.0]], abs=0.3)
    assert after_db[at[60.0]] < before_db[at[60.0]] - 40


def test_the_spectrum_is_in_db_of_squared_microvolts_per_hertz() -> None:
    noise = np.random.default_rng(0).normal(0, 10, (4, 50_000))
    spectrum = eeg.clean_eeg(signal_of(noise, rate_hz=500.0), eeg.EegSettings(high_pass_hz=None)).spectrum
    assert np.mean(spectrum["before_db"]) == pytest.approx(10 * np.log10(100 / 250), abs=0.1)


def test_a_flat_channel_is_listed_and_interpolated(parts, caplog: pytest.LogCaptureFixture) -> None:
    rows = parts.total.copy()
    rows[9] = 3.0
    clean = eeg.clean_eeg(signal_of(rows), eeg.EegSettings())
    assert clean.bad_channels == {"Cz": "flat"}
    assert clean.eeg[9].std() > 1
    assert "bad channels, interpolated: Cz (flat)" in caplog.text


def test_bad_channels_may_be_kept_and_are_still_listed(parts, caplog: pytest.LogCaptureFixture) -> None:
    rows = parts.total.copy()
    rows[9] = 3.0
    clean = eeg.clean_eeg(signal_of(rows), eeg.EegSettings(interpolate_bad=False))
    assert clean.bad_channels == {"Cz": "flat"}
    assert clean.eeg[9].std() < 1e-3
    assert "bad channels, kept: Cz (flat)" in caplog.text


def test_a_run_of_mostly_bad_channels_is_refused() -> None:
    with pytest.raises(BadInput, match="19 of 19 channels are bad: Fp1"):
        eeg.clean_eeg(signal_of(np.zeros((19, 5_000))), eeg.EegSettings())


def test_the_average_reference_has_no_mean_over_channels(parts) -> None:
    clean = eeg.clean_eeg(signal_of(parts.total), eeg.EegSettings(reference="average"))
    assert np.abs(clean.eeg.mean(axis=0)).max() < 1e-4


def test_bipolar_channels_have_no_average_reference(parts) -> None:
    names = tuple(f"pair-{number}" for number in range(len(parts.total)))
    signal = EegSignal(eeg_uv=parts.total, channel_names=names, locations_m=(None,) * len(names), rate_hz=parts.rate_hz)
    with pytest.raises(BadInput, match="have no locations"):
        eeg.clean_eeg(signal, eeg.EegSettings(reference="average"))


@pytest.mark.parametrize("pulse", ["template", "obs"])
def test_the_pulse_artefact_is_reduced_where_there_is_an_ecg(parts, pulse: str) -> None:
    ecg = parts.ecg.astype(np.float32)
    plain, reduced = (
        eeg.clean_eeg(signal_of(parts.total, ecg=ecg), eeg.EegSettings(pulse=each)).eeg for each in ("none", pulse)
    )
    assert reduced.std() < 0.95 * plain.std()


def test_without_heart_beats_the_pulse_artefact_stays_and_that_is_said(parts, caplog: pytest.LogCaptureFixture) -> None:
    noise = np.random.default_rng(0).normal(size=parts.total.shape[1]).astype(np.float32)
    plain = eeg.clean_eeg(signal_of(parts.total), eeg.EegSettings()).eeg
    for ecg in (None, noise):
        caplog.clear()
        kept = eeg.clean_eeg(signal_of(parts.total, ecg=ecg), eeg.EegSettings(pulse="template"))
        assert np.array_equal(kept.eeg, plain)
        assert len(kept.beats_s) == 0
        assert "the pulse artefact is not reduced" in caplog.text


@pytest.mark.parametrize(
    ("own_hz", "stored_hz"), [(5000.0, 1000.0), (1000.0, 1000.0), (999.99, 1000.0), (512.0, 500.0), (200.0, 200.0)]
)
def test_the_stored_rate_is_the_highest_usual_one_that_the_recording_has(own_hz: float, stored_hz: float) -> None:
    assert eeg.stored_rate_hz(own_hz, eeg.EegSettings()) == stored_hz


def test_a_rate_above_the_recordings_own_is_refused() -> None:
    with pytest.raises(BadInput, match="rate_hz must be at most the recording's own rate, 250 Hz, but is 500"):
        eeg.clean_eeg(signal_of(sine(10)), eeg.EegSettings(rate_hz=500.0))


def test_eeg_of_5_khz_is_stored_at_1_khz_and_lasts_as_long() -> None:
    rows = np.repeat(sine(10, 20.0, 5000.0), 4, axis=0) * [[1], [2], [3], [4]]
    clean = eeg.clean_eeg(signal_of(20 * rows, rate_hz=5000.0), NO_FILTER)
    assert (clean.rate_hz, clean.eeg.shape) == (1000.0, (4, 20_000))
    assert np.abs(clean.eeg[0] - 20 * sine(10, 20.0, 1000.0)[0])[100:-100].max() < 0.05
