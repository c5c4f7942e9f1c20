"""The choices of every architecture: what is predicted, and how the model is trained; with the reasons for the ranges.

No suggestion can be an illegal one: what only some choices have is asked where it has a meaning.
"""

from typing import Any

import optuna

ACTIVATION_NAMES = ["gelu", "relu", "leaky_relu", "elu", "selu", "silu", "mish", "softplus", "tanh"]

DEFAULT: dict[str, Any] = {
    "output_rank": 64,
    "loss": "mse",
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "warm_up_share": 0.0,
    "weight_decay": 1e-2,
    "batch_size": 32,
    "gradient_norm": 1.0,
    "weight_average": 0.0,
    "augmentation": "none",
    "order": "shuffled",
}
"""Parameters of a study's first trial."""

DESCENTS = ("sgd", "momentum", "nesterov")
"""Their steps are as long as the gradient: they want larger learning rates than those that scale it."""


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Ask the trial for the form of the output, the loss, the optimizer with its schedule, and the regularization."""
    return {
        # 64 components keep 95 % of the variance of volumes; fewer lose what is asked for, more add noise.
        "output_rank": trial.suggest_categorical("output_rank", [32, 64, 128]),
        "loss": trial.suggest_categorical(
            "loss", ["mse", "mae", "huber", "log_cosh", "weighted_mse", "cosine", "correlation", "mse_correlation"]
        ),
        "weight_decay": trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True),
        # Windows overlap by 28 of 30 s, so that larger batches hold little more than 64 windows do.
        "batch_size": trial.suggest_categorical("batch_size", [32, 64]),
        "gradient_norm": trial.suggest_categorical("gradient_norm", [0.3, 1.0, 3.0]),
        # An average over about 20 or 200 steps; an epoch has 20 to 400.
        "weight_average": trial.suggest_categorical("weight_average", [0.0, 0.95, 0.995]),
        "order": trial.suggest_categorical("order", ["shuffled", "subject_balanced"]),
        **_optimizer(trial),
        **_augmentation(trial),
    }


def _optimizer(trial: optuna.Trial) -> dict[str, Any]:
    names = ["adamw", "adam", "nadam", "radam", "rmsprop", "adagrad", "schedule_free", "muon", *DESCENTS]
    optimizer = trial.suggest_categorical("optimizer", names)
    if optimizer in DESCENTS:
        learning_rate = trial.suggest_float("learning_rate_of_descent", 1e-3, 1e-1, log=True)
    else:
        learning_rate = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
    return {"optimizer": optimizer, "learning_rate": learning_rate, **_schedule(trial, optimizer)}


def _schedule(trial: optuna.Trial, optimizer: str) -> dict[str, Any]:
    if optimizer == "schedule_free":  # its average of weights does what a schedule does for others
        return {"schedule": "constant", "warm_up_share": 0.1}
    names = ["cosine", "constant", "step", "exponential", "warm_restarts", "one_cycle", "plateau"]
    schedule = trial.suggest_categorical("schedule", names)
    if schedule == "one_cycle":  # warms up by itself
        return {"schedule": schedule, "warm_up_share": 0.0}
    return {"schedule": schedule, "warm_up_share": trial.suggest_categorical("warm_up_share", [0.0, 0.1])}


def _augmentation(trial: optuna.Trial) -> dict[str, Any]:
    names = [
        "none", "channel_dropout", "time_shift", "amplitude_scale", "noise", "phase_surrogate", "mixup", "mixup_within",
    ]  # fmt: skip
    augmentation = trial.suggest_categorical("augmentation", names)
    if augmentation == "none":
        return {"augmentation": augmentation}
    strength = trial.suggest_float("augmentation_strength", 0.05, 0.5)
    return {"augmentation": augmentation, "augmentation_strength": strength}
