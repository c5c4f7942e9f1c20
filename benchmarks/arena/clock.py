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
    """What a rule did on one table: regret after every fold job, and the simulated seconds at its end."""

    regrets: list[float]
    moments_s: list[float]

    @property
    def num_jobs(self) -> int:
        """Fold jobs spent."""
        return len(self.regrets)


def play(table: ScoreTable, rule: Rule, num_slots: int = NUM_SLOTS) -> Play:
    """Run a rule to its end; before a first recommendation its regret is that of the worst configuration."""
    now, worst = 0.0, table.regret(int(table.effects_T.argmin()))
    running: list[tuple[float, Job]] = []
    in_flight: set[Job] = set()
    regrets: list[float] = []
    moments_s: list[float] = []
    while True:
        while len(running) < num_slots and (job := rule.next_job(in_flight)) is not None:
            heapq.heappush(running, (now + float(table.seconds_TF[rule.row(job[0]), job[1]]), job))
            in_flight.add(job)
        if not running:
            return Play(regrets=regrets, moments_s=moments_s)
        now, job = heapq.heappop(running)
        in_flight.remove(job)
        rule.tell(job, float(table.scores_TF[rule.row(job[0]), job[1]]))
        trial = rule.chosen()
        regrets.append(worst if trial is None else table.regret(rule.row(trial)))
        moments_s.append(now)
