"""The truth beside a study tells where the head lay and what was planted, as the recordings show it."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from datasets.grid import mask_points_mm, tissue_mask
from datasets.simulator.bold import slice_times_s
from datasets.simulator.motion import poses
from datasets.simulator.study import SimulationSettings, simulate_study, subject_truth_folder
from datasets.simulator.truth import planted_signal, read_run, read_space, true_epi_points, true_poses

VOLUMES = 40
NAME = "task001_run001"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "study"
    simulate_study(folder, SimulationSettings(subjects=1, runs=1, volumes=VOLUMES, seed=1), workers=1)
    return folder


@pytest.fixture
def truth(study: Path) -> Path:
    return subject_truth_folder(study, 1)


def test_the_planted_signal_is_found_at_the_true_points_and_slice_times(study: Path, truth: Path) -> None:
    points = mask_points_mm(tissue_mask())[::7]
    image = nib.load(study / "sub001" / "BOLD" / NAME / "bold.nii.gz")
    inverse = np.linalg.inv(image.affine)
    voxels = np.rint(true_epi_points(truth, points) @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    inside = ((voxels >= 0) & (voxels < image.shape[:3])).all(axis=1)
    volumes = np.asarray(image.dataobj, dtype=np.float64)
    planted = planted_signal(truth, NAME, points, 2.0 * np.arange(VOLUMES) + 1)
    strong = np.flatnonzero(inside & (planted.std(axis=0) > 0.6 * planted.std(axis=0).max()))
    time = np.linspace(-1, 1, VOLUMES)
    drift = np.stack([np.ones(VOLUMES), time, np.cos(np.pi * time)], axis=1)
    found = []
    for voxel in strong:
        at = 2.0 * np.arange(VOLUMES) + slice_times_s()[voxels[voxel, 2]]
        course = volumes[tuple(voxels[voxel])]
        course = course - drift @ np.linalg.lstsq(drift, course, rcond=None)[0]
        there = planted_signal(truth, NAME, points[[voxel]], at)[:, 0]
        found.append(np.corrcoef(course, there)[0, 1])
    assert len(found) > 20
    assert np.mean(found) > 0.4


def test_poses_are_those_of_the_slices_in_the_middle_of_each_volume(truth: Path) -> None:
    run, found = read_run(truth, NAME), true_poses(truth, NAME)
    assert found.shape == (VOLUMES, 4, 4)
    np.testing.assert_allclose(found, poses(run.slice_motion[:, 16]), atol=1e-9)
    np.testing.assert_allclose(
        found[:, :3, :3] @ found[:, :3, :3].transpose(0, 2, 1), np.eye(3)[None].repeat(VOLUMES, 0), atol=1e-9
    )


def test_the_space_that_is_read_is_the_one_that_was_drawn(truth: Path) -> None:
    space, points = read_space(truth), mask_points_mm(tissue_mask())[::501]
    np.testing.assert_allclose(
        space.mni_points(space.tissue_points(true_epi_points(truth, points))), points, atol=0.001
    )


def test_the_body_behind_both_sides_is_kept(truth: Path) -> None:
    run = read_run(truth, NAME)
    np.testing.assert_array_equal(run.beats_s, run.eeg_beats_s)
    assert run.heart_rate_bpm.shape == run.respiration.shape == run.time_s.shape
    assert len(run.blinks_s) > 5
