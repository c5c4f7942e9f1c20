"""What a trial may vary about braindecode's shallow convolutional network, with the reasons for the ranges."""

from typing import Any

import optuna

DEFAULT: dict[str, Any] = {
    "num_filters": 40,
    "filter_seconds": 0.2,
    "pool_seconds": 2.0,
    "width": 128,
    "dropout": 0.5,
}
"""Parameters of a study's first trial."""


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Ask the trial for one shallow convolutional network."""
    return {
        # 40 is what was published; a third more or half as many are still the same network.
        "num_filters": trial.suggest_categorical("num_filters", [20, 40, 60]),
        # One cycle of alpha, of theta, or of what lies between theta and delta.
        "filter_seconds": trial.suggest_categorical("filter_seconds", [0.1, 0.2, 0.4]),
        # From one volume's time to three: BOLD follows no faster.
        "pool_seconds": trial.suggest_categorical("pool_seconds", [2.0, 4.0, 6.0]),
        # From fewer than most ranks of the basis, a bottleneck, to twice the largest.
        "width": trial.suggest_categorical("width", [32, 64, 128, 256]),
        # Windows overlap by 28 of 30 s and subjects are few, so that much of it may be needed.
        "dropout": trial.suggest_float("dropout", 0.0, 0.7),
    }
