"""Compute a file once per node: the first process that needs it makes it, the others wait and read."""

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def made_once(path: Path, make: Callable[[], None]) -> Path:
    """Call ``make``, which must write ``path`` whole or not at all, unless the file is there; return the path."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        if not path.exists():
            make()
    return path
