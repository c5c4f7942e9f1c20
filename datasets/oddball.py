"""Find and read ds000116, the auditory and visual oddball recordings of Walz et al. (2013).

Takes the folder of the images and, where the EEG lies elsewhere, that folder too; gives recordings, their EEG, their
events and their BOLD.  Two layouts are read, alone or together: OpenNeuro's BIDS (no EEG) and OpenfMRI's legacy one.
"""

import logging
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from datasets.errors import BadInput
from datasets.recording import EegSignal, Events, Recording

CHANNELS = (
    "Fp1", "Fp2", "AF3", "AF4", "F7", "F3", "Fz", "F4", "F8", "FC5", "FC1", "FC2", "FC6", "T7", "C3", "Cz", "C4", "T8",
    "CP5", "CP1", "CP2", "CP6", "P7", "P3", "Pz", "P4", "P8", "PO7", "PO3", "PO4", "PO8", "O1", "Oz", "O2",
)  # fmt: skip
RATE_HZ = 1000.0
TASKS = {1: "auditory", 2: "visual"}
PRESET_EXCLUDED = ("sub-04",)
"""Subjects that the preset leaves out: several users could not read the BOLD of sub-04's auditory run 2."""

NUM_ROWS = len(CHANNELS) + 3
"""Rows of data_reref: the channels, ECG, stimulus markers, responses."""

MARKER_CODES = {
    "auditory": {"standard": 125, "target": 150},
    "visual": {"standard": 225, "target": 250},
}
START_MARKER = 25
RESPONSE_MARKER = 100

LAYOUTS = (
    "sub-XX/func/sub-XX_task-{auditory,visual}oddball*_run-0R_bold.nii.gz (OpenNeuro BIDS) or "
    "[ds116_subNNN/]subNNN/BOLD/task00T_run00R/bold.nii.gz (legacy OpenfMRI)"
)
_BIDS_BOLD = re.compile(r"sub-(?P<subject>\d+)_task-(?P<task>auditory|visual)[a-z]*_run-(?P<run>\d+)_bold\.nii(\.gz)?")
_LEGACY_SUBJECT = re.compile(r"sub(?P<subject>\d{3})")
_LEGACY_RUN = re.compile(r"task(?P<task>\d{3})_run(?P<run>\d{3})")
_LEGACY_BOLD = ("bold.nii.gz", "bold.nii", "bold_mcf_brain.nii.gz")
_STIMULUS = re.compile(r"(auditory|visual) (?P<kind>standard|oddball) stimulus presentation")
_RESPONSE = "behavioral response time following"
_UNREADABLE_MAT = (
    OSError, ValueError, TypeError, KeyError, IndexError, EOFError, NotImplementedError, MatReadError, struct.error,
    zlib.error,
)  # fmt: skip
_UNREADABLE_IMAGE = (
    OSError, ValueError, EOFError, zlib.error, nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError
)  # fmt: skip
_SHIFT_BIN_S = 0.05

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, order=True)
class _RunKey:
    """What two layouts call the same run."""

    subject: int
    task: str
    run: int


@dataclass(frozen=True, kw_only=True)
class _RunFiles:
    """What one layout holds of one run."""

    bold: Path | None = None
    eeg: Path | None = None
    t1: Path | None = None
    events: tuple[Path, ...] = ()


def find_recordings(bold_root: Path, eeg_root: Path | None = None) -> list[Recording]:
    """Return every run that has BOLD, sorted by subject, task and run.

    Both roots may hold either layout or both; subjects, tasks and runs are matched by number.  A run found twice is
    taken from ``bold_root`` and, there, from the BIDS layout; what it lacks (EEG, T1, events) comes from the other.

    Raises:
        BadInput: nothing is found; the message names the layouts that were looked for.
    """
    roots = [Path(bold_root)] + ([Path(eeg_root)] if eeg_root is not None else [])
    for root in roots:
        if not root.is_dir():
            raise BadInput(f"{root} must be a folder with ds000116's recordings, but there is no such folder")
    runs: dict[_RunKey, _RunFiles] = {}
    for root in roots:
        for key, files in (*_bids_runs(root), *_legacy_runs(root)):
            runs[key] = _completed(runs.get(key, _RunFiles()), files)
    _log_runs_without_bold(runs)
    slice_order = _first_existing(folder / "slice_order.txt" for root in roots for folder in _slice_order_folders(root))
    recordings = [_recording(key, runs[key], slice_order) for key in sorted(runs) if runs[key].bold]
    if not recordings:
        raise BadInput(f"no BOLD of ds000116 in {' or '.join(map(str, roots))}; looked for {LAYOUTS}")
    return recordings


