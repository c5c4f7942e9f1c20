"""What the records of one run promise to whoever reads them."""

from pathlib import Path

import numpy as np
import pytest

from datasets.recording import EegSignal, Events, Recording

BOLD = (Path("bold.nii.gz"),)


def test_a_recording_is_named_by_subject_task_and_run() -> None:
    recording = Recording(subject="sub-01", task="auditory", run=1, bold=BOLD)
    assert recording.name == "sub-01_task-auditory_run-1"


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"subject": "01"}, "subject must start with sub-"),
        ({"run": -1}, "run must be at least 0"),
        ({"repetition_time_s": 0.0}, "repetition_time_s must be above 0"),
        ({"repetition_time_s": float("nan")}, "repetition_time_s must be above 0"),
        ({"bold": ()}, "must have BOLD"),
    ],
)
def test_a_recording_with_an_impossible_label_is_refused(wrong: dict[str, object], complaint: str) -> None:
    given: dict[str, object] = {"subject": "sub-01", "task": "visual", "run": 1, "bold": BOLD} | wrong
    with pytest.raises(ValueError, match=complaint):
        Recording(**given)  # type: ignore[arg-type]


def test_a_recording_names_every_file_that_preparation_may_read() -> None:
    names = ("bold", "eeg", "extra", "events", "t1", "order", "mask", "confounds")
    paths = {name: Path(name) for name in names}
    recording = Recording(
        subject="sub-01",
        task="visual",
        run=1,
        bold=(paths["bold"],),
        eeg=paths["eeg"],
        eeg_extra=(paths["extra"],),
        events=(paths["events"],),
        t1=paths["t1"],
        slice_order=paths["order"],
        brain_mask=paths["mask"],
        confounds=paths["confounds"],
    )
    assert set(recording.files) == set(paths.values())
    assert Recording(subject="sub-01", task="visual", run=1, bold=BOLD).files == BOLD


ROW = np.zeros(5, dtype=np.float32)


@pytest.mark.parametrize("beside", [{"ecg": ROW[:4]}, {"eog": ROW[np.newaxis, :4]}])
def test_an_eeg_signal_whose_rows_differ_in_length_is_refused(beside: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="ecg and eog must have 5 samples"):
        EegSignal(eeg_uv=ROW[np.newaxis], channel_names=("Cz",), locations_m=((0, 0, 0.1),), rate_hz=1000.0, **beside)


@pytest.mark.parametrize(
    "labels", [{"channel_names": ("Cz", "Pz"), "locations_m": (None,)}, {"channel_names": ("Cz",), "locations_m": ()}]
)
def test_an_eeg_signal_with_other_names_or_locations_than_rows_is_refused(labels: dict[str, tuple]) -> None:
    with pytest.raises(ValueError, match="must be as many as eeg_uv has rows, 1"):
        EegSignal(eeg_uv=ROW[np.newaxis], rate_hz=1000.0, **labels)


def test_events_give_the_onsets_of_one_kind() -> None:
    events = Events(
        onset_s=np.array([1.0, 2.0, 3.0]),
        duration_s=np.full(3, 0.2),
        kind=("standard", "target", "standard"),
        response_time_s=np.array([np.nan, 0.4, np.nan]),
    )
    assert events.onsets_of("standard").tolist() == [1.0, 3.0]
    assert events.onsets_of("novel").tolist() == []
    assert len(events) == 3


def test_events_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="equally many"):
        Events(onset_s=np.ones(2), duration_s=np.ones(1), kind=("standard",), response_time_s=np.ones(1))
