"""A logged model in a fresh virtual environment that holds only what the model's requirements name."""

import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from small_study import NUM_CHANNELS, NUM_VOXELS, RATE_HZ, write_small_study
from torch import nn

from platform.data.products import DataSettings, StudyData
from platform.models import Volumes
from platform.prediction.portable import PortableModel
from platform.tracking.logged_model import log_packaged
from platform.tracking.packaging import Package
from platform.training.fold_models import exported

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SAMPLES = 30 * 125
PREDICT = """
import sys, importlib.util
import mlflow, numpy
assert all(importlib.util.find_spec(name) is None for name in ("datasets", "search_spaces", "mne", "ray", "optuna"))
model = mlflow.pyfunc.load_model(sys.argv[1])
numpy.save(sys.argv[3], model.predict(numpy.load(sys.argv[2])))
"""


def logged_model(folder: Path) -> Path:
    """Log a small model to MLflow's database and return where its files lie."""
    shards = write_small_study(folder / "shards", subjects=1, runs=1)
    data = StudyData(DataSettings(shards=str(shards), cache_folder=str(folder / "cache")))
    inner = nn.Sequential(nn.Flatten(), nn.Linear(NUM_CHANNELS * SAMPLES, 3))
    model = Volumes(inner, torch.randn(3, NUM_VOXELS, generator=torch.Generator().manual_seed(0)))
    package = Package(program=exported(model, NUM_CHANNELS, SAMPLES), configuration={}, trained_on=("sub-01",))
    before, uri = mlflow.get_tracking_uri(), f"sqlite:///{folder}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    try:
        client = MlflowClient(uri)
        experiment = client.create_experiment("elsewhere", (folder / "artifacts").as_uri())
        run_id = client.create_run(experiment).info.run_id
        logged, _ = log_packaged(run_id, "model", package, data)
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=logged, dst_path=str(folder / "model")))
    finally:
        mlflow.set_tracking_uri(before)


def test_a_logged_model_predicts_where_only_its_requirements_are_installed(tmp_path):
    logged = logged_model(tmp_path)
    eeg_CN = np.random.default_rng(0).standard_normal((NUM_CHANNELS, 40 * RATE_HZ)).astype(np.float32)
    np.save(tmp_path / "eeg.npy", eeg_CN)
    fresh = tmp_path / "fresh"
    subprocess.run([sys.executable, "-m", "venv", fresh], check=True)
    python = fresh / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--requirement", logged / "requirements.txt"]
    subprocess.run(install, check=True, timeout=1500)
    words = [python, "-I", "-c", PREDICT, logged, tmp_path / "eeg.npy", tmp_path / "volumes.npy"]
    subprocess.run(words, check=True, timeout=300, cwd=fresh)
    expected = PortableModel(logged / "data" / "model").predict(eeg_CN)
    np.testing.assert_allclose(np.load(tmp_path / "volumes.npy"), expected, atol=1e-6)
