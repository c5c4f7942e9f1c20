"""A fully connected network from EEG channels to volumes.

Every channel's window goes through one embedding, shared by all channels; the embedded channels, one after the other,
go through residual fully connected layers to voxels or to the weights of a basis.

Legend of shapes: B windows, C channels, S samples, D width of the embedding, K basis patterns, V voxels in the mask.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from platform.activations import ACTIVATIONS
from platform.models.blocks import NORMS, Trunk, check_at_least, check_choices, check_shares, linear_head
from platform.models.embedding import EMBEDDINGS, ChannelTokens
from platform.models.shape import ModelShape


@dataclass(frozen=True, kw_only=True)
class FullyConnectedConfig:
    """What a trial may vary about the fully connected network."""

    embedding: str = "log_power"
    embedding_width: int = 16
    width: int = 128
    num_layers: int = 2
    norm: str = "layer"
    activation: str = "gelu"
    dropout: float = 0.2
    stochastic_depth: float = 0.0

    def __post_init__(self) -> None:
        check_choices(self, {"embedding": EMBEDDINGS, "norm": NORMS, "activation": ACTIVATIONS})
        check_shares(self, "dropout", "stochastic_depth")
        check_at_least(self, embedding_width=1, width=1, num_layers=0)


class FullyConnected(nn.Module):
    """EEG (B, C, S) to volumes within the mask (B, V), or to weights of the basis (B, K)."""

    def __init__(self, config: FullyConnectedConfig, shape: ModelShape) -> None:
        super().__init__()
        embedding = EMBEDDINGS[config.embedding](shape)
        self.embed = nn.Sequential(
            embedding,
            ChannelTokens(embedding.num_features, shape, config.embedding_width, is_normalised=embedding.is_normalised),
        )
        self.dropout = nn.Dropout(config.dropout)
        self.trunk = Trunk(
            shape.num_channels * config.embedding_width,
            config.width,
            config.num_layers,
            norm=config.norm,
            activation=config.activation,
            dropout=config.dropout,
            stochastic_depth=config.stochastic_depth,
        )
        self.head = linear_head(config.width, shape)

    def forward(self, eeg_BCS: Tensor) -> Tensor:
        """Return what the head predicts: (B, V) voxels, or (B, K) weights of the basis."""
        channels_BCD = self.dropout(self.embed(eeg_BCS))
        predicted: Tensor = self.head(self.trunk(channels_BCD.flatten(1)))
        return predicted
