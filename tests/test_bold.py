"""BOLD: one resampling, smoothing in the mask, high-pass, z-scores."""

import logging

import nibabel
import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy import ndimage

from datasets import bold
from datasets.errors import BadInput
from datasets.grid import (
    GRID_AFFINE,
    GRID_SHAPE,
    VOXEL_MM,
    fluid_points_mm,
    mask_points_mm,
    tissue_mask,
    tissue_probabilities,
)
from datasets.registration import Alignment
from datasets.slice_timing import named_slice_times

EPI_SHAPE = (20, 22, 14)
EPI_AFFINE = np.array([[-3.0, 0, 0, 30], [0, 3, 0, -35], [0, 0, 4, -25], [0, 0, 0, 1]])
IDENTITY = Alignment(method="header", epi_to_t1=np.eye(4), t1_to_mni=np.eye(4))


def translation(*millimetres: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = millimetres
    return matrix


def smooth_noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(shape)
    return (1000 + 100 * ndimage.gaussian_filter(noise, (1.5, 1.5, 1.5, 0))).astype(np.float32)


def epi(num_volumes: int = 3) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(smooth_noise((*EPI_SHAPE, num_volumes)), EPI_AFFINE)


def points_inside(number: int = 500) -> np.ndarray:
    voxels = np.random.default_rng(1).uniform(-0.4, np.array(EPI_SHAPE) - 0.6, (number, 3))
    return apply_affine(EPI_AFFINE, voxels)


def ball(radius: float = 8) -> np.ndarray:
    distance = np.linalg.norm(np.indices(GRID_SHAPE) - np.array([[[[26]]], [[[31]]], [[[26]]]]), axis=0)
    return distance <= radius


def test_an_image_on_the_grid_comes_back_through_the_identity() -> None:
    mask = tissue_mask()
    image = nibabel.Nifti1Image(smooth_noise((*GRID_SHAPE, 2)), GRID_AFFINE)
    series, coverage = bold.to_grid(image, IDENTITY, mask_points_mm(mask))
    assert series.dtype == np.float32
    assert coverage.all()
    assert series == pytest.approx(image.get_fdata()[mask].T, rel=1e-5)


def test_resampling_agrees_with_scipys_cubic_interpolation_to_the_border() -> None:
    image, points = epi(), points_inside()
    series, coverage = bold.to_grid(image, IDENTITY, points)
    voxels = apply_affine(np.linalg.inv(EPI_AFFINE), points).T
    expected = [ndimage.map_coordinates(image.get_fdata()[..., volume], voxels, mode="mirror") for volume in range(3)]
    assert coverage.all()
    assert series == pytest.approx(np.array(expected), rel=1e-5)


def test_resampling_goes_through_both_matrices_of_the_alignment() -> None:
    image, points = epi(), points_inside()
    direct, _ = bold.to_grid(image, IDENTITY, points)
    alignment = Alignment(method="affine", epi_to_t1=translation(5, 0, 0), t1_to_mni=np.diag([2.0, 2, 2, 1]))
    through, _ = bold.to_grid(image, alignment, 2 * (points + [5, 0, 0]))
    assert through == pytest.approx(direct, rel=1e-5)


def test_more_volumes_than_fit_at_once_are_resampled_alike() -> None:
    image, points = epi(bold.VOLUMES_AT_ONCE + 3), points_inside(50)
    series, _ = bold.to_grid(image, IDENTITY, points)
    last_two, _ = bold.to_grid(image.slicer[..., -2:], IDENTITY, points)
    assert series[-2:] == pytest.approx(last_two, rel=1e-6)


def test_poses_that_do_not_move_change_nothing() -> None:
    image, points = epi(), points_inside()
    still, _ = bold.to_grid(image, IDENTITY, points)
    posed, coverage = bold.to_grid(image, IDENTITY, points, poses=np.stack([np.eye(4)] * 3))
    assert coverage.all()
    assert posed == pytest.approx(still, rel=1e-5)


def test_a_volume_that_moved_is_read_where_its_tissue_went() -> None:
    values = smooth_noise((*EPI_SHAPE, 1))[..., [0, 0]]
    values[..., 1] = np.roll(values[..., 0], 2, axis=0)
    image = nibabel.Nifti1Image(values, EPI_AFFINE)
    moved = EPI_AFFINE @ translation(2, 0, 0) @ np.linalg.inv(EPI_AFFINE)
    points = apply_affine(EPI_AFFINE, np.random.default_rng(0).uniform(6, 9, (100, 3)))
    series, _ = bold.to_grid(image, IDENTITY, points, poses=np.stack([np.eye(4), moved]))
    assert series[1] == pytest.approx(series[0], rel=1e-3)


def turned(degrees: float) -> np.ndarray:
    matrix = np.eye(4)
    angle = np.radians(degrees)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


@pytest.mark.parametrize("code", ["RAS", "LPS", "SLP", "PIR"])
def test_the_same_scan_stored_along_other_axes_gives_the_same_series(code: str) -> None:
    oblique = nibabel.Nifti1Image(epi(4).get_fdata(dtype=np.float32), turned(12) @ EPI_AFFINE)
    poses = np.stack([turned(degrees) for degrees in (0, 1, -1, 0.5)])
    orientation = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(oblique.affine), nibabel.orientations.axcodes2ornt(code)
    )
    stored = oblique.as_reoriented(orientation)
    for given in (None, poses):
        expected, covered = bold.to_grid(oblique, IDENTITY, points_inside(), poses=given)
        series, coverage = bold.to_grid(stored, IDENTITY, points_inside(), poses=given)
        assert np.array_equal(coverage, covered) and covered.any()
        assert series == pytest.approx(expected, rel=1e-4)


