"""Feed fold jobs to Ray Tune: one Tune trial is one configuration on one fold, in actors that are reused.

Takes the ledger and the racing rule; gives Tune the next job whenever a slot is free, and the ledger every record.
"""

import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ray import tune
from ray.tune.execution import class_cache
from ray.tune.search import Searcher

from datasets.cluster import is_in_this_process
from datasets.errors import BadInput
from datasets.retries import first_line
from datasets.storage import without_secrets
from platform.ledger.ledger import Ledger
from platform.ledger.records import FoldRecord, LedgerTrial, opened, sealed
from platform.proposals.samplers import Proposal
from platform.racing.budgets import BudgetedRace, Budgets, is_over_gpu_hours
from platform.racing.next_job import Done, FoldJob, Propose, RacingSettings, RunFold, Wait
from platform.study.ended_jobs import ForgettingScheduler, NoTrialProgress
from platform.study.job_clock import JobClock
from platform.training.fold_job import run_fold_job
from platform.training.job import Job, Workers

logger = logging.getLogger(__name__)

ASK_AGAIN_SECONDS = 0.05
MAX_FAILURES = 2
"""How often Tune starts a job anew after its process was lost or an error ended it."""


def _repeats(trial: LedgerTrial) -> list[FoldRecord]:
    return [record for (_, repeat), record in trial.late.items() if repeat]


