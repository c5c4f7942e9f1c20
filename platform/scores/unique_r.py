"""What EEG adds to predictions that know none: r of both together less r of those alone.

Takes predictions of the same runs; gives their best combination, and what one of them adds to the others.  Pure
functions of arrays.  The combination is fitted in validation subjects and used on the test subject.

Legend of shapes: T volumes of one run, V voxels, K predictions.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from platform.scores.metrics import FloatArray, fluctuations, temporal_r

_ROUNDING = 1e-10

Floats = NDArray[np.float64]
Runs = Sequence[FloatArray]
"""One array, (T, V), per run."""


def unique_r(
    known: Sequence[Runs],
    added: Runs,
    targets: Runs,
    fitted_on: tuple[Sequence[Runs], Runs, Runs],
    weights_V: FloatArray,
    repetition_time_s: float,
) -> float:
    """Return r(known + added) - r(known) over time, over voxels by weight, averaged over runs.

    Both sides of the difference are linear combinations with one weight per prediction, the same for every voxel,
    fitted by least squares.  r(known) of a single prediction is its own r, or 0 where it was against the truth
    elsewhere.

    Args:
        known: predictions that know no EEG, each of every run.
        added: the prediction from EEG.
        targets: high-passed volumes.
        fitted_on: the same three for the subjects that the combination is fitted in.
        weights_V: voxel weights, not negative.
        repetition_time_s: seconds between volumes.
    """
    known_elsewhere, added_elsewhere, targets_elsewhere = fitted_on

    def r_of(predictions: Sequence[Runs], elsewhere: Sequence[Runs]) -> float:
        weights_K = combination(elsewhere, targets_elsewhere, weights_V, repetition_time_s)
        return temporal_r(combined(predictions, weights_K, repetition_time_s), targets, weights_V, repetition_time_s)

    return r_of([*known, added], [*known_elsewhere, added_elsewhere]) - r_of(known, known_elsewhere)


def combination(predictions: Sequence[Runs], targets: Runs, weights_V: FloatArray, repetition_time_s: float) -> Floats:
    """Return the weights, not negative, with which predictions together come closest to the targets, (K,).

    Least squares over all volumes, and over voxels by weight.  A prediction that is against the truth, or that the
    others make superfluous, gets 0.
    """
    gram_KK, cross_K = np.zeros((len(predictions), len(predictions))), np.zeros(len(predictions))
    for number, target_TV in enumerate(targets):
        courses = [fluctuations(runs[number], repetition_time_s) for runs in predictions]
        for row, one_TV in enumerate(courses):
            cross_K[row] += _product(one_TV, target_TV, weights_V)
            for column, other_TV in enumerate(courses):
                gram_KK[row, column] += _product(one_TV, other_TV, weights_V)
    return _not_negative(gram_KK, cross_K)


def combined(predictions: Sequence[Runs], weights_K: Floats, repetition_time_s: float) -> list[FloatArray]:
    """Return the weighted sum of predictions, run by run, high-passed."""
    return [
        np.sum(
            [weight * fluctuations(each, repetition_time_s) for weight, each in zip(weights_K, of_run, strict=True)],
            axis=0,
        )
        for of_run in zip(*predictions, strict=True)
    ]


def _product(one_TV: FloatArray, other_TV: FloatArray, weights_V: FloatArray) -> float:
    return float(np.einsum("tv,tv->v", one_TV, other_TV, dtype=np.float64) @ weights_V)


def _not_negative(gram_KK: Floats, cross_K: Floats) -> Floats:
    """Return the weights, not negative, of the least squares problem with these inner products."""
    eigenvalues, rotation = np.linalg.eigh(gram_KK)
    is_known = eigenvalues > _ROUNDING * max(eigenvalues.max(), 1e-300)
    root, directions = np.sqrt(eigenvalues[is_known]), rotation[:, is_known]
    if not len(root):
        return np.zeros(len(cross_K))
    return np.asarray(nnls(root[:, np.newaxis] * directions.T, directions.T @ cross_K / root)[0])
