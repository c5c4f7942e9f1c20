"""Names, sidecars and tables of a BIDS folder: entities of a file's name, and what other files say of it.

Takes paths; gives entities, merged JSON sidecars (the inheritance principle), and rows of TSV tables.
"""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.errors import BadInput
from datasets.matlab import first_line

NOT_AVAILABLE = "n/a"
IMAGE_EXTENSIONS = (".nii", ".nii.gz")
EEG_EXTENSIONS = (
    ".vhdr", ".ahdr", ".set", ".edf", ".bdf", ".fif", ".fif.gz", ".gdf", ".cnt", ".mff", ".cdt", ".lay", ".nxe",
    ".nedf",
)  # fmt: skip
"""Of the EEG's main file: what BIDS allows, and more that mne reads."""


@dataclass(frozen=True, kw_only=True)
class BidsName:
    """What a file's name says: its entities, as ``{"sub": "01", "task": "rest"}``, its suffix and its extension."""

    entities: dict[str, str]
    suffix: str
    extension: str


@dataclass(frozen=True, kw_only=True, order=True)
class RunKey:
    """What makes two files belong to one run; ``session`` is empty where the data set has none."""

    subject: str
    session: str
    task: str
    run: int


def parse_name(path: Path) -> BidsName | None:
    """Return what a file's name says; None where it is no BIDS name."""
    *pairs, last = path.name.split("_")
    suffix, dot, extension = last.partition(".")
    entities = dict(pair.split("-", 1) for pair in pairs if "-" in pair)
    if not dot or not suffix or len(entities) != len(pairs):
        return None
    return BidsName(entities=entities, suffix=suffix, extension=dot + extension)


def run_key(path: Path) -> RunKey | None:
    """Return the run that a file belongs to; None where its name does not tell.  Without ``run-`` it is run 1."""
    name = parse_name(path)
    if name is None or not {"sub", "task"} <= set(name.entities):
        return None
    run = name.entities.get("run", "1")
    if not run.isdecimal():
        return None
    entities = name.entities
    return RunKey(subject=entities["sub"], session=entities.get("ses", ""), task=entities["task"], run=int(run))


def inherited_files(path: Path, suffix: str, extension: str, *, ignoring: Collection[str] = ()) -> list[Path]:
    """Return the files of a suffix that say something of a file, the farthest first: the nearest has the last word.

    By BIDS's inheritance principle: such a file lies beside it or in a folder above, up to the data set's own, and its
    name has no entity (but those ignored) that the file's name has not.
    """
    name = parse_name(path)
    if name is None:
        return []
    found = []
    for folder in reversed(_folders_above(path)):
        here = [(candidate, parse_name(candidate)) for candidate in sorted(folder.glob(f"*{suffix}{extension}"))]
        fitting = [
            (len(other.entities), candidate)
            for candidate, other in here
            if other is not None
            and (other.suffix, other.extension) == (suffix, extension)
            and {key: value for key, value in other.entities.items() if key not in ignoring}.items()
            <= name.entities.items()
        ]
        found += [candidate for _, candidate in sorted(fitting)]
    return found


def _folders_above(path: Path) -> list[Path]:
    """Return the file's folder and those above it, up to the one that holds the subjects' folders."""
    folders = list(path.parents)
    subjects = [number for number, folder in enumerate(folders) if folder.name.startswith("sub-")]
    return folders[: subjects[-1] + 2] if subjects else folders[:1]


def metadata(path: Path) -> dict[str, Any]:
    """Return what all JSON sidecars of a file say together; BadInput where one of them cannot be read."""
    name = parse_name(path)
    merged: dict[str, Any] = {}
    for sidecar in inherited_files(path, name.suffix, ".json") if name else []:
        merged |= read_json(sidecar)
    return merged


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds; BadInput where it holds none."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read the sidecar {path}: {first_line(error)}; correct it") from error
    if not isinstance(fields, dict):
        raise BadInput(f"the sidecar {path} must hold a JSON object, but holds a {type(fields).__name__}")
    return fields


def read_rows(path: Path, needed: Collection[str]) -> list[dict[str, str]]:
    """Return the rows of a TSV table; BadInput where it lacks a needed column or a row has more or fewer cells."""
    try:
        lines = [line.split("\t") for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the table {path}: {first_line(error)}") from error
    if not lines or not set(needed) <= set(lines[0]):
        raise BadInput(f"{path} must have the columns {', '.join(needed)}, but starts with {lines[:1]}")
    header = [cell.strip() for cell in lines[0]]
    for number, cells in enumerate(lines[1:], start=2):
        if len(cells) != len(header):
            raise BadInput(f"{path} must have {len(header)} columns in every row, but row {number} has {len(cells)}")
    return [dict(zip(header, (cell.strip() for cell in cells), strict=True)) for cells in lines[1:]]


def number_in(cell: str) -> float:
    """Return the number in a table's cell; nan where it is ``n/a`` or no finite number."""
    try:
        value = float(cell)
    except ValueError:
        return float("nan")
    return value if abs(value) < float("inf") else float("nan")


def natural_order(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return a key that sorts the numbers within a text by value: vol2 before vol10."""
    parts = re.split(r"(\d+)", text)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part)
