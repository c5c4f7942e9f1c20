"""MLflow: the study as a run, its trials as child runs, the winner as models.

Takes what the ledger holds; gives runs that can be browsed.  The ledger is the truth: where MLflow is down the search
goes on, and what is missing is sent later, once.  All calls are made in one background thread.
"""

import importlib.util
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, Run, RunTag

from datasets.errors import BadInput
from datasets.redaction import redacted
from datasets.storage import without_secrets
from platform.data.products import StudyData
from platform.evidence.findings import NOT_TRAINING
from platform.evidence.protocols import LEAKS
from platform.evidence.statistics import RAW, estimate
from platform.ledger.ledger import Ledger
from platform.ledger.records import WINNER, BaselineFolds, FoldRecord, FurtherScores, LedgerTrial, mean
from platform.tracking.figures import trace_figure
from platform.tracking.logged_model import DOWN, QUIET, STUDY, TRIAL, Standing, Winner, describe, register
from platform.tracking.outbox import Outbox
from platform.tracking.packaging import Package
from platform.tracking.study_note import StudyNote

if TYPE_CHECKING:  # it needs psutil, which is optional
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

logger = logging.getLogger(__name__)

STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED", "RUNNING": "RUNNING"}
VALIDATION, VALIDATION_MEAN = "cv/validation", "cv/validation_mean"
"""A trial's validation score by fold, which is the step, and its mean."""
TEST = "test/temporal_r_responsive"
TABLES = ("folds.json", "comparison.json", "further_scores.json")
"""Tables of the study's run."""
MAX_DIGEST = 36
LISTED, MOST_METRICS = 1000, 1000
"""The most that MLflow lists, or takes, in one request."""
_STATE = "eeg2fmri.state"
_OF_STUDY = "study"
_NO_RETRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
"""MLflow's client would make a run twice where the answer to its request was lost; the outbox looks first."""

Point = tuple[str, float, int]
"""A metric: its name, its value, its step."""


@dataclass(frozen=True, kw_only=True)
class TrackingSettings:
    """Where MLflow is, and under which name studies stand there."""

    uri: str
    experiment: str = "eeg2fmri"
    artifacts: str | None = None
    """Where artifacts go when MLflow is a database; None for a server, which decides for itself."""
    system_metrics: bool = False
    """Whether the study's run gets the use of processor, memory, disk and network of the machine that searches."""


@dataclass(frozen=True, kw_only=True)
class TrackedData:
    """Which shards a study reads: where they lie, without credentials, their manifest's digest, subjects in folds.

    ``num_training`` is how many train in a fold; None for all but the one that tests and the two that validate.
    """

    uri: str
    digest: str
    num_subjects: int
    num_training: int | None = None

    @property
    def num_shared(self) -> int:
        """Subjects that train in a fold, 1 at the least."""
        return max(self.num_subjects - NOT_TRAINING if self.num_training is None else self.num_training, 1)


@dataclass(frozen=True, kw_only=True)
class SentRun:
    """A run of the study's in MLflow, and which state of its trial arrived whole; "" for none."""

    run_id: str
    state: str = ""


class Untracked:
    """Takes what a tracker takes while a search runs, and sends nothing."""

    def send_trial(self, trial: LedgerTrial) -> None:
        """Send nothing of a trial."""

    def send_missing(self, trials: Sequence[LedgerTrial]) -> None:
        """Send nothing of trials."""

    def send_further(self, scores: FurtherScores) -> None:
        """Send no further scores."""


