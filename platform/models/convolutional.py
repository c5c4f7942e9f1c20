"""A convolutional network from EEG to volumes.

Filters over time are pooled to one number per filter and volume's time, in place of an embedding; a residual trunk
takes them to voxels or to the weights of a basis.  The filters are either shared by all channels, each of which keeps
its own features, or see mixtures of the channels, learned as spatial filters, all at once.
Predicted voxels may be refined by convolutions over the volume.

Convolutions over time are matrix products over pieces of a volume's time: with one input channel that is three times as
fast as Conv1d.  No filter reaches from one volume's time into the next.

Legend of shapes: B windows, C channels, S samples, N volumes that a window spans, J lags that are left of them, T time
steps within a volume, M mixtures of channels, F filters, D features, K basis patterns, V voxels in the mask, X Y Z the
grid.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from platform.choices.activations import ACTIVATIONS
from platform.models.blocks import NORMS, EncodedModel, Trunk, check_at_least, check_choices, check_shares, linear_head
from platform.models.reading import LAGS, LEVELS, MONTAGES, Reading, sine_cosine_pairs
from platform.models.shape import ModelShape

STRIDES_PER_KERNEL = 2
LATER_TAPS, LATER_STRIDE = 4, 2
LOWEST_HZ, HIGHEST_HZ = 2.5, 45.0
NORM_OF_LEVEL = {"training": "batch", "recording": "subject"}
"""How mixtures' features, which belong to no channel, are brought to a level; else by the configuration's norm."""
_FLOOR = 1e-6


def log_power(filtered: Tensor) -> Tensor:
    """Return the log of the mean square over time, (..., T, F) to (..., F)."""
    return torch.log(filtered.square().mean(dim=-2) + _FLOOR)


def mean(filtered: Tensor) -> Tensor:
    """Return the mean over time, (..., T, F) to (..., F)."""
    return filtered.mean(dim=-2)


POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {"log_power": log_power, "mean": mean}
"""How each filter's output becomes one number per volume's time."""


@dataclass(frozen=True, kw_only=True)
class ConvolutionalConfig:
    """What a trial may vary about the convolutional network.

    Attributes:
        montage, lags, level: of the reading (``platform.models.reading``); only "shared" mixing has a montage.
        mixing: "first" mixes channels before the filters, "shared" uses the same filters on every channel.
        num_mixtures: mixtures of channels where they are mixed first.
        channel_width: features that each channel keeps where filters are shared.
        num_filters, kernel_seconds: of the first convolution; it strides by half its kernel, later ones by 2.
        bottleneck: width of one more layer before the head; 0 for none.
        pooling: where it is "log_power", the last convolution has neither norm nor activation: power is both.
        refinement_filters: of the convolutions over the predicted volume; 0 for none.  Only for a model of voxels:
            weights of a basis have no place in the volume.
    """

    montage: str = "laplacian"
    lags: str = "haemodynamic"
    level: str = "recording"
    mixing: str = "shared"
    num_mixtures: int = 16
    channel_width: int = 16
    num_filters: int = 32
    kernel_seconds: float = 0.25
    num_convolutions: int = 1
    pooling: str = "log_power"
    width: int = 128
    num_layers: int = 1
    bottleneck: int = 0
    norm: str = "layer"
    activation: str = "tanh"
    dropout: float = 0.6
    stochastic_depth: float = 0.0
    refinement_filters: int = 0

    def __post_init__(self) -> None:
        check_choices(
            self,
            {
                "montage": MONTAGES,
                "lags": LAGS,
                "level": LEVELS,
                "mixing": MIXINGS,
                "pooling": POOLINGS,
                "norm": NORMS,
                "activation": ACTIVATIONS,
            },
        )
        check_shares(self, "dropout", "stochastic_depth")
        check_at_least(
            self, num_mixtures=1, channel_width=1, num_filters=1, num_convolutions=1, width=1, num_layers=0,
            bottleneck=0, refinement_filters=0,
        )  # fmt: skip
        if not 0 < self.kernel_seconds <= 1:
            raise ValueError(f"kernel_seconds must lie above 0 and not above 1, but got {self.kernel_seconds}")


class Convolutional(EncodedModel):
    """EEG (B, C, S) to volumes within the mask (B, V), or to weights of the basis (B, K)."""

    def __init__(self, config: ConvolutionalConfig, shape: ModelShape) -> None:
        super().__init__()
        if config.refinement_filters and shape.basis is not None:
            raise ValueError(
                f"refinement_filters must be 0 where a basis is predicted (output_rank above 0), but got "
                f"{config.refinement_filters}; predict voxels (output_rank 0), or leave it out"
            )
        self.read: SharedFilters | MixedChannels = MIXINGS[config.mixing](config, shape)
        self.dropout = nn.Dropout(config.dropout)
        self.trunk = Trunk(
            self.read.num_features,
            config.width,
            config.num_layers,
            norm=config.norm,
            activation=config.activation,
            dropout=config.dropout,
            stochastic_depth=config.stochastic_depth,
            bottleneck=config.bottleneck,
        )
        self.head: nn.Module = linear_head(config.bottleneck or config.width, shape)
        if config.refinement_filters:
            self.head = nn.Sequential(self.head, Refinement(config.refinement_filters, config.activation, shape))

    def encode(self, inputs: Tensor) -> Tensor:
        """Return the trunk's output for EEG (B, C, S)."""
        encoded_BD: Tensor = self.trunk(self.dropout(self.read(inputs)))
        return encoded_BD


