"""A fully connected network from EEG channels to volumes.

Every channel's window goes through one embedding, shared by all channels; the embedded channels, one after the other,
go through residual fully connected layers to voxels or to the weights of a basis.

Legend of shapes: B windows, C channels, S samples, D width of the embedding, K basis patterns, V voxels in the mask.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from platform.choices.activations import ACTIVATIONS
from platform.models.blocks import NORMS, EncodedModel, Trunk, check_at_least, check_choices, check_shares, linear_head
from platform.models.embedding import READING_CHOICES, ChannelTokens, ReadingConfig, read_eeg
from platform.models.shape import ModelShape


@dataclass(frozen=True, kw_only=True)
class FullyConnectedConfig(ReadingConfig):
    """What a trial may vary about the fully connected network.

    Attributes:
        bottleneck: width of one more layer before the head; 0 for none.
    """

    embedding_width: int = 16
    width: int = 128
    num_layers: int = 1
    bottleneck: int = 0
    norm: str = "batch"
    activation: str = "tanh"
    dropout: float = 0.7
    stochastic_depth: float = 0.0

    def __post_init__(self) -> None:
        check_choices(self, {**READING_CHOICES, "norm": NORMS, "activation": ACTIVATIONS})
        check_shares(self, "dropout", "stochastic_depth")
        check_at_least(self, embedding_width=1, width=1, num_layers=0, bottleneck=0)


class FullyConnected(EncodedModel):
    """EEG (B, C, S) to volumes within the mask (B, V), or to weights of the basis (B, K)."""

    def __init__(self, config: FullyConnectedConfig, shape: ModelShape) -> None:
        super().__init__()
        reading = read_eeg(config, shape)
        self.embed = nn.Sequential(reading, ChannelTokens(reading, shape, config.embedding_width))
        self.dropout = nn.Dropout(config.dropout)
        self.trunk = Trunk(
            shape.num_channels * config.embedding_width,
            config.width,
            config.num_layers,
            norm=config.norm,
            activation=config.activation,
            dropout=config.dropout,
            stochastic_depth=config.stochastic_depth,
            bottleneck=config.bottleneck,
        )
        self.head = linear_head(config.bottleneck or config.width, shape)

    def encode(self, inputs: Tensor) -> Tensor:
        """Return the trunk's output for EEG (B, C, S), or for a reading of it (B, C, J, F)."""
        channels_BCD = self.dropout(self.embed(inputs))
        encoded_BD: Tensor = self.trunk(channels_BCD.flatten(1))
        return encoded_BD
