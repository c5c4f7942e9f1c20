"""A simulated study has ds000116's layout, the truth apart, the same bytes every time, and the link asked for."""

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from datasets import simulation
from datasets.command_line import run_command
from datasets.errors import BadInput
from datasets.oddball import find_recordings, marker_shift_s, read_bold, read_eeg, read_events
from datasets.simulate import main
from datasets.simulated_bold import neural_bold, noise_variance
from datasets.simulated_eeg import simulate_eeg
from datasets.simulated_sources import (
    LEVELS,
    SOURCES,
    Activity,
    draw_activity,
    draw_events,
    draw_traits,
    haemodynamic_response,
)
from datasets.simulation import SimulationSettings, runs_of, simulate_study, truth_folder

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
        signal, events = read_eeg(recording.eeg or Path()), read_events(recording)
        assert signal.eeg_uv.shape == (34, 40_000)
        assert 15 < signal.eeg_uv.std() < 50
        assert marker_shift_s(signal, events) == pytest.approx(0, abs=0.001)
        assert set(np.unique(signal.response_markers)) == {0, 100}
        assert np.isfinite(events.response_time_s).sum() == events.kind.count("target") > 0


def test_markers_name_the_task(study: Path) -> None:
    for recording, codes in zip(find_recordings(study)[:2], ({0, 25, 125, 150}, {0, 25, 225, 250}), strict=True):
        assert set(np.unique(read_eeg(recording.eeg or Path()).stimulus_markers)) == codes


def test_images_have_the_scanner_s_shape_voxels_and_affines(study: Path) -> None:
    recording = find_recordings(study)[0]
    bold, t1 = read_bold(recording.bold), nib.load(recording.t1 or Path())
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


def test_the_same_seed_gives_the_same_bytes_however_many_work(study: Path, tmp_path: Path) -> None:
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
        ({"signal": "loud"}, "easy, none"),
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
        simulation, "neural_bold", lambda activity, *rest: behind.append(activity) or neural_bold(activity, *rest)
    )
    simulate_study(tmp_path / "none", SimulationSettings(subjects=1, runs=1, volumes=10, signal="none"), workers=1)
    events = read_events(find_recordings(tmp_path / "none")[0])
    assert not np.isin(behind[0].events.onset_s, events.onset_s).any()


def test_bold_is_an_image_of_the_sources_at_their_places(study: Path) -> None:
    truth = truth_folder(study) / "sub001"
    head, course = np.load(truth / "subject.npz"), np.load(truth / "task001_run001.npz")
    image = read_bold(find_recordings(study)[0].bold)
    voxel_from_mni = np.linalg.inv(image.affine) @ head["scanner_from_mni"]
    found = []
    for index, source in enumerate(SOURCES):
        voxel = np.rint(voxel_from_mni @ [*source.position_mm, 1]).astype(int)[:3]
        times = 2 * np.arange(20) + 2 * voxel[2] / 32
        truth_there = course["bold_hidden"][index] * np.sqrt(0.6)
        truth_there = truth_there + course["bold_visible"][index] * np.sqrt(0.4) * head["gain"][index]
        planted = np.interp(times, course["time_s"], truth_there)
        found.append(np.corrcoef(planted, image.get_fdata(dtype=np.float32)[tuple(voxel)])[0, 1])
    assert np.mean(found) > 0.5


def test_a_target_evokes_a_larger_wave_at_300_ms_than_a_standard() -> None:
    rng = np.random.default_rng(0)
    traits, activity = draw_traits(LEVELS["easy"], rng), draw_activity("visual", 300, rng)
    eeg = simulate_eeg(activity, "visual", traits, LEVELS["easy"], 300_000, rng)[:34]
    eeg = eeg - eeg.mean(axis=0)
    size = {}
    for kind in ("target", "standard"):
        onsets = np.round(activity.events.onsets_of(kind) * 1000).astype(int)
        mean_wave = np.mean([eeg[:, onset - 100 : onset + 600] for onset in onsets], axis=0)
        size[kind] = np.abs(mean_wave[:, 350:500].mean(axis=1) - mean_wave[:, :100].mean(axis=1)).max()
    assert size["target"] > 2 * size["standard"]


def test_alpha_falls_where_its_source_is_active() -> None:
    rng = np.random.default_rng(0)
    traits, activity = draw_traits(LEVELS["easy"], rng), draw_activity("auditory", 300, rng)
    visual = [source.name for source in SOURCES].index("visual medial")
    oz = simulate_eeg(activity, "auditory", traits, LEVELS["easy"], 300_000, rng)[32].reshape(150, 2000)
    spectrum = np.abs(np.fft.rfft(oz * np.hanning(2000), axis=1)) ** 2
    around = round(traits.alpha_hz * 2)
    power = np.log(spectrum[:, around - 3 : around + 4].mean(axis=1))
    seconds = np.interp(np.arange(150) * 2 + 1, activity.time_s, activity.amplitude[visual])
    assert np.corrcoef(power, seconds)[0, 1] < -0.3


def test_stimuli_keep_the_study_s_rules() -> None:
    events = draw_events(340, np.random.default_rng(0))
    intervals = np.diff(events.onset_s)
    assert len(events) == 125
    assert events.kind.count("target") == 25
    assert events.kind[:2] == ("standard", "standard")
    assert intervals.min() >= 1.999
    assert intervals.max() <= 3.001
    assert 4.2 <= events.onset_s[0] <= 10.8


@pytest.mark.parametrize("peak_s", [4.0, 6.0, 8.0])
def test_the_haemodynamic_response_peaks_where_it_is_told(peak_s: float) -> None:
    assert haemodynamic_response(peak_s).argmax() / 10 == pytest.approx(peak_s, abs=0.2)


def test_the_noise_leaves_the_promised_share_visible() -> None:
    level = LEVELS["easy"]
    in_responsive = 0.466
    share = in_responsive * level.visible_part / (in_responsive + noise_variance(level))
    assert share == pytest.approx(level.visible_share, rel=0.01)


def test_visible_and_hidden_courses_have_unit_variance_and_are_unrelated() -> None:
    rng = np.random.default_rng(0)
    neural = neural_bold(draw_activity("visual", 340, rng), draw_traits(LEVELS["easy"], rng), LEVELS["easy"])
    np.testing.assert_allclose(neural.hidden.std(axis=1), 1)
    np.testing.assert_allclose(neural.visible.std(axis=1), 1, atol=0.2)
    related = [np.corrcoef(one, other)[0, 1] for one, other in zip(neural.visible, neural.hidden, strict=True)]
    assert abs(np.mean(related)) < 0.15
