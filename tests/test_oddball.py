"""ds000116 is found in both of its layouts and read with all of its faults."""

import logging
from pathlib import Path

import mne
import numpy as np
import pytest
from scipy.io import savemat
from small_eeg import ecg_with, heart_beats

from datasets.errors import BadInput
from datasets.oddball import CHANNELS, channel_locations_m, find_recordings, read_eeg, read_events, read_slice_times
from datasets.pulse import agreement, find_beats
from datasets.recording import Recording

REAL_FILES = Path(__file__).parents[2] / "shared" / "data" / "ds000116"
HEADER = "onset\tduration\ttrial_type\tResponse\tStimulus\tresponse_time\n"
LAYOUTS = {"rereferenced": 37, "noGA": 49, "raw": 49}


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
    return Recording(subject="sub-01", task="auditory", run=1, bold=(Path("bold.nii.gz"),), events=events)


def recording_of(*eeg: Path) -> Recording:
    first, *others = eeg
    return Recording(
        subject="sub-01", task="auditory", run=1, bold=(Path("bold.nii.gz"),), eeg=first, eeg_extra=tuple(others)
    )


def rows_of(num_rows: int, num_samples: int = 2_000) -> np.ndarray:
    """Return noise, and markers in the last two rows: the start at 5 ms, a standard at 300, a target at 1000."""
    rows = np.random.default_rng(num_rows).normal(0, 20, (num_rows, num_samples))
    rows[-2:] = 0
    rows[-2, 5:25], rows[-2, 300:320], rows[-2, 1000:1020], rows[-1, 1400:1420] = 25, 125, 150, 100
    return rows


def saved_eeg(folder: Path, kind: str = "rereferenced", rows: np.ndarray | None = None) -> Path:
    path = folder / f"EEG_{kind}.mat"
    savemat(path, {"data": rows_of(LAYOUTS[kind]) if rows is None else rows})
    return path


def test_bids_runs_are_found_without_eeg(tmp_path: Path) -> None:
    bold = make_bids_run(tmp_path, "sub-02", "visual", 3)
    (recording,) = find_recordings(tmp_path)
    assert (recording.subject, recording.task, recording.run) == ("sub-02", "visual", 3)
    assert (recording.bold, recording.eeg, recording.eeg_extra) == ((bold,), None, ())
    assert (recording.data_set, recording.space) == ("ds000116", "scanner")
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
    assert [path.name for path in recording.bold] == ["bold.nii.gz"]
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
    assert (with_eeg.bold, with_eeg.eeg) == ((bold,), eeg)
    assert with_eeg.events[0].suffix == ".tsv"
    assert (without_eeg.subject, without_eeg.eeg) == ("sub-04", None)


def test_one_folder_may_hold_both_layouts(tmp_path: Path) -> None:
    bold = make_bids_run(tmp_path, "sub-01", "auditory", 1)
    eeg = make_legacy_run(tmp_path / "sub001", "task001_run001", with_bold=False)
    (recording,) = find_recordings(tmp_path)
    assert (recording.bold, recording.eeg) == ((bold,), eeg)


def test_eeg_and_bold_of_one_layout_may_lie_in_two_folders(tmp_path: Path) -> None:
    touch(tmp_path / "sub001" / "BOLD" / "task001_run001" / "bold.nii.gz")
    eeg = make_legacy_run(tmp_path / "ds116_sub001" / "sub001", "task001_run001", with_bold=False)
    (recording,) = find_recordings(tmp_path)
    assert (recording.eeg, recording.fault) == (eeg, "")


def two_archives(root: Path) -> None:
    for folder in (root, root / "ds116_sub001"):
        make_legacy_run(folder / "sub001", "task001_run001")


def packed_and_unpacked(root: Path) -> None:
    make_legacy_run(root / "sub001", "task001_run001")
    touch(root / "sub001" / "BOLD" / "task001_run001" / "bold.nii")


