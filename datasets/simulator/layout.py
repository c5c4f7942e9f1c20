"""What a simulator hands to whoever writes its files: one subject's anatomy, one run's signals, and the writer's door.

Takes nothing; gives plain frozen records and the Protocol that every layout (``legacy``, ``bids``) fulfils.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from datasets.recording import Events

EOG_NAMES = ("HEOG", "VEOG")
ECG_NAME = "ECG"


@dataclass(frozen=True, kw_only=True, eq=False)
class SimulatedSubject:
    """One subject's anatomy: its number from 1; ``t1`` int16 (x, y, z) with skull; ``t1_affine`` to scanner mm."""

    number: int
    t1: NDArray[np.int16]
    t1_affine: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class SimulatedRun:
    """The signals of one run on the scanner's clock: EEG sample 0 is the start of volume 0.

    Attributes:
        subject, task, run: numbers from 1; ``task`` is the position in ``datasets.oddball.TASKS``, as ``task_name``.
        eeg_uv: float32 (34, samples) in uV, the channels of ``datasets.oddball.CHANNELS``, reference average mastoids.
        ecg: float32 (samples,) in uV.
        eog: float32 (2, samples) in uV, the leads of EOG_NAMES.
        bipolar_uv: float32 (43, samples) in uV, the bipolar rows of EEG_noGA; None where nobody asked for them.
        events: the stimuli; ``marker_samples`` int64 (stimuli,) is the EEG sample of each.
        bold: int16 (x, y, z, volumes); ``epi_affine`` is 4 x 4, voxels to scanner mm.
        slice_times_s: float64 (z,), when each slice of a volume is taken, from the volume's start.
    """

    subject: int
    task: int
    run: int
    task_name: str
    eeg_uv: NDArray[np.float32]
    ecg: NDArray[np.float32]
    eog: NDArray[np.float32]
    bipolar_uv: NDArray[np.float32] | None = None
    events: Events
    marker_samples: NDArray[np.int64]
    bold: NDArray[np.int16]
    epi_affine: NDArray[np.float64]
    slice_times_s: NDArray[np.float64]
    repetition_time_s: float
    rate_hz: float


class StudyLayout(Protocol):
    """Writes a study's files, each whole (``datasets.storage.write_whole``) and of the same bytes every time.

    ``settings`` are the simulation's, as plain values, to be named in a README.  The last file of a run and of a
    subject that is written is the one that ``is_run_whole`` and ``is_subject_whole`` look for.
    """

    def write_study(self, study: Path, settings: Mapping[str, Any]) -> None:
        """Write what belongs to no subject (README, slice order, descriptions)."""

    def write_subject(self, study: Path, subject: SimulatedSubject) -> None:
        """Write one subject's anatomy."""

    def write_run(self, study: Path, run: SimulatedRun) -> None:
        """Write one run's EEG, events and BOLD."""

    def is_subject_whole(self, study: Path, subject: int) -> bool:
        """Tell whether a subject's anatomy is there."""

    def is_run_whole(self, study: Path, subject: int, task: int, run: int) -> bool:
        """Tell whether everything of a run is there."""
