"""Is what this container was started for alive?  Exit status 0 or 1, for the image's HEALTHCHECK.

A Ray node and MLflow's server are asked over HTTP; any other command is its own sign of life.
"""

import urllib.error
import urllib.request
from pathlib import Path

ASKED = {
    "ray start": "http://127.0.0.1:52365/api/local_raylet_healthz",
    "mlflow server": "http://127.0.0.1:5000/health",
}
"""By what stands in the command line of the container's first process."""


def url_of(command: str) -> str | None:
    """Return what to ask, None where there is nothing."""
    return next((url for words, url in ASKED.items() if words in command), None)


def answers(url: str) -> bool:
    """Tell whether somebody answers with good news."""
    try:
        with urllib.request.urlopen(url, timeout=5.0) as answer:
            return answer.status == 200  # noqa: PLR2004
    except OSError:
        return False


def main() -> int:
    """Ask, and return the exit status."""
    command = Path("/proc/1/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    url = url_of(command)
    return 0 if url is None or answers(url) else 1


if __name__ == "__main__":
    raise SystemExit(main())
