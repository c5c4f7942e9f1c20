"""ds000116 is found in both of its layouts and read with all of its faults."""

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.io import savemat

from datasets.errors import BadInput
from datasets.oddball import CHANNELS, find_recordings, marker_shift_s, read_bold, read_eeg, read_events
from datasets.recording import EegSignal, Events, Recording

REAL_FILES = Path(__file__).parents[2] / "shared" / "data" / "ds000116"
HEADER = "onset\tduration\ttrial_type\tResponse\tStimulus\tresponse_time\n"


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def make_bids_run(root: Path, subject: str, task: str, run: int) -> Path:
    touch(root / subject / "anat" / f"{subject}_T1w.nii.gz")
    touch(root / subject / "anat" / f"{subject}_inplaneT2.nii.gz")
    stem = f"{subject}_task-{task}oddballwithbuttonresponsetotargetstimuli_run-{run:02d}"
    touch(root / subject / "func" / f"{stem}_events.tsv")
    return touch(root / subject / "func" / f"{stem}_bold.nii.gz")


def make_legacy_run(folder: Path, name: str, *, with_bold: bool = True) -> Path:
    if with_bold:
        touch(folder / "BOLD" / name / "bold.nii.gz")
        touch(folder / "BOLD" / name / "bold_mcf_brain.nii.gz")
    for number in (1, 2, 3):
        touch(folder / "model" / "model001" / "onsets" / name / f"cond00{number}.txt")
    touch(folder / "behav" / name / "behavdata.txt")
    touch(folder / "anatomy" / "highresEPI001.nii.gz")
    touch(folder / "anatomy" / "highresSPGR001.nii.gz")
    return touch(folder / "EEG" / name / "EEG_rereferenced.mat")


def recording_with(*events: Path) -> Recording:
    return Recording(subject="sub-01", task="auditory", run=1, bold=Path("bold.nii.gz"), events=events)


def signal_with_markers(onsets_s: list[float], num_samples: int = 60_000) -> EegSignal:
    markers = np.zeros(num_samples, dtype=np.float32)
    markers[5:25] = 25
    for onset in onsets_s:
        markers[round(onset * 1000) : round(onset * 1000) + 20] = 125
    return EegSignal(
        eeg_uv=np.zeros((34, num_samples), dtype=np.float32),
        ecg=np.zeros(num_samples, dtype=np.float32),
        stimulus_markers=markers,
        response_markers=np.zeros(num_samples, dtype=np.float32),
        channel_names=CHANNELS,
        rate_hz=1000.0,
    )


def standards_at(onsets_s: list[float]) -> Events:
    return Events(
        onset_s=np.array(onsets_s, dtype=np.float64),
        duration_s=np.full(len(onsets_s), 0.2),
        kind=("standard",) * len(onsets_s),
        response_time_s=np.full(len(onsets_s), np.nan),
    )


def test_bids_runs_are_found_without_eeg(tmp_path: Path) -> None:
    bold = make_bids_run(tmp_path, "sub-02", "visual", 3)
    (recording,) = find_recordings(tmp_path)
    assert (recording.subject, recording.task, recording.run) == ("sub-02", "visual", 3)
    assert (recording.bold, recording.eeg) == (bold, None)
    assert recording.t1 == tmp_path / "sub-02" / "anat" / "sub-02_T1w.nii.gz"
    assert [path.suffix for path in recording.events] == [".tsv"]


@pytest.mark.parametrize("parent", [".", "ds116_sub001"])
def test_legacy_runs_are_found_unpacked_in_either_way(tmp_path: Path, parent: str) -> None:
    folder = tmp_path / parent / "sub001"
    eeg = make_legacy_run(folder, "task002_run001")
    touch(tmp_path / "slice_order.txt")
    (recording,) = find_recordings(tmp_path)
    assert recording.name == "sub-01_task-visual_run-1"
    assert recording.eeg == eeg
    assert recording.bold.name == "bold.nii.gz"
    assert [path.name for path in recording.events] == ["cond001.txt", "cond002.txt", "cond003.txt", "behavdata.txt"]
    assert recording.slice_order == tmp_path / "slice_order.txt"


@pytest.mark.parametrize(
    ("present", "chosen"),
    [
        (["highresEPI001.nii.gz", "highresSPGR001.nii.gz"], "highresSPGR001.nii.gz"),
        (["highresEPI001.nii.gz", "highresMPRAGE001.nii.gz"], "highresMPRAGE001.nii.gz"),
        (["highresEPI001.nii.gz"], None),
    ],
)
def test_an_epi_never_serves_as_t1(tmp_path: Path, present: list[str], chosen: str | None) -> None:
    touch(tmp_path / "sub010" / "BOLD" / "task001_run001" / "bold.nii.gz")
    for name in present:
        touch(tmp_path / "sub010" / "anatomy" / name)
    (recording,) = find_recordings(tmp_path)
    assert (recording.t1.name if recording.t1 else None) == chosen


