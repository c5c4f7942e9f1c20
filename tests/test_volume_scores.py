"""Scores over grey matter and of images: against scipy, scikit-learn and scikit-image, and on known answers."""

import itertools

import numpy as np
import pytest
from scipy.stats import pearsonr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from platform.scores.image_scores import SSIM_VOLUMES, SubjectImage, image_scores, similarity_map
from platform.scores.metrics import fluctuations, high_passed
from platform.scores.volume_scores import (
    APART_SECONDS,
    VOLUME_SCORES,
    GreyMatter,
    parcels,
    tissue_scores,
    volume_scores,
    without,
)

T, TR_S = 60, 2.0
GRID = (9, 8, 10)
INDICES = np.argwhere(np.ones(GRID, bool))[::2]
V = len(INDICES)
IS_GREY = np.arange(V) % 3 > 0
GREY = GreyMatter(is_grey_V=IS_GREY, parcels_G=parcels(INDICES[IS_GREY], 12))
KNOWN = {
    "temporal_r_grey": (1, -1, 0),
    "temporal_r_parcels": (1, -1, 0),
    "r2_subject_mean": (1, -3, 0),
    "identification": (1, 0, 0.5),
}


def noise(seed: int, num_volumes: int = T) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num_volumes, V)).astype(np.float32)


def scores(prediction_TV: np.ndarray, target_TV: np.ndarray) -> dict[str, float]:
    return volume_scores(prediction_TV, target_TV, GREY, TR_S)


def r(one: np.ndarray, other: np.ndarray) -> float:
    return float(pearsonr(one, other)[0])


