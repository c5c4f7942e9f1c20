"""All further scores of a finalist and of the baselines beside it, fold by fold, once the search is over.

Takes a fold job with the epochs that its record names; trains it again with the same seed, to the same weights, and
gives the scores of its test subject and of its validation subjects.  Nothing here is ever ranked on.

``FINALIST_SCORES`` is the door for more of them: a function of a trained finalist and a subject.

Legend of shapes: T windows of one run, V voxels of the mask, G of them in grey matter, W of them that weigh in the
objective, K outputs of the model.
"""

import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from datasets.errors import BadInput
from platform.data.folds import Fold
from platform.data.products import DataSettings, StudyData
from platform.data.windows import CachedRun
from platform.evidence.brain_maps import brain_maps, keep_brain_maps, maps_name
from platform.evidence.nulls import circular_shift_p
from platform.scores.baselines import BASELINES, BaselineRun, score_fitted
from platform.scores.image_scores import SubjectImage, image_scores
from platform.scores.unique_r import unique_r
from platform.scores.volume_scores import GreyMatter, parcels, tissue_scores, volume_scores
from platform.training.calibration import CALIBRATIONS, CURVE_MINUTES, Timing, parts_of
from platform.training.data_jobs import TrainingRuns, baseline_runs
from platform.training.fold_job import TrainedFold, run_on_workers, this_worker, train_fold, whole_model
from platform.training.fold_models import FoldModel, exported, keep_fold_model
from platform.training.job import Job, Workers
from platform.training.job_model import open_data
from platform.training.loop import TrainingDiverged, Worker, predict

OBJECTIVE = "temporal_r_responsive"
REFERENCES = ("ridge_band_power", "confounds", "events", "time_in_run", "zero")
"""Baselines that are scored over all voxels, too; the order of the table's columns."""
KNOWN = {"unique_r": ("confounds",), "unique_r_beyond_events": ("confounds", "events", "time_in_run")}
"""What predictions from EEG are added to."""
TEST, VALIDATION = "test", "validation"
VESSEL_SHARE = 0.02
"""Of the mask's voxels, those that vary most about their mean."""

