"""A small network on lagged log band power: what ridge regression reads, with the choices of a network.

The features have no parameters and depend on a window's EEG alone: they are computed once per run, and training on
them takes a tenth of the time.  They are ``lagged_band_power`` (``platform.data``) within the window, up to a constant
per run and feature, of the channels as recorded and of each less its neighbours; its constants stand here again,
because models import torch only.

Legend of shapes: B windows, C channels as recorded and then less their neighbours, S samples of a window or of a piece,
N pieces of a window, H hertz, W bands, X waves (a cosine and a sine of each), P haemodynamic responses, F features,
K basis patterns, V voxels in the mask.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from platform.choices.activations import ACTIVATIONS
from platform.models.blocks import NORMS, EncodedModel, Trunk, check_at_least, check_choices, check_shares, linear_head
from platform.models.reading import laplacian
from platform.models.shape import ModelShape

BANDS_HZ = ((1.0, 4.0), (4.0, 8.0), (8.0, 10.5), (10.5, 13.0), (13.0, 20.0), (20.0, 30.0), (30.0, 45.0))
PEAKS_SECONDS = (4.0, 6.0, 8.0)
PIECE_SECONDS = 0.5
RESPONSE_SECONDS = 30.0
NUM_MONTAGES = 2
_FLOOR = 1e-6
_ROUNDING = 1e-6


class BandPowerFeatures(nn.Module):
    """EEG (B, channels, S) to lagged log band power (B, F): peaks x bands x channels of both montages."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        repetition_time_s = shape.samples_per_volume / shape.rate_hz
        pieces_per_volume = max(1, round(repetition_time_s / PIECE_SECONDS))
        piece_s = repetition_time_s / pieces_per_volume
        num_pieces = shape.num_volumes * pieces_per_volume
        samples = int(piece_s * shape.rate_hz + _ROUNDING)
        self.pieces_per_volume, self.samples_per_volume = pieces_per_volume, shape.samples_per_volume
        starts_N = (torch.arange(num_pieces, dtype=torch.float64) * piece_s * shape.rate_hz + _ROUNDING).long()
        length = 2 * max(samples, int(PIECE_SECONDS * shape.rate_hz))  # short pieces are padded
        hertz_H, bands_HW = _bands(length, shape.rate_hz)
        self.register_buffer("laplacian", laplacian(shape.num_channels, shape.channel_positions), persistent=False)
        self.register_buffer("samples_NS", starts_N[:, None] + torch.arange(samples), persistent=False)
        self.register_buffer("waves_SX", _tapered_waves(hertz_H / shape.rate_hz, samples), persistent=False)
        self.register_buffer("bands_HW", bands_HW, persistent=False)
        self.register_buffer("responses_PN", _responses_at_the_end(num_pieces, piece_s), persistent=False)
        self.laplacian: Tensor
        self.samples_NS: Tensor
        self.waves_SX: Tensor
        self.bands_HW: Tensor
        self.responses_PN: Tensor

    def forward(self, eeg_BCS: Tensor) -> Tensor:
        """Return the features of every window, (B, F)."""
        lagged_BPWC = torch.einsum("bcnw,pn->bpwc", self._log_power(eeg_BCS, self.samples_NS), self.responses_PN)
        return lagged_BPWC.flatten(1)

    def of_recording(self, eeg_CS: Tensor) -> Tensor:
        """Return the same features of every window of a whole recording, (B, F), each piece's power computed once."""
        within_NS = self.samples_NS[: self.pieces_per_volume]
        eeg_BCS = eeg_CS.unflatten(1, (-1, self.samples_per_volume)).transpose(0, 1)
        power_CNW = self._log_power(eeg_BCS, within_NS).transpose(0, 1).flatten(1, 2)
        windows_CBWN = power_CNW.unfold(1, len(self.samples_NS), self.pieces_per_volume)[:, :-1]
        return torch.einsum("cbwn,pn->bpwc", windows_CBWN, self.responses_PN).flatten(1)

    def _log_power(self, eeg_BCS: Tensor, samples_NS: Tensor) -> Tensor:
        eeg_BCS = torch.cat([eeg_BCS.float(), self.laplacian @ eeg_BCS.float()], dim=1)
        spectrum_BCNX = eeg_BCS[:, :, samples_NS] @ self.waves_SX
        power_BCNW = spectrum_BCNX.square().unflatten(3, (2, -1)).sum(dim=3) @ self.bands_HW
        return torch.log(power_BCNW + _FLOOR)