def _recording(key: _RunKey, files: _RunFiles, slice_order: Path | None) -> Recording:
    assert files.bold is not None
    return Recording(
        subject=f"sub-{key.subject:02d}",
        task=key.task,
        run=key.run,
        bold=files.bold,
        eeg=files.eeg,
        t1=files.t1,
        events=files.events,
        slice_order=slice_order,
    )


def _completed(first: _RunFiles, second: _RunFiles) -> _RunFiles:
    """Fill what the first place lacks from the second."""
    return replace(
        first,
        bold=first.bold or second.bold,
        eeg=first.eeg or second.eeg,
        t1=first.t1 or second.t1,
        events=first.events or second.events,
    )


def _log_runs_without_bold(runs: dict[_RunKey, _RunFiles]) -> None:
    lonely = [f"sub-{key.subject:02d} {key.task} run {key.run}" for key in sorted(runs) if not runs[key].bold]
    if lonely:
        logger.warning("left out %d runs that have EEG but no BOLD: %s", len(lonely), ", ".join(lonely))


def _first_existing(candidates: Iterator[Path]) -> Path | None:
    return next((path for path in candidates if path.is_file()), None)


def _bids_runs(root: Path) -> Iterator[tuple[_RunKey, _RunFiles]]:
    for bold in sorted(root.glob("sub-*/func/*_bold.nii*")):
        match = _BIDS_BOLD.fullmatch(bold.name)
        if match is None:
            continue
        folder = bold.parents[1]
        anatomy = folder / "anat"
        events = bold.with_name(re.sub(r"_bold\.nii(\.gz)?$", "_events.tsv", bold.name))
        yield (
            _RunKey(subject=int(match["subject"]), task=match["task"], run=int(match["run"])),
            _RunFiles(
                bold=bold,
                t1=_first_existing(anatomy / f"{folder.name}_T1w{suffix}" for suffix in (".nii.gz", ".nii")),
                events=(events,) if events.is_file() else (),
            ),
        )


def _legacy_runs(root: Path) -> Iterator[tuple[_RunKey, _RunFiles]]:
    for folder in _legacy_subject_folders(root):
        subject = _LEGACY_SUBJECT.fullmatch(folder.name)
        t1 = _legacy_t1(folder / "anatomy")
        for name in sorted({path.name for kind in ("BOLD", "EEG") for path in folder.glob(f"{kind}/task*_run*")}):
            match = _LEGACY_RUN.fullmatch(name)
            if subject is None or match is None or int(match["task"]) not in TASKS:
                continue
            key = _RunKey(subject=int(subject["subject"]), task=TASKS[int(match["task"])], run=int(match["run"]))
            yield key, replace(_legacy_files(folder, name), t1=t1)


def _legacy_subject_folders(root: Path) -> list[Path]:
    found = [path for pattern in ("sub*", "ds116_sub*/sub*") for path in root.glob(pattern) if path.is_dir()]
    return sorted(path for path in found if _LEGACY_SUBJECT.fullmatch(path.name))


def _legacy_files(folder: Path, name: str) -> _RunFiles:
    eeg = folder / "EEG" / name / "EEG_rereferenced.mat"
    events = [
        *sorted((folder / "model" / "model001" / "onsets" / name).glob("cond*.txt")),
        folder / "behav" / name / "behavdata.txt",
    ]
    return _RunFiles(
        bold=_first_existing(folder / "BOLD" / name / candidate for candidate in _LEGACY_BOLD),
        eeg=eeg if eeg.is_file() else None,
        events=tuple(path for path in events if path.is_file()),
    )


def _legacy_t1(anatomy: Path) -> Path | None:
    """Return the T1: highresSPGR, else highresMPRAGE, else any other, but never highresEPI001 (a 2 mm EPI)."""
    names = sorted(path.name for path in anatomy.glob("highres*.nii*") if "EPI" not in path.name)
    preferred = sorted(names, key=lambda name: ("brain" in name, "SPGR" not in name, "MPRAGE" not in name, name))
    return anatomy / preferred[0] if preferred else None


