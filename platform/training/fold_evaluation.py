"""A model to its scores on a fold: both validation subjects and the test subject, over the voxels that weigh.

Takes the study's data, a fold and what its model sees; gives something to call with a model after every epoch.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from platform.data.folds import Fold
from platform.data.products import StudyData, TrainingProducts
from platform.data.training_set import Inputs
from platform.data.windows import CachedRun
from platform.scores.metrics import FloatArray, high_passed, temporal_r
from platform.training.calibration import (
    CURVE_MINUTES,
    Calibration,
    SubjectArrays,
    Timing,
    calibrated_scores,
    calibration_curve,
)
from platform.training.loop import Scored, predict, without_wrapper
from platform.training.subject_arrays import EncoderAndHead, subject_arrays, training_moments


class FoldEvaluator:
    """Scores a model on a fold's two validation subjects and its test subject, over the voxels that weigh.

    With a calibration each of them adapts the model by its first minutes and is scored on the rest.
    """

    def __init__(
        self,
        data: StudyData,
        fold: Fold,
        products: TrainingProducts,
        *,
        has_basis: bool,
        inputs: Inputs,
        calibration: Calibration | None = None,
    ) -> None:
        self._inputs = inputs
        self._calibration = calibration
        self._training = [data.runs(subject) for subject in fold.training]
        self._timing = Timing(
            repetition_time_s=data.manifest.layout.repetition_time_s, window_volumes=data.window_volumes
        )
        self._voxels = np.flatnonzero(products.weights_V)
        self._weights = products.weights_V[self._voxels]
        self._basis = torch.from_numpy(products.patterns_KV[:, self._voxels]) if has_basis else None
        self._layout = data.manifest.layout
        self._subjects: list[tuple[Sequence[CachedRun], list[NDArray[np.float32]]]] = []
        for subject in (*fold.validation, fold.test):
            runs = data.runs(subject)
            targets = [data.high_passed(run.targets[:, self._voxels].astype(np.float32), run.at_T) for run in runs]
            self._subjects.append((runs, targets))

    def __call__(self, model: nn.Module) -> Scored:
        """Return the scores of the first and second validation subject and of the test subject.

        The trace is what is predicted for the first one's first run, before any calibration, averaged over voxels by
        weight.
        """
        bare = without_wrapper(model)
        if self._calibration is not None:
            return self._calibrated(bare, self._calibration)
        scores: list[float] = []
        trace: list[float] = []
        for runs, targets in self._subjects:
            predictions = [self._voxel_series(predict(bare, run, self._inputs)) for run in runs]
            at = [run.at_T for run in runs]
            scores.append(temporal_r(predictions, targets, self._weights, self._timing.repetition_time_s, at))
            trace = trace or self._trace_of(predictions[0], at[0])
        return Scored(scores=tuple(scores), trace=trace)

    def _calibrated(self, model: nn.Module, calibration: Calibration) -> Scored:
        subjects = self._arrays(model, calibration.how)
        scores = calibrated_scores(subjects, calibration, self._weights, self._timing)
        return Scored(scores=scores, trace=self._trace_of(subjects[0].predictions[0]))

    def calibration_curve(
        self, model: nn.Module, how: str, minutes: Sequence[float] = CURVE_MINUTES
    ) -> dict[float, tuple[float, float, float]]:
        """Return, by minutes of calibration, the scores of both validation subjects and of the test subject.

        All are scored on the same windows, those after the longest calibration.
        """
        return calibration_curve(self._arrays(without_wrapper(model), how), how, self._weights, self._timing, minutes)

    def _arrays(self, model: nn.Module, how: str) -> list[SubjectArrays]:
        halves = EncoderAndHead(model)
        training = training_moments(halves, self._training, self._inputs) if how == "eeg" else None
        return [
            subject_arrays(
                halves,
                runs,
                [run.targets[:, self._voxels].astype(np.float32) for run in runs],
                self._inputs,
                self._voxel_series,
                training,
            )
            for runs, _ in self._subjects
        ]

    def trace(self, prediction: list[float]) -> dict[str, Any]:
        """Return the first validation subject's target over its first run beside a prediction of it."""
        runs, targets = self._subjects[0]
        run = runs[0]
        layout = self._layout
        step_s = layout.repetition_time_s
        first_s = run.window_volumes * step_s + layout.reference_time_s
        at = {} if run.at_T is None else {"at_s": (first_s + step_s * run.at_T).tolist()}
        return {
            "recording": f"{run.subject}_task-{run.task}_run-{run.run}",
            "first_s": first_s,
            "step_s": step_s,
            **at,
            "target": _rounded(self._weighted_mean(targets[0])),
            "prediction": prediction,
        }

    def _trace_of(self, prediction_TV: FloatArray, at_T: NDArray[np.int64] | None = None) -> list[float]:
        return _rounded(self._weighted_mean(high_passed(prediction_TV, self._timing.repetition_time_s, at_T=at_T)))

    def _voxel_series(self, predicted_TK: Tensor) -> NDArray[np.float32]:
        voxels_TV = predicted_TK[:, self._voxels] if self._basis is None else predicted_TK @ self._basis
        return np.asarray(voxels_TV.numpy())

    def _weighted_mean(self, series_TV: FloatArray) -> NDArray[np.float32]:
        return np.asarray(series_TV @ self._weights / self._weights.sum())


def _rounded(series_T: NDArray[np.float32]) -> list[float]:
    return [round(float(value), 4) for value in series_T]
