"""Predictors that a configuration must beat: zero, time in run, events, confounds, and ridge on lagged band power.

Takes a fold's runs, their designs and voxels; gives each baseline's scores, chosen and sealed exactly as a
configuration's are.

Legend of shapes: T windows of one run, P columns of a design, V voxels that weigh in the score, A shrinkages, N windows
of the same subject's other runs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from platform.scores.events import responses_from
from platform.scores.metrics import temporal_r
from platform.scores.selection import cross_selected

SHRINKAGES = (3e2, 1e3, 3e3, 1e4, 3e4)
"""Ridge penalties to choose from, added to the features' sums of squares over all training windows."""
CONFOUND_SHRINKAGES = SHRINKAGES[::2]
_CONSTANT = 1e-9

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class BaselineRun:
    """One run as a baseline sees it; designs and features high-passed as the volumes are.

    Attributes:
        volumes_TV: what must be predicted.
        events_TP: design of the stimuli.
        features_TP: lagged band power.
        confounds: designs, (T, P), by group of confounds.
        operators_ATN: per shrinkage, what turns the volumes of the subject's other runs into a prediction of this one.
        other_volumes_NV: those volumes; none where the subject has a single run, or where nobody asks for them.
        scored: which windows are scored, where not all are.
        rest_TV: these windows' volumes, high-passed by themselves.
        at_T: where the windows stand among all of the recording, ascending; None where they are all.
    """

    volumes_TV: Floats
    events_TP: Floats
    features_TP: Floats
    confounds: Mapping[str, Floats]
    operators_ATN: Floats
    other_volumes_NV: Floats
    scored: slice | None = None
    rest_TV: Floats | None = None
    at_T: NDArray[np.int64] | None = None

    @property
    def places(self) -> NDArray[np.int64]:
        """Where the windows stand among all of the recording."""
        return np.arange(len(self.volumes_TV)) if self.at_T is None else self.at_T


Predict = Callable[[BaselineRun], Iterator[Floats]]
"""Predictions of one run, (T, V), one per candidate that the validation subjects may choose from."""


def fit_zero(training: Iterable[BaselineRun]) -> Predict:
    """Predict the mean of z-scored volumes: zero."""
    del training
    return lambda run: iter([np.zeros_like(run.volumes_TV)])


def fit_time_in_run(training: Iterable[BaselineRun]) -> Predict:
    """Predict the training runs' mean at the same time since the run's start (onset transients, habituation)."""
    total_TV, count_T1 = np.zeros((0, 0), np.float32), np.zeros((0, 1), np.float32)
    for run in training:
        places_T = run.places
        missing = max(0, int(places_T[-1]) + 1 - len(total_TV))
        total_TV = np.pad(total_TV, ((0, missing), (0, run.volumes_TV.shape[1] - total_TV.shape[1])))
        count_T1 = np.pad(count_T1, ((0, missing), (0, 0)))
        total_TV[places_T] += run.volumes_TV
        count_T1[places_T] += 1
    mean_TV = np.asarray(total_TV / np.maximum(count_T1, 1), np.float32)

    def predict(run: BaselineRun) -> Iterator[Floats]:
        missing = max(0, int(run.places[-1]) + 1 - len(mean_TV))
        yield np.pad(mean_TV, ((0, missing), (0, 0)))[run.places]

    return predict


def fit_events(training: Iterable[BaselineRun]) -> Predict:
    """Predict the training subjects' mean response to stimuli (finite impulse responses)."""
    design_PP, cross_PV, _ = _inner_products((run.events_TP, run.volumes_TV) for run in training)
    responses_PV = responses_from(design_PP, cross_PV)
    return lambda run: iter([run.events_TP @ responses_PV])


def fit_ridge(training: Iterable[BaselineRun]) -> Predict:
    """Predict by ridge regression from lagged log band power, one candidate per shrinkage."""
    gram_PP, cross_PV, _ = _inner_products((run.features_TP, run.volumes_TV) for run in training)
    predict = _shrunk(gram_PP, cross_PV, SHRINKAGES)
    return lambda run: predict(run.features_TP)


def fit_ridge_within_subject(training: Iterable[BaselineRun]) -> Predict:
    """Predict a run by ridge regression fitted in the same subject's other runs, one candidate per shrinkage."""
    del training
    return lambda run: (operator_TN @ run.other_volumes_NV for operator_TN in run.operators_ATN)


def fit_confounds(group: str) -> Callable[[Iterable[BaselineRun]], Predict]:
    """Return what predicts by ridge regression from a group of confounds, each column scaled to a mean square of 1."""

    def fit(training: Iterable[BaselineRun]) -> Predict:
        gram_PP, cross_PV, num_windows = _inner_products((run.confounds[group], run.volumes_TV) for run in training)
        deviation_P = np.sqrt(np.diag(gram_PP) / num_windows)
        scale_P = np.divide(1, deviation_P, out=np.zeros_like(deviation_P), where=deviation_P > _CONSTANT)
        scaled_PP = gram_PP * scale_P * scale_P[:, np.newaxis]
        predict = _shrunk(scaled_PP, cross_PV * scale_P[:, np.newaxis], CONFOUND_SHRINKAGES)
        return lambda run: predict(run.confounds[group] * scale_P)

    return fit


