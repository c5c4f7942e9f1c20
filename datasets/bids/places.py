"""Where the electrodes of a BIDS run lie on the head.

Takes the EEG's file; gives (x, y, z) in m in mne's head space for each channel, None where nobody knows: measured
places of ``electrodes.tsv``, else those in the EEG's file, else those that the channels' names have on a usual head.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from mne.transforms import apply_trans, get_ras_to_neuromag_trans
from numpy.typing import NDArray

from datasets.bids.files import inherited_files, number_in, read_json, read_rows
from datasets.montage import Place, rounded, usual_places_m

HEAD_SYSTEMS = ("CapTrak", "ElektaNeuromag")
"""BIDS's names of coordinate systems whose axes and origin are those of mne's head space."""
METRES = {"m": 1.0, "cm": 0.01, "mm": 0.001}
LANDMARKS = ("NAS", "LPA", "RPA")
NEAREST_M, FARTHEST_M = 0.04, 0.2

Floats = NDArray[np.float64]

logger = logging.getLogger(__name__)


def electrode_places(path: Path, raw: Any, names: Sequence[str]) -> tuple[Place | None, ...]:  # noqa: ANN401 - mne's
    """Return where each named channel lies; the first source that knows any of them is asked for all."""
    for places in (_measured(path), _in_file(raw)):
        known = [places.get(name) for name in names]
        if any(place is not None for place in known):
            return tuple(known)
    usual = _usual()
    return tuple(usual.get(name.casefold()) for name in names)


def _measured(path: Path) -> Mapping[str, Place]:
    """Return the places of the nearest ``electrodes.tsv`` whose coordinates can be brought to mne's head space."""
    for table in reversed(inherited_files(path, "electrodes", ".tsv", ignoring=("space",))):
        rows = read_rows(table, ("name", "x", "y", "z"))
        points = np.array([[number_in(row[axis]) for axis in "xyz"] for row in rows], dtype=np.float64).reshape(-1, 3)
        points_m = _to_head(points, _coordinate_system(table))
        if points_m is None or not _is_head(points_m):
            logger.warning("%s: no known coordinate system of a head; electrodes are placed by their names", table.name)
            continue
        named = zip((row["name"] for row in rows), points_m, strict=True)
        return {name: rounded(point_m) for name, point_m in named if np.isfinite(point_m).all()}
    return {}


def _coordinate_system(table: Path) -> Mapping[str, Any]:
    path = table.with_name(table.name.replace("_electrodes.tsv", "_coordsystem.json"))
    above = inherited_files(table, "coordsystem", ".json")
    if path.is_file():
        return read_json(path)
    return read_json(above[-1]) if above else {}


def _to_head(points: Floats, system: Mapping[str, Any]) -> Floats | None:
    """Return points in mne's head space in m; None where the system is another and no landmarks tell the way."""
    unit = METRES.get(system.get("EEGCoordinateUnits", ""))
    if unit is None:
        return None
    if system.get("EEGCoordinateSystem") in HEAD_SYSTEMS:
        return points * unit
    landmarks = system.get("AnatomicalLandmarkCoordinates") or {}
    unit_of_landmarks = METRES.get(system.get("AnatomicalLandmarkCoordinateUnits", system["EEGCoordinateUnits"]), unit)
    try:
        nasion, left, right = (np.array(landmarks[name], dtype=np.float64) * unit_of_landmarks for name in LANDMARKS)
        return np.asarray(apply_trans(get_ras_to_neuromag_trans(nasion, left, right), points * unit))
    except (KeyError, TypeError, ValueError):
        return None


def _is_head(points_m: Floats) -> bool:
    distances_m = np.linalg.norm(points_m[np.isfinite(points_m).all(axis=1)], axis=1)
    return bool(len(distances_m)) and NEAREST_M < float(np.median(distances_m)) < FARTHEST_M


def _in_file(raw: Any) -> Mapping[str, Place]:  # noqa: ANN401 - mne's
    montage = raw.get_montage()
    positions: Mapping[str, Any] = {} if montage is None else montage.get_positions()
    if positions.get("coord_frame") != "head":
        return {}
    return {name: rounded(point) for name, point in positions["ch_pos"].items() if _is_head(np.atleast_2d(point))}


@cache
def _usual() -> Mapping[str, Place]:
    return {name.casefold(): place for name, place in usual_places_m().items()}
