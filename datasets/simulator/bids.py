"""Write a simulated study as plain BIDS: BOLD with sidecars, T1, events, and EEG as BrainVision files.

Takes what the simulator made (``datasets.simulator.layout``); gives files that ``datasets.bids`` reads.  On purpose the
EEG is not ds000116's: it has a rate of its own, starts before the scan and ends after it, and the markers of volumes
tell where the scan lies.
"""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mne
import nibabel
import numpy as np
from numpy.typing import NDArray

from datasets.oddball import CHANNELS, MARKER_CODES, TASKS
from datasets.recording import Events
from datasets.resampling import resample
from datasets.simulator.layout import ECG_NAME, EOG_NAMES, SimulatedRun, SimulatedSubject
from datasets.storage import write_whole

BIDS_VERSION = "1.9.0"
RATE_HZ = 500.0
BEFORE_S, AFTER_S = 3.7, 1.5
"""How much longer than the scan the EEG is recorded, at both ends."""
RESOLUTIONS_UV = (0.1, 0.5, 1.0, 5.0, 10.0, 50.0)
"""What one step of an int16 may mean; of each channel the finest that holds its extremes."""
MONTAGE = "colin27_1005"
LINE_HZ = 60
_LARGEST_STEP = 32_000
_NAMES = (*CHANNELS, ECG_NAME, *EOG_NAMES)
_TYPES = ("EEG",) * len(CHANNELS) + ("ECG", *EOG_NAMES)
_README = """\
SIMULATED recordings: no person was measured.

Written by python -m datasets.simulate as a BIDS data set, so that the platform can be tried on data whose truth is
known. Settings: {settings}
"""


class BidsLayout:
    """The layout of plain BIDS, a ``datasets.simulator.layout.StudyLayout``; BOLD and T1 come last."""

    def write_study(self, study: Path, settings: Mapping[str, Any]) -> None:
        """Write the description, the README, the table of participants and what all runs of a task share."""
        _write_json(
            study / "dataset_description.json",
            {"Name": "Simulated EEG and fMRI", "BIDSVersion": BIDS_VERSION, "DatasetType": "raw", "License": "CC0"},
        )
        _write_text(study / "README", _README.format(settings=json.dumps(dict(settings))))
        _write_text(study / ".bidsignore", "simulation.json\n")
        subjects = range(1, int(settings.get("subjects", 0)) + 1)
        _write_table(study / "participants.tsv", ("participant_id",), [(_subject(number),) for number in subjects])
        for task in TASKS.values():
            _write_json(study / f"task-{task}_bold.json", {"TaskName": task})

    def write_subject(self, study: Path, subject: SimulatedSubject) -> None:
        """Write one subject's T1."""
        _write_image(_t1_path(study, subject.number), subject.t1, subject.t1_affine)

    def write_run(self, study: Path, run: SimulatedRun) -> None:
        """Write one run's EEG, events and BOLD."""
        eeg, func = _run_path(study, run, "eeg"), _run_path(study, run, "func")
        _write_eeg(eeg, run)
        _write_electrodes(eeg.parent, _subject(run.subject))
        _write_events(_with(func, "events.tsv"), run.events)
        sidecar = {
            "RepetitionTime": run.repetition_time_s,
            "SliceTiming": [round(float(seconds), 6) for seconds in run.slice_times_s],
            "SliceEncodingDirection": "k",
        }
        _write_json(_with(func, "bold.json"), sidecar)
        _write_image(_with(func, "bold.nii.gz"), run.bold, run.epi_affine, run.repetition_time_s)

    def is_subject_whole(self, study: Path, subject: int) -> bool:
        """Tell whether a subject's T1 is there."""
        return _t1_path(study, subject).is_file()

    def is_run_whole(self, study: Path, subject: int, task: int, run: int) -> bool:
        """Tell whether a run's BOLD, its last file, is there."""
        return _with(_path(study, subject, TASKS[task], run, "func"), "bold.nii.gz").is_file()


