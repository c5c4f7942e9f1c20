"""Read the EEG of a BIDS run, in any format that mne reads, and put it on the scanner's clock.

Takes a recording; gives its EEG, ECG and EOG in microvolts from the start of volume 0 on, the EEG's own rate kept.
Which channels are EEG, ECG or EOG ``channels.tsv`` says, where electrodes lie ``electrodes.tsv`` or their names.
"""

import configparser
import logging
import re
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import mne
import numpy as np
from numpy.typing import NDArray
from scipy.io.matlab import MatReadError

from datasets.bids.clock import Marker, Scan, first_volume_s, marker, stimulus_onsets_s
from datasets.bids.files import NOT_AVAILABLE, inherited_files, metadata, number_in, read_rows
from datasets.bids.places import electrode_places
from datasets.bids.runs import num_volumes, refuse_twins, repetition_time_s
from datasets.errors import BadInput
from datasets.matlab import first_line
from datasets.recording import SCANNER, EegSignal, Recording

MICROVOLTS = 1e6
KINDS = {"EEG": "eeg", "ECG": "ecg", "EKG": "ecg", "EOG": "eog", "HEOG": "eog", "VEOG": "eog"}
"""What ``channels.tsv`` calls the channels that are read; all others are left out."""
GRADIENT_UV = 500.0
"""EEG whose median channel varies by more still holds the gradient artefact."""
_BLOCK_VALUES = 8_000_000
_HALF_SAMPLE = 0.5
_COMPANIONS = (".eeg", ".dat", ".vmrk", ".amrk", ".fdt")
_NAMED = (
    (re.compile(r"ecg|ekg", re.IGNORECASE), "ecg"),
    (re.compile(r"eog", re.IGNORECASE), "eog"),
    (re.compile(r"emg|gsr|resp|trig|status|stim|accel|photo", re.IGNORECASE), "other"),
)
_UNREADABLE = (
    OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError, ImportError, EOFError,
    AssertionError, StopIteration, MemoryError, configparser.Error, struct.error, ParseError,
    MatReadError,
)  # fmt: skip

logger = logging.getLogger(__name__)

Raw = Any
"""A recording that mne has opened, ``mne.io.BaseRaw``."""


def read_eeg(recording: Recording, eeg_file: str = "rereferenced") -> EegSignal:
    """Read a run's EEG from the start of volume 0 on; ``eeg_file`` is of no matter here.

    Raises:
        BadInput: the EEG cannot be read or has no EEG channel, does not tell where the scan starts, or starts after the
            first volume; or there are two files of the run.
    """
    del eeg_file
    path = _path(recording)
    refuse_twins(recording)
    if recording.space == SCANNER:
        repetition_time_s(recording.bold[0])
    with _reading(path):
        raw = _opened(path)
        rate_hz = float(raw.info["sfreq"])
        markers = _markers(path, raw)
        start_s = _scan_start_s(recording, raw, markers)
        rows = _rows_of_kinds(path, raw)
        first = round(start_s * rate_hz)
        signals = _signals(raw, [row for kind in ("eeg", "ecg", "eog") for row in rows[kind]], first)
    names = tuple(raw.ch_names[row] for row in rows["eeg"])
    eeg_uv, ecg, eog = np.split(signals, np.cumsum([len(rows["eeg"]), len(rows["ecg"])]))
    _warn_of_gradients(recording, eeg_uv)
    return EegSignal(
        eeg_uv=eeg_uv,
        channel_names=names,
        locations_m=electrode_places(path, raw, names),
        rate_hz=rate_hz,
        ecg=ecg[0] if len(ecg) else None,
        eog=eog,
        marker_onsets_s=stimulus_onsets_s(markers) - start_s,
        listed_bad=tuple(name for name in names if name in listed_bad_channels(path)),
    )


def scan_start_s(recording: Recording) -> float:
    """Return the seconds from the EEG's first sample to the start of volume 0; BadInput where nothing tells."""
    path = _path(recording)
    with _reading(path):
        raw = _opened(path)
        return _scan_start_s(recording, raw, _markers(path, raw))


def listed_bad_channels(path: Path) -> tuple[str, ...]:
    """Return the EEG channels whose ``status`` in ``channels.tsv`` is bad."""
    rows = _channel_rows(path).values()
    return tuple(row["name"] for row in rows if row.get("status", "").lower() == "bad" and _is_eeg(row))


def companions(path: Path) -> tuple[Path, ...]:
    """Return the other files that reading an EEG file reads: its data and markers, and what BIDS tells of it."""
    own = [path.with_suffix(suffix) for suffix in _COMPANIONS if path.suffix != suffix]
    told = [
        *inherited_files(path, "channels", ".tsv"),
        *inherited_files(path, "electrodes", ".tsv", ignoring=("space",)),
        *inherited_files(path, "coordsystem", ".json", ignoring=("space",)),
        *inherited_files(path, "eeg", ".json"),
    ]
    return tuple(file for file in (*own, *told) if file.is_file())


