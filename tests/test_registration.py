"""Registration: planted transforms between template-made images are found again."""

import json
import logging
from dataclasses import dataclass

import nibabel
import numpy as np
import pytest
from nibabel.affines import apply_affine
from nilearn import datasets as nilearn_datasets
from scipy import ndimage
from scipy.spatial.transform import Rotation

from datasets.errors import BadInput
from datasets.grid import mask_points_mm, tissue_mask
from datasets.registration import WITHOUT_T1, Alignment, align

EPI_SHAPE, EPI_AFFINE = (64, 64, 32), np.array([[-3.0, 0, 0, 96], [0, 3, 0, -115], [0, 0, 4, -58], [0, 0, 0, 1]])
T1_SHAPE, T1_AFFINE = (100, 128, 110), np.array([[2.0, 0, 0, -100], [0, 2, 0, -130], [0, 0, 2, -100], [0, 0, 0, 1]])


def moved(degrees: tuple[float, ...], millimetres: tuple[float, ...], scale: float = 1.0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * scale
    matrix[:3, 3] = millimetres
    return matrix


EPI_TO_T1 = moved((2, -3, 1), (3, -2, 4))
T1_TO_MNI = moved((-4, 3, 5), (6, -8, 5), scale=1.05)


@dataclass(frozen=True, kw_only=True)
class Head:
    """A template-made subject: the mean EPI and the T1 with and without a bright skull."""

    epi: nibabel.Nifti1Image
    brain_t1: nibabel.Nifti1Image
    t1: nibabel.Nifti1Image


@pytest.fixture(scope="module")
def head() -> Head:
    """Build a subject from nilearn's template, by the planted transforms; the EPI is bright where the T1 is dark."""
    template = nilearn_datasets.load_mni152_template(resolution=1)
    brain = template.get_fdata()
    grey = nilearn_datasets.load_mni152_gm_template().get_fdata()
    white = nilearn_datasets.load_mni152_wm_template().get_fdata()
    fluid = np.clip((brain > 0.1) - grey - white, 0, 1)
    distance = ndimage.distance_transform_edt(brain <= 0.1)
    skull = np.where((distance > 5) & (distance < 10), 1.3, 0)
    return Head(
        epi=noisy(900 * grey + 700 * white + 1100 * fluid, T1_TO_MNI @ EPI_TO_T1, EPI_SHAPE, EPI_AFFINE),
        brain_t1=noisy(1000 * brain, T1_TO_MNI, T1_SHAPE, T1_AFFINE),
        t1=noisy(1000 * (brain + skull), T1_TO_MNI, T1_SHAPE, T1_AFFINE),
    )


def noisy(
    on_template: np.ndarray, to_mni: np.ndarray, shape: tuple[int, ...], affine: np.ndarray
) -> nibabel.Nifti1Image:
    template = nilearn_datasets.load_mni152_template(resolution=1)
    to_template_voxels = np.linalg.inv(template.affine) @ to_mni @ affine
    blurred = ndimage.gaussian_filter(on_template, 1.2)
    values = ndimage.affine_transform(blurred, to_template_voxels, output_shape=shape, order=1)
    values += np.random.default_rng(0).normal(0, 30, shape)
    return nibabel.Nifti1Image(np.abs(values).astype(np.float32), affine)


def median_error_mm(alignment: Alignment, epi_moved: np.ndarray | None = None) -> float:
    points = mask_points_mm(tissue_mask())
    truth = apply_affine(np.linalg.inv(T1_TO_MNI @ EPI_TO_T1), points)
    if epi_moved is not None:
        truth = apply_affine(epi_moved, truth)
    return float(np.median(np.linalg.norm(alignment.epi_points(points) - truth, axis=1)))


@pytest.fixture(scope="module")
def found(head: Head) -> Alignment:
    return align(head.epi, head.t1, method="affine")


def test_planted_transforms_are_found_under_a_bright_skull(head: Head, found: Alignment) -> None:
    assert median_error_mm(align(head.epi, head.t1, method="header")) > 10
    assert median_error_mm(found) < 1.0


def test_the_epi_goes_to_the_t1_rigidly(found: Alignment) -> None:
    rotation = found.epi_to_t1[:3, :3]
    assert found.method == "affine"
    assert rotation @ rotation.T == pytest.approx(np.eye(3), abs=1e-6)
    assert found.epi_to_t1 == pytest.approx(EPI_TO_T1, abs=0.5)


def test_aligning_twice_gives_the_same_bits(head: Head, found: Alignment) -> None:
    assert align(head.epi, head.t1, method="affine").to_json() == found.to_json()


def test_headers_that_disagree_by_centimetres_are_put_right_on_a_stripped_t1(head: Head) -> None:
    shift = moved((0, 0, 0), (0, 30, 20))
    shifted = nibabel.Nifti1Image(head.epi.get_fdata(dtype=np.float32), shift @ EPI_AFFINE)
    assert median_error_mm(align(shifted, head.brain_t1, method="affine"), shift) < 1.0


def test_without_a_t1_the_epi_goes_to_the_template_and_the_user_is_told(
    head: Head, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        alignment = align(head.epi, None, method="affine")
    assert alignment.method == WITHOUT_T1
    assert "may be wrong by 10 mm" in caplog.text
    assert median_error_mm(alignment) < 3.0


def test_the_header_method_takes_scanner_space_for_mni_space(head: Head) -> None:
    points = np.array([[1.0, 2, 3], [-40, 5, 60]])
    assert np.array_equal(align(head.epi, None, method="header").epi_points(points), points)


def test_points_go_back_through_both_matrices() -> None:
    alignment = Alignment(method="affine", epi_to_t1=EPI_TO_T1, t1_to_mni=T1_TO_MNI)
    points_epi = np.random.default_rng(0).normal(0, 50, (20, 3))
    points_mni = apply_affine(T1_TO_MNI, apply_affine(EPI_TO_T1, points_epi))
    assert alignment.epi_points(points_mni) == pytest.approx(points_epi)
    assert apply_affine(alignment.mni_to_epi, points_mni) == pytest.approx(points_epi)


def test_an_alignment_survives_json_bit_by_bit() -> None:
    alignment = Alignment(method="affine", epi_to_t1=EPI_TO_T1, t1_to_mni=T1_TO_MNI)
    again = Alignment.from_json(json.loads(json.dumps(alignment.to_json())))
    assert again.method == "affine"
    assert np.array_equal(again.epi_to_t1, EPI_TO_T1) and np.array_equal(again.t1_to_mni, T1_TO_MNI)


def test_unknown_fields_of_an_alignment_are_refused() -> None:
    with pytest.raises(ValueError, match="must have the fields"):
        Alignment.from_json({"method": "affine", "warp": []})


def test_a_matrix_without_an_inverse_is_refused() -> None:
    with pytest.raises(ValueError, match="invertible 4 x 4"):
        Alignment(method="affine", epi_to_t1=np.zeros((4, 4)), t1_to_mni=np.eye(4))


def test_an_unknown_method_is_refused_with_the_known_ones(head: Head) -> None:
    with pytest.raises(BadInput, match="one of affine, header, but got 'spm'"):
        align(head.epi, head.t1, method="spm")


def test_a_series_in_place_of_the_mean_epi_is_refused(head: Head) -> None:
    series = nibabel.Nifti1Image(np.ones((10, 10, 10, 5), dtype=np.float32), np.eye(4))
    with pytest.raises(BadInput, match="the mean EPI must be a 3-D image"):
        align(series, head.t1, method="affine")
    with pytest.raises(BadInput, match="the T1 must be a 3-D image"):
        align(head.epi, series, method="affine")


def test_an_empty_epi_is_refused_by_name(head: Head) -> None:
    empty = nibabel.Nifti1Image(np.zeros(EPI_SHAPE, dtype=np.float32), EPI_AFFINE)
    with pytest.raises(BadInput, match="no brain in the mean EPI"):
        align(empty, head.t1, method="affine")