def test_points_that_leave_the_field_of_view_in_any_volume_are_not_covered() -> None:
    points = apply_affine(EPI_AFFINE, np.array([[1.0, 10, 7], [10, 10, 7]]))
    moved = EPI_AFFINE @ translation(-3, 0, 0) @ np.linalg.inv(EPI_AFFINE)
    series, coverage = bold.to_grid(epi(2), IDENTITY, points, poses=np.stack([np.eye(4), moved]))
    assert coverage.tolist() == [False, True]
    assert not series[:, 0].any() and series[:, 1].all()


def test_poses_of_another_number_of_volumes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4, 4\)"):
        bold.to_grid(epi(3), IDENTITY, points_inside(), poses=np.stack([np.eye(4)] * 2))


@pytest.mark.parametrize(("voxel", "is_covered"), [(-0.51, False), (-0.49, True), (19.49, True), (19.51, False)])
def test_the_field_of_view_ends_with_its_outermost_voxels(voxel: float, is_covered: bool) -> None:
    points = apply_affine(EPI_AFFINE, np.array([[voxel, 10, 7], [10, 10, 7]]))
    series, coverage = bold.to_grid(epi(), IDENTITY, points)
    assert coverage.tolist() == [is_covered, True]
    assert bool(series[:, 0].any()) == is_covered


def test_a_voxel_that_is_zero_in_all_volumes_is_not_covered_one_that_is_zero_in_some_is() -> None:
    values = epi().get_fdata(dtype=np.float32).copy()
    values[5, 5, 5, :] = 0
    values[12, 12, 8, 1] = 0
    points = apply_affine(EPI_AFFINE, np.array([[5.0, 5, 5], [5, 5, 6], [12, 12, 8]]))
    for poses in (None, np.stack([np.eye(4)] * values.shape[3])):
        series, coverage = bold.to_grid(nibabel.Nifti1Image(values, EPI_AFFINE), IDENTITY, points, poses=poses)
        assert coverage.tolist() == [False, True, True]
        assert not series[:, 0].any()
        assert series[0, 1:].all()