class Tracker:
    """Sends one study to MLflow, in the background and in order."""

    def __init__(self, settings: TrackingSettings, ledger: Ledger, data: TrackedData, tags: Mapping[str, str]) -> None:
        for name, value in {**QUIET, **_NO_RETRIES}.items():
            os.environ.setdefault(name, value)
        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self._settings = settings
        self._ledger = ledger
        self._data = data
        self._tags = {STUDY: ledger.noted("uid"), **tags}
        self._client = MlflowClient(tracking_uri=settings.uri)
        self._outbox = Outbox(DOWN, self._failed)
        self._runs: dict[str, SentRun] | None = None
        self._experiment_id: str | None = None
        self._is_warned = False
        self._monitor: SystemMetricsMonitor | None = None

    def watch(self) -> None:
        """Send, from now on, what the machine does, where the settings want that; returns at once."""
        if self._settings.system_metrics:
            self._outbox.submit(self._watch)

    def send_trial(self, trial: LedgerTrial) -> None:
        """Send a trial that has ended; returns at once."""
        self._outbox.submit(lambda: self._send_trial(trial))

    def send_missing(self, trials: Sequence[LedgerTrial]) -> None:
        """Send every ended trial that MLflow does not hold in this state yet; returns at once."""
        for trial in trials:
            if trial.state != "RUNNING":
                self.send_trial(trial)

    def send_models(self, winner: LedgerTrial, packages: Mapping[str, Package], data: StudyData) -> None:
        """Log and register the models of a closed study's winner, each once.

        Args:
            winner: the trial.
            packages: its models by the subject that they were tested on, the one refitted on all under "".
            data: what they were trained on.
        """

        def send() -> None:
            mlflow.set_tracking_uri(self._settings.uri)
            register(self._client, self._registered(winner), packages, data)

        self._outbox.submit(send)

    def send_winner(
        self,
        winner: LedgerTrial,
        baselines: Mapping[str, BaselineFolds],
        test_scores: Mapping[int, float],
        note: StudyNote,
    ) -> None:
        """Send what is said of a closed study's winner: scores beside the baselines', figure, note, card and alias."""

        def send() -> None:
            runs = self._known_runs()
            parent = runs[_OF_STUDY].run_id
            said = [(key, value, 0) for key, value in note.metrics.items()]
            self._log_metrics(parent, [*_comparison(winner, baselines, test_scores), *said])
            if set(test_scores) == set(winner.scores):
                self._log_table(parent, "comparison.json", _comparison_table(winner, baselines, test_scores))
            self._log_metrics(runs[str(winner.number)].run_id, [(TEST, mean(test_scores), 0)])
            for record in winner.records.values():
                self._send_curves(record)
            with trace_figure(winner.records[min(winner.records)].trace) as figure:
                self._client.log_figure(parent, figure, "target_and_prediction.png")
            tags = {**_winner_tags(winner), **note.tags, "mlflow.note.content": note.text}
            self._client.log_batch(parent, tags=[RunTag(name, value) for name, value in tags.items()])
            is_control = self._tags.get("pairing", "recorded") != "recorded" or self._tags.get("folds") in LEAKS
            standing = Standing(score=note.corrected, data=self._data.digest, is_control=is_control)
            describe(self._client, self._registered(winner), standing, note.card)

        self._outbox.submit(send)

    def _registered(self, winner: LedgerTrial) -> Winner:
        return Winner(
            architecture=str(self._ledger.terms["architecture"]),
            study=self._tags[STUDY],
            trial=winner.number,
            run_id=self._known_runs()[_OF_STUDY].run_id,
        )

    def send_further(self, further: FurtherScores) -> None:
        """Send all further test scores of a closed study's winner, and of the baselines beside it."""

        def send() -> None:
            parent = self._known_runs()[_OF_STUDY].run_id
            self._log_metrics(parent, _further_points(further))
            self._log_table(parent, "further_scores.json", _further_table(further))

        self._outbox.submit(send)

    def send_report(self, page: str) -> None:
        """Send a closed study's report, an HTML page."""
        self._outbox.submit(lambda: self._client.log_text(self._known_runs()[_OF_STUDY].run_id, page, "report.html"))

    def finish(self, status: str) -> bool:
        """Wait until everything is sent, end the study's run with a status, and tell whether all of it arrived."""

        def send() -> None:
            if self._monitor is not None:
                self._monitor.finish()
                self._monitor = None
            parent = self._known_runs()[_OF_STUDY].run_id
            self._log_table(parent, "folds.json", _fold_table(self._ledger.trials))
            self._show_tables(parent)
            self._client.set_terminated(parent, status)

        self._outbox.submit(send)
        return self._outbox.finish()

    def _watch(self) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        run_id = self._known_runs()[_OF_STUDY].run_id
        self._monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=self._settings.uri)
        self._monitor.start()

    def _failed(self, error: Exception) -> None:
        """Forget what MLflow was known to hold: the answer to a request that it fulfilled may be lost."""
        self._runs = None
        if not self._is_warned:
            reason = redacted((str(error).splitlines() or [type(error).__name__])[0])
            logger.warning("MLflow cannot be reached (%s); the search goes on, the ledger keeps all", reason)
        self._is_warned = True

    def _send_trial(self, trial: LedgerTrial) -> None:
        """Send a trial in three requests: MLflow makes no run that has ended, nor ends one in a batch."""
        runs, key = self._known_runs(), str(trial.number)
        if key in runs and runs[key].state == _progress(trial):
            return
        if key not in runs:
            of_study = runs[_OF_STUDY].run_id
            tags = {**self._tags, TRIAL: key, "mlflow.parentRunId": of_study}
            runs[key] = SentRun(run_id=self._created(f"trial-{trial.number:04d}", tags))
        run_id, state = runs[key].run_id, _progress(trial)
        self._client.set_terminated(run_id, STATUS[trial.state])
        self._client.log_batch(
            run_id,
            metrics=_metrics([*_costs(trial), *_validation(trial, self._data.num_shared)]),
            params=_params(trial.configuration),
            tags=[RunTag(name, value) for name, value in {**_ending(trial), _STATE: state}.items()],
        )
        runs[key] = SentRun(run_id=run_id, state=state)

    def _send_curves(self, record: FoldRecord) -> None:
        """Send how a finalist learned on one fold, a run below the trial's: loss and validation score by epoch."""
        runs, key = self._known_runs(), f"{record.trial}/{record.fold}"
        if key in runs and runs[key].state:
            return
        if key not in runs:
            tags = {**self._tags, TRIAL: key, "mlflow.parentRunId": runs[str(record.trial)].run_id}
            runs[key] = SentRun(run_id=self._created(f"fold-{record.fold:02d}", tags))
        self._client.set_terminated(runs[key].run_id, "FINISHED")
        told = [RunTag("stop_reason", record.stop_reason), RunTag(_STATE, "COMPLETE")]
        self._client.log_batch(runs[key].run_id, metrics=_metrics(_curves(record)), tags=told)
        runs[key] = SentRun(run_id=runs[key].run_id, state="COMPLETE")

    def _known_runs(self) -> dict[str, SentRun]:
        """Return the study's runs by trial, its own among them: read once, and after each failure."""
        if self._runs is None:
            runs = self._runs_there()
            if _OF_STUDY in runs:
                self._client.update_run(runs[_OF_STUDY].run_id, status="RUNNING")  # it goes on
            else:
                tags = {**self._tags, TRIAL: _OF_STUDY}
                runs[_OF_STUDY] = SentRun(run_id=self._created(self._ledger.name, tags))
            self._client.log_inputs(runs[_OF_STUDY].run_id, datasets=[_dataset_input(self._data)])
            self._runs = runs
        return self._runs

    def _created(self, name: str, tags: Mapping[str, str]) -> str:
        return str(self._client.create_run(self._experiment(), run_name=name, tags=dict(tags)).info.run_id)

    def _runs_there(self) -> dict[str, SentRun]:
        """Return the study's runs that MLflow holds; one that stands there twice is deleted once."""
        found: dict[str, SentRun] = {}
        for run in sorted(self._listed(), key=lambda each: (_STATE in each.data.tags, each.info.start_time)):
            key = run.data.tags[TRIAL]
            if key in found:
                self._client.delete_run(found[key].run_id)
            found[key] = SentRun(run_id=run.info.run_id, state=run.data.tags.get(_STATE, ""))
        return found

    def _listed(self) -> list[Run]:
        wanted = f"tags.`{STUDY}` = '{self._tags[STUDY]}'"
        found: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs([self._experiment()], wanted, max_results=LISTED, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def _experiment(self) -> str:
        if self._experiment_id is None:
            self._experiment_id = self._experiment_there()
        return self._experiment_id

    def _experiment_there(self) -> str:
        found = self._client.get_experiment_by_name(self._settings.experiment)
        if found is not None:
            return str(found.experiment_id)
        tags = {
            "mlflow.experiment.primaryMetric.name": VALIDATION_MEAN,
            "mlflow.experiment.primaryMetric.greaterIsBetter": "True",
        }
        return str(self._client.create_experiment(self._settings.experiment, self._settings.artifacts, tags))

    def _log_metrics(self, run_id: str, points: Sequence[Point]) -> None:
        metrics = _metrics(points)
        for at in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(run_id, metrics=metrics[at : at + MOST_METRICS])

    def _log_table(self, run_id: str, name: str, table: Mapping[str, Sequence[Any]]) -> None:
        """Write a table whole, as MLflow's UI reads it: its ``log_table`` would append to what is there."""
        rows = [list(row) for row in zip(*table.values(), strict=True)]
        self._client.log_dict(run_id, {"columns": list(table), "data": rows}, name)

    def _show_tables(self, run_id: str) -> None:
        there = {artifact.path for artifact in self._client.list_artifacts(run_id)}
        shown = [{"path": name, "type": "table"} for name in TABLES if name in there]
        self._client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps(shown))


