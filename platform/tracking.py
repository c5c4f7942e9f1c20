"""MLflow: the study as a run, its trials as child runs, the winner as models.

Takes what the ledger holds; gives runs that can be browsed.  The ledger is the truth: where MLflow is down the search
goes on, and what is missing is sent from the ledger later, once.  All calls are made in one background thread.
"""

import json
import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag

from datasets.errors import BadInput
from datasets.storage import without_secrets
from platform.figures import trace_figure
from platform.ledger import WINNER, BaselineFolds, FurtherScores, Ledger, LedgerTrial, mean
from platform.logged_model import DATA, DOWN, QUIET, SCORE, STUDY, TRIAL, log_packaged, name_fold_model, register
from platform.packaging import Package
from platform.products import StudyData

logger = logging.getLogger(__name__)

STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED", "RUNNING": "RUNNING"}
OBJECTIVE = "validation_temporal_r_responsive"
TEST = "test_temporal_r_responsive"
NOT_MEASURED = "What this model gives is a prediction, not a measurement."
MAX_DIGEST = 36
_STUDY, _TRIAL, _STATE = "eeg2fmri.study", "eeg2fmri.trial", "eeg2fmri.state"


@dataclass(frozen=True, kw_only=True)
class TrackingSettings:
    """Where MLflow is, and under which name studies stand there."""

    uri: str
    experiment: str = "eeg2fmri"
    artifacts: str | None = None
    """Where artifacts go when MLflow is a database; None for a server, which decides for itself."""


@dataclass(frozen=True, kw_only=True)
class TrackedData:
    """Which shards a study reads: where they lie, without credentials, and their manifest's digest."""

    uri: str
    digest: str


