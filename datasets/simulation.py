"""Write a simulated study in ds000116's legacy layout, and the truth beside it.

Takes settings and two folders; gives files.  Every draw depends on the seed, the subject, the run and what is drawn
alone, so neither the number of workers nor an interruption changes a byte.
"""

import gzip
import io
import json
import logging
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

from datasets.errors import BadInput
from datasets.oddball import RATE_HZ, TASKS
from datasets.recording import Events
from datasets.simulated_anatomy import EPI_SHAPE, Head, draw_head
from datasets.simulated_bold import REPETITION_TIME_S, NeuralBold, neural_bold, simulate_bold
from datasets.simulated_eeg import simulate_eeg
from datasets.simulated_sources import (
    LEVELS,
    SOURCES,
    Activity,
    Floats,
    SignalLevel,
    SubjectTraits,
    draw_activity,
    draw_traits,
)
from datasets.storage import write_whole

VERSION = 1
"""Raised whenever the same settings would give other bytes."""
MOST_SUBJECTS = 999
FEWEST_VOLUMES = 10
DONE_NAME = "simulation.json"
STARTED_NAME = "settings.json"
STREAMS = ("traits", "head", "activity", "eeg", "bold", "unrelated activity")
"""What is drawn apart; the position is part of the seed, so append only."""
_README = """\
SIMULATED recordings: no person was measured.

Written by python -m datasets.simulate in the layout of ds000116 (OpenfMRI R1.0.0), so that the platform can be tried on
data whose truth is known. Settings: {settings}
"""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SimulationSettings:
    """What a simulated study consists of; ``runs`` is a subject's total over both tasks."""

    subjects: int = 17
    runs: int = 6
    volumes: int = 170
    signal: str = "easy"
    seed: int = 0
    version: int = VERSION

    def __post_init__(self) -> None:
        if not 1 <= self.subjects <= MOST_SUBJECTS:
            raise BadInput(f"--subjects must be between 1 and {MOST_SUBJECTS}, but got {self.subjects}")
        if self.runs < 1:
            raise BadInput(f"--runs must be at least 1, but got {self.runs}")
        if self.volumes < FEWEST_VOLUMES:
            raise BadInput(f"--volumes must be at least {FEWEST_VOLUMES} to hold some stimuli, but got {self.volumes}")
        if self.signal not in LEVELS:
            raise BadInput(f"--signal must be one of {', '.join(LEVELS)}, but got {self.signal}")
        if self.seed < 0:
            raise BadInput(f"--seed must be at least 0, but got {self.seed}")

    @property
    def level(self) -> SignalLevel:
        """The strength of the link that ``signal`` names."""
        return LEVELS[self.signal]

    @property
    def duration_s(self) -> float:
        """The length of a run in seconds."""
        return self.volumes * REPETITION_TIME_S


def truth_folder(study: Path) -> Path:
    """Return where a study's truth lies: beside it, where preparation never looks."""
    return study.with_name(f"{study.name}-truth")


def simulate_study(study: Path, settings: SimulationSettings, workers: int) -> None:
    """Write a whole study and its truth; go on where an interrupted one stopped; leave a complete one alone.

    Raises:
        BadInput: the folder holds a study with other settings, or something else.
    """
    truth = truth_folder(study)
    _refuse_other_contents(study, truth, settings)
    if (study / DONE_NAME).is_file():
        logger.info("%s already holds this study", study)
        return
    _write_json(truth / STARTED_NAME, asdict(settings))
    _write_text(study / "README", _README.format(settings=json.dumps(asdict(settings))))
    _write_text(study / "slice_order.txt", "".join(f"{number}\n" for number in range(1, EPI_SHAPE[2] + 1)))
    subjects = range(1, settings.subjects + 1)
    for count, subject in enumerate(_simulated(study, settings, subjects, workers), start=1):
        logger.info("simulated sub-%02d (%d of %d)", subject, count, settings.subjects)
    _write_json(study / DONE_NAME, asdict(settings))


def _refuse_other_contents(study: Path, truth: Path, settings: SimulationSettings) -> None:
    for record in (study / DONE_NAME, truth / STARTED_NAME):
        if record.is_file():
            _refuse_other_settings(record, asdict(settings))
            return
    if study.exists() and (not study.is_dir() or any(study.iterdir())):
        raise BadInput(f"{study} must be a new or empty folder, but holds something else; choose another one")


def _refuse_other_settings(record: Path, settings: dict[str, Any]) -> None:
    try:
        found = json.loads(record.read_text())
    except ValueError as error:
        raise BadInput(f"{record} is damaged ({error}); delete that study or choose another folder") from error
    differences = [
        f"{name} is {found.get(name)} there, not {value}"
        for name, value in settings.items()
        if found.get(name) != value
    ]
    if differences:
        raise BadInput(
            f"{record} belongs to a study with other settings: {'; '.join(differences)}; "
            "choose another folder or delete that study"
        )