Floats = NDArray[np.float32]
Scores = Mapping[str, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredSubjects:
    """The subjects that a fold is scored on, over the voxels that weigh, and what baselines predict there.

    Attributes:
        runs: of the validation subjects, then of the test subject.
        voxels_W, weights_W: which voxels weigh, and how much.
        predictions: by baseline and subject, of every run, (T, W), at the candidate that validation chose.
        chosen: that candidate's number, by baseline.
        have_confounds: whether any confound was recorded.
    """

    runs: Mapping[str, Sequence[BaselineRun]]
    voxels_W: NDArray[np.int64]
    weights_W: Floats
    predictions: Mapping[str, Mapping[str, Sequence[Floats]]]
    chosen: Mapping[str, int]
    have_confounds: bool

    def unique_r(self, predicted: Mapping[str, Sequence[Floats]], subject: str, repetition_time_s: float) -> Scores:
        """Return what a prediction from EEG, by subject and run, adds to what is known without.

        The combination is fitted in the validation subjects; for one of these, in the other.
        """
        others = [each for each in list(self.runs)[:2] if each != subject]

        def of(by_subject: Mapping[str, Sequence[Floats]], subjects: Sequence[str]) -> list[Floats]:
            return [run for each in subjects for run in by_subject[each]]

        volumes = {each: [run.volumes_TV for run in runs] for each, runs in self.runs.items()}
        found = {}
        for name, baselines in KNOWN.items():
            if baselines == ("confounds",) and not self.have_confounds:
                continue
            known = [self.predictions[each] for each in baselines]
            elsewhere = ([of(each, others) for each in known], of(predicted, others), of(volumes, others))
            found[name] = unique_r(
                [of(each, [subject]) for each in known],
                of(predicted, [subject]),
                volumes[subject],
                elsewhere,
                self.weights_W,
                repetition_time_s,
            )
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Finalist:
    """A finalist trained for one fold, and what its scores need."""

    trained: TrainedFold

    @property
    def data(self) -> StudyData:
        """The study's data."""
        return self.trained.data

    @property
    def objective(self) -> dict[str, float]:
        """The objective after the last epoch, by subject, exactly as the fold job scored it."""
        fold = self.trained.fold
        return dict(zip((*fold.validation, fold.test), self.trained.history.scores[-1], strict=True))

    @cached_property
    def beside(self) -> ScoredSubjects:
        """What baselines predict on the same subjects."""
        return scored_subjects(self.data, self.trained.fold, ("confounds", "events", "time_in_run"))

    @cached_property
    def calibration_minutes(self) -> tuple[float, ...]:
        """Minutes of calibration that every subject of the study can spare; none where they have too little."""
        manifest = self.data.manifest
        timing = Timing(repetition_time_s=manifest.layout.repetition_time_s, window_volumes=self.data.window_volumes)
        lengths = [[entry.rows for entry in manifest.of_subject(subject)] for subject in manifest.subjects]
        return tuple(minutes for minutes in CURVE_MINUTES if all(_can_spare(rows, timing, minutes) for rows in lengths))

    @cached_property
    def calibrated(self) -> dict[str, dict[float, dict[str, float]]]:
        """The objective by how the model is calibrated, by minutes of calibration, by subject."""
        if len(self.calibration_minutes) < 2:  # noqa: PLR2004 - 0 minutes alone are no curve
            return {}
        evaluator, model = self.trained.evaluator, self.trained.model
        subjects = (*self.trained.fold.validation, self.trained.fold.test)
        return {
            how: {
                minutes: dict(zip(subjects, scores, strict=True))
                for minutes, scores in evaluator.calibration_curve(model, how, self.calibration_minutes).items()
            }
            for how in CALIBRATIONS
            if how != "none"
        }

    @cached_property
    def over_weighing_voxels(self) -> dict[str, list[Floats]]:
        """What the finalist predicts where voxels weigh, by subject."""
        return {
            subject: [self.prediction(run, self.beside.voxels_W) for run in self.data.runs(subject)]
            for subject in self.beside.runs
        }

    def prediction(self, run: CachedRun, voxels: NDArray[np.int64] | None = None) -> Floats:
        """Return what the model predicts of a run: all voxels of the mask, or the ones given."""
        predicted_TK = predict(self.trained.model, run, self.trained.inputs)
        wanted = slice(None) if voxels is None else voxels
        basis_KV = self.trained.basis_KV
        predicted_TV = predicted_TK[:, wanted] if basis_KV is None else predicted_TK @ basis_KV[:, wanted]
        return np.asarray(predicted_TV.numpy())


def objective(finalist: Finalist, subject: str) -> Scores:
    """Return the objective of the subject at the chosen epoch: for the test subject the score that was sealed."""
    return {OBJECTIVE: finalist.objective[subject]}


def over_all_voxels(finalist: Finalist, subject: str) -> Scores:
    """Return the scores of whole predicted volumes, before any calibration and over all windows."""
    predictions = (finalist.prediction(run) for run in finalist.data.runs(subject))
    return scores_over_all_voxels(finalist.data, subject, predictions)


def beyond_known(finalist: Finalist, subject: str) -> Scores:
    """Return what the prediction adds to confounds, and to confounds and events."""
    repetition_time_s = finalist.data.manifest.layout.repetition_time_s
    return finalist.beside.unique_r(finalist.over_weighing_voxels, subject, repetition_time_s)


def against_shifts(finalist: Finalist, subject: str) -> Scores:
    """Return how often the subject's predictions score as high when turned round in time; it describes the subject."""
    beside = finalist.beside
    volumes = [run.volumes_TV for run in beside.runs[subject]]
    repetition_time_s = finalist.data.manifest.layout.repetition_time_s
    p = circular_shift_p(finalist.over_weighing_voxels[subject], volumes, beside.weights_W, repetition_time_s)
    return {"circular_shift_p": p}


def after_calibration(finalist: Finalist, subject: str) -> Scores:
    """Return the objective after 0, 1, 2, ... minutes of calibration, all on the windows that the longest leaves."""
    return {
        f"{OBJECTIVE}_after_{minutes:g}_min_{how}": by_subject[subject]
        for how, curve in finalist.calibrated.items()
        for minutes, by_subject in curve.items()
    }


FINALIST_SCORES: dict[str, Callable[[Finalist, str], Scores]] = {
    "objective": objective,
    "volumes": over_all_voxels,
    "unique_r": beyond_known,
    "circular_shift": against_shifts,
    "calibration": after_calibration,
}
"""From a trained finalist and a subject that it is scored on to scores by name."""


def score_finalist(job: Job, workers: Workers) -> tuple[int, dict[str, Scores]]:
    """Train a fold job again for ``stop_after`` epochs; return the fold's number, and the test and validation scores.

    Raises:
        TrainingDiverged: where the job does not train as it did before.
    """
    assert job.fold is not None
    if workers.count == 1:
        return job.fold.number, _trained_and_scored(job, Worker(device="cuda" if workers.gpus else "cpu"))
    scores = run_on_workers(job, workers, _score_on_workers)
    if not isinstance(scores, dict):
        raise TrainingDiverged(str(scores))
    return job.fold.number, scores


def fold_model(job: Job, finalist: Finalist) -> FoldModel:
    """Return what a fold trained as a program, and how far it is off; the finalist's model moves to the CPU."""
    fold, shape = finalist.trained.fold, finalist.data.model_shape(None)
    test_error_V, validation_error_V = (mean_square_error(finalist, who) for who in ([fold.test], fold.validation))
    model = whole_model(job, finalist.trained)
    return FoldModel(
        program=exported(model, shape.num_channels, shape.num_samples, subject=fold.test),
        test_error_V=test_error_V,
        validation_error_V=validation_error_V,
    )


def mean_square_error(finalist: Finalist, subjects: Sequence[str]) -> Floats:
    """Return each voxel's mean squared error over all windows of these subjects, (V,)."""
    runs = [run for subject in subjects for run in finalist.data.runs(subject)]
    squares = [np.square(finalist.prediction(run) - run.targets.astype(np.float32)).sum(axis=0) for run in runs]
    return np.asarray(np.sum(squares, axis=0) / sum(run.num_windows for run in runs), np.float32)


def score_references(settings: DataSettings, fold: Fold) -> tuple[int, dict[str, Scores]]:
    """Return the fold's number and the further scores of baselines on its test subject, by baseline."""
    data = open_data(settings)
    beside = scored_subjects(data, fold, REFERENCES)
    repetition_time_s = data.manifest.layout.repetition_time_s
    found = {name: dict(_reference_scores(data, fold, name, beside.chosen[name])) for name in REFERENCES}
    ridge = "ridge_band_power"
    found[ridge] |= beside.unique_r(beside.predictions[ridge], fold.test, repetition_time_s)
    return fold.number, {name: scores for name, scores in found.items()}


def scores_over_all_voxels(data: StudyData, subject: str, predictions: Iterator[Floats]) -> dict[str, float]:
    """Return a subject's scores, averaged over its runs, from predictions, (T, V), made one after the other."""
    grey, image, tissues = grey_matter(data), subject_image(data, subject), tissues_of(data, subject)
    of_runs, repetition_time_s = [], data.manifest.layout.repetition_time_s
    for run, prediction_TV in zip(data.runs(subject), predictions, strict=True):
        target_TV = run.targets.astype(np.float32)
        scores = volume_scores(prediction_TV, target_TV, grey, repetition_time_s)
        profile = tissue_scores(prediction_TV, target_TV, tissues, repetition_time_s)
        images = image_scores(prediction_TV, target_TV, image) if image else {}
        of_runs.append({**scores, **profile, **images})
    return _mean_scores(of_runs)


def grey_matter(data: StudyData) -> GreyMatter:
    """Return where grey matter lies, and its parcels."""
    is_grey_V = data.grey_matter if data.grey_matter.any() else np.ones(len(data.voxel_indices), bool)
    return GreyMatter(is_grey_V=is_grey_V, parcels_G=parcels(data.voxel_indices[is_grey_V]))


def tissues_of(data: StudyData, subject: str) -> dict[str, NDArray[np.bool_]]:
    """Return where tissues other than grey matter lie: those that the study's mask holds, and the subject's vessels.

    Large vessels are the voxels whose volumes vary most about their mean; shards without such maps show none.
    """
    found, maps = dict(data.other_tissues), data.subject_maps(subject)
    if maps is not None:
        share_V = maps["standard_deviation"] / np.maximum(maps["mean"], np.finfo(float).tiny)
        found["vessels"] = share_V >= np.quantile(share_V, 1 - VESSEL_SHARE)
    return {name: is_in_V for name, is_in_V in found.items() if is_in_V.any()}


def subject_image(data: StudyData, subject: str) -> SubjectImage | None:
    """Return a subject's own mean image; None where the shards came without one."""
    maps = data.subject_maps(subject)
    if maps is None:
        return None
    return SubjectImage(
        mean_V=maps["mean"],
        deviation_V=maps["standard_deviation"],
        indices_V3=data.voxel_indices,
        grid_shape=data.manifest.layout.grid_shape,
    )


def scored_subjects(data: StudyData, fold: Fold, names: Sequence[str]) -> ScoredSubjects:
    """Fit baselines on a fold's training subjects, over the voxels that weigh, and predict the scored subjects."""
    weights_V = data.training_products(fold.training).weights_V
    voxels = np.flatnonzero(weights_V)
    training = TrainingRuns(data=data, fold=fold, voxels=voxels).kept_if_they_fit()
    runs = {subject: baseline_runs(data, subject, voxels) for subject in (*fold.validation, fold.test)}
    chosen: dict[str, int] = {}
    predictions = {}
    for name in names:
        predict_run = BASELINES[name](training)
        score = score_fitted(
            predict_run, list(runs.values()), weights_V[voxels], data.manifest.layout.repetition_time_s
        )
        chosen[name] = score.chosen
        predictions[name] = {
            subject: [_candidate(predict_run(run), score.chosen) for run in of_subject]
            for subject, of_subject in runs.items()
        }
    return ScoredSubjects(
        runs=runs,
        voxels_W=voxels,
        weights_W=weights_V[voxels],
        predictions=predictions,
        chosen=chosen,
        have_confounds=any(run.confounds["confounds"].any() for run in training),
    )


def _trained_and_scored(job: Job, worker: Worker) -> dict[str, Scores]:
    trained = train_fold(job, worker)
    if worker.rank:  # only the first worker scores
        return {}
    finalist = Finalist(trained=trained)
    first, second = (_all_scores(finalist, subject) for subject in trained.fold.validation)
    scores: dict[str, Scores] = {
        TEST: _all_scores(finalist, trained.fold.test),
        VALIDATION: _mean_scores([first, second]),
    }
    if job.storage:
        test = trained.fold.test
        maps = brain_maps(finalist.data, test, (finalist.prediction(run) for run in finalist.data.runs(test)))
        keep_brain_maps(job.storage, maps_name(job.digest), maps)
        keep_fold_model(job, fold_model(job, finalist))
    return scores


def _all_scores(finalist: Finalist, subject: str) -> dict[str, float]:
    return {name: value for score in FINALIST_SCORES.values() for name, value in score(finalist, subject).items()}


def _score_on_workers(config: dict[str, Job]) -> dict[str, Scores] | str:
    """Be one worker of a finalist's training; return its scores, or why it could not be trained."""
    try:
        return _trained_and_scored(config["job"], this_worker())
    except TrainingDiverged as error:
        return str(error)


def _reference_scores(data: StudyData, fold: Fold, name: str, chosen: int) -> Scores:
    """Return a baseline's further scores on the test subject; one subject's volumes are in memory at a time."""
    everywhere = np.arange(len(data.voxel_indices))
    training = (run for subject in fold.training for run in baseline_runs(data, subject, everywhere))
    predict_run = BASELINES[name](training)
    scored = baseline_runs(data, fold.test, everywhere)
    return scores_over_all_voxels(data, fold.test, (_candidate(predict_run(run), chosen) for run in scored))


def _can_spare(num_volumes: Sequence[int], timing: Timing, minutes: float) -> bool:
    try:
        parts_of(num_volumes, timing, minutes, minutes)
    except BadInput:
        return False
    return True


def _candidate(predictions: Iterator[Floats], chosen: int) -> Floats:
    return next(itertools.islice(predictions, chosen, None))


def _mean_scores(scores: Sequence[Scores]) -> dict[str, float]:
    return {name: statistics.fmean(each[name] for each in scores) for name in scores[0]}