def two_run_labels(root: Path) -> None:
    bold = make_bids_run(root, "sub-01", "auditory", 1)
    touch(bold.with_name(bold.name.replace("run-01", "run-1")))


@pytest.mark.parametrize("make", [two_archives, packed_and_unpacked, two_run_labels])
def test_a_run_that_one_layout_holds_twice_has_a_fault_that_names_both(tmp_path: Path, make) -> None:
    make(tmp_path)
    (recording,) = find_recordings(tmp_path)
    assert "several files of this one run" in recording.fault
    assert recording.fault.count(str(tmp_path)) == 2


def test_one_archive_under_two_names_is_one(tmp_path: Path) -> None:
    make_legacy_run(tmp_path / "ds116_sub001" / "sub001", "task001_run001")
    (tmp_path / "sub001").symlink_to(tmp_path / "ds116_sub001" / "sub001")
    (recording,) = find_recordings(tmp_path)
    assert recording.fault == ""


@pytest.mark.parametrize("part", ["bold", "eeg", "t1", "events"])
def test_a_link_to_nowhere_is_found_so_that_reading_it_can_say_so(tmp_path: Path, part: str) -> None:
    folder = tmp_path / "sub001"
    make_legacy_run(folder, "task001_run001")
    touch(folder / "anatomy" / "highresSPGR001.nii.gz")
    before = find_recordings(tmp_path)
    broken = getattr(before[0], part)
    broken = broken[0] if isinstance(broken, tuple) else broken
    broken.unlink()
    broken.symlink_to("nowhere")
    assert find_recordings(tmp_path) == before


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


def test_the_other_files_of_a_runs_eeg_are_found_beside_the_first(tmp_path: Path) -> None:
    folder = make_legacy_run(tmp_path / "sub001", "task001_run001").parent
    extra = [touch(folder / "EEG_noGA.mat"), touch(folder / "EEG_raw.mat")]
    (recording,) = find_recordings(tmp_path)
    assert (recording.eeg, recording.eeg_extra) == (folder / "EEG_rereferenced.mat", tuple(extra))
    recording.eeg.unlink()
    (recording,) = find_recordings(tmp_path)
    assert (recording.eeg, recording.eeg_extra) == (extra[0], (extra[1],))


@pytest.mark.parametrize("variable", ["data_reref", "anything"])
def test_eeg_is_read_under_its_own_or_any_single_name(tmp_path: Path, variable: str) -> None:
    rows = rows_of(37)
    savemat(tmp_path / "EEG_rereferenced.mat", {variable: rows, "rate": 1000.0})
    signal = read_eeg(recording_of(tmp_path / "EEG_rereferenced.mat"))
    assert signal.eeg_uv.dtype == np.float32
    np.testing.assert_allclose(signal.eeg_uv, rows[:34], rtol=1e-6)
    np.testing.assert_allclose(signal.ecg, rows[34], rtol=1e-6)
    assert (signal.channel_names, signal.rate_hz, len(signal.eog)) == (CHANNELS, 1000.0, 0)
    assert signal.marker_onsets_s.tolist() == [0.3, 1.0]


def test_electrodes_lie_where_the_montage_puts_them(tmp_path: Path) -> None:
    locations_m = dict(zip(CHANNELS, read_eeg(recording_of(saved_eeg(tmp_path))).locations_m, strict=True))
    assert None not in locations_m.values()
    (left, _, _), (right, _, _) = locations_m["T7"], locations_m["T8"]
    assert left < -0.06 and right > 0.06
    assert locations_m["Fp1"][1] > 0.07 > -0.07 > locations_m["Oz"][1]
    assert locations_m["Cz"][2] > 0.07


