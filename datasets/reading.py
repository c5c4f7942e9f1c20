"""One recording's files to a run that can be prepared: its EEG cleaned, everything known but its volumes.

Takes a recording and settings; gives a Run, or BadInput with the reason why the recording cannot be used.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import nibabel
import numpy as np
from numpy.typing import NDArray

from datasets.clock import check_clock
from datasets.confounds import physiology_confounds
from datasets.data_sets import DATA_SETS
from datasets.eeg import CleanEeg, EegSettings, clean_eeg, fit_length, stored_rate_hz
from datasets.errors import BadInput, PassingFault
from datasets.grid import mask_points_mm, tissue_mask
from datasets.images import check_whole, read_bold
from datasets.recording import SCANNER, EegSignal, Events, Recording

logger = logging.getLogger(__name__)

REPETITION_TOLERANCE_S = 0.001
WHOLE_WITHIN = 1e-6
SECONDS_IN = {"sec": 1.0, "msec": 0.001}


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One readable recording.

    Attributes:
        recording: where its files lie.
        clean: its EEG, filtered and repaired but not normalised, as long as ``num_volumes`` volumes.
        channel_names, locations_m: the channels of that EEG.
        num_volumes: how many volumes have EEG.
        events: its stimuli.
        physiology: confounds that are known from the EEG's file, each (num_volumes,).
        marker_shift_s: by how much the EEG's markers come after the events; None where either is missing.
    """

    recording: Recording
    clean: CleanEeg
    channel_names: tuple[str, ...]
    locations_m: tuple[tuple[float, float, float] | None, ...]
    num_volumes: int
    events: Events
    physiology: Mapping[str, NDArray[np.float64]]
    marker_shift_s: float | None

    @property
    def samples_per_volume(self) -> int:
        """Samples of the cleaned EEG in one repetition time."""
        return round(self.clean.rate_hz * self.recording.repetition_time_s)


def read_run(recording: Recording, settings: EegSettings) -> Run:
    """Read and check a recording, and clean its EEG.

    Raises:
        BadInput: a file cannot be read, or the recording's parts do not belong together.
    """
    if recording.fault:
        raise (PassingFault if recording.fault_may_pass else BadInput)(recording.fault)
    if recording.eeg is None:
        raise BadInput("it has no EEG; give the folder that holds the EEG with --eeg-root")
    data_set = DATA_SETS[recording.data_set]
    check_whole(recording.bold, "BOLD")
    num_volumes = checked_bold(recording).shape[3]
    signal = data_set.read_eeg(recording, settings.eeg_file)
    events = data_set.read_events(recording)
    shift_s = check_clock(recording.name, signal, events)
    _warn_of_events_outside(events, num_volumes * recording.repetition_time_s)
    _check_rate(stored_rate_hz(signal.rate_hz, settings), recording.repetition_time_s)
    signal, num_volumes = fit_length(signal, num_volumes, repetition_time_s=recording.repetition_time_s)
    clean = clean_eeg(signal, settings)
    return Run(
        recording=recording,
        clean=clean,
        channel_names=signal.channel_names,
        locations_m=signal.locations_m,
        num_volumes=num_volumes,
        events=events,
        physiology=_physiology(signal, clean, recording, num_volumes),
        marker_shift_s=shift_s,
    )


def checked_bold(recording: Recording) -> nibabel.Nifti1Image:
    """Return a recording's BOLD, its values in memory as float32, its repetition time compared with the data set's."""
    image = read_bold(recording.bold, around_mm=points_read(recording))
    _check_repetition_time(image, recording)
    return image


def points_read(recording: Recording) -> NDArray[np.float64] | None:
    """Return the points (n, 3) in mm that images in a template's space are read around; None in the scanner's."""
    return None if recording.space == SCANNER else mask_points_mm(tissue_mask())


def read_slice_times(recording: Recording, num_slices: int) -> NDArray[np.float64] | None:
    """Return when each slice of a recording is taken, in seconds from the volume's start, where its data set says."""
    return DATA_SETS[recording.data_set].read_slice_times(recording, num_slices)


def _physiology(
    signal: EegSignal, clean: CleanEeg, recording: Recording, num_volumes: int
) -> dict[str, NDArray[np.float64]]:
    samples_per_volume = signal.rate_hz * recording.repetition_time_s
    return physiology_confounds(signal, clean.beats_s, samples_per_volume, num_volumes)


def _warn_of_events_outside(events: Events, scan_s: float) -> None:
    outside_s = events.onset_s[(events.onset_s < 0) | (events.onset_s >= scan_s)]
    if len(outside_s):
        logger.warning(
            "%d of %d events lie outside the scan of %g s, as at %g s; onsets must be seconds from its start",
            len(outside_s),
            len(events),
            scan_s,
            outside_s[0],
        )


def _check_rate(rate_hz: float, repetition_time_s: float) -> None:
    """Refuse a rate at which a volume does not last a whole number of samples: rows of a shard are volumes."""
    samples = rate_hz * repetition_time_s
    if abs(samples - round(samples)) > WHOLE_WITHIN:
        raise BadInput(
            f"a volume of {repetition_time_s:g} s must last a whole number of EEG samples, but lasts {samples:g} at "
            f"{rate_hz:g} Hz; give an --eeg-rate that fits"
        )


def _check_repetition_time(image: nibabel.Nifti1Image, recording: Recording) -> None:
    """Compare the header's repetition time with that of the data set, where the header names the time's unit.

    Without a unit the number is most often nobody's: NIfTI's own default is 1.
    """
    stated, unit = float(image.header.get_zooms()[3]), image.header.get_xyzt_units()[1]
    seconds = stated * SECONDS_IN.get(unit, 0.0)
    if seconds > 0 and abs(seconds - recording.repetition_time_s) > REPETITION_TOLERANCE_S:
        raise BadInput(
            f"its header states a repetition time of {seconds:g} s, the data set's is {recording.repetition_time_s:g} s"
        )
