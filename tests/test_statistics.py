"""Estimates: their numbers are those of slow implementations, and choosing the best adds nothing to them."""

import itertools
import math
import statistics as plain

import numpy as np
import pytest
from scipy import stats

from platform.evidence.statistics import (
    RAW,
    bbc_cv,
    both,
    compared,
    corrected,
    corrected_by_bootstrap,
    estimate,
    holm,
    mixed_means,
    smallest_effect,
)

SUBJECTS, TRAINING = 12, 9


def tables(seed: int, trials: int = 20, noise: float = 1.0, spread: float = 1.0) -> tuple[np.ndarray, ...]:
    """True means, validation scores and test scores of trials; what a trial is to a subject is in both."""
    rng = np.random.default_rng(seed)
    true_T = rng.normal(0, spread, trials)
    own_TS = true_T[:, None] + rng.normal(0, 1, SUBJECTS) + rng.normal(0, noise, (trials, SUBJECTS))
    validation_TS, test_TS = own_TS + rng.normal(0, 0.2 * noise, (2, trials, SUBJECTS))
    return true_T, validation_TS, test_TS


def test_an_interval_is_t_times_the_error_widened_for_shared_training_subjects():
    scores = [0.1, 0.3, 0.2, 0.25]
    found = estimate(np.array(scores), num_training=2, method=RAW)
    half = stats.t.ppf(0.975, 3) * plain.stdev(scores) / math.sqrt(4) * math.sqrt(1 + 4 / 2)
    assert (found.mean, found.low, found.high) == pytest.approx((0.2125, 0.2125 - half, 0.2125 + half))
    assert found.is_selected


def test_one_subject_has_no_interval():
    found = estimate(np.array([0.2]), num_training=0, method=RAW)
    assert found.mean == 0.2
    assert math.isnan(found.low) and math.isnan(found.high)


def slow_bbc_cv(validation_TS: np.ndarray, test_TS: np.ndarray, seed: int, number: int) -> float:
    rng, subjects = np.random.default_rng(seed), test_TS.shape[1]
    means = []
    for drawn in rng.integers(0, subjects, (number, subjects)).tolist():
        outside = [subject for subject in range(subjects) if subject not in drawn]
        if outside:
            within = [plain.fmean(row[subject] for subject in drawn) for row in validation_TS]
            chosen = within.index(max(within))
            means.append(plain.fmean(test_TS[chosen, subject] for subject in outside))
    return plain.fmean(means)


def test_bbc_cv_is_that_of_a_loop():
    _, validation_TS, test_TS = tables(0)
    assert bbc_cv(validation_TS, test_TS, 5, 60) == pytest.approx(slow_bbc_cv(validation_TS, test_TS, 5, 60))


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_choosing_the_best_is_taken_back(missing):
    raw, mixed, bootstrapped = [], [], []
    for seed in range(120):
        true_T, validation_TS, test_TS = tables(seed, noise=2.0)
        winner = int(validation_TS.mean(axis=1).argmax())
        lost_TS = np.random.default_rng(seed).random(test_TS.shape) < missing
        lost_TS[winner] = False
        test_TS[lost_TS] = np.nan
        raw.append(float(test_TS[winner].mean()) - true_T[winner])
        mixed.append(corrected(validation_TS, test_TS, winner, TRAINING).mean - true_T[winner])
        second = corrected_by_bootstrap(validation_TS, test_TS, winner, TRAINING, seed)
        assert (second is None) == (missing > 0)
        bootstrapped += [second.mean - true_T[winner]] if second else []
    assert plain.fmean(raw) > 0.3
    assert abs(plain.fmean(mixed)) < 0.5 * plain.fmean(raw)
    assert not bootstrapped or plain.fmean(bootstrapped) < 0.5 * plain.fmean(raw)


