"""What scores come of no coupling at all: BOLD's sign flipped by subject before training, everything else repeated.

Takes a study's data, a fold and flips; gives ridge's test score under each flip.  Takes observed and null scores;
gives a null's record with its p.

Takes one subject's predictions; gives how they score when turned round in time.

Under "EEG says nothing of BOLD" a subject's BOLD may as well be upside down, as long as it is so in all its runs and
whether the subject trains, validates or tests.  Ridge's features do not change, so its Gram matrix is decomposed once,
and what it predicts under a flip is a sum over training subjects, each with its sign.

Legend of shapes: K subjects, P of them training, F flips, T windows of one run, D features, V voxels that weigh,
A shrinkages.
"""

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platform.data.folds import Fold
from platform.data.products import DataSettings, StudyData
from platform.scores.baselines import SHRINKAGES
from platform.scores.metrics import correlation_from_products, temporal_r
from platform.scores.selection import best_position

NUM_FLIPS = 199
SHIFT_SECONDS, NUM_SHIFTS = 30.0, 39
VOXELS_AT_ONCE = 4096
"""Their products for all training subjects fit into memory."""
RIDGE_FLIPS, WINNER_FLIPS = "ridge_sign_flip", "winner_sign_flip"
_ENUMERATED = 30
"""Subjects with fewer flips than memory holds."""
_FLIPPING = 2
"""Keeps the draw of signs apart from all other draws from a study's seed."""

Floats = NDArray[np.float32]
Signs = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class NullScores:
    """A score, and what it would be without coupling.

    Attributes:
        name: which null.
        observed: the mean over folds of the test scores.
        values: the same under each flip.
        p: share of flips, the recorded signs among them, whose score is as high or higher.
    """

    name: str
    observed: float
    values: tuple[float, ...]
    p: float

    @property
    def noted(self) -> dict[str, Any]:
        """What the ledger keeps of it."""
        return {**asdict(self), "values": list(self.values)}


def null_scores(name: str, observed: float, values: Sequence[float]) -> NullScores:
    """Return a null's record; p counts the recorded signs as one of the flips, so it is never 0."""
    p = (1 + sum(value >= observed for value in values)) / (1 + len(values))
    return NullScores(name=name, observed=observed, values=tuple(values), p=p)


def sign_flips(num_subjects: int, number: int, seed: int) -> Signs:
    """Return signs of subjects, (F, K), none twice, and none of which is the recorded one.

    Flipping everybody changes no score, so the first subject always keeps its sign; there are 2 ** (K - 1) - 1 flips,
    and where that is no more than asked for, they are all of them.
    """
    if num_subjects <= _ENUMERATED and 2 ** (num_subjects - 1) - 1 <= number:
        every = np.array(list(itertools.product((1, -1), repeat=num_subjects - 1)), np.float32)[1:]
        return _with_first(every)
    rng = np.random.default_rng([seed, _FLIPPING])
    found: dict[bytes, Signs] = {}
    while len(found) < number:
        signs = rng.choice(np.array([1, -1], np.float32), num_subjects - 1)
        if (signs < 0).any():
            found.setdefault(signs.tobytes(), signs)
    return _with_first(np.stack(list(found.values())))


def _with_first(signs: Signs) -> Signs:
    return np.concatenate([np.ones((len(signs), 1), np.float32), signs], axis=1)


def circular_shift_p(
    predictions: Sequence[Floats], targets: Sequence[Floats], weights_V: Floats, repetition_time_s: float
) -> float:
    """Return how often a subject's predictions score as high when turned round in time by more than 30 s.

    Every run is turned by the same number of volumes; shifts stand evenly over the shortest run, the recorded time
    among them.  It speaks of this subject's runs alone, and of many subjects it rejects too often.
    """
    least = int(SHIFT_SECONDS / repetition_time_s) + 1
    most = min(len(prediction) for prediction in predictions) - least
    num_shifts = NUM_SHIFTS if most >= least else 0
    shifts = np.unique(np.linspace(least, most, num_shifts).round().astype(int)).tolist()
    observed, *shifted = (
        temporal_r([np.roll(each, shift, axis=0) for each in predictions], targets, weights_V, repetition_time_s)
        for shift in (0, *shifts)
    )
    return null_scores("circular_shift", observed, shifted).p