class Tracker:
    """Sends one study to MLflow, in the background and in order."""

    def __init__(self, settings: TrackingSettings, ledger: Ledger, data: TrackedData, tags: Mapping[str, str]) -> None:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self._settings = settings
        self._ledger = ledger
        self._data = data
        self._tags = {_STUDY: ledger.noted("uid"), **tags}
        self._client = MlflowClient(tracking_uri=settings.uri)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlflow")
        self._sending: list[Future[None]] = []
        self._parent: str | None = None
        self._sent: dict[int, str] = {}
        self._is_down = False

    def send_trial(self, trial: LedgerTrial) -> None:
        """Send a trial that has ended; returns at once."""
        self._submit(lambda: self._send_trial(trial))

    def send_missing(self, trials: Sequence[LedgerTrial]) -> None:
        """Send every ended trial that MLflow does not hold in this state yet; returns at once."""
        for trial in trials:
            if trial.state != "RUNNING":
                self.send_trial(trial)

    def send_winner(
        self,
        winner: LedgerTrial,
        packages: Mapping[str, Package],
        data: StudyData,
        baselines: Mapping[str, BaselineFolds],
        test_scores: Mapping[int, float],
    ) -> None:
        """Send the winner of a closed study: its scores beside the baselines', its figure and its models.

        Args:
            winner: the trial.
            packages: its models by the subject that they were tested on, the one refitted on all under "".
            data: what they were trained on.
            baselines: beside which it stands.
            test_scores: its own, by fold.
        """

        def send() -> None:
            parent = self._parent_run()
            self._log_metrics(parent, _comparison(winner, baselines, test_scores))
            self._client.log_table(parent, _comparison_table(winner, baselines, test_scores), "comparison.json")
            self._client.log_batch(parent, tags=_winner_tags(winner))
            trace = winner.records[min(winner.records)].trace
            with trace_figure(trace) as figure:
                self._client.log_figure(parent, figure, "target_and_prediction.png")
            self._send_models(parent, winner, packages, data, _note(winner, baselines, test_scores))
            self._client.set_tag(parent, "mlflow.note.content", _note(winner, baselines, test_scores))

        self._submit(send)

    def _send_models(
        self, parent: str, winner: LedgerTrial, packages: Mapping[str, Package], data: StudyData, note: str
    ) -> None:
        mlflow.set_tracking_uri(self._settings.uri)
        architecture = str(packages[""].origin["architecture"])
        tags = {
            SCORE: repr(mean(winner.scores)),
            DATA: self._data.digest,
            STUDY: self._tags[_STUDY],
            TRIAL: str(winner.number),
        }
        logged = log_packaged(parent, "model", packages[""], data)
        of_folds = {
            subject: log_packaged(parent, f"fold-{subject}", package, data)
            for subject, package in packages.items()
            if subject
        }
        version = register(self._client, architecture, logged, parent, tags, f"{NOT_MEASURED}\n\n{note}")
        for subject, (uri, _) in of_folds.items():
            name_fold_model(self._client, architecture, version, subject, uri)

    def send_further(self, further: FurtherScores) -> None:
        """Send all further test scores of a closed study's winner, and of the baselines beside it."""

        def send() -> None:
            parent = self._parent_run()
            self._log_metrics(parent, _further_points(further))
            self._client.log_table(parent, _further_table(further), "further_scores.json")

        self._submit(send)

    def finish(self, status: str) -> bool:
        """Wait until everything is sent, end the study's run with a status, and tell whether all of it arrived."""
        self._submit(lambda: self._client.set_terminated(self._parent_run(), status))
        self._pool.shutdown(wait=True)
        failures = [error for error in (sent.exception() for sent in self._sending) if error is not None]
        for error in failures:
            logger.error("what could not be sent to MLflow", exc_info=error)
        return not self._is_down and not failures

    @property
    def parent(self) -> str | None:
        """The id of the study's run, once it is known."""
        return self._parent

    def _submit(self, send: Callable[[], None]) -> None:
        self._sending.append(self._pool.submit(self._unless_down, send))

    def _unless_down(self, send: Callable[[], None]) -> None:
        """Send, unless MLflow was found down before: what is left out now, a later start sends from the ledger."""
        if self._is_down:
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # MLflow's own; this thread has no user to warn
                send()
        except DOWN as error:
            if not self._is_down:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                logger.warning("MLflow cannot be reached (%s); the search goes on, the ledger keeps all", reason)
            self._is_down = True

    def _send_trial(self, trial: LedgerTrial) -> None:
        parent = self._parent_run()
        if self._sent.get(trial.number) == _progress(trial):
            return
        tags = {
            **self._tags,
            _TRIAL: str(trial.number),
            "mlflow.parentRunId": parent,
            "stop_reason": trial.failure or trial.state.lower(),
            **({"uses": trial.uses} if trial.uses else {}),
        }
        run_id = self._run_with(f"trial-{trial.number:04d}", tags, {_TRIAL: str(trial.number)})
        self._client.log_batch(run_id, params=_params(trial.configuration), metrics=_costs(trial))
        scores = trial.scores
        if scores:
            mean, at = sum(scores.values()) / len(scores), len(trial.late)
            points = [(OBJECTIVE, score, fold) for fold, score in scores.items()]
            self._log_metrics(run_id, [*points, (f"mean_{OBJECTIVE}", mean, at), ("num_folds", len(scores), at)])
            self._client.log_table(run_id, _fold_table(trial), "folds.json")
        self._client.set_tag(run_id, _STATE, _progress(trial))
        self._client.set_terminated(run_id, STATUS[trial.state])
        self._sent[trial.number] = _progress(trial)

    def _parent_run(self) -> str:
        if self._parent is None:
            self._parent = self._run_with(self._ledger.name, {**self._tags, _TRIAL: "study"}, {_TRIAL: "study"})
            self._sent = self._states_sent()
            self._client.log_inputs(self._parent, datasets=[_dataset_input(self._data)])
        return self._parent

    def _run_with(self, name: str, tags: Mapping[str, str], key: Mapping[str, str]) -> str:
        """Return the run that has this study's key, making it only where there is none: a resend never doubles it."""
        experiment = self._experiment()
        wanted = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in {_STUDY: self._tags[_STUDY], **key}.items())
        found = self._client.search_runs([experiment], wanted, max_results=1)
        if found:
            return str(found[0].info.run_id)
        return str(self._client.create_run(experiment, run_name=name, tags=dict(tags)).info.run_id)

    def _states_sent(self) -> dict[int, str]:
        wanted = f"tags.`{_STUDY}` = '{self._tags[_STUDY]}'"
        sent: dict[int, str] = {}
        token = None
        while True:
            page = self._client.search_runs([self._experiment()], wanted, max_results=1000, page_token=token)
            for run in page:
                if _STATE in run.data.tags:
                    sent[int(run.data.tags[_TRIAL])] = run.data.tags[_STATE]
            token = page.token
            if not token:
                return sent

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._settings.experiment)
        if found is not None:
            return str(found.experiment_id)
        tags = {
            "mlflow.experiment.primaryMetric.name": f"mean_{OBJECTIVE}",
            "mlflow.experiment.primaryMetric.greaterIsBetter": "True",
        }
        return str(self._client.create_experiment(self._settings.experiment, self._settings.artifacts, tags))

    def _log_metrics(self, run_id: str, points: Sequence[tuple[str, float, int]]) -> None:
        metrics = [Metric(key, float(value), 0, step) for key, value, step in points]
        for at in range(0, len(metrics), 1000):
            self._client.log_batch(run_id, metrics=metrics[at : at + 1000])


