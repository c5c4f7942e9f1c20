"""Try again what may pass: a busy server, a broken connection, a store that is just being restarted.

Takes a call and the test that tells which of its errors may pass; gives the call's result, or its last error.
"""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to go on trying: waits that double, each shortened at random by up to half.

    Attributes:
        seconds: so long after the first error no new attempt is begun; one that is under way may still end.
        first_wait_s, longest_wait_s: the waits between attempts.
    """

    seconds: float = 45.0
    first_wait_s: float = 0.5
    longest_wait_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.first_wait_s <= self.longest_wait_s or self.seconds < 0:
            raise ValueError(f"waits must be above 0, the first not above the longest, but got {self}")


def persist(call: Callable[[], Result], *, may_pass: Callable[[Exception], bool], patience: Patience) -> Result:
    """Return what the call returns; call again after an error that may pass, for as long as the patience lasts.

    What was tried in vain is logged as information only: a warning would stand in a subject's record, whose bytes must
    not depend on the weather.

    Raises:
        Exception: the call's last error, unchanged.
    """
    end = None
    wait_s = patience.first_wait_s
    while True:
        try:
            return call()
        except Exception as error:
            pause_s = wait_s * random.uniform(0.5, 1.0)
            end = end or time.monotonic() + patience.seconds
            if not may_pass(error) or time.monotonic() + pause_s > end:
                raise
            logger.info("%s; trying again in %.1f s", first_line(error), pause_s)
        time.sleep(pause_s)
        wait_s = min(2 * wait_s, patience.longest_wait_s)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
