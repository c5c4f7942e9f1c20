"""What a study's ledger keeps: fold records, the trials and baselines they make up, and the seal of test scores.

The seal (base64) keeps test scores out of tables that people sort by; it is a curtain, not a lock.
"""

import base64
import dataclasses
import functools
import json
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from platform.racing.next_job import TrialProgress

WINNER = "winner"
FurtherScores = Mapping[str, Mapping[str, Mapping[int, float]]]
"""By predictor (``winner`` or a baseline), by score, by fold."""


@dataclass(frozen=True, kw_only=True)
class FoldRecord:
    """What one fold job found.

    Attributes:
        trial, fold: which job; folds are numbered in the study's shared order.
        repeat: 0 for the search's own job; a finalist's others have other seeds.
        score: mean of the two validation subjects' scores; None where the job failed.
        test_score: the test subject's score, sealed until the study is closed.
        best_epochs: epochs after which both validation subjects together score best.
        num_epochs: epochs trained.
        seconds: wall time of the job.
        seed: seed of the job.
        stop_reason: why training ended, or why the job failed.
        loss: training loss of every epoch.
        validation: each validation subject's score after every epoch.
        trace: the first validation subject's target and prediction over one run, as the responsive voxels' weighted
            mean, after the epoch that the second one chooses.
        uses: "transductive" where a prediction needs other EEG of the subject, else "inductive"; "" where unknown.
    """

    trial: int
    fold: int
    score: float | None
    test_score: float | None = None
    best_epochs: int = 0
    num_epochs: int = 0
    seconds: float = 0.0
    seed: int = 0
    stop_reason: str = ""
    loss: tuple[float, ...] = ()
    validation: tuple[tuple[float, ...], ...] = ()
    trace: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    uses: str = ""
    repeat: int = 0


def trace_times(trace: Mapping[str, Any]) -> list[float]:
    """Return when each volume of a record's trace was taken, in seconds since the run began."""
    evenly = [trace["first_s"] + trace["step_s"] * at for at in range(len(trace["target"]))]
    return list(trace.get("at_s", evenly))


@dataclass(frozen=True, kw_only=True)
class LedgerTrial:
    """One trial as the ledger knows it.

    Attributes:
        number: the trial's.
        state: COMPLETE where all folds are scored, whenever that was; else as Optuna was told.
        params, configuration: what Optuna drew, and what is trained.
        records: repeat 0 of every fold that has ended.
        late: what came after Optuna was told, by fold and repeat; those of repeat 0 are among ``records``, too.
    """

    number: int
    state: str
    params: Mapping[str, Any]
    configuration: Mapping[str, Any]
    records: Mapping[int, FoldRecord]
    late: Mapping[tuple[int, int], FoldRecord] = dataclasses.field(default_factory=dict)

    @property
    def scores(self) -> dict[int, float]:
        """Validation score of every fold that was scored."""
        return {fold: record.score for fold, record in sorted(self.records.items()) if record.score is not None}

    @property
    def uses(self) -> str:
        """What its scored folds say that it uses of a subject; "" where none does."""
        return next((record.uses for record in self.records.values() if record.uses), "")

    @property
    def failure(self) -> str:
        """Why the trial failed; empty where it did not."""
        return next((record.stop_reason for record in self.records.values() if record.score is None), "")

    @property
    def means_by_repeat(self) -> list[float]:
        """Mean score over folds of every repeat that has as many scored folds as the search's own."""
        scores = self.scores
        found: dict[int, list[float]] = {}
        for (_, repeat), record in sorted(self.late.items()):
            if repeat and record.score is not None:
                found.setdefault(repeat, []).append(record.score)
        whole = [statistics.fmean(each) for each in found.values() if len(each) == len(scores)]
        return [mean(scores), *whole]

    @property
    def seconds(self) -> float:
        """Wall time of all its fold jobs."""
        repeats = (record.seconds for (_, repeat), record in self.late.items() if repeat)
        return math.fsum(record.seconds for record in self.records.values()) + math.fsum(repeats)

    @property
    def seconds_per_job(self) -> float:
        """Mean wall time of its fold jobs."""
        return self.seconds / max(self.num_jobs, 1)

    @property
    def num_jobs(self) -> int:
        """Fold jobs of its that have ended."""
        return len(self.records) + sum(repeat > 0 for _, repeat in self.late)

    @functools.cached_property
    def progress(self) -> TrialProgress:
        """What racing needs to know of the trial."""
        early = {fold: record.score for fold, record in sorted(self.records.items()) if (fold, 0) not in self.late}
        return TrialProgress(
            number=self.number,
            scores={fold: score for fold, score in early.items() if score is not None},
            is_failed=None in early.values(),
            is_told=self.state in ("COMPLETE", "PRUNED", "FAIL"),
            late={key: record.score for key, record in self.late.items()},
        )


@dataclass(frozen=True, kw_only=True)
class BaselineFolds:
    """One baseline's scores by fold."""

    validation: dict[int, float]
    test: dict[int, float]


def best_trial(trials: Iterable[LedgerTrial]) -> LedgerTrial | None:
    """Return the complete trial with the highest mean validation score, the earliest of equals; None where none is."""
    complete = [trial for trial in trials if trial.state == "COMPLETE"]
    return max(complete, key=lambda trial: (mean(trial.scores), -trial.number), default=None)


def mean(scores: Mapping[int, float]) -> float:
    """Return the mean over folds; nan where there are none."""
    return statistics.fmean(scores.values()) if scores else math.nan


def sealed(record: FoldRecord) -> str:
    """Return a whole record under seal, for places that write down what passes through them."""
    return seal(dataclasses.asdict(record))


def opened(text: str) -> FoldRecord:
    """Return the record that was sealed."""
    return FoldRecord(**unseal(text))


def seal(value: Any) -> str:  # noqa: ANN401 - JSON
    """Return a value under seal."""
    return base64.b64encode(json.dumps(value).encode()).decode()


def unseal(text: str) -> Any:  # noqa: ANN401 - JSON
    """Return the value that was sealed."""
    return json.loads(base64.b64decode(text))
