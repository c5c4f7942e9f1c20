"""Feed fold jobs to Ray Tune: one Tune trial is one configuration on one fold, in actors that are reused.

Takes the ledger and the racing rule; gives Tune the next job whenever a slot is free, and the ledger every record.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from datasets.errors import BadInput
from platform.ledger import FoldRecord, Ledger, LedgerTrial, opened, sealed
from platform.racing import Done, Propose, RacingSettings, RunFold, Wait, is_settled, next_job
from platform.samplers import Proposal
from platform.training import Job, Workers, run_fold_job

logger = logging.getLogger(__name__)

ASK_AGAIN_SECONDS = 0.05
MAX_FAILURES = 2
"""How often Tune starts a job anew after its process was lost or an error ended it."""


@dataclass(frozen=True, kw_only=True)
class StudySteps:
    """What the search can do: propose a trial, and make a job of a trial and a fold."""

    propose: Callable[[int, int], Proposal]
    """From the trial's number, and the number up to which trials are told, to a proposal."""
    job: Callable[[LedgerTrial, int], Job]
    """From a trial and the number of a fold to a job."""


@dataclass(kw_only=True)
class FoldJobs:
    """The jobs in flight and what comes next; all else is the ledger's."""

    ledger: Ledger
    racing: RacingSettings
    steps: StudySteps
    deadline: float
    """``time.monotonic()`` after which no job starts."""
    on_record: Callable[[LedgerTrial, FoldRecord], None]
    on_told: Callable[[LedgerTrial], None]
    in_flight: dict[str, tuple[int, int]] = field(default_factory=dict)
    fault: str = ""
    """What kept a job from ending though its configuration is not to blame; no job starts after it."""
    error: Exception | None = None
    """What kept the ledger from being read or written; no job starts after it, and nothing is committed."""

    def next_job(self) -> Job | Wait | Done:
        """Return the next job, after proposing trials and telling settled ones as far as they come before it."""
        if self.fault or self.error or time.monotonic() >= self.deadline:
            return Wait() if self.in_flight else Done()
        while True:
            step = next_job([trial.progress for trial in self.ledger.trials], set(self.in_flight.values()), self.racing)
            if isinstance(step, RunFold):
                return self.steps.job(self.ledger.trials[step.trial], step.fold)
            if not isinstance(step, Propose):
                return step
            self.tell_settled(step.told_up_to)
            self.ledger.add(self.steps.propose(step.trial, step.told_up_to))

    def is_done(self) -> bool:
        """Tell whether every trial of the study is settled."""
        return isinstance(next_job([trial.progress for trial in self.ledger.trials], (), self.racing), Done)

    def tell_settled(self, up_to: int) -> None:
        """Tell Optuna, in order, of the settled trials up to this number and of no other."""
        progress = [trial.progress for trial in self.ledger.trials]
        for trial in progress[: max(0, up_to + 1)]:
            if not trial.is_told and is_settled(trial, progress, self.racing):
                self.ledger.tell(trial.number, self.racing.num_folds)
                self.on_told(self.ledger.trials[trial.number])

    def commit(self, record: FoldRecord) -> None:
        """Write a record to the ledger and pass it on."""
        self.ledger.commit(record)
        self.on_record(self.ledger.trials[record.trial], record)


class FoldJobSearcher(Searcher):
    """Tune's view of the fold jobs; it keeps nothing of its own, so a new start needs nothing of it.

    An error of the ledger is kept until Tune has ended: raised within Tune, it would come out as one of Tune's own.
    """

    def __init__(self, jobs: FoldJobs) -> None:
        super().__init__(metric="score", mode="max")
        self._jobs = jobs

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override] # Tune means FINISHED, too
        """Return the next job's configuration, None while none can start, or the word that ends the run."""
        try:
            job = self._jobs.next_job()
        except Exception as error:  # noqa: BLE001 - raised again in run_fold_jobs
            self._jobs.error = error
            job = self._jobs.next_job()
        if isinstance(job, Done):
            return Searcher.FINISHED
        if isinstance(job, Wait):
            time.sleep(ASK_AGAIN_SECONDS)
            return None
        assert job.fold is not None
        self._jobs.in_flight[trial_id] = (job.trial, job.fold.number)
        return {"job": job}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Commit what the job reported; a job that ended without a report is left for the next start to repeat."""
        trial, fold = self._jobs.in_flight.pop(trial_id)
        if self._jobs.error is not None:
            return
        if result is not None and "record" in result and not error:
            try:
                self._jobs.commit(opened(result["record"]))
            except Exception as problem:  # noqa: BLE001 - raised again in run_fold_jobs
                self._jobs.error = problem
            return
        self._jobs.fault = f"trial {trial} on fold {fold} ended {MAX_FAILURES + 1} times without a result"

    def __getstate__(self) -> dict[str, Any]:
        """Give Tune, which pickles its settings, an empty copy: what is worth keeping is in the ledger."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: the ledger is durable."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: a new start reads the ledger."""


def run_fold_jobs(jobs: FoldJobs, workers: Workers, concurrency: int) -> None:
    """Run fold jobs on Ray Tune until none is left or the time is over.

    A configuration that cannot be trained fails alone, on its record.  Where anything else ends a job again and again
    (a worker killed, a disk full, no memory), the others are let end and the search stops: no trial fails for it.

    Every worker group fits: no more jobs run at once than ``concurrency``, which the caller has bounded by the cluster.
    """
    trainable = tune.with_parameters(run_job, workers=workers)
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the other output prints tables at any verbosity
    tuner = tune.Tuner(
        tune.with_resources(trainable, _resources(workers)),
        tune_config=tune.TuneConfig(
            num_samples=-1, search_alg=FoldJobSearcher(jobs), max_concurrent_trials=concurrency, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            name=f"{jobs.ledger.name}-{time.time_ns()}",
            storage_path=workers.storage,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    tuner.fit()
    if jobs.error is not None:
        raise jobs.error
    if jobs.fault:
        raise BadInput(
            f"{jobs.fault}: a worker was lost, memory or a disk is full, or the program is at fault (the errors "
            f"stand in {workers.storage} and in Ray's log); mend that and run the same command "
            "again, nothing committed is lost"
        )


def run_job(config: dict[str, Any], workers: Workers) -> None:
    """Run one fold job in a Tune actor and report its record, sealed: Tune writes what it is told to files."""
    record = run_fold_job(config["job"], workers)
    tune.report({"record": sealed(record), "score": record.score if record.score is not None else float("-inf")})


def _resources(workers: Workers) -> dict[str, float]:
    """Return what a job's own process needs; a worker group beside it asks for its own.

    A process that only waits for its group takes no CPU from it, lest group and process deadlock; Tune wants a request
    that is not empty, so it asks for a byte of memory.
    """
    if workers.count > 1:
        return {"memory": 1}
    return {"CPU": workers.cpus, **({"GPU": workers.gpus} if workers.gpus else {})}