@pytest.mark.parametrize(("kind", "uv_per_unit"), [("noGA", 1.0), ("raw", 100.0)])
def test_bipolar_files_have_43_channels_without_a_place_and_their_own_ecg_and_eog(
    tmp_path: Path, kind: str, uv_per_unit: float, caplog: pytest.LogCaptureFixture
) -> None:
    rows = rows_of(49)
    signal = read_eeg(recording_of(saved_eeg(tmp_path, kind, rows)), kind)
    np.testing.assert_allclose(signal.eeg_uv, uv_per_unit * rows[:43], rtol=1e-6)
    np.testing.assert_allclose(signal.eog, uv_per_unit * rows[43:45], rtol=1e-6)
    np.testing.assert_allclose(signal.ecg, uv_per_unit * rows[45], rtol=1e-6)
    assert signal.channel_names[::42] == ("bipolar-01", "bipolar-43")
    assert set(signal.locations_m) == {None}
    assert signal.marker_onsets_s.tolist() == [0.3, 1.0]
    assert ("gradient artefact" in caplog.text) == (kind == "raw")


def with_hearts(folder: Path, *, row_35_is_ecg: bool) -> tuple[Recording, np.ndarray, np.ndarray]:
    """Return a recording of 60 s whose EEG_noGA.mat has an ECG in row 47, with that row and its beats."""
    rng = np.random.default_rng(4)
    beats_s = heart_beats(60.0, rng)
    ecg = ecg_with(beats_s, 60_000, 1000.0, rng)
    rereferenced, bipolar = rows_of(37, 60_000), rows_of(49, 60_000)
    bipolar[46] = ecg
    if row_35_is_ecg:
        rereferenced[34] = 2 * ecg
    paths = saved_eeg(folder, "rereferenced", rereferenced), saved_eeg(folder, "noGA", bipolar)
    return recording_of(*paths), bipolar, beats_s


def test_the_ecg_of_the_bipolar_file_is_taken_where_row_35_is_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recording, bipolar, beats_s = with_hearts(tmp_path, row_35_is_ecg=False)
    signal = read_eeg(recording)
    np.testing.assert_allclose(signal.ecg, bipolar[46], rtol=1e-5)
    np.testing.assert_allclose(signal.eog, bipolar[43:45], rtol=1e-5)
    assert agreement(find_beats(signal.ecg, 1000.0), beats_s) > 0.95
    assert "row 35 does not show the heart beats" in caplog.text


def test_row_35_is_taken_where_it_is_the_ecg(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recording, bipolar, _ = with_hearts(tmp_path, row_35_is_ecg=True)
    signal = read_eeg(recording)
    np.testing.assert_allclose(signal.ecg, 2 * bipolar[46], rtol=1e-5)
    np.testing.assert_allclose(signal.eog, bipolar[43:45], rtol=1e-5)
    assert not caplog.records


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (rows_of(37), "must hold 49 rows"),
        (rows_of(49, 1_000), "has 1000 samples, not 2000"),
        (np.where(np.arange(49)[:, None] == 44, np.nan, rows_of(49)), r"in rows [45] 2000 samples"),
    ],
)
def test_a_bipolar_file_that_cannot_be_used_costs_ecg_and_eog_only(
    tmp_path: Path, rows: np.ndarray, complaint: str, caplog: pytest.LogCaptureFixture
) -> None:
    signal = read_eeg(recording_of(saved_eeg(tmp_path), saved_eeg(tmp_path, "noGA", rows)))
    np.testing.assert_allclose(signal.ecg, rows_of(37)[34], rtol=1e-6)
    assert len(signal.eog) == 0
    assert complaint in caplog.text


