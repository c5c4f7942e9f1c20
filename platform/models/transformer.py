"""A transformer from EEG tokens to fMRI slices.

A token holds one channel's whole window, or one lag of all channels, or there are tokens of both kinds;
learned queries, one per sagittal slice, read the encoded tokens; each slice becomes its voxels, or all slices together
the weights of a low-rank basis.

Slices are decoded in parallel, or one after the other, each from the model's own slices before it.  Published decoders
of the second kind train on the true slices before it and are scored with them too, which tells them the answer.  Here
training and scoring are the same: no true volume is ever an input.

Legend of shapes: B windows, C channels, S samples, J lags that are read of a window, F features of a channel at a lag,
T tokens, D width, L sagittal slices, K basis patterns, V voxels in the mask.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from platform.choices.activations import ACTIVATIONS
from platform.models.attention import DecoderLayer, EncoderLayer, KeysValues
from platform.models.blocks import NORMS, EncodedModel, check_at_least, check_choices, check_shares, small
from platform.models.embedding import READING_CHOICES, ChannelTokens, PatchTokens, ReadingConfig, read_eeg
from platform.models.encoding import ENCODINGS, TIME_ENCODINGS
from platform.models.reading import Reading
from platform.models.shape import ModelShape

TOKENS = {"channels": ("channels",), "patches": ("patches",), "both": ("channels", "patches")}
"""What a token is about: a channel's whole window, one lag of all channels (a patch), or some of each."""

TOKEN_NORMS = [name for name in NORMS if name not in ("batch", "subject")]
"""Not batch, not subject: a decoder that sees one slice at a time would norm each by others than while scoring."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(ReadingConfig):
    """What a trial may vary about the transformer."""

    tokens: str = "channels"
    encoding: str = "learned"
    width: int = 64
    num_heads: int = 4
    num_encoder_layers: int = 1
    num_decoder_layers: int = 1
    decoding: str = "parallel"
    feedforward_ratio: int = 2
    norm: str = "layer"
    activation: str = "gelu"
    dropout: float = 0.1
    stochastic_depth: float = 0.0

    def __post_init__(self) -> None:
        if self.num_heads < 1 or self.width < 1 or self.width % self.num_heads:
            raise ValueError(f"width must be a multiple of num_heads, but got {self.width} and {self.num_heads}")
        check_choices(
            self,
            {
                **READING_CHOICES,
                "tokens": TOKENS,
                "encoding": ENCODINGS,
                "decoding": DECODINGS,
                "norm": TOKEN_NORMS,
                "activation": ACTIVATIONS,
            },
        )
        check_shares(self, "dropout", "stochastic_depth")
        check_at_least(self, num_encoder_layers=0, num_decoder_layers=1, feedforward_ratio=1)


class Transformer(EncodedModel):
    """EEG (B, C, S) to volumes within the mask (B, V)."""

    def __init__(self, config: TransformerConfig, shape: ModelShape) -> None:
        super().__init__()
        self.read = read_eeg(config, shape)
        self.tokens = nn.ModuleList(EncodedTokens(about, config, shape, self.read) for about in TOKENS[config.tokens])
        self.encoder = nn.Sequential(*(EncoderLayer(**_layer(config)) for _ in range(config.num_encoder_layers)))
        self.decoder: ParallelDecoder | AutoregressiveDecoder = DECODINGS[config.decoding](config, shape.grid_shape[0])
        self.head = VoxelHead(config.width, shape) if shape.basis is None else LowRankHead(config.width, shape)

    def encode(self, inputs: Tensor) -> Tensor:
        """Return the decoded slices, (B, L, D), for EEG (B, C, S), or for a reading of it (B, C, J, F)."""
        read_BCJF = self.read(inputs)
        tokens_BTD = self.encoder(torch.cat([tokens(read_BCJF) for tokens in self.tokens], dim=1))
        slices_BLD: Tensor = self.decoder(tokens_BTD)
        return slices_BLD


class EncodedTokens(nn.Module):
    """Tokens about channels or about patches, with the encoding of which is which: (B, C, J, F) to (B, T, D)."""

    def __init__(self, about: str, config: TransformerConfig, shape: ModelShape, reading: Reading) -> None:
        super().__init__()
        of_channels = about == "channels"
        tokens = ChannelTokens if of_channels else PatchTokens
        encoding = (ENCODINGS if of_channels else TIME_ENCODINGS)[config.encoding]
        self.tokens = tokens(reading, shape, config.width)
        self.encoding = encoding(self.tokens.num_tokens, config.width, shape.channel_positions)

    def forward(self, read_BCJF: Tensor) -> Tensor:
        """Return the encoded tokens, (B, T, D)."""
        encoded_BTD: Tensor = self.tokens(read_BCJF) + self.encoding()
        return encoded_BTD


class Decoder(nn.Module):
    """What every order of decoding has: a query per slice, layers, and a norm of what is decoded."""

    def __init__(self, config: TransformerConfig, num_slices: int) -> None:
        super().__init__()
        self.slice_queries = nn.Parameter(0.02 * torch.randn(num_slices, config.width))
        self.layers = nn.ModuleList(DecoderLayer(**_layer(config)) for _ in range(config.num_decoder_layers))
        self.norm = NORMS[config.norm](config.width)

    def layers_and_eeg(self, tokens_BTD: Tensor) -> list[tuple[DecoderLayer, KeysValues]]:
        """Return every layer with what it may ask of the EEG's tokens."""
        layers = [layer for layer in self.layers if isinstance(layer, DecoderLayer)]
        return [(layer, layer.of_eeg.keys_values(tokens_BTD)) for layer in layers]


