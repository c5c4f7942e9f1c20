"""Find and read ds000116, the auditory and visual oddball recordings of Walz et al. (2013).

Takes the folder of the images and, where the EEG lies elsewhere, that folder too; gives recordings, their EEG, events
and slice times.  Two layouts are read, alone or together: OpenNeuro's BIDS (no EEG) and OpenfMRI's legacy one.
"""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.eeg import where_not_finite
from datasets.errors import BadInput, may_pass
from datasets.matlab import first_line, read_matrix
from datasets.montage import usual_places_m
from datasets.pulse import agreement, best_ecg, find_beats
from datasets.recording import EegSignal, Events, Recording
from datasets.slice_timing import parse_slice_order

CHANNELS = (
    "Fp1", "Fp2", "AF3", "AF4", "F7", "F3", "Fz", "F4", "F8", "FC5", "FC1", "FC2", "FC6", "T7", "C3", "Cz", "C4", "T8",
    "CP5", "CP1", "CP2", "CP6", "P7", "P3", "Pz", "P4", "P8", "PO7", "PO3", "PO4", "PO8", "O1", "Oz", "O2",
)  # fmt: skip
RATE_HZ = 1000.0
TASKS = {1: "auditory", 2: "visual"}
PRESET_EXCLUDED = ("sub-04",)
"""Subjects that the preset leaves out: several users could not read the BOLD of sub-04's auditory run 2."""

AMPLIFIER_GAIN = 10_000.0
"""EEG_raw.mat holds volts after this gain."""

LEAST_AGREEMENT = 0.9
"""Share of heart beats that row 35 must have in common with the ECG of EEG_noGA.mat to be taken for an ECG."""

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
    eeg: tuple[Path, ...] = ()
    t1: Path | None = None
    events: tuple[Path, ...] = ()
    fault: str = ""


def find_recordings(bold_root: Path, eeg_root: Path | None = None) -> list[Recording]:
    """Return every run that has BOLD, sorted by subject, task and run.

    Both roots may hold either layout or both; subjects, tasks and runs are matched by number.  A run found twice is
    taken from ``bold_root`` and, there, from the BIDS layout; what it lacks (EEG, T1, events) comes from the other.  A
    run found twice in one layout of one root has a fault: nobody can tell which is meant.

    Raises:
        BadInput: nothing is found; the message names the layouts that were looked for.
    """
    roots = [Path(bold_root)] + ([Path(eeg_root)] if eeg_root is not None else [])
    for root in roots:
        if not root.is_dir():
            raise BadInput(f"{root} must be a folder with ds000116's recordings, but there is no such folder")
    runs: dict[_RunKey, _RunFiles] = {}
    for root in roots:
        for layout in (_bids_runs, _legacy_runs):
            for key, files in _without_twins(layout(root)).items():
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
        bold=(files.bold,),
        data_set="ds000116",
        eeg=next(iter(files.eeg), None),
        eeg_extra=files.eeg[1:],
        t1=files.t1,
        events=files.events,
        slice_order=slice_order,
        fault=files.fault,
    )


def _without_twins(found: Iterable[tuple[_RunKey, _RunFiles]]) -> dict[_RunKey, _RunFiles]:
    """Return the runs of one layout of one root; one whose BOLD or EEG is there twice has a fault."""
    runs: dict[_RunKey, _RunFiles] = {}
    for key, files in found:
        first = runs.get(key, _RunFiles())
        faults = [first.fault, files.fault, _twin_fault(first.bold, files.bold)]
        faults += [_twin_fault(*each) for each in zip(first.eeg[:1], files.eeg[:1], strict=False)]
        runs[key] = replace(_completed(first, files), fault=next(filter(None, faults), ""))
    return runs


def _twin_fault(first: Path | None, second: Path | None) -> str:
    """Return the fault of a run that has two files for one thing; one file under two names is no fault."""
    if first is None or second is None or os.path.realpath(first) == os.path.realpath(second):
        return ""
    return _twins([first, second])


def _twins(paths: Sequence[Path]) -> str:
    return f"there are several files of this one run: {', '.join(map(str, paths))}; keep one of them"


def _completed(first: _RunFiles, second: _RunFiles) -> _RunFiles:
    """Fill what the first place lacks from the second."""
    return replace(
        first,
        bold=first.bold or second.bold,
        eeg=first.eeg or second.eeg,
        t1=first.t1 or second.t1,
        events=first.events or second.events,
        fault=first.fault or (second.fault if first.bold is None else ""),
    )


def _log_runs_without_bold(runs: dict[_RunKey, _RunFiles]) -> None:
    lonely = [f"sub-{key.subject:02d} {key.task} run {key.run}" for key in sorted(runs) if not runs[key].bold]
    if lonely:
        logger.warning("left out %d runs that have EEG but no BOLD: %s", len(lonely), ", ".join(lonely))


def _first_existing(candidates: Iterator[Path]) -> Path | None:
    return next((path for path in candidates if _is_there(path)), None)


