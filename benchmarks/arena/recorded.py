"""A recorded table: what configurations scored on every fold after every epoch, and in how many seconds.

``python -m benchmarks.arena.recorded SHARDS FOLDER FILE`` draws configurations of the network on band power as
``--sampler random`` does, runs each on every fold by the function that a search runs, and writes the table; FOLDER
keeps the cache and every job, so that the same command goes on.  For the arena a seed only puts them in another
order; a configuration's truth is its mean over all folds: full scoring has no regret, and folds are all there is.

Suffixes: T configurations, F folds, E epochs, D parameters.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.arena.tables import ScoreTable
from datasets.shards import read_manifest
from datasets.storage import open_storage
from platform.data.folds import leave_one_subject_out
from platform.data.products import DataSettings
from platform.proposals.samplers import Proposal, propose
from platform.training.config import Epochs
from platform.training.fold_job import run_fold_job
from platform.training.job import Job, Workers, job_seed
from search_spaces import SEARCH_SPACES

ARCHITECTURE = "band_power"
NUM_CONFIGURATIONS, MAX_EPOCHS, RATE_HZ, SEED = 100, 4, 125, 0
RECORDED = "recorded"
FILE = Path(__file__).with_name("recorded.npz")


def recorded_table(seed: int) -> ScoreTable:
    """Return the recorded study with its configurations in an order drawn from the seed, in units of their spread."""
    with np.load(FILE) as found:
        order_T = np.random.default_rng(seed).permutation(len(found["scores_TF"]))
        features_TD, scores_TF, seconds_TF = (
            found[name][order_T].astype(float) for name in ("features_TD", "scores_TF", "seconds_TF")
        )
    means_T = scores_TF.mean(axis=1)
    return ScoreTable(
        features_TD=features_TD,
        effects_T=means_T / means_T.std(),
        scores_TF=scores_TF / means_T.std(),
        seconds_TF=seconds_TF,
    )


def recorded_jobs(shards: str, folder: Path, num_configurations: int) -> list[list[dict[str, Any]]]:
    """Run every configuration on every fold, but those that the folder holds; return score, seconds and curve by both.

    A line of ``jobs.jsonl`` is a configuration's jobs; one that was cut off is run again.
    """
    data = DataSettings(shards=shards, cache_folder=str(folder / "cache"), rate_hz=RATE_HZ)
    folds = leave_one_subject_out(read_manifest(open_storage(shards)).subjects, SEED)
    place = folder / "jobs.jsonl"
    lines = place.read_text(encoding="utf-8").splitlines(keepends=True) if place.exists() else []
    found: list[list[dict[str, Any]]] = [json.loads(line) for line in lines if line.endswith("\n")]
    for trial in range(len(found), num_configurations):
        jobs = []
        for fold in folds:
            job = Job(
                data=data, architecture=ARCHITECTURE, configuration=proposal(trial).configuration, fold=fold,
                trial=trial, seed=job_seed(SEED, trial, fold.number), epochs=Epochs(maximum=MAX_EPOCHS),
            )  # fmt: skip
            record = run_fold_job(job, Workers(storage=str(folder / "jobs")))
            curve = np.mean(record.validation, axis=0).tolist()
            jobs.append({"score": record.score, "seconds": record.seconds, "curve": curve})
        with place.open("a", encoding="utf-8") as file:
            file.write(json.dumps(jobs) + "\n")
        found.append(jobs)
        logging.info("configuration %d of %d", trial + 1, num_configurations)
    return found


def proposal(trial: int) -> Proposal:
    """Return the configuration of a number, as a search with the random sampler draws it."""
    return propose([], "random", SEARCH_SPACES[ARCHITECTURE], SEED, trial)


def write_table(file: Path, jobs: list[list[dict[str, Any]]], parameters: list[dict[str, Any]]) -> None:
    """Write the table of jobs, configurations by folds, in 32 bits and compressed."""
    curves_TFE = np.full((len(jobs), len(jobs[0]), max(len(job["curve"]) for each in jobs for job in each)), np.nan)
    for at, of_trial in enumerate(jobs):
        for fold, job in enumerate(of_trial):
            curves_TFE[at, fold, : len(job["curve"])] = job["curve"]
    np.savez_compressed(
        file,
        features_TD=features(parameters),
        scores_TF=np.array([[job["score"] for job in each] for each in jobs], dtype=np.float32),
        seconds_TF=np.array([[job["seconds"] for job in each] for each in jobs], dtype=np.float32),
        curves_TFE=curves_TFE.astype(np.float32),
    )


def features(parameters: list[dict[str, Any]]) -> NDArray[np.float32]:
    """Return parameters as numbers in [0, 1]: choices one column each, and 0 where a trial has no such parameter."""
    columns = []
    for name in sorted({name for each in parameters for name in each}):
        values = [each.get(name) for each in parameters]
        if any(isinstance(value, str) for value in values):
            choices = sorted({str(value) for value in values if value is not None})
            columns += [[float(value == choice) for value in values] for choice in choices]
        else:
            numbers = np.array([np.nan if value is None else float(value) for value in values])
            low, high = np.nanmin(numbers), np.nanmax(numbers)
            columns.append(np.nan_to_num((numbers - low) / ((high - low) or 1.0)).tolist())
    return np.array(columns, dtype=np.float32).T


def main() -> None:
    """Run what is missing, and write the table."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arena.recorded", description=__doc__)
    parser.add_argument("shards", metavar="SHARDS", help="a prepared or simulated study")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="cache, and the jobs that have run")
    parser.add_argument("file", metavar="FILE", type=Path, help="the table")
    parser.add_argument("--configurations", metavar="N", type=int, default=NUM_CONFIGURATIONS)
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    jobs = recorded_jobs(chosen.shards, chosen.folder, chosen.configurations)
    write_table(chosen.file, jobs, [dict(proposal(trial).params) for trial in range(len(jobs))])
    print(f"{len(jobs)} configurations x {len(jobs[0])} folds: {chosen.file}")


if __name__ == "__main__":
    main()
