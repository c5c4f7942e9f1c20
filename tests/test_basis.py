"""The low-rank output, against numpy's SVD, scikit-learn's ridge regression, and planted answers."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from small_study import write_small_study

from platform.data.basis import (
    RIDGE_SHARE,
    gram_matrix,
    parcel_means,
    principal_components,
    principal_components_by_passes,
    reduced_rank,
    reduced_rank_by_passes,
)
from platform.data.products import DataSettings, StudyData, TrainingProducts, WeightedRuns, rank_limited

LENGTHS, V = (20, 35, 1, 14), 90


@pytest.fixture
def runs() -> list[np.ndarray]:
    """Return runs with a spectrum that falls, as float16."""
    rng = np.random.default_rng(0)
    mixing_KV = rng.standard_normal((30, V)) * np.geomspace(3, 0.3, 30)[:, None]
    return [(rng.standard_normal((length, 30)) @ mixing_KV).astype(np.float16) for length in LENGTHS]


def stacked(runs: list[np.ndarray]) -> np.ndarray:
    return np.vstack(runs).astype(np.float64)


def components(runs: list[np.ndarray], rank: int) -> tuple[np.ndarray, np.ndarray]:
    return principal_components(gram_matrix(runs), runs, rank)


def test_the_gram_matrix_holds_every_inner_product(runs):
    gram_NN = gram_matrix(runs)
    assert gram_NN.dtype == np.float32
    np.testing.assert_allclose(gram_NN, stacked(runs) @ stacked(runs).T, rtol=1e-5, atol=1e-2)
    np.testing.assert_array_equal(gram_NN, gram_NN.T)


def test_a_part_of_the_gram_matrix_is_the_gram_matrix_of_that_part(runs):
    np.testing.assert_array_equal(gram_matrix(runs)[20:55, 20:55], gram_matrix(runs[1:2]))


@pytest.mark.parametrize("rank", [1, 5, 12])
def test_patterns_and_weights_are_those_of_the_singular_value_decomposition(runs, rank):
    patterns_KV, weights_NK = components(runs, rank)
    left, singular, right = np.linalg.svd(stacked(runs), full_matrices=False)
    sign_K = np.sign(np.sum(patterns_KV * right[:rank], axis=1))[:, None]
    np.testing.assert_allclose(patterns_KV * sign_K, right[:rank], atol=2e-3)
    np.testing.assert_allclose(weights_NK * sign_K.T, left[:, :rank] * singular[:rank], rtol=0, atol=0.05)


def test_patterns_are_orthonormal_and_weights_are_the_projections_on_them(runs):
    patterns_KV, weights_NK = components(runs, 12)
    np.testing.assert_allclose(patterns_KV @ patterns_KV.T, np.eye(12), atol=1e-3)
    np.testing.assert_allclose(stacked(runs) @ patterns_KV.T, weights_NK, atol=0.02)


def test_no_other_patterns_of_that_number_hold_more_variance(runs):
    patterns_KV, weights_NK = components(runs, 8)
    left_over = np.sum((stacked(runs) - weights_NK @ patterns_KV) ** 2)
    assert left_over == pytest.approx(np.sum(np.linalg.svd(stacked(runs), compute_uv=False)[8:] ** 2), rel=1e-3)


def test_the_result_is_the_same_every_time(runs):
    for one, other in zip(components(runs, 6), components(runs, 6), strict=True):
        np.testing.assert_array_equal(one, other)


def test_more_patterns_than_volumes_are_cut(runs):
    patterns_KV, weights_NK = components(runs[:1], 256)
    assert patterns_KV.shape == (LENGTHS[0] - 1, V)
    assert weights_NK.shape == (LENGTHS[0], LENGTHS[0] - 1)


# Fewer patterns, as a trial asks for


@pytest.fixture
def products(runs) -> TrainingProducts:
    patterns_KV, coefficients_NK = components(runs, 12)
    return TrainingProducts(weights_V=np.ones(V, np.float32), patterns_KV=patterns_KV, coefficients_NK=coefficients_NK)


def test_a_lower_rank_keeps_the_leading_patterns_and_the_volumes(products):
    limited = rank_limited(products, 5)
    assert limited.patterns_KV.shape == (5, V)
    np.testing.assert_allclose(
        limited.coefficients_NK @ limited.patterns_KV,
        products.coefficients_NK[:, :5] @ products.patterns_KV[:5],
        atol=1e-3,
    )


@pytest.mark.parametrize("rank", [1, 5, 12, 400])
def test_targets_are_of_one_size_whatever_the_rank(products, rank):
    assert np.mean(rank_limited(products, rank).coefficients_NK ** 2) == pytest.approx(1, rel=1e-4)


def test_rank_zero_means_all_voxels_and_no_patterns(products):
    limited = rank_limited(products, 0)
    assert limited.patterns_KV.shape == (0, V)
    np.testing.assert_array_equal(limited.weights_V, products.weights_V)


def test_patterns_that_would_be_rounding_are_left_out(runs):
    """With inner products over seven voxels there are seven patterns, however many are wanted."""
    few = [run[:, :7] for run in runs]
    patterns_KV, weights_NK = principal_components(gram_matrix(few), runs, 20)
    assert len(patterns_KV) == weights_NK.shape[1] == 7
    assert (weights_NK @ patterns_KV)[:, :7] == pytest.approx(stacked(few), abs=0.05)
    assert np.abs(patterns_KV).max() < 10


# Reduced rank


@pytest.fixture
def predicted() -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Return features, volumes of which two weak patterns follow them under three strong ones, and those two."""
    rng = np.random.default_rng(1)
    features_NP = rng.standard_normal((400, 5))
    patterns_2V = rng.standard_normal((2, V))
    strong_NV = 3 * rng.standard_normal((400, 3)) @ rng.standard_normal((3, V))
    volumes = features_NP[:, :2] @ patterns_2V + strong_NV + rng.standard_normal((400, V))
    return features_NP, np.split(volumes.astype(np.float16), [100, 250]), patterns_2V


