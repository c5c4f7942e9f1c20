"""Motion: planted poses of a template-made head are found again, mm to mm, however the image is stored."""

import logging

import nibabel
import numpy as np
import pytest
from nibabel.affines import apply_affine
from nilearn import datasets as nilearn_datasets
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

from datasets.errors import BadInput
from datasets.motion import (
    MOTION_NAMES,
    estimate_motion,
    framewise_displacement,
    motion_from_parameters,
    motion_from_poses,
    realigned_mean,
)

SHAPE, AFFINE = (64, 64, 32), np.array([[-3.0, 0, 0, 96], [0, 3, 0, -115], [0, 0, 4, -58], [0, 0, 0, 1]])
CENTRE_MM = np.array([0.0, -20, 10])


@pytest.fixture(scope="module")
def head() -> nibabel.Nifti1Image:
    """Return an EPI-like head: the template's tissues, bright where the T1 is dark."""
    template = nilearn_datasets.load_mni152_template(resolution=1)
    grey = nilearn_datasets.load_mni152_gm_template().get_fdata(dtype=np.float32)
    white = nilearn_datasets.load_mni152_wm_template().get_fdata(dtype=np.float32)
    fluid = np.clip((template.get_fdata(dtype=np.float32) > 0.1) - grey - white, 0, 1)
    tissue = ndimage.gaussian_filter(900 * grey + 700 * white + 1100 * fluid, 1.2)
    return nibabel.Nifti1Image(ndimage.spline_filter(tissue, order=3, output=np.float32), template.affine)


def planted(parameters: np.ndarray) -> np.ndarray:
    return motion_from_parameters(parameters, centre_mm=CENTRE_MM).poses


