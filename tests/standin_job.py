"""A fold job's stand-in: sleeps for a random time and reports a score that its configuration, fold and seed determine.

Imports little: a Ray worker is to be there again soon after it was killed.
"""

import base64
import hashlib
import json
import math
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray import tune

FAILING_ONE_IN = 29
FAILING_FOLD = 2


@dataclass(frozen=True, kw_only=True)
class StandinFold:
    """A fold's number."""

    number: int


@dataclass(frozen=True, kw_only=True)
class StandinJob:
    """What a search needs to know of a job, and what its score depends on."""

    trial: int
    fold: StandinFold
    repeat: int
    seed: int
    configuration: Mapping[str, Any]


def append(log: str, *words: object) -> None:
    """Append a line in one write, whoever else appends."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, (" ".join(map(str, words)) + "\n").encode())
    finally:
        os.close(file)


def found_by(job: StandinJob) -> dict[str, Any]:
    """Return the fields of a job's record; some configurations fail."""
    text = json.dumps(job.configuration, sort_keys=True)
    fold, noise = job.fold.number, random.Random(f"{text} {job.fold.number} {job.seed}")
    found: dict[str, Any] = {"trial": job.trial, "fold": fold, "seed": job.seed}
    if job.repeat:
        found["repeat"] = job.repeat
    if fold == FAILING_FOLD and int(hashlib.sha256(text.encode()).hexdigest(), 16) % FAILING_ONE_IN == 0:
        return {**found, "score": None, "stop_reason": "not a number"}
    rate = math.log10(float(job.configuration.get("learning_rate", 1e-3)))
    score = 0.3 - 0.05 * (rate + 2.5) ** 2 + 0.1 * math.sin(fold) + noise.gauss(0, 0.03)
    return {**found, "score": score, "test_score": score + noise.gauss(0, 0.01), "best_epochs": noise.randint(1, 9)}


def standin_for_run_job(log: str, seconds: float) -> Callable[..., None]:
    """Return what Ray Tune runs in place of ``fold_jobs.run_job``; a job sleeps for so long on average."""

    def run_job(config: dict[str, Any], workers: object) -> None:
        del workers
        job: StandinJob = config["job"]
        append(log, "start", job.trial, job.fold.number, job.repeat, os.getpid())
        time.sleep(random.expovariate(1 / seconds) if seconds else 0.0)
        found = found_by(job)
        sealed = base64.b64encode(json.dumps(found).encode()).decode()
        tune.report({"record": sealed, "score": -math.inf if found["score"] is None else found["score"]})

    return run_job
