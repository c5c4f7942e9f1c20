"""How long fold jobs run: a job that hangs is ended, with all its processes, and known by its record.

Takes Ray Tune's word on which jobs start and end; gives the records of those for whose end the job itself is to blame.
"""

import logging
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

from platform.ledger.records import FoldRecord
from platform.study.lost_groups import remove_lost_groups
from platform.training.job import Job, snapshots_of

logger = logging.getLogger(__name__)

_SECONDS_PER_MINUTE = 60.0
_KILLED_FOR_MEMORY = ("OutOfMemoryError", "RAY_memory_usage_threshold")
"""How Ray tells of a process that it killed for the memory of its node."""
_LOOK_FOR_SECONDS, _LOOK_EVERY_SECONDS = 120.0, 2.0
"""Ray notices within seconds that those below a killed process are gone, a lost node after up to a minute."""
_NEXT_ERROR = "Failure # "
"""How Tune's file of a job's errors begins each of them."""
_RAISED_AT = re.compile(r"ray::\S+ \(pid=\d+, ip=([^,)]+)")
"""How Ray begins an error that a job raised, and no other: a lost process is told of in other words."""


@dataclass(kw_only=True)
class _Running:
    trial: Trial
    since_s: float
    is_overdue: bool = False

    @property
    def job(self) -> Job:
        job: Job = self.trial.config["job"]
        return job


class JobClock(tune.Callback):
    """Tune's word on jobs, and their time: started anew for a job whose process was lost.

    A hanging job cannot be asked to end, so its process is killed; Ray kills the processes that this one started.
    """

    def __init__(
        self, timeout_s: float, on_start: Callable[[Job], None], on_end: Callable[[Job], None], max_failures: int
    ) -> None:
        self._timeout_s = timeout_s
        self._on_start, self._on_end = on_start, on_end
        self._max_failures = max_failures
        self._running: dict[str, _Running] = {}
        self._looks_until_s = self._looked_s = -math.inf

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ANN401
        """Start a job's time."""
        self._running[trial.trial_id] = _Running(trial=trial, since_s=time.monotonic())
        self._on_start(self._running[trial.trial_id].job)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ANN401
        """Stop the time of a job that waits for another process, and say so."""
        job: Job = trial.config["job"]
        assert job.fold is not None
        error = last_error(trial)
        logger.warning(
            "trial %d on fold %d lost its process, or an error ended it: it goes on in another one (%d of %d times)%s",
            job.trial, job.fold.number, trial.num_failures, self._max_failures, f": {error}" if error else "",
        )  # fmt: skip
        self._look_for_lost_groups()
        self._forget(trial)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ANN401
        """Stop a job's time."""
        self._forget(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ANN401
        """Stop a job's time."""
        self._forget(trial)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:  # noqa: ANN401
        """Kill the processes of jobs whose time is over; Tune shall not start them again."""
        now_s = time.monotonic()
        if now_s < self._looks_until_s and now_s - self._looked_s > _LOOK_EVERY_SECONDS:
            self._looked_s = now_s
            remove_lost_groups()
        for running in self._running.values():
            actor = running.trial.temporary_state.ray_actor
            if not running.is_overdue and actor is not None and time.monotonic() - running.since_s > self._timeout_s:
                running.is_overdue = True
                running.trial.max_failures = 0
                ray.kill(actor)
                self._look_for_lost_groups()

    def failed_record(self, trial_id: str) -> FoldRecord | None:
        """Return the record of a job that ended without one; None where the job is not to blame."""
        running = self._running.get(trial_id)
        if running is None or not (reason := self._reason(running)):
            return None
        job = running.job
        assert job.fold is not None
        if (snapshots := snapshots_of(job)) is not None:
            snapshots.remove()
        seconds = round(time.monotonic() - running.since_s, 2)
        return FoldRecord(
            trial=job.trial, fold=job.fold.number, repeat=job.repeat, score=None, seed=job.seed, seconds=seconds,
            stop_reason=reason,
        )  # fmt: skip

    def last_error(self, trial_id: str) -> str:
        """Return the error that ended a job last, "" where there was none: its process was lost."""
        running = self._running.get(trial_id)
        return "" if running is None else last_error(running.trial)

    def _reason(self, running: _Running) -> str:
        if running.is_overdue:
            return f"took more than {self._timeout_s / _SECONDS_PER_MINUTE:g} minutes"
        if any(sign in _told(running.trial) for sign in _KILLED_FOR_MEMORY):
            return f"out of memory: Ray killed it {self._max_failures + 1} times"
        return ""

    def _look_for_lost_groups(self) -> None:
        """Look, from now on for a while, for groups of workers whose job has no process any more."""
        self._looks_until_s = time.monotonic() + _LOOK_FOR_SECONDS

    def _forget(self, trial: Trial) -> None:
        running = self._running.pop(trial.trial_id, None)
        if running is not None:
            self._on_end(running.job)

    def __getstate__(self) -> dict[str, Any]:
        """Give Tune, which pickles its settings, an empty copy."""
        return {}


def last_error(trial: Trial) -> str:
    """Return the last line of the error that ended a job last, and its node; "" where its process was lost."""
    of_last = _told(trial).rpartition(_NEXT_ERROR)[2]
    where = _RAISED_AT.search(of_last)
    if where is None:
        return ""
    return f"{of_last.strip().splitlines()[-1]} (on the node {where[1]})"


def _told(trial: Trial) -> str:
    """Return all that Tune was told of the ends of a job's processes."""
    return Path(trial.error_file).read_text(encoding="utf-8", errors="replace") if trial.error_file else ""
