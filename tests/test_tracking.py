"""The ledger on its way to a real MLflow server: every run once, whatever was down or started anew in between."""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow_server import MlflowServer, relay_to
from small_study import NUM_VOXELS, RATE_HZ, write_small_study
from torch import nn

from datasets.errors import BadInput
from deploy.stack.ports import free_ports
from platform.data.products import DataSettings, StudyData
from platform.evidence.findings import findings
from platform.ledger.ledger import Ledger
from platform.ledger.records import FoldRecord
from platform.ledger.studies import open_ledger
from platform.models import Volumes
from platform.prediction.portable import PortableModel
from platform.proposals.samplers import propose
from platform.tracking import outbox
from platform.tracking.logged_model import CHAMPION, fetch
from platform.tracking.packaging import Package
from platform.tracking.runs import TEST, VALIDATION, TrackedData, Tracker, TrackingSettings, check_tracking
from platform.tracking.study_note import Origin, study_note
from platform.training.fold_models import exported
from search_spaces import SEARCH_SPACES

DIGEST = "0123456789abcdef" * 4
NUM_FOLDS = 3
DATA = TrackedData(uri="s3://bucket/shards", digest=DIGEST, num_subjects=NUM_FOLDS)
COMPLETE, PRUNED, FAILED = 0, 1, 2
CHANNELS, SAMPLES, PATTERNS = 4, 30 * 125, 4
LISTED = 1000


def made_test_score(trial: int, fold: int) -> float:
    """Return a made-up test score that nothing else is equal to."""
    return 0.777 + 0.01 * trial + 0.001 * fold


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory) -> Iterator[MlflowServer]:
    """Start an MLflow server on loopback, and end it."""
    started = MlflowServer(folder=tmp_path_factory.mktemp("mlflow"), port=free_ports(1)[0])
    try:
        started.start()
        yield started
    finally:
        started.kill()


@pytest.fixture(scope="module")
def server(mlflow_server) -> str:
    return mlflow_server.url


