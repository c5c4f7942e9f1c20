"""``python -m benchmarks.limited_memory SHARDS CACHE SHARE``: seconds per batch where a SHARE of the cache fits.

Run by ``benchmarks.training``, with a cache folder that does not exist yet.  The process puts itself into a memory
control group (version 1) below its own, whose limit is what the process needs without the cache, and that share of the
cache; with 1 there is no limit.  Needs root; ends with 1 where it has no such group.
"""

import mmap
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from platform.data.products import DataSettings, StudyData
from platform.data.training_set import TrainingSet
from platform.models import ARCHITECTURES
from platform.training.config import Epochs, TrainingConfig
from platform.training.loop import train

GROUPS = Path("/sys/fs/cgroup/memory")
LIMIT, MEMBERS = "memory.limit_in_bytes", "cgroup.procs"
EPOCHS = 4


def main() -> int:
    """Train a few epochs and print the seconds per batch of the fastest but the first."""
    shards, cache, share = sys.argv[1], sys.argv[2], float(sys.argv[3])
    torch.set_num_threads(1)
    settings = DataSettings(shards=shards, cache_folder=cache)
    if share >= 1:
        print(seconds_per_batch(StudyData(settings)))
        return 0
    if not own_group().is_dir() or not os.access(own_group(), os.W_OK):
        return 1
    with group_below(own_group()) as group:
        print(seconds_per_batch(StudyData(settings), group, share))
    return 0


def own_group() -> Path:
    """Return the memory group of this process."""
    lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    name = next((line.split(":", 2)[2] for line in lines if ":memory:" in line), "/none")
    return GROUPS / name.lstrip("/")


@contextmanager
def group_below(parent: Path) -> Iterator[Path]:
    """Make this process the one member of a new group for as long as a ``with`` lasts."""
    group = parent / f"benchmark-{os.getpid()}"
    group.mkdir()
    (group / MEMBERS).write_text(str(os.getpid()))
    try:
        yield group
    finally:
        (parent / MEMBERS).write_text(str(os.getpid()))
        group.rmdir()


def seconds_per_batch(data: StudyData, group: Path | None = None, share: float = 1.0) -> float:
    """Return the seconds of a batch of the fastest epoch; the limit holds from the second epoch on."""
    runs = data.runs_of(data.manifest.subjects)
    rank = TrainingConfig().output_rank
    num_windows = sum(run.num_windows for run in runs)
    training = TrainingSet(runs=runs, coefficients_NK=torch.zeros(num_windows, rank), weights_K=torch.ones(rank))
    patterns_KV = np.zeros((rank, data.manifest.layout.num_voxels), np.float32)
    known = ARCHITECTURES["fully_connected"]
    model = known.build(known.config(), data.model_shape(patterns_KV))
    seconds = []
    for epoch in range(EPOCHS):
        start = time.perf_counter()
        train(model, training, TrainingConfig(), Epochs(maximum=1), epoch)
        seconds.append(time.perf_counter() - start)
        if group is not None and not epoch:
            limit(group, data, share)
    return min(seconds[1:]) / (-(-num_windows // TrainingConfig().batch_size))


def limit(group: Path, data: StudyData, share: float) -> None:
    """Let the group have as much as its process has of its own, and a share of the cache."""
    cache_bytes = sum(path.stat().st_size for path in (data.folder / "runs").glob("*-eeg-*.arrow"))
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    own_kb = next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))
    pages = (own_kb * 1024 + int(share * cache_bytes)) // mmap.PAGESIZE
    (group / LIMIT).write_text(str(pages * mmap.PAGESIZE))


if __name__ == "__main__":
    sys.exit(main())