def test_a_file_that_is_not_there_is_asked_for_by_name(tmp_path: Path) -> None:
    recording = recording_of(saved_eeg(tmp_path))
    with pytest.raises(BadInput, match=r"it has no EEG_raw\.mat, only EEG_rereferenced\.mat"):
        read_eeg(recording, "raw")
    with pytest.raises(BadInput, match="eeg_file must be one of rereferenced, noGA, raw, but got 'clean'"):
        read_eeg(recording, "clean")
    with pytest.raises(BadInput, match="it has no EEG; give the folder"):
        read_eeg(recording_with())


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"data_reref": rows_of(33)}, r"must hold 37 rows .* but holds \(33, 2000\)"),
        ({"data_reref": rows_of(38)}, r"must hold 37 rows .* but holds \(38, 2000\)"),
        ({"data_reref": rows_of(49)}, "37 rows"),
        ({"data_reref": rows_of(37).T}, "37 rows"),
        ({"a": rows_of(37), "b": rows_of(37)}, "one single numeric matrix"),
        ({"text": "nothing"}, "one single numeric matrix, but holds none"),
        ({"data_reref": 1j * rows_of(37)}, "one single numeric matrix"),
    ],
)
def test_eeg_of_another_shape_is_refused(tmp_path: Path, content: dict[str, object], complaint: str) -> None:
    path = tmp_path / "EEG_rereferenced.mat"
    savemat(path, content)
    with pytest.raises(BadInput, match=rf"EEG_rereferenced\.mat must hold .*{complaint.removeprefix('must hold ')}"):
        read_eeg(recording_of(path))


def test_a_stretch_of_nan_is_refused_with_row_and_time(tmp_path: Path) -> None:
    rows = rows_of(37)
    rows[3, 500:750] = np.nan
    rows[8, 600] = np.inf
    with pytest.raises(BadInput, match=r"in rows \[4, 9\] 250 samples between 0\.500 s and 0\.750 s are NaN"):
        read_eeg(recording_of(saved_eeg(tmp_path, rows=rows)))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"no matlab file", "cannot read"),
        (b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + b" " * 200, r"MATLAB 7\.3 file; save it .* '-v7'"),
    ],
)
def test_eeg_that_is_no_matlab_5_file_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "EEG_rereferenced.mat"
    path.write_bytes(content)
    with pytest.raises(
        BadInput, match=rf"EEG_rereferenced\.mat.*{complaint}|{complaint}.*EEG_rereferenced\.mat"
    ) as refusal:
        read_eeg(recording_of(path))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("kept", [100, 5_000, 200_000])
def test_eeg_cut_short_is_refused(tmp_path: Path, compressed: bool, kept: int) -> None:
    path = tmp_path / "EEG_rereferenced.mat"
    savemat(path, {"data_reref": rows_of(37)}, do_compression=compressed)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(BadInput, match="cannot read") as refusal:
        read_eeg(recording_of(path))
    assert "\n" not in str(refusal.value)


def with_slice_order(folder: Path, text: str) -> Recording:
    path = folder / "slice_order.txt"
    path.write_text(text)
    return Recording(subject="sub-01", task="visual", run=1, bold=(Path("bold.nii.gz"),), slice_order=path)


def test_slice_times_follow_the_order_in_the_file(tmp_path: Path) -> None:
    times_s = read_slice_times(with_slice_order(tmp_path, "1\n3\n2\n4\n"), 4)
    assert times_s is not None
    assert times_s.tolist() == [0.0, 1.0, 0.5, 1.5]
    assert read_slice_times(recording_with(), 4) is None


@pytest.mark.parametrize("text", ["1\n2\n3\n", "1\n2\n3\nfour\n", "1\n1\n2\n3\n", ""])
def test_a_slice_order_that_is_not_of_this_image_is_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadInput, match=r"slice_order\.txt: the slice order"):
        read_slice_times(with_slice_order(tmp_path, text), 4)


def test_a_slice_order_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    recording = with_slice_order(tmp_path, "")
    recording.slice_order.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(BadInput, match="cannot read the slice order"):
        read_slice_times(recording, 4)


def test_electrodes_lie_where_mne_puts_them_on_a_head():
    info = mne.create_info(list(CHANNELS), 1000.0, "eeg", verbose="error")
    info.set_montage("colin27_1005")
    expected = np.array([channel["loc"][:3] for channel in info["chs"]])
    np.testing.assert_allclose(np.array(channel_locations_m(CHANNELS)), expected, atol=2e-5)
