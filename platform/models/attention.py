"""Attention layers of a transformer, with a choice of norms and stochastic depth; the norm stands before each branch.

Shapes: B windows, Q tokens that ask, T tokens that are asked, L slices, D width, H heads.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from platform.choices.activations import ACTIVATIONS
from platform.models.blocks import NORMS, StochasticDepth

KeysValues = tuple[Tensor, Tensor]
"""What tokens are asked by and what they answer, each (B, H, T, D / H)."""


class Attention(nn.Module):
    """Multi-head attention whose keys and values can be kept."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.to_queries = nn.Linear(width, width)
        self.to_keys_values = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        for linear in (self.to_queries, self.to_keys_values):
            nn.init.uniform_(linear.weight, -math.sqrt(1.5 / width), math.sqrt(1.5 / width))
            nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.out.bias)

    def keys_values(self, tokens_BTD: Tensor) -> KeysValues:
        """Return the keys and values of tokens."""
        keys, values = self.to_keys_values(tokens_BTD).chunk(2, dim=-1)
        return self._heads(keys), self._heads(values)

    def forward(self, tokens_BQD: Tensor, asked: KeysValues) -> Tensor:
        """Return what each token reads of those asked, (B, Q, D)."""
        queries_BHQd = self._heads(self.to_queries(tokens_BQD))
        read_BHQd = self._read(queries_BHQd, *asked)
        read_BQD: Tensor = self.out(read_BHQd.transpose(1, 2).flatten(2))
        return read_BQD

    def _read(self, queries_BHQd: Tensor, keys_BHTd: Tensor, values_BHTd: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        if not dropout or queries_BHQd.device.type != "cpu":
            return functional.scaled_dot_product_attention(queries_BHQd, keys_BHTd, values_BHTd, dropout_p=dropout)
        # On a CPU torch has no kernel of attention with dropout, and its way around takes twice as long as this.
        scaled_BHQd = queries_BHQd / math.sqrt(queries_BHQd.shape[-1])
        shares_BHQT = torch.softmax(scaled_BHQd @ keys_BHTd.transpose(-2, -1), dim=-1)
        read_BHQd: Tensor = functional.dropout(shares_BHQT, dropout) @ values_BHTd
        return read_BHQd

    def _heads(self, tokens_BTD: Tensor) -> Tensor:
        return tokens_BTD.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class FeedForward(nn.Sequential):
    """Each token by itself through one hidden layer."""

    def __init__(self, width: int, hidden: int, activation: str, dropout: float) -> None:
        super().__init__(
            nn.Linear(width, hidden), ACTIVATIONS[activation](), nn.Dropout(dropout), nn.Linear(hidden, width)
        )


class EncoderLayer(nn.Module):
    """Tokens that ask each other: (B, T, D) to the same."""

    def __init__(
        self, width: int, num_heads: int, hidden: int, *, norm: str, activation: str, dropout: float, depth: float
    ) -> None:
        super().__init__()
        self.attention = Attention(width, num_heads, dropout)
        self.feed_forward = FeedForward(width, hidden, activation, dropout)
        self.norms = nn.ModuleList(NORMS[norm](width) for _ in range(2))
        self.drop = nn.Sequential(nn.Dropout(dropout), StochasticDepth(depth))

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        """Return the tokens with what they read of each other."""
        normed_BTD = self.norms[0](tokens_BTD)
        tokens_BTD = tokens_BTD + self.drop(self.attention(normed_BTD, self.attention.keys_values(normed_BTD)))
        encoded: Tensor = tokens_BTD + self.drop(self.feed_forward(self.norms[1](tokens_BTD)))
        return encoded


class DecoderLayer(nn.Module):
    """Slices that ask each other, then the EEG's tokens."""

    def __init__(
        self, width: int, num_heads: int, hidden: int, *, norm: str, activation: str, dropout: float, depth: float
    ) -> None:
        super().__init__()
        self.among_slices = Attention(width, num_heads, dropout)
        self.of_eeg = Attention(width, num_heads, dropout)
        self.feed_forward = FeedForward(width, hidden, activation, dropout)
        self.norms = nn.ModuleList(NORMS[norm](width) for _ in range(3))
        self.drop = nn.Sequential(nn.Dropout(dropout), StochasticDepth(depth))

    def forward(
        self, slices_BLD: Tensor, eeg: KeysValues, earlier: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """Return the slices with what they read, and the keys and values of these slices and of those before them.

        ``earlier`` holds keys and values of slices that these may ask besides each other.
        """
        normed_BLD = self.norms[0](slices_BLD)
        asked = self.among_slices.keys_values(normed_BLD)
        if earlier is not None:
            asked = (torch.cat([earlier[0], asked[0]], dim=2), torch.cat([earlier[1], asked[1]], dim=2))
        slices_BLD = slices_BLD + self.drop(self.among_slices(normed_BLD, asked))
        slices_BLD = slices_BLD + self.drop(self.of_eeg(self.norms[1](slices_BLD), eeg))
        slices_BLD = slices_BLD + self.drop(self.feed_forward(self.norms[2](slices_BLD)))
        return slices_BLD, asked