def _slice_order_folders(root: Path) -> list[Path]:
    """Return where slice_order.txt may lie: beside the subjects, inside each unpacked archive, or one folder up."""
    return [root, *sorted(path for path in root.glob("ds116_sub*") if path.is_dir()), root.parent]


def read_eeg(path: Path) -> EegSignal:
    """Read EEG_rereferenced.mat: 34 channels in uV, ECG and two rows of markers at 1000 Hz.

    Raises:
        BadInput: the file cannot be read, is MATLAB 7.3, has another shape, or holds values that are not finite.
    """
    rows = _matrix_in(path)
    if rows.shape[0] != NUM_ROWS or rows.shape[1] <= NUM_ROWS:
        raise BadInput(
            f"{path} must hold {NUM_ROWS} rows (34 EEG, ECG, 2 of markers) x samples, but holds {rows.shape}"
        )
    signals = rows.astype(np.float32)
    if not np.isfinite(signals).all():
        bad = np.flatnonzero(~np.isfinite(signals).all(axis=1))
        raise BadInput(f"{path} must hold finite numbers, but rows {(bad + 1).tolist()} have NaN or infinite samples")
    num_channels = len(CHANNELS)
    return EegSignal(
        eeg_uv=signals[:num_channels],
        ecg=signals[num_channels],
        stimulus_markers=signals[num_channels + 1],
        response_markers=signals[num_channels + 2],
        channel_names=CHANNELS,
        rate_hz=RATE_HZ,
    )


def _matrix_in(path: Path) -> NDArray[Any]:
    """Return data_reref, or the one two-dimensional numeric array of the file under whatever name."""
    contents = _contents_of(path)
    arrays = {name: value for name, value in contents.items() if not name.startswith("__") and _is_matrix(value)}
    if "data_reref" in arrays:
        return arrays["data_reref"]
    if len(arrays) != 1:
        raise BadInput(
            f"{path} must hold data_reref or one single numeric matrix, but holds {sorted(arrays) or 'none'}"
        )
    return next(iter(arrays.values()))


def _contents_of(path: Path) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as stream:
            is_hdf5 = stream.read(10) == b"MATLAB 7.3"
        if is_hdf5:
            raise BadInput(f"{path} is a MATLAB 7.3 file; save it in MATLAB with save(..., '-v7')")
        contents: dict[str, Any] = loadmat(path)
    except BadInput:
        raise
    except _UNREADABLE_MAT as error:
        raise BadInput(f"cannot read {path} as a MATLAB file: {_first_line(error)}; download it again") from error
    return contents


def _is_matrix(value: object) -> bool:
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.size <= 1:
        return False
    return bool(np.issubdtype(value.dtype, np.integer) or np.issubdtype(value.dtype, np.floating))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def read_bold(path: Path) -> nib.Nifti1Image:
    """Read a BOLD series whole, its values kept as float32 (``get_fdata(dtype=np.float32)`` costs nothing more).

    Raises:
        BadInput: the file cannot be read, is cut short, or is not a series of volumes.
    """
    try:
        image: Any = nib.load(path)
        values = image.get_fdata(dtype=np.float32)
    except _UNREADABLE_IMAGE as error:
        raise BadInput(f"cannot read the BOLD of {path}: {_first_line(error)}; download it again") from error
    if not isinstance(image, nib.Nifti1Image) or values.ndim != 4 or values.shape[3] < 2:
        raise BadInput(f"{path} must be a NIfTI series of volumes (4-D), but has the shape {values.shape}")
    return image


def read_events(recording: Recording) -> Events:
    """Read a recording's stimuli, from BIDS ``events.tsv`` or legacy ``cond*.txt`` files; none where it has neither.

    Excluded trials (no ``trial_type``) and rows without an onset are dropped; two oddballs close together stay two.

    Raises:
        BadInput: a file cannot be understood.
    """
    tables = [path for path in recording.events if path.suffix == ".tsv"]
    if tables:
        return _events_from_table(tables[0])
    return _events_from_conditions({path.stem: path for path in recording.events})


