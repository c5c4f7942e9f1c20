"""One fold job: a configuration trained on a fold, in this process or as a Ray Train DDP run.

Takes a job, which names its data and its fold; gives the ledger's record of it.  The winner's refit on all subjects
is the same training without scores, and always a Ray Train run.
"""

import dataclasses
import functools
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray import train as ray_train
from ray.train.torch import TorchTrainer, get_device, prepare_model
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.train.v2.api.result import Result
from torch import Tensor, nn

from datasets.storage import open_storage
from platform.across_subjects import what_it_uses
from platform.alignment import log_covariance, similarity_weights
from platform.calibration import CURVE_MINUTES, Calibration, SubjectArrays, Timing, calibrated_scores, calibration_curve
from platform.flipped_data import FlippedData
from platform.folds import Fold
from platform.ledger import FoldRecord
from platform.loop import (
    Epochs,
    History,
    Scored,
    TrainingConfig,
    TrainingDiverged,
    Worker,
    is_out_of_memory,
    largest_fitting_batch,
    predict,
    train,
    without_wrapper,
)
from platform.median_stopping import MedianCurve
from platform.metrics import FloatArray, high_passed, temporal_r
from platform.models import ARCHITECTURES, Volumes
from platform.models.blocks import EncodedModel
from platform.models.ensemble import Ensemble, learned_from
from platform.models.penalties import Penalised
from platform.models.subject_layers import SubjectMixing, SubjectScale, WithSubjectLayer
from platform.models.subjects import remember_subjects
from platform.products import DataSettings, StudyData, TrainingProducts, output_weights, rank_limited
from platform.selection import best_position, cross_selected
from platform.snapshots import JobSnapshots
from platform.subject_arrays import EncoderAndHead, subject_arrays, training_moments
from platform.training_set import Inputs, TrainingSet, cached_features
from platform.windows import CachedRun