def _ignore(_: object) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class StudySteps:
    """What the search can do: propose a trial, and make a job of a trial, a fold and a repeat."""

    propose: Callable[[int, int], Proposal]
    """From the trial's number, and the number up to which trials are told, to a proposal."""
    job: Callable[[LedgerTrial, int, int], Job]
    """From a trial, the number of a fold and that of a repeat to a job."""


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
    on_proposal: Callable[[LedgerTrial], None] = _ignore
    on_start: Callable[[Job], None] = _ignore
    on_end: Callable[[Job], None] = _ignore
    timeout_s: float = math.inf
    """Seconds after which a job hangs and is killed."""
    budgets: Budgets = field(default_factory=Budgets)
    gpus_per_job: float = 0.0
    in_flight: dict[str, FoldJob] = field(default_factory=dict)
    fault: str = ""
    """What kept a job from ending though its configuration is not to blame; no job starts after it."""
    error: Exception | None = None
    """What kept the ledger from being read or written; no job starts after it, and nothing is committed."""

    def __post_init__(self) -> None:
        self._race = BudgetedRace(self.racing, self.budgets)

    def next_job(self) -> Job | Wait | Done:
        """Return the next job, after proposing trials and telling settled ones as far as they come before it."""
        if self.fault or self.error or self.is_over():
            return Wait() if self.in_flight else Done()
        while True:
            progress = [trial.progress for trial in self.ledger.trials]
            step = self._race.next_job(progress, set(self.in_flight.values()))
            if isinstance(step, RunFold):
                if self._race.is_settled(progress[step.trial], progress):
                    self.tell_settled(len(progress))
                return self.steps.job(self.ledger.trials[step.trial], step.fold, step.repeat)
            if not isinstance(step, Propose):
                return step
            self.tell_settled(step.told_up_to)
            self.on_proposal(self.ledger.add(self.steps.propose(step.trial, step.told_up_to)))

    def is_over(self) -> bool:
        """Tell whether time or GPU hours are used up, so that no job starts."""
        return time.monotonic() >= self.deadline or is_over_gpu_hours(self._gpu_seconds(), self.budgets)

    def ended_by(self) -> str:
        """Return which budget ended the study, in words; "" where none did."""
        if is_over_gpu_hours(self._gpu_seconds(), self.budgets):
            return f"{self.budgets.gpu_hours:g} GPU hours are used up"
        return self._race.ended_by([trial.progress for trial in self.ledger.trials])

    def _gpu_seconds(self) -> float:
        if self.budgets.gpu_hours is None:
            return 0.0
        records = [record for trial in self.ledger.trials for record in [*trial.records.values(), *_repeats(trial)]]
        return self.gpus_per_job * math.fsum(record.seconds for record in records)

    def is_done(self) -> bool:
        """Tell whether the study has no more jobs."""
        return isinstance(self._race.next_job([trial.progress for trial in self.ledger.trials], ()), Done)

    def tell_settled(self, up_to: int) -> None:
        """Tell Optuna, in order, of the settled trials up to this number and of no other."""
        progress = [trial.progress for trial in self.ledger.trials]
        for trial in progress[: max(0, up_to + 1)]:
            if not trial.is_told and self._race.is_settled(trial, progress):
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

    def __init__(self, jobs: FoldJobs, clock: JobClock) -> None:
        super().__init__(metric="score", mode="max")
        self._jobs = jobs
        self._clock = clock

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
        self._jobs.in_flight[trial_id] = (job.trial, job.fold.number, job.repeat)
        return {"job": job}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Commit what the job reported; a job that ended without a report is left for the next start to repeat."""
        trial, fold, _ = self._jobs.in_flight.pop(trial_id)
        if self._jobs.error is not None:
            return
        is_recorded = result is not None and "record" in result and not error
        record = opened(result["record"]) if result is not None and is_recorded else self._clock.failed_record(trial_id)
        if record is not None:
            try:
                self._jobs.commit(record)
            except Exception as problem:  # noqa: BLE001 - raised again in run_fold_jobs
                self._jobs.error = problem
            return
        last = self._clock.last_error(trial_id)
        self._jobs.fault = f"trial {trial} on fold {fold} ended {MAX_FAILURES + 1} times without a result" + (
            f", the last time by {last}" if last else ""
        )

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
    if is_in_this_process():
        _run_here(jobs, workers)
        return
    trainable = tune.with_parameters(run_job, workers=workers)
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the other output prints tables at any verbosity
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # five files a job, which nobody reads
    _keep_keys_out_of_ray_s_logs()
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # each error of a job, whole; they stand in its files
    logging.getLogger("ray.train._internal.storage").addFilter(in_one_line)
    clock = JobClock(jobs.timeout_s, jobs.on_start, jobs.on_end, MAX_FAILURES)
    tuner = tune.Tuner(
        tune.with_resources(trainable, _resources(workers)),
        tune_config=tune.TuneConfig(
            num_samples=-1,
            search_alg=FoldJobSearcher(jobs, clock),
            scheduler=ForgettingScheduler(),  # type: ignore[no-untyped-call] # Ray's own constructor
            max_concurrent_trials=concurrency,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"{jobs.ledger.name}-{time.time_ns()}",
            storage_path=workers.storage,
            verbose=0,
            callbacks=[clock, NoTrialProgress()],
            failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    tuner.fit()
    if jobs.error is not None:
        raise jobs.error
    if jobs.fault:
        raise BadInput(
            f"{jobs.fault}: a worker was lost, memory or a disk is full, or the program is at fault (the errors "
            f"stand in {without_secrets(workers.storage)} and in Ray's log); mend that and run the same command "
            "again, nothing committed is lost"
        )


def _run_here(jobs: FoldJobs, workers: Workers) -> None:
    """Run fold jobs in this process, one after the other."""
    while isinstance(job := jobs.next_job(), Job):
        jobs.on_start(job)
        jobs.commit(run_fold_job(job, workers))
        jobs.on_end(job)


def in_one_line(record: logging.LogRecord) -> bool:
    """Let Ray say in one line, not with its whole traceback, that storage did not take a file of Tune's own.

    Tune writes such files every now and then, and nothing is read from them.
    """
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.msg, record.args = "job storage is away; the search goes on meanwhile: %s", (first_line(error),)
        record.exc_info = None
    return True


def _keep_keys_out_of_ray_s_logs() -> None:
    """Keep Tune from handing its actors the driver's AWS keys in their runtime environment, which Ray writes to logs.

    They need none: a local Ray inherits the environment, and on a cluster every node has keys of its own.
    """
    names = [name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")]
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(names)


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
