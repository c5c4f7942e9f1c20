"""What a study's scores say of subjects that nobody has seen yet: estimates, intervals, comparisons.

Takes tables of scores, trials by subjects, with nan where a trial did not run; gives estimates.  Pure functions.

The best of many trials looks better on the subjects that chose it than it is.  A mixed model undoes that: it draws a
trial to the mean of all by as much as its scores are noise, and takes tables with gaps.  Where there are none, choosing
within bootstrap samples of subjects and scoring outside of them (BBC-CV, Tsamardinos et al. 2018) is a second opinion
that assumes less and expects too little where many trials are noisy.  Folds share training subjects, so their scores
vary less than those of new studies would: intervals are widened by the correction of Nadeau and Bengio (2003).

Suffixes: T trials, S subjects, R rivals.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from platform.racing.paired import posterior

LEVEL = 0.95
NUM_BOOTSTRAPS = 1000
POWER = 0.8
Array = NDArray[np.float64]

RAW, BBC_CV, MIXED_MODEL, NESTED, LOCKED_AWAY = "raw", "bbc_cv", "mixed_model", "nested", "locked_away"
ESTIMATES = {
    RAW: "mean over test subjects, who also chose: too high",
    BBC_CV: "chosen within bootstrap samples of subjects, scored outside of them",
    MIXED_MODEL: "drawn to the mean of all trials by as much as scores are noise",
    NESTED: "each subject scored at what the others chose",
    LOCKED_AWAY: "subjects that were in no fold",
}
"""How a score is estimated, in words."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A score and its 95 % interval.

    Attributes:
        mean: the score.
        low, high: of the interval for the mean of new subjects; nan where there are too few subjects.
        method: a key of ``ESTIMATES``.
        num_subjects: subjects that it is made of.
        is_selected: whether these subjects also chose what is scored, which nothing has corrected.
    """

    mean: float
    low: float
    high: float
    method: str
    num_subjects: int
    is_selected: bool = False


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The winner less a rival on the same subjects, less what choosing the winner added.

    Attributes:
        rival: a baseline's name, or a trial's.
        difference, low, high: mean, and its 95 % interval.
        p, p_corrected: two-sided, alone and by Holm's method beside the other rivals.
        num_above, num_subjects: subjects on which the winner scores higher, of how many.
    """

    rival: str
    difference: float
    low: float
    high: float
    p: float
    p_corrected: float
    num_above: int
    num_subjects: int


def standard_error(scores_S: Array, num_training: int) -> float:
    """Return the standard error of a mean over folds that share training subjects.

    Args:
        scores_S: a score for each test subject.
        num_training: subjects that a fold trains on; 0 where folds share none.
    """
    shared = len(scores_S) / num_training if num_training else 0.0
    return float(np.std(scores_S, ddof=1) * math.sqrt((1 + shared) / len(scores_S)))


def estimate(scores_S: Array, num_training: int, method: str, *, mean: float | None = None) -> Estimate:
    """Return scores' mean, or another centre, with its interval: t(S - 1) times the standard error to either side."""
    centre, count = float(np.mean(scores_S)) if mean is None else mean, len(scores_S)
    half = math.nan
    if count > 1:
        half = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * standard_error(scores_S, num_training)
    return Estimate(
        mean=centre,
        low=centre - half,
        high=centre + half,
        method=method,
        num_subjects=count,
        is_selected=method == RAW,
    )


def corrected(validation_TS: Array, test_TS: Array, winner: int, num_training: int) -> Estimate:
    """Return the winner's score less what choosing it added, by the mixed model; as it is where nothing was chosen.

    Args:
        validation_TS: what the search chose and raced by, of every subject.
        test_TS: the scores of every subject that is left out.
        winner: position of the chosen trial, which has run on all subjects.
        num_training: subjects that a fold trains on.
    """
    if len(test_TS) == 1:
        return replace(estimate(test_TS[0], num_training, RAW), is_selected=False)
    centre = mixed_means(both(validation_TS, test_TS))[winner]
    return estimate(test_TS[winner], num_training, MIXED_MODEL, mean=centre)


def both(validation_TS: Array, test_TS: Array) -> Array:
    """Return each trial's score on each subject: the mean of those while it validated and was left out, or the one.

    The search chose and raced by validation.  A model of test scores alone takes trials that were raced out for a
    random part, which they are not: their validation scores tell why they ran no further.
    """
    known_2TS = np.isfinite(np.stack([validation_TS, test_TS]))
    sums_TS = np.where(known_2TS, np.stack([validation_TS, test_TS]), 0.0).sum(axis=0)
    counts_TS = known_2TS.sum(axis=0)
    return np.asarray(np.where(counts_TS > 0, sums_TS / np.maximum(counts_TS, 1), np.nan))


