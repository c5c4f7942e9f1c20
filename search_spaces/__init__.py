"""What a trial may vary: one ``suggest`` per architecture, with what every architecture shares.

Takes an Optuna trial; gives a flat configuration, the same key meaning the same thing in every architecture.
"""

from collections.abc import Callable
from typing import Any

import optuna

from search_spaces import shared, transformer

SEARCH_SPACES: dict[str, Callable[[optuna.Trial], dict[str, Any]]] = {"transformer": transformer.suggest}


def suggest(architecture: str, trial: optuna.Trial) -> dict[str, Any]:
    """Ask the trial for one configuration of an architecture."""
    return {**shared.suggest(trial), **SEARCH_SPACES[architecture](trial)}
