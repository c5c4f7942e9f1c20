"""How a search goes on, while it does: a live table on a terminal, plain lines in a log, or one JSON object a line.

Takes what happens to trials and jobs; shows it on standard error.  Test scores are never shown.
"""

import json
import logging
import math
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from platform.ledger.records import FoldRecord, LedgerTrial, mean
from platform.racing.next_job import NUM_REPEATS
from platform.training.job import Job

logger = logging.getLogger(__name__)

PROGRESS = ("auto", "table", "plain", "json")
NUM_BEST = 5
NUM_RUNNING_SHOWN = 4
STATES = {"COMPLETE": "on all folds", "PRUNED": "raced out", "FAIL": "failed", "RUNNING": "open"}
_SECONDS_PER_MINUTE, _MINUTES_PER_HOUR = 60.0, 60


@dataclass(frozen=True, kw_only=True)
class RunningJob:
    """A fold job that runs now, and when it began (``time.monotonic()``)."""

    trial: int
    fold: int
    repeat: int = 0
    since_s: float


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a search stands.

    Attributes:
        study: its name.
        num_trials, num_folds: of the study.
        num_slots: fold jobs at once.
        num_finalists: trials that run again with other seeds at the end.
        trials: every trial so far, in the order of their numbers.
        running: the jobs that run now, the oldest first.
        began_s: ``time.monotonic()`` when the search began.
        time_budget_s: seconds after which no job starts; infinite for none.
    """

    study: str
    num_trials: int
    num_folds: int
    num_slots: int
    num_finalists: int = 0
    trials: tuple[LedgerTrial, ...] = ()
    running: tuple[RunningJob, ...] = ()
    began_s: float = 0.0
    time_budget_s: float = math.inf

    def with_trial(self, trial: LedgerTrial) -> "Standing":
        """Return the standing with a trial as it is now."""
        return replace(self, trials=(*self.trials[: trial.number], trial, *self.trials[trial.number + 1 :]))

    @property
    def num_records(self) -> int:
        """Fold jobs that are done."""
        return sum(trial.num_jobs for trial in self.trials)

    @property
    def num_repeats_left(self) -> int:
        """Fold jobs of finalists that are still to come."""
        done = sum(repeat > 0 for trial in self.trials for _, repeat in trial.late)
        return max(0, self.num_finalists * (NUM_REPEATS - 1) * self.num_folds - done)


@dataclass(frozen=True, kw_only=True)
class BestRow:
    """One of the best trials: its mean over folds, the standard error of that, and on how many folds."""

    trial: int
    mean: float
    error: float
    num_folds: int
    state: str


def best_rows(trials: Sequence[LedgerTrial], number: int = NUM_BEST) -> list[BestRow]:
    """Return the best trials: those that got as many folds as any first, and of these the highest means."""
    scored = [trial for trial in trials if trial.scores and not trial.failure]
    best = sorted(scored, key=lambda trial: (-len(trial.scores), -mean(trial.scores), trial.number))
    return [
        BestRow(
            trial=trial.number,
            mean=mean(trial.scores),
            error=standard_error(list(trial.scores.values())),
            num_folds=len(trial.scores),
            state=STATES.get(trial.state, trial.state),
        )
        for trial in best[:number]
    ]


def standard_error(scores: Sequence[float]) -> float:
    """Return the standard error of a mean; nan of less than two scores."""
    return statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else math.nan


def seconds_left(standing: Standing, now_s: float) -> float | None:
    """Return how long the search may still take, by the jobs so far; None where none is done.

    Trials to come are taken to get as many folds as those that are settled, or all where none is yet.
    """
    if not standing.num_records:
        return None
    seconds_per_job = sum(trial.seconds for trial in standing.trials) / standing.num_records
    settled = [len(trial.records) for trial in standing.trials if trial.state != "RUNNING"]
    per_trial = statistics.fmean(settled) if settled else standing.num_folds
    to_come = (standing.num_trials - len(standing.trials)) * per_trial
    open_trials = [trial for trial in standing.trials if trial.state == "RUNNING"]
    running = Counter(job.trial for job in standing.running)
    begun = sum(max(per_trial - len(trial.records), running[trial.number], 0) for trial in open_trials)
    num_left = max(to_come + begun + standing.num_repeats_left, len(standing.running))
    left_s = num_left * seconds_per_job / standing.num_slots
    return min(left_s, max(0.0, standing.began_s + standing.time_budget_s - now_s))


def counts_line(standing: Standing) -> str:
    """Return how many trials ended how."""
    states = Counter("FAIL" if trial.failure else trial.state for trial in standing.trials)
    shown = ", ".join(f"{states[state]} {name}" for state, name in STATES.items() if states[state])
    return f"{len(standing.trials)} of {standing.num_trials} trials" + (f": {shown}" if shown else "")


def running_line(standing: Standing, now_s: float) -> str:
    """Return which jobs run, the oldest first, and for how long they have."""
    jobs = [f"trial {job.trial} fold {job.fold} ({_clock(now_s - job.since_s)})" for job in standing.running]
    more = f" and {len(jobs) - NUM_RUNNING_SHOWN} more" if len(jobs) > NUM_RUNNING_SHOWN else ""
    return (", ".join(jobs[:NUM_RUNNING_SHOWN]) + more) or "none"


def time_line(standing: Standing, now_s: float) -> str:
    """Return how long the search has run, and how long it may still take."""
    spent_s = now_s - standing.began_s
    budget = f" of {_clock(standing.time_budget_s)}" if math.isfinite(standing.time_budget_s) else ""
    left_s = seconds_left(standing, now_s)
    return f"{_clock(spent_s)}{budget}, " + ("no estimate yet" if left_s is None else f"about {_clock(left_s)} left")


def failure_line(standing: Standing) -> str:
    """Return why the latest failed trial failed; empty where none did."""
    failed = [trial for trial in standing.trials if trial.failure]
    return f"trial {failed[-1].number}: {failed[-1].failure}" if failed else ""


def picture(standing: Standing, now_s: float) -> RenderableType:
    """Return the live table."""
    best = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("best trial", "validation r", "+- s.e.", "folds"):
        best.add_column(heading, justify="right", no_wrap=True)
    best.add_column("", no_wrap=True)
    for row in best_rows(standing.trials):
        error = "-" if math.isnan(row.error) else f"{row.error:.3f}"
        best.add_row(str(row.trial), f"{row.mean:+.3f}", error, f"{row.num_folds} of {standing.num_folds}", row.state)
    below = {
        "trials": counts_line(standing),
        "fold jobs": f"{standing.num_records} done, {len(standing.running)} running on {standing.num_slots} slots",
        "running": running_line(standing, now_s),
        "time": time_line(standing, now_s),
        "last failure": failure_line(standing),
    }
    lines = Table.grid(padding=(0, 2, 0, 0))
    lines.add_column(style="bold", no_wrap=True, min_width=max(map(len, below)))
    lines.add_column(no_wrap=True, overflow="ellipsis")
    for name, line in below.items():
        if line:
            lines.add_row(name, Text(line))
    return Group(Text(f"study {standing.study}", style="bold"), best, lines)


class Progress:
    """What happens to a search, as it happens; this one shows nothing, those below show it in their way."""

    def __init__(self, standing: Standing) -> None:
        self.standing = standing

    def began(self) -> None:
        """Show where the search stands as it begins."""

    def proposed(self, trial: LedgerTrial) -> None:
        """Show a new trial."""
        self.standing = self.standing.with_trial(trial)

    def started(self, job: Job) -> None:
        """Show a job that starts."""
        assert job.fold is not None
        running = RunningJob(trial=job.trial, fold=job.fold.number, repeat=job.repeat, since_s=time.monotonic())
        self.standing = replace(self.standing, running=(*self.standing.running, running))

    def ended(self, job: Job) -> None:
        """Show that a job no longer runs, recorded or lost."""
        assert job.fold is not None
        which = (job.trial, job.fold.number, job.repeat)
        running = tuple(each for each in self.standing.running if (each.trial, each.fold, each.repeat) != which)
        self.standing = replace(self.standing, running=running)

    def recorded(self, trial: LedgerTrial, record: FoldRecord) -> None:
        """Show a job's record, which its trial holds."""
        self.standing = self.standing.with_trial(trial)

    def told(self, trial: LedgerTrial) -> None:
        """Show how a trial ended."""
        self.standing = self.standing.with_trial(trial)

    def over(self) -> None:
        """Show that the search is over, or interrupted."""


