"""What a trial may vary about the network on band power, with the reasons for the ranges."""

from typing import Any

import optuna

from search_spaces.shared import ACTIVATION_NAMES

DEFAULT: dict[str, Any] = {
    "num_layers": 1,
    "width": 128,
    "norm": "batch",
    "activation": "tanh",
    "dropout": 0.7,
    "stochastic_depth": 0.0,
}
"""Parameters of a study's first trial."""


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Ask the trial for one network on band power; without layers it is linear, as ridge regression is."""
    num_layers = trial.suggest_int("num_layers", 0, 3)
    return {
        "num_layers": num_layers,
        # Not "none": the level of log power is many times what it varies by.
        "norm": trial.suggest_categorical("norm", ["batch", "layer", "group", "subject"]),
        # 34 channels x 42 features tell much the same: most may be dropped.
        "dropout": trial.suggest_float("dropout", 0.0, 0.8),
        **_of_layers(trial, num_layers),
    }


def _of_layers(trial: optuna.Trial, num_layers: int) -> dict[str, Any]:
    """Ask for what only layers have."""
    if num_layers == 0:
        return {}
    return {
        # From fewer than most ranks of the basis, a bottleneck, to twice the largest.
        "width": trial.suggest_categorical("width", [32, 64, 128, 256]),
        "activation": trial.suggest_categorical("activation", ACTIVATION_NAMES),
        # Of so few layers a larger share is no longer the same network.
        "stochastic_depth": trial.suggest_float("stochastic_depth", 0.0, 0.3),
    }