def _is_there(path: Path) -> bool:
    """Tell whether anything has this name, also a folder or a link to nowhere: reading it says what is wrong."""
    return os.path.lexists(path)


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
                events=(events,) if _is_there(events) else (),
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
    eeg = [folder / "EEG" / name / f"EEG_{kind}.mat" for kind in _EEG_FILES]
    events = [
        *sorted((folder / "model" / "model001" / "onsets" / name).glob("cond*.txt")),
        folder / "behav" / name / "behavdata.txt",
    ]
    images = [path for path in (folder / "BOLD" / name / candidate for candidate in _LEGACY_BOLD) if _is_there(path)]
    return _RunFiles(
        bold=next(iter(images), None),
        fault=_twin_fault(*(folder / "BOLD" / name / candidate for candidate in _LEGACY_BOLD[:2]))
        if {path.name for path in images} >= set(_LEGACY_BOLD[:2])
        else "",
        eeg=tuple(path for path in eeg if _is_there(path)),
        events=tuple(path for path in events if _is_there(path)),
    )


def _legacy_t1(anatomy: Path) -> Path | None:
    """Return the T1: highresSPGR, else highresMPRAGE, else any other, but never highresEPI001 (a 2 mm EPI)."""
    names = sorted(path.name for path in anatomy.glob("highres*.nii*") if "EPI" not in path.name)
    preferred = sorted(names, key=lambda name: ("brain" in name, "SPGR" not in name, "MPRAGE" not in name, name))
    return anatomy / preferred[0] if preferred else None


def _slice_order_folders(root: Path) -> list[Path]:
    """Return where slice_order.txt may lie: beside the subjects, in an unpacked archive, or one folder up."""
    archives = sorted(path for path in root.glob("ds116_sub*") if path.is_dir())
    return [root, root / "ds116_metadata" / "supplementary", *archives, root.parent]


@dataclass(frozen=True, kw_only=True)
class _EegFile:
    """How one of the three .mat files is laid out; rows are numbered from 1, as in the data set's README."""

    variable: str
    rows: int
    channel_names: tuple[str, ...]
    ecg: tuple[int, ...]
    eog: tuple[int, ...]
    markers: int
    uv_per_unit: float = 1.0

    @property
    def described(self) -> str:
        return (
            f"{self.rows} rows ({len(self.channel_names)} EEG, {len(self.eog)} EOG, {len(self.ecg)} ECG, 2 of markers)"
        )


_BIPOLAR = _EegFile(
    variable="data_noGA",
    rows=49,
    channel_names=tuple(f"bipolar-{number:02d}" for number in range(1, 44)),
    eog=(44, 45),
    ecg=(46, 47),
    markers=48,
)
_EEG_FILES = {
    "rereferenced": _EegFile(variable="data_reref", rows=37, channel_names=CHANNELS, eog=(), ecg=(35,), markers=36),
    "noGA": _BIPOLAR,
    "raw": replace(_BIPOLAR, variable="data_raw", uv_per_unit=1e6 / AMPLIFIER_GAIN),
}
"""The .mat files of a run, EEG_<name>.mat: without the gradient artefact in the 34 electrodes, without it in the 43
bipolar pairs that were recorded, and those pairs with it."""


def read_eeg(recording: Recording, eeg_file: str = "rereferenced") -> EegSignal:
    """Read one of a run's .mat files, at 1000 Hz, in uV; ECG and EOG that it lacks come from EEG_noGA.mat, if there.

    Row 35 of EEG_rereferenced.mat may be an EOG in place of the ECG: where no heart beats are found in it and they are
    in the ECG of EEG_noGA.mat, that is taken.

    Raises:
        BadInput: the file is not there, cannot be read, is MATLAB 7.3, has another shape, or holds values that are not
            finite.
    """
    paths = {path.name: path for path in (recording.eeg, *recording.eeg_extra) if path is not None}
    if eeg_file not in _EEG_FILES:
        raise BadInput(f"eeg_file must be one of {', '.join(_EEG_FILES)}, but got {eeg_file!r}")
    if not paths:
        raise BadInput("it has no EEG; give the folder that holds the EEG with --eeg-root")
    path = paths.get(f"EEG_{eeg_file}.mat")
    if path is None:
        raise BadInput(f"it has no EEG_{eeg_file}.mat, only {', '.join(sorted(paths))}; choose another eeg_file")
    layout = _EEG_FILES[eeg_file]
    signals = _signals_in(path, layout)
    num_channels = len(layout.channel_names)
    ecg, eog = best_ecg(_rows(signals, layout.ecg), RATE_HZ), _rows(signals, layout.eog)
    if eeg_file == "rereferenced" and "EEG_noGA.mat" in paths:
        ecg, eog = _ecg_and_eog(paths["EEG_noGA.mat"], signals[layout.ecg[0] - 1])
    markers_s = _marker_onsets_s(signals[layout.markers - 1])
    if not len(markers_s):
        logger.warning(
            "row %d of %s holds no stimulus marker: whether EEG and events are on one clock cannot be checked",
            layout.markers,
            path.name,
        )
    if eeg_file == "raw":
        logger.warning("%s still holds the gradient artefact, which nothing here removes", path)
    return EegSignal(
        eeg_uv=signals[:num_channels],
        channel_names=layout.channel_names,
        locations_m=channel_locations_m(layout.channel_names),
        rate_hz=RATE_HZ,
        ecg=ecg,
        eog=eog,
        marker_onsets_s=markers_s,
    )