def _subject(number: int) -> str:
    return f"sub-{number:02d}"


def _path(study: Path, subject: int, task: str, run: int, folder: str) -> Path:
    name = _subject(subject)
    return study / name / folder / f"{name}_task-{task}_run-{run:02d}"


def _run_path(study: Path, run: SimulatedRun, folder: str) -> Path:
    return _path(study, run.subject, run.task_name, run.run, folder)


def _t1_path(study: Path, subject: int) -> Path:
    return study / _subject(subject) / "anat" / f"{_subject(subject)}_T1w.nii.gz"


def _with(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name}_{ending}")


def _write_eeg(path: Path, run: SimulatedRun) -> None:
    """Write the three BrainVision files, their header last, and what BIDS tells of them."""
    signals_uv = _recorded(np.vstack([run.eeg_uv, run.ecg, run.eog]), run.rate_hz)
    resolutions_uv = [_resolution_uv(float(np.abs(row).max())) for row in signals_uv]
    steps = np.rint(signals_uv / np.array(resolutions_uv, np.float32)[:, np.newaxis]).astype("<i2")
    write_whole(_with(path, "eeg.eeg"), steps.T.tobytes())
    _write_text(_with(path, "eeg.vmrk"), _marker_file(_with(path, "eeg.eeg").name, _markers(run)))
    rows = [(name, kind, "uV", "good") for name, kind in zip(_NAMES, _TYPES, strict=True)]
    _write_table(_with(path, "channels.tsv"), ("name", "type", "units", "status"), rows)
    _write_json(_with(path, "eeg.json"), _eeg_sidecar(run, signals_uv.shape[1] / RATE_HZ))
    _write_text(_with(path, "eeg.vhdr"), _header_file(_with(path, "eeg").name, resolutions_uv))


def _recorded(signals_uv: NDArray[np.float32], rate_hz: float) -> NDArray[np.float32]:
    """Return the signals at the recorder's rate, longer than the scan at both ends (mirrored)."""
    signals = resample(signals_uv, rate_hz, RATE_HZ)
    return np.pad(signals, ((0, 0), (round(BEFORE_S * RATE_HZ), round(AFTER_S * RATE_HZ))), mode="reflect")


def _resolution_uv(largest_uv: float) -> float:
    fitting = [resolution for resolution in RESOLUTIONS_UV if largest_uv / resolution <= _LARGEST_STEP]
    if not fitting:
        raise ValueError(f"a simulated channel must stay below {RESOLUTIONS_UV[-1] * _LARGEST_STEP} uV")
    return fitting[0]


def _markers(run: SimulatedRun) -> list[tuple[int, str]]:
    """Return every marker as (sample from 0, type and description), in order of time."""
    codes = MARKER_CODES[run.task_name]
    starts_s = np.arange(run.bold.shape[3]) * run.repetition_time_s
    volumes = [(_sample(seconds), "Volume,V  1") for seconds in starts_s.tolist()]
    stimuli_s = (run.marker_samples / run.rate_hz).tolist()
    stimuli = [
        (_sample(seconds), f"Stimulus,S{codes[kind]:3d}")
        for seconds, kind in zip(stimuli_s, run.events.kind, strict=True)
    ]
    return sorted(volumes + stimuli)


def _sample(seconds: float) -> int:
    return round((BEFORE_S + seconds) * RATE_HZ)


def _marker_file(data_name: str, markers: Sequence[tuple[int, str]]) -> str:
    lines = ["Brain Vision Data Exchange Marker File, Version 1.0", "[Common Infos]", "Codepage=UTF-8"]
    lines += [f"DataFile={data_name}", "[Marker Infos]", "Mk1=New Segment,,1,1,0"]
    lines += [f"Mk{number}={what},{sample + 1},1,0" for number, (sample, what) in enumerate(markers, start=2)]
    return "\r\n".join([*lines, ""])


