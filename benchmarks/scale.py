"""What 16, 1 000 and 100 000 subjects ask of disks, databases, Ray and GPUs: docs/scale.md.

Takes numbers of subjects, what one subject, run, window and fold job cost, and how large the cluster is; gives tables.
What a unit costs is measured here in the small (``measured_units``), or cited from docs/measurements.md.
"""

import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.study import TINY, layout_of, write_study
from benchmarks.table import Row, best_cpu_of, print_table, times
from datasets.shards import MANIFEST, Manifest, write_manifest
from datasets.storage import open_storage
from platform.choices.losses import LOSSES
from platform.data.basis import gram_matrix, principal_components, principal_components_by_passes
from platform.data.products import MOST_GRAM_BYTES
from platform.ledger.records import FoldRecord
from platform.ledger.studies import open_ledger
from platform.models import ARCHITECTURES
from platform.models.shape import ModelShape
from platform.training.loop import TrainingConfig

SUBJECTS = (16, 1_000, 100_000)
RUNS, VOLUMES, WINDOW_VOLUMES, CHANNELS, VOXELS, RATE_HZ, REPETITION_TIME_S = 6, 170, 15, 34, 64_820, 125, 2.0
"""A subject of ds000116, as models read it by default."""
BATCH, EPOCHS = 32, 10
"""Epochs of a fold job: half of the most, as early stopping has it."""
FEATURES, READS = 7 * 34 * 3, 5
"""Lagged band power of a window; how often all of a study's attributes are read while a fold's further scores are kept,
when there are, on the mean, two for each fold."""
WEIGHING_VOXELS = 20_000
"""Voxels with a weight in the objective: an assumption, the others are counted or measured."""


@dataclass(frozen=True, kw_only=True)
class Units:
    """What one of each costs.

    Attributes:
        shard_bytes, requests_per_file, job_overhead_s, requests_per_trial, decode_s: cited from docs/measurements.md,
            or held by a test (requests).
        manifest_bytes, record_bytes: of one subject, of one fold job's record.
        read_s: to read one of a study's own attributes in the ledger, each time that all are read.
        flops_per_window: one window forward and backward through the default transformer.
    """

    shard_bytes: float = 26.6e6
    requests_per_file: int = 2
    decode_s: float = 1.29 / 2
    job_overhead_s: float = 0.04
    requests_per_trial: int = 3
    manifest_bytes: float
    record_bytes: float
    read_s: float
    flops_per_window: float


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU: what it can do in FP32 by its maker's data sheet, and an assumed price."""

    name: str
    flops: float
    dollars_per_hour: float


GPUS = (
    Gpu(name="T4", flops=8.1e12, dollars_per_hour=0.40),
    Gpu(name="L4", flops=30.3e12, dollars_per_hour=0.80),
    Gpu(name="A100", flops=19.5e12, dollars_per_hour=3.50),
    Gpu(name="H100", flops=67e12, dollars_per_hour=7.00),
)
UTILISATION, LEAST_STEP_S = 0.2, 0.005
"""Assumed: the share of a GPU's peak that small models reach, and the time in which a step's kernels are launched."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a study is searched, and on what."""

    trials: int = 64
    nodes: int = 4
    slots: int = 32
    gpu: Gpu = GPUS[1]
    num_folds: int | None = None
    """None: one for each subject."""


def fold_jobs(num_folds: int, trials: int) -> float:
    """Return the fold jobs of ``halving`` with three finalists: 4 folds a trial, then 2 more for each doubling.

    The last trial that is left goes on to all folds, and each finalist runs twice more on all of them.
    """
    doublings = max(0.0, math.log2(max(num_folds, 4) / 4))
    rungs = min(doublings, math.log2(trials))
    return min(trials * (4 + 2 * rungs), trials * num_folds) + (doublings > rungs) * num_folds + 3 * 2 * num_folds


def windows_of(subjects: int) -> int:
    """Return how many windows these subjects have."""
    return subjects * RUNS * (VOLUMES - WINDOW_VOLUMES)


def cache_bytes_per_run() -> float:
    """Return the bytes of a decoded run: float16 EEG and volumes."""
    return 2.0 * (CHANNELS * VOLUMES * REPETITION_TIME_S * RATE_HZ + VOLUMES * VOXELS)


def step_s(units: Units, gpu: Gpu) -> float:
    """Return the seconds of a training step on a GPU."""
    return max(LEAST_STEP_S, BATCH * units.flops_per_window / (UTILISATION * gpu.flops))