class PlainProgress(Progress):
    """One line of the log a record."""

    def recorded(self, trial: LedgerTrial, record: FoldRecord) -> None:
        """Log a job's record."""
        super().recorded(trial, record)
        found = f"failed: {record.stop_reason}" if record.score is None else f"validation r {record.score:+.4f}"
        logger.info(
            "fold job %d: trial %d fold %d%s: %s (%d epochs, %.0f s); trial's mean over %d folds %+.4f",
            self.standing.num_records, trial.number, record.fold, f" repeat {record.repeat}" if record.repeat else "",
            found, record.num_epochs, record.seconds,
            len(trial.scores), mean(trial.scores),
        )  # fmt: skip


class JsonProgress(Progress):
    """One JSON object a line for all that happens; lines of the log become such objects, too."""

    def began(self) -> None:
        """Write what the study is, and what is known of it."""
        now = self.standing
        self._write("study", study=now.study, num_trials=now.num_trials, num_folds=now.num_folds,
                    num_slots=now.num_slots, trials=len(now.trials), records=now.num_records)  # fmt: skip

    def proposed(self, trial: LedgerTrial) -> None:
        """Write a new trial's configuration."""
        super().proposed(trial)
        self._write("proposal", trial=trial.number, configuration=dict(trial.configuration))

    def started(self, job: Job) -> None:
        """Write which job starts."""
        super().started(job)
        assert job.fold is not None
        self._write("started", trial=job.trial, fold=job.fold.number, repeat=job.repeat)

    def ended(self, job: Job) -> None:
        """Write which job no longer runs."""
        super().ended(job)
        assert job.fold is not None
        self._write("ended", trial=job.trial, fold=job.fold.number, repeat=job.repeat)

    def recorded(self, trial: LedgerTrial, record: FoldRecord) -> None:
        """Write what a job found, without its test score."""
        super().recorded(trial, record)
        self._write("record", trial=record.trial, fold=record.fold, repeat=record.repeat, score=record.score,
                    num_epochs=record.num_epochs, best_epochs=record.best_epochs, seconds=record.seconds,
                    stop_reason=record.stop_reason, records=self.standing.num_records,
                    seconds_left=seconds_left(self.standing, time.monotonic()))  # fmt: skip

    def told(self, trial: LedgerTrial) -> None:
        """Write how a trial ended."""
        super().told(trial)
        scores = list(trial.scores.values())
        self._write("told", trial=trial.number, state=trial.state, mean=mean(trial.scores),
                    standard_error=standard_error(scores), num_folds=len(scores), failure=trial.failure)  # fmt: skip

    def over(self) -> None:
        """Write how many trials and records there are."""
        self._write("end", trials=len(self.standing.trials), records=self.standing.num_records)

    def _write(self, event: str, **found: Any) -> None:  # noqa: ANN401 - JSON
        print(json_line(event, found), file=sys.stderr, flush=True)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json_line("log", {"level": record.levelname, "message": record.getMessage()})


