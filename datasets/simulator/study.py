"""Write a simulated study, and the truth beside it.

Takes settings and two folders; gives files in the layout that the settings name.  Every draw depends on the seed, the
subject, the run and what is drawn alone, so neither the number of workers nor an interruption changes a byte.
"""

import json
import logging
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.errors import BadInput
from datasets.oddball import RATE_HZ, TASKS
from datasets.simulator.anatomy import Head, draw_head
from datasets.simulator.bids import BidsLayout
from datasets.simulator.bold import REPETITION_TIME_S, simulate_bold, slice_times_s
from datasets.simulator.eeg import SimulatedEeg, bipolar_rows, marker_samples, simulate_eeg
from datasets.simulator.layout import SimulatedRun, SimulatedSubject, StudyLayout
from datasets.simulator.legacy import LegacyLayout
from datasets.simulator.levels import LEVELS, SignalLevel
from datasets.simulator.runs import DrawnRun, draw_run
from datasets.simulator.sources import SubjectTraits, draw_traits
from datasets.simulator.truth import run_name, write_run_truth, write_subject_truth
from datasets.storage import write_whole

VERSION = 2
"""Raised whenever the same settings would give other bytes."""
MOST_SUBJECTS = 999
FEWEST_VOLUMES = 10
DONE_NAME = "simulation.json"
STARTED_NAME = "settings.json"
STREAMS = (
    "traits", "head", "activity", "eeg", "bold", "unrelated activity", "physiology", "motion", "unrelated physiology",
    "unrelated motion",
)  # fmt: skip
"""What is drawn apart; the position is part of the seed, so append only."""
LAYOUTS: dict[str, StudyLayout] = {"legacy": LegacyLayout(), "bids": BidsLayout()}
"""Who writes a study's files, by the name that ``--layout`` takes."""
EEG_FILES = ("rereferenced", "all")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SimulationSettings:
    """What a simulated study consists of; ``runs`` is a subject's total over both tasks."""

    subjects: int = 17
    runs: int = 6
    volumes: int = 170
    signal: str = "easy"
    seed: int = 0
    layout: str = "legacy"
    eeg_files: str = "rereferenced"
    version: int = VERSION

    def __post_init__(self) -> None:
        if not 1 <= self.subjects <= MOST_SUBJECTS:
            raise BadInput(f"--subjects must be between 1 and {MOST_SUBJECTS}, but got {self.subjects}")
        if self.runs < 1:
            raise BadInput(f"--runs must be at least 1, but got {self.runs}")
        if self.volumes < FEWEST_VOLUMES:
            raise BadInput(f"--volumes must be at least {FEWEST_VOLUMES} to hold some stimuli, but got {self.volumes}")
        choices = (("signal", LEVELS), ("layout", LAYOUTS), ("eeg_files", EEG_FILES))
        for name, known in choices:
            if getattr(self, name) not in known:
                option = name.replace("_", "-")
                raise BadInput(f"--{option} must be one of {', '.join(known)}, but got {getattr(self, name)}")
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
    LAYOUTS[settings.layout].write_study(study, asdict(settings))
    subjects = range(1, settings.subjects + 1)
    jobs = [(simulate_subject, study, settings, subject) for subject in subjects]
    for count, subject in enumerate(in_processes(jobs, workers), start=1):
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


def in_processes(jobs: list[tuple[Any, ...]], workers: int) -> Iterator[Any]:
    """Call each job, (function, arguments...), in one of some processes, and yield what it returns once it is done."""
    if workers == 1 or len(jobs) == 1:
        for function, *arguments in jobs:
            yield function(*arguments)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context)
    try:
        for job in as_completed([pool.submit(*job) for job in jobs]):
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
    layout = LAYOUTS[settings.layout]
    missing = [pair for pair in runs_of(settings.runs) if not layout.is_run_whole(study, subject, *pair)]
    if not missing and layout.is_subject_whole(study, subject):
        return subject
    traits = draw_traits(settings.level, random_stream(settings, subject, 0, 0, "traits"))
    head = draw_head(settings.level.nuisance, random_stream(settings, subject, 0, 0, "head"))
    truth = subject_truth_folder(study, subject)
    write_subject_truth(truth, traits, head.space)
    t1 = np.rint(head.t1).astype(np.int16)
    layout.write_subject(study, SimulatedSubject(number=subject, t1=t1, t1_affine=head.t1_affine))
    for task, run in missing:
        drawn, eeg = simulate_signals(settings, subject, task, run, traits, RATE_HZ)
        write_run_truth(truth, run_name(task, run), drawn, settings.volumes)
        stream = random_stream(settings, subject, task, run, "bold")
        layout.write_run(study, _measured(settings, subject, task, run, drawn, eeg, head, stream))
    return subject


def subject_truth_folder(study: Path, subject: int) -> Path:
    """Return where the truth of one subject lies."""
    return truth_folder(study) / f"sub{subject:03d}"


def simulate_signals(
    settings: SimulationSettings, subject: int, task: int, run: int, traits: SubjectTraits, rate_hz: float
) -> tuple[DrawnRun, SimulatedEeg]:
    """Draw what happens in one run, and measure its EEG."""

    def stream(of: str) -> np.random.Generator:
        return random_stream(settings, subject, task, run, of)

    drawn = draw_run(settings.level, traits, TASKS[task], settings.duration_s, stream)
    num_samples = round(settings.duration_s * rate_hz)
    eeg = simulate_eeg(
        drawn.activity,
        traits,
        settings.level,
        drawn.body,
        drawn.motion,
        num_samples,
        stream("eeg"),
        rate_hz=rate_hz,
    )
    return drawn, eeg


def _measured(
    settings: SimulationSettings,
    subject: int,
    task: int,
    run: int,
    drawn: DrawnRun,
    eeg: SimulatedEeg,
    head: Head,
    stream: np.random.Generator,
) -> SimulatedRun:
    """Measure the BOLD of one run, and return all that there is to write of it."""
    events = drawn.activity.events
    bold = simulate_bold(
        drawn.neural, head, drawn.blood_motion, drawn.blood_body, settings.level, settings.volumes, stream
    )
    return SimulatedRun(
        subject=subject,
        task=task,
        run=run,
        task_name=TASKS[task],
        eeg_uv=eeg.eeg,
        ecg=eeg.ecg,
        eog=eeg.eog,
        bipolar_uv=bipolar_rows(eeg.eeg) if settings.eeg_files == "all" else None,
        events=events,
        marker_samples=np.array(marker_samples(events), dtype=np.int64),
        bold=bold,
        epi_affine=head.epi_affine,
        slice_times_s=slice_times_s(),
        repetition_time_s=REPETITION_TIME_S,
        rate_hz=RATE_HZ,
    )


def _write_json(path: Path, record: dict[str, Any]) -> None:
    write_whole(path, (json.dumps(record, indent=2) + "\n").encode())
