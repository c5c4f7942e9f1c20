"""Whether EEG and events are on one clock is told by the stimulus markers."""

import logging

import numpy as np
import pytest

from datasets.clock import check_clock, marker_shift_s
from datasets.errors import BadInput
from datasets.recording import EegSignal, Events

ONSETS_S = np.round(8 + np.cumsum(np.random.default_rng(3).uniform(2, 3, 15)), 3)


def signal_with_markers(onsets_s: np.ndarray) -> EegSignal:
    return EegSignal(
        eeg_uv=np.zeros((1, 60_000), dtype=np.float32),
        channel_names=("Cz",),
        locations_m=(None,),
        rate_hz=1000.0,
        marker_onsets_s=np.asarray(onsets_s, dtype=np.float64),
    )


def standards_at(onsets_s: np.ndarray) -> Events:
    return Events(
        onset_s=np.array(onsets_s, dtype=np.float64),
        duration_s=np.full(len(onsets_s), 0.2),
        kind=("standard",) * len(onsets_s),
        response_time_s=np.full(len(onsets_s), np.nan),
    )


@pytest.mark.parametrize("shift_s", [0.0, 0.012, -0.4, 6.0])
def test_the_shift_between_markers_and_events_is_found_also_where_trials_are_missing(shift_s: float) -> None:
    signal = signal_with_markers(np.delete(ONSETS_S, 5) + shift_s)
    shift = marker_shift_s(signal, standards_at(np.delete(ONSETS_S, [2, 9])))
    assert shift == pytest.approx(shift_s, abs=0.001)


def test_there_is_no_shift_without_markers_or_events() -> None:
    for markers_s, onsets_s in (([], [5.0]), ([5.0], []), ([], [])):
        signal, events = signal_with_markers(np.array(markers_s)), standards_at(np.array(onsets_s))
        assert marker_shift_s(signal, events) is None
        assert check_clock("sub-01", signal, events) is None


@pytest.mark.parametrize(("shift_s", "warned"), [(0.0, False), (0.049, False), (-0.06, True), (0.49, True)])
def test_a_shift_above_50_ms_is_logged_with_the_run_and_its_size(
    shift_s: float, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = check_clock("sub-01_run-1", signal_with_markers(ONSETS_S + shift_s), standards_at(ONSETS_S))
    assert found == pytest.approx(shift_s, abs=1e-6)
    assert (f"sub-01_run-1: the EEG's stimulus markers come {shift_s:+.3f} s after the events" in caplog.text) == warned


@pytest.mark.parametrize("shift_s", [0.51, -0.6, 6.0])
def test_a_shift_above_500_ms_is_refused(shift_s: float) -> None:
    with pytest.raises(
        BadInput, match=rf"come {shift_s:+.3f} s after the events: EEG and BOLD are not".replace("+", r"\+")
    ):
        check_clock("sub-01_run-1", signal_with_markers(ONSETS_S + shift_s), standards_at(ONSETS_S))


@pytest.mark.parametrize("seed", [11, 12, 13, 14])
def test_markers_of_another_run_are_refused_whatever_the_shift_that_fits_some(seed: int) -> None:
    others_s = 8 + np.cumsum(np.random.default_rng(seed).uniform(2, 3, 15))
    with pytest.raises(BadInput, match="they are not of one run"):
        check_clock("sub-01_run-1", signal_with_markers(others_s), standards_at(ONSETS_S))


def test_a_few_usable_events_among_many_markers_are_enough() -> None:
    assert check_clock("sub-10_run-3", signal_with_markers(ONSETS_S), standards_at(ONSETS_S[[2, 7, 11]])) == 0.0
