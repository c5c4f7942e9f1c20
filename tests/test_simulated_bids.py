"""The simulator's BIDS layout: what mne and nibabel read back is what was simulated, and bytes never change."""

import json
from pathlib import Path

import mne
import nibabel
import numpy as np
import pytest
from simulated_run import SHAPE, TR_S, VOLUMES, simulated_run, simulated_subject

from datasets.bids import find_recordings, read_eeg
from datasets.clock import marker_shift_s
from datasets.oddball import CHANNELS
from datasets.recording import Events
from datasets.simulator import bids as simulated_bids
from datasets.simulator.bids import AFTER_S, BEFORE_S, RATE_HZ, BidsLayout
from datasets.simulator.layout import StudyLayout

SETTINGS = {"subjects": 2, "seed": 0}
STEM = "sub-01_task-auditory_run-01"


def write(folder: Path) -> Path:
    layout: StudyLayout = BidsLayout()
    layout.write_study(folder, SETTINGS)
    for subject in (1, 2):
        layout.write_subject(folder, simulated_subject(subject))
        for task in (1, 2):
            layout.write_run(folder, simulated_run(subject, task))
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("study"))


def opened(study: Path) -> "mne.io.BaseRaw":
    return mne.io.read_raw_brainvision(study / "sub-01" / "eeg" / f"{STEM}_eeg.vhdr", verbose="error")


def test_the_files_are_those_of_a_bids_data_set(study):
    names = {path.relative_to(study).as_posix() for path in study.rglob("*") if path.is_file()}
    own = {name for name in names if name.startswith("sub-01/")}
    assert names - own >= {
        "dataset_description.json", "participants.tsv", "README", "task-auditory_bold.json", "task-visual_bold.json",
    }  # fmt: skip
    assert {name for name in own if "visual" not in name} == {
        "sub-01/anat/sub-01_T1w.nii.gz",
        *(f"sub-01/func/{STEM}_{ending}" for ending in ("bold.nii.gz", "bold.json", "events.tsv")),
        *(f"sub-01/eeg/{STEM}_{ending}" for ending in ("eeg.eeg", "eeg.vhdr", "eeg.vmrk", "eeg.json", "channels.tsv")),
        "sub-01/eeg/sub-01_electrodes.tsv",
        "sub-01/eeg/sub-01_coordsystem.json",
    }
    assert (study / "participants.tsv").read_text() == "participant_id\nsub-01\nsub-02\n"
    assert json.loads((study / "dataset_description.json").read_text())["BIDSVersion"]


def test_two_writings_are_the_same_to_the_last_byte(study, tmp_path):
    again = write(tmp_path)
    for path in sorted(path for path in study.rglob("*") if path.is_file()):
        assert path.read_bytes() == (again / path.relative_to(study)).read_bytes(), path.name


def test_mne_reads_the_same_microvolts_without_a_warning(study):
    raw, run = opened(study), simulated_run()
    assert raw.info["sfreq"] == RATE_HZ
    assert raw.ch_names == [*CHANNELS, "ECG", "HEOG", "VEOG"]
    assert raw.n_times == round((VOLUMES * TR_S + BEFORE_S + AFTER_S) * RATE_HZ)
    first, num = round(BEFORE_S * RATE_HZ), round(VOLUMES * TR_S * RATE_HZ)
    known = np.vstack([run.eeg_uv, run.ecg, run.eog])[:, ::2]
    found = raw.get_data()[:, first : first + num] * 1e6
    assert np.abs(found - known)[:, 50:-50].max() < 0.1


def test_markers_are_volumes_and_stimuli_on_the_eegs_own_clock(study):
    annotations, run = opened(study).annotations, simulated_run()
    onset_s = {text: annotations.onset[annotations.description == text] for text in set(annotations.description)}
    np.testing.assert_allclose(onset_s["Volume/V  1"], BEFORE_S + TR_S * np.arange(VOLUMES), atol=1e-6)
    np.testing.assert_allclose(onset_s["Stimulus/S125"], BEFORE_S + run.events.onsets_of("standard"), atol=1 / RATE_HZ)
    np.testing.assert_allclose(onset_s["Stimulus/S150"], BEFORE_S + run.events.onsets_of("target"), atol=1 / RATE_HZ)


def test_the_reader_finds_every_run_and_one_clock(study):
    recordings = find_recordings(study)
    assert [recording.name for recording in recordings] == [
        f"sub-0{subject}_task-{task}_run-1" for subject in (1, 2) for task in ("auditory", "visual")
    ]
    signal = read_eeg(recordings[0])
    shift_s = marker_shift_s(signal, simulated_run().events)
    assert shift_s == pytest.approx(0, abs=1 / RATE_HZ)


def test_images_keep_values_affine_and_repetition_time(study):
    run = simulated_run()
    bold = nibabel.load(study / "sub-01" / "func" / f"{STEM}_bold.nii.gz")
    np.testing.assert_array_equal(np.asarray(bold.dataobj), run.bold)
    np.testing.assert_allclose(bold.affine, run.epi_affine)
    assert bold.header.get_zooms()[3] == TR_S
    assert bold.header.get_xyzt_units() == ("mm", "sec")
    sidecar = json.loads((study / "sub-01" / "func" / f"{STEM}_bold.json").read_text())
    assert sidecar["RepetitionTime"] == TR_S and len(sidecar["SliceTiming"]) == SHAPE[2]
    t1 = nibabel.load(study / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    np.testing.assert_array_equal(np.asarray(t1.dataobj), simulated_subject().t1)


def test_a_run_is_whole_once_its_bold_is_there_and_a_subject_once_its_t1_is(tmp_path):
    layout = BidsLayout()
    assert not layout.is_run_whole(tmp_path, 1, 1, 1) and not layout.is_subject_whole(tmp_path, 1)
    layout.write_run(tmp_path, simulated_run())
    assert layout.is_run_whole(tmp_path, 1, 1, 1)
    assert not layout.is_run_whole(tmp_path, 1, 2, 1) and not layout.is_subject_whole(tmp_path, 1)
    layout.write_subject(tmp_path, simulated_subject())
    assert layout.is_subject_whole(tmp_path, 1)


def test_an_interrupted_run_has_no_bold(tmp_path, monkeypatch):
    written: list[str] = []

    def stop_at_events(path: Path, events: Events) -> None:
        del events
        written.append(path.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(simulated_bids, "_write_events", stop_at_events)
    with pytest.raises(KeyboardInterrupt):
        BidsLayout().write_run(tmp_path, simulated_run())
    assert written and not BidsLayout().is_run_whole(tmp_path, 1, 1, 1)


def test_large_channels_get_a_coarser_step_instead_of_being_clipped(tmp_path):
    run = simulated_run()
    run.eeg_uv[3] *= 500
    BidsLayout().write_run(tmp_path, run)
    raw = opened(tmp_path)
    first = round(BEFORE_S * RATE_HZ)
    found = raw.get_data([3])[0, first : first + 10_000] * 1e6
    assert np.abs(run.eeg_uv[3]).max() > 6000
    np.testing.assert_allclose(found[50:], run.eeg_uv[3, ::2][50:10_000], atol=2)
