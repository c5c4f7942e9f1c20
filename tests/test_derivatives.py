"""Output of fMRIPrep and SPM in place of the raw BOLD: found, ordered, never mixed, never silently shifted."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from datasets.derivatives import (
    FMRIPREP_SPACES,
    SPM_SPACE,
    common_space,
    read_pipeline_confounds,
    use_fmriprep,
    use_spm,
)
from datasets.errors import BadInput
from datasets.images import read_bold
from datasets.recording import SCANNER, Recording

NEW, OLD = FMRIPREP_SPACES
VOLUMES = 12


def image(path: Path, volumes: int = VOLUMES, value: int = 0) -> Path:
    """Write an image of one voxel and its neighbours; a single volume is 3-D and full of ``value``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full((2, 2, 2), value, np.int16) if volumes == 1 else np.ones((2, 2, 2, volumes), np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    return path


@pytest.fixture
def raw(tmp_path: Path) -> list[Recording]:
    """Two subjects of a BIDS data set with two runs each."""
    return [bids_recording(tmp_path / "raw", subject, run) for subject in ("01", "02") for run in (1, 2)]


def bids_recording(root: Path, subject: str, run: int) -> Recording:
    name = f"sub-{subject}_task-rest_run-{run}"
    bold = image(root / f"sub-{subject}" / "func" / f"{name}_bold.nii.gz")
    return Recording(
        subject=f"sub-{subject}",
        task="rest",
        run=run,
        bold=(bold,),
        data_set="bids",
        slice_order=bold.with_name(f"{name}_bold.json"),
    )


def legacy_recording(root: Path, run: int = 1, task: int = 1) -> Recording:
    path = root / "sub003" / "BOLD" / f"task{task:03d}_run{run:03d}" / "bold.nii.gz"
    return Recording(subject="sub-03", task={1: "auditory", 2: "visual"}[task], run=run, bold=(image(path),))


def prepared(folder: Path, recording: Recording, space: str = NEW, *, res: str = "", volumes: int = VOLUMES) -> Path:
    """Write what fMRIPrep leaves of a run's BOLD: image, mask and confounds."""
    stem = recording.bold[0].name.removesuffix("_bold.nii.gz")
    place = folder / recording.subject / "func"
    entities = f"{stem}_space-{space}{f'_res-{res}' if res else ''}"
    image(place / f"{entities}_desc-brain_mask.nii.gz", 1, 1)
    (place / f"{stem}_desc-confounds_timeseries.tsv").write_text("trans_x\n" + "0.1\n" * volumes)
    return image(place / f"{entities}_desc-preproc_bold.nii.gz", volumes)


# fMRIPrep


def test_fmriprep_replaces_the_bold_and_brings_mask_confounds_and_space(raw, tmp_path):
    bold = [prepared(tmp_path / "out", recording) for recording in raw]
    used = use_fmriprep(raw, tmp_path / "out")
    assert [recording.name for recording in used] == [recording.name for recording in raw]
    assert [recording.bold for recording in used] == [(path,) for path in bold]
    assert {recording.space for recording in used} == {NEW}
    assert used[0].brain_mask.name == f"sub-01_task-rest_run-1_space-{NEW}_desc-brain_mask.nii.gz"
    assert used[0].confounds.name == "sub-01_task-rest_run-1_desc-confounds_timeseries.tsv"
    assert all(path.is_file() for path in used[0].files)
    assert used[0].slice_order is None


def test_a_run_without_output_cannot_be_used_and_says_why(raw, tmp_path):
    for recording in raw[:3]:
        prepared(tmp_path / "out", recording)
    used = use_fmriprep(raw, tmp_path / "out")
    assert [bool(recording.fault) for recording in used] == [False, False, False, True]
    assert used[3].name == "sub-02_task-rest_run-2" and "there is no *_space-" in used[3].fault


def test_of_two_templates_the_newer_is_taken_for_all_and_said(raw, tmp_path, caplog):
    for recording in raw:
        for space in (NEW, OLD):
            prepared(tmp_path / "out", recording, space)
    assert common_space(use_fmriprep(raw, tmp_path / "out")) == NEW
    assert f"{NEW} is taken for all" in caplog.text


def test_templates_are_not_mixed_where_runs_differ(raw, tmp_path):
    prepared(tmp_path / "out", raw[0], NEW)
    for recording in raw[1:]:
        prepared(tmp_path / "out", recording, OLD)
    used = use_fmriprep(raw, tmp_path / "out")
    assert common_space(used) == OLD
    assert [bool(recording.fault) for recording in used] == [True, *[False] * len(raw[1:])]


@pytest.mark.parametrize(("resolutions", "taken"), [(("", "2"), ""), (("2", "native"), "2"), (("02",), "02")])
def test_any_resolution_is_read_and_one_taken(raw, tmp_path, resolutions, taken):
    for res in resolutions:
        prepared(tmp_path / "out", raw[0], OLD, res=res)
    (used,) = use_fmriprep(raw[:1], tmp_path / "out")
    assert (
        used.bold[0].name
        == f"sub-01_task-rest_run-1_space-{OLD}{f'_res-{taken}' if taken else ''}_desc-preproc_bold.nii.gz"
    )
    assert used.brain_mask.name == used.bold[0].name.replace("preproc_bold", "brain_mask")


def test_output_with_another_number_of_volumes_is_a_fault(raw, tmp_path):
    prepared(tmp_path / "out", raw[0], volumes=VOLUMES - 2)
    prepared(tmp_path / "out", raw[1])
    faults = [recording.fault for recording in use_fmriprep(raw[:2], tmp_path / "out")]
    assert "it has 10 volumes, the raw run has 12" in faults[0] and not faults[1]


@pytest.mark.parametrize("rows", [VOLUMES - 1, VOLUMES + 1])
def test_a_table_of_confounds_of_another_length_is_a_fault(raw, tmp_path, rows):
    first = prepared(tmp_path / "out", raw[0])
    prepared(tmp_path / "out", raw[1])
    table = first.with_name(f"{first.name.split('_space-')[0]}_desc-confounds_timeseries.tsv")
    table.write_text("trans_x\n" + "0.1\n" * rows)
    faults = [recording.fault for recording in use_fmriprep(raw[:2], tmp_path / "out")]
    assert f"it has {rows} rows, but the run has {VOLUMES} volumes" in faults[0]
    assert faults[1] == ""


def test_output_without_slice_timing_is_warned_of(raw, tmp_path, caplog):
    bold = prepared(tmp_path / "out", raw[0])
    bold.with_name(bold.name.replace(".nii.gz", ".json")).write_text(json.dumps({"SliceTimingCorrected": False}))
    use_fmriprep(raw[:1], tmp_path / "out")
    assert "was not corrected for slice timing" in caplog.text


def test_sessions_and_subjects_without_padding_are_matched_by_name(tmp_path):
    path = image(tmp_path / "raw" / "sub-1" / "ses-b" / "func" / "sub-1_ses-b_task-rest_bold.nii.gz")
    recording = Recording(subject="sub-1", task="rest", run=2, bold=(path,), data_set="bids")
    name = f"sub-1_ses-{{}}_task-rest_space-{NEW}_desc-preproc_bold.nii.gz"
    image(tmp_path / "out" / "sub-1" / "ses-a" / "func" / name.format("a"))
    wanted = image(tmp_path / "out" / "sub-1" / "ses-b" / "func" / name.format("b"))
    assert use_fmriprep([recording], tmp_path / "out")[0].bold == (wanted,)


def test_output_of_the_bids_version_serves_a_legacy_recording(tmp_path):
    recording = legacy_recording(tmp_path / "raw", run=2)
    name = f"sub-03_task-auditoryoddballwithbuttonresponsetotargetstimuli_run-02_space-{NEW}_desc-preproc_bold.nii.gz"
    wanted = image(tmp_path / "out" / "fmriprep" / "sub-03" / "func" / name)
    assert use_fmriprep([recording], tmp_path / "out")[0].bold == (wanted,)


@pytest.mark.parametrize("use", [use_fmriprep, use_spm])
def test_a_folder_without_output_is_refused(raw, tmp_path, use):
    with pytest.raises(BadInput, match="no recording has "):
        use(raw, tmp_path)
    with pytest.raises(BadInput, match="there is no such folder"):
        use(raw, tmp_path / "missing")


# SPM


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_spms_4d_series_are_found_by_bids_name(raw, tmp_path, suffix):
    wanted = [
        image(tmp_path / "spm" / r.subject / "func" / f"swar{r.bold[0].name.removesuffix('.nii.gz')}{suffix}")
        for r in raw
    ]
    used = use_spm(raw, tmp_path / "spm")
    assert [recording.bold for recording in used] == [(path,) for path in wanted]
    assert common_space(used) == SPM_SPACE == "IXI549Space"


@pytest.mark.parametrize("name", [
    "swarbold_{:05d}.nii", "swarbold_{:d}.nii", "swarf0004-0005-{:05d}-{:06d}-01.nii", "swarvol{:d}.nii",
])  # fmt: skip
def test_spms_3d_files_come_in_the_order_of_their_volumes(tmp_path, name):
    recording = legacy_recording(tmp_path / "raw")
    folder = tmp_path / "spm" / "sub003" / "BOLD" / "task001_run001"
    for volume in range(1, VOLUMES + 1):
        image(folder / name.format(volume, volume), 1, value=volume)
    (used,) = use_spm([recording], tmp_path / "spm")
    assert read_bold(used.bold).get_fdata()[0, 0, 0].tolist() == list(range(1, VOLUMES + 1))


def test_spms_3d_files_are_found_by_bids_name_with_the_volumes_number_after_it(raw, tmp_path):
    stem = raw[0].bold[0].name.removesuffix(".nii.gz")
    paths = tuple(image(tmp_path / "spm" / f"swar{stem}_{number:05d}.nii", 1) for number in range(1, VOLUMES + 1))
    first, *others = use_spm(raw, tmp_path / "spm")
    assert (first.bold, first.fault) == (paths, "")
    assert all("there is no" in other.fault for other in others)


def test_a_missing_volume_is_the_runs_fault(tmp_path):
    recordings = [legacy_recording(tmp_path / "raw", run) for run in (1, 2)]
    for run in (1, 2):
        for volume in range(1, VOLUMES + 1):
            if (run, volume) != (1, 5):
                image(tmp_path / "spm" / "sub003" / "BOLD" / f"task001_run00{run}" / f"swarbold_{volume:05d}.nii", 1)
    faults = [recording.fault for recording in use_spm(recordings, tmp_path / "spm")]
    assert "volumes are missing between swarbold_00001.nii and swarbold_00012.nii" in faults[0] and not faults[1]


@pytest.mark.parametrize(("prefixes", "taken", "lacking"), [
    (("sw", "swa", "swar"), "swar", []), (("sw", "swra"), "swra", []), (("s8wau",), "s8wau", []),
    (("sw", "swa"), "swa", ["realigned"]), (("swr",), "swr", ["slice timing"]), (("sw",), "sw", ["slice", "realigned"]),
])  # fmt: skip
def test_the_longest_history_is_taken_and_what_lacks_is_said(raw, tmp_path, caplog, prefixes, taken, lacking):
    for prefix in prefixes:
        image(tmp_path / "spm" / "sub-01" / "func" / f"{prefix}{raw[0].bold[0].name}")
    (used,) = use_spm(raw[:1], tmp_path / "spm")
    assert used.bold[0].name == f"{taken}{raw[0].bold[0].name}"
    said = [line for line in caplog.text.splitlines() if "by its name" in line]
    assert len(said) == len(lacking) and all(word in line for word, line in zip(lacking, said, strict=True))


def test_a_legacy_run_is_found_for_a_recording_known_by_its_bids_name(tmp_path):
    name = "sub-03_task-visualoddballwithbuttonresponsetotargetstimuli_run-02_bold.nii.gz"
    bold = image(tmp_path / "raw" / "sub-03" / "func" / name)
    recording = Recording(subject="sub-03", task="visual", run=2, bold=(bold,))
    wanted = image(tmp_path / "spm" / "sub003" / "BOLD" / "task002_run002" / "swarbold.nii")
    image(tmp_path / "spm" / "sub003" / "BOLD" / "task001_run002" / "swarbold.nii")
    assert use_spm([recording], tmp_path / "spm")[0].bold == (wanted,)


def test_two_series_of_one_run_are_not_chosen_between(tmp_path):
    recordings = [legacy_recording(tmp_path / "raw", run) for run in (1, 2)]
    for run, names in {1: ("swarbold.nii", "swarbold_mcf.nii"), 2: ("swarbold.nii",)}.items():
        for name in names:
            image(tmp_path / "spm" / "sub003" / "BOLD" / f"task001_run00{run}" / name)
    faults = [recording.fault for recording in use_spm(recordings, tmp_path / "spm")]
    assert "there are 2 series of one run" in faults[0] and not faults[1]


def test_spms_motion_parameters_come_along(tmp_path):
    recording = legacy_recording(tmp_path / "raw")
    bold = image(tmp_path / "spm" / "sub003" / "BOLD" / "task001_run001" / "swarbold.nii")
    np.savetxt(bold.with_name("rp_abold.txt"), np.tile([1, 2, 3, 0.01, 0.02, 0.03], (VOLUMES, 1)))
    (used,) = use_spm([recording], tmp_path / "spm")
    confounds = read_pipeline_confounds(used.confounds)
    assert confounds["trans_y"].tolist() == [2] * VOLUMES and confounds["rot_z"].tolist() == [0.03] * VOLUMES
    assert confounds["framewise_displacement"].tolist() == [0] * VOLUMES
    assert np.isnan(confounds["csf_signal"]).all()


# Confounds and spaces


def test_fmripreps_confounds_get_our_names_and_nan_where_nothing_is_known(tmp_path):
    path = tmp_path / "sub-01_desc-confounds_timeseries.tsv"
    path.write_text(
        "csf\twhite_matter\tframewise_displacement\ttrans_x\trot_z\ta_comp_cor_00\n"
        "10.5\t20\tn/a\t0\t0\t1\n11\t21\t0.3\t0.1\t-0.02\t2\n"
    )
    confounds = read_pipeline_confounds(path)
    np.testing.assert_array_equal(confounds["csf_signal"], [10.5, 11])
    np.testing.assert_array_equal(confounds["white_signal"], [20, 21])
    np.testing.assert_array_equal(confounds["framewise_displacement"], [np.nan, 0.3])
    np.testing.assert_array_equal(confounds["rot_z"], [0, -0.02])
    np.testing.assert_array_equal(confounds["trans_y"], [np.nan, np.nan])
    assert set(confounds) == {
        "trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z", "framewise_displacement", "global_signal",
        "csf_signal", "white_signal",
    }  # fmt: skip
    assert all(values.dtype == np.float64 and values.shape == (2,) for values in confounds.values())


@pytest.mark.parametrize(("name", "content"), [
    ("a.tsv", "a\tb\n1\n"), ("a.tsv", ""), ("a.txt", "1 2 3\n"), ("a.txt", "words\n"), ("a.txt", "1 2\n3\n"),
])  # fmt: skip
def test_confounds_that_cannot_be_read_are_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput):
        read_pipeline_confounds(tmp_path / name)


def test_the_older_name_of_the_confounds_is_known(raw, tmp_path):
    bold = prepared(tmp_path / "out", raw[0])
    table = bold.with_name("sub-01_task-rest_run-1_desc-confounds_timeseries.tsv")
    older = table.rename(table.with_name("sub-01_task-rest_run-1_desc-confounds_regressors.tsv"))
    assert use_fmriprep(raw[:1], tmp_path / "out")[0].confounds == older


def test_spaces_are_never_mixed(raw):
    assert common_space(raw) == SCANNER
    with pytest.raises(BadInput, match="1 in IXI549Space, 3 in scanner; prepare them apart"):
        common_space([replace(raw[0], space=SPM_SPACE), *raw[1:]])
    with pytest.raises(BadInput, match="none"):
        common_space([])


def test_nothing_is_said_where_nothing_is_wrong(raw, tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="datasets")
    for recording in raw:
        prepared(tmp_path / "out", recording)
    use_fmriprep(raw, tmp_path / "out")
    assert not caplog.records
