"""The one error that a user is meant to read: bad input, in one line that says what to do.

Takes any error; tells whether it may pass, as a network drive that was away for a moment.
"""

import errno
from collections.abc import Iterator

PASSING_ERRORS = frozenset({
    errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.ECONNRESET,
    errno.ECONNABORTED, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENOMEM, errno.EMFILE,
    errno.ENFILE,
})  # fmt: skip
"""What a disk, a network or a busy machine answers where nothing is said about the file itself."""


class BadInput(ValueError):
    """Something the user gave cannot be used; the message says what must hold, what came, and what to do."""


class PassingFault(BadInput):
    """Bad input for now: what was wrong may pass, so the same command is to try again."""


def may_pass(error: BaseException) -> bool:
    """Tell whether an error is a PassingFault or goes back to one of PASSING_ERRORS."""
    return any(
        isinstance(each, PassingFault) or (isinstance(each, OSError) and each.errno in PASSING_ERRORS)
        for each in _reasons(error)
    )


def _reasons(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and what it was raised from or while handling."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