def test_bids_images_and_legacy_eeg_are_matched_by_number(tmp_path: Path) -> None:
    bold = make_bids_run(tmp_path / "bids", "sub-03", "auditory", 2)
    make_bids_run(tmp_path / "bids", "sub-04", "auditory", 2)
    eeg = make_legacy_run(tmp_path / "legacy" / "ds116_sub003" / "sub003", "task001_run002")
    with_eeg, without_eeg = find_recordings(tmp_path / "bids", tmp_path / "legacy")
    assert (with_eeg.bold, with_eeg.eeg) == (bold, eeg)
    assert with_eeg.events[0].suffix == ".tsv"
    assert (without_eeg.subject, without_eeg.eeg) == ("sub-04", None)


def test_one_folder_may_hold_both_layouts(tmp_path: Path) -> None:
    bold = make_bids_run(tmp_path, "sub-01", "auditory", 1)
    eeg = make_legacy_run(tmp_path / "sub001", "task001_run001", with_bold=False)
    (recording,) = find_recordings(tmp_path)
    assert (recording.bold, recording.eeg) == (bold, eeg)


def test_recordings_are_sorted_and_eeg_without_bold_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for subject, name in (("sub012", "task002_run001"), ("sub002", "task001_run002"), ("sub002", "task001_run001")):
        make_legacy_run(tmp_path / subject, name)
    make_legacy_run(tmp_path / "sub005", "task001_run001", with_bold=False)
    names = [recording.name for recording in find_recordings(tmp_path)]
    assert names == ["sub-02_task-auditory_run-1", "sub-02_task-auditory_run-2", "sub-12_task-visual_run-1"]
    assert "sub-05 auditory run 1" in caplog.text


def test_a_folder_without_recordings_is_refused_with_the_layouts_looked_for(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no BOLD of ds000116 in .*looked for sub-XX.*task00T_run00R"):
        find_recordings(tmp_path)
    with pytest.raises(BadInput, match="no such folder"):
        find_recordings(tmp_path / "nowhere")


def test_every_real_events_table_parses() -> None:
    tables = sorted(REAL_FILES.glob("sub-*/func/*_events.tsv"))
    if not tables:
        pytest.skip(f"the real text files are not at {REAL_FILES}")
    counts = {path.name: read_events(recording_with(path)) for path in tables}
    assert len(counts) == 24
    for events in counts.values():
        assert np.all(np.diff(events.onset_s) > 0)
        assert 4 < events.onset_s[0] < 11
        assert 300 < events.onset_s[-1] < 330
        assert np.isfinite(events.response_time_s).sum() == events.kind.count("target")
    (sparse,) = (
        events for name, events in counts.items() if name.startswith("sub-10_task-visual") and "run-03" in name
    )
    assert sparse.kind.count("target") == 4


def test_malformed_rows_excluded_trials_and_doubled_targets_of_a_table_are_understood(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = tmp_path / "events.tsv"
    table.write_text(
        HEADER
        + "4.8\t0.200\tvisual standard stimulus presentation\tn/a\tn/a\tn/a\n"
        + "7.0\tn/a\tn/a\t1.000\ttarget\tn/a\n"
        + "279.914\t0.389\tbehavioral response time following visual oddball stimulus onset\t0.000\tstandard\tn/a\n"
        + "279.914\t0.200\tvisual oddball stimulus presentation\t0.000\tstandard\tn/a\n"
        + "279.991\t0.200\tvisual oddball stimulus presentation\tn/a\tn/a\tn/a\n"
        + "n/a\tn/a\tn/a\t4.835\t0\tstandard\n"
        + "n/a\tn/a\tn/a\t7.053\t0\tstandard\n"
    )
    with caplog.at_level(logging.INFO):
        events = read_events(recording_with(table))
    assert events.onset_s.tolist() == [4.8, 279.914, 279.991]
    assert events.kind == ("standard", "target", "target")
    np.testing.assert_array_equal(events.response_time_s, [np.nan, 0.389, np.nan])
    assert [record.getMessage() for record in caplog.records] == ["events.tsv: dropped 2 rows without an onset"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "must have the columns"),
        ("onset\tduration\n1\t2\n", "must have the columns"),
        (HEADER + "1.0\t0.2\n", "row 2 has 2"),
        (HEADER + "soon\t0.2\tvisual standard stimulus presentation\tn/a\tn/a\tn/a\n", "'soon'"),
        (HEADER + "1.0\t0.2\trest\tn/a\tn/a\tn/a\n", "trial_type 'rest'"),
    ],
)
def test_a_table_that_cannot_be_understood_is_refused_by_name(tmp_path: Path, content: str, complaint: str) -> None:
    table = tmp_path / "events.tsv"
    table.write_text(content)
    with pytest.raises(BadInput, match=rf"events\.tsv .*{complaint}"):
        read_events(recording_with(table))


