"""What every architecture that takes EEG may do to a reading of it: a montage before, lags and a level after.

A reading is some features of every channel in every volume's time.  Channels may first be mixed by a montage; the
volumes' times may be weighed as a haemodynamic response weighs them; and features may be measured from what
training windows have, or the recording, not the window alone.

Shapes: B windows, C channels, S samples, N volumes that a window spans, J lags (those N times, or P responses),
F features of a channel.
"""

import math

import torch
from torch import Tensor, nn

from platform.models.blocks import BatchNorm
from platform.models.shape import ModelShape
from platform.models.subjects import SubjectNorm

READ_AXES = 4
NEIGHBOURS = 4
PEAKS_SECONDS = (4.0, 6.0, 8.0)


class RecordedMontage(nn.Module):
    """The channels as they were recorded."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        del shape

    def forward(self, eeg_BCS: Tensor) -> Tensor:
        """Return the EEG as it is."""
        return eeg_BCS


class LaplacianMontage(nn.Module):
    """Learned mixtures of the channels, as many as there are, that start as each less the mean of its neighbours.

    That sharpens what volume conduction has blurred (Hjorth 1975).  A channel whose place is unknown starts as it is.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.mixing_CC = nn.Parameter(laplacian(shape.num_channels, shape.channel_positions))

    def forward(self, eeg_BCS: Tensor) -> Tensor:
        """Return the mixtures, (B, C, S)."""
        return torch.matmul(self.mixing_CC, eeg_BCS)


MONTAGES: dict[str, type[RecordedMontage] | type[LaplacianMontage]] = {
    "recorded": RecordedMontage,
    "laplacian": LaplacianMontage,
}
"""What the channels are before they are read."""


class FreeLags(nn.Module):
    """Every volume's time for itself: (B, C, N, F) to the same."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.num_lags = shape.num_volumes

    def forward(self, read_BCNF: Tensor) -> Tensor:
        """Return the reading as it is."""
        return read_BCNF


class HaemodynamicLags(nn.Module):
    """Learned weighted sums over the volumes' times, which start as three haemodynamic responses: to (B, C, P, F)."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.responses_PN = nn.Parameter(_responses(shape))
        self.num_lags = len(PEAKS_SECONDS)

    def forward(self, read_BCNF: Tensor) -> Tensor:
        """Return the sums, (B, C, P, F)."""
        return torch.matmul(self.responses_PN, read_BCNF)


LAGS: dict[str, type[FreeLags] | type[HaemodynamicLags]] = {"free": FreeLags, "haemodynamic": HaemodynamicLags}
"""How the times before a volume are weighed."""


class OverWindow(nn.Module):
    """Leave the reading to norms that know its window alone."""

    is_level = False

    def __init__(self, num_features: int) -> None:
        super().__init__()
        del num_features

    def forward(self, read_BCJF: Tensor) -> Tensor:
        """Return the reading as it is."""
        return read_BCJF


class OverTraining(nn.Module):
    """Each channel's features by their mean and deviation over windows of all training subjects (batch norm)."""

    is_level = True

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.norm = BatchNorm(num_features)

    def forward(self, read_BCJF: Tensor) -> Tensor:
        """Return the normalised reading, (B, C, J, F)."""
        normed: Tensor = self.norm(read_BCJF.flatten(1)).reshape(read_BCJF.shape)
        return normed


class OverRecording(nn.Module):
    """Each channel's features by their mean and deviation over its subject's windows : transductive."""

    is_level = True

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.norm = SubjectNorm(num_features)

    def forward(self, read_BCJF: Tensor) -> Tensor:
        """Return the normalised reading, (B, C, J, F)."""
        normed: Tensor = self.norm(read_BCJF.flatten(1)).reshape(read_BCJF.shape)
        return normed


LEVELS: dict[str, type[OverWindow] | type[OverTraining] | type[OverRecording]] = {
    "window": OverWindow,
    "training": OverTraining,
    "recording": OverRecording,
}
"""What features are measured from: nothing but their window, all training windows, or the recording it belongs to."""


class Reading(nn.Module):
    """EEG (B, C, S) to what is read of each channel, (B, C, J, F).

    Where it is not learned, montage, filters and lags stay as they start: what little there is to learn from goes into
    fewer weights, and windows need to be read only once.
    """

    def __init__(
        self,
        embed: nn.Module,
        num_features: int,
        shape: ModelShape,
        *,
        montage: str = "recorded",
        lags: str = "free",
        level: str = "window",
        is_learned: bool = True,
    ) -> None:
        super().__init__()
        self.montage = MONTAGES[montage](shape)
        self.embed = embed
        self.lags = LAGS[lags](shape)
        self.num_lags, self.num_features = self.lags.num_lags, num_features
        for part in (self.montage, self.embed, self.lags):
            part.requires_grad_(is_learned)
        self.level = LEVELS[level](shape.num_channels * self.num_lags * num_features)
        self.is_level = self.level.is_level

    def read(self, eeg_BCS: Tensor) -> Tensor:
        """Return what is read before its level: all of it that may stay as it starts, (B, C, J, F)."""
        read_BCJF: Tensor = self.lags(self.embed(self.montage(eeg_BCS)))
        return read_BCJF

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the reading (B, C, J, F) of EEG (B, C, S), or of what ``read`` made of it before."""
        read_BCJF: Tensor = self.level(inputs if inputs.ndim == READ_AXES else self.read(inputs))
        return read_BCJF


def laplacian(num_channels: int, positions_C3: Tensor | None) -> Tensor:
    """Return the matrix (C, C) that takes from each channel the mean of its nearest neighbours."""
    matrix_CC = torch.eye(num_channels)
    if positions_C3 is None:
        return matrix_CC
    known = torch.nonzero(positions_C3.norm(dim=1) > 0).flatten()
    distances = torch.cdist(positions_C3[known], positions_C3[known])
    num_neighbours = min(NEIGHBOURS, len(known) - 1)
    if num_neighbours < 1:
        return matrix_CC
    nearest = distances.argsort(dim=1, stable=True)[:, 1 : num_neighbours + 1]
    for channel, neighbours in zip(known, nearest, strict=True):
        matrix_CC[channel, known[neighbours]] -= 1 / num_neighbours
    return matrix_CC


def _responses(shape: ModelShape) -> Tensor:
    """Return gamma densities of the times from each volume of a window to the one predicted, sum 1, (P, N)."""
    volume_s = shape.samples_per_volume / shape.rate_hz
    ago_s = volume_s * (torch.arange(shape.num_volumes - 1, -1, -1) + 1.0)
    log_gamma_PN = torch.stack([peak_s * torch.log(ago_s / peak_s) - ago_s for peak_s in PEAKS_SECONDS])
    response_PN = torch.exp(log_gamma_PN)
    return response_PN / response_PN.sum(dim=1, keepdim=True)


def sine_cosine_pairs(num_bands: int, taps: int, rate_hz: float, lowest_hz: float, highest_hz: float) -> Tensor:
    """Return cosines from the lowest to the highest frequency, then as many sines, under a Hann window, (F, T)."""
    bands_hz = torch.logspace(math.log10(lowest_hz), math.log10(min(highest_hz, 0.4 * rate_hz)), num_bands)
    phase_FT = 2 * math.pi * bands_hz[:, None] * (torch.arange(taps) - taps / 2) / rate_hz
    window_T = torch.hann_window(taps, periodic=False)
    return torch.cat([torch.cos(phase_FT), torch.sin(phase_FT)]) * window_T / window_T.sum()
