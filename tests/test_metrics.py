"""Scores: Pearson r over time, against numpy's own, and what must not move it."""

import numpy as np
import pytest

from platform.scores.metrics import (
    HIGH_PASS_SECONDS,
    correlation_from_products,
    correlation_over_time,
    high_passed,
    temporal_r,
    weighted_mean,
)

T, V, TR_S = 155, 7, 2.0
FLOATS = [np.float32, np.float64]


def noise(seed: int = 0, num_volumes: int = T, dtype: type = np.float64) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num_volumes, V)).astype(dtype)


def cosine(number: int, num_volumes: int = T) -> np.ndarray:
    """Return the cosine that goes through half a period ``number`` times, the same in all voxels."""
    phase = np.pi * number * (np.arange(num_volumes) + 0.5) / num_volumes
    return np.tile(np.cos(phase)[:, None], (1, V))


def r_of(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    return correlation_over_time(prediction, high_passed(target, TR_S), TR_S)


# The high-pass filter


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_high_pass_removes_the_mean_and_slow_cosines(dtype):
    slowest_kept = int(2 * T * TR_S / HIGH_PASS_SECONDS) + 1
    for number in range(slowest_kept):
        left = high_passed(cosine(number).astype(dtype), TR_S)
        assert np.abs(left).max() < 1e-4


def test_the_high_pass_keeps_faster_cosines_whole():
    slowest_kept = int(2 * T * TR_S / HIGH_PASS_SECONDS) + 1
    for number in (slowest_kept, slowest_kept + 1, T // 2, T - 1):
        np.testing.assert_allclose(high_passed(cosine(number), TR_S), cosine(number), atol=1e-12)


def test_the_high_pass_removes_periods_of_the_cut_off_and_longer_only():
    num_volumes = 128  # 256 s: the cosine of number 4 has a period of exactly 128 s
    for number, is_kept in ((3, False), (4, False), (5, True)):
        left = high_passed(cosine(number, num_volumes), TR_S)
        assert np.allclose(left, cosine(number, num_volumes) * is_kept, atol=1e-12)


def test_a_second_high_pass_changes_nothing():
    once = high_passed(noise(), TR_S)
    np.testing.assert_allclose(high_passed(once, TR_S), once, atol=1e-12)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_high_pass_keeps_the_type_and_does_not_touch_its_input(dtype):
    series = noise(dtype=dtype)
    before = series.copy()
    assert high_passed(series, TR_S).dtype == dtype
    np.testing.assert_array_equal(series, before)


def test_a_run_shorter_than_the_cut_off_loses_its_mean_only():
    series = noise(num_volumes=20)
    np.testing.assert_allclose(high_passed(series, TR_S), series - series.mean(axis=0), atol=1e-12)


# Pearson r


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_r_is_pearsons_r_of_the_high_passed_series(dtype, tolerance):
    prediction, target = noise(1, dtype=dtype), noise(2, dtype=dtype) + noise(1, dtype=dtype)
    left, right = high_passed(prediction.astype(float), TR_S), high_passed(target.astype(float), TR_S)
    expected = [np.corrcoef(left[:, voxel], right[:, voxel])[0, 1] for voxel in range(V)]
    np.testing.assert_allclose(r_of(prediction, target), expected, atol=tolerance)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("scale", [1e-6, 0.01, 1, 1e6])
@pytest.mark.parametrize("offset_per_scale", [0, 1, -100])
def test_scale_and_offset_of_a_prediction_do_not_matter(dtype, scale, offset_per_scale):
    prediction, target = noise(1, dtype=dtype), noise(2, dtype=dtype) + noise(1, dtype=dtype)
    moved = (prediction * scale + scale * offset_per_scale).astype(dtype)
    np.testing.assert_allclose(r_of(moved, target), r_of(prediction, target), atol=1e-4)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_perfect_prediction_scores_one_and_its_opposite_minus_one(dtype):
    target = noise(dtype=dtype)
    np.testing.assert_allclose(r_of(target, target), 1, atol=1e-6)
    np.testing.assert_allclose(r_of(-target, target), -1, atol=1e-6)


def test_drifts_are_neither_rewarded_nor_punished():
    target = noise()
    drifting = target + 50 * cosine(1)
    np.testing.assert_allclose(r_of(drifting, target), 1, atol=1e-9)
    np.testing.assert_allclose(r_of(target, drifting), 1, atol=1e-9)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("constant", [0.0, 1e-30, 0.1, -3.3, 1e4, 123456.789, 1e12])
def test_a_constant_prediction_scores_exactly_zero(dtype, constant):
    assert not r_of(np.full((T, V), constant, dtype), noise(dtype=dtype)).any()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e5])