def _header_file(stem: str, resolutions_uv: Sequence[float]) -> str:
    lines = ["Brain Vision Data Exchange Header File Version 1.0", "[Common Infos]", "Codepage=UTF-8"]
    lines += [f"DataFile={stem}.eeg", f"MarkerFile={stem}.vmrk", "DataFormat=BINARY", "DataOrientation=MULTIPLEXED"]
    lines += [f"NumberOfChannels={len(_NAMES)}", f"SamplingInterval={1e6 / RATE_HZ:g}"]
    lines += ["[Binary Infos]", "BinaryFormat=INT_16", "[Channel Infos]"]
    channels = enumerate(zip(_NAMES, resolutions_uv, strict=True), start=1)
    lines += [f"Ch{number}={name},,{resolution:g},µV" for number, (name, resolution) in channels]
    return "\r\n".join([*lines, ""])


def _eeg_sidecar(run: SimulatedRun, seconds: float) -> dict[str, Any]:
    return {
        "TaskName": run.task_name,
        "SamplingFrequency": RATE_HZ,
        "EEGReference": "average of the mastoids",
        "PowerLineFrequency": LINE_HZ,
        "SoftwareFilters": "n/a",
        "RecordingType": "continuous",
        "RecordingDuration": seconds,
        "EEGChannelCount": len(CHANNELS),
        "ECGChannelCount": 1,
        "EOGChannelCount": len(EOG_NAMES),
    }


def _write_electrodes(folder: Path, subject: str) -> None:
    """Write where the electrodes lie in mm, in a system of its own whose landmarks tell the way to any other."""
    places = mne.channels.make_standard_montage(MONTAGE).get_positions()
    rows = [(name, *_millimetres(places["ch_pos"][name])) for name in CHANNELS]
    _write_table(folder / f"{subject}_electrodes.tsv", ("name", "x", "y", "z"), rows)
    landmarks = {name: _millimetres(places[key]) for name, key in (("NAS", "nasion"), ("LPA", "lpa"), ("RPA", "rpa"))}
    system = {
        "EEGCoordinateSystem": "Other",
        "EEGCoordinateSystemDescription": f"RAS, of mne's montage {MONTAGE}",
        "EEGCoordinateUnits": "mm",
        "AnatomicalLandmarkCoordinates": landmarks,
        "AnatomicalLandmarkCoordinateSystem": "Other",
        "AnatomicalLandmarkCoordinateUnits": "mm",
    }
    _write_json(folder / f"{subject}_coordsystem.json", system)


def _millimetres(place_m: NDArray[np.float64]) -> list[float]:
    return [round(1000 * float(value), 3) for value in place_m]


def _write_events(path: Path, events: Events) -> None:
    columns = (events.onset_s, events.duration_s, events.kind, events.response_time_s)
    rows = [
        (f"{onset:.3f}", f"{lasting:.3f}", kind, f"{response:.3f}" if np.isfinite(response) else "n/a")
        for onset, lasting, kind, response in zip(*columns, strict=True)
    ]
    _write_table(path, ("onset", "duration", "trial_type", "response_time"), rows)


def _write_image(
    path: Path, volumes: NDArray[np.int16], affine: NDArray[np.float64], repetition_time_s: float | None = None
) -> None:
    """Write a NIfTI whose qform and sform are the scanner's, compressed without a date."""
    image = nibabel.Nifti1Image(volumes, affine)
    image.set_qform(affine, code="scanner")
    image.set_sform(affine, code="scanner")
    image.header.set_xyzt_units("mm", "sec")
    if repetition_time_s is not None:
        image.header.set_zooms((*image.header.get_zooms()[:3], repetition_time_s))
    write_whole(path, gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def _write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    lines = ["\t".join(str(cell) for cell in row) for row in (header, *rows)]
    _write_text(path, "\n".join(lines) + "\n")


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    _write_text(path, json.dumps(record, indent=2) + "\n")


def _write_text(path: Path, text: str) -> None:
    write_whole(path, text.encode())
