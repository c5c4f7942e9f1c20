"""Name one run of one subject: where its files lie, and what its EEG and its events hold once read.

Takes nothing but what a data set's own module (as ``datasets.oddball``) found; gives plain frozen records.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SCANNER = "scanner"
"""The space of images that no pipeline has moved: the scanner's own millimetres."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The files of one run of one subject; ``eeg`` and ``t1`` are None where the data set has none.

    Attributes:
        data_set: the name in ``datasets.data_sets.DATA_SETS`` of what found the recording and reads its files.
        bold: one 4-D image, or the 3-D images of all volumes in order.
        eeg, eeg_extra: the EEG's main file, and others of the same run that may hold what it lacks (ECG, EOG).
        events: one BIDS ``events.tsv``, or the legacy ``cond*.txt`` files and ``behavdata.txt``, or nothing.
        slice_order: a text file or a JSON sidecar that tells when each slice is taken.
        repetition_time_s: seconds from one volume to the next.
        space: SCANNER, or the template (as BIDS names it) in whose space another pipeline has already put the BOLD.
        brain_mask, confounds: that pipeline's own mask and table of confounds, where it left them.
        fault: why it cannot be used, where that shows without reading it.
        fault_may_pass: whether that may be otherwise when the same command runs again.
    """

    subject: str
    task: str
    run: int
    bold: tuple[Path, ...]
    data_set: str = "ds000116"
    eeg: Path | None = None
    eeg_extra: tuple[Path, ...] = ()
    t1: Path | None = None
    events: tuple[Path, ...] = ()
    slice_order: Path | None = None
    repetition_time_s: float = 2.0
    space: str = SCANNER
    brain_mask: Path | None = None
    confounds: Path | None = None
    fault: str = ""
    fault_may_pass: bool = False

    def __post_init__(self) -> None:
        if not self.subject.startswith("sub-"):
            raise ValueError(f"subject must start with sub-, but got {self.subject!r}")
        if self.run < 0:
            raise ValueError(f"run must be at least 0, but got {self.run}")
        if not self.repetition_time_s > 0:
            raise ValueError(f"repetition_time_s must be above 0, but got {self.repetition_time_s}")
        if not self.bold:
            raise ValueError("a recording must have BOLD")

    @property
    def name(self) -> str:
        """The recording's BIDS-like name, as ``sub-01_task-auditory_run-1``."""
        return f"{self.subject}_task-{self.task}_run-{self.run}"

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that preparation may read."""
        single = (self.eeg, self.t1, self.slice_order, self.brain_mask, self.confounds)
        return (*self.bold, *self.eeg_extra, *self.events, *(path for path in single if path is not None))


@dataclass(frozen=True, kw_only=True, eq=False)
class EegSignal:
    """The EEG of one run on the scanner's clock: sample 0 is the start of volume 0.

    Attributes:
        eeg_uv: float32 (channels, samples) in uV.
        channel_names: one name per channel.
        locations_m: where each electrode lies in mne's head space, (x, y, z) in m; None where that is not known.
        rate_hz: samples per second.
        ecg: float32 (samples,), None where no ECG was recorded.
        eog: float32 (leads, samples), no rows where none was recorded.
        marker_onsets_s: seconds of the stimulus markers, (markers,); empty where the EEG holds none.
        listed_bad: channels that the data set itself calls bad.
    """

    eeg_uv: NDArray[np.float32]
    channel_names: tuple[str, ...]
    locations_m: tuple[tuple[float, float, float] | None, ...]
    rate_hz: float
    ecg: NDArray[np.float32] | None = None
    eog: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))
    marker_onsets_s: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    listed_bad: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        num_channels, num_samples = self.eeg_uv.shape
        if {len(self.channel_names), len(self.locations_m)} != {num_channels}:
            raise ValueError(f"channel names and locations must be as many as eeg_uv has rows, {num_channels}")
        beside = [] if self.ecg is None else [self.ecg.shape]
        beside += [row.shape for row in self.eog]
        if set(beside) - {(num_samples,)}:
            raise ValueError(f"ecg and eog must have {num_samples} samples as eeg_uv has, but got {beside}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Events:
    """The stimuli of one run in order of time; all arrays are float64 (stimuli,), seconds from the start of the scan.

    ``kind`` is each stimulus's name, as "standard" or "target"; ``response_time_s`` counts from the stimulus and is nan
    where none was given.
    """

    onset_s: NDArray[np.float64]
    duration_s: NDArray[np.float64]
    kind: tuple[str, ...]
    response_time_s: NDArray[np.float64]

    def __post_init__(self) -> None:
        lengths = {len(self.onset_s), len(self.duration_s), len(self.kind), len(self.response_time_s)}
        if len(lengths) != 1:
            raise ValueError(f"onsets, durations, kinds and response times must be equally many, but got {lengths}")

    def __len__(self) -> int:
        return len(self.kind)

    def onsets_of(self, kind: str) -> NDArray[np.float64]:
        """Return the onsets in seconds of the stimuli of one kind."""
        return self.onset_s[np.array([one == kind for one in self.kind], dtype=bool)]
