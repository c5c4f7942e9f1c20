"""Where the scan starts within the EEG: the markers of volumes that the scanner sent to the amplifier.

Takes the EEG's markers and what is known of the scan; gives the seconds from the EEG's first sample to the start of
volume 0, or refuses the run: pairing EEG with the wrong volumes must never go unnoticed.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.clock import SHIFT_REFUSED_S, SHIFT_WARNED_S
from datasets.errors import BadInput

VOLUME_MARKERS = (
    "volume", "v 1", "v1", "v", "r128", "r 128", "s128", "s 128", "scan start", "scanner pulse", "scanner trigger",
    "mr pulse", "fmri volume", "fmri trigger", "tr", "mri", "t 1", "t1", "t 1_on",
)  # fmt: skip
"""What a volume's marker may be called, in small letters and with single spaces; the first that fits is taken."""
BRAINVISION_KINDS = ("stimulus", "response", "comment", "new segment", "syncstatus", "toggle", "volume", "optic")
NOT_STIMULI = ("new segment", "sync on", "sync off", "boundary", "empty")
SPACING_TOLERANCE = 0.01
ADVICE = (
    "write StartTime into the EEG's sidecar (_eeg.json): seconds from the start of the first volume to the EEG's first "
    "sample, negative where the EEG was started first"
)

Floats = NDArray[np.float64]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Marker:
    """One marker in the EEG: seconds from the first sample, its kind in BrainVision ("" elsewhere), its label."""

    onset_s: float
    kind: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What is known of the scan that the markers tell of; ``discarded`` volumes have markers but were not kept."""

    num_volumes: int
    repetition_time_s: float
    discarded: int | None = None


def marker(onset_s: float, description: str) -> Marker:
    """Return the marker that an annotation describes, as ``Stimulus/S  1`` or ``target``."""
    kind, _, label = description.partition("/")
    if kind.lower() not in BRAINVISION_KINDS:
        return Marker(onset_s=onset_s, kind="", label=description.rstrip("/"))
    return Marker(onset_s=onset_s, kind=kind.lower(), label=label or kind)


def is_volume_marker(label: str) -> bool:
    """Tell whether a marker's label is one of VOLUME_MARKERS."""
    return _plain(label) in VOLUME_MARKERS


def is_volume_series(label: str, onsets_s: Floats, repetition_time_s: float) -> bool:
    """Tell whether events of a label are those of volumes: named so, and one or one a repetition time."""
    return is_volume_marker(label) and (len(onsets_s) < 2 or _fits(np.unique(onsets_s), repetition_time_s))  # noqa: PLR2004


def stimulus_onsets_s(markers: list[Marker]) -> Floats:
    """Return the onsets of the markers that may be stimuli, in seconds from the EEG's first sample.

    Where the format says which markers are stimuli (BrainVision), only those.
    """
    others = [one for one in markers if not is_volume_marker(one.label) and _plain(one.label) not in NOT_STIMULI]
    others = [one for one in others if not one.label.lower().startswith(("bad", "edge"))]
    stimuli = [one for one in others if one.kind == "stimulus"]
    return np.sort([one.onset_s for one in stimuli or [one for one in others if not one.kind]]).astype(np.float64)


def first_volume_s(markers: list[Marker], scan: Scan, eeg_seconds: float) -> float:
    """Return the seconds from the EEG's first sample to the start of volume 0, as the markers of volumes tell.

    Raises:
        BadInput: there are no such markers, they do not come once a repetition time, or they do not tell which of them
            is volume 0.
    """
    onsets_s = _volume_onsets_s(markers, scan.repetition_time_s)
    if len(onsets_s) == 1:
        logger.warning("the EEG holds one marker of a volume only: the drift of its clock cannot be checked")
        return float(onsets_s[0])
    positions = _positions(onsets_s, scan.repetition_time_s)
    spacing_s, start_s = np.polyfit(positions, onsets_s, 1)
    _check_regular(onsets_s - (start_s + spacing_s * positions))
    _check_drift(float(spacing_s), scan)
    first = _first_position(onsets_s, positions, scan, eeg_seconds)
    return float(start_s + spacing_s * first)


def _volume_onsets_s(markers: list[Marker], repetition_time_s: float) -> Floats:
    """Return the onsets of those volume markers, all of one name, that come once a repetition time."""
    named: Mapping[str, Floats] = {
        name: np.unique([one.onset_s for one in markers if _plain(one.label) == name]) for name in VOLUME_MARKERS
    }
    found = [onsets_s for onsets_s in named.values() if len(onsets_s)]
    if not found:
        labels = sorted({one.label for one in markers})
        raise BadInput(
            f"the EEG holds no marker of volumes (as Volume, V, R128, T 1, Scan Start), only {labels[:8] or 'none'}; "
            f"{ADVICE}"
        )
    fitting = [onsets_s for onsets_s in found if _fits(onsets_s, repetition_time_s)]
    return fitting[0] if fitting else max(found, key=len)


