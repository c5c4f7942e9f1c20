"""What a trial may vary about the transformer; no suggestion can be an illegal one."""

from typing import Any

import optuna

DEFAULT: dict[str, Any] = {
    "num_heads": 4,
    "width_per_head": 16,
    "embedding": "log_power",
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "activation": "gelu",
    "dropout": 0.1,
}
"""Parameters of a study's first trial."""


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Ask the trial for one transformer."""
    num_heads = trial.suggest_categorical("num_heads", [2, 4])
    width_per_head = trial.suggest_categorical("width_per_head", [8, 16, 32])
    return {
        "embedding": trial.suggest_categorical("embedding", ["log_power", "linear"]),
        "num_heads": num_heads,
        "width": num_heads * width_per_head,
        "num_encoder_layers": trial.suggest_int("num_encoder_layers", 1, 2),
        "num_decoder_layers": trial.suggest_int("num_decoder_layers", 1, 2),
        "activation": trial.suggest_categorical("activation", ["gelu", "relu", "silu", "elu"]),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
    }
