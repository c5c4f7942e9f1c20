"""The choices of every architecture: what is predicted, and how the model is trained; with the reasons for the ranges.

No suggestion can be an illegal one: what only some choices have is asked where it has a meaning.
"""

from typing import Any

import optuna

ACTIVATION_NAMES = ["gelu", "relu", "leaky_relu", "elu", "selu", "silu", "mish", "softplus", "tanh"]

DEFAULT: dict[str, Any] = {
    "output": "responsive",
    "output_rank": 32,
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
    "alignment": "none",
    "subject_layers": False,
    "reach": "none",
}
"""Parameters of a study's first trial."""

DESCENTS = ("sgd", "momentum", "nesterov")
"""Their steps are as long as the gradient: they want larger learning rates than those that scale it."""


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Ask the trial for the form of the output, the loss, the optimizer with its schedule, and the regularization."""
    return {
        # Of the voxels' own variance 64 components keep 95 %; of what EEG predicts, 8 patterns keep all.
        "output": trial.suggest_categorical("output", ["responsive", "reduced_rank", "variance", "parcels"]),
        "output_rank": trial.suggest_categorical("output_rank", [8, 16, 32, 64, 128]),
        "loss": trial.suggest_categorical(
            "loss", ["mse", "mae", "huber", "log_cosh", "weighted_mse", "cosine", "correlation", "mse_correlation"]
        ),
        "weight_decay": trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True),
        # Windows overlap by 28 of 30 s, so that larger batches hold little more than 64 windows do.
        "batch_size": trial.suggest_categorical("batch_size", [32, 64]),
        "gradient_norm": trial.suggest_categorical("gradient_norm", [0.3, 1.0, 3.0]),
        # An average over about 20 or 200 steps; an epoch has 20 to 400.
        "weight_average": trial.suggest_categorical("weight_average", [0.0, 0.95, 0.995]),
        **_optimizer(trial),
        **_augmentation(trial),
        **_across_subjects(trial),
    }


READING_DEFAULT: dict[str, Any] = {
    "montage": "laplacian",
    "lags": "haemodynamic",
    "level": "recording",
}
"""Parameters of a study's first trial, of architectures that read EEG."""


def reading(trial: optuna.Trial, *, is_power: bool) -> dict[str, Any]:
    """Ask an architecture that reads EEG for what comes before and after; after it only where it reads powers."""
    asked = {"montage": trial.suggest_categorical("montage", ["laplacian", "recorded"])}
    if not is_power:
        return asked
    return {
        **asked,
        # The response of the blood is known, up to its peak: to learn 15 weights of each feature costs data.
        "lags": trial.suggest_categorical("lags", ["haemodynamic", "free"]),
        # What is common to a recording tells subjects apart, not volumes; but the window alone needs no recording.
        "level": trial.suggest_categorical("level", ["training", "recording", "window"]),
    }


def learned_reading(trial: optuna.Trial) -> dict[str, Any]:
    """Ask whether what reads EEG is learned: with few subjects, what it starts as does as well."""
    return {"learned_reading": trial.suggest_categorical("learned_reading", [False, True])}


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


def _across_subjects(trial: optuna.Trial) -> dict[str, Any]:
    """Ask for what is done to reach a subject that no training window is of."""
    # Of the methods that cost most or change the loss only one at a time: together they say little of either.
    reach = trial.suggest_categorical("reach", ["none", "adversary", "coral", "ensemble"])
    asked = {
        "alignment": trial.suggest_categorical("alignment", ["none", "euclidean", "riemannian", "monge"]),
        "subject_layers": trial.suggest_categorical("subject_layers", [False, True]),
    }
    if reach == "coral":
        # The distance is over 4 D squared: below 0.1 it is lost beside a loss of about 1.  Covariances need windows.
        weight = trial.suggest_float("coral_weight", 0.1, 100.0, log=True)
        return {**asked, "order": "subject_pieces", "coral_weight": weight}
    asked["order"] = trial.suggest_categorical("order", ["shuffled", "subject_balanced", "subject_pieces"])
    if reach == "adversary":
        # From 0.3 on, what a model hides of the subject has cost it more than it gave.
        return {**asked, "adversary_weight": trial.suggest_float("adversary_weight", 0.003, 0.3, log=True)}
    if reach == "ensemble":
        # Each member learns from 2/3, 3/4 or 4/5 of the subjects; a step takes up to four times as long.
        return {**asked, "num_members": trial.suggest_categorical("num_members", [3, 4, 5])}
    return asked
