"""Find and read any data set of simultaneous EEG and fMRI that follows BIDS.

Takes the data set's folder and, where the EEG lies elsewhere (as a derivative that is free of the gradient artefact),
that folder too; gives recordings, their events and when their slices are taken.  ``datasets.bids.eeg`` reads the EEG.

Sessions: a recording has no session of its own.  The runs of a task are numbered on from session to session, in the
sessions' order: with two runs in each of ses-1 and ses-2, run 1 of ses-2 is run 3.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.bids.clock import is_volume_series
from datasets.bids.eeg import companions, read_eeg, scan_start_s
from datasets.bids.files import (
    EEG_EXTENSIONS,
    IMAGE_EXTENSIONS,
    NOT_AVAILABLE,
    RunKey,
    inherited_files,
    metadata,
    natural_order,
    number_in,
    parse_name,
    read_json,
    read_rows,
    run_key,
)
from datasets.bids.runs import repetition_time_s
from datasets.errors import BadInput, may_pass
from datasets.recording import SCANNER, Events, Recording

__all__ = ["find_recordings", "read_eeg", "read_events", "read_slice_times"]

DATA_SET = "bids"
LAYOUT = "sub-*/[ses-*/]func/sub-*_[ses-*_]task-*_[run-*_]bold.nii[.gz]"
UNKNOWN_KIND = "stimulus"
"""What stimuli are called where a table of events gives no name."""
SLICE_TOLERANCE_S = 0.005
SLICE_AXES = ("k", "k-")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Stimulus:
    """One row of a table of events; ``onset_s`` and ``response_time_s`` are nan where they are not known."""

    onset_s: float
    duration_s: float
    kind: str
    response_time_s: float


def find_recordings(bold_root: Path, eeg_root: Path | None = None) -> list[Recording]:
    """Return every run that has BOLD, sorted by subject, task and run.

    EEG is looked for in ``eeg_root`` first, then beside the BOLD; it belongs to the BOLD of the same subject, session,
    task and run (without ``run-``: run 1), whatever other entities the names have.  A run that has two images or two
    EEG files is returned, and refused when its EEG is read.

    Raises:
        BadInput: no BOLD is found.
    """
    roots = [Path(bold_root)] + ([Path(eeg_root)] if eeg_root is not None else [])
    for root in roots:
        if not root.is_dir():
            raise BadInput(f"{root} must be a BIDS folder, but there is no such folder")
    images = _files_by_run(roots[0], "func", "bold", IMAGE_EXTENSIONS)
    if not images:
        raise BadInput(f"no BOLD in {roots[0]}; looked for {LAYOUT}")
    eeg: dict[RunKey, list[Path]] = {}
    for root in roots:
        eeg |= _files_by_run(root, "eeg", "eeg", EEG_EXTENSIONS)
    _log_eeg_without_bold(set(eeg) - set(images))
    numbers = _run_numbers(images)
    recordings = [_recording(key, numbers[key], images[key][0], eeg.get(key, [None])[0]) for key in images]
    return sorted(recordings, key=lambda recording: (recording.subject, recording.task, recording.run))


def read_events(recording: Recording) -> Events:
    """Read a recording's stimuli from its ``events.tsv``; none where it has none.

    A stimulus's kind is its ``trial_type``, else its ``value``.  Rows without an onset or a kind are dropped, markers
    of volumes too; an unknown duration is 0.  A table beside the EEG counts from the EEG's start and is moved.

    Raises:
        BadInput: the table cannot be understood.
    """
    if not recording.events:
        return _events([])
    path = recording.events[0]
    rows = read_rows(path, ("onset", "duration"))
    stimuli = [stimulus for row in rows if np.isfinite((stimulus := _stimulus(row)).onset_s)]
    named = [stimulus for stimulus in stimuli if stimulus.kind != NOT_AVAILABLE]
    kept = _without_volumes(named, recording.repetition_time_s)
    if len(kept) < len(rows):
        logger.info("%s: dropped %d rows without an onset or a kind, or of volumes", path.name, len(rows) - len(kept))
    shift_s = scan_start_s(recording) if path.parent.name == "eeg" else 0.0
    return _events([replace(stimulus, onset_s=stimulus.onset_s - shift_s) for stimulus in kept])


def read_slice_times(recording: Recording, num_slices: int) -> NDArray[np.float64] | None:
    """Return the seconds from the start of a volume at which each slice is taken; None where no sidecar tells.

    Raises:
        BadInput: SliceTiming has another number of slices, is not in seconds within a volume, or is not along the
            image's third axis.
    """
    path = recording.slice_order
    if path is None:
        return None
    fields = read_json(path)
    beside = metadata(recording.bold[0]) if recording.space == SCANNER else fields
    direction = beside.get("SliceEncodingDirection", SLICE_AXES[0])
    if direction not in SLICE_AXES:
        raise BadInput(
            f"{path}: slices must lie along the third axis (k or k-), but SliceEncodingDirection is {direction}"
        )
    times_s = _numbers(fields.get("SliceTiming"), path)
    if len(times_s) != num_slices:
        raise BadInput(f"{path} must give SliceTiming for {num_slices} slices, but gives {len(times_s)} times")
    latest_s = recording.repetition_time_s + SLICE_TOLERANCE_S
    if times_s.min() < -SLICE_TOLERANCE_S or times_s.max() > latest_s:
        raise BadInput(
            f"{path}: SliceTiming must lie between 0 and the repetition time, {recording.repetition_time_s:g} s, but "
            f"lies between {times_s.min():g} and {times_s.max():g}; give seconds"
        )
    return times_s if direction == SLICE_AXES[0] else times_s[::-1].copy()


def _files_by_run(root: Path, folder: str, suffix: str, extensions: tuple[str, ...]) -> dict[RunKey, list[Path]]:
    found: dict[RunKey, list[Path]] = {}
    for pattern in (f"sub-*/{folder}/*_{suffix}.*", f"sub-*/ses-*/{folder}/*_{suffix}.*"):
        for path in sorted(root.glob(pattern)):
            name, key = parse_name(path), run_key(path)
            if name is None or key is None or name.extension not in extensions or _is_other_series(name.entities):
                continue
            found.setdefault(key, []).append(path)
    return found


def _is_other_series(entities: Mapping[str, str]) -> bool:
    """Tell a phase image, or what some pipeline has moved to another space."""
    return entities.get("part", "mag") != "mag" or "space" in entities


def _run_numbers(keys: Iterable[RunKey]) -> dict[RunKey, int]:
    """Return each run's number within its subject and task: numbered on from session to session, from 1."""
    numbers: dict[RunKey, int] = {}
    ordered = sorted(keys, key=lambda key: (key.subject, key.task, natural_order(key.session), key.run))
    last: dict[tuple[str, str], tuple[str, int, int]] = {}
    for key in ordered:
        session, offset, number = last.get((key.subject, key.task), (key.session, 0, 0))
        if session != key.session:
            offset = number
        if key.run == 0:
            offset += 1
        numbers[key] = key.run + offset
        last[key.subject, key.task] = (key.session, offset, numbers[key])
    moved = [key for key in ordered if key.session and numbers[key] != key.run]
    if moved:
        logger.info(
            "runs are numbered on from session to session: %s", "; ".join(_moved(key, numbers) for key in moved)
        )
    return numbers


