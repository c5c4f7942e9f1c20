"""What a cluster does with a study's data before the first fold job: decode its shards, score its baselines.

Takes a study's data and a subject or a fold; fills this node's cache, or gives the baselines' scores on the same
windows, voxels and subjects as every configuration.  No tracking and no sampler is imported here: each process of a
cluster would wait for them.
"""

import numpy as np
from numpy.typing import NDArray

from platform.baselines import BASELINES, BaselineRun, BaselineScore, score_baseline
from platform.folds import Fold
from platform.products import DataSettings, StudyData


def decode_subject(settings: DataSettings, subject: str) -> None:
    """Decode a subject's shards into the cache, each compared with the manifest."""
    StudyData(settings).runs(subject)


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
