"""How likely each trial is the best, from scores on folds of which trials share only some.

Takes a table of scores, trials by folds, with nan where a trial did not run; gives every trial's posterior, and which
of them are worth more folds.

The model is score = trial + fold + noise.  Fold effects are free, so subjects that are easy for everyone count for
nothing; trial effects are drawn from one normal distribution, whose spread and the noise are estimated from the table
itself (restricted maximum likelihood), so that a trial of few folds is drawn to the mean (Searle et al. 1992).
Which rivals deserve more folds is their expected gain over the leader once both have all folds (after the
knowledge-gradient policy of Frazier et al. 2009).

Suffixes: T trials, F folds, R ratios.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RATIOS = tuple(0.02 * 2500 ** (step / 26) for step in range(27))
"""Variance between trials, as a share of the noise's, among which the likeliest is taken."""
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Posterior:
    """What a table of scores says of every trial.

    Attributes:
        noise: variance of a score on one fold beyond trial and fold.
        ratio: variance between trials, as a share of the noise's.
        folds_F: every fold's effect; nan where no trial ran on it.
        cov_FF: covariance of fold effects.
        means_T: posterior mean of every trial, relative to the mean of all.
        weights_T: how far a trial's sum over folds is believed; times the noise, its variance but for fold effects.
        ran_TF: 1.0 where a trial ran.
    """

    noise: float
    ratio: float
    folds_F: Array
    cov_FF: Array
    means_T: Array
    weights_T: Array
    ran_TF: Array

    @property
    def spread(self) -> float:
        """Standard deviation between trials."""
        return math.sqrt(self.noise * self.ratio)

    def with_trial(self, scores: Mapping[int, float]) -> tuple[float, float, Array]:
        """Return another trial's posterior mean, its weight, and on which folds it counts; the model stays."""
        ran_F = np.zeros(len(self.folds_F))
        known = [fold for fold in scores if math.isfinite(self.folds_F[fold])]
        ran_F[known] = 1.0
        weight = self.ratio / (1 + self.ratio * len(known))
        return weight * math.fsum(scores[fold] - self.folds_F[fold] for fold in known), weight, ran_F

    def variances_of_difference(self, weights_T: Array, ran_TF: Array, to: int) -> Array:
        """Return the posterior variance of the difference between each given trial and the one numbered ``to``."""
        own = weights_T[:, None] * ran_TF - self.weights_T[to] * self.ran_TF[to]
        return self.noise * (weights_T + self.weights_T[to]) + np.einsum("tf,fg,tg->t", own, self.cov_FF, own)

    def chance_above(self, scores: Mapping[int, float], rival: int) -> float:
        """Return the chance that another trial with these scores is better than one of the table."""
        mean, weight, ran_F = self.with_trial(scores)
        variance = float(self.variances_of_difference(np.array([weight]), ran_F[None], rival)[0])
        return _normal_share((mean - self.means_T[rival]) / math.sqrt(max(variance, 1e-300)))

    def chances_above(self, rival: int) -> list[float]:
        """Return the chance of every trial to be better than the one given; one half of that one itself."""
        variances_T = self.variances_of_difference(self.weights_T, self.ran_TF, rival)
        variances_T[rival] = 1.0
        z_T = (self.means_T - self.means_T[rival]) / np.sqrt(np.maximum(variances_T, 1e-300))
        return [_normal_share(float(z)) for z in z_T]

    def gains(self, num_folds: int) -> Array:
        """Return what is expected to be won, by the spread, once a trial and its foremost rival have all folds.

        The rival is the leader, the leader's the second.  A trial that can no longer win has about 0.
        """
        first, *others = np.argsort(-self.means_T, kind="stable")
        gains_T = self._gains_over(int(first), num_folds)
        gains_T[first] = self._gains_over(int(others[0]), num_folds)[first] if others else 0.0
        return gains_T / self.spread

    def _gains_over(self, rival: int, num_folds: int) -> Array:
        final = self.noise * self.ratio / (1 + self.ratio * num_folds)
        variances_T = self.variances_of_difference(self.weights_T, self.ran_TF, rival) - 2 * final
        deviations_T = np.sqrt(np.maximum(variances_T, 1e-12 * self.noise + 1e-300))
        behind_T = np.abs(self.means_T - self.means_T[rival])
        pairs = zip(behind_T.tolist(), deviations_T.tolist(), strict=True)
        return np.array([_expected_excess(*pair) for pair in pairs])