def _fits(onsets_s: Floats, repetition_time_s: float) -> bool:
    if len(onsets_s) < 2:  # noqa: PLR2004
        return False
    return bool(abs(np.median(np.diff(onsets_s)) - repetition_time_s) <= SPACING_TOLERANCE * repetition_time_s)


def _positions(onsets_s: Floats, repetition_time_s: float) -> Floats:
    """Return which volume, counted from the first marker, each marker belongs to: some may be missing."""
    if not _fits(onsets_s, repetition_time_s):
        raise BadInput(
            f"the EEG's markers of volumes come every {np.median(np.diff(onsets_s)):g} s, but the repetition time is "
            f"{repetition_time_s:g} s; correct RepetitionTime or the markers, or {ADVICE}"
        )
    positions = np.concatenate([[0], np.cumsum(np.round(np.diff(onsets_s) / repetition_time_s))])
    missing = int(positions[-1]) + 1 - len(positions)
    if missing < 0 or len(np.unique(positions)) < len(positions):
        raise BadInput(f"the EEG holds more than one marker of a volume in some repetition times; {ADVICE}")
    if missing:
        logger.warning("the EEG lacks the markers of %d volumes between others", missing)
    return positions.astype(np.float64)


def _check_regular(residual_s: Floats) -> None:
    worst_s = float(np.abs(residual_s).max())
    if worst_s > SHIFT_REFUSED_S:
        raise BadInput(f"the EEG's markers of volumes are off by up to {worst_s:.3f} s: was the EEG paused?")
    if worst_s > SHIFT_WARNED_S:
        logger.warning("the EEG's markers of volumes are off by up to %.3f s", worst_s)


def _check_drift(spacing_s: float, scan: Scan) -> None:
    drift_s = (spacing_s - scan.repetition_time_s) * scan.num_volumes
    if abs(drift_s) > SHIFT_REFUSED_S:
        raise BadInput(
            f"the EEG's clock drifts by {drift_s:+.3f} s from the scanner's over the run ({spacing_s:.6g} s from "
            f"volume to volume, not {scan.repetition_time_s:g} s); correct RepetitionTime or the EEG's sampling rate"
        )
    if abs(drift_s) > SHIFT_WARNED_S:
        logger.warning("the EEG's clock drifts by %+.3f s from the scanner's over the run", drift_s)


def _first_position(onsets_s: Floats, positions: Floats, scan: Scan, eeg_seconds: float) -> int:
    """Return which marker, counted from the first, is that of volume 0."""
    surplus = int(positions[-1]) + 1 - scan.num_volumes
    if surplus > 0:
        return _kept_after(surplus, scan)
    if surplus < 0:
        _check_stopped_early(onsets_s, scan, eeg_seconds, -surplus)
    return 0


def _kept_after(surplus: int, scan: Scan) -> int:
    """Return how many markers belong to volumes that were not kept, before volume 0."""
    if scan.discarded is None or 0 < surplus < scan.discarded:
        raise BadInput(
            f"the EEG has markers of {scan.num_volumes + surplus} volumes, the BOLD has {scan.num_volumes}; write "
            "into its sidecar (_bold.json) as NumberOfVolumesDiscardedByScanner how many at the start were not kept "
            "(0 where the others come at the end)"
        )
    if scan.discarded < surplus:
        logger.warning("the EEG has markers of %d volumes after the last of the BOLD", surplus - scan.discarded)
    return scan.discarded


def _check_stopped_early(onsets_s: Floats, scan: Scan, eeg_seconds: float, missing: int) -> None:
    """Accept fewer markers than volumes only where they can lack nothing but the scan's end."""
    has_time_before = onsets_s[0] >= (1 - SPACING_TOLERANCE) * scan.repetition_time_s
    ends_with_them = eeg_seconds <= onsets_s[-1] + (1 + SPACING_TOLERANCE) * scan.repetition_time_s
    if not (has_time_before and ends_with_them):
        raise BadInput(
            f"the EEG lacks the markers of {missing} of {scan.num_volumes} volumes, perhaps the first ones: it must "
            f"start before the first volume; or {ADVICE}"
        )


def _plain(label: str) -> str:
    return " ".join(label.split()).lower()
