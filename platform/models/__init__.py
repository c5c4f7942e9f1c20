"""The architectures that a search may be started for: each a configuration and the model that it builds.

A model maps EEG windows (batch, channels, samples) to volumes within the mask (batch, voxels), or, where the shape
names a basis, to that basis's weights (batch, patterns), which ``Volumes`` turns into voxels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from platform.models.shape import ModelShape
from platform.models.transformer import Transformer, TransformerConfig


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A configuration class, and how to build a model of it for a shape of data."""

    config: type[Any]
    build: Callable[[Any, ModelShape], nn.Module]


ARCHITECTURES: dict[str, Architecture] = {
    "transformer": Architecture(config=TransformerConfig, build=Transformer),
}


class Volumes(nn.Module):
    """A trained model whose output is always voxels: (B, C, S) to (B, V)."""

    def __init__(self, model: nn.Module, basis_KV: Tensor | None) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("basis_KV", basis_KV)
        self.basis_KV: Tensor | None

    def forward(self, eeg_BCS: Tensor) -> Tensor:
        """Return volumes within the mask, (B, V)."""
        predicted: Tensor = self.model(eeg_BCS)
        return predicted if self.basis_KV is None else predicted @ self.basis_KV