def mixed(seed: int, share: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    target_TV = noise(seed)
    return share * target_TV + noise(seed + 1000), target_TV


# Against slow independent implementations


@pytest.mark.parametrize("seed", range(3))
def test_r_over_grey_matter_is_the_mean_of_scipys(seed):
    prediction_TV, target_TV = mixed(seed)
    predicted_TV, truth_TV = (high_passed(each.astype(float), TR_S) for each in (prediction_TV, target_TV))
    expected = np.mean([r(predicted_TV[:, voxel], truth_TV[:, voxel]) for voxel in np.flatnonzero(IS_GREY)])
    assert scores(prediction_TV, target_TV)["temporal_r_grey"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_global_signal_is_removed_as_scikit_learns_regression_does(seed):
    prediction_TV, target_TV = mixed(seed)
    target_TV = target_TV + 2 * noise(77)[:, :1]
    truth_TV, predicted_TV = (high_passed(each.astype(float), TR_S) for each in (target_TV, prediction_TV))
    course_T1 = truth_TV.mean(axis=1, keepdims=True)
    residual_TV = truth_TV - LinearRegression().fit(course_T1, truth_TV).predict(course_T1)
    expected = np.mean([r(predicted_TV[:, voxel], residual_TV[:, voxel]) for voxel in np.flatnonzero(IS_GREY)])
    assert scores(prediction_TV, target_TV)["temporal_r_grey_without_global"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_r_over_parcels_is_that_of_mean_courses(seed):
    prediction_TV, target_TV = (high_passed(each.astype(float), TR_S)[:, IS_GREY] for each in mixed(seed))
    expected = []
    for parcel in range(12):
        inside = parcel == GREY.parcels_G
        expected.append(r(prediction_TV[:, inside].mean(axis=1), target_TV[:, inside].mean(axis=1)))
    assert scores(*mixed(seed))["temporal_r_parcels"] == pytest.approx(np.mean(expected), abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_r2_is_scikit_learns(seed):
    prediction_TV, target_TV = (high_passed(each.astype(float), TR_S)[:, IS_GREY] for each in mixed(seed))
    expected = r2_score(target_TV, prediction_TV, multioutput="variance_weighted")
    assert scores(*mixed(seed))["r2_subject_mean"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_identification_compares_every_pair_of_volumes_that_are_far_apart(seed):
    pair = mixed(seed, 0.05)
    prediction_TV, target_TV = (high_passed(each.astype(float), TR_S)[:, IS_GREY] for each in pair)
    right = []
    for one, other in itertools.combinations(range(T), 2):
        if (other - one) * TR_S > APART_SECONDS:
            matched = r(prediction_TV[one], target_TV[one]) + r(prediction_TV[other], target_TV[other])
            crossed = r(prediction_TV[one], target_TV[other]) + r(prediction_TV[other], target_TV[one])
            right.append(matched > crossed)
    assert 0.5 < np.mean(right) < 1
    assert scores(*pair)["identification"] == pytest.approx(np.mean(right), abs=2 / len(right))


# Known answers


@pytest.mark.parametrize("name", KNOWN)
def test_the_oracle_its_opposite_and_a_constant_score_what_they_must(name):
    target_TV = noise(0)
    oracle, opposite, constant = KNOWN[name]
    assert scores(target_TV, target_TV)[name] == pytest.approx(oracle, abs=1e-5)
    assert scores(-target_TV, target_TV)[name] == pytest.approx(opposite, abs=1e-4)
    assert scores(np.broadcast_to(noise(1)[:1], (T, V)), target_TV)[name] == constant


@pytest.mark.parametrize("constant", [0.0, 0.1, -3.3, 1e4])
def test_a_constant_prediction_scores_exactly_what_the_rule_says(constant):
    found = scores(np.full((T, V), constant, np.float32), noise(0))
    assert found.pop("identification") == 0.5
    assert set(found.values()) == {0.0}


def test_a_prediction_that_is_the_same_everywhere_tells_no_volume_from_another():
    global_course = np.tile(noise(3)[:, :1], (1, V))
    assert scores(global_course, noise(0))["identification"] == 0.5


@pytest.mark.parametrize("name", ["temporal_r_grey", "temporal_r_parcels", "r2_subject_mean", "identification"])
def test_a_prediction_shifted_in_time_knows_nothing(name):
    target_TV = noise(0)
    shifted = scores(np.roll(target_TV, 20, axis=0), target_TV)[name]
    expected = {"identification": 0.5, "r2_subject_mean": -1}.get(name, 0)
    assert shifted == pytest.approx(expected, abs=0.12)


@pytest.mark.parametrize("name", ["temporal_r_grey", "temporal_r_grey_without_global", "temporal_r_parcels"])
def test_the_size_of_a_prediction_matters_to_r2_only(name):
    prediction_TV, target_TV = mixed(0)
    small, large = scores(prediction_TV, target_TV), scores(7 * prediction_TV + 5, target_TV)
    assert large[name] == pytest.approx(small[name], abs=1e-4)
    assert large["r2_subject_mean"] < small["r2_subject_mean"] - 1


def test_tracking_the_global_signal_alone_scores_with_it_and_not_without():
    course_T1 = noise(9)[:, :1]
    target_TV = noise(0) + 0.5 * course_T1
    prediction_TV = np.tile(course_T1, (1, V))
    found = scores(prediction_TV, target_TV)
    assert found["temporal_r_grey"] > 0.3
    assert abs(found["temporal_r_grey_without_global"]) < 0.05


def test_what_lies_outside_grey_matter_matters_to_the_global_signal_only():
    prediction_TV, target_TV = mixed(0)
    elsewhere_TV = target_TV + 3 * noise(8) * ~IS_GREY
    one, other = scores(prediction_TV, target_TV), scores(prediction_TV + 5 * noise(7) * ~IS_GREY, elsewhere_TV)
    changed = {name for name in VOLUME_SCORES if one[name] != pytest.approx(other[name], abs=1e-6)}
    assert changed == {"temporal_r_grey_without_global"}


def test_a_prediction_that_is_no_number_has_no_score():
    prediction_TV = noise(1)
    prediction_TV[5, np.flatnonzero(IS_GREY)[0]] = np.nan
    assert np.isnan(list(scores(prediction_TV, noise(0)).values())).all()


def test_a_run_too_short_for_volumes_far_apart_is_at_chance():
    assert scores(noise(0)[:10], noise(0)[:10])["identification"] == 0.5


def test_without_a_course_nothing_of_it_is_left():
    course_T = high_passed(noise(5), TR_S)[:, 0].astype(float)
    left_TV = without(high_passed(noise(6).astype(float), TR_S), course_T)
    np.testing.assert_allclose(course_T @ left_TV, 0, atol=1e-10)
    np.testing.assert_array_equal(without(noise(6), np.zeros(T)), noise(6))


def test_fluctuations_are_the_high_passed_series_and_exactly_zero_where_constant():
    prediction_TV = noise(0)
    prediction_TV[:, 3] = 12.3
    left_TV = fluctuations(prediction_TV, TR_S)
    assert not left_TV[:, 3].any()
    np.testing.assert_array_equal(np.delete(left_TV, 3, axis=1), np.delete(high_passed(prediction_TV, TR_S), 3, axis=1))


# Parcels


@pytest.mark.parametrize("number", [1, 2, 7, 12, 200, V, V + 50])
def test_parcels_are_as_many_as_asked_and_of_one_size(number):
    sizes = np.bincount(parcels(INDICES, number))
    assert len(sizes) == min(number, V)
    assert sizes.min() >= 1
    assert sizes.max() - sizes.min() <= max(2, 0.5 * V / number)


def test_parcels_are_compact_and_the_same_each_time():
    labels_V = parcels(INDICES, 12)
    np.testing.assert_array_equal(labels_V, parcels(INDICES.copy(), 12))
    spread = np.mean([INDICES[labels_V == parcel].std(axis=0).mean() for parcel in range(12)])
    shuffled_V = np.random.default_rng(0).permutation(labels_V)
    by_chance = np.mean([INDICES[shuffled_V == parcel].std(axis=0).mean() for parcel in range(12)])
    assert spread < 0.6 * by_chance


def test_parcels_do_not_depend_on_the_order_of_voxels():
    order = np.random.default_rng(1).permutation(V)
    np.testing.assert_array_equal(parcels(INDICES[order], 12), parcels(INDICES, 12)[order])


# Images, given the subject's own mean


def subject_image(seed: int = 0) -> SubjectImage:
    rng = np.random.default_rng(seed)
    return SubjectImage(
        mean_V=800 + 200 * rng.random(V), deviation_V=5 + 15 * rng.random(V), indices_V3=INDICES, grid_shape=GRID
    )


def on_grid(volume_V: np.ndarray) -> np.ndarray:
    image = np.zeros(GRID)
    image[tuple(INDICES.T)] = volume_V
    return image


@pytest.mark.parametrize("seed", range(3))
def test_image_scores_are_scikit_images(seed):
    subject = subject_image(seed)
    prediction_TV, target_TV = (each[:SSIM_VOLUMES].astype(float) for each in mixed(seed))
    median = np.median(subject.mean_V)
    predicted, true = (
        (subject.mean_V + subject.deviation_V * each) / median - 1 for each in (prediction_TV, target_TV)
    )
    spread = (subject.mean_V.max() - subject.mean_V.min()) / median
    found = image_scores(prediction_TV, target_TV, subject)
    assert found["mse_given_own_mean"] == pytest.approx(np.mean((predicted - true) ** 2), rel=1e-5)
    expected = peak_signal_noise_ratio(true, predicted, data_range=spread)
    assert found["psnr_db_given_own_mean"] == pytest.approx(expected, abs=1e-4)
    maps = [
        structural_similarity(on_grid(one), on_grid(other), data_range=spread, full=True)[1][tuple(INDICES.T)].mean()
        for one, other in zip(predicted, true, strict=True)
    ]
    assert found["ssim_given_own_mean"] == pytest.approx(np.mean(maps), abs=1e-6)


def test_the_map_of_similarity_is_scikit_images_also_on_a_small_grid():
    rng = np.random.default_rng(0)
    for shape, window in (((9, 12, 8), 7), ((6, 5, 4), 3)):
        one, other = rng.standard_normal((2, *shape))
        expected = structural_similarity(one, other, data_range=3.0, full=True, win_size=window)[1]
        np.testing.assert_allclose(similarity_map(one, other, 3.0), expected, atol=1e-12)


def test_the_truth_scores_perfectly_as_an_image_and_the_mean_almost_as_well():
    target_TV = noise(0)
    perfect, mean = (image_scores(each, target_TV, subject_image()) for each in (target_TV, np.zeros((T, V))))
    assert perfect["mse_given_own_mean"] == 0 and perfect["psnr_db_given_own_mean"] == float("inf")
    assert perfect["ssim_given_own_mean"] == pytest.approx(1)
    assert 0.9 < mean["ssim_given_own_mean"] < 1


def test_without_an_image_there_are_no_image_scores():
    nothing = SubjectImage(mean_V=np.zeros(V), deviation_V=np.ones(V), indices_V3=INDICES, grid_shape=GRID)
    assert image_scores(noise(0), noise(1), nothing) == {}


def test_the_tissue_profile_tells_where_a_prediction_follows_the_volumes():
    rng = np.random.default_rng(0)
    target_TV = rng.standard_normal((120, 40)).astype(np.float32)
    prediction_TV = rng.standard_normal(target_TV.shape).astype(np.float32)
    is_fluid_V = np.arange(40) < 20
    prediction_TV[:, is_fluid_V] = 3 * target_TV[:, is_fluid_V] + 5
    found = tissue_scores(prediction_TV, target_TV, {"white": ~is_fluid_V, "beside_fluid": is_fluid_V}, 2.0)
    assert found["temporal_r_beside_fluid"] == pytest.approx(1, abs=1e-5)
    assert abs(found["temporal_r_white"]) < 0.1
    assert tissue_scores(0 * target_TV, target_TV, {"white": ~is_fluid_V}, 2.0) == {"temporal_r_white": 0.0}
