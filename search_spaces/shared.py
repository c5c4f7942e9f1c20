"""The choices of every architecture: how the EEG is read, what is predicted, and how the model is trained."""

from typing import Any

import optuna

DEFAULT: dict[str, Any] = {
    "output_rank": 64,
    "loss": "mse",
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "weight_decay": 1e-2,
    "batch_size": 32,
}
"""Parameters of a study's first trial."""


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Ask the trial for the optimizer, its schedule, the loss, the regularization and the form of the output."""
    return {
        "output_rank": trial.suggest_categorical("output_rank", [32, 64, 128]),
        "loss": trial.suggest_categorical("loss", ["mse", "mae", "huber"]),
        "optimizer": trial.suggest_categorical("optimizer", ["adamw", "adam", "nesterov"]),
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        "schedule": trial.suggest_categorical("schedule", ["constant", "cosine", "warm_up_cosine"]),
        "weight_decay": trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True),
        "batch_size": trial.suggest_categorical("batch_size", [32, 64]),
    }