def ridge_flip_scores(
    settings: DataSettings, fold: Fold, subjects: Sequence[str], signs_FK: Signs
) -> tuple[int, list[float]]:
    """Return the fold's number, and ridge's test score with the recorded signs, then under each flip.

    ``signs_FK`` belong to ``subjects``.  Under each flip ridge is fitted anew and its shrinkage chosen anew.
    """
    data = StudyData(settings)
    weights_V = data.training_weights(fold.training)
    voxels = np.flatnonzero(weights_V)
    sign_of = {subject: np.append(np.float32(1), signs_FK[:, at]) for at, subject in enumerate(subjects)}
    signs_FP = np.stack([sign_of[subject] for subject in fold.training], axis=1)
    scores_FA = {subject: np.zeros(()) for subject in (*fold.validation, fold.test)}
    for some in np.array_split(voxels, -(-len(voxels) // VOXELS_AT_ONCE)):
        ridge = _SplitRidge(data, fold.training, some)
        share_V = weights_V[some] / weights_V.sum()
        for subject in scores_FA:
            signs = signs_FP * sign_of[subject][:, np.newaxis]
            scores_FA[subject] = scores_FA[subject] + ridge.scores(subject, signs, share_V)
    together_FA = scores_FA[fold.validation[0]] + scores_FA[fold.validation[1]]
    chosen = [best_position(row.tolist()) for row in together_FA]
    return fold.number, [float(row[at]) for row, at in zip(scores_FA[fold.test], chosen, strict=True)]


class _SplitRidge:
    """Ridge regression whose prediction is kept apart by training subject."""

    def __init__(self, data: StudyData, training: Sequence[str], voxels: NDArray[np.int64]) -> None:
        self._data, self._voxels = data, voxels
        features = {subject: data.band_power(subject) for subject in training}
        gram_DD = np.sum([each.T @ each for of_subject in features.values() for each in of_subject], axis=0)
        eigenvalues_D, self._rotation_DD = np.linalg.eigh(gram_DD)
        self._eigenvalues_D = np.maximum(eigenvalues_D, 0)
        cross_PDV = [self._cross(features[subject], subject) for subject in training]
        self._rotated_PDV = np.stack([self._rotation_DD.T @ each for each in cross_PDV])

    def _cross(self, features: Sequence[Floats], subject: str) -> Floats:
        products = [each.T @ volumes for each, volumes in zip(features, self._volumes(subject), strict=True)]
        return np.asarray(np.sum(products, axis=0))

    def _volumes(self, subject: str) -> Iterator[Floats]:
        for run in self._data.runs(subject):
            yield self._data.high_passed(run.targets[:, self._voxels].astype(np.float32), run.at_T)

    def scores(self, subject: str, signs_FP: Signs, share_V: Floats) -> NDArray[np.float64]:
        """Return what these voxels add to a subject's score, (F, A); signs are relative to the subject's own."""
        of_runs = [
            [self._run_scores(features_TD, volumes_TV, shrinkage, signs_FP, share_V) for shrinkage in SHRINKAGES]
            for features_TD, volumes_TV in zip(self._data.band_power(subject), self._volumes(subject), strict=True)
        ]
        return np.asarray(np.mean(of_runs, axis=0).T)

    def _run_scores(
        self, features_TD: Floats, volumes_TV: Floats, shrinkage: float, signs_FP: Signs, share_V: Floats
    ) -> list[float]:
        """Return r times each voxel's share, summed, under each flip, from inner products of the subjects' parts."""
        shrunk_TD = (features_TD @ self._rotation_DD) / (self._eigenvalues_D + np.float32(shrinkage))
        parts_PTV = shrunk_TD @ self._rotated_PDV
        products_PV = np.einsum("ptv,tv->pv", parts_PTV, volumes_TV, dtype=np.float64)
        parts_VTP = parts_PTV.transpose(2, 1, 0)
        powers_VPP = (parts_VTP.transpose(0, 2, 1) @ parts_VTP).astype(np.float64)
        target_V = np.einsum("tv,tv->v", volumes_TV, volumes_TV, dtype=np.float64)
        product_FV = signs_FP @ products_PV
        num_parts = len(products_PV)
        pairs_FPP = (signs_FP[:, :, np.newaxis] * signs_FP[:, np.newaxis]).reshape(len(signs_FP), -1)
        power_FV = pairs_FPP @ powers_VPP.reshape(-1, num_parts**2).T
        return [
            float(correlation_from_products(product_V, power_V, target_V) @ share_V)
            for product_V, power_V in zip(product_FV, power_FV, strict=True)
        ]


def ridge_null(by_fold: Mapping[int, Sequence[float]]) -> NullScores:
    """Return the null of ridge's mean test score, from every fold's scores: the recorded one, then by flip."""
    observed, *values = (statistics.fmean(scores) for scores in zip(*by_fold.values(), strict=True))
    return null_scores(RIDGE_FLIPS, observed, values)
