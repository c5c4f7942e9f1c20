"""Write a simulated study in ds000116's legacy layout (OpenfMRI R1.0.0).

Takes what the simulator made (``datasets.simulator.layout``); gives files that ``datasets.oddball`` reads.
"""

import gzip
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

from datasets.recording import Events
from datasets.simulator.anatomy import EPI_SHAPE
from datasets.simulator.eeg import response_markers, stimulus_markers
from datasets.simulator.layout import SimulatedRun, SimulatedSubject
from datasets.storage import write_whole

_README = """\
SIMULATED recordings: no person was measured.

Written by python -m datasets.simulate in the layout of ds000116 (OpenfMRI R1.0.0), so that the platform can be tried on
data whose truth is known. Settings: {settings}
"""


class LegacyLayout:
    """The legacy layout of ds000116, a ``datasets.simulator.layout.StudyLayout``; a run's BOLD comes last."""

    def write_study(self, study: Path, settings: Mapping[str, Any]) -> None:
        """Write the README and the order of the slices."""
        _write_text(study / "README", _README.format(settings=json.dumps(dict(settings))))
        _write_text(study / "slice_order.txt", "".join(f"{number}\n" for number in range(1, EPI_SHAPE[2] + 1)))

    def write_subject(self, study: Path, subject: SimulatedSubject) -> None:
        """Write one subject's T1."""
        _write_image(_t1_path(study, subject.number), subject.t1, subject.t1_affine)

    def write_run(self, study: Path, run: SimulatedRun) -> None:
        """Write one run's EEG (with EEG_noGA.mat where its rows are given), events and BOLD."""
        folder, name = _subject_folder(study, run.subject), _run_name(run.task, run.run)
        num_samples = run.eeg_uv.shape[1]
        markers = [stimulus_markers(run.events, run.task_name, num_samples), response_markers(run.events, num_samples)]
        eeg = folder / "EEG" / name
        _write_matrix(eeg / "EEG_rereferenced.mat", "data_reref", np.vstack([run.eeg_uv, run.ecg, *markers]))
        if run.bipolar_uv is not None:
            rows = np.vstack([run.bipolar_uv, run.eog, run.ecg, -0.6 * run.ecg, *markers])
            _write_matrix(eeg / "EEG_noGA.mat", "data_noGA", rows)
        _write_events(folder, name, run.events)
        _write_image(_bold_path(study, run.subject, run.task, run.run), run.bold, run.epi_affine, run.repetition_time_s)

    def is_subject_whole(self, study: Path, subject: int) -> bool:
        """Tell whether a subject's T1 is there."""
        return _t1_path(study, subject).is_file()

    def is_run_whole(self, study: Path, subject: int, task: int, run: int) -> bool:
        """Tell whether a run's BOLD, its last file, is there."""
        return _bold_path(study, subject, task, run).is_file()


def _subject_folder(study: Path, subject: int) -> Path:
    return study / f"sub{subject:03d}"


def _run_name(task: int, run: int) -> str:
    return f"task{task:03d}_run{run:03d}"


def _t1_path(study: Path, subject: int) -> Path:
    return _subject_folder(study, subject) / "anatomy" / "highresSPGR001.nii.gz"


def _bold_path(study: Path, subject: int, task: int, run: int) -> Path:
    return _subject_folder(study, subject) / "BOLD" / _run_name(task, run) / "bold.nii.gz"


def _write_events(folder: Path, name: str, events: Events) -> None:
    """Write FSL's three-column files (targets, standards, reaction time) and the table of behaviour."""
    onsets = folder / "model" / "model001" / "onsets" / name
    rows = list(zip(events.onset_s, events.duration_s, events.kind, events.response_time_s, strict=True))
    _write_rows(onsets / "cond001.txt", [(onset, lasting) for onset, lasting, kind, _ in rows if kind == "target"])
    _write_rows(onsets / "cond002.txt", [(onset, lasting) for onset, lasting, kind, _ in rows if kind == "standard"])
    _write_rows(onsets / "cond003.txt", [(onset, response) for onset, _, _, response in rows if np.isfinite(response)])
    lines = [f"{onset:.3f}\t{int(kind == 'target')}\t{kind}\n" for onset, _, kind, _ in rows]
    _write_text(folder / "behav" / name / "behavdata.txt", "Onset\tResponse\tStimulus\n" + "".join(lines))


def _write_rows(path: Path, rows: list[tuple[float, float]]) -> None:
    _write_text(path, "".join(f"{onset:.3f}\t{lasting:.3f}\t1\n" for onset, lasting in rows))


def _write_matrix(path: Path, variable: str, rows: NDArray[np.float32]) -> None:
    """Write a MATLAB 5 file whose header, unlike scipy's, names no date."""
    buffer = io.BytesIO()
    savemat(buffer, {variable: rows.astype(np.float32, copy=False)})
    buffer.getbuffer()[:116] = b"MATLAB 5.0 MAT-file, simulated".ljust(116)
    write_whole(path, buffer.getbuffer())


def _write_image(
    path: Path, volumes: NDArray[np.int16], affine: NDArray[np.float64], repetition_time_s: float | None = None
) -> None:
    """Write a NIfTI whose qform and sform are the scanner's, compressed without a date."""
    image = nib.Nifti1Image(volumes, affine)
    image.set_qform(affine, code="scanner")
    image.set_sform(affine, code="scanner")
    image.header.set_xyzt_units("mm", "sec")
    if repetition_time_s is not None:
        image.header.set_zooms((*image.header.get_zooms()[:3], repetition_time_s))
    write_whole(path, gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def _write_text(path: Path, text: str) -> None:
    write_whole(path, text.encode())
