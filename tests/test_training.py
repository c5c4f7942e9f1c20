"""Fold jobs on small prepared studies, and the training loop itself."""

import dataclasses
import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ray
import torch
import two_workers
from altered_study import with_other_bold
from ray.train.v2._internal import constants
from small_study import NUM_VOXELS, write_small_study

from datasets.storage import open_storage
from platform.data import products
from platform.data.folds import leave_one_subject_out
from platform.data.products import DataSettings, StudyData
from platform.data.training_set import TrainingSet
from platform.data.windows import WINDOW_VOLUMES, eeg_batch, window_index
from platform.ledger.records import FoldRecord
from platform.models import ARCHITECTURES, Volumes
from platform.tracking.figures import trace_figure
from platform.training import fold_job as training
from platform.training import loop, snapshots
from platform.training.config import Epochs, TrainingConfig
from platform.training.fold_job import run_fold_job
from platform.training.job import Job, Workers, job_seed
from platform.training.job_model import build_model
from platform.training.loop import (
    Scored,
    TrainingDiverged,
    Worker,
    largest_fitting_batch,
    pieces_of_workers,
    predict,
    train,
)
from platform.training.snapshots import JobSnapshots

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
    found = run(coupled, epochs=8, learned_reading=True, **changes)
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
    wanted = job(coupled, output_rank=0, level="window")
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
        two_workers.example_training(),
        TrainingConfig(output_rank=0),
        Epochs(maximum=len(scores), patience=patience),
        seed=0,
        evaluate=lambda _: Scored(scores=next(told), trace=[]),
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
        two_workers.example_training(),
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
            two_workers.example_training(run_of_nan),
            TrainingConfig(output_rank=0),
            Epochs(maximum=1),
            seed=0,
        )


def test_targets_of_a_low_rank_output_are_the_weights_of_the_same_windows():
    recording = two_workers.example_run()
    coefficients_NK = torch.arange(2 * two_workers.WINDOWS).float()[:, None]
    other = dataclasses.replace(recording, subject="sub-02")
    training = TrainingSet(runs=[recording, other], coefficients_NK=coefficients_NK, weights_K=torch.ones(1))
    positions = np.array([3, 25, 0])
    batch = training.batch(positions)
    assert batch.targets_BK[:, 0].tolist() == [3, 25, 0]
    assert batch.subject_B.tolist() == [0, 1, 0]
    assert training.index[positions].tolist() == [[0, 3], [1, 25 - two_workers.WINDOWS], [0, 0]]


# Several workers


BATCHES_OF_SEVEN = {"output_rank": 0, "batch_size": 7, "learning_rate": 3e-3}
ALIKE = {
    "plain": {},
    "in pieces": {"accumulation": 2},
    "weighted": {"loss": "weighted_mse", "order": "subject_balanced"},
    "adversary and subject layers": {"adversary_weight": 0.3, "subject_layers": True},
    "ensemble": {"num_members": 3},
    "correlation, averaged": {"loss": "correlation", "weight_average": 0.9},
    "correlation, in pieces": {"loss": "mse_correlation", "accumulation": 3},
}


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
    return port


def test_two_workers_train_as_one_does_whatever_the_loss(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    # Steps as long as the gradient, because steps by its sign alone make rounding large.
    steps = {"optimizer": "momentum", "learning_rate": 3e-2}
    configs = [TrainingConfig(**BATCHES_OF_SEVEN | steps | changes) for changes in ALIKE.values()]
    # In one process pieces are of another size, so that a loss over the batch's windows sees others of them.
    whole = [dataclasses.replace(config, accumulation=1) for config in configs[:-1]]
    alone = [two_workers.outcome(Worker(), config, 2) for config in whole]
    of_workers = two_workers.outcomes_of_workers(2, free_port(), str(tmp_path), configs, 2)
    for one, *several in zip(alone, *(outcomes[:-1] for outcomes in of_workers), strict=True):
        assert len(one[0]) == 5  # the first worker stops the other, too
        for loss, prediction in several:
            np.testing.assert_allclose(loss, one[0], atol=1e-4)
            torch.testing.assert_close(prediction, one[1], atol=1e-3, rtol=1e-3)
    pieces = [outcomes[-1] for outcomes in of_workers]
    np.testing.assert_allclose(pieces[0][0], pieces[1][0], atol=1e-6)
    assert pieces[0][0][-1] < pieces[0][0][0]


# What a trial may vary about training


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"}, {"weight_average": 0.5}, {"optimizer": "schedule_free"}, {"optimizer": "muon"},
        {"augmentation": "mixup"}, {"num_members": 3}, {"adversary_weight": 0.5},
        {"schedule": "plateau"}, {"warm_up_share": 0.5}, {"gradient_norm": 0.0},
    ],
    ids=str,
)  # fmt: skip
def test_a_configuration_trains_the_same_again_and_not_as_another(changes):
    def outcome(**configuration: object) -> tuple[list[float], torch.Tensor]:
        return two_workers.outcome(Worker(), TrainingConfig(**BATCHES_OF_SEVEN | configuration), 9)

    first, again, plain = outcome(**changes), outcome(**changes), outcome()
    assert first[0] == again[0] and torch.equal(first[1], again[1])
    assert not torch.equal(first[1], plain[1])
    assert min(first[0]) < first[0][0]