def check_tracking(settings: TrackingSettings) -> None:
    """Refuse a tracking URI that MLflow does not know; one that is merely down is no reason not to search."""
    known = ("sqlite:", "postgresql", "mysql", "http:", "https:")
    if not settings.uri.startswith(known):
        raise BadInput(
            f"--tracking must be a database or server (one of {', '.join(known)}...), but got "
            f"{without_secrets(settings.uri)}; for example sqlite:////absolute/path/mlflow.db"
        )
    if settings.system_metrics and importlib.util.find_spec("psutil") is None:
        raise BadInput("--system-metrics needs the package psutil: pip install 'eeg2fmri-platform[system-metrics]'")


def _comparison(
    winner: LedgerTrial, baselines: Mapping[str, BaselineFolds], test_scores: Mapping[int, float]
) -> list[Point]:
    of_winner = [(VALIDATION_MEAN, mean(winner.scores), 0), (TEST, mean(test_scores), 0)]
    of_baselines = [
        point
        for name, scores in baselines.items()
        for point in (
            (VALIDATION_MEAN.replace("/", f"/baseline_{name}/"), mean(scores.validation), 0),
            (TEST.replace("/", f"/baseline_{name}/"), mean(scores.test), 0),
        )
    ]
    return [*of_winner, *of_baselines, ("num_subjects", len(winner.scores), 0)]


