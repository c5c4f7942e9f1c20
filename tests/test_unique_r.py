"""What EEG adds to what is known without: against scipy's least squares, and on known answers."""

import numpy as np
import pytest
from scipy.optimize import nnls

from platform.scores.metrics import high_passed, temporal_r
from platform.scores.unique_r import combination, combined, unique_r

T, V, TR_S = 120, 6, 2.0
WEIGHTS = np.array([0, 1, 2, 0.5, 1, 3])


def noise(seed: int, runs: int = 2) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [high_passed(rng.standard_normal((T, V)), TR_S) for _ in range(runs)]


def added(one: list[np.ndarray], other: list[np.ndarray], share: float = 1.0) -> list[np.ndarray]:
    return [first + share * second for first, second in zip(one, other, strict=True)]


def study(seed: int, heart: float, brain: float) -> tuple[list, list, list]:
    """Return what confounds predict, what EEG predicts, and the volumes that both drive."""
    from_heart, from_brain = noise(seed), noise(seed + 100)
    volumes = added(added(noise(seed + 200), from_heart, heart), from_brain, brain)
    return from_heart, from_brain, volumes


def of(seed: int, heart: float = 1.0, brain: float = 1.0, eeg: str = "brain") -> float:
    (heart_here, brain_here, here), (heart_there, brain_there, there) = (
        study(each, heart, brain) for each in (seed, seed + 1)
    )
    from_eeg = {"brain": (brain_here, brain_there), "heart": (heart_here, heart_there), "noise": (noise(7), noise(8))}
    eeg_here, eeg_there = from_eeg[eeg]
    return unique_r([heart_here], eeg_here, here, ([heart_there], eeg_there, there), WEIGHTS, TR_S)


@pytest.mark.parametrize("seed", range(5))
def test_the_combination_is_scipys_least_squares_that_is_not_negative(seed):
    predictions = [noise(seed), noise(seed + 50), noise(seed + 60)]
    volumes = added(added(noise(seed + 90), predictions[0], 0.8), predictions[1], -0.5)
    root = np.sqrt(WEIGHTS)
    columns = np.stack([np.ravel([run * root for run in each]) for each in predictions], axis=1)
    expected, _ = nnls(columns, np.ravel([run * root for run in volumes]))
    found = combination(predictions, volumes, WEIGHTS, TR_S)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert found[0] == pytest.approx(0.8, abs=0.15) and found[1] == 0


def test_predictions_that_are_constant_or_the_same_are_no_obstacle():
    one, volumes = noise(0), added(noise(0), noise(1))
    constant = [np.full((T, V), 3.0)] * 2
    weights_K = combination([constant, one, one], volumes, WEIGHTS, TR_S)
    assert np.isfinite(weights_K).all() and weights_K.sum() == pytest.approx(1, abs=0.15)
    assert not combination([constant], volumes, WEIGHTS, TR_S).any()


def test_a_combination_is_the_weighted_sum_of_fluctuations():
    one, other = noise(0), noise(1)
    total = combined([one, [run + 5 for run in other]], np.array([2.0, 0.5]), TR_S)
    for run, first, second in zip(total, one, other, strict=True):
        np.testing.assert_allclose(run, 2 * first + 0.5 * second, atol=1e-9)


@pytest.mark.parametrize("seed", range(0, 40, 10))
def test_eeg_that_sees_the_brain_adds_to_the_heart(seed):
    r_of_both = np.sqrt(2 / 3)
    assert of(seed) == pytest.approx(r_of_both - np.sqrt(1 / 3), abs=0.08)


@pytest.mark.parametrize("seed", range(0, 40, 10))
def test_eeg_that_sees_the_heart_adds_nothing_however_well_it_predicts(seed):
    assert of(seed, eeg="heart") == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("seed", range(0, 40, 10))
def test_noise_adds_nothing(seed):
    assert abs(of(seed, eeg="noise")) < 0.03


def test_size_and_offset_of_predictions_do_not_matter():
    (heart, brain, here), (heart_there, brain_there, there) = study(0, 1, 1), study(1, 1, 1)
    plain = unique_r([heart], brain, here, ([heart_there], brain_there, there), WEIGHTS, TR_S)
    large, large_there = ([100 * run + 9 for run in each] for each in (brain, brain_there))
    scaled = unique_r([heart], large, here, ([heart_there], large_there, there), WEIGHTS, TR_S)
    assert scaled == pytest.approx(plain, abs=1e-9)


def test_without_anything_known_it_is_the_predictions_own_r():
    zero = [np.zeros((T, V))] * 2
    _, brain, here = study(0, 0, 1)
    _, brain_there, there = study(1, 0, 1)
    found = unique_r([zero], brain, here, ([zero], brain_there, there), WEIGHTS, TR_S)
    assert found == pytest.approx(temporal_r(brain, here, WEIGHTS, TR_S))


def test_the_combination_never_sees_the_volumes_that_are_scored():
    heart, brain, _ = study(0, 1, 1)
    elsewhere = ([noise(3)], noise(4), noise(5))
    weights_K = combination([elsewhere[0][0], elsewhere[1]], elsewhere[2], WEIGHTS, TR_S)
    for volumes in (noise(11), noise(12)):
        both = temporal_r(combined([heart, brain], weights_K, TR_S), volumes, WEIGHTS, TR_S)
        alone_K = combination([elsewhere[0][0]], elsewhere[2], WEIGHTS, TR_S)
        alone = temporal_r(combined([heart], alone_K, TR_S), volumes, WEIGHTS, TR_S)
        assert unique_r([heart], brain, volumes, elsewhere, WEIGHTS, TR_S) == pytest.approx(both - alone, abs=1e-12)