def test_a_score_is_the_mean_of_those_while_a_subject_validated_and_was_left_out_or_the_one():
    nan = math.nan
    found = both(np.array([[0.1, 0.2, nan, nan]]), np.array([[0.3, nan, 0.4, nan]]))
    np.testing.assert_allclose(found, [[0.2, 0.2, 0.4, nan]])


def test_validation_scores_tell_why_trials_were_raced_out():
    """Fold k scores subject k, and k + 1 and k + 2 validate; all run on three folds, the best alone on all others."""
    alone, together = [], []
    for seed in range(60):
        _, validation_TS, test_TS = tables(seed, spread=0.0)
        early_T = validation_TS[:, 1:5].mean(axis=1)
        winner = int(early_T.argmax())
        is_out_T1 = (np.arange(len(test_TS)) != winner)[:, None]
        validation_TS[is_out_T1 & ~np.isin(np.arange(SUBJECTS), [1, 2, 3, 4])] = np.nan
        test_TS[is_out_T1 & (np.arange(SUBJECTS) >= 3)] = np.nan
        alone.append(mixed_means(test_TS)[winner])
        together.append(corrected(validation_TS, test_TS, winner, TRAINING).mean)
    assert abs(plain.fmean(together)) < 0.7 * abs(plain.fmean(alone))


def test_one_trial_was_not_chosen():
    found = corrected(np.zeros((1, 3)), np.array([[0.1, 0.2, 0.3]]), 0, num_training=0)
    assert (found.mean, found.method, found.is_selected) == (pytest.approx(0.2), RAW, False)
    assert corrected_by_bootstrap(np.zeros((1, 3)), np.zeros((1, 3)), 0, 0, 0) is None


def test_the_mixed_model_draws_a_trial_as_its_share_of_the_variance_says():
    """A balanced table has closed formulas: analysis of variance, and the shrinkage they lead to."""
    _, _, test_TS = tables(3, trials=200, noise=0.8)
    trials, subjects = test_TS.shape
    means_T = test_TS.mean(axis=1)
    rest_TS = test_TS - means_T[:, None] - test_TS.mean(axis=0) + test_TS.mean()
    noise = (rest_TS**2).sum() / ((trials - 1) * (subjects - 1))
    between = means_T.var(ddof=1) - noise / subjects
    share = between / (between + noise / subjects)
    expected_T = test_TS.mean() + share * (means_T - test_TS.mean())
    np.testing.assert_allclose(mixed_means(test_TS), expected_T, atol=0.05)  # ratios are tried on a grid


def slow_holm(p: list[float]) -> list[float]:
    """Reject in order until one is not: the level at which each is just rejected."""
    levels = []
    for own in p:
        before = [(len(p) - rank) * other for rank, other in enumerate(sorted(p)) if other <= own]
        levels.append(min(1.0, max(before)))
    return levels


def test_holm_is_that_of_its_definition():
    for p in itertools.permutations([0.001, 0.02, 0.03, 0.5]):
        assert holm(p) == pytest.approx(slow_holm(list(p)))
    assert holm([]) == []


def test_a_comparison_is_paired_and_less_what_choosing_added():
    winner, rival = np.array([0.3, 0.5, 0.4, 0.6]), np.array([0.2, 0.35, 0.35, 0.6])
    [found] = compared(winner, {"ridge": rival}, {"ridge": 0.05}, num_training=0)
    p = stats.ttest_1samp(winner - rival, 0.05).pvalue
    assert found.difference == pytest.approx(0.025)
    assert (found.p, found.p_corrected) == pytest.approx((p, p))
    assert (found.num_above, found.num_subjects) == (3, 4)


def test_the_smallest_effect_is_found_four_times_out_of_five():
    scores = np.random.default_rng(0).normal(0, 0.1, SUBJECTS)
    effect = smallest_effect(scores, num_training=0)
    drawn = np.random.default_rng(1).normal(effect, scores.std(ddof=1), (4000, SUBJECTS))
    is_found = (stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05) & (drawn.mean(axis=1) > 0)
    assert np.mean(is_found) == pytest.approx(0.8, abs=0.03)