def json_line(event: str, found: Mapping[str, Any]) -> str:
    """Return an event as one line of JSON; what is no number becomes null."""
    fields = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in found.items()
    }
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"event": event, "time": now, **fields}, default=str)


class TableProgress(Progress):
    """The live table, drawn anew every second in its own thread from the standing, which is replaced whole."""

    def render(self) -> RenderableType:
        """Return the table as it is now."""
        return picture(self.standing, time.monotonic())

    def over(self) -> None:
        """Leave a table without running jobs behind."""
        self.standing = replace(self.standing, running=())


@contextmanager
def showing(how: str, standing: Standing) -> Iterator[Progress]:
    """Return a context in which the progress of a search is shown.

    Args:
        how: one of ``PROGRESS``; ``auto`` is the table on a terminal and, with ipywidgets, in Jupyter; else lines.
        standing: where the search stands as it begins.
    """
    console = Console(stderr=True)
    chosen = ("table" if _is_watched(console) else "plain") if how == "auto" else how
    kind = {"table": TableProgress, "plain": PlainProgress, "json": JsonProgress}[chosen]
    progress = kind(standing)
    around = _live(progress, console) if isinstance(progress, TableProgress) else _lines(is_json=chosen == "json")
    with around:
        progress.began()
        try:
            yield progress
        finally:
            progress.over()


@contextmanager
def _live(progress: TableProgress, console: Console) -> Iterator[None]:
    """Draw the table below whatever is logged or printed meanwhile."""
    live = Live(
        get_renderable=progress.render,
        console=console,
        refresh_per_second=1,
        redirect_stdout=sys.stdout.isatty() or console.is_jupyter,
    )
    logged_to = sys.stderr
    with live:
        handlers = [each for each in logging.getLogger().handlers if isinstance(each, logging.StreamHandler)]
        above = [handler for handler in handlers if handler.stream is logged_to]
        for handler in above:
            handler.setStream(sys.stderr)
        try:
            yield
        finally:
            for handler in above:
                handler.setStream(logged_to)


@contextmanager
def _lines(*, is_json: bool) -> Iterator[None]:
    """Write lines of the log as JSON where progress is JSON."""
    handlers = logging.getLogger().handlers if is_json else []
    formatters = [handler.formatter for handler in handlers]
    for handler in handlers:
        handler.setFormatter(_JsonLines())
    try:
        yield
    finally:
        for handler, formatter in zip(handlers, formatters, strict=True):
            handler.setFormatter(formatter)


def _is_watched(console: Console) -> bool:
    if console.is_jupyter:
        return find_spec("ipywidgets") is not None  # without it rich draws nothing there but warnings
    return sys.stderr.isatty() and os.environ.get("TERM") not in ("", "dumb", None)


def _clock(seconds: float) -> str:
    """Return seconds as a person reads them."""
    if not math.isfinite(seconds):
        return "for ever"
    if seconds < 2 * _SECONDS_PER_MINUTE:
        return f"{seconds:.0f} s"
    minutes = round(seconds / _SECONDS_PER_MINUTE)
    return f"{minutes} min" if minutes < 2 * _MINUTES_PER_HOUR else str(timedelta(minutes=minutes))[:-3] + " h"