def test_pieces_of_a_batch_change_nothing_but_memory():
    whole, parted = (
        two_workers.outcome(Worker(), TrainingConfig(**BATCHES_OF_SEVEN, accumulation=pieces), 9) for pieces in (1, 4)
    )
    np.testing.assert_allclose(whole[0], parted[0], atol=1e-5)


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("accumulation", [1, 2, 5])
def test_every_window_of_a_batch_is_one_workers_and_all_have_as_many_pieces(size, accumulation):
    pieces = pieces_of_workers(np.arange(size), accumulation, 3)
    assert sorted(np.concatenate([share for piece in pieces for share in piece]).tolist()) == list(range(size))
    assert {len(piece) for piece in pieces} == {3}
    assert len(pieces) == max(1, min(accumulation, size // 3))


def test_what_is_scored_is_what_is_left_in_the_model():
    scored = []

    def evaluate(model: torch.nn.Module) -> Scored:
        scored.append(predict(model, two_workers.example_run(1)))
        return Scored(scores=(0.0, 0.0), trace=[])

    for changes in ({"weight_average": 0.9}, {"optimizer": "schedule_free"}, {}):
        model = two_workers.example_model()
        config = TrainingConfig(**BATCHES_OF_SEVEN | changes)
        train(model, two_workers.example_training(), config, Epochs(maximum=2), seed=0, evaluate=evaluate)
        assert torch.equal(predict(model, two_workers.example_run(1)), scored[-1])


# Snapshots


class Interrupted(Exception):
    """The process was lost."""


@pytest.mark.parametrize(
    "changes",
    [{}, {"weight_average": 0.9, "schedule": "plateau"}, {"optimizer": "schedule_free"}, {"optimizer": "muon"}],
)
def test_training_goes_on_from_its_snapshot_to_the_same_end(changes, tmp_path):
    def run(
        stop_at: int | None, snapshots: JobSnapshots | None
    ) -> tuple[list[float], list[tuple[float, ...]], torch.Tensor]:
        model = two_workers.example_model(dropout=0.2)
        epochs = iter(range(99))

        def evaluate(scored_model: torch.nn.Module) -> Scored:
            if stop_at is not None and next(epochs) == stop_at:
                raise Interrupted
            score = float(predict(scored_model, two_workers.example_run(1)).mean())
            return Scored(scores=(score, -score), trace=[score])

        config = TrainingConfig(**BATCHES_OF_SEVEN | {"augmentation": "noise"} | changes)
        history = train(
            model, two_workers.example_training(), config, Epochs(maximum=5, patience=9), seed=3, evaluate=evaluate,
            snapshots=snapshots,
        )  # fmt: skip
        return history.loss, history.scores, predict(model, two_workers.example_run(1))

    undisturbed = run(None, None)
    snapshots = JobSnapshots(open_storage(tmp_path), "job", seconds_between=0)
    with pytest.raises(Interrupted):
        run(3, snapshots)
    loss, scores, prediction = run(None, snapshots)
    assert (loss, scores) == undisturbed[:2]
    assert torch.equal(prediction, undisturbed[2])


def test_snapshots_are_kept_seldom_and_removed_in_the_end(tmp_path):
    storage = open_storage(tmp_path)
    seldom = JobSnapshots(storage, "job")
    seldom.save(lambda: {"epoch": 1})
    assert seldom.load() is None
    often = JobSnapshots(storage, "job", seconds_between=0)
    often.save(lambda: {"epoch": 2})
    assert seldom.load() == {"epoch": 2}
    assert storage.names("snapshots") == ["snapshots/job.pt"]
    often.remove()
    often.remove()
    assert seldom.load() is None


def test_a_job_leaves_no_snapshot_and_goes_on_from_one(coupled, tmp_path, monkeypatch):
    monkeypatch.setattr(snapshots, "SECONDS_BETWEEN", 0.0)
    wanted = dataclasses.replace(job(coupled, epochs=3), storage=str(tmp_path))
    undisturbed = run_fold_job(job(coupled, epochs=3), Workers())
    real_step, steps = loop._step, iter(range(10_000))

    def lost(*arguments: object) -> float:
        if next(steps) == 15:
            raise Interrupted
        return real_step(*arguments)

    monkeypatch.setattr(loop, "_step", lost)
    with pytest.raises(Interrupted):
        run_fold_job(wanted, Workers())
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == [f"{wanted.digest}.pt"]
    record = run_fold_job(wanted, Workers())
    assert (record.score, record.loss, record.trace) == (undisturbed.score, undisturbed.loss, undisturbed.trace)
    assert not list((tmp_path / "snapshots").iterdir())


def test_the_digest_of_a_job_tells_trainings_apart_and_not_where_snapshots_lie(coupled):
    one = job(coupled)
    assert one.digest == dataclasses.replace(one, storage="s3://bucket").digest
    assert (
        len({one.digest, job(coupled, seed=2).digest, job(coupled, fold=1).digest, job(coupled, width=8).digest}) == 4
    )


# Memory


class Narrow(torch.nn.Module):
    """Finds no memory for more than a few windows."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, eeg_BCS: torch.Tensor) -> torch.Tensor:
        if len(eeg_BCS) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.model(eeg_BCS)


@pytest.mark.parametrize(("batch_size", "fitting"), [(16, 4), (64, 4), (11, 5), (5, 2), (1, 0)])
def test_the_largest_batch_that_fits_is_found_by_halves(batch_size, fitting):
    config = TrainingConfig(output_rank=0, batch_size=batch_size)
    model = Narrow(two_workers.example_model())
    assert largest_fitting_batch(model, two_workers.example_training(), config, Worker()) == fitting
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_configuration_without_memory_fails_alone_and_says_what_would_fit(coupled, monkeypatch):
    architecture = ARCHITECTURES["transformer"]
    narrow = dataclasses.replace(architecture, build=lambda config, shape: Narrow(architecture.build(config, shape)))
    monkeypatch.setitem(ARCHITECTURES, "transformer", narrow)
    record = run_fold_job(job(coupled), Workers())
    assert record.score is None
    assert record.stop_reason == "out of memory at batch_size 32; 4 would fit"


# Every architecture


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_is_trained_scored_and_exported(architecture, coupled):
    """Its exported program, which MLflow keeps, maps any number of windows of EEG as the model does."""
    configuration = {"output_rank": 8, "learning_rate": 3e-3, "batch_size": 32}
    wanted = dataclasses.replace(job(coupled, epochs=2), architecture=architecture, configuration=configuration)
    record = run_fold_job(wanted, Workers())
    assert record.stop_reason == "all epochs"
    assert record.loss[1] < record.loss[0]
    assert record.score is not None and record.trace is not None
    data = StudyData(wanted.data)
    model, basis = build_model(wanted, data, data.training_products(wanted.training_subjects))
    make_features = ARCHITECTURES[architecture].features
    features = None if make_features is None else make_features(data.model_shape(None))
    volumes = Volumes(model, basis, features).eval()
    recording = data.runs("sub-01")[0]
    eeg_BCS = eeg_batch([recording], window_index([recording])[:5])
    dynamic = {"eeg_BCS": {0: torch.export.Dim("windows", min=1, max=64)}}
    program = torch.export.export(volumes, (eeg_BCS[:2],), dynamic_shapes=dynamic).module()
    torch.testing.assert_close(program(eeg_BCS), volumes(eeg_BCS), rtol=1e-3, atol=1e-4)


def test_cached_features_of_windows_are_those_of_their_eeg_and_are_made_once(coupled, monkeypatch):
    wanted = dataclasses.replace(
        job(coupled, epochs=1), architecture="band_power", configuration={"output_rank": 8, "batch_size": 32}
    )
    record = run_fold_job(wanted, Workers())
    monkeypatch.setattr(products, "eeg_batch", lambda *_: pytest.fail("features are made again"))
    assert run_fold_job(wanted, Workers()).score == record.score


@pytest.mark.parametrize("earlier", [None, "auto"])
def test_ray_train_s_actors_are_told_which_ray_is_theirs_and_nobody_else_is(monkeypatch, earlier):
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="10.0.0.5:6379"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if earlier is not None:
        monkeypatch.setenv("RAY_ADDRESS", earlier)
    with training._address_for_ray_train():
        assert constants.get_env_vars_to_propagate()["RAY_ADDRESS"] == "10.0.0.5:6379"
    assert os.environ.get("RAY_ADDRESS") == earlier