class SharedFilters(nn.Module):
    """The same filters on every channel, then one linear map of what they say of it: (B, C, S) to (B, C x D)."""

    def __init__(self, config: ConvolutionalConfig, shape: ModelShape) -> None:
        super().__init__()
        self.read = Reading(
            ChannelFilters(config, shape),
            config.num_filters,
            shape,
            montage=config.montage,
            lags=config.lags,
            level=config.level,
        )
        num_read = self.read.num_lags * config.num_filters
        self.norm = nn.Identity() if self.read.is_level else NORMS[config.norm](num_read)
        self.project = nn.Linear(num_read, config.channel_width)
        self.num_features = shape.num_channels * config.channel_width

    def forward(self, eeg_BCS: Tensor) -> Tensor:
        """Return the features of all channels, (B, C x D)."""
        features: Tensor = self.project(self.norm(self.read(eeg_BCS).flatten(2))).flatten(1)
        return features


class ChannelFilters(nn.Module):
    """Filters over time on each channel for itself: (B, C, S) to (B, C, N, F)."""

    def __init__(self, config: ConvolutionalConfig, shape: ModelShape) -> None:
        super().__init__()
        self.samples_per_volume = shape.samples_per_volume
        self.filters = FiltersOverTime(1, config, shape)

    def forward(self, eeg_BCS: Tensor) -> Tensor:
        """Return one number per channel, volume's time and filter."""
        volumes_BCNS = eeg_BCS.unflatten(2, (-1, self.samples_per_volume))
        pooled_BCNF: Tensor = self.filters(volumes_BCNS.unsqueeze(-1))
        return pooled_BCNF


class MixedChannels(nn.Module):
    """Mixtures of the channels, then filters that see all mixtures: (B, C, S) to (B, J x F)."""

    def __init__(self, config: ConvolutionalConfig, shape: ModelShape) -> None:
        super().__init__()
        self.samples_per_volume = shape.samples_per_volume
        self.mix = nn.Linear(shape.num_channels, config.num_mixtures, bias=False)
        self.filters = FiltersOverTime(config.num_mixtures, config, shape)
        self.lags = LAGS[config.lags](shape)
        self.num_features = self.lags.num_lags * config.num_filters
        self.norm = NORMS[NORM_OF_LEVEL.get(config.level, config.norm)](self.num_features)

    def forward(self, eeg_BCS: Tensor) -> Tensor:
        """Return the features of the window, (B, N x F)."""
        mixed_BSM = self.mix(eeg_BCS.transpose(1, 2))
        pooled_BJF = self.lags(self.filters(mixed_BSM.unflatten(1, (-1, self.samples_per_volume))))
        features: Tensor = self.norm(pooled_BJF.flatten(1))
        return features