class ParallelDecoder(Decoder):
    """All slices at once, each free to ask all others: (B, T, D) to (B, L, D)."""

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        """Return one token per slice, (B, L, D)."""
        slices_BLD = self.slice_queries.expand(tokens_BTD.shape[0], -1, -1)
        for layer, eeg in self.layers_and_eeg(tokens_BTD):
            slices_BLD, _ = layer(slices_BLD, eeg)
        decoded: Tensor = self.norm(slices_BLD)
        return decoded


class AutoregressiveDecoder(Decoder):
    """Slices in order, each from its query and the slice before it, free to ask all before it: (B, T, D) to (B, L, D).

    What it is given of the slice before it is the token that this slice's voxels are predicted from.
    """

    def __init__(self, config: TransformerConfig, num_slices: int) -> None:
        super().__init__(config, num_slices)
        self.from_previous = nn.Linear(config.width, config.width)

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        """Return one token per slice, (B, L, D)."""
        layers = self.layers_and_eeg(tokens_BTD)
        earlier: list[KeysValues | None] = [None] * len(layers)
        decoded: list[Tensor] = []
        for query_D in self.slice_queries:
            slice_B1D = query_D.expand(tokens_BTD.shape[0], 1, -1)
            if decoded:
                slice_B1D = slice_B1D + self.from_previous(decoded[-1])
            for number, (layer, eeg) in enumerate(layers):
                slice_B1D, earlier[number] = layer(slice_B1D, eeg, earlier[number])
            decoded.append(self.norm(slice_B1D))
        return torch.cat(decoded, dim=1)


DECODINGS: dict[str, type[ParallelDecoder] | type[AutoregressiveDecoder]] = {
    "parallel": ParallelDecoder,
    "autoregressive": AutoregressiveDecoder,
}
"""In which order slices are decoded."""


class VoxelHead(nn.Module):
    """Each slice's token to the voxels of that slice that lie in the mask."""

    def __init__(self, width: int, shape: ModelShape) -> None:
        super().__init__()
        _, rows, columns = shape.grid_shape
        self.to_slice = small(nn.Linear(width, rows * columns))
        x, y, z = shape.voxel_indices.unbind(1)
        self.register_buffer("voxels", (x * rows + y) * columns + z)
        self.voxels: Tensor

    def forward(self, slices_BLD: Tensor) -> Tensor:
        """Return the voxels in the mask, (B, V)."""
        grid: Tensor = self.to_slice(slices_BLD).flatten(1)
        return grid[:, self.voxels]


class LowRankHead(nn.Module):
    """All slices' tokens to the weights of the basis patterns."""

    def __init__(self, width: int, shape: ModelShape) -> None:
        super().__init__()
        if shape.basis is None:
            raise ValueError("a low-rank head needs a basis")
        self.to_basis = small(nn.Linear(shape.grid_shape[0] * width, len(shape.basis)))

    def forward(self, slices_BLD: Tensor) -> Tensor:
        """Return the weights of the basis, (B, K)."""
        weights_BK: Tensor = self.to_basis(slices_BLD.flatten(1))
        return weights_BK


def _layer(config: TransformerConfig) -> dict[str, Any]:
    return {
        "width": config.width,
        "num_heads": config.num_heads,
        "hidden": config.width * config.feedforward_ratio,
        "norm": config.norm,
        "activation": config.activation,
        "dropout": config.dropout,
        "depth": config.stochastic_depth,
    }
