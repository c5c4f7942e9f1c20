"""Stop a fold job that does worse, epoch by epoch, than half of the earlier jobs of its fold.

Takes the validation scores of finished jobs; gives the curve that a job is held against, and says when it falls below.
The rule is the median rule of Golovin et al. 2017 (Vizier), on the best score so far.
"""

import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

GRACE_EPOCHS = 6
"""Epochs that every job is given."""
MIN_JOBS = 5
"""Finished jobs of the fold without which there is no median."""


@dataclass(frozen=True, kw_only=True)
class MedianCurve:
    """The best score so far of the median job after every epoch, and of how many jobs it is the median."""

    num_jobs: int
    best_so_far: tuple[float, ...]

    def stops(self, scores: Sequence[Sequence[float]]) -> bool:
        """Tell whether a job with these scores by epoch, the two validation subjects' first, should end."""
        num_epochs = len(scores)
        if num_epochs < GRACE_EPOCHS or num_epochs > len(self.best_so_far):
            return False
        return max(one + other for one, other, *_ in scores) / 2 < self.best_so_far[num_epochs - 1]

    @property
    def reason(self) -> str:
        """Why a job ended that this curve stopped."""
        return f"below the median of {self.num_jobs} jobs"


def median_curve(validations: Iterable[Sequence[Sequence[float]]], max_epochs: int) -> MedianCurve | None:
    """Return the median curve of finished jobs of one fold; None where they are too few.

    Args:
        validations: of every job, both validation subjects' scores by epoch, as its record holds them.
        max_epochs: epochs of a job, at the most; a job that ended before keeps its best.
    """
    curves = [_best_so_far(first, second, max_epochs) for first, second in validations]
    if len(curves) < MIN_JOBS:
        return None
    medians = tuple(statistics.median(at_epoch) for at_epoch in zip(*curves, strict=True))
    return MedianCurve(num_jobs=len(curves), best_so_far=medians)


def _best_so_far(first: Sequence[float], second: Sequence[float], max_epochs: int) -> list[float]:
    best = list(itertools.accumulate(((one + other) / 2 for one, other in zip(first, second, strict=True)), max))
    return [*best, *[best[-1]] * (max_epochs - len(best))]
