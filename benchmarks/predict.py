"""``python -m benchmarks.predict [--minutes 20 60]``: what volumes from hours of new EEG cost.

Trains the default transformer for one epoch on a simulated study (34 channels at 1000 Hz, 64 820 voxels), packages it,
and predicts recordings of noise of these lengths, one core and a process each; gives processor seconds, and the
memory that such a process has of its own at the most.  Pages of files, which the system takes back, do not count.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import mne
import numpy as np
import torch

from benchmarks.table import Row, print_table
from datasets.simulator.shards import simulate_shards
from datasets.simulator.study import SimulationSettings
from platform.data.folds import leave_one_subject_out
from platform.data.products import DataSettings
from platform.predict import predict_file
from platform.prediction.portable import PortableModel
from platform.proposals.samplers import propose
from platform.tracking.packaging import Package, write_package
from platform.training.fold_job import Job, Worker, train_fold, whole_model
from platform.training.fold_models import exported
from platform.training.loop import Epochs
from search_spaces import SEARCH_SPACES

NAME = "predict"
ARCHITECTURE = "transformer"
RATE_HZ = 1000
MINUTES = (20, 60)
LOOKS_PER_SECOND = 20
ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def main() -> None:
    """Measure and print, or predict one recording for that."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", nargs="+", type=int, default=MINUTES)
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "EEG"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(_one(Path(chosen.one[0]), Path(chosen.one[1]))))
    else:
        print_table(measure(chosen.minutes))


def measure(lengths_minutes: Sequence[int] = MINUTES) -> list[Row]:
    """Make a model, and predict a recording of every length."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = _default_model(folder)
        for minutes in lengths_minutes:
            eeg = _noise(folder / "noise_eeg.fif", PortableModel(model).channel_names, minutes)
            found = _in_a_process(model, eeg)
            speed = 60 * minutes / found["processor_s"]
            what = f"{minutes} minutes of EEG, {RATE_HZ} Hz"
            rows += [
                _row(f"{what}: processor time, s", f"{found['processor_s']:.0f}"),
                _row(f"{what}: times real time on one core", f"{speed:.0f}"),
                _row(f"{what}: memory of its own, MB", f"{found['memory_mb']:.0f}"),
            ]
            eeg.unlink()
    return rows


def _default_model(folder: Path) -> Path:
    """Train the default configuration for one epoch and package it."""
    simulate_shards(folder / "shards", SimulationSettings(subjects=4, runs=1, volumes=60), 1, RATE_HZ)
    data = DataSettings(shards=str(folder / "shards"), cache_folder=str(folder / "cache"))
    configuration = propose([], "random", SEARCH_SPACES[ARCHITECTURE], 0, 0).configuration
    fold = leave_one_subject_out([f"sub-{number:02d}" for number in range(1, 5)], 0)[0]
    epochs = Epochs(maximum=1, patience=1)
    job = Job(
        data=data, architecture=ARCHITECTURE, configuration=configuration, epochs=epochs, seed=0, trial=0, fold=fold
    )
    trained = train_fold(job, Worker())
    shape = trained.data.model_shape(None)
    program = exported(whole_model(job, trained), shape.num_channels, shape.num_samples)
    package = Package(program=program, configuration=configuration, trained_on=fold.training)
    write_package(folder / "model", package, trained.data)
    return folder / "model"


def _noise(path: Path, names: Sequence[str], minutes: int) -> Path:
    """Write a recording of noise in microvolts, a minute of which is repeated."""
    minute = np.random.default_rng(0).standard_normal((len(names), 60 * RATE_HZ)).astype(np.float32) * 2e-5
    info = mne.create_info(list(names), RATE_HZ, "eeg")
    mne.io.RawArray(np.tile(minute, minutes), info, verbose="error").save(path, overwrite=True, verbose="error")
    return path


def _in_a_process(model: Path, eeg: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.predict", "--one", str(model), str(eeg)]
    done = subprocess.run(command, env={**os.environ, **ONE_CORE}, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _one(folder: Path, eeg: Path) -> dict[str, float]:
    torch.set_num_threads(1)
    most_kb, is_over = [0], threading.Event()

    def look() -> None:
        while not is_over.wait(1 / LOOKS_PER_SECOND):
            most_kb[0] = max(most_kb[0], _own_kb())

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    start = time.process_time()
    predict_file(PortableModel(folder), eeg, eeg.with_name("bold.nii.gz"), name="benchmark")
    processor_s = time.process_time() - start
    is_over.set()
    watcher.join()
    return {"processor_s": processor_s, "memory_mb": most_kb[0] / 1024}


def _own_kb() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def _row(what: str, value: str) -> Row:
    return Row(benchmark=NAME, what=what, value=value)


if __name__ == "__main__":
    main()