def test_reduced_rank_finds_what_features_predict_where_variance_finds_what_is_large(predicted):
    features_NP, volumes, patterns_2V = predicted
    gram_NN = gram_matrix(volumes)

    def explained(patterns_KV: np.ndarray) -> float:
        rows, *_ = np.linalg.lstsq(patterns_KV.T, patterns_2V.T, rcond=None)
        return 1 - float(np.sum((patterns_2V.T - patterns_KV.T @ rows) ** 2) / np.sum(patterns_2V**2))

    assert explained(reduced_rank(gram_NN, features_NP, volumes, 2)[0]) > 0.75
    assert explained(principal_components(gram_NN, volumes, 2)[0]) < 0.3


def test_reduced_rank_is_the_principal_components_of_ridges_fitted_volumes(predicted):
    features_NP, volumes, _ = predicted
    patterns_KV, weights_NK = reduced_rank(gram_matrix(volumes), features_NP, volumes, 3)
    penalty = RIDGE_SHARE * np.linalg.svd(features_NP, compute_uv=False)[0] ** 2
    fitted = Ridge(alpha=penalty, fit_intercept=False).fit(features_NP, stacked(volumes)).predict(features_NP)
    right = np.linalg.svd(fitted, full_matrices=False)[2][:3]
    sign_K = np.sign(np.sum(patterns_KV * right, axis=1))[:, None]
    assert patterns_KV * sign_K == pytest.approx(right, abs=5e-3)
    assert weights_NK == pytest.approx(stacked(volumes) @ patterns_KV.T, abs=0.05)


def test_reduced_rank_has_no_more_patterns_than_there_are_features(predicted):
    features_NP, volumes, _ = predicted
    patterns_KV, weights_NK = reduced_rank(gram_matrix(volumes), features_NP, volumes, 40)
    assert len(patterns_KV) == weights_NK.shape[1] == features_NP.shape[1]
    assert np.isfinite(patterns_KV).all()


def test_parcels_are_predicted_by_their_means(runs):
    parcels_V = np.arange(V) // 30
    patterns_KV, means_NK = parcel_means(runs, parcels_V, np.array([2, 0]))
    assert np.array_equal(patterns_KV.astype(bool), np.stack([parcels_V == 2, parcels_V == 0]))
    expected = np.stack([stacked(runs)[:, 60:90].mean(axis=1), stacked(runs)[:, :30].mean(axis=1)], axis=1)
    assert means_NK == pytest.approx(expected, abs=1e-3)


# Without a Gram matrix


def captured(patterns_KV: np.ndarray, runs: list[np.ndarray]) -> float:
    rows, *_ = np.linalg.lstsq(patterns_KV.T.astype(np.float64), stacked(runs).T, rcond=None)
    return 1 - float(np.sum((stacked(runs).T - patterns_KV.T @ rows) ** 2) / np.sum(stacked(runs) ** 2))


@pytest.fixture
def wide() -> list[np.ndarray]:
    """Return runs whose spectrum falls slowly, with far more voxels than the patterns that are sought."""
    rng = np.random.default_rng(2)
    mixing_KV = rng.standard_normal((200, 600)) * np.geomspace(3, 0.3, 200)[:, None]
    return [(rng.standard_normal((length, 200)) @ mixing_KV).astype(np.float16) for length in (150, 90, 1, 160)]


