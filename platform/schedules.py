"""The learning-rate schedules that a trial may choose from: each a factor of the learning rate, from 0 to 1."""

import math
from collections.abc import Callable

Schedule = Callable[[float], float]
"""From the share of the training that is done, in [0, 1), to the factor."""

WARM_UP_SHARE = 0.1


def constant(done: float) -> float:
    """Keep the learning rate."""
    del done
    return 1.0


def cosine(done: float) -> float:
    """Lower the learning rate to zero along half a cosine (Loshchilov and Hutter 2017)."""
    return 0.5 * (1 + math.cos(math.pi * done))


def warm_up_cosine(done: float) -> float:
    """Raise the learning rate linearly over the first tenth, then lower it along half a cosine."""
    if done < WARM_UP_SHARE:
        return (done + 0.01) / (WARM_UP_SHARE + 0.01)
    return cosine((done - WARM_UP_SHARE) / (1 - WARM_UP_SHARE))


SCHEDULES: dict[str, Schedule] = {"constant": constant, "cosine": cosine, "warm_up_cosine": warm_up_cosine}