def corrected_by_bootstrap(
    validation_TS: Array, test_TS: Array, winner: int, num_training: int, seed: int
) -> Estimate | None:
    """Return the same by BBC-CV; None unless several trials ran, each on all subjects.

    Args:
        validation_TS: what the search chose by, of every subject.
        test_TS: the scores of every subject that is left out.
        winner: position of the chosen trial.
        num_training: subjects that a fold trains on.
        seed: of the bootstrap.
    """
    if len(test_TS) == 1 or not (np.isfinite(test_TS).all() and np.isfinite(validation_TS).all()):
        return None
    return estimate(test_TS[winner], num_training, BBC_CV, mean=bbc_cv(validation_TS, test_TS, seed))


def mixed_means(scores_TS: Array) -> list[float]:
    """Return each trial's mean over subjects under score = trial + subject + noise, drawn to the mean of all trials.

    Trials are drawn from one normal distribution (restricted maximum likelihood, as ``paired_racing``).
    """
    found = posterior(scores_TS)
    return [float(mean) for mean in np.nanmean(found.folds_F) + found.means_T]


def bbc_cv(validation_TS: Array, test_TS: Array, seed: int, num_bootstraps: int = NUM_BOOTSTRAPS) -> float:
    """Return the mean score, outside of bootstrap samples of subjects, of the trial that is best within them."""
    num_subjects = test_TS.shape[1]
    drawn_BS = np.random.default_rng(seed).integers(0, num_subjects, (num_bootstraps, num_subjects))
    weights_BS = np.stack([np.bincount(drawn, minlength=num_subjects) for drawn in drawn_BS]).astype(float)
    is_outside_BS = weights_BS == 0
    is_split_B = is_outside_BS.any(axis=1)
    chosen_B = np.argmax(weights_BS @ validation_TS.T, axis=1)
    scored_BS = np.where(is_outside_BS, test_TS[chosen_B], 0.0)
    return float(np.mean(scored_BS[is_split_B].sum(axis=1) / is_outside_BS[is_split_B].sum(axis=1)))


def compared(
    scores_S: Array, rivals: Mapping[str, Array], optimism: Mapping[str, float], num_training: int
) -> tuple[Comparison, ...]:
    """Return the winner against each rival on the same subjects, with Holm's correction over the rivals.

    Args:
        scores_S: the winner's test scores.
        rivals: those of every rival, in the same order.
        optimism: what choosing the winner added to its mean difference to each rival.
        num_training: subjects that a fold trains on.
    """
    found = [_compared(scores_S, rival_S, name, optimism[name], num_training) for name, rival_S in rivals.items()]
    corrected_R = holm([each.p for each in found])
    return tuple(replace(each, p_corrected=p) for each, p in zip(found, corrected_R, strict=True))


def holm(p_R: Sequence[float]) -> list[float]:
    """Return p values corrected by Holm's method (1979)."""
    order = np.argsort(p_R, kind="stable")
    corrected_R = [0.0] * len(p_R)
    running = 0.0
    for rank, at in enumerate(order.tolist()):
        running = max(running, min(1.0, (len(p_R) - rank) * p_R[at]))
        corrected_R[at] = running
    return corrected_R


def smallest_effect(scores_S: Array, num_training: int) -> float:
    """Return the mean score that a study with such scores finds above 0 in four of five cases, at 5 % two-sided."""
    freedom = len(scores_S) - 1
    limit = float(stats.t.ppf((1 + LEVEL) / 2, freedom))
    low, high = 0.0, 20.0 + 2 * limit
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        enough = stats.nct.sf(limit, freedom, middle) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high * standard_error(scores_S, num_training)


def _compared(scores_S: Array, rival_S: Array, name: str, optimism: float, num_training: int) -> Comparison:
    differences_S = scores_S - rival_S
    centre = float(np.mean(differences_S)) - optimism
    whole = estimate(differences_S, num_training, RAW, mean=centre)
    error = standard_error(differences_S, num_training) if len(differences_S) > 1 else math.nan
    p = _two_sided(centre, error, len(differences_S) - 1)
    return Comparison(
        rival=name,
        difference=centre,
        low=whole.low,
        high=whole.high,
        p=p,
        p_corrected=p,
        num_above=int(np.sum(differences_S > 0)),
        num_subjects=len(differences_S),
    )


def _two_sided(centre: float, error: float, freedom: int) -> float:
    if not error > 0:
        return math.nan if math.isnan(error) else float(centre == 0)
    return float(2 * stats.t.sf(abs(centre) / error, freedom))
