"""Tell whether the EEG and the events of a run are on one clock.

Takes the stimulus markers in the EEG and the events; gives the seconds between them, or refuses the run.
"""

import logging

import numpy as np

from datasets.errors import BadInput
from datasets.recording import EegSignal, Events

logger = logging.getLogger(__name__)

SHIFT_WARNED_S, SHIFT_REFUSED_S = 0.05, 0.5
LEAST_MATCHED = 0.5
"""Share of the markers or of the events, whichever are fewer, that must have a partner."""
_BIN_S = 0.05


def check_clock(name: str, signal: EegSignal, events: Events) -> float | None:
    """Return by how many seconds the stimulus markers come after the events, if known; a shift above 50 ms is logged.

    Raises:
        BadInput: the shift is above 500 ms, or no shift brings most of them together.
    """
    shift_s = marker_shift_s(signal, events)
    if shift_s is None:
        if len(signal.marker_onsets_s):
            logger.warning("%s: the EEG has stimulus markers, but there are no events to compare them with", name)
        return None
    _check_pattern(signal, events, shift_s)
    if abs(shift_s) <= SHIFT_WARNED_S:
        return shift_s
    message = f"the EEG's stimulus markers come {shift_s:+.3f} s after the events"
    if abs(shift_s) > SHIFT_REFUSED_S:
        raise BadInput(f"{message}: EEG and BOLD are not on one clock")
    logger.warning("%s: %s", name, message)
    return shift_s


def _check_pattern(signal: EegSignal, events: Events, shift_s: float) -> None:
    """Refuse markers and events of which most have no partner at the best shift: some always have one by chance."""
    distances_s = np.abs(signal.marker_onsets_s[:, None] - events.onset_s[None, :] - shift_s)
    num_markers, num_events = distances_s.shape
    matched = min(int((distances_s.min(axis=axis) <= 1.5 * _BIN_S).sum()) for axis in (0, 1))
    if matched < LEAST_MATCHED * min(num_markers, num_events):
        raise BadInput(
            f"the EEG's {num_markers} stimulus markers and the {num_events} events agree in {matched} at the best "
            "shift: they are not of one run; give this run its own EEG and events, or exclude it"
        )


def marker_shift_s(signal: EegSignal, events: Events) -> float | None:
    """Return by how many seconds the EEG's stimulus markers come after the events; None without markers or events.

    The shift that most pairs of a marker and an event agree on (within 50 ms), and within it the median over stimuli:
    excluded trials and whole missed stimuli do not disturb it.
    """
    if not len(signal.marker_onsets_s) or not len(events):
        return None
    differences = (signal.marker_onsets_s[:, None] - events.onset_s[None, :]).ravel()
    bins = np.round(differences / _BIN_S).astype(int)
    values, counts = np.unique(bins, return_counts=True)
    neighbours = np.array([counts[np.abs(values - value) <= 1].sum() for value in values])
    best = min(values[neighbours == neighbours.max()], key=abs)
    return float(np.median(differences[np.abs(differences - best * _BIN_S) <= 1.5 * _BIN_S]))