def num_features(shape: ModelShape) -> int:
    """Return how many features a window has."""
    return NUM_MONTAGES * len(PEAKS_SECONDS) * len(BANDS_HZ) * shape.num_channels


@dataclass(frozen=True, kw_only=True)
class BandPowerConfig:
    """What a trial may vary about the network on band power; without layers it is linear.

    Dropout works on the features and within the layers.
    """

    width: int = 128
    num_layers: int = 1
    norm: str = "batch"
    activation: str = "tanh"
    dropout: float = 0.7
    stochastic_depth: float = 0.0

    def __post_init__(self) -> None:
        check_choices(self, {"norm": NORMS, "activation": ACTIVATIONS})
        check_shares(self, "dropout", "stochastic_depth")
        check_at_least(self, width=1, num_layers=0)


class BandPower(EncodedModel):
    """Lagged log band power (B, F) to volumes within the mask (B, V), or to weights of the basis (B, K)."""

    def __init__(self, config: BandPowerConfig, shape: ModelShape) -> None:
        super().__init__()
        self.prepare = nn.Sequential(NORMS[config.norm](num_features(shape)), nn.Dropout(config.dropout))
        self.trunk: nn.Module = nn.Identity()
        if config.num_layers:
            self.trunk = Trunk(
                num_features(shape),
                config.width,
                config.num_layers,
                norm=config.norm,
                activation=config.activation,
                dropout=config.dropout,
                stochastic_depth=config.stochastic_depth,
            )
        self.head = linear_head(config.width if config.num_layers else num_features(shape), shape)

    def encode(self, inputs: Tensor) -> Tensor:
        """Return the trunk's output for features (B, F)."""
        encoded_BD: Tensor = self.trunk(self.prepare(inputs))
        return encoded_BD


def _bands(length: int, rate_hz: float) -> tuple[Tensor, Tensor]:
    """Return the frequencies within any band, (H,), and the matrix that takes the mean over each band, (H, W)."""
    hertz_H = torch.fft.rfftfreq(length, 1 / rate_hz, dtype=torch.float64)
    within_HW = torch.stack([(hertz_H >= low) & (hertz_H < high) for low, high in BANDS_HZ], dim=1)
    if not within_HW.any(dim=0).all():
        raise ValueError(f"band power up to {BANDS_HZ[-1][1]:g} Hz needs EEG of 90 Hz or more, but got {rate_hz:g} Hz")
    is_needed_H = within_HW.any(dim=1)
    bands_HW = within_HW[is_needed_H].float()
    return hertz_H[is_needed_H], bands_HW / bands_HW.sum(dim=0)


def _tapered_waves(cycles_per_sample_H: Tensor, samples: int) -> Tensor:
    """Return a cosine for every frequency, then a sine for each, whose squares sum to a periodogram, (S, X)."""
    phase_SH = 2 * math.pi * torch.arange(samples, dtype=torch.float64)[:, None] * cycles_per_sample_H
    taper_S = torch.hann_window(samples, periodic=False, dtype=torch.float64) / math.sqrt(samples)
    return (torch.cat([torch.cos(phase_SH), torch.sin(phase_SH)], dim=1) * taper_S[:, None]).float()


def _responses_at_the_end(num_pieces: int, piece_s: float) -> Tensor:
    """Return the weight of every piece of a window at the window's end, sum 1 for each response, (P, N)."""
    ago_s = torch.arange(num_pieces - 1, -1, -1, dtype=torch.float64) * piece_s
    log_gamma_PN = torch.stack([peak_s * torch.log(ago_s / peak_s) - ago_s for peak_s in PEAKS_SECONDS])
    response_PN = torch.exp(log_gamma_PN) * (ago_s < RESPONSE_SECONDS)
    return (response_PN / response_PN.sum(dim=1, keepdim=True)).float()
