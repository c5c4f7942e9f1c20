"""A study's result in words: the best configuration beside every baseline, and where to look further.

Takes a study's result; gives text for a terminal.
"""

import math
import statistics
from collections.abc import Mapping
from typing import Any

from platform.baselines import KNOWS_EEG
from platform.ledger import LedgerTrial, mean
from platform.study import StudyResult

WIDTH = 100


def summary(result: StudyResult) -> str:
    """Return what a search found, for a terminal."""
    if result.winner is None:
        return (
            f"study {result.name}: no trial has run on all {result.num_subjects} folds yet, so there is no best "
            "configuration; run the same command again to go on, or see why trials failed in MLflow"
        )
    return "\n".join(
        [
            "=" * WIDTH,
            f"study {result.name}: {_states(result)}",
            "",
            *_configuration(result.winner),
            "",
            *_scores(result, result.winner),
            "",
            *_caution(result, result.winner),
            "=" * WIDTH,
        ]
    )


def _states(result: StudyResult) -> str:
    states = [trial.state for trial in result.trials]
    named = {"COMPLETE": "on all folds", "PRUNED": "raced out", "FAIL": "failed", "RUNNING": "not settled"}
    counts = ", ".join(f"{states.count(state)} {name}" for state, name in named.items() if state in states)
    return f"{len(states)} trials ({counts}), {result.num_subjects} subjects, one fold each"


def _configuration(winner: LedgerTrial) -> list[str]:
    rows = [f"  {key:<22} {_shown(value)}" for key, value in sorted(winner.configuration.items())]
    return [f"best configuration (trial {winner.number})", *rows]


def _scores(result: StudyResult, winner: LedgerTrial) -> list[str]:
    subjects = len(winner.scores)
    head = f"  {'temporal r, responsive voxels':<34}{'validation':>16}{'test':>18}{'subjects':>12}"
    rows = [_row(f"best configuration (trial {winner.number})", winner.scores, result.test, subjects)]
    for name, scores in result.baselines.items():
        knows = "" if name in KNOWS_EEG else " (no EEG)"
        rows.append(_row(f"baseline {name}{knows}", scores.validation, scores.test, subjects))
    return [
        head,
        *rows,
        "  mean +- standard error over folds; test scores stayed sealed until the search was over",
    ]


def _row(name: str, validation: Mapping[int, float], test: Mapping[int, float], subjects: int) -> str:
    return f"  {name:<34}{_with_error(validation):>16}{_with_error(test):>18}{subjects:>12}"


def _with_error(scores: Mapping[int, float]) -> str:
    error = statistics.stdev(scores.values()) / math.sqrt(len(scores)) if len(scores) > 1 else math.nan
    return f"{mean(scores):+.3f} +- {error:.3f}"


def _caution(result: StudyResult, winner: LedgerTrial) -> list[str]:
    lines = []
    if result.pairing != "recorded":
        lines.append(
            "CONTROL: EEG was paired with another run's BOLD; any score above 0 here needs no coupling at all."
        )
    best_name, best = max(result.baselines.items(), key=lambda item: mean(item[1].validation))
    num_better = sum(winner.scores[fold] > best.validation[fold] for fold in winner.scores)
    difference = mean(winner.scores) - mean(best.validation)
    verb = "above" if difference > 0 else "NOT above"
    lines.append(
        f"The best configuration is {verb} the best baseline ({best_name}) by validation: {difference:+.3f}, "
        f"higher on {num_better} of {len(winner.scores)} folds."
    )
    lines.append(
        f"It is the best of {len(result.trials)} configurations on these very subjects: its own scores are "
        "too high for a new subject by an amount not corrected here."
    )
    return lines


def _shown(value: Any) -> str:  # noqa: ANN401 - a choice of any kind
    return f"{value:.4g}" if isinstance(value, float) else str(value)
