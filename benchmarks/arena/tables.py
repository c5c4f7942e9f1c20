"""Tables of scores that rules are replayed on: what every configuration scores on every fold, and how long it takes.

Takes a seed and how noisy folds are; gives a table with its truth.  A configuration's effect (standard deviation 1, the
spread) is a smooth function of its features plus a residual, so that samplers have something to learn.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_ROWS, NUM_FOLDS, NUM_FEATURES = 128, 16, 3
FOLD_SD = 1.5
FOLDS_PER_GROUP = 4
GROUP_SHARE = 0.3
RESIDUAL_SD = 0.4
TIE_WIDTH = 0.1
MEDIAN_SECONDS = 60.0
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """How a table is drawn: configuration x subject noise by the spread, and whether the best tenth nearly tie."""

    name: str
    noise: float
    is_near_tie: bool = False


TABLES = (
    TableSettings(name="noise 0.5", noise=0.5),
    TableSettings(name="noise 1", noise=1.0),
    TableSettings(name="noise 3", noise=3.0),
    TableSettings(name="near-ties", noise=1.0, is_near_tie=True),
)


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """Features of configurations in [0, 1], their true effects, scores by fold, and seconds by fold."""

    features_TD: Array
    effects_T: Array
    scores_TF: Array
    seconds_TF: Array

    @property
    def num_folds(self) -> int:
        """Folds of every configuration."""
        return self.scores_TF.shape[1]

    def regret(self, row: int) -> float:
        """Return how far a configuration's true effect lies below the best one's, by the spread."""
        return float(self.effects_T.max() - self.effects_T[row])


def generate(settings: TableSettings, seed: int) -> ScoreTable:
    """Draw a table; the same seed gives the same table to every rule."""
    rng = np.random.default_rng([seed, round(10 * settings.noise), settings.is_near_tie])
    features_TD = rng.random((NUM_ROWS, NUM_FEATURES))
    smooth_T = _scaled(-((features_TD - rng.uniform(0.2, 0.8, NUM_FEATURES)) ** 2) @ np.array([4.0, 2.0, 1.0]))
    effects_T = _scaled(smooth_T + RESIDUAL_SD * rng.standard_normal(NUM_ROWS))
    if settings.is_near_tie:
        effects_T = _with_ties(effects_T)
    folds_F = FOLD_SD * rng.standard_normal(NUM_FOLDS)
    noise_TF = settings.noise * _noise(rng)
    seconds_T = MEDIAN_SECONDS * np.exp(0.5 * rng.standard_normal(NUM_ROWS))
    return ScoreTable(
        features_TD=features_TD,
        effects_T=effects_T,
        scores_TF=effects_T[:, None] + folds_F + noise_TF,
        seconds_TF=seconds_T[:, None] * np.exp(0.1 * rng.standard_normal((NUM_ROWS, NUM_FOLDS))),
    )


def _noise(rng: np.random.Generator) -> Array:
    """Return noise of standard deviation 1 that folds of a group share in part."""
    groups = rng.standard_normal((NUM_ROWS, NUM_FOLDS // FOLDS_PER_GROUP)).repeat(FOLDS_PER_GROUP, axis=1)
    own = rng.standard_normal((NUM_ROWS, NUM_FOLDS))
    return np.sqrt(GROUP_SHARE) * groups + np.sqrt(1 - GROUP_SHARE) * own


def _with_ties(effects_T: Array) -> Array:
    """Squeeze the best tenth into a narrow band above the others."""
    limit = np.quantile(effects_T, 0.9)
    above = np.maximum(effects_T - limit, 0.0)
    return np.minimum(effects_T, limit) + TIE_WIDTH * above / above.max()


def _scaled(values: Array) -> Array:
    return (values - values.mean()) / values.std()


class Rows:
    """The rows of a table that nobody has taken yet."""

    def __init__(self, table: ScoreTable) -> None:
        self._features_TD = table.features_TD
        self._is_free = np.ones(len(table.features_TD), dtype=bool)

    def take(self, features: list[float]) -> int:
        """Take the free row nearest to what a sampler proposes, and return it."""
        distance = ((self._features_TD - np.asarray(features)) ** 2).sum(axis=1)
        row = int(np.where(self._is_free, distance, np.inf).argmin())
        self._is_free[row] = False
        return row

    def features(self, row: int) -> list[float]:
        """Return a row's own features."""
        return [float(value) for value in self._features_TD[row]]
