"""Embeddings of one EEG channel's window as one token: the first layer of a sequence model.

Legend of shapes: B batch, C channels, S samples, D width of a token, P pieces of a window, F filters, T taps.
"""

import math

import torch
from torch import Tensor, nn

LOWEST_HZ, HIGHEST_HZ = 2.0, 45.0
TAP_SECONDS = 0.5
STRIDE_SECONDS = 0.25
NUM_BANDS = 16


class LinearEmbedding(nn.Module):
    """One linear map of a channel's samples, shared by all channels, as in the published models."""

    def __init__(self, num_samples: int, num_volumes: int, rate_hz: float, width: int) -> None:
        super().__init__()
        del num_volumes, rate_hz
        self.project = nn.Linear(num_samples, width)

    def forward(self, eeg_BCS: Tensor) -> Tensor:
        """Return one token per channel, (B, C, D)."""
        tokens_BCD: Tensor = self.project(eeg_BCS)
        return tokens_BCD


class LogPowerEmbedding(nn.Module):
    """Log power of learned filters in every volume's time, then a linear map; shared by all channels.

    The filters start as pairs of windowed sines and cosines (Morlet wavelets) from 2 to 45 Hz, so that the embedding
    begins as band power, which BOLD is known to follow, and training may move it anywhere from there.
    """

    def __init__(self, num_samples: int, num_volumes: int, rate_hz: float, width: int) -> None:
        super().__init__()
        self.stride = round(STRIDE_SECONDS * rate_hz)
        self.samples_per_volume = num_samples // num_volumes
        self.num_volumes = num_volumes
        filters_FT = _morlet_pairs(rate_hz, min(HIGHEST_HZ, 0.4 * rate_hz))
        self.filters = nn.Parameter(filters_FT)
        self.norm = nn.LayerNorm(num_volumes * NUM_BANDS)
        self.project = nn.Linear(num_volumes * NUM_BANDS, width)

    def forward(self, eeg_BCS: Tensor) -> Tensor:
        """Return one token per channel, (B, C, D)."""
        batch, channels, _ = eeg_BCS.shape
        volumes_BCVS = eeg_BCS.unflatten(2, (self.num_volumes, self.samples_per_volume))
        pieces = volumes_BCVS.unfold(3, self.filters.shape[1], self.stride)
        filtered = pieces.reshape(-1, self.filters.shape[1]) @ self.filters.T
        power = filtered.square().view(batch * channels * self.num_volumes, -1, 2, NUM_BANDS).mean(dim=(1, 2))
        tokens_BCD: Tensor = self.project(self.norm(torch.log(power + 1e-4).view(batch, channels, -1)))
        return tokens_BCD


def _morlet_pairs(rate_hz: float, highest_hz: float) -> Tensor:
    seconds_T = (torch.arange(round(TAP_SECONDS * rate_hz)) / rate_hz) - TAP_SECONDS / 2
    bands_F = torch.logspace(math.log10(LOWEST_HZ), math.log10(highest_hz), NUM_BANDS)
    phase_FT = 2 * math.pi * bands_F[:, None] * seconds_T
    window_T = torch.hann_window(len(seconds_T), periodic=False)
    pairs_FT = torch.cat([torch.cos(phase_FT), torch.sin(phase_FT)]) * window_T
    return pairs_FT / window_T.sum()


EMBEDDINGS: dict[str, type[LinearEmbedding] | type[LogPowerEmbedding]] = {
    "linear": LinearEmbedding,
    "log_power": LogPowerEmbedding,
}
