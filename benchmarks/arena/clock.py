"""A simulated clock: fold jobs of a rule on a number of slots, in the seconds that the table holds.

Takes a table and a rule; gives its regret after every fold job, and what it spent.
"""

import heapq
from dataclasses import dataclass
from typing import Protocol

from benchmarks.arena.tables import ScoreTable

NUM_SLOTS = 4
Job = tuple[int, int]
"""Trial and fold."""


class Rule(Protocol):
    """One side of the arena; every rule has at most as many trials as the table has rows."""

    def next_job(self, in_flight: set[Job]) -> Job | None:
        """Return the next fold job, or None while there is none."""

    def row(self, trial: int) -> int:
        """Return a trial's row in the table."""

    def tell(self, job: Job, score: float) -> None:
        """Take the score of a job that has ended."""

    def chosen(self) -> int | None:
        """Return the trial that would be recommended now."""


@dataclass(frozen=True, kw_only=True)
class Play:
    """What a rule did on one table.

    Attributes:
        num_jobs, seconds: fold jobs spent, and simulated seconds until the last of them ended.
        steps: whenever the regret changed: fold jobs and seconds until then, and the regret from there on.  The first
            is (0, 0, the worst configuration's): what holds before a first recommendation.
    """

    num_jobs: int
    seconds: float
    steps: tuple[tuple[int, float, float], ...]

    @property
    def regret(self) -> float:
        """The regret at the end."""
        return self.steps[-1][2]

    def after_jobs(self, num_jobs: float) -> float:
        """Return the regret after so many fold jobs; a rule that is done keeps what it has."""
        return next(regret for jobs, _, regret in reversed(self.steps) if jobs <= num_jobs)

    def after_seconds(self, seconds: float) -> float:
        """Return the regret after so many simulated seconds."""
        return next(regret for _, moment_s, regret in reversed(self.steps) if moment_s <= seconds)


def play(table: ScoreTable, rule: Rule, num_slots: int = NUM_SLOTS) -> Play:
    """Run a rule to its end."""
    now, num_jobs = 0.0, 0
    steps = [(0, 0.0, table.regret(int(table.effects_T.argmin())))]
    running: list[tuple[float, Job]] = []
    in_flight: set[Job] = set()
    while True:
        while len(running) < num_slots and (job := rule.next_job(in_flight)) is not None:
            heapq.heappush(running, (now + float(table.seconds_TF[rule.row(job[0]), job[1]]), job))
            in_flight.add(job)
        if not running:
            return Play(num_jobs=num_jobs, seconds=now, steps=tuple(steps))
        now, job = heapq.heappop(running)
        in_flight.remove(job)
        rule.tell(job, float(table.scores_TF[rule.row(job[0]), job[1]]))
        num_jobs += 1
        trial = rule.chosen()
        if trial is not None and (regret := table.regret(rule.row(trial))) != steps[-1][2]:
            steps.append((num_jobs, now, regret))