@pytest.fixture(autouse=True)
def _mlflow_is_left_as_it_was(monkeypatch):
    """Forget, after each test, what the tracker told MLflow's global state and the environment."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    before = mlflow.get_tracking_uri()
    yield
    mlflow.set_tracking_uri(before)


@dataclass(kw_only=True)
class Study:
    """A ledger of three trials (complete, pruned, failed) and what MLflow holds of it."""

    ledger: Ledger
    uri: str
    experiment: str
    client: MlflowClient = field(init=False)

    def __post_init__(self) -> None:
        self.client = MlflowClient(tracking_uri=self.uri)

    def tracker(self, uri: str | None = None) -> Tracker:
        """Return a tracker made anew, as after a restart."""
        settings = TrackingSettings(uri=uri or self.uri, experiment=self.experiment)
        return Tracker(settings, self.ledger, DATA, {"sampler": "tpe", "code_version": "test"})

    def send_all(self, uri: str | None = None, status: str = "FINISHED") -> bool:
        tracker = self.tracker(uri)
        tracker.send_missing(self.ledger.trials)
        return tracker.finish(status)

    def runs(self) -> dict[str, Run]:
        """Return every run of the study by its name; no name may come twice."""
        experiment = self.client.get_experiment_by_name(self.experiment)
        assert experiment is not None
        found = self.client.search_runs([experiment.experiment_id], max_results=LISTED)
        names = [run.info.run_name for run in found]
        assert len(names) == len(set(names)), names
        return dict(zip(names, found, strict=True))

    def artifacts(self, run: Run) -> set[str]:
        return {artifact.path for artifact in self.client.list_artifacts(run.info.run_id)}


def made_ledger(folder: Path, name: str) -> Ledger:
    ledger = open_ledger(f"sqlite:///{folder}/studies.db", name, {"seed": 0, "architecture": "small"})
    ledger.note("uid", f"uid-of-{name}")
    for trial, folds in ((COMPLETE, 3), (PRUNED, 2), (FAILED, 1)):
        ledger.add(propose(ledger.history(trial - 1), "tpe", SEARCH_SPACES["transformer"], 0, trial))
        for fold in range(folds):
            ledger.commit(made_record(trial, fold))
        ledger.tell(trial, NUM_FOLDS)
    return ledger


def made_record(trial: int, fold: int) -> FoldRecord:
    if trial == FAILED:
        return FoldRecord(trial=trial, fold=fold, score=None, stop_reason="the loss is nan")
    trace = {
        "recording": "sub-01", "first_s": 1.0, "step_s": 2.0, "target": [0.0, 1.0, 2.0], "prediction": [0.5, 0.5, 1.0],
    }  # fmt: skip
    return FoldRecord(
        trial=trial,
        fold=fold,
        score=0.5 - 0.1 * trial + 0.01 * fold,
        test_score=made_test_score(trial, fold),
        best_epochs=fold + 1,
        num_epochs=4,
        seconds=1.5,
        seed=fold,
        stop_reason="all epochs",
        loss=(1.0, 0.5),
        validation=((0.1, 0.2), (0.1, 0.3)),
        trace=trace,
    )


@pytest.fixture
def study(request, tmp_path, server) -> Study:
    name = request.node.name.removeprefix("test_")[-60:].strip("[]")
    return Study(ledger=made_ledger(tmp_path, name), uri=server, experiment=name)


@pytest.fixture(scope="module")
def sent(tmp_path_factory, server) -> Study:
    """A study sent once, to look at only."""
    study = Study(ledger=made_ledger(tmp_path_factory.mktemp("sent"), "sent"), uri=server, experiment="sent")
    assert study.send_all()
    return study


# What is sent


def test_trials_are_child_runs_of_the_study_with_how_they_ended(sent):
    runs = sent.runs()
    assert {name: run.info.status for name, run in runs.items()} == {
        "sent": "FINISHED", "trial-0000": "FINISHED", "trial-0001": "KILLED", "trial-0002": "FAILED",
    }  # fmt: skip
    parent = runs.pop("sent")
    assert "mlflow.parentRunId" not in parent.data.tags
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert [run.data.tags["stop_reason"] for _, run in sorted(runs.items())] == [
        "complete",
        "pruned",
        "the loss is nan",
    ]
    assert {run.data.tags["code_version"] for run in runs.values()} == {"test"}


@pytest.mark.parametrize(("trial", "folds"), [(COMPLETE, [0, 1, 2]), (PRUNED, [0, 1]), (FAILED, [])])
def test_every_fold_that_was_scored_is_a_step_of_the_objective(sent, trial, folds):
    run = sent.runs()[f"trial-{trial:04d}"]
    history = sorted(sent.client.get_metric_history(run.info.run_id, VALIDATION), key=lambda point: point.step)
    scores = sent.ledger.trials[trial].scores
    assert [(point.step, point.value) for point in history] == [(fold, scores[fold]) for fold in folds]
    assert run.data.metrics.get("cv/num_folds", 0) == len(folds)
    if folds:
        mean, error = np.mean(list(scores.values())), np.std(list(scores.values()), ddof=1)
        quantile = {2: 12.7062, 3: 4.3027}[len(folds)]  # Student's t, 97.5 %
        half = quantile * error * np.sqrt(1 / len(folds) + 1)  # with 3 subjects one trains
        found = [run.data.metrics[f"cv/{key}"] for key in ("validation_mean", "ci_low", "ci_high")]
        assert found == pytest.approx([mean, mean - half, mean + half], rel=1e-4)


def test_a_trials_parameters_are_its_whole_configuration(sent):
    for trial in sent.ledger.trials:
        expected = {key: str(value) for key, value in trial.configuration.items()}
        assert sent.runs()[f"trial-{trial.number:04d}"].data.params == expected


def test_what_each_fold_found_is_a_table_of_the_study(sent):
    runs = sent.runs()
    assert [sent.artifacts(runs[f"trial-000{trial}"]) for trial in range(3)] == [set()] * 3
    rows = mlflow_table(sent, runs["sent"], "folds.json")
    assert rows["trial"] == [COMPLETE] * 3 + [PRUNED] * 2
    assert rows["fold"] == [0, 1, 2, 0, 1]
    scores = [score for trial in sent.ledger.trials for score in trial.scores.values()]
    assert rows["score"] == pytest.approx(scores)
    assert rows["best_epochs"] == [1, 2, 3, 1, 2]
    assert set(rows["stop_reason"]) == {"all epochs"}
    assert json.loads(runs["sent"].data.tags["mlflow.loggedArtifacts"]) == [{"path": "folds.json", "type": "table"}]


def mlflow_table(study: Study, run: Run, name: str) -> dict[str, list[object]]:
    mlflow.set_tracking_uri(study.uri)
    table = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/{name}")
    return {column: [row[at] for row in table["data"]] for at, column in enumerate(table["columns"])}


def test_the_shards_are_the_studys_input_with_their_digest(sent):
    inputs = sent.runs()["sent"].inputs.dataset_inputs
    assert len(inputs) == 1
    dataset = inputs[0].dataset
    assert dataset.name == "shards"
    assert dataset.digest == DIGEST[:36]
    assert DIGEST in dataset.source
    assert DATA.uri in dataset.source


def test_no_test_score_reaches_mlflow_before_the_winner_is_sent(sent, tmp_path):
    mlflow.set_tracking_uri(sent.uri)
    texts = []
    for run in sent.runs().values():
        texts.append(str(run.to_dictionary()))
        assert not [key for key in run.data.metrics if "test" in key]
        for artifact in sent.artifacts(run):
            fetched = sent.client.download_artifacts(run.info.run_id, artifact, str(tmp_path))
            texts.append(Path(fetched).read_text())
    assert not [text for text in texts if "test_score" in text or "0.777" in text or "0.778" in text]


# Sending again, and later


def test_what_is_sent_twice_is_there_once(study):
    assert study.send_all()
    before = {name: run.to_dictionary() for name, run in study.runs().items()}
    tracker = study.tracker()
    for _ in range(2):
        for trial in study.ledger.trials:
            tracker.send_trial(trial)
    assert tracker.finish("FINISHED")
    after = study.runs()
    assert set(after) == set(before)
    for name in ("trial-0000", "trial-0001", "trial-0002"):
        assert after[name].to_dictionary() == before[name]


def test_a_tracker_made_anew_sends_only_what_is_missing(study):
    first = study.tracker()
    first.send_trial(study.ledger.trials[COMPLETE])
    assert first.finish("KILLED")
    assert set(study.runs()) == {study.ledger.name, "trial-0000"}
    assert study.runs()[study.ledger.name].info.status == "KILLED"
    untouched = study.runs()["trial-0000"].to_dictionary()
    assert study.send_all()
    runs = study.runs()
    assert set(runs) == {study.ledger.name, "trial-0000", "trial-0001", "trial-0002"}
    assert runs[study.ledger.name].info.status == "FINISHED"
    assert runs["trial-0000"].to_dictionary() == untouched


def test_a_trial_that_was_sent_by_halves_is_sent_whole(study):
    assert study.send_all()
    run = study.runs()["trial-0001"]
    study.client.delete_tag(
        run.info.run_id, "eeg2fmri.state"
    )  # as where the process was killed before its last request
    study.client.update_run(run.info.run_id, status="RUNNING")
    assert study.send_all()
    assert study.runs()["trial-0001"].info.status == "KILLED"
    history = study.client.get_metric_history(run.info.run_id, VALIDATION)
    assert {point.step for point in history} == {0, 1}


def test_a_trial_that_is_still_running_is_not_sent(study):
    running = len(study.ledger.trials)
    study.ledger.add(propose(study.ledger.history(running - 1), "tpe", SEARCH_SPACES["transformer"], 0, running))
    study.ledger.commit(made_record(running, 0))
    assert study.send_all()
    assert f"trial-{running:04d}" not in study.runs()


def test_a_study_that_goes_on_is_shown_as_running(study):
    assert study.send_all(status="KILLED")
    tracker = study.tracker()
    tracker.send_missing(study.ledger.trials)
    tracker._outbox._pool.submit(lambda: None).result()
    assert study.runs()[study.ledger.name].info.status == "RUNNING"
    assert tracker.finish("FINISHED")
    assert study.runs()[study.ledger.name].info.status == "FINISHED"


@pytest.mark.parametrize("is_wanted", [True, False])
def test_what_the_machine_does_is_sent_where_that_is_wanted(study, monkeypatch, is_wanted):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    settings = TrackingSettings(uri=study.uri, experiment=study.experiment, system_metrics=is_wanted)
    tracker = Tracker(settings, study.ledger, DATA, {})
    tracker.watch()
    tracker.send_missing(study.ledger.trials)
    time.sleep(0.5)
    assert tracker.finish("FINISHED")
    metrics = study.runs()[study.ledger.name].data.metrics
    assert ("system/cpu_utilization_percentage" in metrics) is is_wanted


def test_system_metrics_without_psutil_are_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(BadInput, match=r"needs the package psutil: pip install .*system-metrics"):
        check_tracking(TrackingSettings(uri="sqlite:////mlflow.db", system_metrics=True))


def test_two_studies_of_one_name_stay_apart(study, tmp_path):
    assert study.send_all()
    other = made_ledger(tmp_path / "other", study.ledger.name)
    other.note("uid", "another")
    assert Study(ledger=other, uri=study.uri, experiment=study.experiment).send_all()
    experiment = study.client.get_experiment_by_name(study.experiment)
    assert len(study.client.search_runs([experiment.experiment_id])) == 8


def test_a_server_that_is_down_stops_nothing_and_gets_all_of_it_later(study, caplog, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # each retry waits for seconds
    with socket.socket() as bound:  # bound, but not listening: it refuses every connection
        bound.bind(("127.0.0.1", 0))
        assert not study.send_all(f"http://127.0.0.1:{bound.getsockname()[1]}")
    warned = [record for record in caplog.records if "MLflow cannot be reached" in record.getMessage()]
    assert len(warned) == 1
    assert study.client.get_experiment_by_name(study.experiment) is None
    assert study.send_all()
    assert len(study.runs()) == 4


def test_a_server_that_is_killed_in_the_middle_gets_every_trial_once(study, mlflow_server, monkeypatch):
    monkeypatch.setattr(outbox, "REST_SECONDS", 0.2)
    tracker, trials = study.tracker(), study.ledger.trials
    tracker.send_trial(trials[COMPLETE])
    while_down, sent = threading.Event(), tracker._send_trial
    monkeypatch.setattr(tracker, "_send_trial", lambda trial: (while_down.wait(), sent(trial)))
    tracker.send_trial(trials[PRUNED])
    mlflow_server.kill()
    while_down.set()
    tracker.send_trial(trials[FAILED])
    mlflow_server.start()
    assert tracker.finish("FINISHED")
    assert {name: run.info.status for name, run in study.runs().items()} == {
        study.ledger.name: "FINISHED", "trial-0000": "FINISHED", "trial-0001": "KILLED", "trial-0002": "FAILED",
    }  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1])
def test_where_answers_are_lost_every_run_still_stands_there_once_and_whole(study, mlflow_server, monkeypatch, seed):
    """Of the first requests a third is fulfilled, but the client never hears of it."""
    are_lost = np.random.default_rng(seed).random(60) < 1 / 3
    monkeypatch.setattr(outbox, "REST_SECONDS", 0.0)
    monkeypatch.setattr(outbox, "LAST_WAITS_S", (0.0,) * 50)
    with relay_to(mlflow_server.host) as relay:
        relay.loses = lambda number: number < len(are_lost) and bool(are_lost[number])
        assert study.send_all(relay.url)
    runs = study.runs()
    assert set(runs) == {study.ledger.name, "trial-0000", "trial-0001", "trial-0002"}
    for trial in study.ledger.trials:
        run = runs[f"trial-{trial.number:04d}"]
        assert run.data.metrics.get("cv/num_folds", 0) == len(trial.scores)
        assert run.data.tags["eeg2fmri.state"] == trial.state
        assert run.data.tags["mlflow.parentRunId"] == runs[study.ledger.name].info.run_id


def test_a_trial_takes_three_requests(study, mlflow_server):
    """It is made, ended, and filled: MLflow's own interface makes no run that has ended and ends none in a batch."""
    with relay_to(mlflow_server.host) as relay:
        tracker = study.tracker(relay.url)
        tracker.send_missing(study.ledger.trials)
        assert tracker.finish("FINISHED")
    whole = [request.rpartition("/mlflow/")[2] for request in relay.requests]
    assert [whole.count(f"runs/{name}") for name in ("create", "update", "log-batch")] == [4, 4, 3]
    trials = whole.index("runs/log-inputs") + 1
    assert whole[trials : trials + 9] == ["runs/create", "runs/update", "runs/log-batch"] * 3


