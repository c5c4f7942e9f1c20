"""Methods that reach subjects never seen, in whole fold jobs of every architecture."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from small_study import NUM_CHANNELS, write_small_study

from platform.data import products
from platform.data.folds import leave_one_subject_out
from platform.data.products import DataSettings, StudyData
from platform.data.windows import eeg_batch, window_index
from platform.models import ARCHITECTURES, Volumes
from platform.models.ensemble import Ensemble
from platform.prediction.alignment import euclidean_mean, piece_covariances
from platform.training.across_subjects import what_it_uses
from platform.training.config import Epochs
from platform.training.fold_job import run_fold_job
from platform.training.job import Job, Workers
from platform.training.job_model import build_model, job_features, job_inputs, open_data

METHODS = {
    "aligned": {"alignment": "euclidean"},
    "aligned by the geometric mean": {"alignment": "riemannian"},
    "moved to what training subjects share": {"alignment": "monge"},
    "layers of subjects": {"subject_layers": True},
    "adversary": {"adversary_weight": 0.1},
    "coral": {"coral_weight": 100.0, "order": "subject_pieces"},
    "ensemble": {"num_members": 3},
    "together": {"num_members": 3, "subject_layers": True, "alignment": "euclidean", "weight_average": 0.9},
}


@pytest.fixture(scope="module", autouse=True)
def _few_patterns_and_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "MAX_RANK", 16)
        yield
    torch.set_num_threads(threads)
    open_data.cache_clear()


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "shards"
    return write_small_study(folder, subjects=6, runs=1, volumes=60, coupling=2.0)


def job(shards: Path, architecture: str, **changes: object) -> Job:
    data = DataSettings(shards=str(shards), cache_folder=str(shards.parent / "cache"))
    return Job(
        data=data,
        architecture=architecture,
        configuration={"output_rank": 8, "learning_rate": 3e-3, "batch_size": 32, "dropout": 0.0, **changes},
        epochs=Epochs(maximum=2, patience=9),
        seed=1,
        trial=0,
        fold=leave_one_subject_out(StudyData(data).manifest.subjects, 0)[0],
    )


def model_of(wanted: Job) -> tuple[torch.nn.Module, torch.Tensor | None, StudyData]:
    data = StudyData(wanted.data)
    return *build_model(wanted, data, data.training_products(wanted.training_subjects)), data


@pytest.mark.parametrize(
    ("architecture", "method"),
    [*(("band_power", method) for method in METHODS), ("convolutional", "aligned"), ("convolutional", "together")],
)
def test_a_method_trains_to_another_score_and_to_the_same_again(architecture, method, study):
    plain, with_method, again = (
        run_fold_job(job(study, architecture, **changes), Workers())
        for changes in ({"order": METHODS[method].get("order", "shuffled")}, METHODS[method], METHODS[method])
    )
    assert with_method.stop_reason == "all epochs"
    assert with_method.loss[-1] < with_method.loss[0]
    assert with_method.score != plain.score
    assert dataclasses.replace(again, seconds=0.0) == dataclasses.replace(with_method, seconds=0.0)


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - {"band_power", "convolutional"}))
def test_every_other_architecture_takes_the_methods_too(architecture, study):
    for method in ("together", "adversary"):
        changes = METHODS[method] | ({"coral_weight": 1.0} if method == "adversary" else {})
        wanted = dataclasses.replace(job(study, architecture, **changes), epochs=Epochs(maximum=1))
        record = run_fold_job(wanted, Workers())
        assert record.score is not None and record.stop_reason == "all epochs"


def test_inputs_of_a_job_are_eeg_whose_mean_covariance_is_the_identity(study):
    wanted = job(study, "convolutional", alignment="euclidean")
    data = StudyData(wanted.data)
    read = job_inputs(wanted, data)
    for subject in (wanted.fold.test, wanted.fold.training[0]):
        runs = data.runs(subject)
        every_15th = window_index(runs)[::15]
        eeg_CS = np.concatenate(list(read(runs, every_15th).numpy()), axis=1)
        mean_CC = euclidean_mean(piece_covariances(eeg_CS, 125))
        assert np.abs(mean_CC - np.eye(NUM_CHANNELS)).max() < 0.3
        assert np.abs(euclidean_mean(piece_covariances(runs[0].eeg_CS, 125)) - np.eye(NUM_CHANNELS)).max() > 0.4


def test_cached_features_of_aligned_eeg_are_not_those_of_other_eeg(study):
    wanted = job(study, "band_power")
    data = StudyData(wanted.data)
    features = job_features(wanted, data)
    plain, aligned = (data.window_features("sub-01", "band_power", features, name)[0] for name in ("none", "euclidean"))
    run = data.runs("sub-01")[0]
    read = data.eeg_inputs(["sub-01"], "euclidean", [])
    np.testing.assert_allclose(
        aligned[:3], features(read([run], window_index([run])[:3])).numpy(), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        plain[:3], features(eeg_batch([run], window_index([run])[:3])).numpy(), rtol=1e-4, atol=1e-4
    )
    assert not np.allclose(plain, aligned)


def test_members_of_an_ensemble_weigh_by_similarity_for_the_subjects_scored_and_for_no_others(study):
    wanted = job(study, "band_power", num_members=5)
    model, _, _ = model_of(wanted)
    assert isinstance(model, Ensemble)
    assert len(model.members) == len(wanted.fold.training) == 3  # no more than there are subjects to leave out
    assert set(model.known) == {*wanted.fold.validation, wanted.fold.test}
    assert all(float(weights.sum()) == pytest.approx(1) for weights in model.known.values())
    refit = dataclasses.replace(wanted, fold=None, subjects=wanted.fold.training)
    assert model_of(refit)[0].known == {}


@pytest.mark.parametrize("changes", [{"norm": "subject"}, METHODS["layers of subjects"], METHODS["ensemble"]], ids=str)
@pytest.mark.parametrize("architecture", ["band_power", "convolutional"])
def test_the_exported_program_does_as_the_model_does(architecture, changes, study):
    wanted = job(study, architecture, **changes)
    model, basis, data = model_of(wanted)
    volumes = Volumes(model, basis, job_features(wanted, data)).eval()
    recording = data.runs("sub-01")[0]
    eeg_BCS = eeg_batch([recording], window_index([recording])[:6])
    dynamic = {"eeg_BCS": {0: torch.export.Dim("windows", min=1, max=64)}}
    program = torch.export.export(volumes, (eeg_BCS[:2],), dynamic_shapes=dynamic).module()
    for num_windows in (1, 6):
        torch.testing.assert_close(program(eeg_BCS[:num_windows]), volumes(eeg_BCS[:num_windows]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("configuration", "uses"),
    [
        ({}, "inductive"),
        ({"alignment": "none", "num_members": 1, "norm": "batch"}, "inductive"),
        ({"subject_layers": True, "adversary_weight": 1.0, "coral_weight": 1.0, "order": "shuffled"}, "inductive"),
        ({"alignment": "euclidean"}, "transductive"),
        ({"alignment": "riemannian"}, "transductive"),
        ({"norm": "subject"}, "transductive"),
        ({"num_members": 3}, "transductive"),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_configuration_uses_of_the_subject_scored_is_told(configuration, uses):
    assert what_it_uses("band_power", {"norm": "batch", **configuration}) == uses


def test_whatever_an_architecture_reads_from_the_whole_recording_is_transductive_also_by_default():
    assert what_it_uses("transformer", {}) == "transductive"
    assert what_it_uses("transformer", {"level": "window"}) == "inductive"
    assert what_it_uses("transformer", {"level": "recording", "embedding": "linear"}) == "inductive"