def _events_from_table(path: Path) -> Events:
    rows = _table_rows(path)
    timed = [row for row in rows if row["onset"] != "n/a"]
    if len(timed) < len(rows):
        logger.info("%s: dropped %d rows without an onset", path.name, len(rows) - len(timed))
    response_times: dict[float, float] = {}
    stimuli: list[tuple[float, float, str]] = []
    for row in timed:
        match = _STIMULUS.fullmatch(row["trial_type"])
        if match:
            kind = "target" if match["kind"] == "oddball" else "standard"
            stimuli.append((_number(row["onset"], path), _number(row["duration"], path), kind))
        elif row["trial_type"].startswith(_RESPONSE):
            response_times[_number(row["onset"], path)] = _number(row["duration"], path)
        elif row["trial_type"] != "n/a":
            raise BadInput(f"{path} has the trial_type {row['trial_type']!r}, which is no oddball stimulus")
    return _events(stimuli, response_times)


def _table_rows(path: Path) -> list[dict[str, str]]:
    lines = [line.split("\t") for line in _text_of(path).splitlines() if line.strip()]
    if not lines or not {"onset", "duration", "trial_type"} <= set(lines[0]):
        raise BadInput(f"{path} must have the columns onset, duration and trial_type, but starts with {lines[:1]}")
    header = lines[0]
    for number, cells in enumerate(lines[1:], start=2):
        if len(cells) != len(header):
            raise BadInput(f"{path} must have {len(header)} columns in every row, but row {number} has {len(cells)}")
    return [dict(zip(header, cells, strict=True)) for cells in lines[1:]]


def _events_from_conditions(paths: dict[str, Path]) -> Events:
    """Join FSL's three-column files: cond001 targets, cond002 standards, cond003 targets lasting the reaction time."""
    columns = {
        name: _condition(paths[name]) if name in paths else np.empty((0, 3))
        for name in ("cond001", "cond002", "cond003")
    }
    stimuli = [(onset, duration, "target") for onset, duration, _ in columns["cond001"].tolist()]
    stimuli += [(onset, duration, "standard") for onset, duration, _ in columns["cond002"].tolist()]
    return _events(stimuli, {onset: duration for onset, duration, _ in columns["cond003"].tolist()})


def _condition(path: Path) -> NDArray[np.float64]:
    rows = [line.split() for line in _text_of(path).splitlines() if line.strip()]
    if any(len(row) != 3 for row in rows):
        raise BadInput(f"{path} must have three columns (onset, duration, value) in every row")
    return np.array([[_number(cell, path) for cell in row] for row in rows], dtype=np.float64).reshape(-1, 3)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the events of {path}: {_first_line(error)}") from error


def _number(text: str, path: Path) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not np.isfinite(number):
        raise BadInput(f"{path} must hold numbers for onset and duration, but has {text!r}")
    return number


def _events(stimuli: list[tuple[float, float, str]], response_times: dict[float, float]) -> Events:
    ordered = sorted(stimuli)
    onsets = [onset for onset, _, _ in ordered]
    return Events(
        onset_s=np.array(onsets, dtype=np.float64),
        duration_s=np.array([duration for _, duration, _ in ordered], dtype=np.float64),
        kind=tuple(kind for _, _, kind in ordered),
        response_time_s=np.array([response_times.get(onset, np.nan) for onset in onsets], dtype=np.float64),
    )


def marker_shift_s(signal: EegSignal, events: Events) -> float | None:
    """Return by how many seconds the EEG's stimulus markers come after the events; None without markers or events.

    The shift that most pairs of a marker and an event agree on (within 50 ms), and within it the median over stimuli:
    excluded trials and whole missed stimuli do not disturb it.
    """
    markers_s = _marker_onsets_s(signal)
    if not len(markers_s) or not len(events):
        return None
    differences = (markers_s[:, None] - events.onset_s[None, :]).ravel()
    bins = np.round(differences / _SHIFT_BIN_S).astype(int)
    values, counts = np.unique(bins, return_counts=True)
    neighbours = np.array([counts[np.abs(values - value) <= 1].sum() for value in values])
    best = min(values[neighbours == neighbours.max()], key=abs)
    return float(np.median(differences[np.abs(differences - best * _SHIFT_BIN_S) <= 1.5 * _SHIFT_BIN_S]))


def _marker_onsets_s(signal: EegSignal) -> NDArray[np.float64]:
    codes = np.array([code for of_kind in MARKER_CODES.values() for code in of_kind.values()])
    markers = np.round(signal.stimulus_markers).astype(int)
    starts = np.flatnonzero(np.diff(markers, prepend=0))
    onsets: NDArray[np.float64] = starts[np.isin(markers[starts], codes)] / signal.rate_hz
    return onsets
