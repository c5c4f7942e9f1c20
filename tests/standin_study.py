"""A search in which only the training of its fold jobs is a stand-in; ledger, samplers, racing and Ray Tune are real.

``python standin_study.py SETTINGS`` takes a JSON object (the fields of ``Standin``), runs the study to its end and
prints ``done``.  A job sleeps for a random time and scores what its configuration and fold say.  Every start of a job
and every record in the ledger is one line of the log, appended in one write.
"""

import dataclasses
import json
import logging
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from standin_job import StandinFold, StandinJob, append, standin_for_run_job

from datasets.cluster import connected
from datasets.command_line import run_command
from platform.data.folds import leave_one_subject_out
from platform.data.products import DataSettings
from platform.ledger.ledger import Ledger
from platform.ledger.records import FoldRecord, LedgerTrial, best_trial
from platform.ledger.studies import open_ledger, read_ledger
from platform.study import fold_jobs
from platform.study import run as study
from platform.study.progress import PlainProgress
from platform.study.settings import StudySettings
from platform.tracking.runs import TrackingSettings
from platform.training.job import Job, Workers

SCRIPT = Path(__file__).resolve()
ROOT = SCRIPT.parent.parent


@dataclass(frozen=True, kw_only=True)
class Standin:
    """A stand-in study: what it is called, where it is kept, how it races, and how long a job sleeps on average."""

    storage_url: str
    log: str
    job_storage: str
    name: str = "standin"
    address: str = "local"
    num_trials: int = 12
    num_subjects: int = 6
    racing: str = "halving"
    sampler: str = "tpe"
    seed: int = 0
    commit_lag: int = 4
    concurrency: int = 2
    cpus: int = 2
    seconds: float = 0.0
    time_budget_s: float = math.inf

    @property
    def settings(self) -> StudySettings:
        """The study's settings, with data that nothing opens."""
        return StudySettings(
            name=self.name,
            architecture="transformer",
            data=DataSettings(shards="/nowhere", cache_folder="/nowhere"),
            storage_url=self.storage_url,
            tracking=TrackingSettings(uri="sqlite:////nowhere"),
            workers=Workers(storage=self.job_storage),
            num_trials=self.num_trials,
            racing=self.racing,
            sampler=self.sampler,
            seed=self.seed,
            commit_lag=self.commit_lag,
            concurrency=self.concurrency,
            time_budget_s=self.time_budget_s,
        )

    def changed(self, **changes: Any) -> "Standin":
        """Return the same study with other fields."""
        return dataclasses.replace(self, **changes)


class NoTracker:
    """Takes whatever a tracker is sent."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def standin_of(job: Job) -> StandinJob:
    """Return the stand-in of a search's job."""
    assert job.fold is not None
    return StandinJob(
        trial=job.trial, fold=StandinFold(number=job.fold.number), repeat=getattr(job, "repeat", 0), seed=job.seed,
        configuration=job.configuration,
    )  # fmt: skip


def run_standin(standin: Standin) -> None:
    """Run a stand-in study to its end in this process."""
    settings = standin.settings
    folds = leave_one_subject_out([f"sub-{number:02d}" for number in range(standin.num_subjects)], settings.seed)

    def told(_: PlainProgress, trial: LedgerTrial, record: FoldRecord) -> None:
        append(standin.log, "commit", trial.number, record.fold, getattr(record, "repeat", 0))

    real = PlainProgress.recorded, study.fold_job, fold_jobs.run_job
    PlainProgress.recorded = told
    study.fold_job = lambda *arguments, **named: standin_of(real[1](*arguments, **named))
    fold_jobs.run_job = standin_for_run_job(standin.log, standin.seconds)
    try:
        ledger = open_ledger(settings.storage_url, settings.name, settings.terms("standin"))
        with ledger.sole_writer():
            for fields in records_of(ledger):
                append(standin.log, "known", fields["trial"], fields["fold"], fields.get("repeat", 0))
            with connected(standin.address, standin.cpus):
                study._run_trials(settings, folds, ledger, NoTracker())
            ledger.close()
    finally:
        PlainProgress.recorded, study.fold_job, fold_jobs.run_job = real


def records_of(ledger: Ledger) -> list[dict[str, Any]]:
    """Return every record of a study, sorted, without what the clock says."""
    records = [dataclasses.asdict(record) for trial in ledger.trials for record in trial.records.values()]
    for fields in records:
        fields.pop("seconds")
    return sorted(records, key=lambda each: (each["trial"], each["fold"], each.get("repeat", 0)))


def table_of(standin: Standin) -> str:
    """Return all that must repeat, bit for bit: states, parameters, configurations, records, the winner."""
    ledger = read_ledger(standin.storage_url, standin.name)
    trials = [[trial.number, trial.state, trial.params, trial.configuration] for trial in ledger.trials]
    winner = best_trial(ledger.trials)
    return json.dumps(
        {"trials": trials, "records": records_of(ledger), "winner": winner and winner.number}, sort_keys=True
    )


def start_standin(standin: Standin, **changes: str) -> "subprocess.Popen[str]":
    """Start a stand-in study in a process of its own, stdout and stderr in one pipe."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("EEG2FMRI_", "RAY_", "MLFLOW_"))}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), json.dumps(dataclasses.asdict(standin))],
        cwd=ROOT,
        env={
            **kept, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": f"{ROOT}:{SCRIPT.parent}", "OMP_NUM_THREADS": "1",
            **changes,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )  # fmt: skip


def main() -> None:
    """Run the study that the command line describes."""
    logging.basicConfig(level=logging.INFO)
    run_standin(Standin(**json.loads(sys.argv[1])))
    print("done", flush=True)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
