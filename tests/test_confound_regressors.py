"""Regressors of heart, eyes, muscles and head: each does what it says, and what was not recorded counts for nothing."""

import numpy as np
import pytest

from platform.data.confound_regressors import LAG_SECONDS, MOTION, confound_designs

R, TR_S = 80, 2.0
NUM_LAGS = 10
GROUPS = ("pulse", "eyes_and_muscle", "head_motion", "confounds")


def recorded(seed: int = 0, num_volumes: int = R) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi, num_volumes)
    names = ("pulse_rate_bpm", "ecg_power", "eog_power", "muscle_power", "framewise_displacement", *MOTION)
    return {
        **{name: 50 + rng.standard_normal(num_volumes) for name in names},
        "pulse_phase_cos": np.cos(phase),
        "pulse_phase_sin": np.sin(phase),
    }


def test_every_group_has_its_columns_and_all_stand_side_by_side():
    designs = confound_designs(recorded(), R, TR_S)
    assert {name: design.shape for name, design in designs.items()} == {
        "pulse": (R, 24), "eyes_and_muscle": (R, 20), "head_motion": (R, 22), "confounds": (R, 66),
    }  # fmt: skip
    np.testing.assert_array_equal(designs["confounds"], np.hstack([designs[name] for name in GROUPS[:3]]))


@pytest.mark.parametrize("lag", range(NUM_LAGS))
def test_a_column_per_lag_holds_the_course_as_many_volumes_before(lag):
    series = recorded()
    rate_R = (series["pulse_rate_bpm"] - series["pulse_rate_bpm"].mean()) / series["pulse_rate_bpm"].std()
    column_R = confound_designs(series, R, TR_S)["pulse"][:, lag]
    np.testing.assert_allclose(column_R[lag:], rate_R[: R - lag], atol=1e-5)
    assert not column_R[:lag].any()


@pytest.mark.parametrize("repetition_time_s", [0.7, 1.5, 2.0, 3.0, 30.0])
def test_lags_reach_over_the_same_time_whatever_the_repetition_time(repetition_time_s):
    num_lags = confound_designs(recorded(), R, repetition_time_s)["eyes_and_muscle"].shape[1] / 2
    assert num_lags >= 1
    assert abs(num_lags * repetition_time_s - LAG_SECONDS) <= max(repetition_time_s / 2, 10.0 * (num_lags == 1))


def test_the_pulses_phase_acts_by_two_harmonics():
    series = recorded()
    phase_R = np.arctan2(series["pulse_phase_sin"], series["pulse_phase_cos"])
    expected_RP = np.stack([np.cos(phase_R), np.sin(phase_R), np.cos(2 * phase_R), np.sin(2 * phase_R)], axis=1)
    columns_RP = confound_designs(series, R, TR_S)["pulse"][:, -4:]
    np.testing.assert_allclose(columns_RP, expected_RP - expected_RP.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("name", ["pulse_rate_bpm", "ecg_power", "eog_power", "muscle_power"])
def test_units_of_physiology_do_not_matter(name):
    series = recorded()
    scaled = {**series, name: -3 + 1000 * series[name]}
    for group in GROUPS:
        one, other = (confound_designs(each, R, TR_S)[group] for each in (series, scaled))
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_motion_keeps_its_unit():
    series = recorded()
    twice = {**series, **{name: 2 * series[name] for name in (*MOTION, "framewise_displacement")}}
    one, other = (confound_designs(each, R, TR_S)["head_motion"] for each in (series, twice))
    np.testing.assert_allclose(2 * one, other, atol=1e-4)


@pytest.mark.parametrize("series", [{}, {"volume": np.arange(R)}, dict.fromkeys(recorded(), np.full(R, np.nan))])
def test_what_was_not_recorded_is_zero_in_the_same_columns(series):
    for name, design in confound_designs(series, R, TR_S).items():
        assert design.shape == confound_designs(recorded(), R, TR_S)[name].shape
        assert not design.any()


def test_a_gap_counts_as_the_mean_and_leaves_the_rest_alone():
    series = recorded()
    series["eog_power"][10:20] = np.nan
    column_R = confound_designs(series, R, TR_S)["eyes_and_muscle"][:, 0]
    assert not column_R[10:20].any()
    known = np.isfinite(series["eog_power"])
    assert np.corrcoef(column_R[known], series["eog_power"][known])[0, 1] == pytest.approx(1, abs=1e-5)


def test_a_constant_series_is_zero():
    series = {**recorded(), "muscle_power": np.full(R, 3.7)}
    assert not confound_designs(series, R, TR_S)["eyes_and_muscle"][:, NUM_LAGS:].any()


def test_a_run_that_was_cut_keeps_its_first_volumes():
    designs = confound_designs(recorded(), 50, TR_S)
    assert {len(design) for design in designs.values()} == {50}