def _path(recording: Recording) -> Path:
    if recording.eeg is None:
        raise BadInput("it has no EEG; give the folder that holds the EEG with --eeg-root")
    return recording.eeg


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes mne raise into one line."""
    try:
        yield
    except BadInput:
        raise
    except _UNREADABLE as error:
        raise BadInput(f"cannot read the EEG of {path}: {first_line(error)}; download it again") from error


def _opened(path: Path) -> Raw:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mne's remarks on file names and on what a header leaves out
        return mne.io.read_raw(path, preload=False, verbose="error")


def _markers(path: Path, raw: Raw) -> list[Marker]:
    """Return the markers within the EEG's file and those of the ``events.tsv`` beside it."""
    since_s = raw.first_time if raw.annotations.orig_time is not None else 0.0
    found = [
        marker(float(onset_s) - since_s, str(text))
        for onset_s, text in zip(raw.annotations.onset, raw.annotations.description, strict=True)
    ]
    beside = [table for table in inherited_files(path, "events", ".tsv") if table.parent == path.parent]
    for row in read_rows(beside[-1], ("onset",)) if beside else []:
        labels = {row.get(column, NOT_AVAILABLE) for column in ("trial_type", "value")} - {NOT_AVAILABLE, ""}
        found += [Marker(onset_s=number_in(row["onset"]), kind="", label=label) for label in sorted(labels)]
    return [one for one in found if np.isfinite(one.onset_s)]


def _scan_start_s(recording: Recording, raw: Raw, markers: list[Marker]) -> float:
    stated = number_in(str(metadata(_path(recording)).get("StartTime", NOT_AVAILABLE)))
    seconds = raw.n_times / raw.info["sfreq"]
    start_s = -stated if np.isfinite(stated) else first_volume_s(markers, _scan(recording), seconds)
    if start_s * raw.info["sfreq"] < -_HALF_SAMPLE:
        raise BadInput(f"the EEG starts {-start_s:.3f} s after the first volume; it must start with it or before")
    if start_s >= seconds:
        raise BadInput(f"the EEG ends before the scan starts, {start_s:.3f} s after the EEG's first sample")
    return max(0.0, start_s)


def _scan(recording: Recording) -> Scan:
    fields = metadata(_raw_bold(recording))
    counts = [fields.get(f"NumberOfVolumesDiscardedBy{whom}") for whom in ("Scanner", "User")]
    known = [count for count in counts if isinstance(count, int) and count >= 0]
    return Scan(
        num_volumes=num_volumes(recording),
        repetition_time_s=recording.repetition_time_s,
        discarded=sum(known) if known else None,
    )


def _raw_bold(recording: Recording) -> Path:
    """Return the path of the raw BOLD, also where another pipeline's stands in its place: its sidecars count."""
    if recording.space == SCANNER:
        return recording.bold[0]
    beside = [path for path in recording.events if path.parent.name == "func"]
    known = beside[0] if beside else _path(recording)
    stem = known.name.rsplit("_", 1)[0]
    return known.parents[1] / "func" / f"{stem}_bold.nii.gz"


def _rows_of_kinds(path: Path, raw: Raw) -> dict[str, list[int]]:
    table = _channel_rows(path)
    if table and not set(table) & set(raw.ch_names):
        raise BadInput(
            f"channels.tsv of {path.name} must name its channels, {', '.join(raw.ch_names[:4])}..., but no one"
        )
    kinds = [
        KINDS.get(table[name].get("type", "").upper(), "other") if name in table else _guessed_kind(name, of_mne)
        for name, of_mne in zip(raw.ch_names, raw.get_channel_types(), strict=True)
    ]
    rows = {kind: [row for row, one in enumerate(kinds) if one == kind] for kind in ("eeg", "ecg", "eog")}
    if not rows["eeg"]:
        raise BadInput(f"{path} has no EEG channel; give each channel's type in channels.tsv")
    return rows


def _channel_rows(path: Path) -> Mapping[str, Mapping[str, str]]:
    tables = inherited_files(path, "channels", ".tsv")
    return {row["name"]: row for row in read_rows(tables[-1], ("name", "type"))} if tables else {}


def _is_eeg(row: Mapping[str, str]) -> bool:
    return KINDS.get(row.get("type", "").upper()) == "eeg"


def _guessed_kind(name: str, of_mne: str) -> str:
    if of_mne != "eeg":
        return of_mne
    return next((kind for pattern, kind in _NAMED if pattern.search(name)), "eeg")


def _signals(raw: Raw, rows: Sequence[int], first: int) -> NDArray[np.float32]:
    """Return rows of the recording in uV from a sample on; read in blocks, as mne gives float64."""
    signals = np.empty((len(rows), raw.n_times - first), dtype=np.float32)
    block = max(1, _BLOCK_VALUES // len(raw.ch_names))
    for start in range(first, raw.n_times, block):
        stop = min(raw.n_times, start + block)
        signals[:, start - first : stop - first] = raw.get_data(list(rows), start, stop) * MICROVOLTS
    return signals


def _warn_of_gradients(recording: Recording, eeg_uv: NDArray[np.float32]) -> None:
    spread_uv = float(np.median(np.std(eeg_uv[:, : eeg_uv.shape[1] // 4 + 1], axis=1)))
    if spread_uv > GRADIENT_UV:
        logger.warning(
            "%s: the EEG varies by %.0f uV; does it still hold the gradient artefact? Preparation does not remove it",
            recording.name,
            spread_uv,
        )
