"""How often a whole search comes to the right verdict: simulated studies whose right verdict is known.

``python -m benchmarks.verdicts FOLDER [--studies N] [--controls NAME ...]`` searches N studies of each control by what
``platform.selftest`` and every search run: simulated shards, baselines, racing, fold jobs, sealed test scores, the
winner trained again for its further scores, findings, verdict.  Only where jobs run is another matter: in this process,
one after the other.  To be cheap, a study has few places of the mask, the search few trials of few steps.

Each study keeps its ledger in FOLDER; the same command goes on where it stopped, and prints what is there.
"""

import argparse
import logging
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import torch
from scipy.stats import binomtest

from benchmarks.table import Row, print_table
from datasets.cluster import in_this_process
from datasets.simulator.study import SimulationSettings, in_processes
from platform.data.products import DataSettings
from platform.evidence.findings import Findings
from platform.evidence.verdict import EEG_SPECIFIC, WORDS
from platform.selftest import CLAIMS, NAMED, PLACEHOLDER, control
from platform.study.settings import StudySettings
from platform.tracking.runs import TrackingSettings
from platform.training.fold_job import Workers
from platform.training.loop import Epochs

WANTED = {**NAMED, "realistic": EEG_SPECIFIC, "hard": EEG_SPECIFIC}
"""The verdict that says what is there, and no less, by what is simulated."""
SUBJECTS, RUNS, VOLUMES, EVERY = 8, 2, 170, 4
NUM_TRIALS, MAX_EPOCHS = 3, 5


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Ask for one small network on band power whose epochs have few steps."""
    return {
        "num_layers": 0,
        "dropout": 0.0,
        "norm": "batch",
        "output": "responsive",
        "output_rank": trial.suggest_categorical("output_rank", [8, 32]),
        "weight_decay": trial.suggest_float("weight_decay", 1e-4, 1.0, log=True),
        "batch_size": 256,
        "learning_rate": trial.suggest_float("learning_rate", 3e-4, 1e-2, log=True),
    }


def settings(seed: int = 0) -> StudySettings:
    """Return the search, which knows no place yet."""
    return StudySettings(
        name="verdicts",
        architecture="band_power",
        data=DataSettings(shards=PLACEHOLDER, cache_folder=""),
        storage_url="",
        tracking=TrackingSettings(uri=""),
        workers=Workers(),
        num_trials=NUM_TRIALS,
        search_space="benchmarks.verdicts:suggest",
        seed=seed,
        epochs=Epochs(maximum=MAX_EPOCHS, patience=3),
        progress="plain",
    )


def study(folder: Path, signal: str, seed: int) -> tuple[str, int, Findings]:
    """Search a study, or read what was found in it; return what it is of, and that."""
    torch.set_num_threads(1)
    logging.getLogger("optuna").setLevel(logging.WARNING)
    simulated = SimulationSettings(subjects=SUBJECTS, runs=RUNS, volumes=VOLUMES, signal=signal, seed=seed)
    place = folder / f"{signal}-{seed:04d}"
    place.mkdir(parents=True, exist_ok=True)
    with in_this_process():
        return signal, seed, control(settings(), simulated, place, every=EVERY)


def main() -> None:
    """Search, or read, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdicts", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="keeps a ledger for each study")
    parser.add_argument("--studies", type=int, default=200, help="of each control")
    parser.add_argument("--first", type=int, default=0, help="seed of the first study")
    parser.add_argument("--controls", nargs="+", choices=list(WANTED), default=list(WANTED))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    chosen = parser.parse_args()
    seeds = range(chosen.first, chosen.first + chosen.studies)
    jobs = [(study, chosen.folder.absolute(), signal, seed) for seed in seeds for signal in chosen.controls]
    found: dict[str, list[str]] = {}
    for signal, seed, of_study in in_processes(jobs, chosen.workers):
        found.setdefault(signal, []).append(of_study.verdict.word)
        print(f"{signal} {seed}: {of_study.verdict.word}; {'; '.join(of_study.verdict.reasons)}", file=sys.stderr)
    print_table([row for signal in chosen.controls for row in rows(signal, found[signal])])


def rows(signal: str, verdicts: Sequence[str]) -> list[Row]:
    """Return how often a control was named, how often it fooled nobody, and all verdicts with their numbers."""
    counts, number = Counter(verdicts), len(verdicts)
    all_words = ", ".join(f"{word} {counts[word]}" for word in WORDS if counts[word])
    found = [_row(f"{signal}: {WANTED[signal]}", counts[WANTED[signal]], number, all_words)]
    if WANTED[signal] not in CLAIMS:
        found.append(_row(f"{signal}: no claim of EEG", number - sum(counts[claim] for claim in CLAIMS), number))
    return found


def _row(what: str, count: int, number: int, words: str = "") -> Row:
    interval = _interval(count, number)
    return Row(benchmark="verdicts", what=what, value=f"{count} of {number}: {interval}", ratio=words)


def _interval(count: int, number: int) -> str:
    found = binomtest(count, number).proportion_ci(0.95, "exact")
    return f"{count / number:.0%} ({found.low:.0%} to {found.high:.0%})"


if __name__ == "__main__":
    main()
