"""What a trial may vary about the convolutional network, with the reasons for the ranges.

Refinement of the volume is not asked for: it needs predicted voxels, and every trial predicts a basis.
"""

from typing import Any

import optuna

from search_spaces.shared import ACTIVATION_NAMES, READING_DEFAULT, reading

DEFAULT: dict[str, Any] = {
    **READING_DEFAULT,
    "mixing": "shared",
    "channel_width": 16,
    "num_filters": 32,
    "kernel_seconds": 0.25,
    "num_convolutions": 1,
    "pooling": "log_power",
    "width": 128,
    "num_layers": 1,
    "norm": "layer",
    "activation": "tanh",
    "dropout": 0.6,
    "stochastic_depth": 0.0,
}
"""Parameters of a study's first trial."""


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Ask the trial for one convolutional network."""
    num_convolutions = trial.suggest_int("num_convolutions", 1, 3)
    num_layers = trial.suggest_int("num_layers", 0, 3)
    pooling = trial.suggest_categorical("pooling", ["log_power", "mean"])
    return {
        # A sine and a cosine for each of 8 or 16 bands.
        "num_filters": trial.suggest_categorical("num_filters", [16, 32]),
        # One cycle of alpha, theta or delta: a filter knows no rhythm slower than itself.
        "kernel_seconds": trial.suggest_categorical("kernel_seconds", [0.125, 0.25, 0.5]),
        "num_convolutions": num_convolutions,
        "pooling": pooling,
        **reading(trial, is_power=pooling == "log_power"),
        # From fewer than most ranks of the basis, a bottleneck, to twice the largest.
        "width": trial.suggest_categorical("width", [32, 64, 128, 256]),
        "num_layers": num_layers,
        "norm": trial.suggest_categorical("norm", ["layer", "batch", "group", "subject", "none"]),
        # Windows overlap by 28 of 30 s and subjects are few, so that much of it may be needed.
        "dropout": trial.suggest_float("dropout", 0.0, 0.8),
        **_mixing(trial),
        **_activation(trial, num_convolutions, num_layers, pooling),
        # Of so few layers a larger share is no longer the same network.
        **({"stochastic_depth": trial.suggest_float("stochastic_depth", 0.0, 0.3)} if num_layers else {}),
    }


def _mixing(trial: optuna.Trial) -> dict[str, Any]:
    mixing = trial.suggest_categorical("mixing", ["first", "shared"])
    if mixing == "first":
        # Up to as many as there are channels; fewer leave less to learn and are faster.
        return {"mixing": mixing, "num_mixtures": trial.suggest_categorical("num_mixtures", [8, 16, 32])}
    # Around the 21 numbers per channel that ridge regression reads: 7 bands x 3 responses.
    return {"mixing": mixing, "channel_width": trial.suggest_categorical("channel_width", [4, 8, 16, 32])}


def _activation(trial: optuna.Trial, num_convolutions: int, num_layers: int, pooling: str) -> dict[str, Any]:
    """Ask for an activation unless log power is the only thing that is not linear."""
    if num_convolutions == 1 and num_layers == 0 and pooling == "log_power":
        return {}
    return {"activation": trial.suggest_categorical("activation", ACTIVATION_NAMES)}
