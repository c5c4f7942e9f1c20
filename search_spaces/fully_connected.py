"""What a trial may vary about the fully connected network, with the reasons for the ranges."""

from typing import Any

import optuna

from search_spaces.shared import ACTIVATION_NAMES, READING_DEFAULT, learned_reading, reading

DEFAULT: dict[str, Any] = {
    **READING_DEFAULT,
    "learned_reading": False,
    "embedding": "log_power",
    "embedding_width": 16,
    "width": 128,
    "num_layers": 1,
    "norm": "batch",
    "activation": "tanh",
    "dropout": 0.7,
    "stochastic_depth": 0.0,
}
"""Parameters of a study's first trial."""


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Ask the trial for one fully connected network."""
    num_layers = trial.suggest_int("num_layers", 0, 4)
    embedding = trial.suggest_categorical("embedding", ["log_power", "linear"])
    return {
        "embedding": embedding,
        **reading(trial, is_power=embedding == "log_power"),
        **(learned_reading(trial) if embedding == "log_power" else {"learned_reading": True}),
        # Around the 21 numbers per channel that ridge regression reads: 7 bands x 3 responses.
        "embedding_width": trial.suggest_categorical("embedding_width", [4, 8, 16, 32]),
        # From fewer than most ranks of the basis, a bottleneck, to twice the largest.
        "width": trial.suggest_categorical("width", [32, 64, 128, 256]),
        "num_layers": num_layers,
        "norm": trial.suggest_categorical("norm", ["layer", "batch", "group", "subject", "none"]),
        # Windows overlap by 28 of 30 s and subjects are few, so that much of it may be needed.
        "dropout": trial.suggest_float("dropout", 0.0, 0.8),
        **_of_layers(trial, num_layers),
    }


def _of_layers(trial: optuna.Trial, num_layers: int) -> dict[str, Any]:
    """Ask for what only residual layers have."""
    if num_layers == 0:
        return {}
    return {
        "activation": trial.suggest_categorical("activation", ACTIVATION_NAMES),
        # Of so few layers a larger share is no longer the same network.
        "stochastic_depth": trial.suggest_float("stochastic_depth", 0.0, 0.3),
    }
