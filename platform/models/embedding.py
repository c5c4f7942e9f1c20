"""Embeddings of EEG: what is read of each channel in each volume's time, and tokens made of it.

Shapes: B windows, C channels, S samples, N volumes that a window spans, F features of a channel in a volume's time,
D width of a token, P pieces of a volume, T taps.
"""

import math

import torch
from torch import Tensor, nn

from platform.models.shape import ModelShape

LOWEST_HZ, HIGHEST_HZ = 2.5, 45.0
PIECES_PER_VOLUME = 5
NUM_BANDS = 16
_FLOOR = 1e-4


class Samples(nn.Module):
    """The samples themselves, so that one linear map makes tokens of them, as in the published models."""

    is_normalised = False

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

    is_normalised = True
    num_features = NUM_BANDS

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.samples_per_volume = shape.samples_per_volume
        self.filters_FT = nn.Parameter(_sine_cosine_pairs(self.samples_per_volume // PIECES_PER_VOLUME, shape.rate_hz))

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


class ChannelTokens(nn.Module):
    """One token per channel, of all that was read of it in the window; the map is shared by all channels."""

    def __init__(self, num_features: int, shape: ModelShape, width: int, *, is_normalised: bool) -> None:
        super().__init__()
        self.num_tokens = shape.num_channels
        self.project = _projection(shape.num_volumes * num_features, width, is_normalised)

    def forward(self, read_BCNF: Tensor) -> Tensor:
        """Return tokens, (B, C, D)."""
        tokens_BCD: Tensor = self.project(read_BCNF.flatten(2))
        return tokens_BCD


class PatchTokens(nn.Module):
    """One token per volume's time, of all that was read of all channels in it; the map is shared by all times."""

    def __init__(self, num_features: int, shape: ModelShape, width: int, *, is_normalised: bool) -> None:
        super().__init__()
        self.num_tokens = shape.num_volumes
        self.project = _projection(shape.num_channels * num_features, width, is_normalised)

    def forward(self, read_BCNF: Tensor) -> Tensor:
        """Return tokens, (B, N, D)."""
        tokens_BND: Tensor = self.project(read_BCNF.transpose(1, 2).flatten(2))
        return tokens_BND


def _projection(num_features: int, width: int, is_normalised: bool) -> nn.Module:
    linear = nn.Linear(num_features, width)
    return nn.Sequential(nn.LayerNorm(num_features), linear) if is_normalised else linear


def _sine_cosine_pairs(taps: int, rate_hz: float) -> Tensor:
    """Return NUM_BANDS cosines, then as many sines, under a Hann window of sum 1, shape (F, T)."""
    bands_hz = torch.logspace(math.log10(LOWEST_HZ), math.log10(min(HIGHEST_HZ, 0.4 * rate_hz)), NUM_BANDS)
    phase_FT = 2 * math.pi * bands_hz[:, None] * (torch.arange(taps) - taps / 2) / rate_hz
    window_T = torch.hann_window(taps, periodic=False)
    return torch.cat([torch.cos(phase_FT), torch.sin(phase_FT)]) * window_T / window_T.sum()
