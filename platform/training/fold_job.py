"""One fold job: a configuration trained on a fold, in this process or as a Ray Train DDP run.

Takes a job, which names its data and its fold; gives the ledger's record of it.  The winner's refit on all subjects
is the same training without scores, and always a Ray Train run.
"""

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray import train as ray_train
from ray.train.torch import TorchTrainer, get_device, prepare_model
from ray.train.v2._internal import constants
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.train.v2.api.result import Result
from torch import Tensor, nn

from platform.data.folds import Fold
from platform.data.products import StudyData, TrainingProducts, output_weights
from platform.data.training_set import Inputs, TrainingSet
from platform.ledger.records import FoldRecord
from platform.models import Volumes
from platform.models.blocks import EncodedModel
from platform.models.penalties import Penalised
from platform.scores.selection import best_position, cross_selected
from platform.training.across_subjects import what_it_uses
from platform.training.config import TrainingConfig
from platform.training.fold_evaluation import FoldEvaluator
from platform.training.job import Job, Workers, snapshots_of, training_config
from platform.training.job_model import build_model, job_features, job_inputs, job_products, open_data
from platform.training.loop import (
    History,
    TrainingDiverged,
    Worker,
    is_out_of_memory,
    largest_fitting_batch,
    train,
)
from platform.training.meeting_point import torch_config

WEIGHTS_FILE = "weights.pt"
_RAY_ADDRESS = "RAY_ADDRESS"


class RefitFailed(RuntimeError):
    """The winner could not be trained on all subjects."""


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
    model, basis_KV = build_model(job, data, job_products(job, data))
    with checkpoint.as_directory() as folder:
        model.load_state_dict(torch.load(Path(folder) / WEIGHTS_FILE, weights_only=True))
    if (snapshots := snapshots_of(job)) is not None:
        snapshots.remove()
    return Volumes(model, basis_KV, job_features(job, data))


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
    return Volumes(trained.model, trained.basis_KV, job_features(job, trained.data)).cpu()


def train_fold(job: Job, worker: Worker) -> TrainedFold:
    """Train a fold job, or one worker's share of it, scored after every epoch."""
    fold = job.fold
    assert fold is not None
    data, inputs = open_data(job.data), job_inputs(job, open_data(job.data))
    products = job_products(job, data)
    has_basis = bool(training_config(job).output_rank)
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
    products = job_products(job, data)
    _, model = _train(job, data, products, worker, evaluator=None)
    if worker.rank:
        return ()
    has_basis = bool(training_config(job).output_rank)
    score = FoldEvaluator(data, job.fold, products, has_basis=has_basis, inputs=job_inputs(job, data))
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
    config = training_config(job)
    bare, basis = build_model(job, data, products)
    training = TrainingSet(
        runs=data.runs_of(job.training_subjects),
        coefficients_NK=torch.from_numpy(products.coefficients_NK) if basis is not None else None,
        weights_K=torch.from_numpy(output_weights(products, has_basis=basis is not None)),
        inputs=job_inputs(job, data),
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
        torch_config=torch_config(),
        scaling_config=ray_train.ScalingConfig(
            num_workers=workers.count, use_gpu=bool(workers.gpus), resources_per_worker=resources
        ),
        run_config=ray_train.RunConfig(
            name=f"trial-{job.trial:04d}-{part}-{time.time_ns()}", storage_path=workers.storage
        ),
    )
    with _address_for_ray_train():
        result = trainer.fit()
    assert isinstance(result, Result)
    return result


@contextmanager
def _address_for_ray_train() -> Iterator[None]:
    """Let Ray Train's actors know which Ray is theirs: one of them gives back the CPUs of a group whose job was killed.

    It asks for what it watches; where several Rays run on a machine it would find none and end, and every later group
    would wait for those CPUs for ever.
    """
    earlier = os.environ.get(_RAY_ADDRESS)
    os.environ[_RAY_ADDRESS] = ray.get_runtime_context().gcs_address
    constants.ENV_VARS_TO_PROPAGATE.add(_RAY_ADDRESS)
    try:
        yield
    finally:
        if earlier is None:
            del os.environ[_RAY_ADDRESS]
        else:
            os.environ[_RAY_ADDRESS] = earlier


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
    _, model = _train(job, data, job_products(job, data), worker, evaluator=None)
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
