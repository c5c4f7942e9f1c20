"""Train one small model in one process, or in several under DistributedDataParallel without Ray: same arithmetic.

Importable, so that spawned processes find it.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import numpy as np
import torch
from torch import distributed, multiprocessing, nn

from platform.data.training_set import TrainingSet
from platform.data.windows import WINDOW_VOLUMES, CachedRun
from platform.models import ARCHITECTURES
from platform.models.ensemble import Ensemble
from platform.models.penalties import Penalised
from platform.models.shape import ModelShape
from platform.models.subject_layers import SubjectMixing, WithSubjectLayer
from platform.training.config import Epochs, TrainingConfig
from platform.training.loop import History, Scored, Worker, predict, train, without_wrapper

CHANNELS, VOXELS, RATE_HZ, WINDOWS = 3, 8, 125, 22
"""With batches of 7, two workers have unequal shares, and the last batch holds a single window: none for the second."""


def example_run(seed: int = 0) -> CachedRun:
    rng = np.random.default_rng(seed)
    rows = WINDOWS + WINDOW_VOLUMES
    return CachedRun(
        subject="sub-01",
        task="auditory",
        run=1,
        eeg_CS=rng.standard_normal((CHANNELS, rows * 2 * RATE_HZ)).astype(np.float16),
        bold_RV=rng.standard_normal((rows, VOXELS)).astype(np.float16),
        samples_per_volume=2 * RATE_HZ,
    )


def example_model(dropout: float = 0.0) -> nn.Module:
    shape = ModelShape(
        num_channels=CHANNELS,
        num_samples=WINDOW_VOLUMES * 2 * RATE_HZ,
        num_volumes=WINDOW_VOLUMES,
        rate_hz=RATE_HZ,
        grid_shape=(2, 2, 2),
        voxel_indices=torch.cartesian_prod(*[torch.arange(2)] * 3),
        basis=None,
    )
    torch.manual_seed(0)
    config = ARCHITECTURES["transformer"].config(width=8, num_heads=2, dropout=dropout, level="window")
    return ARCHITECTURES["transformer"].build(config, shape)


def example_training(*runs: CachedRun) -> TrainingSet:
    return TrainingSet(runs=runs or [example_run()], coefficients_NK=None, weights_K=torch.linspace(0.5, 1.5, VOXELS))


def of_three_subjects() -> TrainingSet:
    return example_training(*(replace(example_run(seed), subject=f"sub-{seed:02d}") for seed in range(3)))


def across_subjects(config: TrainingConfig, training: TrainingSet) -> nn.Module:
    """Return the example model with all that a configuration does to reach other subjects."""
    if config.num_members > 1:
        return Ensemble([example_model() for _ in range(config.num_members)], {})
    model: nn.Module = example_model()
    if config.subject_layers:
        model = WithSubjectLayer(SubjectMixing(3, CHANNELS), model)
    weights = {"adversary_weight": config.adversary_weight, "coral_weight": config.coral_weight}
    return Penalised(model, training.batch(np.arange(1)).inputs, 3, **weights) if config.is_penalised else model


def trained(worker: Worker, config: TrainingConfig, patience: int) -> tuple[History, nn.Module]:
    """Train for a few epochs as this worker; scores fall from the third epoch on."""
    reaches = config.subject_layers or config.is_penalised or config.num_members > 1
    training = of_three_subjects() if reaches else example_training()
    model = across_subjects(config, training)
    if worker.world_size > 1:
        model = nn.parallel.DistributedDataParallel(model)
    scores = iter([(0.1, 0.1), (0.2, 0.2), (0.3, 0.3), *[(0.0, 0.0)] * 20])
    history = train(
        model,
        training,
        config,
        Epochs(maximum=6, patience=patience),
        seed=3,
        worker=worker,
        evaluate=lambda _: Scored(scores=next(scores), trace=[0.0]),
    )
    return history, without_wrapper(model)


def outcome(worker: Worker, config: TrainingConfig, patience: int) -> tuple[list[float], torch.Tensor]:
    """Return the loss curve and what the trained model predicts."""
    history, model = trained(worker, config, patience)
    return history.loss, predict(model, example_run(1))


def outcomes_of_workers(
    count: int, port: int, folder: str, configs: Sequence[TrainingConfig], patience: int
) -> list[list[tuple[list[float], torch.Tensor]]]:
    """Train each configuration in so many processes and return the outcomes that each of them saw."""
    multiprocessing.spawn(_be_worker, args=(count, port, folder, configs, patience), nprocs=count)
    return [torch.load(f"{folder}/{rank}.pt") for rank in range(count)]


def _be_worker(rank: int, count: int, port: int, folder: str, configs: Sequence[TrainingConfig], patience: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=count, timeout=timedelta(seconds=60)
    )
    try:
        worker = Worker(rank=rank, world_size=count)
        torch.save([outcome(worker, config, patience) for config in configs], f"{folder}/{rank}.pt")
    finally:
        distributed.destroy_process_group()
