"""The losses that a trial may choose from.

Each takes a prediction and its target, both (batch, outputs), and the weights of the outputs (outputs,), not negative,
with mean 1; it gives one number, which is 0 where the prediction is right.

Legend of shapes: B windows of a batch, K outputs of the model (voxels or basis weights).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_TINY = 1e-8


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A loss; only where it is a mean over the windows of a batch may workers average their shares of it."""

    compute: Callable[[Tensor, Tensor, Tensor], Tensor]
    is_mean_over_windows: bool = True


def mean_squared_error(prediction_BK: Tensor, target_BK: Tensor, weights_K: Tensor) -> Tensor:
    """Return the mean squared error."""
    del weights_K
    return functional.mse_loss(prediction_BK, target_BK)


def mean_absolute_error(prediction_BK: Tensor, target_BK: Tensor, weights_K: Tensor) -> Tensor:
    """Return the mean absolute error."""
    del weights_K
    return functional.l1_loss(prediction_BK, target_BK)


def huber(prediction_BK: Tensor, target_BK: Tensor, weights_K: Tensor) -> Tensor:
    """Return half the squared error where it is below 1, a line beyond (Huber 1964)."""
    del weights_K
    return functional.huber_loss(prediction_BK, target_BK)


def log_cosh(prediction_BK: Tensor, target_BK: Tensor, weights_K: Tensor) -> Tensor:
    """Return the mean of log cosh of the error: as half its square where small, as its size where large."""
    del weights_K
    size_BK = (prediction_BK - target_BK).abs()
    return (size_BK + functional.softplus(-2 * size_BK) - math.log(2)).mean()


def weighted_squared_error(prediction_BK: Tensor, target_BK: Tensor, weights_K: Tensor) -> Tensor:
    """Return the mean squared error, each output counted by how reliably it responds in the training subjects."""
    return ((prediction_BK - target_BK).square() * weights_K).mean()


def cosine_distance(prediction_BK: Tensor, target_BK: Tensor, weights_K: Tensor) -> Tensor:
    """Return 1 minus the cosine of the angle between prediction and target of each window, averaged."""
    del weights_K
    return (1 - functional.cosine_similarity(prediction_BK, target_BK, dim=1, eps=_TINY)).mean()


def correlation_distance(prediction_BK: Tensor, target_BK: Tensor, weights_K: Tensor) -> Tensor:
    """Return 1 minus Pearson r over the batch's windows, averaged over outputs by weight and by the target's variance.

    An output that does not vary in prediction or target has r = 0.  By variance, because the last patterns of a basis
    hold next to nothing.
    """
    predicted_BK, wanted_BK = prediction_BK - prediction_BK.mean(dim=0), target_BK - target_BK.mean(dim=0)
    power_K, wanted_power_K = predicted_BK.square().sum(dim=0), wanted_BK.square().sum(dim=0)
    r_K = (predicted_BK * wanted_BK).sum(dim=0) / torch.sqrt(power_K * wanted_power_K + _TINY)
    share_K = weights_K * wanted_power_K
    return 1 - (r_K * share_K).sum() / (share_K.sum() + _TINY)


def squared_error_and_correlation(prediction_BK: Tensor, target_BK: Tensor, weights_K: Tensor) -> Tensor:
    """Return the mean of the mean squared error and the correlation distance: the one knows the size, the other not."""
    error = mean_squared_error(prediction_BK, target_BK, weights_K)
    return 0.5 * (error + correlation_distance(prediction_BK, target_BK, weights_K))


LOSSES: dict[str, Loss] = {
    "mse": Loss(compute=mean_squared_error),
    "mae": Loss(compute=mean_absolute_error),
    "huber": Loss(compute=huber),
    "log_cosh": Loss(compute=log_cosh),
    "weighted_mse": Loss(compute=weighted_squared_error),
    "cosine": Loss(compute=cosine_distance),
    "correlation": Loss(compute=correlation_distance, is_mean_over_windows=False),
    "mse_correlation": Loss(compute=squared_error_and_correlation, is_mean_over_windows=False),
}