def check_tracking(settings: TrackingSettings) -> None:
    """Refuse a tracking URI that MLflow does not know; one that is merely down is no reason not to search."""
    known = ("sqlite:", "postgresql", "mysql", "http:", "https:")
    if not settings.uri.startswith(known):
        raise BadInput(
            f"--tracking must be a database or server (one of {', '.join(known)}...), but got "
            f"{without_secrets(settings.uri)}; for example sqlite:////absolute/path/mlflow.db"
        )


def _comparison(
    winner: LedgerTrial, baselines: Mapping[str, BaselineFolds], test_scores: Mapping[int, float]
) -> list[tuple[str, float, int]]:
    of_winner = [(f"mean_{OBJECTIVE}", mean(winner.scores), 0), (f"mean_{TEST}", mean(test_scores), 0)]
    of_baselines = [
        point
        for name, scores in baselines.items()
        for point in (
            (f"baseline_{name}_mean_{OBJECTIVE}", mean(scores.validation), 0),
            (f"baseline_{name}_mean_{TEST}", mean(scores.test), 0),
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


def _note(winner: LedgerTrial, baselines: Mapping[str, BaselineFolds], test_scores: Mapping[int, float]) -> str:
    lines = [
        f"Trial {winner.number}: validation r {mean(winner.scores):+.4f}, test r {mean(test_scores):+.4f} "
        f"over {len(winner.scores)} subjects. Chosen as the best of a search: expect less on new subjects.",
        "",
        *_alignment_note(winner),
        "| baseline | validation r | test r |",
        "|---|---|---|",
        *(
            f"| {name} | {mean(scores.validation):+.4f} | {mean(scores.test):+.4f} |"
            for name, scores in baselines.items()
        ),
    ]
    return "\n".join(lines)


def _alignment_note(winner: LedgerTrial) -> list[str]:
    alignment = winner.configuration.get("alignment", "none")
    return [] if alignment == "none" else [f"Before EEG is given to the model it must be aligned: {alignment}.", ""]


def _dataset_input(data: TrackedData) -> DatasetInput:
    digest = data.digest[:MAX_DIGEST]
    source = json.dumps({"uri": data.uri, "manifest_sha256": data.digest})
    return DatasetInput(Dataset(name="shards", digest=digest, source_type="eeg2fmri-shards", source=source))


def _winner_tags(winner: LedgerTrial) -> list[RunTag]:
    """Return the winner as tags: a study that is extended may find another one, and MLflow's params never change."""
    chosen = {"number": winner.number, **winner.configuration}
    return [RunTag(f"winner.{key}", str(value)) for key, value in sorted(chosen.items())]


def _progress(trial: LedgerTrial) -> str:
    """Return how far a trial is: what came after it was told is sent, too."""
    return f"{trial.state} and {len(trial.late)} late" if trial.late else trial.state


def _costs(trial: LedgerTrial) -> list[Metric]:
    costs = {"cost/seconds": trial.seconds, "cost/fold_jobs": float(trial.num_jobs)}
    return [Metric(key, value, 0, len(trial.late)) for key, value in costs.items()]


def _params(configuration: Mapping[str, Any]) -> list[Param]:
    return [Param(key, str(value)) for key, value in sorted(configuration.items())]


def _fold_table(trial: LedgerTrial) -> dict[str, list[Any]]:
    records = [trial.records[fold] for fold in trial.scores]
    columns = ("fold", "score", "best_epochs", "num_epochs", "seconds", "seed", "stop_reason")
    return {column: [getattr(record, column) for record in records] for column in columns}