def test_a_voxel_that_is_not_finite_is_not_covered_and_spoils_no_other(caplog: pytest.LogCaptureFixture) -> None:
    image = epi()
    values = image.get_fdata(dtype=np.float32).copy()
    values[5, 5, 5, 1] = np.nan
    points = apply_affine(EPI_AFFINE, np.array([[5.0, 5, 5], [5, 5, 6], [12, 12, 8]]))
    with caplog.at_level(logging.WARNING):
        series, coverage = bold.to_grid(nibabel.Nifti1Image(values, EPI_AFFINE), IDENTITY, points)
    assert coverage.tolist() == [False, True, True]
    assert np.isfinite(series).all()
    assert series[:, 1:] == pytest.approx(bold.to_grid(image, IDENTITY, points)[0][:, 1:], rel=1e-3)
    assert "1 voxels of the BOLD image are not finite" in caplog.text


def test_an_image_that_covers_nothing_is_refused() -> None:
    with pytest.raises(BadInput, match="covers no voxel of the mask"):
        bold.to_grid(epi(), IDENTITY, np.full((5, 3), 900.0))


@pytest.mark.parametrize("shape", [(20, 22, 14), (20, 22, 14, 1), (20, 22, 3, 5)])
def test_an_image_that_is_no_series_of_volumes_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="must be a 4-D image"):
        bold.to_grid(nibabel.Nifti1Image(np.ones(shape, dtype=np.float32), EPI_AFFINE), IDENTITY, points_inside())


def test_a_constant_stays_constant_up_to_the_masks_edge() -> None:
    mask = tissue_mask()
    smoothed = bold.smooth_in_mask(np.full((2, mask.sum()), 7, dtype=np.float32), mask, 6.0)
    assert smoothed.dtype == np.float32
    assert smoothed == pytest.approx(7, rel=1e-5)


@pytest.mark.parametrize("fwhm_mm", [6.0, 9.0])
def test_a_point_is_smoothed_to_the_full_width_at_half_maximum_asked_for(fwhm_mm: float) -> None:
    mask = np.ones(GRID_SHAPE, dtype=bool)
    volume = np.zeros(GRID_SHAPE, dtype=np.float32)
    volume[26, 31, 26] = 1
    smoothed = bold.smooth_in_mask(volume[mask][np.newaxis], mask, fwhm_mm).reshape(GRID_SHAPE)
    variance = np.sum(smoothed[:, 31, 26] * (np.arange(53) - 26.0) ** 2) / smoothed[:, 31, 26].sum()
    assert np.sqrt(variance * 8 * np.log(2)) * VOXEL_MM == pytest.approx(fwhm_mm, rel=0.02)
    assert smoothed.sum() == pytest.approx(1, rel=1e-4)


def test_voxels_that_are_not_covered_leak_into_no_other_and_are_zero() -> None:
    mask = ball()
    coverage = np.arange(mask.sum()) % 3 > 0
    series = np.where(coverage, 7, 1e6).astype(np.float32)[np.newaxis]
    smoothed = bold.smooth_in_mask(series, mask, 6.0, coverage=coverage)
    assert smoothed[:, coverage] == pytest.approx(7, rel=1e-5)
    assert not smoothed[:, ~coverage].any()


def test_the_high_pass_removes_mean_and_drift_and_keeps_a_twentieth_of_a_hertz() -> None:
    times = 2.0 * np.arange(170)
    wanted = np.sin(2 * np.pi * 0.05 * times)
    drift = 1000 + 0.05 * times + 5 * np.cos(2 * np.pi * times / 340)
    kept = bold.high_pass((wanted + drift).astype(np.float32)[:, np.newaxis], 2.0, 128.0)[:, 0]
    assert kept.mean() == pytest.approx(0, abs=1e-3)
    assert np.corrcoef(kept, wanted)[0, 1] > 0.97
    assert kept.std() == pytest.approx(wanted.std(), rel=0.03)


def test_a_run_shorter_than_half_the_cut_off_loses_its_mean_only() -> None:
    series = np.random.default_rng(0).normal(50, 1, (30, 4)).astype(np.float32)
    assert bold.high_pass(series, 2.0, 128.0) == pytest.approx(series - series.mean(axis=0), abs=1e-4)


def test_a_cut_off_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(BadInput, match="must be above 4 s"):
        bold.high_pass(np.zeros((170, 1), dtype=np.float32), 2.0, 4.0)


