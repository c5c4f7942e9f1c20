"""What each worker of a fold job does: epochs over the training windows, scores after each, early stopping.

Takes a model, the training windows and a way to score it; gives the loss and the scores of every epoch.  Plain torch:
whether one process trains or several under DistributedDataParallel is the caller's affair.

Legend of shapes: B windows of a batch, K outputs of the model (voxels or basis weights).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn, optim
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from platform.choices.augmentations import AUGMENTATIONS, Batch
from platform.choices.losses import LOSSES
from platform.choices.optimizers import OPTIMIZERS, averaged, settle
from platform.choices.schedules import SCHEDULES, Progress, warmed_up
from platform.data.training_set import ORDERS, Inputs, TrainingSet
from platform.data.windows import CachedRun, eeg_batch, window_index
from platform.models.ensemble import of_recording
from platform.models.penalties import Penalised
from platform.models.subjects import of_subjects
from platform.scores.selection import best_position
from platform.training.config import PRECISIONS, Epochs, TrainingConfig
from platform.training.median_stopping import MedianCurve

EVALUATION_BATCH = 155
PLATEAU_EPOCHS = 2
"""Epochs without a new best that make a plateau."""


class TrainingDiverged(RuntimeError):
    """The loss is no longer a number: this configuration cannot be trained."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One of the processes that train a model together, and the device that it uses."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A model's scores, the two validation subjects' first; and a course over time of what it predicts, to draw."""

    scores: tuple[float, ...]
    trace: list[float]


Evaluate = Callable[[nn.Module], Scored]


@dataclass(kw_only=True)
class History:
    """What came of every epoch, in order."""

    loss: list[float] = field(default_factory=list)
    scores: list[tuple[float, ...]] = field(default_factory=list)
    traces: list[list[float]] = field(default_factory=list)
    stop_reason: str = "all epochs"


class Snapshots(Protocol):
    """Where a job's state lies between epochs, so that another process can go on with it."""

    def load(self) -> dict[str, Any] | None:
        """Return the last state; None where there is none."""

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Keep a state, if it is time to."""


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
    median: MedianCurve | None = None,
    snapshots: Snapshots | None = None,
) -> History:
    """Train a model in place and return its history.

    ``stop_after`` ends training after that many epochs without changing the schedule, which spans ``epochs.maximum``.
    ``median`` ends it once the scores fall below that curve.
    Training goes on from the last of its snapshots, to the same end as without the interruption.

    With several workers each takes its share of every batch.  Losses that are means over windows are averaged, the
    others see what all workers predict: the same batches in the same order give the same model, up to rounding,
    whatever the number of workers.  Only what dropout and augmentation draw differs, and what a batch norm sees, which
    is a worker's own share.  Only the first worker scores; it tells the others when to stop.

    Raises:
        TrainingDiverged: where the loss or a score is no longer finite.
    """
    state = _TrainingState(model, config)
    if snapshots is not None and (saved := snapshots.load()) is not None:
        state.load(saved)
    history = state.history
    for epoch in range(len(history.loss), min(epochs.maximum, stop_after or epochs.maximum)):
        history.loss.append(_train_epoch(state, training, config, epochs, [seed, epoch], worker))
        if evaluate is not None and worker.rank == 0:
            with state.weights_to_score() as scored_model:
                scored = evaluate(scored_model)
            history.scores.append(scored.scores)
            history.traces.append(scored.trace)
        if _told(_is_unscored(history.scores), worker):
            raise TrainingDiverged("the model predicts what is no number")
        state.plateaus = _told(count_plateaus(history.scores), worker)
        if _told(_is_patience_over(history.scores, epochs.patience), worker):
            history.stop_reason = "early stopping"
            break
        if median is not None and _told(_is_below(median, history.scores), worker):
            history.stop_reason = median.reason
            break
        if snapshots is not None and worker.rank == 0:
            snapshots.save(state.to_dict)
    state.finish()
    return history


def predict(model: nn.Module, run: CachedRun, inputs: Inputs = eeg_batch) -> Tensor:
    """Return what a model predicts for all windows of a run, in order, (T, K), on the CPU."""
    model.eval()
    device = next(model.parameters()).device
    index_N2 = window_index([run])
    pieces = np.array_split(index_N2, -(-len(index_N2) // EVALUATION_BATCH))  # alike in length, also the last
    with torch.inference_mode(), of_recording(model, run.subject):
        parts = [model(inputs([run], piece_B2).to(device)).cpu() for piece_B2 in pieces]
    return torch.cat(parts)


def largest_fitting_batch(model: nn.Module, training: TrainingSet, config: TrainingConfig, worker: Worker) -> int:
    """Return the largest half, quarter and so on of the batch size for which a step finds memory; 0 where none does."""
    size = config.batch_size // 2
    while size:
        try:
            batch = training.batch(np.arange(min(size, len(training.index))))
            _loss(model, batch, training.weights_K, config, Worker(device=worker.device), [size]).backward()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            size //= 2
        else:
            break
        finally:
            model.zero_grad(set_to_none=True)
    return size


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether memory was refused: of a GPU, or of this machine, of which torch has no error of its own."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def without_wrapper(model: nn.Module) -> nn.Module:
    """Return the model itself where DistributedDataParallel wraps it."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def count_plateaus(scores: Sequence[tuple[float, ...]]) -> int:
    """Return how often the validation subjects' mean score had no new best for PLATEAU_EPOCHS epochs.

    The count starts anew after each plateau and each new best.
    """
    best, waited, plateaus = -math.inf, 0, 0
    for first, second, *_ in scores:
        waited = 0 if first + second > best else waited + 1
        best = max(best, first + second)
        if waited == PLATEAU_EPOCHS:
            plateaus, waited = plateaus + 1, 0
    return plateaus


