"""A rule that runs a configuration on one fold after the other, until its peer stops it: what most peers can do.

Takes a table and a seed; gives a rule for the clock.  By itself it draws configurations at random and stops none.
"""

import numpy as np

from benchmarks.arena.clock import NUM_SLOTS, Job
from benchmarks.arena.rules import feature_names, most_scored
from benchmarks.arena.tables import Rows, ScoreTable

FIRST_FOLDS = 4
"""Folds before which no peer stops a trial: ours has the same."""
HALVING = 2


class Sequential:
    """A rule that runs each trial on all folds in order unless it is stopped; this one draws rows at random.

    Recommends the best mean over the most folds.  No trial starts before a slot is free.
    """

    def __init__(self, table: ScoreTable, seed: int, num_trials: int) -> None:
        self._rows, self._num_trials, self._num_folds = Rows(table), num_trials, table.num_folds
        self._names = feature_names(table)
        self._seed, self._rng = seed, np.random.default_rng(seed)
        self._taken: list[int] = []
        self._scores: list[dict[int, float]] = []
        self._running: list[int] = []

    def next_job(self, in_flight: set[Job]) -> Job | None:
        """Return the next fold of a trial that waits, or the first fold of a new trial."""
        busy = {trial for trial, _ in in_flight}
        waiting = next((trial for trial in self._running if trial not in busy), None)
        if waiting is None:
            if len(self._taken) == self._num_trials or len(self._running) >= NUM_SLOTS:
                return None
            waiting = len(self._taken)
            self._taken.append(self._rows.take(self.suggest(waiting)))
            self._scores.append({})
            self._running.append(waiting)
        return waiting, len(self._scores[waiting])

    def row(self, trial: int) -> int:
        """Return a trial's row in the table."""
        return self._taken[trial]

    def tell(self, job: Job, score: float) -> None:
        """Pass a score on, and end the trial where all folds are done or the peer stops it."""
        trial, fold = job
        self._scores[trial][fold] = score
        is_over = fold + 1 == self._num_folds
        if self.stops(trial, fold, score) or is_over:
            self._running.remove(trial)
            self.end(trial)

    def chosen(self) -> int | None:
        """Return the best mean over the most folds."""
        return most_scored(self._scores)

    def mean(self, trial: int) -> float:
        """Return a trial's mean so far."""
        return sum(self._scores[trial].values()) / len(self._scores[trial])

    def suggest(self, trial: int) -> list[float]:  # noqa: ARG002 - peers override it
        """Return the features of a new trial."""
        return self._rng.random(len(self._names)).tolist()

    def stops(self, trial: int, fold: int, score: float) -> bool:  # noqa: ARG002 - peers override it
        """Tell whether the peer stops a trial after this fold."""
        return False

    def end(self, trial: int) -> None:
        """Tell the peer that a trial has ended."""
