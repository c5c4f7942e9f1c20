"""The learning-rate schedules that a trial may choose from: each a factor of the learning rate, from 0 to 1.

A schedule sees how far training is; any of them may follow a linear warm-up.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

STEP_SHARES = (0.5, 0.75)
STEP_FACTOR = 0.1
EXPONENTIAL_END = 0.01
RESTARTS = (0.0, 1 / 7, 3 / 7, 1.0)
"""Each period is twice as long as the one before it."""
ONE_CYCLE_START, ONE_CYCLE_RISE = 0.04, 0.3
PLATEAU_FACTOR = 0.5


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far training is.

    Attributes:
        done: share of the training that is done, in [0, 1).
        plateaus: how often the validation scores have stopped rising so far.
    """

    done: float
    plateaus: int = 0


Schedule = Callable[[Progress], float]


def constant(progress: Progress) -> float:
    """Keep the learning rate."""
    del progress
    return 1.0


def step(progress: Progress) -> float:
    """Divide the learning rate by 10 after half and after three quarters."""
    return STEP_FACTOR ** sum(progress.done >= share for share in STEP_SHARES)


def exponential(progress: Progress) -> float:
    """Lower the learning rate by the same factor in every step, to a hundredth."""
    return EXPONENTIAL_END**progress.done


def cosine(progress: Progress) -> float:
    """Lower the learning rate to zero along half a cosine (Loshchilov and Hutter 2017)."""
    return 0.5 * (1 + math.cos(math.pi * progress.done))


def warm_restarts(progress: Progress) -> float:
    """Lower the learning rate along half a cosine three times, each twice as long (Loshchilov and Hutter 2017)."""
    start, end = next(
        (start, end) for start, end in zip(RESTARTS, RESTARTS[1:], strict=False) if progress.done < end or end == 1
    )
    return cosine(replace(progress, done=(progress.done - start) / (end - start)))


def one_cycle(progress: Progress) -> float:
    """Raise the learning rate along half a cosine over three tenths, then lower it to zero (Smith and Topin 2019)."""
    if progress.done < ONE_CYCLE_RISE:
        risen = 1 - cosine(replace(progress, done=progress.done / ONE_CYCLE_RISE))
        return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * risen
    return cosine(replace(progress, done=(progress.done - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE)))


def plateau(progress: Progress) -> float:
    """Halve the learning rate whenever the validation scores have stopped rising."""
    return PLATEAU_FACTOR**progress.plateaus


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "step": step,
    "exponential": exponential,
    "cosine": cosine,
    "warm_restarts": warm_restarts,
    "one_cycle": one_cycle,
    "plateau": plateau,
}


def warmed_up(schedule: Schedule, progress: Progress, warm_up_share: float) -> float:
    """Return a schedule's factor, after a linear rise over the first share of the training."""
    if progress.done < warm_up_share:
        return (progress.done + 0.01) / (warm_up_share + 0.01)
    return schedule(replace(progress, done=(progress.done - warm_up_share) / (1 - warm_up_share)))
