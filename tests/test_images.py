"""BOLD and single images are read whole, or refused in one line."""

import gzip
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from datasets.errors import BadInput
from datasets.images import check_whole, read_bold, read_image

VOLUMES = np.random.default_rng(0).integers(0, 1000, (8, 8, 8, 3), dtype=np.int16)
AFFINE = np.diag([3.0, 3.0, 4.0, 1.0])


def saved(path: Path, values: np.ndarray = VOLUMES, affine: np.ndarray = AFFINE) -> Path:
    nib.Nifti1Image(values, affine).to_filename(path)
    return path


def three_volumes(folder: Path) -> tuple[Path, ...]:
    return tuple(saved(folder / f"swar{number}.nii", VOLUMES[..., number]) for number in range(3))


def cut_short(path: Path) -> Path:
    path.write_bytes(saved(path).read_bytes()[:1500])
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_bold_is_read_as_float32(tmp_path: Path) -> None:
    image = read_bold((saved(tmp_path / "bold.nii.gz"),))
    assert image.get_fdata(dtype=np.float32) is image.get_fdata(dtype=np.float32)
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), VOLUMES)


def test_volumes_are_joined_in_the_order_given(tmp_path: Path) -> None:
    first, second, third = three_volumes(tmp_path)
    image = read_bold((third, first, second))
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), VOLUMES[..., [2, 0, 1]])
    np.testing.assert_array_equal(image.affine, AFFINE)


def test_joined_volumes_state_no_repetition_time_as_none_of_them_has_one(tmp_path: Path) -> None:
    paths = three_volumes(tmp_path)
    first = nib.load(paths[0])
    first.header.set_xyzt_units("mm", "sec")
    written(paths[0], first.to_bytes())
    assert read_bold(paths).header.get_xyzt_units() == ("mm", "unknown")


def test_volumes_may_be_pairs_of_files_and_scaled(tmp_path: Path) -> None:
    for number in range(2):
        pair = nib.Nifti1Pair(VOLUMES[..., number], AFFINE)
        pair.header.set_slope_inter(0.5, 7)
        pair.to_filename(tmp_path / f"f{number}.img")
    image = read_bold((tmp_path / "f0.img", tmp_path / "f1.img"))
    assert isinstance(image, nib.Nifti1Image)
    expected = np.stack([nib.load(tmp_path / f"f{number}.img").get_fdata() for number in range(2)], axis=-1)
    np.testing.assert_allclose(image.get_fdata(dtype=np.float32), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (cut_short, "cannot read the BOLD"),
        (lambda path: written(path, b"no image"), "cannot read the BOLD"),
        (lambda path: written(path, b""), r"it is empty \(0 bytes\)"),
        (lambda path: path, "cannot read the BOLD"),
        (lambda path: saved(path, VOLUMES[..., 0]), r"series of volumes \(4-D\), but has the shape \(8, 8, 8\)"),
        (lambda path: saved(path, VOLUMES[..., :1]), r"series of volumes \(4-D\), but has the shape \(8, 8, 8, 1\)"),
    ],
)
def test_bold_that_cannot_be_read_or_is_no_series_is_refused(tmp_path: Path, make, complaint: str) -> None:
    with pytest.raises(BadInput, match=rf"bold\.nii\.gz.*{complaint}|{complaint}.*bold\.nii\.gz") as refusal:
        read_bold((make(tmp_path / "bold.nii.gz"),))
    assert "\n" not in str(refusal.value)


def test_a_volume_of_nothing_but_nan_is_refused_and_single_voxels_of_nan_are_not(tmp_path: Path) -> None:
    values = VOLUMES.astype(np.float32)
    values[0, 0, 0] = np.nan
    read_bold((saved(tmp_path / "masked.nii.gz", values),))
    values[..., 1] = np.nan
    with pytest.raises(BadInput, match=r"broken\.nii\.gz: volumes \[1\] of the BOLD"):
        read_bold((saved(tmp_path / "broken.nii.gz", values),))


def test_volumes_of_another_shape_or_place_are_refused(tmp_path: Path) -> None:
    first, second, third = three_volumes(tmp_path)
    saved(third, VOLUMES[:7, ..., 0])
    with pytest.raises(BadInput, match=r"swar2\.nii must have the shape and affine of .*swar0\.nii"):
        read_bold((first, second, third))
    saved(third, VOLUMES[..., 2], np.diag([3.0, 3.0, 3.0, 1.0]))
    with pytest.raises(BadInput, match=r"swar2\.nii must have the shape and affine"):
        read_bold((first, second, third))
    with pytest.raises(BadInput, match=r"must be one volume \(3-D\)"):
        read_bold((first, saved(tmp_path / "bold.nii.gz")))


def test_no_files_are_refused() -> None:
    with pytest.raises(BadInput, match="2 volumes or more"):
        read_bold(())