def _moved(key: RunKey, numbers: Mapping[RunKey, int]) -> str:
    return f"sub-{key.subject} ses-{key.session} {key.task} run {key.run} is run {numbers[key]}"


def _recording(key: RunKey, number: int, bold: Path, eeg: Path | None) -> Recording:
    fault = ""
    try:
        repetition_s, slice_order = repetition_time_s(bold), _slice_order(bold)
    except BadInput as problem:
        fault = str(problem) if may_pass(problem) else ""
        logger.debug("%s", problem)  # reading the EEG says it again, and the run is skipped
        repetition_s, slice_order = 1.0, None
    return Recording(
        data_set=DATA_SET,
        subject=f"sub-{key.subject}",
        task=key.task,
        run=number,
        bold=(bold,),
        eeg=eeg,
        eeg_extra=companions(eeg) if eeg else (),
        t1=_t1(bold, key),
        events=_events_table(bold, eeg),
        slice_order=slice_order,
        repetition_time_s=repetition_s,
        fault=fault,
        fault_may_pass=bool(fault),
    )


def _slice_order(bold: Path) -> Path | None:
    sidecars = reversed(inherited_files(bold, "bold", ".json"))
    return next((path for path in sidecars if read_json(path).get("SliceTiming")), None)


def _t1(bold: Path, key: RunKey) -> Path | None:
    """Return the subject's T1: of the same session if there, and of several the one with the shortest name."""
    subject = next(folder for folder in bold.parents if folder.name == f"sub-{key.subject}")
    found = [*subject.glob("anat/*_T1w.nii*"), *subject.glob("ses-*/anat/*_T1w.nii*")]
    whole = [path for path in found if (name := parse_name(path)) and name.extension in IMAGE_EXTENSIONS]
    ordered = sorted(whole, key=lambda path: (path.parents[1] != bold.parents[1], len(path.name), path))
    return ordered[0] if ordered else None