# The winner


@pytest.fixture(scope="module")
def winner(tmp_path_factory, server) -> tuple[Study, Volumes]:
    """A closed study whose winner was sent, and the winner's model."""
    folder = tmp_path_factory.mktemp("winner")
    study = Study(ledger=made_ledger(folder, "winner"), uri=server, experiment="winner")
    shards = write_small_study(folder / "shards", subjects=1, runs=1)
    data = StudyData(DataSettings(shards=str(shards), cache_folder=str(folder / "cache")))
    for fold in range(NUM_FOLDS):
        study.ledger.commit_baselines(fold, {"zero": (0.0, 0.0), "ridge": (0.1 + fold, 0.2 + fold)})
    study.ledger.close()
    model = small_model()
    before = mlflow.get_tracking_uri()
    tracker = study.tracker()
    tracker.send_missing(study.ledger.trials)
    package = Package(
        program=exported(model, CHANNELS, SAMPLES),
        configuration={},
        trained_on=("sub-01",),
        origin={"architecture": "small"},
    )
    send_winner(study, tracker, {"": package, "sub-07": package}, data)
    assert tracker.finish("FINISHED")
    mlflow.set_tracking_uri(before)
    return study, model


def send_winner(study: Study, tracker: Tracker, packages: dict[str, Package], data: StudyData) -> None:
    best, baselines = study.ledger.trials[COMPLETE], study.ledger.baselines()
    test_scores = study.ledger.test_scores(COMPLETE)
    origin = Origin(command="python -m platform.search small", shards=DATA.uri, digest=DIGEST)
    tracker.send_models(best, packages, data)
    tracker.send_winner(
        best, baselines, test_scores, study_note(best, baselines, test_scores, findings(study.ledger), origin)
    )


