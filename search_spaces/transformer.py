"""What a trial may vary about the transformer, with the reasons for the ranges; no suggestion can be an illegal one."""

from typing import Any

import optuna

from search_spaces.shared import ACTIVATION_NAMES, READING_DEFAULT, learned_reading, reading

DEFAULT: dict[str, Any] = {
    **READING_DEFAULT,
    "learned_reading": False,
    "embedding": "log_power",
    "tokens": "channels",
    "encoding": "learned",
    "num_heads": 4,
    "width_per_head": 16,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "decoding": "parallel",
    "norm": "layer",
    "activation": "gelu",
    "dropout": 0.1,
    "stochastic_depth": 0.0,
}
"""Parameters of a study's first trial."""


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Ask the trial for one transformer."""
    # Widths from 16 to 128: subjects are few, and a step already takes 0.1 s at 64.
    num_heads = trial.suggest_categorical("num_heads", [2, 4])
    width_per_head = trial.suggest_categorical("width_per_head", [8, 16, 32])
    embedding = trial.suggest_categorical("embedding", ["log_power", "linear"])
    return {
        "embedding": embedding,
        **reading(trial, is_power=embedding == "log_power"),
        **(learned_reading(trial) if embedding == "log_power" else {"learned_reading": True}),
        "num_heads": num_heads,
        "width": num_heads * width_per_head,
        # Each layer makes a step longer, and subjects are few to teach a deep stack.
        "num_encoder_layers": trial.suggest_int("num_encoder_layers", 1, 2),
        "num_decoder_layers": trial.suggest_int("num_decoder_layers", 1, 2),
        # One slice after the other takes two to four times as long as all at once.
        "decoding": trial.suggest_categorical("decoding", ["parallel", "autoregressive"]),
        # Not "none": without a norm attention is easily saturated at these learning rates.
        "norm": trial.suggest_categorical("norm", ["layer", "group"]),
        "activation": trial.suggest_categorical("activation", ACTIVATION_NAMES),
        # Beyond a half, too little is left of so narrow a token.
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
        # Of so few layers a larger share is no longer the same network.
        "stochastic_depth": trial.suggest_float("stochastic_depth", 0.0, 0.3),
        **_tokens(trial),
    }


def _tokens(trial: optuna.Trial) -> dict[str, Any]:
    """Ask for electrode positions only where there are tokens of channels: a time has none."""
    tokens = trial.suggest_categorical("tokens", ["channels", "patches", "both"])
    if tokens == "patches":
        return {"tokens": tokens, "encoding": trial.suggest_categorical("encoding_of_times", ["learned", "sinusoidal"])}
    encoding = trial.suggest_categorical("encoding", ["learned", "sinusoidal", "electrode"])
    return {"tokens": tokens, "encoding": encoding}