def wandering(num_volumes: int, seed: int = 0) -> np.ndarray:
    """Return poses that drift smoothly by about a millimetre and a degree, with one spike."""
    noise = np.random.default_rng(seed).standard_normal((num_volumes, 6))
    parameters = ndimage.gaussian_filter1d(noise, 2, axis=0) * 2 * [0.5, 0.5, 0.8, 0.008, 0.006, 0.006]
    parameters[num_volumes // 2] += [1.0, -0.8, 1.5, 0.02, -0.01, 0.015]
    return planted(parameters)


def scanned(
    head: nibabel.Nifti1Image,
    poses: np.ndarray,
    *,
    affine: np.ndarray = AFFINE,
    shape: tuple[int, ...] = SHAPE,
    noise: float = 0.0,
) -> nibabel.Nifti1Image:
    """Return a run in which the head has these poses."""
    random = np.random.default_rng(0)
    volumes = np.empty((*shape, len(poses)), dtype=np.float32)
    for index, pose in enumerate(poses):
        matrix = np.linalg.inv(pose @ head.affine) @ affine
        volumes[..., index] = ndimage.affine_transform(
            head.dataobj, matrix, output_shape=shape, order=3, prefilter=False
        )
        volumes[..., index] += noise * random.standard_normal(shape)
    return nibabel.Nifti1Image(volumes, affine)


def brain_points() -> np.ndarray:
    """Return points (n, 3) of an ellipsoid about as large as the brain."""
    points = np.random.default_rng(5).uniform(-1, 1, (2000, 3))
    return CENTRE_MM + points[np.linalg.norm(points, axis=1) < 1] * [65, 80, 55]


def error_mm(found: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean distance between where poses put the brain's points, without the rigid motion common to all."""
    points = brain_points()
    back = np.stack([apply_affine(np.linalg.inv(true) @ pose, points) for pose, true in zip(found, truth, strict=True)])
    common = back.mean(axis=0)
    rotation, _ = Rotation.align_vectors(common - common.mean(axis=0), points - points.mean(axis=0))
    rigid = rotation.apply(points - points.mean(axis=0)) + common.mean(axis=0)
    return float(np.linalg.norm(back - rigid, axis=2).mean())


def test_planted_poses_are_found_under_noise(head: nibabel.Nifti1Image) -> None:
    truth = wandering(12)
    motion = estimate_motion(scanned(head, truth, noise=10))
    assert motion.poses.shape == (12, 4, 4) and motion.parameters.shape == (12, len(MOTION_NAMES))
    assert error_mm(np.tile(np.eye(4), (12, 1, 1)), truth) > 0.5
    assert error_mm(motion.poses, truth) < 0.06


def test_signal_changes_do_not_pass_for_motion(head: nibabel.Nifti1Image) -> None:
    image = scanned(head, planted(np.zeros((6, 6))), noise=10)
    gain = 1 + 0.05 * np.array([0, 1, 0, -1, 0, 1])
    active = np.ones((*SHAPE, 6))
    active[10:22, 20:40, 12:20, ::2] = 1.03
    volumes = image.get_fdata() * gain * active
    motion = estimate_motion(nibabel.Nifti1Image(volumes.astype(np.float32), AFFINE))
    assert error_mm(motion.poses, planted(np.zeros((6, 6)))) < 0.06


def test_the_estimate_agrees_with_least_squares_on_every_voxel_by_another_optimiser(head: nibabel.Nifti1Image) -> None:
    truth = planted(np.array([[0, 0, 0, 0, 0, 0], [0.7, -0.5, 1.0, 0.015, -0.01, 0.012]]))
    image = scanned(head, truth, noise=10)
    first, second = (ndimage.gaussian_filter(volume, 0.8) for volume in np.moveaxis(image.get_fdata(), 3, 0))
    voxels = np.argwhere(ndimage.binary_erosion(first > 200, iterations=1))[::3]
    points = apply_affine(AFFINE, voxels)

    def difference(parameters: np.ndarray) -> np.ndarray:
        moved = apply_affine(np.linalg.inv(AFFINE) @ planted(parameters[np.newaxis])[0], points)
        return ndimage.map_coordinates(second, moved.T, order=3, mode="nearest") - first[*voxels.T]

    other = planted(optimize.least_squares(difference, np.zeros(6), x_scale=[1, 1, 1, 0.02, 0.02, 0.02]).x[np.newaxis])
    ours = estimate_motion(image).poses
    assert error_mm(np.stack([np.eye(4), other[0]]), truth) < 0.06
    assert error_mm(ours @ np.linalg.inv(ours[0]), np.stack([np.eye(4), other[0]])) < 0.05


def test_two_volumes_are_enough_and_share_their_difference(head: nibabel.Nifti1Image) -> None:
    truth = planted(np.array([[0, 0, 0, 0, 0, 0], [1.0, 0, 0, 0, 0, 0.02]]))
    motion = estimate_motion(scanned(head, truth))
    assert motion.parameters.sum(axis=0) == pytest.approx(0, abs=0.01)
    assert motion.parameters[1] - motion.parameters[0] == pytest.approx([1, 0, 0, 0, 0, 0.02], abs=0.05)


def oblique() -> np.ndarray:
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_euler("xyz", [12, -8, 5], degrees=True).as_matrix()
    return turned @ AFFINE


def test_poses_are_in_scanner_millimetres_under_an_oblique_affine(head: nibabel.Nifti1Image) -> None:
    truth = wandering(6)
    assert error_mm(estimate_motion(scanned(head, truth, affine=oblique(), noise=5)).poses, truth) < 0.06


@pytest.mark.parametrize("code", ["LPS", "RAI", "SLP", "AIR"])
def test_the_same_scan_stored_along_other_axes_has_the_same_motion(head: nibabel.Nifti1Image, code: str) -> None:
    image = scanned(head, wandering(4), noise=5)
    expected = estimate_motion(image)
    stored = nibabel.orientations.axcodes2ornt(code)
    change = nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), stored)
    turned = image.as_reoriented(change)
    assert turned.affine != pytest.approx(image.affine)
    motion = estimate_motion(turned)
    assert motion.poses == pytest.approx(expected.poses, abs=1e-6)
    assert motion.framewise_displacement_mm == pytest.approx(expected.framewise_displacement_mm, abs=1e-6)


def test_a_run_starts_from_the_reference_it_is_given(head: nibabel.Nifti1Image) -> None:
    first_truth = wandering(6, seed=1)
    between = planted(np.array([[8.0, -6, 10, 0.1, -0.05, 0.08]]))
    second_truth = between @ wandering(6, seed=2)
    first = scanned(head, first_truth, noise=5)
    at_first = estimate_motion(first)
    second = scanned(head, second_truth, noise=5, affine=oblique())
    at_second = estimate_motion(second, reference=realigned_mean(first, at_first))
    both, truth = np.concatenate([at_first.poses, at_second.poses]), np.concatenate([first_truth, second_truth])
    assert error_mm(both, truth) < 0.1


