"""How good each subject's recordings are, to be set beside its score.

Takes a study's shards and what preparation left beside them; gives figures by subject.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.shards import read_file, read_table
from platform.data.products import SHARE, StudyData

QUALITY = "data_quality"
"""Under this the ledger notes every subject's figures."""
FIGURES = {
    "displacement_mm": "head motion, mm per volume",
    "tsnr": "BOLD: mean over SD in time",
    "coverage": "share of the mask in the images",
    "bad_channels": "bad EEG channels a run",
}
"""What is told of a subject, and how a reader is told; figures that shards came without are left out."""


def data_quality(data: StudyData) -> dict[str, dict[str, float]]:
    """Return every subject's figures; none where folds leave out shares of windows, which are all alike."""
    if data.settings.unit == SHARE:
        return {}
    return {subject: subject_quality(data, subject) for subject in data.manifest.subjects}


def subject_quality(data: StudyData, subject: str) -> dict[str, float]:
    """Return a subject's figures by name, means over its runs; the BOLD's over the voxels that its images hold."""
    found: dict[str, float | None] = {"displacement_mm": _displacement_mm(data, subject)}
    maps = data.subject_maps(subject)
    if maps is not None:
        is_seen_V = (maps["coverage"] > 0) & (maps["standard_deviation"] > 0)
        found["coverage"] = float(maps["coverage"].mean())
        found["tsnr"] = _median(maps["mean"][is_seen_V] / maps["standard_deviation"][is_seen_V])
    found["bad_channels"] = _bad_channels(data, subject)
    return {name: value for name, value in found.items() if value is not None and np.isfinite(value)}


def _displacement_mm(data: StudyData, subject: str) -> float | None:
    tables = [read_table(data.storage, entry.confounds) for entry in data.manifest.of_subject(subject)]
    named = [table["framewise_displacement"] for table in tables if "framewise_displacement" in table.column_names]
    of_runs = [np.asarray(column, np.float64) for column in named]
    known = [np.nanmean(each) for each in of_runs if np.isfinite(each).any()]
    return float(np.mean(known)) if known else None


def _bad_channels(data: StudyData, subject: str) -> float | None:
    """Return how many channels preparation repaired or left out, as the subject's record says; None without one."""
    name = f"{subject}/subject.json"
    entry = next((file for file in data.manifest.files if file.name == name), None)
    if entry is None:
        return None
    of_runs: Mapping[str, Mapping[str, Any]] = json.loads(read_file(data.storage, entry)).get("quality", {})
    counts = [len(each["bad_channels"]) for each in of_runs.values() if "bad_channels" in each]
    return float(np.mean(counts)) if counts else None


def _median(values: NDArray[np.float64]) -> float | None:
    return float(np.median(values)) if len(values) else None
