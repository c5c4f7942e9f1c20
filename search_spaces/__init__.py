"""What a trial may vary: one ``suggest`` per architecture, with what every architecture shares.

Takes an Optuna trial; gives a flat configuration, the same key meaning the same thing in every architecture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optuna

from search_spaces import band_power, convolutional, fully_connected, shallow_convnet, shared, transformer


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """One architecture's choices.

    Attributes:
        suggest: asks a trial for one configuration.
        default: parameters of a study's first trial, so that no search ends below the architecture's own defaults.
        presets: configurations of the trials before that one, as they are.
        starts: parameters of the trials after that one, as an earlier study found them.
        source: digest of the text that defines it, where that is a user's own module; "" otherwise.
    """

    suggest: Callable[[optuna.Trial], dict[str, Any]]
    default: dict[str, Any]
    presets: tuple[dict[str, Any], ...] = ()
    starts: tuple[dict[str, Any], ...] = ()
    source: str = ""


def _with_shared(own: Callable[[optuna.Trial], dict[str, Any]], default: dict[str, Any]) -> SearchSpace:
    return SearchSpace(
        suggest=lambda trial: {**shared.suggest(trial), **own(trial)}, default={**shared.DEFAULT, **default}
    )


SEARCH_SPACES: dict[str, SearchSpace] = {
    "fully_connected": _with_shared(fully_connected.suggest, fully_connected.DEFAULT),
    "convolutional": _with_shared(convolutional.suggest, convolutional.DEFAULT),
    "transformer": _with_shared(transformer.suggest, transformer.DEFAULT),
    "band_power": _with_shared(band_power.suggest, band_power.DEFAULT),
    "shallow_convnet": _with_shared(shallow_convnet.suggest, shallow_convnet.DEFAULT),
}
