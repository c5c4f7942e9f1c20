"""What each worker of a fold job does: epochs over the training windows, scores after each, early stopping.

Takes a model, the training windows and a way to score it; gives the loss and the scores of every epoch.  Plain torch:
whether one process trains or several under DistributedDataParallel is the caller's affair.

Legend of shapes: B windows of a batch, C channels, S samples, K outputs of the model (voxels or basis weights).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from platform.basis import MAX_RANK
from platform.losses import LOSSES
from platform.optimizers import OPTIMIZERS
from platform.schedules import SCHEDULES
from platform.selection import best_position
from platform.windows import CachedRun, eeg_batch, target_batch, window_index

GRADIENT_NORM_LIMIT = 1.0
EVALUATION_BATCH = 155


class TrainingDiverged(RuntimeError):
    """The loss is no longer a number: this configuration cannot be trained."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What a trial may vary about training; every model is trained by these."""

    output_rank: int = 64
    loss: str = "mse"
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    weight_decay: float = 1e-2
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name, choice, choices in (
            ("loss", self.loss, LOSSES),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
        ):
            if choice not in choices:
                raise ValueError(f"{name} must be one of {sorted(choices)}, but got {choice!r}")
        if not 0 <= self.output_rank <= MAX_RANK or self.batch_size < 1:
            raise ValueError(f"output_rank must be 0 (all voxels) to {MAX_RANK}, batch_size 1 or more, but got {self}")


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """How long a job may train: the same for every configuration of a study."""

    maximum: int = 20
    patience: int = 5


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One of the processes that train a model together, and the device that it uses."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingSet:
    """Windows to train on, with targets: basis weights of every window, or the runs' own voxels."""

    runs: Sequence[CachedRun]
    coefficients_NK: Tensor | None

    @property
    def index(self) -> NDArray[np.int64]:
        """Every window, as (number of run, number of window)."""
        return window_index(self.runs)

    def targets(self, index_N2: NDArray[np.int64], positions_B: NDArray[np.int64]) -> Tensor:
        """Return the targets of the windows at these positions of the index, (B, K)."""
        if self.coefficients_NK is not None:
            return self.coefficients_NK[torch.from_numpy(positions_B)]
        return target_batch(self.runs, index_N2[positions_B])


Evaluate = Callable[[nn.Module], tuple[float, ...]]
"""Scores of a model: the two validation subjects first, whatever else must be kept of that epoch after them."""


@dataclass(kw_only=True)
class History:
    """What came of every epoch, in order."""

    loss: list[float] = field(default_factory=list)
    scores: list[tuple[float, ...]] = field(default_factory=list)
    stop_reason: str = "all epochs"


def train(
    model: nn.Module,
    training: TrainingSet,
    config: TrainingConfig,
    epochs: Epochs,
    seed: int,
    *,
    worker: Worker = Worker(),  # noqa: B008 - frozen
    evaluate: Evaluate | None = None,
    stop_after: int | None = None,
) -> History:
    """Train a model in place and return its history.

    ``stop_after`` ends training after that many epochs without changing the schedule, which spans ``epochs.maximum``.

    With several workers each takes its share of every batch, and the gradients are averaged over the batch: the
    same batches in the same order give the same model, up to rounding, whatever the number of workers; only what
    dropout draws differs.  Only the first worker scores; it tells the others when to stop.

    Raises:
        TrainingDiverged: where the loss or a score is no longer finite.
    """
    optimizer = OPTIMIZERS[config.optimizer](model.parameters(), config.learning_rate, config.weight_decay)
    index_N2 = training.index
    history = History()
    for epoch in range(min(epochs.maximum, stop_after or epochs.maximum)):
        order_N = np.random.default_rng([seed, epoch]).permutation(len(index_N2))
        batches = [order_N[at : at + config.batch_size] for at in range(0, len(order_N), config.batch_size)]
        model.train()
        loss = 0.0
        for number, positions in enumerate(batches):
            done = (epoch + number / len(batches)) / epochs.maximum
            _set_learning_rate(optimizer, config.learning_rate * SCHEDULES[config.schedule](done))
            loss += _step(model, training, index_N2, positions, config, optimizer, worker) * len(positions)
        history.loss.append(loss / len(order_N))
        if evaluate is not None and worker.rank == 0:
            history.scores.append(evaluate(model))
        if _agree(_is_unscored(history.scores), worker):
            raise TrainingDiverged("the model predicts what is no number")
        if _agree(_is_patience_over(history.scores, epochs.patience), worker):
            history.stop_reason = "early stopping"
            break
    return history


def predict(model: nn.Module, run: CachedRun) -> Tensor:
    """Return what a model predicts for all windows of a run, in order, (T, K), on the CPU."""
    model.eval()
    device = next(model.parameters()).device
    index_N2 = window_index([run])
    with torch.inference_mode():
        parts = [
            model(eeg_batch([run], index_N2[at : at + EVALUATION_BATCH]).to(device)).cpu()
            for at in range(0, len(index_N2), EVALUATION_BATCH)
        ]
    return torch.cat(parts)


def without_wrapper(model: nn.Module) -> nn.Module:
    """Return the model itself where DistributedDataParallel wraps it."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def _step(
    model: nn.Module,
    training: TrainingSet,
    index_N2: NDArray[np.int64],
    positions_B: NDArray[np.int64],
    config: TrainingConfig,
    optimizer: torch.optim.Optimizer,
    worker: Worker,
) -> float:
    share_B = positions_B[worker.rank :: worker.world_size]
    weight = len(share_B) * worker.world_size / len(positions_B)
    if not len(share_B):  # a last batch smaller than the group: take part with no weight
        share_B = positions_B[:1]
    optimizer.zero_grad(set_to_none=True)
    predicted_BK = model(eeg_batch(training.runs, index_N2[share_B]).to(worker.device))
    targets_BK = training.targets(index_N2, share_B).to(worker.device)
    loss = LOSSES[config.loss](predicted_BK, targets_BK) * weight
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM_LIMIT)
    mean = _mean_over_workers(loss.detach(), worker)
    if not math.isfinite(mean):
        raise TrainingDiverged(f"the loss is {mean}: learning rate {config.learning_rate:g} with {config.optimizer}")
    optimizer.step()
    return mean


def _set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def _mean_over_workers(value: Tensor, worker: Worker) -> float:
    if worker.world_size > 1:
        distributed.all_reduce(value)
    return float(value) / worker.world_size


def _agree(stop: bool, worker: Worker) -> bool:
    """Return what the first worker says, on every worker."""
    if worker.world_size == 1:
        return stop
    verdict = torch.tensor([stop], dtype=torch.int32, device=worker.device)
    distributed.broadcast(verdict, src=0)
    return bool(verdict.item())


def _is_unscored(scores: Sequence[tuple[float, ...]]) -> bool:
    return bool(scores) and not all(math.isfinite(score) for score in scores[-1])


def _is_patience_over(scores: Sequence[tuple[float, ...]], patience: int) -> bool:
    """Tell whether neither validation subject has reached a new best for this many epochs."""
    if not scores:
        return False
    latest_best = max(best_position([score[subject] for score in scores]) for subject in (0, 1))
    return len(scores) - 1 - latest_best >= patience
