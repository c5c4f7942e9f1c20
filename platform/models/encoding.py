"""Encodings that tell a transformer which channel, or which time, a token is about.

Shapes: T tokens, D width.
"""

import math

import torch
from torch import Tensor, nn

HEAD_RADIUS_M = 0.1
LONGEST_WAVE = 10_000.0
_SMALL = 0.02


class LearnedEncoding(nn.Module):
    """One learned vector per token."""

    def __init__(self, num_tokens: int, width: int, positions_T3: Tensor | None) -> None:
        super().__init__()
        del positions_T3
        self.vectors_TD = nn.Parameter(_SMALL * torch.randn(num_tokens, width))

    def forward(self) -> Tensor:
        """Return the encoding, (T, D)."""
        return self.vectors_TD


class SinusoidalEncoding(nn.Module):
    """Sines and cosines of the token's number (Vaswani et al. 2017)."""

    def __init__(self, num_tokens: int, width: int, positions_T3: Tensor | None) -> None:
        super().__init__()
        del positions_T3
        self.register_buffer("vectors_TD", _sinusoids(num_tokens, width))
        self.vectors_TD: Tensor

    def forward(self) -> Tensor:
        """Return the encoding, (T, D)."""
        return self.vectors_TD


class LearnedTimeEncoding(LearnedEncoding):
    """One learned vector per time, which starts as the sinusoidal one.

    Times must be told apart from the first step on, since responses follow EEG by seconds: from small random vectors
    the same models learned a third as much.
    """

    def __init__(self, num_tokens: int, width: int, positions_T3: Tensor | None) -> None:
        super().__init__(num_tokens, width, positions_T3)
        self.vectors_TD = nn.Parameter(self.vectors_TD.detach() + _sinusoids(num_tokens, width))


class ElectrodeEncoding(nn.Module):
    """A small network of where the electrode is: neighbours begin alike, whatever the montage."""

    def __init__(self, num_tokens: int, width: int, positions_T3: Tensor | None) -> None:
        super().__init__()
        if positions_T3 is None or len(positions_T3) != num_tokens:
            raise ValueError(
                "the electrode encoding needs the position of every channel; choose encoding learned or sinusoidal"
            )
        self.register_buffer("positions_T3", positions_T3 / HEAD_RADIUS_M)
        self.positions_T3: Tensor
        self.place = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, width))

    def forward(self) -> Tensor:
        """Return the encoding, (T, D)."""
        encoding_TD: Tensor = self.place(self.positions_T3)
        return encoding_TD


ENCODINGS: dict[str, type[LearnedEncoding] | type[SinusoidalEncoding] | type[ElectrodeEncoding]] = {
    "learned": LearnedEncoding,
    "sinusoidal": SinusoidalEncoding,
    "electrode": ElectrodeEncoding,
}
"""How tokens of channels are told apart."""

TIME_ENCODINGS = {**ENCODINGS, "learned": LearnedTimeEncoding, "electrode": SinusoidalEncoding}
"""How tokens of times are told apart: a time has no electrode, its number stands for it."""


def _sinusoids(num_tokens: int, width: int) -> Tensor:
    frequency_D = torch.exp(-math.log(LONGEST_WAVE) * torch.arange(0, width, 2) / width)
    angle_TD = torch.arange(num_tokens)[:, None] * frequency_D
    return torch.stack([torch.sin(angle_TD), torch.cos(angle_TD)], dim=2).flatten(1)[:, :width]
