"""Name one run of one subject: where its files lie, and what its EEG and its events hold once read.

Takes nothing but what a data set's own module (as ``datasets.oddball``) found; gives plain frozen records.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

KINDS = ("standard", "target")


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The files of one run of one subject; ``eeg`` and ``t1`` are None where the data set has none.

    ``events`` holds one BIDS ``events.tsv``, or the legacy ``cond*.txt`` files and ``behavdata.txt``, or nothing.
    """

    subject: str
    task: str
    run: int
    bold: Path
    eeg: Path | None = None
    t1: Path | None = None
    events: tuple[Path, ...] = ()
    slice_order: Path | None = None
    repetition_time_s: float = 2.0

    def __post_init__(self) -> None:
        if not self.subject.startswith("sub-"):
            raise ValueError(f"subject must start with sub-, but got {self.subject!r}")
        if self.run < 1:
            raise ValueError(f"run must be at least 1, but got {self.run}")
        if not self.repetition_time_s > 0:
            raise ValueError(f"repetition_time_s must be above 0, but got {self.repetition_time_s}")

    @property
    def name(self) -> str:
        """The recording's BIDS-like name, as ``sub-01_task-auditory_run-1``."""
        return f"{self.subject}_task-{self.task}_run-{self.run}"


@dataclass(frozen=True, kw_only=True)
class EegSignal:
    """The EEG of one run on the scanner's clock: sample 0 is the start of volume 0.

    ``eeg_uv`` is float32 (channels, samples) in uV; ``ecg``, ``stimulus_markers`` and ``response_markers`` are float32
    (samples,).
    """

    eeg_uv: NDArray[np.float32]
    ecg: NDArray[np.float32]
    stimulus_markers: NDArray[np.float32]
    response_markers: NDArray[np.float32]
    channel_names: tuple[str, ...]
    rate_hz: float

    def __post_init__(self) -> None:
        num_channels, num_samples = self.eeg_uv.shape
        if num_channels != len(self.channel_names):
            raise ValueError(f"eeg_uv must have {len(self.channel_names)} rows, but has {num_channels}")
        lengths = {name: getattr(self, name).shape for name in ("ecg", "stimulus_markers", "response_markers")}
        if set(lengths.values()) != {(num_samples,)}:
            raise ValueError(f"ecg and markers must have {num_samples} samples as eeg_uv has, but got {lengths}")


@dataclass(frozen=True, kw_only=True)
class Events:
    """The stimuli of one run in order of time; all arrays are float64 (stimuli,), seconds from the start of the scan.

    ``kind`` says "standard" or "target"; ``response_time_s`` counts from the stimulus and is nan where none was given.
    """

    onset_s: NDArray[np.float64]
    duration_s: NDArray[np.float64]
    kind: tuple[str, ...]
    response_time_s: NDArray[np.float64]

    def __post_init__(self) -> None:
        lengths = {len(self.onset_s), len(self.duration_s), len(self.kind), len(self.response_time_s)}
        if len(lengths) != 1:
            raise ValueError(f"onsets, durations, kinds and response times must be equally many, but got {lengths}")
        if unknown := set(self.kind) - set(KINDS):
            raise ValueError(f"kind must be one of {KINDS}, but got {sorted(unknown)}")

    def __len__(self) -> int:
        return len(self.kind)

    def onsets_of(self, kind: str) -> NDArray[np.float64]:
        """Return the onsets in seconds of the stimuli of one kind."""
        return self.onset_s[np.array([one == kind for one in self.kind], dtype=bool)]
