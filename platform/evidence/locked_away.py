"""Score subjects that were locked away before the first trial: the winner and the baselines, once.

Takes the winner's configuration, the subjects in folds and those locked away; gives scores by subject.  All that is
learned is learned from the subjects in folds; nothing is chosen by those that were locked away.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from platform.data.folds import Fold
from platform.data.products import DataSettings, StudyData
from platform.scores.baselines import BASELINES, BaselineRun, Predict, score_fitted
from platform.scores.metrics import temporal_r
from platform.training.data_jobs import baseline_runs
from platform.training.fold_job import score_trained
from platform.training.job import Job, Workers


def fold_of(subject: str, number: int, in_folds: Sequence[str]) -> Fold:
    """Return what trains on all subjects in folds and scores one locked away, after an epoch that is given."""
    return Fold(number=number, test=subject, validation=(subject, subject), training=tuple(sorted(in_folds)))


def score_locked_away(job: Job, workers: Workers) -> tuple[str, float]:
    """Train on all subjects in folds for ``stop_after`` epochs; return the locked-away subject and its score.

    Raises:
        TrainingDiverged: where the training diverged.
    """
    assert job.fold is not None and job.stop_after is not None
    return job.fold.test, score_trained(job, workers)[-1]


def score_locked_away_baselines(
    settings: DataSettings, fold: Fold, locked_away: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return the scores, by baseline and locked-away subject, of baselines fitted on all subjects in folds.

    Among a baseline's candidates the validation subjects of ``fold``, one of the study's own, choose; what was chosen
    is fitted again on all.
    """
    data = StudyData(settings)
    in_folds = tuple(sorted({*fold.training, *fold.validation, fold.test}))
    weights_V, fold_weights_V = data.training_weights(in_folds), data.training_weights(fold.training)
    repetition_time_s = data.manifest.layout.repetition_time_s
    voxels, fold_voxels = np.flatnonzero(weights_V), np.flatnonzero(fold_weights_V)

    def runs(subjects: Sequence[str], where: NDArray[np.int64]) -> list[list[BaselineRun]]:
        return [baseline_runs(data, subject, where, within_subject=True) for subject in subjects]

    training, scored = runs(in_folds, voxels), runs(locked_away, voxels)
    choosing = runs(fold.training, fold_voxels), runs((*fold.validation, fold.test), fold_voxels)
    found = {}
    for name, fit in BASELINES.items():
        chosen = score_fitted(
            fit(itertools.chain(*choosing[0])), choosing[1], fold_weights_V[fold_voxels], repetition_time_s
        ).chosen
        predict = fit(itertools.chain(*training))
        scores = [_score(predict, of_subject, chosen, weights_V[voxels], repetition_time_s) for of_subject in scored]
        found[name] = dict(zip(locked_away, scores, strict=True))
    return found


def _score(
    predict: Predict,
    runs: Sequence[BaselineRun],
    chosen: int,
    weights_W: NDArray[np.float32],
    repetition_time_s: float,
) -> float:
    predictions = [next(itertools.islice(predict(run), chosen, None)) for run in runs]
    return temporal_r(predictions, [run.volumes_TV for run in runs], weights_W, repetition_time_s)
