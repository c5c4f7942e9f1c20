"""A transformer from EEG channels to fMRI slices.

Every channel's window becomes one token; learned queries, one per sagittal slice, read the encoded tokens; each
slice becomes its voxels, or all slices together the weights of a low-rank basis.  No true volume is ever seen.

Legend of shapes: B batch, C channels, S samples, D width, L sagittal slices, K basis patterns, V voxels in the mask.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from platform.activations import ACTIVATIONS
from platform.models.embedding import EMBEDDINGS
from platform.models.shape import ModelShape


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """What a trial may vary about the transformer."""

    embedding: str = "log_power"
    width: int = 64
    num_heads: int = 4
    num_encoder_layers: int = 1
    num_decoder_layers: int = 1
    feedforward_ratio: int = 2
    activation: str = "gelu"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"width must be a multiple of num_heads, but got {self.width} and {self.num_heads}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), but got {self.dropout}")
        for name, choice, choices in (
            ("embedding", self.embedding, EMBEDDINGS),
            ("activation", self.activation, ACTIVATIONS),
        ):
            if choice not in choices:
                raise ValueError(f"{name} must be one of {sorted(choices)}, but got {choice!r}")


class Transformer(nn.Module):
    """EEG (B, C, S) to volumes within the mask (B, V)."""

    def __init__(self, config: TransformerConfig, shape: ModelShape) -> None:
        super().__init__()
        num_slices = shape.grid_shape[0]
        embedding = EMBEDDINGS[config.embedding]
        self.embed = embedding(shape.num_samples, shape.num_volumes, shape.rate_hz, config.width)
        self.channel_position = nn.Parameter(0.02 * torch.randn(shape.num_channels, config.width))
        self.slice_queries = nn.Parameter(0.02 * torch.randn(num_slices, config.width))
        self.encoder = nn.ModuleList(_encoder_layer(config) for _ in range(config.num_encoder_layers))
        self.decoder = nn.ModuleList(_decoder_layer(config) for _ in range(config.num_decoder_layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = VoxelHead(config.width, shape) if shape.basis is None else LowRankHead(config.width, shape)

    def forward(self, eeg_BCS: Tensor) -> Tensor:
        """Return what the head predicts: (B, V) voxels, or (B, K) weights of the basis."""
        tokens_BCD = self.embed(eeg_BCS) + self.channel_position
        for layer in self.encoder:
            tokens_BCD = layer(tokens_BCD)
        slices_BLD = self.slice_queries.expand(eeg_BCS.shape[0], -1, -1)
        for layer in self.decoder:
            slices_BLD = layer(slices_BLD, tokens_BCD)
        predicted: Tensor = self.head(self.norm(slices_BLD))
        return predicted


class VoxelHead(nn.Module):
    """Each slice's token to the voxels of that slice that lie in the mask."""

    def __init__(self, width: int, shape: ModelShape) -> None:
        super().__init__()
        _, rows, columns = shape.grid_shape
        self.to_slice = nn.Linear(width, rows * columns)
        x, y, z = shape.voxel_indices.unbind(1)
        self.register_buffer("voxels", (x * rows + y) * columns + z)
        self.voxels: Tensor

    def forward(self, slices_BLD: Tensor) -> Tensor:
        """Return the voxels in the mask, (B, V)."""
        grid: Tensor = self.to_slice(slices_BLD).flatten(1)
        return grid[:, self.voxels]


class LowRankHead(nn.Module):
    """All slices' tokens to the weights of the basis patterns."""

    def __init__(self, width: int, shape: ModelShape) -> None:
        super().__init__()
        if shape.basis is None:
            raise ValueError("a low-rank head needs a basis")
        self.to_basis = nn.Linear(shape.grid_shape[0] * width, len(shape.basis))

    def forward(self, slices_BLD: Tensor) -> Tensor:
        """Return the weights of the basis, (B, K)."""
        weights_BK: Tensor = self.to_basis(slices_BLD.flatten(1))
        return weights_BK


def _encoder_layer(config: TransformerConfig) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(
        config.width,
        config.num_heads,
        dim_feedforward=config.width * config.feedforward_ratio,
        dropout=config.dropout,
        activation=ACTIVATIONS[config.activation](),
        batch_first=True,
        norm_first=True,
    )


def _decoder_layer(config: TransformerConfig) -> nn.TransformerDecoderLayer:
    return nn.TransformerDecoderLayer(
        config.width,
        config.num_heads,
        dim_feedforward=config.width * config.feedforward_ratio,
        dropout=config.dropout,
        activation=ACTIVATIONS[config.activation](),
        batch_first=True,
        norm_first=True,
    )
