"""A simulated study has ds000116's layout, the truth apart, the same bytes every time, and the link asked for."""

import hashlib
import json
import logging
import shlex
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.io import loadmat

from datasets import bids
from datasets.clock import marker_shift_s
from datasets.command_line import run_command
from datasets.errors import BadInput
from datasets.images import read_bold
from datasets.oddball import find_recordings, read_eeg, read_events, read_slice_times
from datasets.recording import Recording
from datasets.simulate import main
from datasets.simulator import runs as simulated_runs
from datasets.simulator.bold import neural_bold
from datasets.simulator.sources import Activity
from datasets.simulator.study import SimulationSettings, runs_of, simulate_study, truth_folder
from platform import search

TINY = SimulationSettings(subjects=2, runs=2, volumes=20, seed=3)
"""A study that takes some five seconds."""

FILES_OF_A_RUN = (
    "BOLD/{run}/bold.nii.gz",
    "EEG/{run}/EEG_rereferenced.mat",
    "behav/{run}/behavdata.txt",
    "model/model001/onsets/{run}/cond001.txt",
    "model/model001/onsets/{run}/cond002.txt",
    "model/model001/onsets/{run}/cond003.txt",
)


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def activity_behind(truth: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what moved the EEG's amplitudes and bursts, and what moved the BOLD, of one run."""
    courses = np.load(truth / "sub001" / f"{name}.npz")
    return courses["eeg_amplitude"] + courses["eeg_burst"], courses["bold_visible"]


def matrix(recording: Recording) -> np.ndarray:
    """Return the rows of a run's EEG_rereferenced.mat."""
    return loadmat(recording.eeg or "")["data_reref"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "study"
    simulate_study(folder, TINY, workers=1)
    return folder


def test_the_layout_is_the_legacy_one_and_the_truth_lies_apart(study: Path) -> None:
    of_a_subject = ["anatomy/highresSPGR001.nii.gz"]
    of_a_subject += [name.format(run=run) for run in ("task001_run001", "task002_run001") for name in FILES_OF_A_RUN]
    expected = {f"sub00{number}/{name}" for number in (1, 2) for name in of_a_subject}
    assert set(digests(study)) == expected | {"README", "slice_order.txt", "simulation.json"}
    assert "SIMULATED" in (study / "README").read_text()
    assert (study / "slice_order.txt").read_text().split() == [str(number) for number in range(1, 33)]
    assert truth_folder(study) == study.parent / "study-truth"
    assert (truth_folder(study) / "sub002" / "task002_run001.npz").is_file()


def test_the_reader_of_the_real_study_reads_it(study: Path) -> None:
    recordings = find_recordings(study)
    assert [recording.name for recording in recordings] == [
        f"sub-0{number}_task-{task}_run-1" for number in (1, 2) for task in ("auditory", "visual")
    ]
    for recording in recordings:
        signal, events = read_eeg(recording), read_events(recording)
        assert signal.eeg_uv.shape == (34, 40_000)
        assert 15 < signal.eeg_uv.std() < 50
        assert marker_shift_s(signal, events) == pytest.approx(0, abs=0.001)
        assert set(np.unique(matrix(recording)[36])) == {0, 100}
        assert np.isfinite(events.response_time_s).sum() == events.kind.count("target") > 0
        np.testing.assert_allclose(read_slice_times(recording, 32), np.arange(32) / 16)


def test_markers_name_the_task(study: Path) -> None:
    for recording, codes in zip(find_recordings(study)[:2], ({0, 25, 125, 150}, {0, 25, 225, 250}), strict=True):
        assert set(np.unique(matrix(recording)[35])) == codes


def test_images_have_the_scanner_s_shape_voxels_and_affines(study: Path) -> None:
    recording = find_recordings(study)[0]
    bold, t1 = nib.load(recording.bold[0]), nib.load(recording.t1 or Path())
    assert (bold.shape, bold.get_data_dtype()) == ((64, 64, 32, 20), np.int16)
    assert bold.header.get_zooms() == (3, 3, 4, 2)
    for image in (bold, t1):
        np.testing.assert_allclose(image.header.get_qform(), image.header.get_sform(), atol=1e-4)
        assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (1, 1)


def test_subjects_lie_elsewhere_than_the_template_and_each_other(study: Path) -> None:
    heads = [np.load(truth_folder(study) / f"sub00{number}" / "subject.npz")["scanner_from_mni"] for number in (1, 2)]
    assert np.abs(heads[0] - heads[1]).max() > 0.5
    for head in heads:
        assert np.linalg.norm(head[:3, 3]) <= 10
        assert 0.8 < np.linalg.det(head[:3, :3]) < 1.2


def test_the_same_seed_gives_the_same_bytes_however_many_work_with_however_many_threads(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    simulate_study(tmp_path / "study", TINY, workers=2)
    assert digests(tmp_path / "study") == digests(study)
    assert digests(truth_folder(tmp_path / "study")) == digests(truth_folder(study))


def test_an_interrupted_study_goes_on_and_a_complete_one_is_left_alone(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small, folder = replace(TINY, subjects=1), tmp_path / "study"
    simulate_study(folder, small, workers=1)
    kept, lost = folder / "sub001/BOLD/task001_run001/bold.nii.gz", folder / "sub001/BOLD/task002_run001/bold.nii.gz"
    before = kept.stat().st_mtime_ns
    lost.unlink()
    (folder / "simulation.json").unlink()
    simulate_study(folder, small, workers=1)
    assert kept.stat().st_mtime_ns == before
    assert lost.read_bytes() == (study / lost.relative_to(folder)).read_bytes()
    with caplog.at_level(logging.INFO):
        simulate_study(folder, small, workers=1)
    assert "already holds this study" in caplog.text


def test_a_study_with_other_settings_is_refused_also_when_it_was_interrupted(study: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"subjects is 2 there, not 3; seed is 3 there, not 4; choose another folder"):
        simulate_study(study, replace(TINY, subjects=3, seed=4), workers=1)
    interrupted = tmp_path / "interrupted"
    truth_folder(interrupted).mkdir()
    (truth_folder(interrupted) / "settings.json").write_text(json.dumps({"subjects": 2}))
    with pytest.raises(BadInput, match="volumes is None there"):
        simulate_study(interrupted, TINY, workers=1)


def test_a_folder_with_other_contents_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(BadInput, match="new or empty folder"):
        simulate_study(tmp_path, TINY, workers=1)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"volumes": 5}, "--volumes"),
        ({"signal": "loud"}, "easy, realistic, hard, none, trap, events"),
        ({"layout": "flat"}, "--layout must be one of legacy, bids"),
        ({"eeg_files": "raw"}, "--eeg-files must be one of rereferenced, all"),
        ({"seed": -1}, "--seed"),
        ({"subjects": 0}, "--subjects"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, int], complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        replace(TINY, **wrong)


def test_the_command_prints_where_the_study_lies_and_what_comes_next(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["simulate", str(study), "--subjects=2", "--runs=2", "--volumes=20", "--seed=3"]
    monkeypatch.setattr("sys.argv", words)
    assert run_command(main) == 0
    assert f"python -m datasets.prepare {study} SHARDS" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*words, "--signal=none"])
    assert run_command(main) == 2
    assert "signal is easy there, not none" in capsys.readouterr().err


def test_object_storage_is_refused_in_one_line_and_no_folder_is_made_of_its_name(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["simulate", "--fast", "s3://bucket/shards"])
    assert run_command(main) == 2
    assert "OUT must be a local folder, but got s3://bucket/shards" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_the_command_that_comes_next_is_one_that_the_search_understands(tmp_path, monkeypatch, capsys) -> None:
    words = ["simulate", "--fast", str(tmp_path / "a study"), "--subjects=4", "--runs=1", "--volumes=40", "--workers=1"]
    monkeypatch.setattr("sys.argv", words)
    assert run_command(main) == 0
    _, command = capsys.readouterr().out.split("next:")
    monkeypatch.setattr("sys.argv", shlex.split(command)[2:])
    assert search.parse_arguments().shards == str(tmp_path / "a study")


@pytest.mark.parametrize(
    ("num_runs", "pairs"), [(1, [(1, 1)]), (2, [(1, 1), (2, 1)]), (3, [(1, 1), (1, 2), (2, 1)]), (6, None)]
)
def test_runs_are_split_over_the_tasks_and_an_odd_one_is_auditory(
    num_runs: int, pairs: list[tuple[int, int]] | None
) -> None:
    assert runs_of(num_runs) == (pairs or [(task, run) for task in (1, 2) for run in (1, 2, 3)])


def test_easy_couples_eeg_and_bold_and_none_gives_the_bold_its_own_activity_and_stimuli(tmp_path: Path) -> None:
    files, correlations = {}, {}
    for signal in ("easy", "none"):
        settings = SimulationSettings(subjects=1, runs=1, volumes=40, signal=signal)
        simulate_study(tmp_path / signal, settings, workers=1)
        folder = tmp_path / signal / "sub001"
        files[signal] = [(folder / name.format(run="task001_run001")).read_bytes() for name in FILES_OF_A_RUN]
        eeg, bold = activity_behind(truth_folder(tmp_path / signal), "task001_run001")
        pairs = zip(eeg[:, :-50], bold[:, 50:], strict=True)
        correlations[signal] = np.mean([np.corrcoef(one, other)[0, 1] for one, other in pairs])
    assert files["easy"][1:] == files["none"][1:], "EEG and events must be the same with either signal"
    assert files["easy"][0] != files["none"][0]
    assert correlations["easy"] > 0.5
    assert abs(correlations["none"]) < 0.3


def test_with_none_the_bold_is_evoked_by_other_stimuli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    behind: list[Activity] = []
    monkeypatch.setattr(
        simulated_runs, "neural_bold", lambda activity, *rest: behind.append(activity) or neural_bold(activity, *rest)
    )
    simulate_study(tmp_path / "none", SimulationSettings(subjects=1, runs=1, volumes=10, signal="none"), workers=1)
    events = read_events(find_recordings(tmp_path / "none")[0])
    assert not np.isin(behind[0].events.onset_s, events.onset_s).any()


def test_all_eeg_files_hold_the_body_in_the_rows_of_the_real_study(tmp_path: Path) -> None:
    settings = SimulationSettings(subjects=1, runs=1, volumes=12, eeg_files="all")
    simulate_study(tmp_path / "study", settings, workers=1)
    [recording] = find_recordings(tmp_path / "study")
    signal = read_eeg(recording)
    assert (signal.eeg_uv.shape, signal.eog.shape) == ((34, 24_000), (2, 24_000))
    bipolar = read_eeg(recording, "noGA")
    assert bipolar.eeg_uv.shape == (43, 24_000)
    np.testing.assert_allclose(bipolar.eeg_uv[0], signal.eeg_uv[0] - signal.eeg_uv[1], atol=1e-3)


def test_the_same_study_as_bids_holds_the_same_bold_and_t1(study: Path, tmp_path: Path) -> None:
    simulate_study(tmp_path / "bids", replace(TINY, subjects=1, layout="bids"), workers=1)
    for legacy, plain in zip(find_recordings(study)[:2], bids.find_recordings(tmp_path / "bids"), strict=True):
        assert legacy.name == plain.name
        np.testing.assert_array_equal(read_bold(legacy.bold).dataobj, read_bold(plain.bold).dataobj)
        np.testing.assert_array_equal(nib.load(legacy.t1 or "").dataobj, nib.load(plain.t1 or "").dataobj)
