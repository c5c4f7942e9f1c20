"""Fold jobs on small prepared studies, and the training loop itself."""

import dataclasses
import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import two_workers
from altered_study import with_other_bold
from small_study import NUM_VOXELS, write_small_study

from platform import products
from platform.figures import trace_figure
from platform.folds import leave_one_subject_out
from platform.ledger import FoldRecord
from platform.loop import Epochs, TrainingConfig, TrainingDiverged, TrainingSet, Worker, predict, train
from platform.products import DataSettings, StudyData
from platform.training import Job, Workers, build_model, job_seed, run_fold_job
from platform.windows import WINDOW_VOLUMES

ROOT = Path(__file__).resolve().parent.parent
SUBJECTS, VOLUMES = 6, 90
CONFIGURATION = {
    "output_rank": 8, "width": 16, "num_heads": 2, "learning_rate": 3e-3, "batch_size": 32, "dropout": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _few_patterns_and_one_thread():
    """Keep few patterns and threads: the first would take most of the time, the second compete for two cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "MAX_RANK", 16)
        yield
    torch.set_num_threads(threads)


def settings(shards: Path) -> DataSettings:
    return DataSettings(shards=str(shards), cache_folder=str(shards.parent / "cache"))


@pytest.fixture(scope="module")
def coupled(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("coupled") / "shards"
    return write_small_study(folder, subjects=SUBJECTS, volumes=VOLUMES, coupling=2.0)


@pytest.fixture(scope="module")
def uncoupled(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("uncoupled") / "shards"
    return write_small_study(folder, subjects=SUBJECTS, volumes=VOLUMES, coupling=0.0)


def job(shards: Path, *, fold: int = 0, seed: int = 1, epochs: int = 3, patience: int = 9, **changes: object) -> Job:
    data = settings(shards)
    folds = leave_one_subject_out(StudyData(data).manifest.subjects, 0)
    return Job(
        data=data,
        architecture="transformer",
        configuration={**CONFIGURATION, **changes},
        epochs=Epochs(maximum=epochs, patience=patience),
        seed=seed,
        trial=4,
        fold=folds[fold],
    )


def run(shards: Path, **changes: object) -> FoldRecord:
    return run_fold_job(job(shards, **changes), Workers())


@pytest.fixture(scope="module")
def record(coupled) -> FoldRecord:
    return run(coupled)


def without_seconds(record: FoldRecord) -> FoldRecord:
    return dataclasses.replace(record, seconds=0.0)


# Records


def test_a_record_tells_what_happened(record):
    assert (record.trial, record.fold, record.seed) == (4, 0, 1)
    assert record.num_epochs == len(record.loss) == 3
    assert [len(scores) for scores in record.validation] == [3, 3]
    assert 1 <= record.best_epochs <= 3
    assert record.stop_reason == "all epochs"
    assert record.seconds > 0


def test_a_record_is_json(record):
    assert json.loads(json.dumps(dataclasses.asdict(record)))["score"] == record.score


def test_the_score_is_what_each_validation_subject_has_at_the_epoch_that_the_other_chose(record):
    first, second = record.validation
    assert record.score == (first[np.argmax(second)] + second[np.argmax(first)]) / 2
    assert record.best_epochs - 1 == np.argmax(np.add(first, second))


def test_the_same_seed_gives_the_same_record_to_the_last_bit(coupled, record):
    assert without_seconds(run(coupled)) == without_seconds(record)


def test_another_seed_gives_another_record(coupled, record):
    other = run(coupled, seed=2)
    assert other.loss != record.loss and other.score != record.score


def test_every_job_of_a_study_has_a_seed_of_its_own():
    seeds = {job_seed(study, trial, fold) for study in range(3) for trial in range(20) for fold in range(16)}
    assert len(seeds) == 3 * 20 * 16
    assert job_seed(0, 1, 2) == job_seed(0, 1, 2)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "nesterov"])
@pytest.mark.parametrize("loss", ["mse", "mae"])
def test_a_learning_rate_that_explodes_gives_a_record_without_score_that_says_why(coupled, optimizer, loss):
    exploded = run(coupled, learning_rate=1e30, optimizer=optimizer, loss=loss, output_rank=0)
    assert exploded.score is None and exploded.test_score is None
    assert exploded.stop_reason.startswith("the loss is ")
    assert exploded.stop_reason.endswith(f"learning rate 1e+30 with {optimizer}")
    assert (exploded.trial, exploded.fold, exploded.seed) == (4, 0, 1)


def test_a_fold_job_without_a_fold_is_refused(coupled):
    with pytest.raises(ValueError, match="a fold job needs a fold"):
        run_fold_job(dataclasses.replace(job(coupled), fold=None), Workers())


def test_a_trace_shows_a_validation_subjects_run_and_can_be_drawn(coupled, record):
    trace = record.trace
    fold = job(coupled).fold
    assert trace["recording"] == f"{fold.validation[0]}_task-auditory_run-1"
    assert len(trace["target"]) == len(trace["prediction"]) == VOLUMES - WINDOW_VOLUMES
    assert trace["first_s"] == WINDOW_VOLUMES * 2.0 + 1.0
    with trace_figure(trace) as figure:
        shown = figure.axes[0].get_title()
    r = np.corrcoef(trace["target"], trace["prediction"])[0, 1]
    assert f"r = {r:+.2f}" in shown


def test_a_trace_of_a_constant_prediction_is_drawn_with_r_zero(record):
    with trace_figure({**record.trace, "prediction": [0.5] * len(record.trace["target"])}) as figure:
        assert "r = +0.00" in figure.axes[0].get_title()


# What is learned, and from whom


@pytest.mark.parametrize("changes", [{}, {"output_rank": 0}, {"embedding": "linear"}], ids=str)
def test_a_coupled_study_is_learned(coupled, changes):
    found = run(coupled, epochs=8, **changes)
    assert found.score > 0.5 and found.test_score > 0.5
    assert found.loss[-1] < 0.85 * found.loss[0]


def test_a_study_without_coupling_teaches_nothing(uncoupled):
    records = [run(uncoupled, fold=fold, epochs=4) for fold in range(3)]
    assert abs(np.mean([record.score for record in records])) < 0.08
    assert abs(np.mean([record.test_score for record in records])) < 0.08


def test_the_test_subjects_bold_changes_the_test_score_and_nothing_else(coupled, record, tmp_path):
    other = run(with_other_bold(coupled, tmp_path / "shards", job(coupled).fold.test))
    assert other.test_score == pytest.approx(-record.test_score, abs=1e-6)
    assert without_seconds(dataclasses.replace(other, test_score=record.test_score)) == without_seconds(record)


def test_a_validation_subjects_bold_does_not_change_what_is_trained(coupled, record, tmp_path):
    fold = job(coupled).fold
    other = run(with_other_bold(coupled, tmp_path / "shards", fold.validation[1]))
    assert other.loss == record.loss
    assert other.validation[0] == record.validation[0]
    assert other.validation[1] == pytest.approx([-score for score in record.validation[1]], abs=1e-6)


def test_a_training_subjects_bold_changes_what_is_trained(coupled, record, tmp_path):
    other = run(with_other_bold(coupled, tmp_path / "shards", job(coupled).fold.training[0]))
    assert other.loss != record.loss


def test_a_prediction_never_sees_its_targets(coupled):
    wanted = job(coupled)
    data = StudyData(wanted.data)
    model, _ = build_model(wanted, data, data.training_products(wanted.training_subjects))
    seeing = data.runs(wanted.fold.test)[0]
    garbage = np.full_like(seeing.bold_RV, np.nan)
    blind = dataclasses.replace(seeing, bold_RV=garbage)
    torch.testing.assert_close(predict(model, seeing), predict(model, blind), rtol=0, atol=0)


def test_predictions_stand_in_the_order_of_the_windows_whatever_the_batches(coupled):
    wanted = job(coupled, output_rank=0)
    data = StudyData(wanted.data)
    model, basis = build_model(wanted, data, data.training_products(wanted.training_subjects))
    recording = data.runs("sub-01")[0]
    predicted = predict(model, recording)
    assert basis is None and predicted.shape == (VOLUMES - WINDOW_VOLUMES, NUM_VOXELS)
    for window in (0, 31, VOLUMES - WINDOW_VOLUMES - 1):
        eeg_1CS = torch.from_numpy(recording.window(window).astype(np.float32))[None]
        torch.testing.assert_close(predicted[window], model(eeg_1CS)[0].detach(), rtol=1e-4, atol=1e-5)


# The loop


def looped(scores: list[tuple[float, float]], patience: int) -> tuple[int, str]:
    """Return how many epochs were trained, and why no more, when these were the scores."""
    told = iter(scores)
    history = train(
        two_workers.example_model(),
        TrainingSet(runs=[two_workers.example_run()], coefficients_NK=None),
        TrainingConfig(output_rank=0),
        Epochs(maximum=len(scores), patience=patience),
        seed=0,
        evaluate=lambda _: next(told),
    )
    assert len(history.loss) == len(history.scores)
    return len(history.loss), history.stop_reason


def test_training_stops_when_neither_subject_has_had_a_new_best_for_the_patience():
    falling = [(0.1, 0.1), (0.5, 0.2), (0.4, 0.6), (0.3, 0.5), (0.2, 0.4), (0.1, 0.3), (0.0, 0.2)]
    assert looped(falling, patience=2) == (5, "early stopping")
    assert looped(falling, patience=3) == (6, "early stopping")
    assert looped(falling, patience=5) == (7, "all epochs")


def test_training_goes_on_while_one_subject_still_gains():
    assert looped([(0.9, epoch / 10) for epoch in range(6)], patience=2) == (6, "all epochs")


def test_a_score_as_good_as_before_is_no_new_best():
    assert looped([(0.0, 0.0)] * 6, patience=3) == (4, "early stopping")


@pytest.mark.parametrize(("stop_after", "expected"), [(None, 3), (2, 2), (9, 3)])
def test_without_scores_all_epochs_are_trained_unless_it_is_stopped_after_fewer(stop_after, expected):
    history = train(
        two_workers.example_model(),
        TrainingSet(runs=[two_workers.example_run()], coefficients_NK=None),
        TrainingConfig(output_rank=0),
        Epochs(maximum=3, patience=1),
        seed=0,
        stop_after=stop_after,
    )
    assert len(history.loss) == expected
    assert all(np.isfinite(history.loss))


def test_a_loss_that_is_no_number_ends_training():
    run_of_nan = dataclasses.replace(
        two_workers.example_run(), bold_RV=np.full_like(two_workers.example_run().bold_RV, np.nan)
    )
    with pytest.raises(TrainingDiverged, match="the loss is nan: learning rate 0.001 with adamw"):
        train(
            two_workers.example_model(),
            TrainingSet(runs=[run_of_nan], coefficients_NK=None),
            TrainingConfig(output_rank=0),
            Epochs(maximum=1),
            seed=0,
        )


def test_targets_of_a_low_rank_output_are_the_weights_of_the_same_windows():
    recording = two_workers.example_run()
    coefficients_NK = torch.arange(2 * two_workers.WINDOWS).float()[:, None]
    training = TrainingSet(runs=[recording, recording], coefficients_NK=coefficients_NK)
    positions = np.array([3, 25, 0])
    assert training.targets(training.index, positions)[:, 0].tolist() == [3, 25, 0]
    assert training.index[positions].tolist() == [[0, 3], [1, 25 - two_workers.WINDOWS], [0, 0]]


# Several workers


@pytest.mark.parametrize(("optimizer", "patience"), [("nesterov", 2), pytest.param("adamw", 9, marks=pytest.mark.slow)])
def test_two_workers_train_as_one_does(optimizer, patience, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    alone, _ = two_workers.trained(Worker(), optimizer, patience)
    of_workers = two_workers.losses_of_workers(2, port, str(tmp_path), optimizer, patience)
    assert len(alone.loss) == (5 if patience == 2 else 6)  # the first worker stops the other, too
    assert alone.loss[-1] < alone.loss[0]
    for losses in of_workers:
        np.testing.assert_allclose(losses, alone.loss, atol=1e-4)
