"""Sends things in the background and in order; what does not arrive is kept, and tried again.

Takes what to do, each as a function that may be called again; tells at the end whether all of it was done.
"""

import logging
import time
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

logger = logging.getLogger(__name__)

REST_SECONDS = 30.0
"""After a failure nothing is tried for so long."""
LAST_WAITS_S = (1.0, 4.0)
"""Waits between the last attempts: what only stumbled is up again by then."""

Send = Callable[[], None]


class Outbox:
    """A queue with one thread behind it, for one receiver that may be away for a while."""

    def __init__(self, down: tuple[type[Exception], ...], on_failure: Callable[[Exception], None]) -> None:
        """Open an outbox.

        Args:
            down: what is raised where the receiver cannot be reached.
            on_failure: called, in the thread, with each of these.
        """
        self._down, self._on_failure = down, on_failure
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outbox")
        self._owed: deque[Send] = deque()
        self._not_before_s = 0.0
        self._num_broken = 0

    def submit(self, send: Send) -> None:
        """Send after all that was submitted before; returns at once."""
        self._pool.submit(self._take, send)

    def finish(self) -> bool:
        """Try what is still owed a few times more, and tell whether everything was done."""
        self._pool.submit(self._last_attempts)
        self._pool.shutdown(wait=True)
        return not self._owed and not self._num_broken

    def _take(self, send: Send) -> None:
        self._owed.append(send)
        if time.monotonic() >= self._not_before_s:
            self._send_owed()

    def _last_attempts(self) -> None:
        for wait_s in (0.0, *LAST_WAITS_S):
            if self._owed:
                time.sleep(wait_s)
                self._send_owed()

    def _send_owed(self) -> None:
        while self._owed:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the receiver's; this thread has no user to warn
                    self._owed[0]()
            except self._down as error:
                self._on_failure(error)
                self._not_before_s = time.monotonic() + REST_SECONDS
                return
            except Exception:
                logger.exception("this cannot be sent")
                self._num_broken += 1
            self._owed.popleft()