def test_z_scores_have_mean_zero_and_deviation_one_and_give_the_series_back() -> None:
    series = np.random.default_rng(0).normal(1000, 10, (170, 50)).astype(np.float32)
    z, mean, deviation = bold.standardise(series)
    assert z.mean(axis=0) == pytest.approx(0, abs=1e-4)
    assert z.std(axis=0) == pytest.approx(1, abs=1e-4)
    assert mean + deviation * z == pytest.approx(series, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 1234.5])
def test_a_constant_voxel_becomes_zero_not_nan(value: float) -> None:
    z, mean, deviation = bold.standardise(np.full((170, 2), value, dtype=np.float32))
    assert not z.any() and not deviation.any()
    assert mean == pytest.approx(value)


def test_preparing_a_run_gives_finite_z_scores_and_keeps_what_varies() -> None:
    mask = ball(6)
    values = smooth_noise((*EPI_SHAPE, 40))
    values[..., :] += 20 * np.sin(2 * np.pi * np.arange(40) / 10)
    values[:, :, :3] = 500
    prepared = bold.prepare_bold(
        nibabel.Nifti1Image(values.astype(np.float32), EPI_AFFINE), IDENTITY, mask, mask_points_mm(mask),
        bold.BoldSettings(), repetition_time_s=2.0,
    )  # fmt: skip
    assert prepared.z.shape == (40, mask.sum())
    assert prepared.z.dtype == prepared.mean.dtype == prepared.standard_deviation.dtype == np.float32
    assert np.isfinite(prepared.z).all()
    assert 0.9 < prepared.coverage.mean() < 1 and not prepared.z[:, ~prepared.coverage].any()
    varying = prepared.standard_deviation > 0
    assert prepared.z[:, varying].std(axis=0) == pytest.approx(1, abs=1e-3)
    assert np.corrcoef(prepared.z[:, varying].mean(axis=1), np.sin(2 * np.pi * np.arange(40) / 10))[0, 1] > 0.95


def test_slices_taken_at_other_times_tell_one_course() -> None:
    mask, times_s = ball(4), named_slice_times("ascending", EPI_SHAPE[2], 2.0)
    starts = 2.0 * np.arange(60)
    courses = np.sin(2 * np.pi * (starts + times_s[:, np.newaxis]) / 24)
    values = np.broadcast_to(1000 + 30 * courses, (*EPI_SHAPE[:2], *courses.shape)).astype(np.float32)
    image = nibabel.Nifti1Image(values, EPI_AFFINE)
    settings = bold.BoldSettings(high_pass_seconds=None)
    wanted = np.sin(2 * np.pi * (starts + 1.0) / 24)

    def smallest_correlation(slice_times_s: np.ndarray | None) -> float:
        prepared = bold.prepare_bold(
            image, IDENTITY, mask, mask_points_mm(mask), settings, repetition_time_s=2.0, slice_times_s=slice_times_s
        )
        varying = prepared.z[2:-2, prepared.standard_deviation > 0]
        return min(np.corrcoef(course, wanted[2:-2])[0, 1] for course in varying.T)

    assert smallest_correlation(times_s) > 0.9995 > 0.995 > smallest_correlation(None)


def test_slice_times_of_another_number_of_slices_are_refused() -> None:
    mask = ball(4)
    with pytest.raises(BadInput, match="14 slices, but 13 slice times"):
        bold.prepare_bold(
            epi(5), IDENTITY, mask, mask_points_mm(mask), bold.BoldSettings(), repetition_time_s=2.0,
            slice_times_s=np.zeros(13),
        )  # fmt: skip