def leave_one_run_out_operators(features: Sequence[Floats], shrinkages: Sequence[float] = SHRINKAGES) -> list[Floats]:
    """Return, per run, what turns the volumes of all other runs, (N, V), into a ridge prediction of it: (A, T, N).

    ``features`` are those of one subject's runs, (T, P) each; the other runs stand in their order.
    """
    return [
        _dual_operator(features_TP, [*features[:number], *features[number + 1 :]], shrinkages)
        for number, features_TP in enumerate(features)
    ]


def _dual_operator(features_TP: Floats, others: Sequence[Floats], shrinkages: Sequence[float]) -> Floats:
    others_NP = np.concatenate([features_TP[:0], *others])
    eigenvalues_N, rotation_NN = np.linalg.eigh(others_NP @ others_NP.T)
    rotated_TN = features_TP @ others_NP.T @ rotation_NN
    shrunk = [rotated_TN / (np.maximum(eigenvalues_N, 0) + np.float32(each)) for each in shrinkages]
    return np.stack([each_TN @ rotation_NN.T for each_TN in shrunk])


def _inner_products(pairs: Iterable[tuple[Floats, Floats]]) -> tuple[Floats, Floats, int]:
    """Return the sums over runs of designs' and volumes' inner products, and the number of windows, in one pass."""
    remaining = iter(pairs)
    design_TP, volumes_TV = next(remaining)
    gram_PP, cross_PV, num_windows = design_TP.T @ design_TP, design_TP.T @ volumes_TV, len(design_TP)
    for design_TP, volumes_TV in remaining:
        gram_PP += design_TP.T @ design_TP
        cross_PV += design_TP.T @ volumes_TV
        num_windows += len(design_TP)
    return gram_PP, cross_PV, num_windows


def _shrunk(gram_PP: Floats, cross_PV: Floats, shrinkages: Sequence[float]) -> Callable[[Floats], Iterator[Floats]]:
    """Return what predicts from features, (T, P), by ridge regression with each shrinkage in turn."""
    eigenvalues_P, rotation_PP = np.linalg.eigh(gram_PP)
    rotated_PV = rotation_PP.T @ cross_PV

    def predict(features_TP: Floats) -> Iterator[Floats]:
        rotated_TP = features_TP @ rotation_PP
        for shrinkage in shrinkages:
            yield (rotated_TP / (np.maximum(eigenvalues_P, 0) + np.float32(shrinkage))) @ rotated_PV

    return predict


BASELINES: dict[str, Callable[[Iterable[BaselineRun]], Predict]] = {
    "zero": fit_zero,
    "time_in_run": fit_time_in_run,
    "events": fit_events,
    "pulse": fit_confounds("pulse"),
    "eyes_and_muscle": fit_confounds("eyes_and_muscle"),
    "head_motion": fit_confounds("head_motion"),
    "confounds": fit_confounds("confounds"),
    "ridge_band_power": fit_ridge,
    "ridge_within_subject": fit_ridge_within_subject,
}
"""From the training runs, read once and in order, to what predicts a run."""
KNOWS_EEG = {"ridge_band_power", "ridge_within_subject"}
CONFOUNDS = {"pulse", "eyes_and_muscle", "head_motion", "confounds"}
"""What drives BOLD without the brain's doing; eyes and muscles may be read from EEG channels."""
FITTED_IN_SUBJECT = {"ridge_within_subject"}
"""Fitted in the very subject that is scored, in its other runs: no model of other subjects, and no rival to one."""


@dataclass(frozen=True, kw_only=True)
class BaselineScore:
    """A baseline's validation score on one fold, its score on the test subject, and which candidate that is of."""

    validation: float
    test: float
    chosen: int


def score_baseline(
    name: str,
    training: Iterable[BaselineRun],
    subjects: Sequence[Sequence[BaselineRun]],
    weights_V: Floats,
    repetition_time_s: float,
) -> BaselineScore:
    """Fit a baseline on the training runs and score it on two validation subjects, then the test subject."""
    return score_fitted(BASELINES[name](training), subjects, weights_V, repetition_time_s)


def score_fitted(
    predict: Predict, subjects: Sequence[Sequence[BaselineRun]], weights_V: Floats, repetition_time_s: float
) -> BaselineScore:
    """Score a fitted baseline on two validation subjects, then the test subject at the candidate they choose."""
    first, second, test = (_candidate_scores(predict, runs, weights_V, repetition_time_s) for runs in subjects)
    selection = cross_selected(first, second)
    return BaselineScore(validation=selection.score, test=test[selection.chosen], chosen=selection.chosen)


def _candidate_scores(
    predict: Predict, runs: Sequence[BaselineRun], weights_V: Floats, repetition_time_s: float
) -> list[float]:
    kept = [run for run in runs if run.rest_TV is None or len(run.rest_TV)]
    candidates = zip(*(_of_scored(predict, run) for run in kept), strict=True)
    volumes = [run.volumes_TV if run.rest_TV is None else run.rest_TV for run in kept]
    at = [run.at_T for run in kept]
    return [temporal_r(list(candidate), volumes, weights_V, repetition_time_s, at) for candidate in candidates]


def _of_scored(predict: Predict, run: BaselineRun) -> Iterator[Floats]:
    """Yield each candidate's prediction of the windows that are scored."""
    for predicted_TV in predict(run):
        yield predicted_TV if run.scored is None else predicted_TV[run.scored]
