"""Small shapes of data to build models for, and windows to feed them."""

from typing import Any

import torch
from torch import Tensor, nn

from platform.models import ARCHITECTURES
from platform.models.shape import ModelShape

BATCH, CHANNELS, VOLUMES, RATE_HZ, GRID, VOXELS, PATTERNS = 3, 4, 15, 125, (3, 4, 5), 37, 6


def shape(*, low_rank: bool) -> ModelShape:
    """Return a small shape, whose output is a basis or all voxels."""
    generator = torch.Generator().manual_seed(0)
    everywhere = torch.cartesian_prod(*(torch.arange(size) for size in GRID))
    return ModelShape(
        num_channels=CHANNELS,
        num_samples=VOLUMES * 2 * RATE_HZ,
        num_volumes=VOLUMES,
        rate_hz=RATE_HZ,
        grid_shape=GRID,
        voxel_indices=everywhere[torch.randperm(len(everywhere), generator=generator)[:VOXELS]],
        basis=torch.randn(PATTERNS, VOXELS, generator=generator) if low_rank else None,
        channel_positions=0.05 * torch.randn(CHANNELS, 3, generator=generator),
    )


def build(architecture: str, *, low_rank: bool, seed: int = 0, **configuration: Any) -> nn.Module:  # noqa: ANN401
    """Return a model of the small shape that takes EEG, with the architecture's features before it where it has any."""
    which, small = ARCHITECTURES[architecture], shape(low_rank=low_rank)
    torch.manual_seed(seed)
    model = which.build(which.config(**configuration), small)
    return model if which.features is None else nn.Sequential(which.features(small), model)


def eeg(seed: int = 0, num_windows: int = BATCH) -> Tensor:
    """Return a batch of windows of noise."""
    return torch.randn(num_windows, CHANNELS, VOLUMES * 2 * RATE_HZ, generator=torch.Generator().manual_seed(seed))