def posterior(scores_TF: Array) -> Posterior:
    """Return what a table says; every trial needs a score, and two of them a fold that they share.

    Args:
        scores_TF: trials by folds, nan where a trial did not run.
    """
    is_run_TF: NDArray[np.bool_] = np.isfinite(scores_TF)
    seen_F: NDArray[np.bool_] = np.any(is_run_TF, axis=0)
    ran_TF = is_run_TF.astype(float)
    table_TF = np.where(is_run_TF, scores_TF, 0.0)
    best, noise, effects, cov = _likeliest(table_TF[:, seen_F], ran_TF[:, seen_F])
    folds_F = np.full(len(seen_F), math.nan)
    folds_F[seen_F] = effects
    cov_FF = np.zeros((len(seen_F), len(seen_F)))
    cov_FF[np.ix_(seen_F, seen_F)] = cov
    weights_T = best / (1 + best * ran_TF.sum(axis=1))
    sums_T = ((table_TF - np.where(seen_F, folds_F, 0.0)) * ran_TF).sum(axis=1)
    return Posterior(
        noise=noise, ratio=best, folds_F=folds_F, cov_FF=cov_FF, means_T=weights_T * sums_T,
        weights_T=weights_T, ran_TF=ran_TF,
    )  # fmt: skip


def _likeliest(table_TF: Array, ran_TF: Array) -> tuple[float, float, Array, Array]:
    """Return the ratio of highest restricted likelihood, with its noise, fold effects and their covariance."""
    ratios_R = np.array(RATIOS)
    counts_T, counts_F, sums_T = ran_TF.sum(axis=1), ran_TF.sum(axis=0), table_TF.sum(axis=1)
    weights_RT = ratios_R[:, None] / (1 + ratios_R[:, None] * counts_T)
    normal_RFF = np.diag(counts_F) - (ran_TF.T * weights_RT[:, None, :]) @ ran_TF
    right_RF = table_TF.sum(axis=0) - (weights_RT * sums_T) @ ran_TF
    inverse_RFF = np.linalg.inv(normal_RFF)
    effects_RF = np.einsum("rfg,rg->rf", inverse_RFF, right_RF)
    squares_R = (table_TF**2).sum() - weights_RT @ sums_T**2 - (right_RF * effects_RF).sum(axis=1)
    freedom = max(float(counts_F.sum()) - len(counts_F), 1.0)
    noise_R = np.maximum(squares_R / freedom, 1e-18)
    penalty_R = np.log1p(ratios_R[:, None] * counts_T).sum(axis=1) + np.linalg.slogdet(normal_RFF)[1]
    at = int(np.argmin(freedom * np.log(noise_R) + penalty_R))
    return RATIOS[at], float(noise_R[at]), effects_RF[at], noise_R[at] * inverse_RFF[at]


def leaders(scores: Sequence[Mapping[int, float]], num_folds: int, risk: float) -> list[int]:
    """Return the positions of those that may be the best, the best first: their chance against it is ``risk`` or more.

    Args:
        scores: every trial's scores, on all folds.
        num_folds: how many those are.
        risk: chance below which a trial is ruled out.
    """
    if len(scores) < 2:  # noqa: PLR2004 - nothing to compare with
        return list(range(len(scores)))
    found = posterior(np.array([[of_trial[fold] for fold in range(num_folds)] for of_trial in scores]))
    order = np.argsort(-found.means_T, kind="stable").tolist()
    chances = found.chances_above(order[0])
    return [at for at in order if at == order[0] or chances[at] >= risk]


def _expected_excess(behind: float, deviation: float) -> float:
    """Return the mean of how far a normal variable exceeds 0 whose mean lies that far below it."""
    z = -behind / deviation
    return deviation * (math.exp(-z * z / 2) / math.sqrt(2 * math.pi) + z * _normal_share(z))


def _normal_share(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))