def channel_locations_m(names: Sequence[str]) -> tuple[tuple[float, float, float] | None, ...]:
    """Return where electrodes lie in mne's head space, from its montage ``colin27_1005``; None for unknown names."""
    places_m = usual_places_m()
    return tuple(places_m.get(name) for name in names)


def read_slice_times(recording: Recording, num_slices: int) -> NDArray[np.float64] | None:
    """Return the seconds from the start of a volume at which each slice is taken, from slice_order.txt, if there.

    Raises:
        BadInput: the file cannot be read or has another number of slices.
    """
    if recording.slice_order is None:
        return None
    try:
        text = recording.slice_order.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the slice order of {recording.slice_order}: {first_line(error)}") from error
    try:
        return parse_slice_order(text, num_slices, recording.repetition_time_s)
    except BadInput as error:
        raise BadInput(f"{recording.slice_order}: {error}") from error


def _signals_in(path: Path, layout: _EegFile, numbers: Sequence[int] = ()) -> NDArray[np.float32]:
    """Return the file's rows, or those of these numbers, as float32: uV, but for the file's last two, the markers."""
    rows = read_matrix(path, layout.variable)
    if rows.shape[0] != layout.rows or rows.shape[1] <= layout.rows:
        advice = (
            "transpose it" if rows.shape[1] == layout.rows else "check that it is the right file, or exclude the run"
        )
        raise BadInput(f"{path} must hold {layout.described} x samples, but holds {rows.shape}; {advice}")
    wanted = numbers or range(1, layout.rows + 1)
    signals = np.empty((len(wanted), rows.shape[1]), dtype=np.float32)
    for signal, number in zip(signals, wanted, strict=True):
        signal[:] = rows[number - 1] * (layout.uv_per_unit if number <= layout.rows - 2 else 1.0)
    del rows
    is_broken = ~np.isfinite(signals.sum(axis=1))
    if is_broken.any():
        broken = [number for number, broken in zip(wanted, is_broken, strict=True) if broken]
        raise BadInput(f"{path} must hold finite numbers, but in rows {broken} {where_not_finite(signals, RATE_HZ)}")
    return signals


def _rows(signals: NDArray[np.float32], numbers: Sequence[int]) -> NDArray[np.float32]:
    return signals[[number - 1 for number in numbers]]


def _ecg_and_eog(path: Path, ecg: NDArray[np.float32]) -> tuple[NDArray[np.float32] | None, NDArray[np.float32]]:
    """Return the better ECG of row 35 and the two of EEG_noGA.mat, and that file's EOG (leads, samples).

    Row 35 is taken where its beats are those of EEG_noGA.mat, or where that has none; the rest is logged.
    """
    numbers = (*_BIPOLAR.ecg, *_BIPOLAR.eog)
    try:
        signals = _signals_in(path, _BIPOLAR, numbers)
    except BadInput as error:
        if may_pass(error):
            raise
        logger.warning("ECG and EOG are not taken from EEG_noGA.mat: %s", error)
        return ecg, np.empty((0, 0), dtype=np.float32)
    if signals.shape[1] != len(ecg):
        logger.warning("ECG and EOG are not taken from %s: it has %d samples, not %d", path, signals.shape[1], len(ecg))
        return ecg, np.empty((0, 0), dtype=np.float32)
    leads, eog = np.split(signals, [len(_BIPOLAR.ecg)])
    other = best_ecg(leads, RATE_HZ)
    others_s = np.empty(0) if other is None else find_beats(other, RATE_HZ)
    if not len(others_s) or agreement(find_beats(ecg, RATE_HZ), others_s) >= LEAST_AGREEMENT:
        return ecg, eog
    logger.warning("row 35 does not show the heart beats of the ECG in %s, which is taken in its place", path)
    return other, eog


def _marker_onsets_s(markers: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return when a row of stimulus markers changes to a stimulus's code."""
    codes = [code for of_kind in MARKER_CODES.values() for code in of_kind.values()]
    values = np.round(markers).astype(int)
    starts = np.flatnonzero(np.diff(values, prepend=0))
    onsets: NDArray[np.float64] = starts[np.isin(values[starts], codes)] / RATE_HZ
    return onsets


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
        raise BadInput(f"cannot read the events of {path}: {first_line(error)}") from error


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
