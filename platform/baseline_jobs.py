"""The baselines of one fold, on the same windows, voxels and subjects as every configuration.

Takes a study's data and a fold; gives each baseline's validation and test score.
"""

import numpy as np
from numpy.typing import NDArray

from platform.baselines import BASELINES, BaselineRun, BaselineScore, score_baseline
from platform.folds import Fold
from platform.products import DataSettings, StudyData


def score_baselines(settings: DataSettings, fold: Fold) -> tuple[int, dict[str, BaselineScore]]:
    """Fit every baseline on the fold's training subjects and score it; return the fold's number and the scores."""
    data = StudyData(settings)
    weights_V = data.training_products(fold.training).weights_V
    voxels = np.flatnonzero(weights_V)
    runs = {subject: _baseline_runs(data, subject, voxels) for subject in (*fold.training, *fold.validation, fold.test)}
    training = [run for subject in fold.training for run in runs[subject]]
    scored = [runs[subject] for subject in (*fold.validation, fold.test)]
    repetition_time_s = data.manifest.layout.repetition_time_s
    return fold.number, {
        name: score_baseline(name, training, scored, weights_V[voxels], repetition_time_s) for name in BASELINES
    }


def _baseline_runs(data: StudyData, subject: str, voxels: NDArray[np.int64]) -> list[BaselineRun]:
    return [
        BaselineRun(
            volumes_TV=data.high_passed(run.targets[:, voxels].astype(np.float32)),
            events_TP=data.high_passed(data.event_design(run)),
            features_TP=features_TP,
        )
        for run, features_TP in zip(data.runs(subject), data.band_power(subject), strict=True)
    ]