def test_a_run_referred_to_itself_stays_where_it_is(head: nibabel.Nifti1Image) -> None:
    image = scanned(head, wandering(6), noise=5)
    alone = estimate_motion(image)
    referred = estimate_motion(image, reference=realigned_mean(image, alone))
    assert error_mm(referred.poses @ np.linalg.inv(alone.poses), np.tile(np.eye(4), (6, 1, 1))) < 0.02
    assert referred.parameters == pytest.approx(alone.parameters, abs=0.05)


def test_the_realigned_mean_is_sharper_than_the_mean(head: nibabel.Nifti1Image) -> None:
    image = scanned(head, 3 * (wandering(8) - np.eye(4)) + np.eye(4))
    realigned = realigned_mean(image, estimate_motion(image))
    assert realigned.shape == SHAPE and np.array_equal(realigned.affine, AFFINE)
    inside = (slice(15, 50), slice(15, 50), slice(8, 25))
    assert realigned.get_fdata()[inside].std() > 1.02 * image.get_fdata().mean(axis=3)[inside].std()


@pytest.mark.parametrize("value", [0.0, 700.0, np.nan])
def test_a_volume_without_contrast_takes_the_pose_before_it_and_spoils_no_other(
    head: nibabel.Nifti1Image, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    truth = planted(np.array([[0.4, 0, 0, 0, 0, 0], [-0.4, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0.5, 0, 0, 0]]))
    volumes = scanned(head, truth).get_fdata(dtype=np.float32).copy()
    volumes[..., 2] = value
    with caplog.at_level(logging.WARNING):
        motion = estimate_motion(nibabel.Nifti1Image(volumes, AFFINE))
    assert np.array_equal(motion.poses[2], motion.poses[1])
    assert error_mm(motion.poses[[0, 1, 3]], truth[[0, 1, 3]]) < 0.06
    assert "1 volumes cannot be brought to the others" in caplog.text


def test_volumes_that_are_all_alike_do_not_move(head: nibabel.Nifti1Image) -> None:
    volumes = np.repeat(scanned(head, planted(np.zeros((1, 6)))).get_fdata(dtype=np.float32), 5, axis=3)
    motion = estimate_motion(nibabel.Nifti1Image(volumes, AFFINE))
    assert motion.poses == pytest.approx(np.tile(np.eye(4), (5, 1, 1)), abs=1e-6)
    assert motion.framewise_displacement_mm == pytest.approx(0, abs=1e-6)


def test_an_image_without_contrast_is_refused() -> None:
    with pytest.raises(BadInput, match="no brain"):
        estimate_motion(nibabel.Nifti1Image(np.full((20, 20, 12, 3), 7.0, dtype=np.float32), AFFINE))


@pytest.mark.parametrize("shape", [(20, 22, 14), (20, 22, 14, 1), (20, 22, 3, 5)])
def test_an_image_that_is_no_series_of_volumes_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="must be a 4-D image"):
        estimate_motion(nibabel.Nifti1Image(np.ones(shape, dtype=np.float32), AFFINE))


def test_a_reference_that_is_a_series_is_refused(head: nibabel.Nifti1Image) -> None:
    image = scanned(head, planted(np.zeros((2, 6))))
    with pytest.raises(BadInput, match="reference must be a 3-D image"):
        estimate_motion(image, reference=image)


def test_parameters_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(volumes, 6\)"):
        motion_from_parameters(np.zeros((4, 5)))


def test_framewise_displacement_sums_millimetres_and_turns_of_a_head_of_fifty() -> None:
    parameters = np.array([[0.0, 0, 0, 0, 0, 0], [0.1, -0.2, 0.3, 0.01, 0, -0.02], [0.1, -0.2, 0.3, 0.01, 0, -0.02]])
    assert framewise_displacement(parameters) == pytest.approx([0, 0.6 + 1.5, 0])


def test_parameters_and_poses_tell_the_same() -> None:
    parameters = np.random.default_rng(0).normal(0, 0.1, (5, 6))
    motion = motion_from_parameters(parameters, centre_mm=CENTRE_MM)
    assert motion_from_poses(motion.poses, centre_mm=CENTRE_MM).parameters == pytest.approx(parameters)
    assert apply_affine(motion.poses[2], CENTRE_MM) - CENTRE_MM == pytest.approx(parameters[2, :3])
    assert motion.framewise_displacement_mm[0] == 0