def test_a_slow_drift_scores_exactly_zero(dtype, number, size):
    drift = (size * (cosine(number) + 2)).astype(dtype)
    assert not r_of(drift, noise(dtype=dtype)).any()


@pytest.mark.parametrize("num_volumes", [16, 45, 155, 600])
def test_a_constant_scores_exactly_zero_whatever_the_length_of_the_run(num_volumes):
    for seed in range(20):
        constants = np.random.default_rng(seed).uniform(-1e3, 1e3, V).astype(np.float32)
        prediction = np.tile(constants, (num_volumes, 1))
        assert not r_of(prediction, noise(seed, num_volumes, np.float32)).any()


def test_a_constant_target_scores_zero_instead_of_not_a_number():
    target = noise()
    target[:, 0] = 5
    scores = correlation_over_time(noise(1), high_passed(target, TR_S) * (np.arange(V) > 0), TR_S)
    assert scores[0] == 0
    assert np.isfinite(scores).all() and scores[1:].all()


def test_r_stays_within_one_from_inner_products_that_rounding_made_negative():
    scores = correlation_from_products(np.array([1.0, 2.0]), np.array([-1e-20, 4.0]), np.array([1.0, 1.0]))
    assert scores.tolist() == [0, 1]


# Averages


def test_weights_say_how_much_a_voxel_counts():
    values = np.arange(4.0)
    assert weighted_mean(values, np.array([0, 0, 1, 0], np.float32)) == 2
    assert weighted_mean(values, np.array([1, 0, 0, 3], np.float32)) == pytest.approx(2.25)
    assert weighted_mean(values, np.full(4, 7.0)) == pytest.approx(1.5)


def test_weights_without_a_sum_are_refused():
    with pytest.raises(ValueError, match="sum above 0"):
        weighted_mean(np.ones(3), np.zeros(3))


def test_a_score_is_the_mean_over_runs_whatever_their_lengths():
    targets = [high_passed(noise(number, length), TR_S) for number, length in enumerate((30, 300))]
    predictions = [targets[0], noise(9, 300)]
    weights = np.array([1, 2, 0, 0, 0, 0, 1], np.float32)
    of_runs = [
        weighted_mean(correlation_over_time(prediction, target, TR_S), weights)
        for prediction, target in zip(predictions, targets, strict=True)
    ]
    assert of_runs[0] == pytest.approx(1)
    assert temporal_r(predictions, targets, weights, TR_S) == pytest.approx(np.mean(of_runs))


def test_voxels_without_weight_do_not_count():
    target = high_passed(noise(), TR_S)
    prediction = target.copy()
    prediction[:, 1:] = noise(5)[:, 1:]
    assert temporal_r([prediction], [target], np.eye(V)[0], TR_S) == pytest.approx(1)


def test_a_noise_prediction_scores_zero_on_average():
    targets = [high_passed(noise(number), TR_S) for number in range(100)]
    predictions = [noise(1000 + number) for number in range(100)]
    assert abs(temporal_r(predictions, targets, np.ones(V), TR_S)) < 4 / np.sqrt(100 * V * T)


@pytest.mark.parametrize("number", [0, 2])
def test_every_run_needs_a_prediction(number):
    with pytest.raises(ValueError, match="every run needs a prediction"):
        temporal_r([noise()] * number, [noise()] * (number // 2), np.ones(V), TR_S)
