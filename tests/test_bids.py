"""Plain BIDS: runs are found, their EEG is put on the scanner's clock, and what cannot be trusted is refused."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import mne
import nibabel
import numpy as np
import pytest
from scipy.io import savemat
from simulated_run import SHAPE, TR_S, VOLUMES, simulated_run, simulated_subject

from datasets import bids
from datasets.bids import find_recordings, read_eeg, read_events, read_slice_times
from datasets.bids.clock import Scan, first_volume_s, marker
from datasets.bids.eeg import listed_bad_channels
from datasets.bids.files import inherited_files, metadata, natural_order, run_key
from datasets.errors import BadInput
from datasets.recording import Recording
from datasets.simulator import bids as simulated_bids
from datasets.simulator.bids import BEFORE_S, BidsLayout

NAME = "sub-01_task-auditory_run-01"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """One subject with one run, as the simulator writes it."""
    return write_study(tmp_path / "study")


def write_study(folder: Path, **run) -> Path:
    layout = BidsLayout()
    layout.write_study(folder, {"subjects": 1})
    layout.write_subject(folder, simulated_subject())
    layout.write_run(folder, simulated_run(**run))
    return folder


def only(study: Path, eeg_root: Path | None = None) -> Recording:
    (recording,) = find_recordings(study, eeg_root)
    return recording


def func(study: Path, ending: str) -> Path:
    return study / "sub-01" / "func" / f"{NAME}_{ending}"


def eeg(study: Path, ending: str) -> Path:
    return study / "sub-01" / "eeg" / f"{NAME}_{ending}"


def change(path: Path, **fields) -> None:
    """Set fields of a JSON sidecar; None takes one out."""
    record = {**json.loads(path.read_text()), **fields} if path.is_file() else fields
    path.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))


def rewrite_markers(study: Path, rewrite) -> None:
    """Change the lines of the marker file that name a marker."""
    path = eeg(study, "eeg.vmrk")
    lines = path.read_text().splitlines()
    head, markers = lines[:6], lines[6:]
    path.write_text("\r\n".join([*head, *rewrite(markers), ""]))


def volumes_only(markers: list[str]) -> list[str]:
    return [line for line in markers if "Volume" in line]


def moved(study: Path, **entities: str) -> None:
    """Rename every file of the one run, putting entities in place of ``sub-01`` and of ``_run-01``."""
    for path in sorted(study.glob("sub-01/*/*")):
        name = path.name.replace("sub-01", entities.get("subject", "sub-01")).replace("_run-01", entities["run"])
        target = study / entities.get("folder", "sub-01") / path.parent.name / name
        target.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes()
        path.unlink()
        target.write_bytes(content.replace(NAME.encode(), name.rsplit("_", 1)[0].encode()))
    if entities.get("folder", "sub-01").split("/")[0] != "sub-01":
        shutil.rmtree(study / "sub-01")


# Names and inheritance


@pytest.mark.parametrize(("name", "key"), [
    ("sub-01_task-rest_run-2_bold.nii.gz", ("01", "", "rest", 2)),
    ("sub-A01_ses-pre_task-rest_bold.nii", ("A01", "pre", "rest", 1)),
    ("sub-pilot1_task-nback_acq-mb_run-010_echo-1_bold.nii.gz", ("pilot1", "", "nback", 10)),
])  # fmt: skip
def test_the_run_of_a_name(name, key):
    found = run_key(Path(name))
    assert (found.subject, found.session, found.task, found.run) == key


@pytest.mark.parametrize(
    "name", ["bold.nii.gz", "sub-01_bold.nii.gz", "sub-01_task-a_run-x_bold.nii", "swarfoo.nii", ""]
)
def test_a_name_that_tells_no_run(name):
    assert run_key(Path(name)) is None


def test_the_nearest_sidecar_has_the_last_word(tmp_path):
    bold = tmp_path / "sub-01" / "ses-1" / "func" / "sub-01_ses-1_task-rest_run-1_bold.nii.gz"
    bold.parent.mkdir(parents=True)
    change(tmp_path / "bold.json", A=0, B=0, C=0, D=0)
    change(tmp_path / "task-rest_bold.json", B=1, C=1, D=1)
    change(tmp_path / "sub-01" / "sub-01_bold.json", C=2, D=2)
    change(bold.with_name("sub-01_ses-1_task-rest_run-1_bold.json"), D=3)
    change(tmp_path / "task-other_bold.json", A=9)
    change(tmp_path.parent / "bold.json", A=9)
    assert metadata(bold) == {"A": 0, "B": 1, "C": 2, "D": 3}
    assert len(inherited_files(bold, "bold", ".json")) == 4


def test_numbers_in_names_are_ordered_by_value():
    assert sorted(["vol10", "vol2", "vol1", "a"], key=natural_order) == ["a", "vol1", "vol2", "vol10"]


# Finding


def test_a_simulated_study_is_found_with_all_that_belongs_to_its_run(study):
    recording = only(study)
    assert (recording.name, recording.data_set) == ("sub-01_task-auditory_run-1", "bids")
    assert recording.bold == (func(study, "bold.nii.gz"),)
    assert recording.eeg == eeg(study, "eeg.vhdr")
    assert recording.t1 == study / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    assert recording.events == (func(study, "events.tsv"),)
    assert recording.slice_order == func(study, "bold.json")
    assert recording.repetition_time_s == TR_S
    read = {path.name.removeprefix(f"{NAME}_").removeprefix("sub-01_") for path in recording.files}
    assert read >= {"eeg.eeg", "eeg.vmrk", "channels.tsv", "electrodes.tsv", "coordsystem.json", "eeg.json"}


@pytest.mark.parametrize("subject", ["sub-A01", "sub-pilot1", "sub-0012"])
def test_subjects_may_have_letters_and_a_run_without_a_number_is_run_1(study, subject):
    moved(study, subject=subject, folder=subject, run="")
    recording = only(study)
    assert recording.name == f"{subject}_task-auditory_run-1"
    assert recording.eeg is not None and recording.t1 is not None and recording.events
    assert read_eeg(recording).eeg_uv.shape[0] == 34


def test_runs_are_numbered_on_from_session_to_session(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="datasets")
    for session, runs in {"1": (1, 2), "2": (1, 2), "10": (1,)}.items():
        for run in runs:
            path = (
                tmp_path
                / "sub-01"
                / f"ses-{session}"
                / "func"
                / f"sub-01_ses-{session}_task-rest_run-{run}_bold.nii.gz"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            (path.parents[1] / "eeg").mkdir(exist_ok=True)
            (path.parents[1] / "eeg" / path.name.replace("_bold.nii.gz", "_eeg.edf")).touch()
    change(tmp_path / "task-rest_bold.json", RepetitionTime=2.0)
    recordings = find_recordings(tmp_path)
    assert [recording.run for recording in recordings] == [1, 2, 3, 4, 5]
    sessions = [recording.bold[0].parents[1].name for recording in recordings]
    assert sessions == ["ses-1", "ses-1", "ses-2", "ses-2", "ses-10"]
    assert all(recording.bold[0].parents[1] == recording.eeg.parents[1] for recording in recordings)
    assert "sub-01 ses-2 rest run 1 is run 3" in caplog.text


def test_a_run_0_moves_its_session_by_one(tmp_path):
    for run in (0, 1):
        path = tmp_path / "sub-01" / "func" / f"sub-01_task-rest_run-{run}_bold.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    change(tmp_path / "bold.json", RepetitionTime=2.0)
    assert [recording.run for recording in find_recordings(tmp_path)] == [1, 2]


def test_the_t1_of_the_same_session_is_preferred(study):
    moved(study, folder="sub-01/ses-2", run="_run-01")
    for path in sorted(study.glob("sub-01/ses-2/*/*")):
        path.rename(path.with_name(path.name.replace("sub-01_", "sub-01_ses-2_", 1)))
    other = study / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_T1w.nii.gz"
    other.parent.mkdir(parents=True)
    other.touch()
    assert only(study).t1.parents[1].name == "ses-2"
    only(study).t1.unlink()
    assert only(study).t1 == other


def test_eeg_of_the_other_root_comes_first(study, tmp_path):
    cleaned = tmp_path / "derivatives" / "sub-01" / "eeg" / "sub-01_task-auditory_run-01_desc-cleaned_eeg.vhdr"
    cleaned.parent.mkdir(parents=True)
    cleaned.touch()
    assert only(study, tmp_path / "derivatives").eeg == cleaned
    cleaned.unlink()
    assert only(study, tmp_path / "derivatives").eeg == eeg(study, "eeg.vhdr")


def test_phase_images_and_images_in_another_space_are_no_runs(study):
    for entities in ("_part-phase", "_space-MNI152NLin6Asym"):
        func(study, "bold.nii.gz").with_name(f"{NAME}{entities}_bold.nii.gz").touch()
    assert read_eeg(only(study)).eeg_uv.shape[0] == 34


def test_a_folder_without_bold_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"no BOLD in .*; looked for sub-\*"):
        find_recordings(tmp_path)
    with pytest.raises(BadInput, match="there is no such folder"):
        find_recordings(tmp_path / "missing")


def test_eeg_without_bold_is_left_out_and_said(study, caplog):
    eeg(study, "eeg.vhdr").with_name("sub-01_task-auditory_run-02_eeg.vhdr").touch()
    assert only(study).run == 1
    assert "left out 1 runs that have EEG but no BOLD" in caplog.text


def test_the_repetition_time_comes_from_any_level_else_from_the_header(study):
    change(func(study, "bold.json"), RepetitionTime=None)
    assert only(study).repetition_time_s == TR_S  # the header's
    change(study / "task-auditory_bold.json", RepetitionTime=2.16)
    assert only(study).repetition_time_s == 2.16
    change(study / "sub-01" / "sub-01_bold.json", RepetitionTime=1.5)
    assert only(study).repetition_time_s == 1.5


@pytest.mark.parametrize("stated", [0, -1, 2000, "2", True, None])
def test_a_run_without_a_usable_repetition_time_is_found_and_refused_when_read(study, stated):
    path = func(study, "bold.nii.gz")
    image = nibabel.load(path)
    image.header.set_xyzt_units("mm", "unknown")
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), path)
    change(func(study, "bold.json"), RepetitionTime=stated)
    with pytest.raises(BadInput, match="must have a RepetitionTime in seconds"):
        read_eeg(only(study))


def test_a_sparse_acquisition_is_refused_when_read(study):
    change(func(study, "bold.json"), RepetitionTime=None, VolumeTiming=[0, 5, 10])
    with pytest.raises(BadInput, match="acquired with gaps"):
        read_eeg(only(study))


def test_a_broken_sidecar_spoils_its_own_run_only(study):
    func(study, "bold.json").write_text("{")
    with pytest.raises(BadInput, match=r"cannot read the sidecar .*_bold\.json"):
        read_eeg(only(study))


# Two files of one run


@pytest.mark.parametrize("twin", ["run-01_bold.nii", "run-1_bold.nii.gz", "acq-mb_run-01_bold.nii.gz"])
def test_two_images_of_one_run_are_refused_when_read(study, twin):
    path = func(study, "bold.nii.gz").with_name(f"sub-01_task-auditory_{twin}")
    shutil.copy(func(study, "bold.nii.gz"), path)
    with pytest.raises(BadInput, match=f"there are 2 files of this one run: .*{twin}"):
        read_eeg(only(study))


def test_two_eeg_files_of_one_run_are_refused_when_read(study):
    eeg(study, "eeg.edf").touch()
    with pytest.raises(BadInput, match=r"2 files of this one run: .*eeg\.edf.*eeg\.vhdr; keep one of them"):
        read_eeg(only(study))


# EEG on the scanner's clock


@pytest.mark.parametrize(("rate_hz", "tr_s"), [(500.0, 2.0), (5000.0, 2.0), (500.0, 2.16), (250.0, 1.5), (1000.0, 0.8)])
def test_sample_0_is_the_start_of_volume_0_at_any_rate_and_repetition_time(tmp_path, monkeypatch, rate_hz, tr_s):
    monkeypatch.setattr(simulated_bids, "RATE_HZ", rate_hz)
    run = simulated_run(tr_s=tr_s)
    study = write_study(tmp_path, tr_s=tr_s)
    recording = only(study)
    signal = read_eeg(recording)
    assert recording.repetition_time_s == tr_s
    assert signal.rate_hz == rate_hz
    assert signal.eeg_uv.dtype == np.float32
    time_s = np.arange(round(VOLUMES * tr_s * rate_hz)) / rate_hz
    inner = slice(round(0.2 * rate_hz), len(time_s) - round(0.2 * rate_hz))
    known_s = np.arange(run.eeg_uv.shape[1]) / run.rate_hz
    for row in (0, 10, 33):
        expected = np.interp(time_s, known_s, run.eeg_uv[row])
        np.testing.assert_allclose(signal.eeg_uv[row, : len(time_s)][inner], expected[inner], atol=0.2)
    for own, truth in ((signal.ecg, run.ecg), (signal.eog[1], run.eog[1])):
        expected = np.interp(time_s, known_s, truth)
        np.testing.assert_allclose(own[: len(time_s)][inner], expected[inner], atol=0.3)
    np.testing.assert_allclose(signal.marker_onsets_s, run.events.onset_s, atol=1 / rate_hz)


@pytest.mark.parametrize("text", [
    "Response,R128", "Toggle,T  1", "Comment,Scan Start", "Stimulus,S128", "Volume,V", "Comment,volume", "Scan Start,",
])  # fmt: skip
def test_markers_of_volumes_may_have_many_names(study, text):
    rewrite_markers(study, lambda markers: [line.replace("Volume,V  1", text) for line in markers])
    signal = read_eeg(only(study))
    np.testing.assert_allclose(signal.marker_onsets_s, simulated_run().events.onset_s, atol=0.002)


def test_without_markers_of_volumes_the_run_is_refused_and_the_way_out_named(study):
    rewrite_markers(study, lambda markers: [line for line in markers if "Volume" not in line])
    with pytest.raises(BadInput, match=r"no marker of volumes .*only \['S125', 'S150'\]; write StartTime into"):
        read_eeg(only(study))


def test_a_stated_start_is_taken_where_there_are_no_markers(study):
    expected = read_eeg(only(study)).eeg_uv
    rewrite_markers(study, lambda markers: [])
    change(eeg(study, "eeg.json"), StartTime=-BEFORE_S)
    np.testing.assert_array_equal(read_eeg(only(study)).eeg_uv, expected)


@pytest.mark.parametrize(
    ("start_s", "problem"), [(0.5, "starts 0.500 s after the first volume"), (-100, "ends before")]
)
def test_eeg_that_misses_the_start_of_the_scan_is_refused(study, start_s, problem):
    change(eeg(study, "eeg.json"), StartTime=start_s)
    with pytest.raises(BadInput, match=problem):
        read_eeg(only(study))


def test_eeg_that_lacks_the_first_volumes_is_refused(study):
    rewrite_markers(study, lambda markers: volumes_only(markers)[2:])
    change(eeg(study, "eeg.json"), RecordingDuration=None)
    with pytest.raises(BadInput, match="lacks the markers of 2 of 12 volumes, perhaps the first ones"):
        read_eeg(only(study))


def test_volumes_that_were_discarded_are_known_by_the_sidecar(study):
    expected = read_eeg(only(study)).eeg_uv
    image = nibabel.load(func(study, "bold.nii.gz"))
    nibabel.save(image.slicer[..., 3:], func(study, "bold.nii.gz"))
    with pytest.raises(BadInput, match=r"markers of 12 volumes, the BOLD has 9; write .*DiscardedByScanner"):
        read_eeg(only(study))
    change(func(study, "bold.json"), NumberOfVolumesDiscardedByScanner=2, NumberOfVolumesDiscardedByUser=1)
    np.testing.assert_array_equal(read_eeg(only(study)).eeg_uv, expected[:, 3 * 1000 :])


def test_discarded_volumes_are_known_also_where_another_pipelines_bold_is_used(study, tmp_path):
    expected = read_eeg(only(study)).eeg_uv
    image = nibabel.load(func(study, "bold.nii.gz"))
    nibabel.save(image.slicer[..., 3:], tmp_path / "prepared.nii.gz")
    change(func(study, "bold.json"), NumberOfVolumesDiscardedByScanner=3)
    recording = replace(only(study), bold=(tmp_path / "prepared.nii.gz",), space="MNI152NLin6Asym")
    np.testing.assert_array_equal(read_eeg(recording).eeg_uv, expected[:, 3 * 1000 :])
    np.testing.assert_array_equal(read_eeg(replace(recording, events=())).eeg_uv, expected[:, 3 * 1000 :])


def test_a_series_of_several_files_counts_its_volumes(study, tmp_path):
    recording = only(study)
    image = nibabel.load(recording.bold[0])
    paths = tuple(tmp_path / f"vol{number:02d}.nii" for number in range(VOLUMES))
    for number, path in enumerate(paths):
        nibabel.save(image.slicer[..., number], path)

    assert read_eeg(replace(recording, bold=paths, space="IXI549Space")).eeg_uv.shape[0] == 34


# The clock alone


def onsets(spacing_s: float = 2.0, number: int = 20, start_s: float = 3.7) -> np.ndarray:
    return start_s + spacing_s * np.arange(number)


def start(
    onsets_s, *, tr_s: float = 2.0, volumes: int = 20, discarded: int | None = None, seconds: float = 60.0
) -> float:
    markers = [marker(float(onset_s), "Volume/V  1") for onset_s in onsets_s]
    return first_volume_s(markers, Scan(num_volumes=volumes, repetition_time_s=tr_s, discarded=discarded), seconds)


def test_the_start_is_where_the_line_through_all_markers_begins():
    jittered = onsets() + np.random.default_rng(0).normal(0, 0.001, 20)
    assert start(jittered) == pytest.approx(3.7, abs=0.001)


def test_one_marker_alone_is_taken_and_warned_of(caplog):
    assert start([3.7]) == 3.7
    assert "the drift of its clock cannot be checked" in caplog.text


def test_markers_missing_between_others_do_no_harm(caplog):
    assert start(np.delete(onsets(), [4, 5, 11])) == pytest.approx(3.7)
    assert "lacks the markers of 3 volumes" in caplog.text


def test_eeg_that_stopped_early_is_left_to_preparation():
    assert start(onsets(number=15), seconds=3.7 + 30) == pytest.approx(3.7)
    with pytest.raises(BadInput, match="perhaps the first ones"):
        start(onsets(number=15, start_s=0.5), seconds=30.5)


def test_markers_after_the_scan_are_known_by_the_sidecar(caplog):
    assert start(onsets(number=22), discarded=0) == pytest.approx(3.7)
    assert "markers of 2 volumes after the last" in caplog.text
    assert start(onsets(number=22), discarded=2) == pytest.approx(7.7)
    with pytest.raises(BadInput, match="how many at the start were not kept"):
        start(onsets(number=22), discarded=3)


def test_what_the_sidecar_says_was_discarded_does_not_count_where_all_markers_are_kept_volumes():
    assert start(onsets(), discarded=4) == pytest.approx(3.7)


@pytest.mark.parametrize(("spacing_s", "problem"), [
    (2.2, "come every 2.2 s, but the repetition time is 2 s"), (0.0625, "come every 0.0625 s"), (4.0, "come every 4 s"),
    (2.0 + 0.6 / 20, "come every|drifts by"), (2.0 + 0.018, None),
])  # fmt: skip
def test_another_spacing_than_the_repetition_time_is_refused(spacing_s, problem):
    if problem is None:
        assert start(onsets(spacing_s), volumes=20) == pytest.approx(3.7)
        return
    with pytest.raises(BadInput, match=problem):
        start(onsets(spacing_s))


def test_a_drifting_clock_is_warned_of_and_then_refused(caplog):
    assert start(onsets(2.005)) == pytest.approx(3.7)
    assert "drifts by +0.100 s" in caplog.text
    with pytest.raises(BadInput, match=r"drifts by \+0.850 s from the scanner's over the run"):
        start(onsets(2.005, number=170), volumes=170)


def test_a_pause_of_the_eeg_is_refused():
    paused = onsets(number=100)
    paused[50:] -= 1.9
    with pytest.raises(BadInput, match="more than one marker|off by up to"):
        start(paused, volumes=100)


def test_a_second_series_of_markers_in_between_is_refused():
    with pytest.raises(BadInput, match="come every 1 s"):
        start(np.sort(np.concatenate([onsets(), onsets() + 1.0])))


# Other formats


def signals_uv(seconds: float = 30.0, rate_hz: float = 250.0) -> np.ndarray:
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return np.stack([(20 + row) * np.sin(2 * np.pi * (1 + row) * time_s) for row in range(5)])


def with_eeg(study: Path, ending: str, write) -> Recording:
    """Put the EEG of another format into the place of the BrainVision files."""
    for path in eeg(study, "").parent.glob(f"{NAME}_*"):
        path.unlink()
    write(eeg(study, ending))
    change(eeg(study, "eeg.json"), SamplingFrequency=250)
    (recording,) = find_recordings(study)
    return recording


NAMES = ("Fz", "CZ", "odd", "ECG1", "VEOG")


def check_five_channels(signal) -> None:
    first = round(BEFORE_S * 250)
    assert signal.channel_names == NAMES[:3]
    assert signal.rate_hz == 250
    np.testing.assert_allclose(signal.eeg_uv, signals_uv()[:3, first:], atol=0.05)
    np.testing.assert_allclose(signal.ecg, signals_uv()[3, first:], atol=0.05)
    np.testing.assert_allclose(signal.eog, signals_uv()[4:, first:], atol=0.05)


def volume_starts() -> np.ndarray:
    return BEFORE_S + TR_S * np.arange(VOLUMES)


def write_fif(path: Path) -> None:
    raw = mne.io.RawArray(
        signals_uv() * 1e-6, mne.create_info(list(NAMES), 250.0, "eeg"), first_samp=1000, verbose="error"
    )
    raw.set_meas_date(1_000_000)
    raw.set_annotations(mne.Annotations(volume_starts() + 4.0, 0.0, "R128", orig_time=raw.info["meas_date"]))
    raw.save(path, verbose="error")


def write_set(path: Path) -> None:
    channels = np.array([(name, "") for name in NAMES], dtype=[("labels", object), ("type", object)])
    events = np.array(
        [("R128", 1 + 250 * onset) for onset in volume_starts()], dtype=[("type", object), ("latency", object)]
    )
    fields = {"nbchan": 5.0, "trials": 1.0, "pnts": 7500.0, "srate": 250.0, "xmin": 0.0, "xmax": 29.996}
    empty = {name: [] for name in ("icawinv", "icaweights", "icasphere", "epoch")}
    savemat(
        path, {"EEG": {"setname": "x", **fields, "data": signals_uv(), "chanlocs": channels, "event": events, **empty}}
    )


def write_edf(path: Path) -> None:
    """Write plain EDF: a header of text, then one record a second, int16."""
    columns = [
        [f"{name:<16}" for name in NAMES], [" " * 80] * 5, [f"{'uV':<8}"] * 5, [f"{-100:<8}"] * 5, [f"{100:<8}"] * 5,
        [f"{-32768:<8}"] * 5, [f"{32767:<8}"] * 5, [" " * 80] * 5, [f"{250:<8}"] * 5, [" " * 32] * 5,
    ]  # fmt: skip
    head = f"{'0':<8}{'X X X X':<80}{'Startdate X X X X':<80}01.01.0100.00.00{256 * 6:<8}{'':<44}{30:<8}{1:<8}{5:<4}"
    steps = np.round((signals_uv() + 100) / 200 * 65535 - 32768).astype("<i2").reshape(5, 30, 250)
    path.write_bytes(
        (head + "".join("".join(column) for column in columns)).encode() + steps.transpose(1, 0, 2).tobytes()
    )
    rows = "".join(f"{onset:.3f}\tn/a\tR128\n" for onset in volume_starts())
    path.with_name(f"{NAME}_events.tsv").write_text(f"onset\tduration\tvalue\n{rows}")


@pytest.mark.filterwarnings("ignore:This filename")
@pytest.mark.parametrize(("ending", "write"), [("eeg.fif", write_fif), ("eeg.set", write_set), ("eeg.edf", write_edf)])
def test_other_formats_are_read_and_aligned_alike(study, ending, write):
    check_five_channels(read_eeg(with_eeg(study, ending, write)))


# Channels and electrodes


def test_channels_that_are_neither_eeg_nor_ecg_nor_eog_are_left_out(study):
    table = eeg(study, "channels.tsv")
    table.write_text(table.read_text().replace("Fp1\tEEG", "Fp1\tMISC").replace("ECG\tECG", "ECG\tEMG"))
    signal = read_eeg(only(study))
    assert signal.channel_names[:2] == ("Fp2", "AF3") and len(signal.channel_names) == 33
    assert signal.ecg is None
    assert signal.eog.shape[0] == 2


def test_without_a_table_of_channels_their_names_tell(study):
    eeg(study, "channels.tsv").unlink()
    signal = read_eeg(only(study))
    assert len(signal.channel_names) == 34 and signal.ecg is not None and len(signal.eog) == 2


def test_bad_channels_are_listed(study):
    table = eeg(study, "channels.tsv")
    table.write_text(table.read_text().replace("Cz\tEEG\tuV\tgood", "Cz\tEEG\tuV\tbad"))
    assert listed_bad_channels(eeg(study, "eeg.vhdr")) == ("Cz",)
    signal = read_eeg(only(study))
    assert signal.listed_bad == ("Cz",) and "Cz" in signal.channel_names


def test_a_table_of_other_channels_is_refused(study):
    eeg(study, "channels.tsv").write_text("name\ttype\tunits\nA1\tEEG\tuV\n")
    with pytest.raises(BadInput, match="must name its channels, Fp1, Fp2"):
        read_eeg(only(study))


def test_a_run_without_any_eeg_channel_is_refused(study):
    table = eeg(study, "channels.tsv")
    table.write_text(table.read_text().replace("\tEEG\t", "\tMISC\t"))
    with pytest.raises(BadInput, match="has no EEG channel"):
        read_eeg(only(study))


def head_places(*names: str) -> dict[str, np.ndarray]:
    """Return where mne itself puts the electrodes in its head space."""
    info = mne.create_info([*names], 100.0, "eeg")
    info.set_montage("colin27_1005")
    return {channel["ch_name"]: channel["loc"][:3] for channel in info["chs"]}


def test_measured_electrodes_are_brought_to_the_head_by_landmarks(study):
    signal = read_eeg(only(study))
    for name, place in head_places("Fz", "Oz").items():
        np.testing.assert_allclose(signal.locations_m[signal.channel_names.index(name)], place, atol=1e-4)


def test_electrodes_in_a_known_head_system_are_taken_as_they_are(study):
    folder = study / "sub-01" / "eeg"
    (folder / "sub-01_electrodes.tsv").write_text("name\tx\ty\tz\nFz\t0\t6.0\t8.0\nOz\tn/a\tn/a\tn/a\n")
    (folder / "sub-01_coordsystem.json").write_text('{"EEGCoordinateSystem": "CapTrak", "EEGCoordinateUnits": "cm"}')
    signal = read_eeg(only(study))
    places = dict(zip(signal.channel_names, signal.locations_m, strict=True))
    assert places["Fz"] == (0.0, 0.06, 0.08)
    assert places["Oz"] is None and places["Cz"] is None


@pytest.mark.parametrize("system", [
    None, {"EEGCoordinateSystem": "Other", "EEGCoordinateUnits": "mm"}, {"EEGCoordinateSystem": "CapTrak"},
    {"EEGCoordinateSystem": "CapTrak", "EEGCoordinateUnits": "m"},
])  # fmt: skip
def test_electrodes_in_no_known_system_are_placed_by_their_names(study, system, caplog):
    path = study / "sub-01" / "eeg" / "sub-01_coordsystem.json"
    path.unlink() if system is None else path.write_text(json.dumps(system))
    signal = read_eeg(only(study))
    np.testing.assert_allclose(signal.locations_m[0], head_places("Fp1")["Fp1"], atol=1e-4)
    assert "electrodes are placed by their names" in caplog.text


def test_names_are_known_in_any_case_and_unknown_ones_have_no_place(study):
    (study / "sub-01" / "eeg" / "sub-01_electrodes.tsv").unlink()
    signal = read_eeg(with_eeg(study, "eeg.set", write_set))
    assert signal.locations_m[1] is not None  # CZ
    assert signal.locations_m[2] is None  # odd


# Damage


@pytest.mark.parametrize("damage", [
    lambda study: eeg(study, "eeg.vhdr").write_bytes(b""),
    lambda study: eeg(study, "eeg.vhdr").write_bytes(eeg(study, "eeg.vhdr").read_bytes()[:200]),
    lambda study: eeg(study, "eeg.vhdr").write_bytes(bytes(range(256)) * 4),
    lambda study: eeg(study, "eeg.eeg").unlink(),
    lambda study: eeg(study, "eeg.eeg").write_bytes(b""),
    lambda study: eeg(study, "eeg.vmrk").unlink(),
    lambda study: eeg(study, "eeg.vhdr").unlink(),
    lambda study: eeg(study, "eeg.json").write_text("no JSON"),
    lambda study: eeg(study, "channels.tsv").write_bytes(b"\xff\xfe\x00"),
    lambda study: func(study, "bold.nii.gz").write_bytes(b""),
], ids=[
    "empty header", "cut header", "no header at all", "no data", "empty data", "no markers", "no EEG", "broken sidecar",
    "broken table", "empty BOLD",
])  # fmt: skip
def test_damaged_files_are_refused_in_one_line(study, damage):
    recording = only(study)
    damage(study)
    with pytest.raises(BadInput) as refusal:
        read_eeg(recording)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("ending", ["eeg.edf", "eeg.set", "eeg.fif", "eeg.bdf"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 100], ids=["empty", "garbage"])
def test_damaged_files_of_other_formats_are_refused(study, ending, content):
    recording = with_eeg(study, ending, lambda path: path.write_bytes(content))
    with pytest.raises(BadInput, match="cannot read the EEG of"):
        read_eeg(recording)


def test_a_run_without_eeg_is_found_and_refused_when_read(study):
    shutil.rmtree(study / "sub-01" / "eeg")
    recording = only(study)
    assert recording.eeg is None
    with pytest.raises(BadInput, match="it has no EEG"):
        read_eeg(recording)


def test_eeg_that_still_holds_the_gradient_artefact_is_warned_of(study, caplog):
    path = eeg(study, "eeg.vhdr")
    path.write_text(path.read_text().replace(",,0.1,", ",,20,"))
    read_eeg(only(study))
    assert "does it still hold the gradient artefact?" in caplog.text


# Events


def test_events_are_those_that_were_simulated(study):
    found, known = read_events(only(study)), simulated_run().events
    np.testing.assert_allclose(found.onset_s, known.onset_s)
    np.testing.assert_allclose(found.duration_s, known.duration_s)
    np.testing.assert_allclose(found.response_time_s, known.response_time_s)
    assert found.kind == known.kind


def with_events(study: Path, text: str) -> Recording:
    func(study, "events.tsv").write_text(text)
    return only(study)


def test_rows_without_an_onset_or_a_kind_are_dropped_and_any_label_is_a_kind(study):
    text = "onset\tduration\ttrial_type\n5\t1\tface\nn/a\tn/a\tface\n3\tn/a\thouse on fire\n4\t1\tn/a\n-1\t1\tface\n"
    events = read_events(with_events(study, text))
    assert events.kind == ("face", "house on fire", "face")
    assert events.onset_s.tolist() == [-1, 3, 5]
    assert events.duration_s.tolist() == [1, 0, 1]
    assert np.isnan(events.response_time_s).all()


def test_markers_of_volumes_are_no_stimuli_but_a_stimulus_may_be_called_v(study):
    volumes = "".join(f"{2.0 * number}\t0\tR128\n" for number in range(VOLUMES))
    text = f"onset\tduration\ttrial_type\n{volumes}1\t1\tV\n8\t1\tV\n9.1\t1\tV\n"
    assert read_events(with_events(study, text)).kind == ("V", "V", "V")


@pytest.mark.parametrize(("header", "kind"), [("value", "7"), ("comment", bids.UNKNOWN_KIND)])
def test_without_trial_type_the_value_names_the_kind(study, header, kind):
    assert read_events(with_events(study, f"onset\tduration\t{header}\n5\t1\t7\n")).kind == (kind,)


@pytest.mark.parametrize(("text", "problem"), [
    ("", "must have the columns onset, duration"), ("onset\ttrial_type\n1\ta\n", "must have the columns"),
    ("onset\tduration\ttrial_type\n1\t1\n", "row 2 has 2"),
])  # fmt: skip
def test_events_that_cannot_be_understood_are_refused(study, text, problem):
    with pytest.raises(BadInput, match=problem):
        read_events(with_events(study, text))


def test_events_beside_the_eeg_are_moved_to_the_scanners_clock(study):
    table = func(study, "events.tsv")
    rows = [line.split("\t") for line in table.read_text().splitlines()]
    shifted = ["\t".join([f"{float(row[0]) + BEFORE_S:.3f}", *row[1:]]) for row in rows[1:]]
    table.unlink()
    eeg(study, "events.tsv").write_text("\n".join(["\t".join(rows[0]), *shifted, ""]))
    recording = only(study)
    assert recording.events == (eeg(study, "events.tsv"),)
    np.testing.assert_allclose(read_events(recording).onset_s, simulated_run().events.onset_s, atol=1e-6)


def test_events_may_be_one_table_for_all_runs_or_none_at_all(study):
    table = func(study, "events.tsv")
    table.rename(study / "task-auditory_events.tsv")
    assert len(read_events(only(study))) == len(simulated_run().events)
    (study / "task-auditory_events.tsv").unlink()
    assert len(read_events(only(study))) == 0


# Slices


def test_slice_times_are_those_of_the_sidecar(study):
    np.testing.assert_allclose(read_slice_times(only(study), SHAPE[2]), simulated_run().slice_times_s)


def test_slices_that_are_stored_top_down_are_turned_round(study):
    change(func(study, "bold.json"), SliceEncodingDirection="k-")
    np.testing.assert_allclose(read_slice_times(only(study), SHAPE[2]), simulated_run().slice_times_s[::-1])


def test_without_slice_timing_nobody_knows(study):
    change(func(study, "bold.json"), SliceTiming=None)
    assert read_slice_times(only(study), SHAPE[2]) is None


@pytest.mark.parametrize(("fields", "problem"), [
    ({"SliceTiming": [0, 1]}, "must give SliceTiming for 5 slices, but gives 2 times"),
    ({"SliceTiming": [0, 400, 800, 1200, 1600]}, "must lie between 0 and the repetition time, 2 s, .* give seconds"),
    ({"SliceTiming": "interleaved"}, "must be a list of seconds"), ({"SliceTiming": [[0, 1]]}, "must be a list"),
    ({"SliceEncodingDirection": "j"}, "must lie along the third axis"),
])  # fmt: skip
def test_slice_times_that_cannot_be_are_refused(study, fields, problem):
    change(func(study, "bold.json"), **fields)
    with pytest.raises(BadInput, match=problem):
        read_slice_times(only(study), SHAPE[2])


# The page that tells how to add a data set


def test_the_worked_example_of_the_page_runs(tmp_path):
    page = Path(__file__).resolve().parent.parent / "docs" / "add-a-data-set.md"
    if not page.is_file():
        pytest.skip("the pages are not there")
    example = next(
        part for part in page.read_text().split("```python\n") if part.startswith('"""Find and read the nap')
    )
    nap: dict = {}
    exec(compile(example.split("```")[0], "nap.py", "exec"), nap)
    (tmp_path / "P1").mkdir()
    (tmp_path / "P1" / "bold.nii.gz").touch()
    write_set(tmp_path / "P1" / "nap.set")
    (recording,) = nap["find_recordings"](tmp_path)
    assert recording.name == "sub-P1_task-nap_run-1"
    np.testing.assert_allclose(nap["read_eeg"](recording).eeg_uv, signals_uv(), atol=0.01)
    assert len(nap["read_events"](recording)) == 0
    assert nap["read_slice_times"](recording, 30) is None