def needs(subjects: int, units: Units, plan: Plan) -> dict[str, float]:
    """Return what a study of so many subjects needs, by its name with its unit."""
    num_folds = plan.num_folds or subjects
    training = subjects - math.ceil(3 * subjects / num_folds)
    jobs = fold_jobs(num_folds, plan.trials)
    files = subjects * RUNS * 3
    job_s = EPOCHS * windows_of(training) / BATCH * step_s(units, plan.gpu)
    opened = jobs * subjects * RUNS
    return {
        "shards, GB": subjects * RUNS * units.shard_bytes / 1e9,
        "cache of decoded runs on each node, GB": subjects * RUNS * cache_bytes_per_run() / 1e9,
        "manifest, MB": subjects * units.manifest_bytes / 1e6,
        "object storage: files": files,
        "requests to fill the nodes' caches": plan.nodes * files * units.requests_per_file,
        "core hours to decode all runs once": subjects * RUNS * units.decode_s / 3600,
        "fold jobs": jobs,
        "runs found in the cache, share": 1 - min(1.0, plan.nodes * subjects * RUNS / opened),
        "hours of one fold job": job_s / 3600,
        "GPU hours of the study": jobs * job_s / 3600,
        "days on the slots": jobs * job_s / plan.slots / 86400,
        "dollars of the study": jobs * job_s / 3600 * plan.gpu.dollars_per_hour,
        "ledger, MB": jobs * units.record_bytes / 1e6,
        "writes to the ledger, a second": plan.slots / job_s,
        "requests to MLflow, a second": units.requests_per_trial * plan.trials * plan.slots / (jobs * job_s),
        "metrics in MLflow": jobs,
        "driver's share of a core for Ray Tune": units.job_overhead_s * plan.slots / job_s,
        "Ray: actors at once": plan.slots,
        "Gram matrix of all windows, GB": 4 * windows_of(subjects) ** 2 / 1e9,
        "patterns without it: memory, GB": 4 * (windows_of(subjects) * 160 + 2 * VOXELS * 160) / 1e9,
        "patterns by reduced rank: features, GB": 8 * windows_of(subjects) * FEATURES / 1e9,
        "a fold's volumes for its baselines, GB": 4 * windows_of(subjects) * WEIGHING_VOXELS / 1e9,
        "further scores: reads of the ledger, hours": READS * num_folds * 2 * num_folds * units.read_s / 3600,
    }


def measured_units() -> Units:
    """Measure what one of each costs."""
    with tempfile.TemporaryDirectory() as folder:
        return Units(
            manifest_bytes=_manifest_bytes(Path(folder)),
            record_bytes=len(json.dumps(dataclasses.asdict(_example_record()))),
            read_s=_read_s(Path(folder)),
            flops_per_window=_flops_per_window(),
        )


def _manifest_bytes(folder: Path) -> float:
    """Return the bytes that a subject of six runs adds to a manifest."""
    sizes = dataclasses.replace(TINY, subjects=1, runs=RUNS, volumes=20)
    written = write_study(folder / "shards", sizes)
    without = dataclasses.replace(written, shards=())
    return float(_size_of(folder / "all", written) - _size_of(folder / "none", without))


def _size_of(folder: Path, manifest: Manifest) -> int:
    write_manifest(open_storage(folder), manifest)
    return (folder / MANIFEST).stat().st_size


def _example_record() -> FoldRecord:
    """Return a record as long as a job of ten epochs on a run of full length leaves."""
    series = [round(float(value), 4) for value in np.random.default_rng(0).standard_normal(VOLUMES - WINDOW_VOLUMES)]
    scores = tuple(float(value) for value in np.random.default_rng(1).random(EPOCHS))
    trace = {"subject": "sub-01", "task": "auditory", "run": 1, "target": series, "prediction": series}
    return FoldRecord(
        trial=1, fold=1, score=scores[0], test_score=scores[1], num_epochs=EPOCHS, loss=scores,
        validation=(scores, scores), trace=trace, stop_reason="no improvement", uses="transductive",
    )  # fmt: skip


def _read_s(folder: Path) -> float:
    """Return the seconds in which one of many attributes of a study is read, where all are."""
    ledger = open_ledger(f"sqlite:///{folder / 'studies.db'}", "scale", {})
    number = 300
    for fold in range(number):
        ledger.commit_baselines(fold, {f"baseline {which}": (0.1, 0.1) for which in range(9)})
    return best_cpu_of(ledger.baseline_folds) / number