def _comparison_table(
    winner: LedgerTrial, baselines: Mapping[str, BaselineFolds], test_scores: Mapping[int, float]
) -> dict[str, list[Any]]:
    table: dict[str, list[Any]] = {"fold": list(winner.scores)}
    table["winner_validation"], table["winner_test"] = list(winner.scores.values()), list(test_scores.values())
    for name, scores in baselines.items():
        table[f"{name}_validation"] = [scores.validation[fold] for fold in winner.scores]
        table[f"{name}_test"] = [scores.test[fold] for fold in winner.scores]
    return table


def _further_points(further: FurtherScores) -> list[tuple[str, float, int]]:
    """Return the mean over folds of every score: ``test/<score>`` is the winner's."""
    return [
        (f"test/{score}" if predictor == WINNER else f"test/baseline_{predictor}/{score}", mean(folds), 0)
        for predictor, scores in further.items()
        for score, folds in scores.items()
    ]


def _further_table(further: FurtherScores) -> dict[str, list[Any]]:
    rows = [
        (predictor, score, fold, value)
        for predictor, scores in further.items()
        for score, folds in scores.items()
        for fold, value in folds.items()
    ]
    return {column: [row[at] for row in rows] for at, column in enumerate(("predictor", "score", "fold", "test"))}


def _dataset_input(data: TrackedData) -> DatasetInput:
    digest = data.digest[:MAX_DIGEST]
    source = json.dumps({"uri": data.uri, "manifest_sha256": data.digest})
    return DatasetInput(Dataset(name="shards", digest=digest, source_type="eeg2fmri-shards", source=source))


def _winner_tags(winner: LedgerTrial) -> dict[str, str]:
    """Return the winner as tags: a study that is extended may find another one, and MLflow's params never change."""
    chosen = {"number": winner.number, **winner.configuration}
    return {f"winner.{key}": str(value) for key, value in sorted(chosen.items())}


def _progress(trial: LedgerTrial) -> str:
    """Return how far a trial is: what came after it was told is sent, too."""
    return f"{trial.state} and {len(trial.late)} late" if trial.late else trial.state


def _ending(trial: LedgerTrial) -> dict[str, str]:
    return {"stop_reason": trial.failure or trial.state.lower(), **({"uses": trial.uses} if trial.uses else {})}


def _costs(trial: LedgerTrial) -> list[Point]:
    at = len(trial.late)
    return [("cost/seconds", trial.seconds, at), ("cost/fold_jobs", float(trial.num_jobs), at)]


def _validation(trial: LedgerTrial, num_training: int) -> list[Point]:
    """Return a trial's validation score by fold, and the mean with its 95 % interval."""
    scores = trial.scores
    if not scores:
        return []
    at = len(trial.late)
    over_folds = estimate(np.array(list(scores.values())), num_training, RAW)
    found = {
        VALIDATION_MEAN: over_folds.mean,
        "cv/ci_low": over_folds.low,
        "cv/ci_high": over_folds.high,
        "cv/num_folds": float(len(scores)),
    }
    points = [(VALIDATION, score, fold) for fold, score in scores.items()]
    return [*points, *((key, value, at) for key, value in found.items() if math.isfinite(value))]


def _curves(record: FoldRecord) -> list[Point]:
    """Return a fold job's loss and validation score, mean over its two subjects, by epoch; the first epoch is 1."""
    scores = [mean(dict(enumerate(pair))) for pair in zip(*record.validation, strict=True)]
    found = {"curve/loss": record.loss, "curve/validation": scores}
    points = [(key, value, epoch) for key, values in found.items() for epoch, value in enumerate(values, start=1)]
    return [point for point in points if math.isfinite(point[1])][-MOST_METRICS:]


def _metrics(points: Sequence[Point]) -> list[Metric]:
    return [Metric(key, float(value), 0, step) for key, value, step in points]


def _params(configuration: Mapping[str, Any]) -> list[Param]:
    return [Param(key, str(value)) for key, value in sorted(configuration.items())]


def _fold_table(trials: Sequence[LedgerTrial]) -> dict[str, list[Any]]:
    """Return what each scored fold of each trial found, test scores left out."""
    records = [trial.records[fold] for trial in trials for fold in trial.scores]
    columns = ("trial", "fold", "score", "best_epochs", "num_epochs", "seconds", "seed", "stop_reason")
    return {column: [getattr(record, column) for record in records] for column in columns}
