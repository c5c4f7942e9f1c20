"""A process that trains one fold job, tells of every step and, if asked to, stands still in the middle of an epoch.

``python killable_job.py SHARDS STORAGE STAND_STILL_AT``: prints ``step`` after every step, and the record in the end.
"""

import dataclasses
import json
import sys
import threading
from pathlib import Path
from typing import Any

import torch

from platform.data import products
from platform.data.folds import leave_one_subject_out
from platform.data.products import DataSettings, StudyData
from platform.training import loop
from platform.training.config import Epochs
from platform.training.fold_job import run_fold_job
from platform.training.job import Job, Workers

NUM_EPOCHS = 5
CONFIGURATION = {
    "output_rank": 8, "width": 16, "num_heads": 2, "learning_rate": 3e-3, "batch_size": 30, "dropout": 0.1,
    "weight_average": 0.9,
}  # fmt: skip


def killable_job(shards: Path, storage: Path, **changes: object) -> Job:
    """Return a fold job that leaves a snapshot after every epoch."""
    data = DataSettings(shards=str(shards), cache_folder=str(shards.parent / "cache"))
    return Job(
        data=data,
        architecture="transformer",
        configuration={**CONFIGURATION, **changes},
        epochs=Epochs(maximum=NUM_EPOCHS, patience=NUM_EPOCHS),
        seed=1,
        trial=0,
        fold=leave_one_subject_out(StudyData(data).manifest.subjects, 0)[0],
        storage=str(storage),
        seconds_between_snapshots=0.0,
    )


def main() -> None:
    """Train the job."""
    shards, storage, stand_still_at = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    products.MAX_RANK = 16
    real_step, steps = loop._step, iter(range(1, 10_000))

    def told(*arguments: Any) -> float:
        loss = real_step(*arguments)
        print("step", flush=True)
        if next(steps) == stand_still_at:
            threading.Event().wait()
        return loss

    loop._step = told
    record = run_fold_job(killable_job(shards, storage), Workers())
    print(json.dumps(dataclasses.asdict(dataclasses.replace(record, seconds=0.0))))


if __name__ == "__main__":
    main()