def _flops_per_window() -> float:
    """Return the floating-point operations of one window through the default transformer, forward and backward."""
    rank = TrainingConfig().output_rank
    shape = ModelShape(
        num_channels=CHANNELS,
        num_samples=round(WINDOW_VOLUMES * REPETITION_TIME_S * RATE_HZ),
        num_volumes=WINDOW_VOLUMES,
        rate_hz=RATE_HZ,
        grid_shape=layout_of(TINY).grid_shape,
        voxel_indices=torch.zeros(1000, 3, dtype=torch.int64),
        basis=torch.zeros(rank, 1000),
    )
    known = ARCHITECTURES["transformer"]
    model = known.build(known.config(), shape).train()
    with FlopCounterMode(display=False) as counter:
        predicted = model(torch.zeros(BATCH, CHANNELS, shape.num_samples))
        LOSSES[TrainingConfig().loss].compute(predicted, torch.zeros(BATCH, rank), torch.ones(rank)).backward()
    return counter.get_total_flops() / BATCH


def table(units: Units, plan: Plan, subjects: Sequence[int] = SUBJECTS) -> str:
    """Return what studies of these sizes need, one column each."""
    columns = [needs(number, units, plan) for number in subjects]
    head = ["| | " + " | ".join(f"{number:,}" for number in subjects) + " |", "|---|" + "---:|" * len(subjects)]
    return "\n".join(
        [*head, *(f"| {name} | {' | '.join(_shown(column[name]) for column in columns)} |" for name in columns[0])]
    )


def gpu_table(units: Units, plan: Plan, subjects: Sequence[int] = SUBJECTS) -> str:
    """Return hours and dollars of studies of these sizes on each GPU."""
    rows = ["| GPU | ms a step | " + " | ".join(f"{number:,}: GPU hours, dollars" for number in subjects) + " |"]
    rows.append("|---|---:|" + "---:|" * len(subjects))
    for gpu in GPUS:
        found = [needs(number, units, dataclasses.replace(plan, gpu=gpu)) for number in subjects]
        cells = [f"{_shown(each['GPU hours of the study'])}, {_shown(each['dollars of the study'])}" for each in found]
        rows.append(f"| {gpu.name} | {1e3 * step_s(units, gpu):.1f} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _shown(value: float) -> str:
    """Return three digits of a number, the large ones without an exponent."""
    if value == 0 or not 1e-3 <= abs(value) < 1e9:
        return f"{value:.2g}"
    return f"{float(f'{value:.3g}'):,.10g}"


def largest_with_gram() -> int:
    """Return how many subjects a study may have that finds its patterns by a Gram matrix."""
    return math.isqrt(MOST_GRAM_BYTES // 4) // windows_of(1)


def measure() -> list[Row]:
    """Return the units that were measured."""
    units = measured_units()
    return [
        Row(benchmark="scale", what="a subject's part of a manifest, bytes", value=f"{units.manifest_bytes:.0f}"),
        Row(benchmark="scale", what="a fold job's record in the ledger, bytes", value=f"{units.record_bytes:.0f}"),
        Row(
            benchmark="scale",
            what="reading an attribute of a study, CPU microseconds",
            value=f"{1e6 * units.read_s:.0f}",
        ),
        Row(
            benchmark="scale",
            what="a window through the transformer, MFLOP",
            value=f"{units.flops_per_window / 1e6:.0f}",
        ),
        *_pattern_rows(),
    ]


def _pattern_rows() -> list[Row]:
    """Time patterns with and without a Gram matrix, on volumes of the whole mask."""
    rng = np.random.default_rng(0)
    runs = [rng.standard_normal((155, VOXELS), np.float32).astype(np.float16) for _ in range(12)]
    actions: dict[str, Callable[[], object]] = {
        "with": lambda: principal_components(gram_matrix(runs), runs, 128),
        "without": lambda: principal_components_by_passes(runs, runs, 128),
    }
    seconds = {name: best_cpu_of(action, repeats=1) for name, action in actions.items()}
    return [
        Row(
            benchmark="scale",
            what=f"128 patterns of 12 runs, {name} a Gram matrix, CPU s",
            value=f"{seconds[name]:.1f}",
            ratio=times(seconds[name], seconds["with"]),
        )
        for name in actions
    ]


def main() -> None:
    """Print the measured units and both tables."""
    print_table(measure())
    units, plan = measured_units(), Plan()
    print(f"\nPatterns by a Gram matrix up to {largest_with_gram()} subjects.\n\n{table(units, plan)}\n")
    print(gpu_table(units, plan))
    print("\nThe same with 16 groups of subjects in place of single ones:\n")
    print(table(units, dataclasses.replace(plan, num_folds=16)))


if __name__ == "__main__":
    main()
