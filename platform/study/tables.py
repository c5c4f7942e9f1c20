"""``python -m platform.study``: list, show, export and delete studies.

Takes a study's ledger; gives tables of what it holds.  Nothing here writes to a study but ``delete``.

A table has one row per trial.  Test scores stand in the winner's row only, and only once the search is over: people
sort by what they see.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from datasets.command_line import CommandParser, positive_integer
from datasets.errors import BadInput
from datasets.storage import home_folder, write_whole
from platform.ledger.ledger import Ledger
from platform.ledger.records import LedgerTrial, best_trial, mean
from platform.ledger.studies import delete_study, read_ledger, study_names

FORMATS = {".csv": pyarrow.csv.write_csv, ".parquet": pyarrow.parquet.write_table}
"""From the end of a file's name to what writes a table into it."""


def main() -> None:
    """Do what the command line says."""
    chosen = parse_arguments()
    storage = chosen.study_storage or f"sqlite:///{home_folder() / 'studies.db'}"
    COMMANDS[chosen.command](storage, chosen)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line and the environment."""
    parser = CommandParser(prog="python -m platform.study", description="Look at studies, export or delete them.")
    parser.add_argument("command", choices=sorted(COMMANDS), help="list: studies; show, export, delete: one of them")
    parser.add_argument("study", nargs="?", metavar="STUDY", help="the study's name")
    parser.add_option("--study-storage", metavar="URL", help="the ledger's database (else SQLite in EEG2FMRI_HOME)")
    parser.add_option("--top", metavar="N", type=positive_integer, default=20, help="trials that show shows")
    parser.add_argument("--to", metavar="FILE", type=Path, help="what export writes: a .csv or .parquet file")
    parser.add_argument("--yes", action="store_true", help="delete without being asked again")
    chosen = parser.parse_args()
    if chosen.command != "list" and not chosen.study:
        raise BadInput(
            f"{chosen.command} needs the name of a study; python -m platform.study list tells which there are"
        )
    return chosen


def trial_rows(ledger: Ledger) -> list[dict[str, Any]]:
    """Return one row per trial, best first: state, validation by fold, cost, what it uses, and its configuration."""
    folds = sorted({fold for trial in ledger.trials for fold in trial.records} | set(ledger.baseline_folds()))
    keys = sorted({key for trial in ledger.trials for key in trial.configuration})
    winner = best_trial(ledger.trials)
    test = ledger.test_scores(winner.number) if winner is not None and ledger.is_closed else {}
    return [
        {
            "trial": trial.number,
            "state": trial.state,
            "folds": len(trial.scores),
            "validation_mean": mean(trial.scores) if trial.scores else None,
            "seconds": round(trial.seconds, 2),
            "late_jobs": len(trial.late),
            "seeds": len(trial.means_by_repeat),
            "seed_sd": statistics.stdev(trial.means_by_repeat) if len(trial.means_by_repeat) > 1 else None,
            "uses": trial.uses,
            "failure": trial.failure,
            **{f"validation_{fold:04d}": trial.scores.get(fold) for fold in folds},
            **{f"test_{fold:04d}": test.get(fold) if trial is winner else None for fold in folds if test},
            **{key: trial.configuration.get(key) for key in keys},
        }
        for trial in sorted(ledger.trials, key=_best_first)
    ]


def shown(ledger: Ledger, top: int) -> str:
    """Return the best trials and all baselines as a text table."""
    rows = [["trial", "state", "folds", "validation", "seconds", "why"]]
    for row in trial_rows(ledger)[:top]:
        rows.append(
            [
                str(row["trial"]),
                row["state"].lower(),
                str(row["folds"]),
                _number(row["validation_mean"]),
                f"{row['seconds']:.0f}",
                row["failure"],
            ]
        )
    for name, found in ledger.baselines().items():
        rows.append([name, "baseline", str(len(found.validation)), _number(mean(found.validation)), "", ""])
    left_out = len(ledger.trials) - top
    state = "over" if ledger.is_closed else "not over"
    title = f"study {ledger.name}: {len(ledger.trials)} trials; its search is {state}"
    return "\n".join([title, "", *_aligned(rows), *([f"... {left_out} more"] if left_out > 0 else [])])


def export(ledger: Ledger, path: Path) -> int:
    """Write all trials into a file, whole or not at all, and return how many; BadInput for an unknown kind of file."""
    if path.suffix not in FORMATS:
        raise BadInput(f"--to must end with {' or '.join(FORMATS)}, but got {path}")
    rows = trial_rows(ledger)
    if not rows:
        raise BadInput(f"study {ledger.name} has no trial yet; there is nothing to export")
    sink = pa.BufferOutputStream()
    FORMATS[path.suffix](pa.table({name: _column([row[name] for row in rows]) for name in rows[0]}), sink)
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, memoryview(sink.getvalue()))
    return len(rows)


def _list(storage: str, chosen: argparse.Namespace) -> None:
    del chosen
    for name in study_names(storage):
        ledger = read_ledger(storage, name)
        best = best_trial(ledger.trials)
        found = "no trial on all folds" if best is None else f"best {mean(best.scores):+.4f} (trial {best.number})"
        print(f"{name}: {len(ledger.trials)} trials, {found}{'' if ledger.is_closed else ', not over'}")


def _show(storage: str, chosen: argparse.Namespace) -> None:
    print(shown(read_ledger(storage, chosen.study), chosen.top))


def _export(storage: str, chosen: argparse.Namespace) -> None:
    if chosen.to is None:
        raise BadInput(f"export needs a file: --to {chosen.study}.csv, or .parquet")
    number = export(read_ledger(storage, chosen.study), chosen.to)
    print(f"{number} trials of study {chosen.study} are in {chosen.to}")


def _delete(storage: str, chosen: argparse.Namespace) -> None:
    ledger = read_ledger(storage, chosen.study)
    num_records = sum(len(trial.records) for trial in ledger.trials)
    if not chosen.yes:
        raise BadInput(
            f"deleting study {chosen.study} loses {num_records} fold jobs of {len(ledger.trials)} trials for good; "
            "export it first, then say --yes (what MLflow holds stays)"
        )
    delete_study(storage, chosen.study)
    print(f"study {chosen.study} is deleted, with {num_records} fold jobs; what MLflow holds of it stays")


COMMANDS: dict[str, Callable[[str, argparse.Namespace], None]] = {
    "list": _list,
    "show": _show,
    "export": _export,
    "delete": _delete,
}
"""What the command can do."""


def _best_first(trial: LedgerTrial) -> tuple[bool, float, int]:
    """Sort complete trials by their mean, then the others by theirs, then those without a score."""
    value = mean(trial.scores)
    return trial.state != "COMPLETE", -value if math.isfinite(value) else math.inf, trial.number


def _column(values: Sequence[Any]) -> list[Any]:
    """Return a column's values of one kind: as they are, as numbers, or else as text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1 and kinds <= {bool, int, float, str}:
        return list(values)
    to: type = float if kinds == {int, float} else str
    return [None if value is None else to(value) for value in values]


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:+.4f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