class _TrainingState:
    """All that a training changes, epoch by epoch."""

    def __init__(self, model: nn.Module, config: TrainingConfig) -> None:
        self.model = model
        self.optimizer = OPTIMIZERS[config.optimizer](model.parameters(), config.learning_rate, config.weight_decay)
        self.average: AveragedModel | None = None
        if config.weight_average:
            average = get_ema_multi_avg_fn(config.weight_average)
            self.average = AveragedModel(without_wrapper(model), multi_avg_fn=average)
        self.history = History()
        self.plateaus = 0

    def step(self) -> None:
        """Step along the gradients that the model's parameters hold."""
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(without_wrapper(self.model))

    @contextmanager
    def weights_to_score(self) -> Iterator[nn.Module]:
        """Return a context with the model that has the weights that count."""
        if self.average is not None:
            yield self.average.module
            return
        with averaged(self.optimizer):
            yield self.model

    def finish(self) -> None:
        """Leave in the model the weights that count."""
        if self.average is not None:
            without_wrapper(self.model).load_state_dict(self.average.module.state_dict())
        settle(self.optimizer)

    def to_dict(self) -> dict[str, Any]:
        """Return the state for a file."""
        return {
            "model": without_wrapper(self.model).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "history": asdict(self.history),
            "plateaus": self.plateaus,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take a state from a file."""
        without_wrapper(self.model).load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.history = History(**state["history"])
        self.plateaus = state["plateaus"]


def _train_epoch(
    state: _TrainingState,
    training: TrainingSet,
    config: TrainingConfig,
    epochs: Epochs,
    seed_and_epoch: Sequence[int],
    worker: Worker,
) -> float:
    """Train for one epoch and return its loss; what it draws depends on seed, epoch and worker alone."""
    epoch = seed_and_epoch[1]
    order_N = ORDERS[config.order](training.subjects, np.random.default_rng(seed_and_epoch))
    batches = [order_N[at : at + config.batch_size] for at in range(0, len(order_N), config.batch_size)]
    draws = np.random.SeedSequence([*seed_and_epoch, worker.rank]).generate_state(2, np.uint32).tolist()
    torch.manual_seed(draws[0])
    generator = torch.Generator().manual_seed(draws[1])
    state.model.train()
    loss = 0.0
    for number, positions in enumerate(batches):
        progress = Progress(done=(epoch + number / len(batches)) / epochs.maximum, plateaus=state.plateaus)
        factor = warmed_up(SCHEDULES[config.schedule], progress, config.warm_up_share)
        _set_learning_rate(state.optimizer, config.learning_rate * factor)
        loss += _step(state, training, positions, config, worker, generator) * len(positions)
    return loss / len(order_N)


def _step(
    state: _TrainingState,
    training: TrainingSet,
    positions_B: NDArray[np.int64],
    config: TrainingConfig,
    worker: Worker,
    generator: torch.Generator,
) -> float:
    """Take one step along the gradient of a batch and return its loss."""
    pieces = pieces_of_workers(positions_B, config.accumulation, worker.world_size)
    state.optimizer.zero_grad(set_to_none=True)
    loss = torch.zeros((), device=worker.device)
    for number, piece in enumerate(pieces):
        own_B = piece[worker.rank] if len(piece[worker.rank]) else positions_B[:1]  # take part, with no weight
        batch = AUGMENTATIONS[config.augmentation](training.batch(own_B), config.augmentation_strength, generator)
        with nullcontext() if number == len(pieces) - 1 else _without_exchange(state.model):
            part = _loss(state.model, batch, training.weights_K, config, worker, [len(share) for share in piece])
            part = part / len(positions_B)
            part.backward()
        loss += part.detach()
    if config.gradient_norm:
        nn.utils.clip_grad_norm_(state.model.parameters(), config.gradient_norm)
    mean = _mean_over_workers(loss, worker)
    if not math.isfinite(mean):
        raise TrainingDiverged(f"the loss is {mean}: learning rate {config.learning_rate:g} with {config.optimizer}")
    state.step()
    return mean


def pieces_of_workers(
    positions_B: NDArray[np.int64], accumulation: int, world_size: int
) -> list[list[NDArray[np.int64]]]:
    """Return a batch in pieces, each as one share per worker; as many pieces for all, whatever the shares' sizes."""
    num_pieces = max(1, min(accumulation, len(positions_B) // world_size))
    shares = [np.array_split(positions_B[rank::world_size], num_pieces) for rank in range(world_size)]
    return [list(piece) for piece in zip(*shares, strict=True)]


def _loss(
    model: nn.Module, batch: Batch, weights_K: Tensor, config: TrainingConfig, worker: Worker, shares: Sequence[int]
) -> Tensor:
    """Return a piece's loss times its number of windows; what counts is the workers' mean of it and of its gradients.

    ``shares`` are how many windows each worker has of the piece.
    """
    precision = PRECISIONS[config.precision]
    kind = torch.device(worker.device).type
    told = of_subjects(model, batch.subject_B.to(worker.device))
    with told, nullcontext() if precision is None else torch.autocast(kind, dtype=precision):
        predicted = model(batch.inputs.to(worker.device)).float()
    targets_BK = batch.targets_BK.to(worker.device)
    # An ensemble predicts every window several times: by all members that learn from it.
    predictions = [predicted] if predicted.ndim == targets_BK.ndim else list(predicted.unbind())
    weights_K = weights_K.to(worker.device)
    losses = [_loss_of(each_BK, targets_BK, weights_K, config, worker, shares) for each_BK in predictions]
    return sum(losses[1:], start=losses[0]) / len(losses) + _penalty(model) * (shares[worker.rank] * worker.world_size)


def _loss_of(
    predicted_BK: Tensor,
    targets_BK: Tensor,
    weights_K: Tensor,
    config: TrainingConfig,
    worker: Worker,
    shares: Sequence[int],
) -> Tensor:
    loss = LOSSES[config.loss]
    if worker.world_size == 1 or loss.is_mean_over_windows:
        mean = loss.compute(predicted_BK, targets_BK, weights_K)
        return mean * (shares[worker.rank] * worker.world_size)
    all_predicted, all_targets = (_of_all_workers(own, worker, shares) for own in (predicted_BK, targets_BK))
    total = loss.compute(all_predicted, all_targets, weights_K) * sum(shares) + 0 * predicted_BK.sum()
    # Each worker's gradient is that of its own share only, so their mean is too small by the number of workers.
    return total * worker.world_size - (total * (worker.world_size - 1)).detach()


def _penalty(model: nn.Module) -> Tensor | float:
    """Return the penalty of the windows predicted last, its gradient only: losses of all configurations compare."""
    bare = without_wrapper(model)
    if not isinstance(bare, Penalised) or bare.penalty is None:
        return 0.0
    return bare.penalty - bare.penalty.detach()


def _of_all_workers(own_BK: Tensor, worker: Worker, shares: Sequence[int]) -> Tensor:
    """Return what all workers have, one after the other; gradients reach this worker's own only."""
    padded = own_BK.new_zeros(max(shares), own_BK.shape[1])
    padded[: len(own_BK)] = own_BK.detach()
    everyone = [torch.empty_like(padded) for _ in shares]
    distributed.all_gather(everyone, padded)
    parts = [part[:length] for part, length in zip(everyone, shares, strict=True)]
    parts[worker.rank] = own_BK[: shares[worker.rank]]
    return torch.cat(parts)


def _without_exchange(model: nn.Module) -> AbstractContextManager[None]:
    """Return a context in which gradients are gathered up, not yet averaged over workers."""
    return model.no_sync() if isinstance(model, nn.parallel.DistributedDataParallel) else nullcontext()


def _set_learning_rate(optimizer: optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def _mean_over_workers(value: Tensor, worker: Worker) -> float:
    if worker.world_size > 1:
        distributed.all_reduce(value)
    return float(value) / worker.world_size


def _told(number: int, worker: Worker) -> int:
    """Return what the first worker says, on every worker."""
    if worker.world_size == 1:
        return number
    said = torch.tensor([number], dtype=torch.int32, device=worker.device)
    distributed.broadcast(said, src=0)
    return int(said.item())


def _is_unscored(scores: Sequence[tuple[float, ...]]) -> bool:
    return bool(scores) and not all(math.isfinite(score) for score in scores[-1])


def _is_patience_over(scores: Sequence[tuple[float, ...]], patience: int) -> bool:
    """Tell whether neither validation subject has reached a new best for this many epochs."""
    if not scores:
        return False
    latest_best = max(best_position([score[subject] for score in scores]) for subject in (0, 1))
    return len(scores) - 1 - latest_best >= patience


def _is_below(median: MedianCurve, scores: Sequence[tuple[float, ...]]) -> bool:
    return bool(scores) and median.stops(scores)
