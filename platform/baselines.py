"""Predictors that a configuration must beat: zero, time in run, events only, and ridge on lagged band power.

Takes a fold's runs, their event designs and voxels; gives each baseline's scores, chosen and sealed exactly as a
configuration's are.  The first three know no EEG.

Legend of shapes: T windows of one run, P columns of a design, V voxels that weigh in the score, A shrinkages.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from platform.events import event_products, fir_responses, sum_arrays
from platform.metrics import temporal_r
from platform.selection import cross_selected

SHRINKAGES = (3e2, 1e3, 3e3, 1e4, 3e4)
"""Ridge penalties to choose from, added to the features' sums of squares over all training windows."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class BaselineRun:
    """One run as a baseline sees it; designs and features high-passed as the volumes are."""

    volumes_TV: Floats
    events_TP: Floats
    features_TP: Floats


Predict = Callable[[BaselineRun], Iterator[Floats]]
"""Predictions of one run, (T, V), one per candidate that the validation subjects may choose from."""


def fit_zero(training: Sequence[BaselineRun]) -> Predict:
    """Predict the mean of z-scored volumes: zero."""
    del training
    return lambda run: iter([np.zeros_like(run.volumes_TV)])


def fit_time_in_run(training: Sequence[BaselineRun]) -> Predict:
    """Predict the training runs' mean at the same time since the run's start (onset transients, habituation)."""
    longest = max(len(run.volumes_TV) for run in training)
    total_TV = np.zeros((longest, training[0].volumes_TV.shape[1]), np.float32)
    count_T = np.zeros((longest, 1), np.float32)
    for run in training:
        total_TV[: len(run.volumes_TV)] += run.volumes_TV
        count_T[: len(run.volumes_TV)] += 1
    mean_TV = total_TV / count_T

    def predict(run: BaselineRun) -> Iterator[Floats]:
        missing = max(0, len(run.volumes_TV) - longest)
        yield np.pad(mean_TV, ((0, missing), (0, 0)))[: len(run.volumes_TV)]

    return predict


def fit_events(training: Sequence[BaselineRun]) -> Predict:
    """Predict the training subjects' mean response to stimuli (finite impulse responses)."""
    products = event_products([run.events_TP for run in training], [run.volumes_TV for run in training])
    responses_PV = fir_responses([products])
    return lambda run: iter([run.events_TP @ responses_PV])


def fit_ridge(training: Sequence[BaselineRun]) -> Predict:
    """Predict by ridge regression from lagged log band power, one candidate per shrinkage."""
    gram_PP = sum_arrays(run.features_TP.T @ run.features_TP for run in training)
    cross_PV = sum_arrays(run.features_TP.T @ run.volumes_TV for run in training)
    eigenvalues_P, rotation_PP = np.linalg.eigh(gram_PP)
    rotated_PV = rotation_PP.T @ cross_PV

    def predict(run: BaselineRun) -> Iterator[Floats]:
        rotated_TP = run.features_TP @ rotation_PP
        for shrinkage in SHRINKAGES:
            yield (rotated_TP / (np.maximum(eigenvalues_P, 0) + shrinkage)) @ rotated_PV

    return predict


BASELINES: dict[str, Callable[[Sequence[BaselineRun]], Predict]] = {
    "zero": fit_zero,
    "time_in_run": fit_time_in_run,
    "events": fit_events,
    "ridge_band_power": fit_ridge,
}
KNOWS_EEG = {"ridge_band_power"}


@dataclass(frozen=True, kw_only=True)
class BaselineScore:
    """A baseline's validation score on one fold, and its score on the test subject."""

    validation: float
    test: float


def score_baseline(
    name: str,
    training: Sequence[BaselineRun],
    subjects: Sequence[Sequence[BaselineRun]],
    weights_V: Floats,
    repetition_time_s: float,
) -> BaselineScore:
    """Fit a baseline on the training runs and score it on two validation subjects, then the test subject."""
    predict = BASELINES[name](training)
    first, second, test = (_candidate_scores(predict, runs, weights_V, repetition_time_s) for runs in subjects)
    selection = cross_selected(first, second)
    return BaselineScore(validation=selection.score, test=test[selection.chosen])


def _candidate_scores(
    predict: Predict, runs: Sequence[BaselineRun], weights_V: Floats, repetition_time_s: float
) -> list[float]:
    candidates = zip(*(predict(run) for run in runs), strict=True)
    volumes = [run.volumes_TV for run in runs]
    return [temporal_r(list(candidate), volumes, weights_V, repetition_time_s) for candidate in candidates]