def small_model() -> Volumes:
    torch.manual_seed(0)
    inner = nn.Sequential(
        nn.Flatten(), nn.Linear(CHANNELS * SAMPLES, 8), nn.Dropout(0.5), nn.GELU(), nn.Linear(8, PATTERNS)
    )
    return Volumes(inner, torch.randn(PATTERNS, NUM_VOXELS))


@pytest.mark.parametrize("fold", ["", "sub-07"])
def test_a_logged_model_loads_without_this_project_and_predicts_from_an_array(winner, fold, tmp_path):
    study, model = winner
    name = "models:/eeg2fmri-small@champion"
    mlflow.set_tracking_uri(study.uri)
    eeg_CN = np.random.default_rng(0).standard_normal((CHANNELS, 40 * RATE_HZ)).astype(np.float32)
    portable = PortableModel(fetch(name, study.uri, tmp_path, fold))
    seen = torch.from_numpy(portable.seen(portable.prepared(eeg_CN, RATE_HZ)).astype(np.float32))
    windows = torch.stack([seen[:, at : at + SAMPLES] for at in range(0, 5 * SAMPLES // 15, SAMPLES // 15)])
    with torch.inference_mode():
        expected = model.eval()(windows).numpy()
    loaded = mlflow.pyfunc.load_model(name)
    predicted = loaded.predict(eeg_CN)
    assert type(loaded._model_impl).__module__ == "eeg2fmri_model.portable"
    assert predicted.shape == (5, NUM_VOXELS)
    np.testing.assert_allclose(predicted, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "fold", "message"),
    [
        ("models:/eeg2fmri-small@champion", "sub-99", "no fold model of sub-99; it has sub-07"),
        ("models:/nobody@champion", "", "cannot fetch models:/nobody@champion"),
        ("runs:/1/model", "sub-07", "--fold needs a registered model"),
    ],
)
def test_a_model_that_is_not_there_is_refused_in_one_line(winner, name, fold, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        fetch(name, winner[0].uri, tmp_path, fold)


def test_the_champion_belongs_to_the_studys_run_and_says_what_it_is(winner):
    study, _ = winner
    version = study.client.get_model_version_by_alias("eeg2fmri-small", CHAMPION)
    assert version.run_id == study.runs()["winner"].info.run_id
    assert version.description.startswith("**What this model gives is a prediction, not a measurement.**")
    assert DIGEST in version.description
    assert version.tags["eeg2fmri.trial"] == "0"


def test_the_figure_the_comparison_and_the_note_stand_at_the_studys_run(winner, tmp_path):
    study, _ = winner
    run = study.runs()["winner"]
    assert {"target_and_prediction.png", "comparison.json"} <= study.artifacts(run)
    mlflow.set_tracking_uri(study.uri)
    figure = study.client.download_artifacts(run.info.run_id, "target_and_prediction.png", str(tmp_path))
    assert Path(figure).read_bytes().startswith(b"\x89PNG")
    rows = mlflow_table(study, run, "comparison.json")
    assert rows["fold"] == [0, 1, 2]
    assert rows["winner_validation"] == list(study.ledger.trials[COMPLETE].scores.values())
    assert rows["winner_test"] == [made_test_score(COMPLETE, fold) for fold in range(NUM_FOLDS)]
    assert rows["ridge_test"] == [0.2, 1.2, 2.2]
    note = run.data.tags["mlflow.note.content"]
    found = findings(study.ledger)
    assert note.startswith(f"## {found.verdict.word}\n")
    assert f"**r {found.corrected.mean:+.3f} (95 % interval" in note
    assert all(f"- {reason}" in note for reason in found.verdict.reasons)
    assert "| **trial 0** | +0.5100 | +0.7780 |" in note
    assert run.data.tags["verdict"] == found.verdict.word
    assert run.data.metrics["corrected/mean"] == found.corrected.mean
    version = study.client.get_model_version_by_alias("eeg2fmri-small", CHAMPION)
    assert float(version.tags["eeg2fmri.corrected_score"]) == found.corrected.mean
    assert found.verdict.word in version.description
    assert "| ridge | +1.1000 | +1.2000 |" in note
    assert "python -m platform.search small" in note
    assert run.data.tags["winner.number"] == "0"
    assert run.data.metrics[TEST] == pytest.approx(0.778)
    assert run.data.metrics["cv/baseline_ridge/validation_mean"] == pytest.approx(1.1)
    assert run.data.metrics["test/baseline_ridge/temporal_r_responsive"] == pytest.approx(1.2)


def test_below_the_winner_every_fold_is_a_run_with_its_curves_and_without_test_scores(winner):
    study, _ = winner
    runs = study.runs()
    trial = runs["trial-0000"].info.run_id
    folds = {name: run for name, run in runs.items() if run.data.tags.get("mlflow.parentRunId") == trial}
    assert sorted(folds) == ["fold-00", "fold-01", "fold-02"]
    for run in folds.values():
        points = {
            key: [(point.step, point.value) for point in study.client.get_metric_history(run.info.run_id, key)]
            for key in run.data.metrics
        }
        assert points == {
            "curve/loss": [(1, 1.0), (2, 0.5)],
            "curve/validation": [(1, pytest.approx(0.1)), (2, pytest.approx(0.25))],
        }
        assert run.info.status == "FINISHED"


def test_models_that_are_registered_are_not_logged_again(winner):
    study, _ = winner
    tracker = study.tracker()
    nothing = {"": None, "sub-07": None}  # logging these would fail
    send_winner(study, tracker, nothing, None)
    assert tracker.finish("FINISHED")
    version = study.client.get_model_version_by_alias("eeg2fmri-small", CHAMPION)
    assert version.version == "1"
    assert len(study.client.search_model_versions("name = 'eeg2fmri-small'")) == 1
    assert len(study.client.search_logged_models([study.runs()["winner"].info.experiment_id])) == 2


def test_of_all_trials_only_the_winner_has_a_test_score(winner):
    runs = winner[0].runs()
    tested = {name: run.data.metrics.get(TEST) for name, run in runs.items() if name.startswith("trial-")}
    assert tested == {"trial-0000": pytest.approx(0.778), "trial-0001": None, "trial-0002": None}


# Settings


@pytest.mark.parametrize("uri", ["./mlruns", "gopher://host", "file:///mlruns", "", "databricks"])
def test_a_uri_that_mlflow_or_the_project_does_not_know_is_refused(uri):
    with pytest.raises(BadInput, match="--tracking must be a database or server"):
        check_tracking(TrackingSettings(uri=uri))


@pytest.mark.parametrize("uri", ["sqlite:////mlflow.db", "postgresql+psycopg2://host/mlflow", "https://mlflow"])
def test_databases_and_servers_are_taken_without_asking_them(uri):
    assert check_tracking(TrackingSettings(uri=uri)) is None


def test_a_refused_uri_is_shown_without_its_credentials():
    with pytest.raises(BadInput) as refusal:
        check_tracking(TrackingSettings(uri="gopher://user:secret@host/mlflow"))
    assert "secret" not in str(refusal.value)
    assert "gopher://host/mlflow" in str(refusal.value)
