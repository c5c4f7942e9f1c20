"""The parts that architectures share: norms, stochastic depth, residual trunks, heads, and checks of configurations.

Shapes: B windows, D features of a vector, K basis patterns, V voxels in the mask; "..." any number of axes.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from platform.choices.activations import ACTIVATIONS
from platform.models.shape import ModelShape
from platform.models.subjects import SubjectNorm

_LARGEST_NUM_GROUPS = 4
_SMALL = 0.02


class BatchNorm(nn.BatchNorm1d):
    """Each feature by its mean and deviation over all vectors of a batch, (..., D); while scoring, over training.

    A batch of a single vector has no deviation: it is normalised as while scoring.
    """

    def forward(self, vectors: Tensor) -> Tensor:
        """Return normalised vectors of the same shape."""
        flat_ND = vectors.reshape(-1, self.num_features)
        if self.training and flat_ND.shape[0] > 1:
            return super().forward(flat_ND).reshape(vectors.shape)
        normed_ND = functional.batch_norm(
            flat_ND, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )
        return normed_ND.reshape(vectors.shape)


class GroupNorm(nn.GroupNorm):
    """The features of each vector by their group's mean and deviation, (..., D): 4, 2 or 1 groups of 4 or more."""

    def __init__(self, num_features: int) -> None:
        num_groups = next((n for n in (_LARGEST_NUM_GROUPS, 2) if num_features % (4 * n) == 0), 1)
        super().__init__(num_groups, num_features)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return normalised vectors of the same shape."""
        return super().forward(vectors.reshape(-1, self.num_channels)).reshape(vectors.shape)


def _no_norm(num_features: int) -> nn.Module:
    del num_features
    return nn.Identity()


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": BatchNorm,
    "layer": nn.LayerNorm,
    "group": GroupNorm,
    "subject": SubjectNorm,
    "none": _no_norm,
}
"""From the number of features to what normalises vectors of them, (..., D); the first axis is that of windows."""


class StochasticDepth(nn.Module):
    """Drops the whole branch for a share of the windows while training (Huang et al. 2016)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, branch: Tensor) -> Tensor:
        """Return the branch, (B, ...), zero for some windows, larger for the others, so that its mean stays."""
        if not self.training or not self.share:
            return branch
        kept_B = torch.rand(branch.shape[0], device=branch.device) >= self.share
        return branch * (kept_B / (1 - self.share)).to(branch.dtype).view(-1, *[1] * (branch.dim() - 1))


class ResidualBlock(nn.Module):
    """Vectors plus what one fully connected layer makes of them: norm, linear, activation, dropout."""

    def __init__(self, width: int, norm: str, activation: str, dropout: float, stochastic_depth: float) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            NORMS[norm](width),
            nn.Linear(width, width),
            ACTIVATIONS[activation](),
            nn.Dropout(dropout),
            StochasticDepth(stochastic_depth),
        )

    def forward(self, vectors_BD: Tensor) -> Tensor:
        """Return vectors of the same shape, (B, D)."""
        return vectors_BD + self.branch(vectors_BD)


class Trunk(nn.Sequential):
    """A linear map to the width, then residual blocks and a norm: (B, features) to (B, D).

    With a bottleneck one more layer follows, as wide as that: (B, features) to (B, bottleneck).
    """

    def __init__(
        self,
        num_features: int,
        width: int,
        num_layers: int,
        *,
        norm: str,
        activation: str,
        dropout: float,
        stochastic_depth: float,
        bottleneck: int = 0,
    ) -> None:
        blocks = (ResidualBlock(width, norm, activation, dropout, stochastic_depth) for _ in range(num_layers))
        narrow = (nn.Linear(width, bottleneck), ACTIVATIONS[activation]()) if bottleneck else ()
        super().__init__(nn.Linear(num_features, width), *blocks, NORMS[norm](width), *narrow)


class EncodedModel(nn.Module):
    """What every architecture is: an encoder of EEG or features of it, and a head that reads what it encodes.

    ``encode`` gives (B, ...) whatever the head takes; the head gives (B, V) voxels, or (B, K) weights of the basis.
    """

    head: nn.Module

    def encode(self, inputs: Tensor) -> Tensor:
        """Return what the head reads."""
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what the head predicts: (B, V) voxels, or (B, K) weights of the basis."""
        predicted: Tensor = self.head(self.encode(inputs))
        return predicted


def linear_head(width: int, shape: ModelShape) -> nn.Linear:
    """Return the map from one vector to all voxels, or to the weights of the basis: (B, D) to (B, V) or (B, K)."""
    return small(nn.Linear(width, shape.num_voxels if shape.basis is None else len(shape.basis)))


def small(head: nn.Linear) -> nn.Linear:
    """Return a head that starts by predicting next to nothing.

    Volumes are mostly noise: what a head predicts at first would have to be unlearned, and what it learns first is what
    correlates most with them.
    """
    with torch.no_grad():
        head.weight.mul_(_SMALL)
        head.bias.zero_()
    return head


def check_choices(config: object, choices: Mapping[str, Collection[str]]) -> None:
    """Refuse fields whose value is none of their choices.

    Raises:
        ValueError: naming the field, its choices, and what came.
    """
    for name, known in choices.items():
        if getattr(config, name) not in known:
            raise ValueError(f"{name} must be one of {sorted(known)}, but got {getattr(config, name)!r}")


def check_shares(config: object, *names: str) -> None:
    """Refuse fields outside [0, 1).

    Raises:
        ValueError: naming the field and what came.
    """
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name} must lie in [0, 1), but got {getattr(config, name)}")


def check_at_least(config: object, **smallest: Any) -> None:  # noqa: ANN401 - numbers
    """Refuse fields below their smallest value.

    Raises:
        ValueError: naming the field, its smallest value, and what came.
    """
    for name, least in smallest.items():
        if getattr(config, name) < least:
            raise ValueError(f"{name} must be {least} or more, but got {getattr(config, name)}")
