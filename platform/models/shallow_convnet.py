"""braindecode's shallow convolutional network (Schirrmeister et al. 2017) behind our own head: an adapter to copy.

Its filters over time and over channels, square, mean and logarithm read log band power in bands and from mixtures of
channels that are learned.  The classifier at its end is left out; one linear map and our head stand in its place.

braindecode is optional (docs/your-own-architecture.md) and imported where a model is built: that takes seconds.

Legend of shapes: B windows, C channels, S samples, F filters, P pools along a window, D width, K basis patterns, V
voxels in the mask.
"""

import warnings
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from platform.models.blocks import EncodedModel, check_at_least, check_shares, linear_head
from platform.models.shape import ModelShape


@dataclass(frozen=True, kw_only=True)
class ShallowConvNetConfig:
    """What a trial may vary about the shallow convolutional network.

    Attributes:
        num_filters: over time, and as many over channels.
        filter_seconds: of a filter over time.
        pool_seconds: of the mean of squares; pools overlap by half.
        width: of the vector that the head reads.
        dropout: of the pooled filters.
    """

    num_filters: int = 40
    filter_seconds: float = 0.2
    pool_seconds: float = 2.0
    width: int = 128
    dropout: float = 0.5

    def __post_init__(self) -> None:
        check_shares(self, "dropout")
        check_at_least(self, num_filters=1, width=1)
        if not 0 < self.filter_seconds <= self.pool_seconds <= 10:  # noqa: PLR2004 - a third of a window
            raise ValueError(
                "filter_seconds must lie above 0 and not above pool_seconds, which must not exceed 10, but got "
                f"{self.filter_seconds} and {self.pool_seconds}"
            )


class ShallowConvNet(EncodedModel):
    """EEG (B, C, S) to volumes within the mask (B, V), or to weights of the basis (B, K)."""

    def __init__(self, config: ShallowConvNetConfig, shape: ModelShape) -> None:
        super().__init__()
        taps = max(1, round(config.filter_seconds * shape.rate_hz))
        pool = max(2, round(config.pool_seconds * shape.rate_hz))
        stride = pool // 2
        self.read = braindecode_models().ShallowFBCSPNet(
            n_chans=shape.num_channels,
            n_times=shape.num_samples,
            n_outputs=1,
            n_filters_time=config.num_filters,
            n_filters_spat=config.num_filters,
            filter_time_length=taps,
            pool_time_length=pool,
            pool_time_stride=stride,
            final_conv_length=1,
            drop_prob=config.dropout,
        )
        self.read.final_layer = nn.Identity()
        num_pools = (shape.num_samples - taps + 1 - pool) // stride + 1
        self.narrow = nn.Linear(config.num_filters * num_pools, config.width)
        self.head = linear_head(config.width, shape)

    def encode(self, inputs: Tensor) -> Tensor:
        """Return one vector of the pooled filters, (B, D), for EEG (B, C, S)."""
        pooled_BFP1: Tensor = self.read(inputs)
        encoded_BD: Tensor = self.narrow(pooled_BFP1.flatten(1))
        return encoded_BD


def braindecode_models() -> Any:  # noqa: ANN401 - a module without type hints
    """Import braindecode's models.

    Raises:
        ImportError: in one line, where it or a library that it needs is missing or does not fit.
    """
    try:
        with warnings.catch_warnings():  # what mne and others deprecate is braindecode's affair
            warnings.simplefilter("ignore")
            from braindecode import models
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImportError(f"braindecode cannot be imported: {reason}") from error
    return models