def test_tissue_signals_are_the_means_of_covered_voxels_of_each_tissue() -> None:
    mask = tissue_mask()
    grey, white = (tissue[mask] for tissue in tissue_probabilities())
    coverage = np.arange(mask.sum()) % 5 > 0
    series = np.where(grey > 0.8, 3, np.where(white > 0.8, 5, 1))[np.newaxis] * np.array([[1.0], [2.0]])
    series[:, ~coverage] = 1e6
    fluid = np.array([[7.0, 9.0], [8.0, 8.0]], dtype=np.float32)
    signals = bold.tissue_signals(series.astype(np.float32), coverage, mask, fluid=fluid)
    assert tuple(signals) == bold.TISSUE_NAMES
    assert signals["grey_signal"] == pytest.approx([3, 6])
    assert signals["white_signal"] == pytest.approx([5, 10])
    assert signals["csf_signal"] == pytest.approx([8, 8])
    assert signals["global_signal"][1] == pytest.approx(2 * signals["global_signal"][0])
    assert np.isnan(bold.tissue_signals(series.astype(np.float32), coverage, mask)["csf_signal"]).all()


def test_a_prepared_run_tells_its_tissues_signals_in_percent() -> None:
    mask = tissue_mask()
    course = np.sin(2 * np.pi * np.arange(30) / 10)
    values = np.full((*GRID_SHAPE, 30), 1000, dtype=np.float32)
    fluid = np.zeros(GRID_SHAPE, dtype=bool)
    fluid[*np.rint(apply_affine(np.linalg.inv(GRID_AFFINE), fluid_points_mm())).astype(int).T] = True
    values[ndimage.binary_dilation(fluid, iterations=2)] += (40 * course).astype(np.float32)
    prepared = bold.prepare_bold(
        nibabel.Nifti1Image(values, GRID_AFFINE), IDENTITY, mask, mask_points_mm(mask),
        bold.BoldSettings(fwhm_mm=None), repetition_time_s=2.0,
    )  # fmt: skip
    assert tuple(prepared.tissue) == bold.TISSUE_NAMES
    assert prepared.tissue["csf_signal"] == pytest.approx(4 * course, abs=0.3)
    assert np.abs(prepared.tissue["white_signal"]).max() < 0.5
    assert all(signal.shape == (30,) and signal.dtype == np.float64 for signal in prepared.tissue.values())


def test_a_run_that_sees_no_fluid_has_no_fluids_signal() -> None:
    corner = np.diag([3.0, 3, 3, 1])
    far = np.zeros(GRID_SHAPE, dtype=bool)
    far[10:14, 45:49, 30:34] = True
    corner[:3, 3] = mask_points_mm(far).min(axis=0) - 9
    image = nibabel.Nifti1Image(smooth_noise((10, 10, 10, 20)), corner)
    prepared = bold.prepare_bold(image, IDENTITY, far, mask_points_mm(far), bold.BoldSettings(), repetition_time_s=2.0)
    assert np.isnan(prepared.tissue["csf_signal"]).all()
    assert np.isfinite(prepared.tissue["global_signal"]).all()


def test_a_constant_image_has_no_variance_after_smoothing_and_high_pass() -> None:
    mask = ball(6)
    image = nibabel.Nifti1Image(np.full((*EPI_SHAPE, 20), 1234.5, dtype=np.float32), EPI_AFFINE)
    prepared = bold.prepare_bold(
        image, IDENTITY, mask, mask_points_mm(mask), bold.BoldSettings(high_pass_seconds=20.0), repetition_time_s=2.0
    )
    assert not prepared.z.any() and not prepared.standard_deviation.any()


def test_none_leaves_smoothing_and_high_pass_out() -> None:
    mask, image = ball(4), epi(12)
    settings = bold.BoldSettings(fwhm_mm=None, high_pass_seconds=None)
    prepared = bold.prepare_bold(image, IDENTITY, mask, mask_points_mm(mask), settings, repetition_time_s=2.0)
    series, _ = bold.to_grid(image, IDENTITY, mask_points_mm(mask))
    assert prepared.mean + prepared.standard_deviation * prepared.z == pytest.approx(series, rel=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"registration": "spm"}, "one of syn, affine, header"),
        ({"slice_order": "odd"}, "slice_order must be one of ascending, descending, interleaved, none"),
        ({"fwhm_mm": 0.0}, "fwhm_mm must be a number above 0"),
        ({"high_pass_seconds": float("nan")}, "high_pass_seconds must be a number above 0"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        bold.BoldSettings(**wrong)
