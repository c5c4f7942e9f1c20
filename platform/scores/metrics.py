"""Scores of predicted volumes: Pearson r over time, per voxel and run.

Takes predictions and targets of one run; gives one number.  Pure functions of arrays.

Legend of shapes: T volumes of one run, V voxels.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

HIGH_PASS_SECONDS = 128.0
_CONSTANT = 1e-12
_ROUNDING = 1e-9
"""Share of a prediction's power that float32 arithmetic may leave of a constant after the high-pass."""

FloatArray = NDArray[np.float32] | NDArray[np.float64]


def high_passed(
    series_TV: FloatArray,
    repetition_time_s: float,
    cutoff_s: float = HIGH_PASS_SECONDS,
    at_T: NDArray[np.int64] | None = None,
) -> FloatArray:
    """Return the series without its mean and without cosines slower than the cut-off (as SPM's high-pass filter).

    ``at_T`` says which volumes the series holds where some between them are left out, ascending: the cosines, which are
    those of the time from the first to the last, are then fitted to these volumes alone by least squares.
    """
    num_volumes = len(series_TV) if at_T is None else int(at_T[-1] - at_T[0]) + 1
    order = num_cosines(num_volumes, repetition_time_s, cutoff_s)
    cosines_KT = dct(np.eye(num_volumes), norm="ortho", axis=0)[:order]
    if at_T is not None:
        cosines_KT = np.linalg.qr(cosines_KT[:, at_T - at_T[0]].T)[0].T
    cosines_KT = cosines_KT.astype(series_TV.dtype)
    return series_TV - cosines_KT.T @ (cosines_KT @ series_TV)


def num_cosines(num_volumes: int, repetition_time_s: float, cutoff_s: float = HIGH_PASS_SECONDS) -> int:
    """Return how many cosines the high-pass takes out of so many volumes, the constant one among them."""
    return int(2 * num_volumes * repetition_time_s / cutoff_s) + 1


def correlation_over_time(
    prediction_TV: FloatArray,
    target_TV: FloatArray,
    repetition_time_s: float,
    at_T: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Return Pearson r over time for every voxel, shape (V,), of a prediction and an already high-passed target.

    The prediction is high-passed here; ``at_T`` as ``high_passed`` has it.  Where nothing but rounding is
    left of it, it was constant: r is 0 by rule.  Where it holds what is no number, every r is nan.
    """
    fluctuation = high_passed(prediction_TV, repetition_time_s, at_T=at_T)
    power = _power(fluctuation)
    if not np.isfinite(power).all():
        return np.full(len(power), np.nan)
    power[power <= _ROUNDING * _power(prediction_TV)] = 0
    product = np.einsum("tv,tv->v", fluctuation, target_TV, dtype=np.float64)
    return correlation_from_products(product, power, _power(target_TV))


def fluctuations(prediction_TV: FloatArray, repetition_time_s: float) -> FloatArray:
    """Return a prediction high-passed, exactly 0 where nothing but rounding is left of it: there it was constant."""
    fluctuation = high_passed(prediction_TV, repetition_time_s)
    is_constant = _power(fluctuation) <= _ROUNDING * _power(prediction_TV)
    return np.where(is_constant, np.zeros((), fluctuation.dtype), fluctuation)


def _power(series_TV: FloatArray) -> NDArray[np.float64]:
    return np.einsum("tv,tv->v", series_TV, series_TV, dtype=np.float64)


def correlation_from_products(
    product_V: NDArray[np.float64], prediction_power_V: NDArray[np.float64], target_power_V: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return Pearson r of centred series from their inner products; 0 by rule where one of them is constant."""
    scale = np.sqrt(np.maximum(prediction_power_V, 0) * np.maximum(target_power_V, 0))
    return np.divide(product_V, scale, out=np.zeros_like(scale), where=scale > _CONSTANT)


def weighted_mean(values_V: NDArray[np.float64], weights_V: FloatArray) -> float:
    """Return the mean over voxels under weights that are not negative; their sum must be above 0."""
    total = float(weights_V.sum())
    if total <= 0:
        raise ValueError("voxel weights must have a sum above 0")
    return float(values_V @ weights_V) / total


def temporal_r(
    predictions: Sequence[FloatArray],
    targets: Sequence[FloatArray],
    weights_V: FloatArray,
    repetition_time_s: float,
    at: Sequence[NDArray[np.int64] | None] | None = None,
) -> float:
    """Return one subject's score: r over time per voxel and run, averaged over voxels by weight, then over runs.

    Args:
        predictions: one array (T, V) per run; high-passed here exactly as the targets were.
        targets: one array (T, V) per run, already high-passed over the same volumes by ``high_passed``.
        weights_V: voxel weights, not negative, shape (V,).
        repetition_time_s: seconds between volumes.
        at: which volumes each run's arrays hold, as ``high_passed`` has it; None where all of them hold all.
    """
    if len(predictions) != len(targets) or not targets:
        raise ValueError(f"every run needs a prediction, but got {len(predictions)} for {len(targets)} runs")
    scores = [
        weighted_mean(correlation_over_time(prediction, target, repetition_time_s, at_T), weights_V)
        for prediction, target, at_T in zip(predictions, targets, at or [None] * len(targets), strict=True)
    ]
    return float(np.mean(scores))
