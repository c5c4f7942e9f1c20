"""Embeddings of EEG: what is read of each channel in each volume's time, and tokens made of it.

Shapes: B windows, C channels, S samples, N volumes that a window spans, F features of a channel in a volume's time,
J lags that are left of the volumes' times, D width of a token, P pieces of a volume, T taps.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from platform.models.reading import LAGS, LEVELS, MONTAGES, Reading, sine_cosine_pairs
from platform.models.shape import ModelShape

LOWEST_HZ, HIGHEST_HZ = 2.5, 45.0
PIECES_PER_VOLUME = 5
NUM_BANDS = 16
_FLOOR = 1e-6


class Samples(nn.Module):
    """The samples themselves, so that one linear map makes tokens of them, as in the published models."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.num_features = shape.samples_per_volume

    def forward(self, eeg_BCS: Tensor) -> Tensor:
        """Return the samples of every volume's time, (B, C, N, F)."""
        return eeg_BCS.unflatten(2, (-1, self.num_features))


class LogPower(nn.Module):
    """Log power of learned filters, shared by all channels.

    The filters start as pairs of windowed sines and cosines from 2.5 to 45 Hz, so that the embedding begins as the band
    power that BOLD is known to follow, and training may move it anywhere from there.
    """

    num_features = NUM_BANDS

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.samples_per_volume = shape.samples_per_volume
        taps = self.samples_per_volume // PIECES_PER_VOLUME
        self.filters_FT = nn.Parameter(sine_cosine_pairs(NUM_BANDS, taps, shape.rate_hz, LOWEST_HZ, HIGHEST_HZ))

    def forward(self, eeg_BCS: Tensor) -> Tensor:
        """Return log power in every volume's time, (B, C, N, F)."""
        taps = self.filters_FT.shape[1]
        volumes_BCNS = eeg_BCS.unflatten(2, (-1, self.samples_per_volume))
        pieces_BCNPT = volumes_BCNS[..., : PIECES_PER_VOLUME * taps].unflatten(3, (PIECES_PER_VOLUME, taps))
        filtered_BCNPF = pieces_BCNPT @ self.filters_FT.T
        power_BCNF = filtered_BCNPF.square().unflatten(4, (2, NUM_BANDS)).sum(dim=4).mean(dim=3)
        return torch.log(power_BCNF + _FLOOR)


EMBEDDINGS: dict[str, type[Samples] | type[LogPower]] = {"linear": Samples, "log_power": LogPower}
"""What is read of each channel in each volume's time; a linear map makes tokens of it."""


@dataclass(frozen=True, kw_only=True)
class FixedReading:
    """What is read of EEG whatever a training learns: from EEG (B, C, S) to what a model takes instead, (B, C, J, F).

    The name tells readings of one shape apart.
    """

    name: str
    read: Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """What a trial may vary about how a model reads EEG (``platform.models.reading``).

    Lags and level are of powers only.

    Attributes:
        embedding: a key of ``EMBEDDINGS``.
        montage, lags, level: keys of ``MONTAGES``, ``LAGS`` and ``LEVELS``.
        learned_reading: whether montage, filters and lags are learned.
    """

    embedding: str = "log_power"
    montage: str = "laplacian"
    lags: str = "haemodynamic"
    level: str = "recording"
    learned_reading: bool = False


READING_CHOICES: dict[str, Collection[str]] = {
    "embedding": EMBEDDINGS,
    "montage": MONTAGES,
    "lags": LAGS,
    "level": LEVELS,
}


def read_eeg(config: ReadingConfig, shape: ModelShape) -> Reading:
    """Return what reads EEG as a configuration says; samples as they are have neither lags nor level."""
    embed = EMBEDDINGS[config.embedding](shape)
    of_samples = isinstance(embed, Samples)
    return Reading(
        embed,
        embed.num_features,
        shape,
        montage=config.montage,
        lags="free" if of_samples else config.lags,
        level="window" if of_samples else config.level,
        is_learned=config.learned_reading,
    )


def fixed_reading(config: ReadingConfig, shape: ModelShape) -> FixedReading | None:
    """Return the reading of power that a model does not learn, so that windows need reading once; None for others."""
    if config.learned_reading or config.embedding != "log_power":
        return None
    name = f"reading-{config.embedding}-{config.montage}-{config.lags}"
    return FixedReading(name=name, read=read_eeg(config, shape).read)


class ChannelTokens(nn.Module):
    """One token per channel, of all that was read of it in the window; the map is shared by all channels."""

    def __init__(self, reading: Reading, shape: ModelShape, width: int) -> None:
        super().__init__()
        self.num_tokens = shape.num_channels
        self.project = _projection(reading, reading.num_lags * reading.num_features, width)

    def forward(self, read_BCJF: Tensor) -> Tensor:
        """Return tokens, (B, C, D)."""
        tokens_BCD: Tensor = self.project(read_BCJF.flatten(2))
        return tokens_BCD


class PatchTokens(nn.Module):
    """One token per lag, of all that was read of all channels in it; the map is shared by all lags."""

    def __init__(self, reading: Reading, shape: ModelShape, width: int) -> None:
        super().__init__()
        self.num_tokens = reading.num_lags
        self.project = _projection(reading, shape.num_channels * reading.num_features, width)

    def forward(self, read_BCJF: Tensor) -> Tensor:
        """Return tokens, (B, J, D)."""
        tokens_BJD: Tensor = self.project(read_BCJF.transpose(1, 2).flatten(2))
        return tokens_BJD


def _projection(reading: Reading, num_features: int, width: int) -> nn.Module:
    """Return a linear map, after a norm where features are powers on no level yet."""
    linear = nn.Linear(num_features, width)
    if isinstance(reading.embed, Samples) or reading.is_level:
        return linear
    return nn.Sequential(nn.LayerNorm(num_features), linear)