MIXINGS: dict[str, type[SharedFilters] | type[MixedChannels]] = {"shared": SharedFilters, "first": MixedChannels}
"""Whether channels are mixed before the filters over time, or keep features of their own."""


class FiltersOverTime(nn.Module):
    """Convolutions over each volume's samples, then one number per filter: (..., S, inputs) to (..., F)."""

    def __init__(self, num_inputs: int, config: ConvolutionalConfig, shape: ModelShape) -> None:
        super().__init__()
        num_steps = shape.samples_per_volume
        taps = min(num_steps, max(1, round(config.kernel_seconds * shape.rate_hz)))
        stride = max(1, taps // STRIDES_PER_KERNEL)
        layers: list[nn.Module] = []
        for number in range(config.num_convolutions):
            convolution = Convolution(num_inputs, config.num_filters, min(taps, num_steps), stride)
            if number == 0 and num_inputs == 1:
                convolution.start_as_waves(shape.rate_hz)
            layers.append(convolution)
            if config.pooling != "log_power" or number < config.num_convolutions - 1:
                layers += [NORMS[config.norm](config.num_filters), ACTIVATIONS[config.activation]()]
            num_steps = 1 + (num_steps - convolution.taps) // stride
            num_inputs, taps, stride = config.num_filters, LATER_TAPS, LATER_STRIDE
        self.layers = nn.Sequential(*layers)
        self.pool = POOLINGS[config.pooling]

    def forward(self, samples: Tensor) -> Tensor:
        """Return one number per filter, (..., F)."""
        return self.pool(self.layers(samples))


class Convolution(nn.Module):
    """A strided convolution over the last axis but one, without padding: (..., T, inputs) to (..., fewer T, F)."""

    def __init__(self, num_inputs: int, num_filters: int, taps: int, stride: int) -> None:
        super().__init__()
        self.taps, self.stride = taps, stride
        self.filters = nn.Linear(taps * num_inputs, num_filters)

    def start_as_waves(self, rate_hz: float) -> None:
        """Make pairs of cosines and sines of the filters of a single input, as far as there are pairs."""
        num_bands = len(self.filters.weight) // 2
        waves_FT = sine_cosine_pairs(num_bands, self.taps, rate_hz, LOWEST_HZ, HIGHEST_HZ)
        with torch.no_grad():
            self.filters.weight[: 2 * num_bands] = waves_FT
            self.filters.bias.zero_()

    def forward(self, steps: Tensor) -> Tensor:
        """Return the filters' output at every stride."""
        pieces = steps.unfold(-2, self.taps, self.stride).transpose(-1, -2).flatten(-2)
        filtered: Tensor = self.filters(pieces)
        return filtered


class Refinement(nn.Module):
    """Adds to a predicted volume what two convolutions of 3 x 3 x 3 voxels make of it: (B, V) to (B, V)."""

    def __init__(self, num_filters: int, activation: str, shape: ModelShape) -> None:
        super().__init__()
        self.grid_shape = shape.grid_shape
        _, rows, columns = shape.grid_shape
        x, y, z = shape.voxel_indices.unbind(1)
        self.register_buffer("voxels", (x * rows + y) * columns + z)
        self.voxels: Tensor
        self.refine = nn.Sequential(
            nn.Conv3d(1, num_filters, kernel_size=3, padding=1),
            ACTIVATIONS[activation](),
            nn.Conv3d(num_filters, 1, kernel_size=3, padding=1),
        )

    def forward(self, volume_BV: Tensor) -> Tensor:
        """Return the refined voxels; outside the mask the volume is zero."""
        grid = volume_BV.new_zeros(volume_BV.shape[0], self.grid_shape[0] * self.grid_shape[1] * self.grid_shape[2])
        grid = grid.index_copy(1, self.voxels, volume_BV).unflatten(1, self.grid_shape)
        refined: Tensor = self.refine(grid.unsqueeze(1)).flatten(1)
        return volume_BV + refined[:, self.voxels]
