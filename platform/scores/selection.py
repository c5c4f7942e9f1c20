"""Choose among epochs (or any other candidates) without flattering the score.

Takes the scores of every candidate on two validation subjects; gives the fold's validation score and the choice
that the test subject is scored at.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What two validation subjects chose.

    Attributes:
        score: mean of each subject's score at the candidate which the other one chose.
        chosen: position of the candidate that both choose together.
    """

    score: float
    chosen: int


def cross_selected(first: Sequence[float], second: Sequence[float]) -> Selection:
    """Return each validation subject's score at the candidate that is best for the other, averaged.

    Scoring a subject at its own best candidate would add the maximum of as many noises as there are candidates.
    Ties go to the earliest candidate.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"both validation subjects need a score per candidate, but got {len(first)} and {len(second)}")
    together = [one + other for one, other in zip(first, second, strict=True)]
    score = (first[best_position(second)] + second[best_position(first)]) / 2
    return Selection(score=score, chosen=best_position(together))


def best_position(scores: Sequence[float]) -> int:
    """Return the position of the highest score, the earliest where several are as high."""
    return max(range(len(scores)), key=lambda position: (scores[position], -position))