WEIGHTS_FILE = "weights.pt"
MOST_READ_BYTES = 256 * 2**20
"""Of all runs' reading in memory; where there is more, every batch is read anew from its EEG."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: a configuration on the training subjects of a fold, or, with no fold, on the subjects given.

    Attributes:
        data: which data, and how it is read.
        architecture, configuration: what is trained; the configuration is flat.
        epochs: how long.
        seed: of the weights, the order of batches and dropout.
        trial: the trial's number.
        fold: the fold to train and score on; None for a refit.
        repeat: how often the trial ran on this fold before, with other seeds.
        subjects: the subjects of a refit.
        calibration: how the scored subjects' first minutes adapt the model; None for not at all.
        stop_after: epochs after which a refit ends, on the schedule of ``epochs``; None for a fold job.
        median: ends the job once its validation scores fall below it; None for never.
        storage: where its snapshots lie, seen by every node; "" for none.
        seconds_between_snapshots: at the least; None for the usual.
    """

    data: DataSettings
    architecture: str
    configuration: Mapping[str, Any]
    epochs: Epochs
    seed: int
    trial: int
    fold: Fold | None = None
    repeat: int = 0
    subjects: tuple[str, ...] = ()
    calibration: Calibration | None = None
    stop_after: int | None = None
    median: MedianCurve | None = None
    storage: str = ""
    seconds_between_snapshots: float | None = None

    @property
    def digest(self) -> str:
        """Hexadecimal; the same for the same training of the same data, wherever its snapshots lie."""
        same = dataclasses.replace(self, storage="", seconds_between_snapshots=None)
        content = json.dumps(dataclasses.asdict(same), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    @property
    def training_subjects(self) -> tuple[str, ...]:
        """Who is trained on."""
        return self.fold.training if self.fold else tuple(sorted(self.subjects))


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Where a job runs: how many processes, and what each may use."""

    count: int = 1
    cpus: int = 1
    gpus: float = 0.0
    storage: str = ""


class RefitFailed(RuntimeError):
    """The winner could not be trained on all subjects."""


def job_seed(study_seed: int, trial: int, fold: int, repeat: int = 0) -> int:
    """Return the seed of one fold job: the same for the same job of the same study, different for all others."""
    mixed = [study_seed, trial, fold, *([repeat] if repeat else [])]
    return int(np.random.SeedSequence(mixed).generate_state(1)[0])


def split_configuration(architecture: str, configuration: Mapping[str, Any]) -> tuple[Any, TrainingConfig]:
    """Return a flat configuration as the model's and training's own; ValueError where it has a key of neither."""
    model_class = ARCHITECTURES[architecture].config
    names = [{field.name for field in dataclasses.fields(which)} for which in (model_class, TrainingConfig)]
    unknown = set(configuration) - names[0] - names[1]
    if unknown:
        raise ValueError(f"the {architecture} has no {sorted(unknown)}; it has {sorted(names[0] | names[1])}")
    model, training = ({key: configuration[key] for key in configuration if key in known} for known in names)
    return model_class(**model), TrainingConfig(**training)


def run_fold_job(job: Job, workers: Workers) -> FoldRecord:
    """Train and score a fold job and return its record, without score where the configuration cannot be trained."""
    if job.fold is None:
        raise ValueError("a fold job needs a fold")
    start = time.monotonic()
    try:
        here = Worker(device="cuda" if workers.gpus else "cpu")
        record = _run_here(job, here) if workers.count == 1 else _run_on_workers(job, workers)
    except (RuntimeError, MemoryError) as error:
        reason = why_untrainable(error)
        record = FoldRecord(trial=job.trial, fold=job.fold.number, score=None, seed=job.seed, stop_reason=reason)
    if (snapshots := snapshots_of(job)) is not None:
        snapshots.remove()
    return dataclasses.replace(record, repeat=job.repeat, seconds=round(time.monotonic() - start, 2))


def why_untrainable(error: Exception) -> str:
    """Return why a configuration cannot be trained; raise an error again for which it is not to blame."""
    if isinstance(error, TrainingDiverged):
        return str(error)
    if is_out_of_memory(error):
        return f"out of memory: {(str(error).splitlines() or [type(error).__name__])[0]}"
    raise error


def refit(job: Job, workers: Workers) -> Volumes:
    """Train the winner on all subjects as a Ray Train run and return the model, whose output is voxels.

    Raises:
        RefitFailed: where it diverged, or its workers were lost; the search's result stands all the same.
    """
    try:
        checkpoint = _fit_with_ray_train(job, workers, _refit_worker).checkpoint
    except TrainingFailedError as error:
        raise RefitFailed((str(error).strip().splitlines() or ["no reason given"])[-1]) from error
    if checkpoint is None:
        raise RefitFailed("it left no weights")
    data = open_data(job.data)
    model, basis_KV = build_model(job, data, _products(job, data))
    with checkpoint.as_directory() as folder:
        model.load_state_dict(torch.load(Path(folder) / WEIGHTS_FILE, weights_only=True))
    if (snapshots := snapshots_of(job)) is not None:
        snapshots.remove()
    return Volumes(model, basis_KV, _features(job, data))


def snapshots_of(job: Job) -> JobSnapshots | None:
    """Return where a job's snapshots lie; None where it has no storage."""
    if not job.storage:
        return None
    return JobSnapshots(open_storage(job.storage), job.digest, job.seconds_between_snapshots)


@functools.lru_cache(maxsize=1)
def open_data(settings: DataSettings) -> StudyData:
    """Open a study's data once in this process: an actor that is reused for many jobs keeps it."""
    return FlippedData(settings) if settings.flipped else StudyData(settings)


def build_model(job: Job, data: StudyData, products: TrainingProducts) -> tuple[nn.Module, Tensor | None]:
    """Return the job's model with fresh weights, and the basis of its output, (K, V), where it has one."""
    model_config, training_config = split_configuration(job.architecture, job.configuration)
    shape = data.model_shape(products.patterns_KV if training_config.output_rank else None)
    trained_on = _trained_on(job, data)
    num_members = min(training_config.num_members, len(trained_on))

    def build() -> nn.Module:
        model = ARCHITECTURES[job.architecture].build(model_config, shape)
        remember_subjects(model, len(trained_on))
        return _with_subject_layer(model, job, data) if training_config.subject_layers else model

    torch.manual_seed(job.seed)
    if num_members == 1:
        return build(), shape.basis
    members = [build() for _ in range(num_members)]
    return Ensemble(members, _member_weights(job, data, num_members)), shape.basis


def _with_subject_layer(model: nn.Module, job: Job, data: StudyData) -> WithSubjectLayer:
    assert isinstance(model, EncodedModel)
    num_subjects = len(_trained_on(job, data))
    if (features := _features(job, data)) is None:
        return WithSubjectLayer(SubjectMixing(num_subjects, len(data.manifest.layout.channel_names)), model)
    shape = data.model_shape(None)
    with torch.inference_mode():
        num_features = features(torch.zeros(1, shape.num_channels, shape.num_samples)).shape[1]
    return WithSubjectLayer(SubjectScale(num_subjects, num_features), model)


def _trained_on(job: Job, data: StudyData) -> list[str]:
    """Return the training subjects that have windows, as a training set numbers them."""
    return [subject for subject in job.training_subjects if data.runs(subject)]


def _member_weights(job: Job, data: StudyData, num_members: int) -> dict[str, Tensor]:
    """Return how much each member counts for the subjects that a fold is scored on, by how their EEG covaries."""
    if job.fold is None:
        return {}
    trained_on = _trained_on(job, data)
    known, scored = (
        {subject: log_covariance(data.mean_covariance(subject, "euclidean")) for subject in subjects}
        for subjects in (trained_on, (*job.fold.validation, job.fold.test))
    )
    learned_from_MP = learned_from(num_members, len(trained_on)).numpy()
    return {
        subject: torch.from_numpy(similarity_weights(own_CC, np.stack(list(known.values())), learned_from_MP))
        for subject, own_CC in scored.items()
    }


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
            targets = [data.high_passed(run.targets[:, self._voxels].astype(np.float32)) for run in runs]
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
            scores.append(temporal_r(predictions, targets, self._weights, self._timing.repetition_time_s))
            trace = trace or self._trace_of(predictions[0])
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
        return {
            "recording": f"{run.subject}_task-{run.task}_run-{run.run}",
            "first_s": run.window_volumes * layout.repetition_time_s + layout.reference_time_s,
            "step_s": layout.repetition_time_s,
            "target": _rounded(self._weighted_mean(targets[0])),
            "prediction": prediction,
        }

    def _trace_of(self, prediction_TV: FloatArray) -> list[float]:
        return _rounded(self._weighted_mean(high_passed(prediction_TV, self._timing.repetition_time_s)))

    def _voxel_series(self, predicted_TK: Tensor) -> NDArray[np.float32]:
        voxels_TV = predicted_TK[:, self._voxels] if self._basis is None else predicted_TK @ self._basis
        return np.asarray(voxels_TV.numpy())

    def _weighted_mean(self, series_TV: FloatArray) -> NDArray[np.float32]:
        return np.asarray(series_TV @ self._weights / self._weights.sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedFold:
    """What training a fold job left.

    Attributes:
        data, fold, products: what it was trained on.
        inputs: what the model sees of windows.
        model: gives basis weights, or voxels where ``basis_KV`` is None.
        basis_KV: the patterns that the model gives weights of.
        evaluator: scores it as the fold job does.
        history: what came of every epoch.
    """

    data: StudyData
    fold: Fold
    products: TrainingProducts
    inputs: Inputs
    model: nn.Module
    basis_KV: Tensor | None
    evaluator: FoldEvaluator
    history: History


def whole_model(job: Job, trained: TrainedFold) -> Volumes:
    """Return what a fold trained as a model from EEG to voxels, on the CPU."""
    return Volumes(trained.model, trained.basis_KV, _features(job, trained.data)).cpu()


def train_fold(job: Job, worker: Worker) -> TrainedFold:
    """Train a fold job, or one worker's share of it, scored after every epoch."""
    fold = job.fold
    assert fold is not None
    data, inputs = open_data(job.data), _inputs(job, open_data(job.data))
    products = _products(job, data)
    has_basis = bool(_training_config(job).output_rank)
    evaluator = FoldEvaluator(data, fold, products, has_basis=has_basis, inputs=inputs, calibration=job.calibration)
    history, model = _train(job, data, products, worker, evaluator)
    return TrainedFold(
        data=data,
        fold=fold,
        products=products,
        inputs=inputs,
        model=model,
        basis_KV=torch.from_numpy(products.patterns_KV) if has_basis else None,
        evaluator=evaluator,
        history=history,
    )


def score_trained(job: Job, workers: Workers) -> tuple[float, ...]:
    """Train a fold job for ``stop_after`` epochs, scored by nobody on the way; return its subjects' scores at the end.

    Raises:
        TrainingDiverged: where it diverged.
    """
    if workers.count == 1:
        scores = _scores_at_the_end(job, Worker(device="cuda" if workers.gpus else "cpu"))
    else:
        scores = run_on_workers(job, workers, _end_on_workers)
    if not isinstance(scores, tuple):
        raise TrainingDiverged(str(scores))
    if (snapshots := snapshots_of(job)) is not None:
        snapshots.remove()
    return scores


def _scores_at_the_end(job: Job, worker: Worker) -> tuple[float, ...]:
    assert job.fold is not None
    data = open_data(job.data)
    products = _products(job, data)
    _, model = _train(job, data, products, worker, evaluator=None)
    if worker.rank:
        return ()
    has_basis = bool(_training_config(job).output_rank)
    score = FoldEvaluator(data, job.fold, products, has_basis=has_basis, inputs=_inputs(job, data))
    return score(model).scores


def _end_on_workers(config: dict[str, Job]) -> tuple[float, ...] | str:
    try:
        return _scores_at_the_end(config["job"], this_worker())
    except TrainingDiverged as error:
        return str(error)


def run_on_workers(job: Job, workers: Workers, train_worker: Callable[[dict[str, Any]], Any]) -> Any:  # noqa: ANN401
    """Return what a function of ``{"job": job}`` returns on the first of a group of workers."""
    return _fit_with_ray_train(job, workers, train_worker).return_value


def _run_here(job: Job, worker: Worker) -> FoldRecord:
    fold = job.fold
    assert fold is not None
    trained = train_fold(job, worker)
    history, evaluator = trained.history, trained.evaluator
    if worker.rank:  # only the first worker scores
        return FoldRecord(trial=job.trial, fold=fold.number, score=None)
    first, second, test = (list(scores) for scores in zip(*history.scores, strict=True))
    selection = cross_selected(first, second)
    return FoldRecord(
        trial=job.trial,
        fold=fold.number,
        score=selection.score,
        test_score=test[selection.chosen],
        best_epochs=selection.chosen + 1,
        num_epochs=len(history.loss),
        seed=job.seed,
        stop_reason=history.stop_reason,
        loss=tuple(history.loss),
        validation=(tuple(first), tuple(second)),
        trace=evaluator.trace(history.traces[best_position(second)]),
        uses=what_it_uses(job.architecture, job.configuration),
    )


def _train(
    job: Job, data: StudyData, products: TrainingProducts, worker: Worker, evaluator: FoldEvaluator | None
) -> tuple[History, nn.Module]:
    config = _training_config(job)
    bare, basis = build_model(job, data, products)
    training = TrainingSet(
        runs=data.runs_of(job.training_subjects),
        coefficients_NK=torch.from_numpy(products.coefficients_NK) if basis is not None else None,
        weights_K=torch.from_numpy(output_weights(products, has_basis=basis is not None)),
        inputs=_inputs(job, data),
    )
    model = _penalised(bare, training, config).to(worker.device)
    if worker.world_size > 1:
        model = prepare_model(model)
    try:
        history = train(
            model,
            training,
            config,
            job.epochs,
            job.seed,
            worker=worker,
            evaluate=evaluator,
            stop_after=job.stop_after,
            median=job.median,
            snapshots=snapshots_of(job),
        )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        fitting = largest_fitting_batch(model, training, config, worker) if worker.world_size == 1 else 0
        advice = f"; {fitting} would fit" if fitting else ""
        raise TrainingDiverged(f"out of memory at batch_size {config.batch_size}{advice}") from error
    return history, bare


def _penalised(model: nn.Module, training: TrainingSet, config: TrainingConfig) -> nn.Module:
    """Return a model that keeps the configuration's penalties while training, or the model itself for none."""
    if not config.is_penalised:
        return model
    assert isinstance(model, EncodedModel)
    return Penalised(
        model,
        training.batch(np.arange(1)).inputs,
        num_subjects=int(training.subjects.max()) + 1,
        adversary_weight=config.adversary_weight,
        coral_weight=config.coral_weight,
    )


def _inputs(job: Job, data: StudyData) -> Inputs:
    """Return what the job's model sees of windows: their EEG, or what this node keeps of it: features or a reading."""
    alignment = _training_config(job).alignment
    seen = job.training_subjects if job.fold is None else (*job.fold.training, *job.fold.validation, job.fold.test)
    trained_on = _trained_on(job, data)
    if (computed := _computed_before(job, data)) is None:
        return data.eeg_inputs(seen, alignment, trained_on)
    name, compute = computed
    return cached_features(
        pair
        for subject in seen
        for pair in zip(
            data.runs(subject), data.window_features(subject, name, compute, alignment, trained_on), strict=True
        )
    )


def _computed_before(job: Job, data: StudyData) -> tuple[str, Callable[[torch.Tensor], torch.Tensor]] | None:
    """Return the name of what can be computed of windows before training, and what computes it; None where EEG is seen.

    A reading does for EEG where nothing changes the EEG before it is read, and where all runs' fits into memory.
    """
    if (features := _features(job, data)) is not None:
        return job.architecture, features
    model_config, training_config = split_configuration(job.architecture, job.configuration)
    shape = data.model_shape(None)
    reading = ARCHITECTURES[job.architecture].reading(model_config, shape)
    if reading is None or training_config.augmentation != "none" or training_config.subject_layers:
        return None
    with torch.inference_mode():
        read_of_one = reading.read(torch.zeros(1, shape.num_channels, shape.num_samples))
    num_windows = sum(run.num_windows for run in data.runs_of(data.manifest.subjects))
    return (reading.name, reading.read) if read_of_one.nbytes * num_windows <= MOST_READ_BYTES else None


def _features(job: Job, data: StudyData) -> nn.Module | None:
    """Return what makes features of windows, where the architecture takes features in place of EEG."""
    make = ARCHITECTURES[job.architecture].features
    return None if make is None else make(data.model_shape(None))


def _products(job: Job, data: StudyData) -> TrainingProducts:
    config = _training_config(job)
    return rank_limited(data.training_products(job.training_subjects, config.output), config.output_rank)


def _training_config(job: Job) -> TrainingConfig:
    return split_configuration(job.architecture, job.configuration)[1]


def _run_on_workers(job: Job, workers: Workers) -> FoldRecord:
    outcome = run_on_workers(job, workers, _train_worker)
    if not isinstance(outcome, FoldRecord):
        raise TrainingDiverged(str(outcome))
    return outcome


def _fit_with_ray_train(job: Job, workers: Workers, train_worker: Callable[[dict[str, Any]], Any]) -> Result:
    """Run a job on a group of workers; what the first of them returns is the result's ``return_value``."""
    resources = {"CPU": workers.cpus, **({"GPU": workers.gpus} if workers.gpus else {})}
    part = "refit" if job.fold is None else f"fold-{job.fold.number:04d}"
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        scaling_config=ray_train.ScalingConfig(
            num_workers=workers.count, use_gpu=bool(workers.gpus), resources_per_worker=resources
        ),
        run_config=ray_train.RunConfig(
            name=f"trial-{job.trial:04d}-{part}-{time.time_ns()}", storage_path=workers.storage
        ),
    )
    result = trainer.fit()
    assert isinstance(result, Result)
    return result


def _train_worker(config: dict[str, Any]) -> FoldRecord | str:
    """Be one worker of a fold job; return its record, or why the configuration cannot be trained."""
    try:
        return _run_here(config["job"], this_worker())
    except (RuntimeError, MemoryError) as error:
        return why_untrainable(error)


def _refit_worker(config: dict[str, Any]) -> None:
    """Be one worker of a refit; the first one leaves the weights as a checkpoint."""
    job: Job = config["job"]
    worker = this_worker()
    data = open_data(job.data)
    _, model = _train(job, data, _products(job, data), worker, evaluator=None)
    if worker.rank:
        ray_train.report({})
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save(model.cpu().state_dict(), Path(folder) / WEIGHTS_FILE)
        ray_train.report({}, checkpoint=ray_train.Checkpoint.from_directory(folder))


def this_worker() -> Worker:
    """Return which of its group this Ray Train worker is."""
    context = ray_train.get_context()
    return Worker(rank=context.get_world_rank(), world_size=context.get_world_size(), device=str(get_device()))


def _rounded(series_T: NDArray[np.float32]) -> list[float]:
    return [round(float(value), 4) for value in series_T]
