"""The data sets that can be prepared, each behind the same four functions.

Takes a name; gives the functions that find a data set's recordings and read what they hold.  How to add one is told in
docs/add-a-data-set.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets import bids, oddball
from datasets.errors import BadInput
from datasets.recording import EegSignal, Events, Recording


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What preparation asks of a data set; every function raises BadInput where it cannot answer.

    Attributes:
        find_recordings: from the folder of the images and, where it lies elsewhere, that of the EEG, to all runs.
        read_eeg: from a recording and the kind of file wanted to its EEG on the scanner's clock.
        read_events: from a recording to its stimuli.
        read_slice_times: from a recording and its number of slices to when each is taken, in seconds from the volume's
            start, (slices,); None where nobody says.
    """

    find_recordings: Callable[[Path, Path | None], list[Recording]]
    read_eeg: Callable[[Recording, str], EegSignal]
    read_events: Callable[[Recording], Events]
    read_slice_times: Callable[[Recording, int], NDArray[np.float64] | None]


DATA_SETS: dict[str, DataSet] = {
    "ds000116": DataSet(
        find_recordings=oddball.find_recordings,
        read_eeg=oddball.read_eeg,
        read_events=oddball.read_events,
        read_slice_times=oddball.read_slice_times,
    ),
    "bids": DataSet(
        find_recordings=bids.find_recordings,
        read_eeg=bids.read_eeg,
        read_events=bids.read_events,
        read_slice_times=bids.read_slice_times,
    ),
}


def find_recordings(data_set: str, bold_root: Path, eeg_root: Path | None) -> list[Recording]:
    """Return all recordings of a data set; ``auto`` takes the one of DATA_SETS in which most runs have EEG.

    Raises:
        BadInput: none finds any; the message is that of each.
    """
    if data_set != "auto":
        return DATA_SETS[data_set].find_recordings(bold_root, eeg_root)
    found, refusals = [], []
    for name, candidate in DATA_SETS.items():
        try:
            found.append(candidate.find_recordings(bold_root, eeg_root))
        except BadInput as refusal:
            refusals.append(f"as {name}: {refusal}")
    if not found:
        raise BadInput("; ".join(refusals))
    return max(found, key=_num_with_eeg)


def _num_with_eeg(recordings: list[Recording]) -> int:
    return sum(recording.eeg is not None for recording in recordings)
