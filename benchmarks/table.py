"""What every benchmark shares: a row of the table, a stopwatch, and the machine that it ran on.

Takes what was measured; gives one Markdown table.  Does nothing when run.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PACKAGES = ("numpy", "pyarrow", "torch", "ray", "optuna")
UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement: what was measured, its value with its unit, and its ratio to another row of the same run."""

    benchmark: str
    what: str
    value: str
    ratio: str = ""


def best_of(action: Callable[[], object], repeats: int = 3) -> float:
    """Return the seconds of the fastest of several runs: what others do on the machine only ever adds."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def best_cpu_of(action: Callable[[], object], repeats: int = 3) -> float:
    """Return the processor seconds of the fastest of several runs: on a busy machine the clock tells of others."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        seconds.append(time.process_time() - start)
    return min(seconds)


def times(value: float, reference: float, digits: int = 2) -> str:
    """Return a ratio in words: how many times the reference a value is."""
    return f"{value / reference:.{digits}g} x"


def markdown(rows: Sequence[Row]) -> str:
    """Return the table, under a line that names machine and versions."""
    head = ["| benchmark | what | value | ratio |", "|---|---|---:|---:|"]
    body = [f"| {row.benchmark} | {row.what} | {row.value} | {row.ratio} |" for row in rows]
    return "\n".join([_machine(), _versions(), "", *head, *body])


def print_table(rows: Sequence[Row]) -> None:
    """Print the table of one benchmark or of all."""
    print(markdown(rows))


def _machine() -> str:
    cpu = _field_of(Path("/proc/cpuinfo"), "model name")
    memory = _field_of(Path("/proc/meminfo"), "MemTotal")
    memory_gb = UNKNOWN if memory == UNKNOWN else f"{int(memory.split()[0]) / 1e6:.0f} GB"
    load = os.getloadavg()[0]
    return f"Machine: {os.cpu_count()} cores, {cpu}, {memory_gb} memory; load average at the end {load:.1f}."


def _versions() -> str:
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return f"Versions: Python {sys.version.split()[0]}, {packages}."


def _field_of(path: Path, name: str) -> str:
    """Return a field of one of Linux's tables of itself; unknown elsewhere."""
    if not path.exists():
        return UNKNOWN
    lines = (line.partition(":") for line in path.read_text(encoding="utf-8").splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), UNKNOWN)
