"""Text that others read, without credentials: log lines, refusals, tracebacks.

Takes any text; gives it without what stands before a URL's host, without passwords in a URL's query, and without the
values of the environment variables that hold secrets.
"""

import logging
import os
import re
import sys
import traceback
from types import TracebackType

SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD",
    "RAY_AUTH_TOKEN",
)  # fmt: skip
HIDDEN = "***"
_SHORTEST = 4
"""A shorter secret would be found in words that are none."""
_BEFORE_HOST = re.compile(r"""(?<=://)(?:[^\s'"/?\#]*|[^\s'"/?\#:]*:(?!\d+[/?\#])[^\s'"@]*)@""")
"""Also where a password's / or ? is not written as %2F or %3F; a port is no password."""
_IN_QUERY = re.compile(
    r"""([?&](?:sslpassword|password|passwd|secret_key|access_key|token)=)[^\s'"&#]*""", re.IGNORECASE
)


def redacted(text: str) -> str:
    """Return a text without the credentials in it."""
    bare = without_passwords(_BEFORE_HOST.sub("", text))
    for secret in {os.environ.get(name, "") for name in SECRET_VARIABLES}:
        if len(secret) >= _SHORTEST:
            bare = bare.replace(secret, HIDDEN)
    return bare


def without_passwords(text: str) -> str:
    """Return a text without the passwords in the queries of its URLs."""
    return _IN_QUERY.sub(rf"\1{HIDDEN}", text)


class RedactedFormatter(logging.Formatter):
    """Log lines, their tracebacks included, without credentials."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return redacted(super().format(record))


def print_redacted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print what ended the program as Python does, without credentials; for ``sys.excepthook``."""
    sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, trace))))
