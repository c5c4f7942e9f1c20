"""Windows per CPU second on the way to a batch of 32 x 34 x 30000 float32, one core.

Takes nothing; gives rows: a plain copy of as many bytes as the limit, the platform's own batches from memory-mapped
float16 (into memory used again, and into a new batch each time), and two ways that look natural.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.study import FULL, write_study
from benchmarks.table import Row, best_cpu_of, print_table, times
from datasets.storage import open_storage
from platform.data.windows import WINDOW_VOLUMES, CachedRun, RunCache, eeg_batch, window_index

BATCH_SIZE = 32
SIZES = replace(FULL, voxels=100, grid=(5, 5, 4), runs=2)


def measure() -> list[Row]:
    """Fill batches in every way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return [*_ways(_cached_runs(Path(folder), 1000)), *_slower_rate(_cached_runs(Path(folder), 125))]
    finally:
        torch.set_num_threads(threads)


def _cached_runs(folder: Path, rate_hz: int) -> list[CachedRun]:
    manifest = write_study(folder / "shards", SIZES)
    storage = open_storage(folder / "shards")
    cache = RunCache(folder=folder / "cache", storage=storage, manifest=manifest, rate_hz=rate_hz)
    return cache.open_subject("sub-01")


def _ways(runs: list[CachedRun]) -> list[Row]:
    index_B2 = _a_batch(runs)
    source, target = torch.ones((2, BATCH_SIZE, SIZES.channels, _samples(runs[0])))
    actions: dict[str, Callable[[], object]] = {
        "memcpy of the same float32 (the limit)": lambda: target.copy_(source),
        "memory-mapped float16 into memory that is used again (eeg_batch)": lambda: eeg_batch(runs, index_B2),
        "the same into a new batch each time": lambda: _copied_into(torch.empty_like(target), runs, index_B2),
        "numpy: stack, then astype(float32)": lambda: _stacked(runs, index_B2),
        "unfold and fancy index of float32 runs in memory": _unfolding(runs, index_B2),
    }
    speeds = {name: BATCH_SIZE / best_cpu_of(action, repeats=4) for name, action in actions.items()}
    limit = next(iter(speeds.values()))
    return [_row(name, speed, limit) for name, speed in speeds.items()]


def _slower_rate(runs: list[CachedRun]) -> list[Row]:
    index_B2 = _a_batch(runs)
    speed = BATCH_SIZE / best_cpu_of(lambda: eeg_batch(runs, index_B2), repeats=20)
    return [Row(benchmark="batches", what="eeg_batch at 125 Hz, windows per CPU s", value=f"{speed:.0f}")]


def _a_batch(runs: list[CachedRun]) -> np.ndarray:
    return np.random.default_rng(0).permutation(window_index(runs))[:BATCH_SIZE]


def _samples(run: CachedRun) -> int:
    return WINDOW_VOLUMES * run.samples_per_volume


def _copied_into(target_BCS: Tensor, runs: list[CachedRun], index_B2: np.ndarray) -> None:
    for row_CS, (which, window) in zip(target_BCS, index_B2.tolist(), strict=True):
        start = window * runs[which].samples_per_volume
        row_CS.copy_(runs[which].eeg[:, start : start + row_CS.shape[1]])


def _stacked(runs: list[CachedRun], index_B2: np.ndarray) -> Tensor:
    windows = [runs[int(which)].window(int(window)) for which, window in index_B2]
    return torch.from_numpy(np.stack(windows).astype(np.float32))


def _unfolding(runs: list[CachedRun], index_B2: np.ndarray) -> Callable[[], object]:
    """Return the way that a tutorial shows: all windows of a run as a view, of which a batch takes some."""
    run = torch.from_numpy(runs[0].eeg_CS.astype(np.float32))
    windows_NCS = run.unfold(1, _samples(runs[0]), runs[0].samples_per_volume).transpose(0, 1)
    chosen_B = torch.from_numpy(index_B2[:, 1].copy())
    return lambda: windows_NCS[chosen_B]


def _row(name: str, speed: float, limit: float) -> Row:
    return Row(benchmark="batches", what=f"{name}, windows per CPU s", value=f"{speed:.0f}", ratio=times(speed, limit))


if __name__ == "__main__":
    print_table(measure())