def _events_table(bold: Path, eeg: Path | None) -> tuple[Path, ...]:
    """Return the table of events that lies nearest to the BOLD, else the one nearest to the EEG."""
    tables = [inherited_files(path, "events", ".tsv") for path in (bold, eeg) if path is not None]
    return next(((found[-1],) for found in tables if found), ())


def _stimulus(row: Mapping[str, str]) -> _Stimulus:
    duration_s = number_in(row["duration"])
    return _Stimulus(
        onset_s=number_in(row["onset"]),
        duration_s=duration_s if np.isfinite(duration_s) else 0.0,
        kind=row.get("trial_type", row.get("value", UNKNOWN_KIND)) or NOT_AVAILABLE,
        response_time_s=number_in(row.get("response_time", NOT_AVAILABLE)),
    )


def _without_volumes(stimuli: Sequence[_Stimulus], repetition_time_s: float) -> list[_Stimulus]:
    """Return the stimuli without those that are markers of volumes."""
    onsets_s = {kind: [one.onset_s for one in stimuli if one.kind == kind] for kind in {one.kind for one in stimuli}}
    volumes = {kind for kind, of in onsets_s.items() if is_volume_series(kind, np.array(of), repetition_time_s)}
    return [stimulus for stimulus in stimuli if stimulus.kind not in volumes]


def _events(stimuli: Sequence[_Stimulus]) -> Events:
    ordered = sorted(stimuli, key=lambda stimulus: stimulus.onset_s)
    columns = {
        name: np.array([getattr(stimulus, name) for stimulus in ordered], dtype=np.float64)
        for name in ("onset_s", "duration_s", "response_time_s")
    }
    return Events(kind=tuple(stimulus.kind for stimulus in ordered), **columns)


def _numbers(values: object, path: Path) -> NDArray[np.float64]:
    try:
        numbers = np.atleast_1d(np.asarray(values, dtype=np.float64))
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
        raise BadInput(f"{path}: SliceTiming must be a list of seconds")
    return numbers


def _log_eeg_without_bold(keys: set[RunKey]) -> None:
    lonely = [f"sub-{key.subject} {key.session} {key.task} run {key.run}" for key in sorted(keys)]
    if lonely:
        logger.warning("left out %d runs that have EEG but no BOLD: %s", len(lonely), ", ".join(lonely))
