"""A study of another repetition time, rate, montage and other stimuli goes through the platform to a score."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import small_study
import torch
from small_study import NUM_CHANNELS, NUM_VOXELS, write_small_study

from platform.data import products
from platform.data.folds import Fold, leave_one_subject_out
from platform.data.products import DataSettings, StudyData
from platform.scores.events import NUM_LAGS
from platform.training.config import Epochs
from platform.training.data_jobs import score_baselines
from platform.training.fold_job import run_fold_job
from platform.training.job import Job, Workers

TR_S, STORED_HZ, RATE_HZ = 2.16, 500, 125
VOLUMES, SUBJECTS = 60, 5
WINDOW = 14
KINDS = {"standard": "face", "target": "house"}


def own_layout(layout: small_study.Layout) -> small_study.Layout:
    places = ((0.0, 0.05, 0.1), *[None] * (NUM_CHANNELS - 1))
    return dataclasses.replace(
        layout,
        channel_names=("Fz", "X1", "X2", "X3"),
        channel_locations_m=places,
        eeg_rate_hz=STORED_HZ,
        repetition_time_s=TR_S,
        reference_time_s=TR_S / 2,
    )


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> DataSettings:
    folder = tmp_path_factory.mktemp("study")
    usual, table = small_study.small_layout(), small_study.events_table
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_study, "small_layout", lambda: own_layout(usual))
        patch.setattr(small_study, "RATE_HZ", STORED_HZ)
        patch.setattr(small_study, "SAMPLES_PER_VOLUME", round(TR_S * STORED_HZ))
        patch.setattr(
            small_study, "events_table", lambda onset, last, kind: table(onset, last, [KINDS[one] for one in kind])
        )
        write_small_study(folder / "shards", subjects=SUBJECTS, volumes=VOLUMES, coupling=2.0)
    return DataSettings(shards=str(folder / "shards"), cache_folder=str(folder / "cache"), rate_hz=RATE_HZ)


@pytest.fixture(scope="module", autouse=True)
def _few_patterns_and_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "MAX_RANK", 8)
        yield
    torch.set_num_threads(threads)


def first_fold(settings: DataSettings) -> Fold:
    return leave_one_subject_out(StudyData(settings).manifest.subjects, 0)[0]


def test_windows_designs_and_features_have_one_row_per_volume_that_has_30_seconds_before_it(settings):
    data = StudyData(settings)
    run = data.runs("sub-01")[0]
    assert data.window_volumes == run.window_volumes == WINDOW
    assert run.num_windows == VOLUMES - WINDOW
    assert data.event_kinds == ("auditory face", "auditory house")
    assert data.event_design(run).shape == (VOLUMES - WINDOW, 2 * NUM_LAGS)
    assert [len(features) for features in data.band_power("sub-01")] == [VOLUMES - WINDOW] * 2
    assert data.manifest.layout.channel_locations_m[1] is None


def test_the_shape_of_a_model_is_that_of_the_windows(settings):
    data = StudyData(settings)
    shape = data.model_shape(None)
    assert (shape.num_channels, shape.num_volumes) == (NUM_CHANNELS, WINDOW)
    assert shape.num_samples == WINDOW * round(TR_S * RATE_HZ) == data.runs("sub-01")[0].window(0).shape[1]


def test_baselines_are_scored_and_ridge_finds_the_planted_rhythm(settings):
    _, scores = score_baselines(settings, first_fold(settings))
    assert scores["zero"].validation == 0
    assert scores["ridge_band_power"].validation > 0.1


@pytest.mark.parametrize("embedding", ["log_power", "linear"])
def test_a_fold_job_trains_and_scores(settings, embedding):
    configuration = {"output_rank": 4, "width": 8, "num_heads": 2, "batch_size": 32, "embedding": embedding}
    job = Job(
        data=settings,
        architecture="transformer",
        configuration=configuration,
        epochs=Epochs(maximum=1, patience=1),
        seed=1,
        trial=0,
        fold=first_fold(settings),
    )
    record = run_fold_job(job, Workers())
    assert record.score is not None and np.isfinite(record.score)
    assert len(record.trace["target"]) == VOLUMES - WINDOW


def test_a_study_without_any_events_is_scored_too(settings, monkeypatch, tmp_path: Path):
    table = small_study.events_table
    monkeypatch.setattr(small_study, "events_table", lambda onset, last, kind: table(onset[:0], last[:0], []))
    write_small_study(tmp_path / "shards", subjects=SUBJECTS, runs=1, volumes=30)
    bare = DataSettings(shards=str(tmp_path / "shards"), cache_folder=str(tmp_path / "cache"), rate_hz=125)
    data = StudyData(bare)
    assert data.event_kinds == ()
    assert data.event_design(data.runs("sub-01")[0]).shape == (15, 0)
    _, scores = score_baselines(bare, first_fold(bare))
    assert scores["events"].validation == 0
    weights_V = data.training_products(first_fold(bare).training).weights_V
    assert weights_V.tolist() == [1.0] * NUM_VOXELS
