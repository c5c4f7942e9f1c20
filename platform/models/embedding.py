"""Embeddings of one EEG channel's window as one token: the first layer of a sequence model.

Shapes: B batch, C channels, S samples, D width of a token, N volumes, P pieces of a volume, F filters, T taps.
"""

import math

import torch
from torch import Tensor, nn

LOWEST_HZ, HIGHEST_HZ = 2.5, 45.0
PIECES_PER_VOLUME = 5
NUM_BANDS = 16
_FLOOR = 1e-4


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

    The filters start as pairs of windowed sines and cosines from 2.5 to 45 Hz, so that the embedding begins as the band
    power that BOLD is known to follow, and training may move it anywhere from there.
    """

    def __init__(self, num_samples: int, num_volumes: int, rate_hz: float, width: int) -> None:
        super().__init__()
        self.samples_per_volume = num_samples // num_volumes
        taps = self.samples_per_volume // PIECES_PER_VOLUME
        self.filters_FT = nn.Parameter(_sine_cosine_pairs(taps, rate_hz))
        self.norm = nn.LayerNorm(num_volumes * NUM_BANDS)
        self.project = nn.Linear(num_volumes * NUM_BANDS, width)

    def forward(self, eeg_BCS: Tensor) -> Tensor:
        """Return one token per channel, (B, C, D)."""
        taps = self.filters_FT.shape[1]
        volumes_BCNS = eeg_BCS.unflatten(2, (-1, self.samples_per_volume))
        pieces_BCNPT = volumes_BCNS[..., : PIECES_PER_VOLUME * taps].unflatten(3, (PIECES_PER_VOLUME, taps))
        filtered_BCNPF = pieces_BCNPT @ self.filters_FT.T
        power_BCNF = filtered_BCNPF.square().unflatten(4, (2, NUM_BANDS)).sum(dim=4).mean(dim=3)
        tokens_BCD: Tensor = self.project(self.norm(torch.log(power_BCNF + _FLOOR).flatten(2)))
        return tokens_BCD


def _sine_cosine_pairs(taps: int, rate_hz: float) -> Tensor:
    """Return NUM_BANDS cosines, then as many sines, under a Hann window of sum 1, shape (F, T)."""
    bands_hz = torch.logspace(math.log10(LOWEST_HZ), math.log10(min(HIGHEST_HZ, 0.4 * rate_hz)), NUM_BANDS)
    phase_FT = 2 * math.pi * bands_hz[:, None] * (torch.arange(taps) - taps / 2) / rate_hz
    window_T = torch.hann_window(taps, periodic=False)
    return torch.cat([torch.cos(phase_FT), torch.sin(phase_FT)]) * window_T / window_T.sum()


EMBEDDINGS: dict[str, type[LinearEmbedding] | type[LogPowerEmbedding]] = {
    "linear": LinearEmbedding,
    "log_power": LogPowerEmbedding,
}