@pytest.mark.parametrize("rank", [1, 12, 60])
def test_patterns_found_by_passes_hold_as_much_variance_and_weights_are_projections(wide, rank):
    patterns_KV, weights_NK = principal_components_by_passes(wide, wide, rank)
    assert captured(patterns_KV, wide) > 0.999 * captured(components(wide, rank)[0], wide)
    np.testing.assert_allclose(patterns_KV @ patterns_KV.T, np.eye(rank), atol=2e-3)
    scale = np.abs(weights_NK).max()
    np.testing.assert_allclose(stacked(wide) @ patterns_KV.T, weights_NK, atol=2e-3 * scale)
    assert np.all(np.diff(np.sum(weights_NK.astype(np.float64) ** 2, axis=0)) < 0)


def test_leading_patterns_found_by_passes_are_those_of_the_gram_matrix(runs):
    for rank in (5, 12):
        by_passes, exact = principal_components_by_passes(runs, runs, rank), components(runs, rank)
        sign_K = np.sign(np.sum(by_passes[0] * exact[0], axis=1))
        np.testing.assert_allclose(by_passes[0] * sign_K[:, None], exact[0], atol=2e-3)
        np.testing.assert_allclose(by_passes[1] * sign_K, exact[1], atol=0.05)


def test_patterns_by_passes_count_the_voxels_that_weigh_and_cover_all(runs):
    few = [run[:, :7] for run in runs]
    patterns_KV, weights_NK = principal_components_by_passes(runs, few, 20)
    expected_KV, expected_NK = principal_components(gram_matrix(few), runs, 20)
    assert patterns_KV.shape == expected_KV.shape == (7, V)
    np.testing.assert_allclose(weights_NK @ patterns_KV, expected_NK @ expected_KV, atol=0.1)


def test_passes_give_the_same_every_time_and_no_more_patterns_than_volumes(runs):
    first, second = (principal_components_by_passes(runs[:1], runs[:1], 256) for _ in range(2))
    assert first[0].shape == (LENGTHS[0] - 1, V)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("rank", [2, 40])
def test_reduced_rank_by_passes_is_that_of_the_gram_matrix(predicted, rank):
    features_NP, volumes, _ = predicted
    halves = [run[:, ::2] for run in volumes]
    patterns_KV, weights_NK = reduced_rank_by_passes(volumes, halves, features_NP, rank)
    expected_KV, expected_NK = reduced_rank(gram_matrix(halves), features_NP, volumes, rank)
    sign_K = np.sign(np.sum(patterns_KV * expected_KV, axis=1))
    np.testing.assert_allclose(patterns_KV * sign_K[:, None], expected_KV, atol=1e-3)
    np.testing.assert_allclose(weights_NK * sign_K, expected_NK, rtol=1e-3, atol=0.05)


def test_runs_are_weighted_when_they_are_asked_for_so_that_inner_products_count_by_weight(runs):
    weights_V = np.where(np.arange(V) % 3 == 0, 1.0 + np.arange(V), 0).astype(np.float32)
    weighted = WeightedRuns(runs=runs, weights_V=weights_V)
    assert len(weighted) == len(weighted[:]) == len(runs)
    assert weighted[1] is not weighted[1]
    expected = (stacked(runs) * weights_V) @ stacked(runs).T * np.count_nonzero(weights_V) / weights_V.sum()
    np.testing.assert_allclose(gram_matrix(list(weighted)), expected, rtol=2e-2, atol=1)


@pytest.mark.parametrize("output", ["variance", "responsive", "reduced_rank"])
def test_a_study_too_large_for_a_gram_matrix_gets_the_same_volumes_from_its_patterns(tmp_path, monkeypatch, output):
    shards = write_small_study(tmp_path / "shards", subjects=4, volumes=40)

    def volumes(cache: str, wanted: bool) -> np.ndarray:
        data = StudyData(DataSettings(shards=str(shards), cache_folder=str(tmp_path / cache)))
        assert data.has_gram is wanted
        found = data.training_products(data.manifest.subjects[:3], output)
        return found.coefficients_NK[:, :8] @ found.patterns_KV[:8]

    with_gram = volumes("with", True)
    windows = 4 * 2 * (40 - 15)
    monkeypatch.setattr("platform.data.products.MOST_GRAM_BYTES", 4 * windows**2 - 1)
    monkeypatch.setattr("platform.data.products.gram_matrix", None)  # never called
    np.testing.assert_allclose(volumes("without", False), with_gram, atol=0.05)
