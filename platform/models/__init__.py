"""The architectures that a search may be started for: each a configuration and the model that it builds.

A model maps EEG windows (batch, channels, samples) to volumes within the mask (batch, voxels), or, where the shape
names a basis, to that basis's weights (batch, patterns), which ``Volumes`` turns into voxels.  A model whose
architecture has features maps those, (batch, features), in place of EEG; one whose reading is fixed takes either EEG or
the reading of it.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from platform.models.band_power import BandPower, BandPowerConfig, BandPowerFeatures
from platform.models.convolutional import Convolutional, ConvolutionalConfig
from platform.models.embedding import FixedReading, fixed_reading
from platform.models.fully_connected import FullyConnected, FullyConnectedConfig
from platform.models.shallow_convnet import ShallowConvNet, ShallowConvNetConfig, braindecode_models
from platform.models.shape import ModelShape
from platform.models.transformer import Transformer, TransformerConfig


def _all_learned(config: Any, shape: ModelShape) -> FixedReading | None:  # noqa: ANN401
    del config, shape
    return None


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A configuration class, and how to build a model of it for a shape of data.

    Attributes:
        config: the class of its configurations.
        build: from a configuration and a shape to a model.
        features: from a shape to a module without parameters, from EEG (B, C, S) to what the model takes, (B, F), so
            that it can be computed once per run; None where the model takes EEG.
        reading: from a configuration and a shape to what its models read of EEG whatever they learn, so that it can be
            computed once per run, too; gives None where all of their reading is learned.
    """

    config: type[Any]
    build: Callable[[Any, ModelShape], nn.Module]
    features: Callable[[ModelShape], nn.Module] | None = None
    reading: Callable[[Any, ModelShape], FixedReading | None] = _all_learned


def _adapters() -> dict[str, Architecture]:
    """Return the architectures of libraries that are optional, as far as they are installed."""
    if importlib.util.find_spec("braindecode") is None:
        return {}
    return {"shallow_convnet": Architecture(config=ShallowConvNetConfig, build=ShallowConvNet)}


ADAPTERS: dict[str, Callable[[], Any]] = {"shallow_convnet": braindecode_models}
"""Architectures that need an optional library: what imports it, or raises an ImportError that says why not."""

ARCHITECTURES: dict[str, Architecture] = {
    "fully_connected": Architecture(config=FullyConnectedConfig, build=FullyConnected, reading=fixed_reading),
    "convolutional": Architecture(config=ConvolutionalConfig, build=Convolutional),
    "transformer": Architecture(config=TransformerConfig, build=Transformer, reading=fixed_reading),
    "band_power": Architecture(config=BandPowerConfig, build=BandPower, features=BandPowerFeatures),
    **_adapters(),
}


class Volumes(nn.Module):
    """A trained model from EEG, (B, C, S), to voxels, (B, V), whatever it takes and gives itself."""

    def __init__(self, model: nn.Module, basis_KV: Tensor | None, features: nn.Module | None = None) -> None:
        super().__init__()
        self.features = features
        self.model = model
        self.register_buffer("basis_KV", basis_KV)
        self.basis_KV: Tensor | None

    def forward(self, eeg_BCS: Tensor) -> Tensor:
        """Return volumes within the mask, (B, V)."""
        predicted: Tensor = self.model(eeg_BCS if self.features is None else self.features(eeg_BCS))
        return predicted if self.basis_KV is None else predicted @ self.basis_KV
