"""What samplers are shown of the trials told so far: one comparable score each, raced out or not.

Takes Optuna's told and running trials with their fold scores; gives trials that any sampler learns from.

Subjects differ far more than configurations, and racing lets trials run on different folds.  So a trial's score is
estimated by the model score = trial + fold + noise: the fold's effect is taken off, and the fewer folds a trial ran on
the closer its estimate is drawn to the mean of all trials (the best linear unbiased prediction of a random effect).
Optuna's own reading of raced-out trials is not used: TPE puts each of 4 folds behind every one of 8 whatever their
scores, GP, CMA-ES and NSGA-II see none at all, and no sampler learns from a trial that failed.
"""

import copy
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

COST = "cost"
"""System attribute of a seen trial: mean seconds of a fold job, to the nearest power of two; as its exponent."""
_FOLD = re.compile(r"fold/(\d{4})")
_NUM_BEST, _NUM_LATEST = 48, 48
"""Told trials that GP is shown."""
_LEAST_SHARE = 0.1
"""Of the variance between trials, what is at least taken for real: below it all estimates would be the same."""


class SeenTrial(FrozenTrial):
    """A trial made for one proposal alone, which storages in memory need not copy to the ground."""

    def __deepcopy__(self, _: dict[int, Any]) -> "SeenTrial":
        return copy.copy(self)


def as_seen_by(sampler: str, history: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the history as a sampler is shown it, of the same length and order.

    A told trial is COMPLETE with its estimate; one that failed is below the worst estimate by one standard deviation,
    so that its surroundings are left; a fixed configuration without parameters is FAIL, which samplers pass over.
    Running trials stay so.  Samplers that learn nothing are shown nothing; GP, whose time grows with the cube of their
    number, the best and the latest.
    """
    if sampler in ("random", "qmc"):
        return []
    found = estimates([fold_scores(trial) for trial in history])
    values = [_value(trial, estimate) for trial, estimate in zip(history, found, strict=True)]
    worst = _below([value for value in values if value is not None])
    seen = [_seen(trial, value, worst) for trial, value in zip(history, values, strict=True)]
    return _fewer(seen) if sampler == "gp" else seen


def fold_scores(trial: FrozenTrial) -> dict[int, float]:
    """Return a told trial's score of every fold that was scored; none of a trial that runs or failed."""
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        return {}
    return {fold: record["score"] for fold, record in _records(trial) if record.get("score") is not None}


def estimates(scores: Sequence[Mapping[int, float]]) -> NDArray[np.float64]:
    """Return each trial's estimated mean over all folds; nan where it has no scores.

    Args:
        scores: each trial's score by fold.
    """
    folds = sorted({fold for of_trial in scores for fold in of_trial})
    rows = [[of_trial.get(fold, math.nan) for fold in folds] for of_trial in scores]
    table_TF = np.array(rows).reshape(len(scores), len(folds))
    is_scored_TF = np.isfinite(table_TF)
    counts_T = is_scored_TF.sum(axis=1)
    found_T = np.full(len(scores), math.nan)
    rows_T = counts_T > 0
    if rows_T.any():
        found_T[rows_T] = _predicted(np.where(is_scored_TF, table_TF, 0.0)[rows_T], is_scored_TF[rows_T])
    return found_T


def _predicted(table_TF: NDArray[np.float64], is_scored_TF: NDArray[np.bool_]) -> NDArray[np.float64]:
    counts_T = is_scored_TF.sum(axis=1)
    effects_F = _fold_effects(table_TF, is_scored_TF)
    means_T = ((table_TF - effects_F) * is_scored_TF).sum(axis=1) / counts_T
    residuals_TF = (table_TF - effects_F - means_T[:, None]) * is_scored_TF
    freedom = int(is_scored_TF.sum()) - len(counts_T) - table_TF.shape[1] + 1
    noise = float((residuals_TF**2).sum()) / freedom if freedom > 0 else 0.0
    spread = float(means_T.var())
    if spread == 0:
        return means_T
    between = max(spread - noise * float((1 / counts_T).mean()), _LEAST_SHARE * spread)
    return means_T.mean() + between / (between + noise / counts_T) * (means_T - means_T.mean())


def _fold_effects(table_TF: NDArray[np.float64], is_scored_TF: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the least-squares effect of every fold, trials' own effects eliminated; the effects sum to 0."""
    weights_TF = is_scored_TF / is_scored_TF.sum(axis=1, keepdims=True)
    normal_FF = np.diag(is_scored_TF.sum(axis=0).astype(float)) - is_scored_TF.T @ weights_TF
    centred_TF = (table_TF - (weights_TF * table_TF).sum(axis=1, keepdims=True)) * is_scored_TF
    return np.linalg.lstsq(normal_FF, centred_TF.sum(axis=0), rcond=1e-9)[0]


def _value(trial: FrozenTrial, estimate: float) -> float | None:
    """Return what a told trial is worth: its estimate, or without fold scores the last value that was told."""
    if math.isfinite(estimate):
        return float(estimate)
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        return None
    last = max(trial.intermediate_values.items(), default=(0, math.nan))[1]
    value = last if trial.value is None else trial.value
    return value if math.isfinite(value) else None


def _below(values: Sequence[float]) -> float | None:
    """Return what failed trials are worth; None where no trial has a score, and nothing can be called worse."""
    return min(values) - (float(np.std(values)) or 1.0) if values else None


def _fewer(seen: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the same trials, all told ones but the best and the latest as FAIL."""
    told = [trial for trial in seen if trial.state == TrialState.COMPLETE]
    best = sorted(told, key=lambda trial: (-(trial.value or 0.0), trial.number))[:_NUM_BEST]
    kept = {trial.number for trial in [*best, *told[-_NUM_LATEST:]]}
    return [trial if trial.number in kept or not trial.state.is_finished() else _passed_over(trial) for trial in seen]


def _passed_over(trial: FrozenTrial) -> FrozenTrial:
    found = copy.copy(trial)
    found.state, found.value = TrialState.FAIL, None
    return found


def _seen(trial: FrozenTrial, value: float | None, worst: float | None) -> FrozenTrial:
    is_told = trial.state.is_finished()
    no_time = datetime(2000, 1, 1)  # noqa: DTZ001 - Optuna's own convention: naive; nothing reads it
    if is_told and value is None:
        value = worst
    is_shown = is_told and value is not None and bool(trial.params)
    state = TrialState.COMPLETE if is_shown else TrialState.FAIL if is_told else TrialState.RUNNING
    return SeenTrial(
        number=trial.number,
        state=state,
        value=value if is_shown else None,
        datetime_start=no_time,
        datetime_complete=no_time if is_told else None,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={},
        system_attrs={COST: _cost(trial)} if is_shown else {},
        intermediate_values={},
        trial_id=trial.number,
    )


def _cost(trial: FrozenTrial) -> float:
    seconds = [record.get("seconds", 0.0) for _, record in _records(trial) if record.get("score") is not None]
    mean = sum(seconds) / len(seconds) if seconds else 0.0
    return float(round(math.log2(mean))) if mean > 0 else math.inf if trial.state == TrialState.FAIL else 0.0


def _records(trial: FrozenTrial) -> list[tuple[int, Mapping[str, Any]]]:
    named = [(_FOLD.fullmatch(key), record) for key, record in trial.user_attrs.items()]
    return sorted(((int(name[1]), record) for name, record in named if name), key=lambda pair: pair[0])