def test_condition_files_give_targets_standards_and_response_times(tmp_path: Path) -> None:
    contents = {"cond001": "9.5\t0.2\t1\n", "cond002": "4.5 0.2 1\n6.75 0.2 1\n", "cond003": "9.5\t0.38\t1\n"}
    paths = [tmp_path / f"{name}.txt" for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.write_text(content)
    events = read_events(recording_with(*paths, touch(tmp_path / "behavdata.txt")))
    assert events.onset_s.tolist() == [4.5, 6.75, 9.5]
    assert events.kind == ("standard", "standard", "target")
    np.testing.assert_array_equal(events.response_time_s, [np.nan, np.nan, 0.38])


def test_an_empty_condition_file_is_no_events(tmp_path: Path) -> None:
    events = read_events(recording_with(*(touch(tmp_path / f"cond00{number}.txt") for number in (1, 2, 3))))
    assert len(events) == 0


def test_a_condition_file_of_two_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cond001.txt"
    path.write_text("1.0 0.2\n")
    with pytest.raises(BadInput, match="three columns"):
        read_events(recording_with(path))


@pytest.mark.parametrize("variable", ["data_reref", "anything"])
def test_eeg_is_read_under_its_own_or_any_single_name(tmp_path: Path, variable: str) -> None:
    rows = np.random.default_rng(0).normal(size=(37, 100))
    savemat(tmp_path / "eeg.mat", {variable: rows, "rate": 1000.0})
    signal = read_eeg(tmp_path / "eeg.mat")
    assert signal.eeg_uv.shape == (34, 100)
    assert signal.eeg_uv.dtype == np.float32
    np.testing.assert_allclose(signal.ecg, rows[34], rtol=1e-6)
    np.testing.assert_allclose(signal.response_markers, rows[36], rtol=1e-6)
    assert (signal.channel_names, signal.rate_hz) == (CHANNELS, 1000.0)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"data_reref": np.zeros((49, 100))}, "37 rows"),
        ({"data_reref": np.zeros((100, 37))}, "37 rows"),
        ({"a": np.zeros((37, 100)), "b": np.zeros((37, 100))}, "one single numeric matrix"),
        ({"data_reref": np.pad(np.full((1, 100), np.nan), ((3, 33), (0, 0)))}, r"rows \[4\]"),
    ],
)
def test_eeg_of_another_shape_or_with_holes_is_refused(
    tmp_path: Path, content: dict[str, np.ndarray], complaint: str
) -> None:
    savemat(tmp_path / "eeg.mat", content)
    with pytest.raises(BadInput, match=rf"eeg\.mat .*{complaint}"):
        read_eeg(tmp_path / "eeg.mat")


@pytest.mark.parametrize("content", [b"", b"no matlab file", b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + b" " * 200])
def test_eeg_that_is_no_matlab_5_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "eeg.mat"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"eeg\.mat"):
        read_eeg(path)


@pytest.mark.parametrize("compressed", [True, False])
def test_eeg_cut_short_is_refused(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "eeg.mat"
    savemat(path, {"data_reref": np.random.default_rng(0).normal(size=(37, 100))}, do_compression=compressed)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(BadInput, match="cannot read"):
        read_eeg(path)


def test_bold_is_read_as_float32(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.int16).reshape(2, 2, 2, 3)
    nib.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / "bold.nii.gz")
    np.testing.assert_array_equal(read_bold(tmp_path / "bold.nii.gz").get_fdata(dtype=np.float32), values)


def test_bold_that_is_cut_short_or_no_series_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bold.nii.gz"
    noise = np.random.default_rng(0).integers(0, 1000, (8, 8, 8, 3), dtype=np.int16)
    nib.Nifti1Image(noise, np.eye(4)).to_filename(path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(BadInput, match="cannot read the BOLD"):
        read_bold(path)
    path.write_bytes(b"no image")
    with pytest.raises(BadInput, match="cannot read the BOLD"):
        read_bold(path)
    with pytest.raises(BadInput, match="cannot read the BOLD"):
        read_bold(tmp_path / "nothing.nii.gz")
    nib.Nifti1Image(noise[..., 0], np.eye(4)).to_filename(path)
    with pytest.raises(BadInput, match="series of volumes"):
        read_bold(path)


@pytest.mark.parametrize("shift_s", [0.0, 0.012, -0.4, 6.0])
def test_the_shift_between_markers_and_events_is_found_also_where_trials_are_missing(shift_s: float) -> None:
    onsets = np.round(8 + np.cumsum(np.random.default_rng(3).uniform(2, 3, 15)), 3)
    signal = signal_with_markers((onsets + shift_s).tolist())
    shift = marker_shift_s(signal, standards_at(np.delete(onsets, [2, 9]).tolist()))
    assert shift == pytest.approx(shift_s, abs=0.001)


def test_there_is_no_shift_without_markers_or_events() -> None:
    assert marker_shift_s(signal_with_markers([]), standards_at([5.0])) is None
    assert marker_shift_s(signal_with_markers([5.0]), standards_at([])) is None