def _simulated(study: Path, settings: SimulationSettings, subjects: range, workers: int) -> Iterator[int]:
    """Simulate the subjects, each in one process, and yield them as they are done."""
    if workers == 1 or len(subjects) == 1:
        for subject in subjects:
            yield simulate_subject(study, settings, subject)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(subjects)), mp_context=context)
    try:
        jobs = [pool.submit(simulate_subject, study, settings, subject) for subject in subjects]
        for job in as_completed(jobs):
            yield job.result()
    except BrokenProcessPool as error:
        raise BadInput(
            f"a worker was killed, probably for want of memory; use fewer than {workers} --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def runs_of(num_runs: int) -> list[tuple[int, int]]:
    """Return a subject's runs as (task, run), both from 1: half auditory, half visual, an odd one auditory."""
    auditory = (num_runs + 1) // 2
    return [(1, run) for run in range(1, auditory + 1)] + [(2, run) for run in range(1, num_runs - auditory + 1)]


def random_stream(settings: SimulationSettings, subject: int, task: int, run: int, stream: str) -> np.random.Generator:
    """Return the generator of one thing to draw; traits and head belong to no run (task and run 0)."""
    key = (subject, task, run, STREAMS.index(stream))
    return np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=key))


def simulate_subject(study: Path, settings: SimulationSettings, subject: int) -> int:
    """Write one subject's anatomy and those runs that are not yet whole; return the subject."""
    folder = study / f"sub{subject:03d}"
    traits = draw_traits(settings.level, random_stream(settings, subject, 0, 0, "traits"))
    missing = [pair for pair in runs_of(settings.runs) if not _bold_path(folder, *pair).is_file()]
    anatomy = folder / "anatomy" / "highresSPGR001.nii.gz"
    if not missing and anatomy.is_file():
        return subject
    head = draw_head(random_stream(settings, subject, 0, 0, "head"))
    _write_subject_truth(truth_folder(study) / folder.name / "subject.npz", head, traits)
    _write_image(anatomy, np.rint(head.t1).astype(np.int16), head.t1_affine)
    for task, run in missing:
        _simulate_run(study, settings, subject, task, run, head, traits)
    return subject


def _simulate_run(
    study: Path, settings: SimulationSettings, subject: int, task: int, run: int, head: Head, traits: SubjectTraits
) -> None:
    """Write one run; its BOLD comes last, so that a run with BOLD is whole."""
    level, folder, name = settings.level, study / f"sub{subject:03d}", _run_name(task, run)

    def stream(of: str) -> np.random.Generator:
        return random_stream(settings, subject, task, run, of)

    activity = draw_activity(TASKS[task], settings.duration_s, stream("activity"))
    behind_bold = (
        activity if level.is_coupled else draw_activity(TASKS[task], settings.duration_s, stream("unrelated activity"))
    )
    neural = neural_bold(behind_bold, traits, level)
    num_samples = round(settings.duration_s * RATE_HZ)
    eeg = simulate_eeg(activity, TASKS[task], traits, level, num_samples, stream("eeg"))
    _write_matrix(folder / "EEG" / name / "EEG_rereferenced.mat", eeg)
    _write_events(folder, name, activity.events)
    _write_run_truth(truth_folder(study) / folder.name / f"{name}.npz", activity, neural)
    bold = simulate_bold(neural, head, traits.gain, level, settings.volumes, stream("bold"))
    _write_image(_bold_path(folder, task, run), bold, head.epi_affine)


def _run_name(task: int, run: int) -> str:
    return f"task{task:03d}_run{run:03d}"


def _bold_path(folder: Path, task: int, run: int) -> Path:
    return folder / "BOLD" / _run_name(task, run) / "bold.nii.gz"


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


def _write_subject_truth(path: Path, head: Head, traits: SubjectTraits) -> None:
    positions_mm = np.array([source.position_mm for source in SOURCES])
    names = np.array([source.name for source in SOURCES])
    _write_arrays(
        path, asdict(traits) | {"scanner_from_mni": head.scanner_from_mni, "position_mm": positions_mm, "name": names}
    )


def _write_run_truth(path: Path, activity: Activity, neural: NeuralBold) -> None:
    """Write the courses behind EEG and BOLD; with the control ``none`` the two are unrelated."""
    in_scan = activity.time_s >= 0
    behind_eeg: dict[str, Floats] = {
        "eeg_amplitude": activity.amplitude[:, in_scan],
        "eeg_burst": activity.burst[:, in_scan],
        "eeg_evoked": activity.evoked[:, in_scan],
    }
    _write_arrays(
        path, behind_eeg | {"time_s": neural.time_s, "bold_visible": neural.visible, "bold_hidden": neural.hidden}
    )


def _write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_whole(path, buffer.getbuffer())


def _write_matrix(path: Path, rows: NDArray[np.float32]) -> None:
    """Write a MATLAB 5 file whose header, unlike scipy's, names no date."""
    buffer = io.BytesIO()
    savemat(buffer, {"data_reref": rows})
    buffer.getbuffer()[:116] = b"MATLAB 5.0 MAT-file, simulated".ljust(116)
    write_whole(path, buffer.getbuffer())


def _write_image(path: Path, volumes: NDArray[np.int16], affine: Floats) -> None:
    """Write a NIfTI whose qform and sform are the scanner's, compressed without a date."""
    image = nib.Nifti1Image(volumes, affine)
    image.set_qform(affine, code="scanner")
    image.set_sform(affine, code="scanner")
    image.header.set_xyzt_units("mm", "sec")
    if volumes.ndim == 4:
        image.header.set_zooms((*image.header.get_zooms()[:3], REPETITION_TIME_S))
    write_whole(path, gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def _write_json(path: Path, record: dict[str, Any]) -> None:
    _write_text(path, json.dumps(record, indent=2) + "\n")


def _write_text(path: Path, text: str) -> None:
    write_whole(path, text.encode())
