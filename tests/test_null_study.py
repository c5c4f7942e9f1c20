"""Where nothing couples EEG and BOLD, nothing is found: ridge and the transformer score as on run-swapped EEG."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from searching import ROOT, environment

from platform.data.folds import leave_one_subject_out
from platform.data.products import DataSettings, StudyData
from platform.data.windows import PAIRINGS
from platform.proposals.samplers import propose
from platform.training.config import Epochs
from platform.training.data_jobs import score_baselines
from platform.training.fold_job import run_fold_job
from platform.training.job import Job, Workers, job_seed
from search_spaces import SEARCH_SPACES

SEEDS = (0, 1, 2)
STANDARD_ERRORS = 3.0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_without_coupling_scores_sit_where_run_swapped_eeg_puts_them(tmp_path):
    """Three simulated studies of six subjects; differences paired by fold, all folds of all studies together."""
    scores = [scores_of_study(tmp_path / str(seed), seed) for seed in SEEDS]
    for name in ("ridge_band_power", "transformer"):
        recorded, swapped = (
            np.array([score for study in scores for score in study[pairing][name]])
            for pairing in ("recorded", "run-swapped")
        )
        difference = recorded - swapped
        error = difference.std(ddof=1) / np.sqrt(len(difference))
        by_seed = difference.reshape(len(SEEDS), -1).mean(axis=1)
        print(f"{name}: recorded {recorded.mean():+.4f}, run-swapped {swapped.mean():+.4f}, by seed {by_seed.round(4)}")
        assert abs(difference.mean()) < STANDARD_ERRORS * error + 0.005
        assert abs(recorded.mean()) < 0.03


def scores_of_study(folder, seed):
    """Simulate and prepare one uncoupled study; return test scores per fold of ridge and the default transformer."""
    raw, shards = str(folder / "raw"), str(folder / "shards")
    options = ("--subjects", "6", "--runs", "2", "--volumes", "120", "--signal", "none", "--workers", "2")
    for command in (("datasets.simulate", raw, *options, "--seed", str(seed)), ("datasets.prepare", raw, shards)):
        subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=environment(folder), check=True, timeout=900)
    scores = {pairing: scores_of_pairing(folder, shards, pairing, seed) for pairing in PAIRINGS}
    print(f"seed {seed}: {scores}", flush=True)
    return scores


def scores_of_pairing(folder, shards, pairing, seed):
    settings = DataSettings(shards=shards, cache_folder=str(folder / "cache"), pairing=pairing)
    folds = leave_one_subject_out(StudyData(settings).manifest.subjects, seed)
    with ThreadPoolExecutor(2) as pool:
        ridge = [score_baselines(settings, fold)[1]["ridge_band_power"].test for fold in folds]
        transformer = list(pool.map(lambda fold: transformer_score(settings, fold, seed), folds))
    return {"ridge_band_power": ridge, "transformer": transformer}


def transformer_score(settings, fold, seed):
    job = Job(
        data=settings,
        architecture="transformer",
        configuration=propose([], "tpe", SEARCH_SPACES["transformer"], seed, 0).configuration,
        epochs=Epochs(maximum=4),
        seed=job_seed(seed, 0, fold.number),
        trial=0,
        fold=fold,
    )
    return run_fold_job(job, Workers()).test_score