def test_a_single_image_is_read_without_what_is_not_finite(tmp_path: Path) -> None:
    values = VOLUMES[..., 0].astype(np.float32)
    values[0, 0, 0], values[1, 1, 1] = np.nan, np.inf
    image = read_image(saved(tmp_path / "t1.nii.gz", values[..., np.newaxis]), "T1")
    read = image.get_fdata(dtype=np.float32)
    assert read.shape == (8, 8, 8)
    assert read[0, 0, 0] == read[1, 1, 1] == 0
    np.testing.assert_array_equal(read[2:], values[2:])


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (cut_short, "cannot read the T1"),
        (lambda path: written(path, b""), "it is empty"),
        (saved, "must be one volume"),
        (lambda path: saved(path, np.zeros((4, 4, 4), np.float32)), "all its values are the same"),
        (lambda path: saved(path, np.full((4, 4, 4), np.nan, np.float32)), "all its values are the same"),
    ],
)
def test_a_single_image_that_shows_nothing_is_refused(tmp_path: Path, make, complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        read_image(make(tmp_path / "t1.nii.gz"), "T1")


def with_a_bit_flipped(content: bytes) -> bytes:
    stored = bytearray(gzip.compress(content, 0))
    stored[len(stored) // 2] ^= 64
    return bytes(stored)


@pytest.mark.parametrize(
    "damage",
    [with_a_bit_flipped, lambda content: gzip.compress(content)[:-6], lambda content: gzip.compress(content)[:-60]],
)
def test_a_damaged_image_whose_values_can_all_be_read_is_refused_by_its_checksum(tmp_path: Path, damage) -> None:
    content = saved(tmp_path / "bold.nii").read_bytes()
    damaged = written(tmp_path / "bold.nii.gz", damage(content))
    with pytest.raises(BadInput, match=r"cannot read the BOLD of .*; download it again"):
        check_whole((damaged,), "BOLD")


def test_what_follows_a_whole_image_is_ignored(tmp_path: Path) -> None:
    path = saved(tmp_path / "bold.nii.gz")
    written(path, path.read_bytes() + b"garbage")
    check_whole((path,), "BOLD")
    np.testing.assert_array_equal(read_bold((path,)).get_fdata(), VOLUMES)


def blank(number: int) -> np.ndarray:
    volumes = VOLUMES.copy()
    volumes[..., number] = 0
    return volumes


@pytest.mark.parametrize(
    ("volumes", "complaint"),
    [
        (blank(1), r"volumes \[1\] of the BOLD \(from 0\) show nothing"),
        (np.repeat(VOLUMES[..., :1], 3, axis=3), "all volumes of the BOLD are the same"),
    ],
)
def test_a_series_that_shows_nothing_or_never_changes_is_refused(tmp_path: Path, volumes, complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        read_bold((saved(tmp_path / "bold.nii.gz", volumes),))


def test_a_volume_far_brighter_than_the_others_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    volumes = VOLUMES.astype(np.float32)
    volumes[..., 2] *= 1000
    with caplog.at_level(logging.WARNING):
        read_bold((saved(tmp_path / "bold.nii.gz", volumes),))
    assert "volumes [2] of the BOLD (from 0) are far brighter or darker" in caplog.text


def placed(path: Path, sform: np.ndarray | None, code: int) -> Path:
    image = nib.Nifti1Image(VOLUMES, AFFINE)
    image.set_qform(None, 0)
    image.header.set_sform(sform, code)
    path.write_bytes(image.to_bytes())
    return path


@pytest.mark.parametrize("wrong", [np.diag([0.0, 3.0, 4.0, 1.0]), np.diag([np.nan, 3.0, 4.0, 1.0])])
def test_an_affine_that_leads_nowhere_is_refused(tmp_path: Path, wrong: np.ndarray) -> None:
    path = placed(tmp_path / "bold.nii", AFFINE, 1)
    content = bytearray(path.read_bytes())
    content[280:296] = wrong[0].astype("<f4").tobytes()
    with pytest.raises(BadInput, match="must have a finite, invertible affine"):
        read_bold((written(path, bytes(content)),))


@pytest.mark.parametrize(("code", "warned"), [(0, True), (1, False)])
def test_an_image_without_a_place_in_its_header_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, code: int, warned: bool
) -> None:
    content = bytearray(placed(tmp_path / "bold.nii", AFFINE, 1).read_bytes())
    content[252:256] = np.array([0, code], dtype="<i2").tobytes()
    with caplog.at_level(logging.WARNING):
        read_bold((written(tmp_path / "bold.nii", bytes(content)),))
    assert ("which side is left is a guess" in caplog.text) == warned


@pytest.mark.parametrize("shape", [(30, 20, 40, 19), (30, 20, 40)])
def test_the_box_around_points_is_read_in_its_place(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).integers(0, 1000, shape, dtype=np.int16)
    path = saved(tmp_path / "image.nii.gz", values)
    points_mm = np.array([[36.0, 24.0, 100.0], [42.0, 30.0, 110.0]])  # voxels 12 to 14, 8 to 10, 25 to 27.5
    is_series = len(shape) == 4
    box = read_bold((path,), around_mm=points_mm) if is_series else read_image(path, "T1", around_mm=points_mm)
    np.testing.assert_array_equal(box.get_fdata(dtype=np.float32), values[4:23, 0:19, 16:37])
    np.testing.assert_allclose(nib.affines.apply_affine(box.affine, [0, 0, 0]), [12.0, 0.0, 64.0])


def test_an_image_that_holds_none_of_the_points_is_read_whole(tmp_path: Path) -> None:
    image = read_bold((saved(tmp_path / "bold.nii"),), around_mm=np.array([[900.0, 0.0, 0.0]]))
    assert image.shape == VOLUMES.shape
