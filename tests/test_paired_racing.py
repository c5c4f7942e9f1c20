"""The model of trials and folds: what a table says of trials that share only some folds."""

import numpy as np
import pytest

from platform.racing.paired import leaders, posterior


def table(trials: int, folds: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    effects = rng.standard_normal(trials)
    return effects, effects[:, None] + 3 * rng.standard_normal(folds) + noise * rng.standard_normal((trials, folds))


def test_spread_and_noise_are_estimated_from_the_table():
    _, scores = table(200, 12, noise=2.0)
    found = posterior(scores)
    assert found.noise**0.5 == pytest.approx(2.0, rel=0.1)
    assert found.spread == pytest.approx(1.0, rel=0.25)


def test_a_trial_that_ran_on_hard_folds_only_is_not_worse_for_it():
    scores = np.array([[0.0, -5.0], [0.1, -4.9], [0.2, np.nan], [np.nan, -4.6]])
    found = posterior(scores)
    assert np.argsort(found.means_T).tolist() == [0, 1, 2, 3]


def test_fewer_folds_draw_a_trial_to_the_mean():
    _, scores = table(40, 8, noise=1.0)
    scores[0], scores[1] = scores[:, :].max(axis=0) + 1, scores[:, :].max(axis=0) + 1
    scores[1, 2:] = np.nan
    found = posterior(scores)
    assert 0 < found.means_T[1] < found.means_T[0]


def test_where_folds_lie_or_how_scores_are_scaled_is_no_matter():
    _, scores = table(20, 6, noise=1.0)
    scores[3, 2:] = np.nan
    one, other = posterior(scores), posterior(0.01 * (scores + np.arange(6)))
    assert other.means_T == pytest.approx(0.01 * one.means_T)
    assert other.chances_above(0) == pytest.approx(one.chances_above(0))


def test_a_fold_on_which_no_trial_ran_counts_for_nothing():
    _, scores = table(20, 6, noise=1.0)
    scores[:, 5] = np.nan
    known, beyond = {0: 0.5, 1: 0.2}, {0: 0.5, 1: 0.2, 5: 99.0}
    found = posterior(scores)
    assert found.chance_above(known, 0) == found.chance_above(beyond, 0)


def test_chances_are_as_often_right_as_they_say():
    claimed, true = [], []
    for seed in range(60):
        effects, scores = table(30, 8, noise=1.5, seed=seed)
        scores[15:, 3:] = np.nan
        found = posterior(scores)
        best = int(np.argmax(found.means_T))
        others = [at for at in range(30) if at != best]
        claimed += [found.chances_above(best)[at] for at in others]
        true += [effects[at] > effects[best] for at in others]
    chances, hits = np.array(claimed), np.array(true)
    for low, high in ((0, 0.05), (0.05, 0.2), (0.2, 0.5)):
        inside = (chances >= low) & (chances < high)
        assert hits[inside].mean() == pytest.approx(chances[inside].mean(), abs=0.1)


def test_a_new_trial_is_judged_as_one_of_the_table():
    _, scores = table(60, 6, noise=1.0)
    found = posterior(scores)
    of_new = found.chance_above(dict(enumerate(scores[7].tolist())), 3)
    assert of_new == pytest.approx(found.chances_above(3)[7], abs=0.03)


def test_nothing_is_to_be_won_once_all_folds_are_there():
    _, scores = table(20, 6, noise=2.0)
    assert posterior(scores).gains(6).max() < 1e-3


def test_more_is_to_be_won_from_a_rival_than_from_a_trial_far_behind():
    _, scores = table(20, 8, noise=1.0)
    order = np.argsort(-scores.mean(axis=1))
    scores[:, 4:] = np.nan
    gains = posterior(scores).gains(8)
    assert gains[order[0]] > gains[order[-1]]
    assert gains[order[1]] > gains[order[-1]]


def test_leaders_are_those_that_cannot_be_told_apart():
    rng = np.random.default_rng(0)
    scores = np.array([0.0, 1.0, 1.01, -3.0])[:, None] + rng.standard_normal(10) + 0.1 * rng.standard_normal((4, 10))
    rows = [dict(enumerate(row)) for row in scores.tolist()]
    assert sorted(leaders(rows, 10, risk=0.01)) == [1, 2]
    assert leaders(rows[:1], 10, risk=0.01) == [0]
    assert leaders([], 10, risk=0.01) == []


def test_equal_scores_are_no_error():
    assert np.isfinite(posterior(np.full((5, 3), 0.25)).gains(3)).all()
