"""What the records of one run promise to whoever reads them."""

from pathlib import Path

import numpy as np
import pytest

from datasets.recording import EegSignal, Events, Recording


def test_a_recording_is_named_by_subject_task_and_run() -> None:
    recording = Recording(subject="sub-01", task="auditory", run=1, bold=Path("bold.nii.gz"))
    assert recording.name == "sub-01_task-auditory_run-1"


@pytest.mark.parametrize("wrong", [{"subject": "01"}, {"run": 0}, {"repetition_time_s": 0.0}])
def test_a_recording_with_an_impossible_label_is_refused(wrong: dict[str, object]) -> None:
    given: dict[str, object] = {"subject": "sub-01", "task": "visual", "run": 1, "bold": Path("bold.nii.gz")} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Recording(**given)  # type: ignore[arg-type]


def test_an_eeg_signal_whose_rows_differ_in_length_is_refused() -> None:
    row = np.zeros(5, dtype=np.float32)
    with pytest.raises(ValueError, match="ecg and markers must have 5 samples"):
        EegSignal(
            eeg_uv=np.zeros((1, 5), dtype=np.float32),
            ecg=row[:4],
            stimulus_markers=row,
            response_markers=row,
            channel_names=("Cz",),
            rate_hz=1000.0,
        )


def test_events_give_the_onsets_of_one_kind() -> None:
    events = Events(
        onset_s=np.array([1.0, 2.0, 3.0]),
        duration_s=np.full(3, 0.2),
        kind=("standard", "target", "standard"),
        response_time_s=np.array([np.nan, 0.4, np.nan]),
    )
    assert events.onsets_of("standard").tolist() == [1.0, 3.0]
    assert len(events) == 3


def test_events_of_an_unknown_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="kind must be one of"):
        Events(onset_s=np.ones(1), duration_s=np.ones(1), kind=("novel",), response_time_s=np.ones(1))
