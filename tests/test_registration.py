"""Registration: planted transforms between template-made images are found again."""

import json
import logging
import pickle
from collections.abc import Callable
from dataclasses import dataclass

import nibabel
import numpy as np
import pytest
from nibabel.affines import apply_affine
from nilearn import datasets as nilearn_datasets
from scipy import ndimage
from scipy.spatial.transform import Rotation

from datasets import registration
from datasets.errors import BadInput
from datasets.grid import mask_points_mm, tissue_mask
from datasets.registration import WITHOUT_T1, Alignment, Warp, align, canonical

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


def bend(points: np.ndarray) -> np.ndarray:
    """Return how far a smooth warp moves points of MNI space, by up to 4 mm."""
    x, y, z = points.T / 25
    return 4 * np.stack([np.sin(y) * np.cos(z / 2), np.sin(z + 1) * np.cos(x / 2), np.cos(x) * np.sin(y / 2)], axis=1)


def straight(points: np.ndarray) -> np.ndarray:
    return np.zeros_like(points)


@pytest.fixture(scope="module")
def head() -> Head:
    return template_made(straight)


def template_made(warp: Callable[[np.ndarray], np.ndarray]) -> Head:
    """Build a subject from nilearn's template, by the planted transforms; the EPI is bright where the T1 is dark."""
    template = nilearn_datasets.load_mni152_template(resolution=1)
    brain = template.get_fdata()
    grey = nilearn_datasets.load_mni152_gm_template().get_fdata()
    white = nilearn_datasets.load_mni152_wm_template().get_fdata()
    fluid = np.clip((brain > 0.1) - grey - white, 0, 1)
    distance = ndimage.distance_transform_edt(brain <= 0.1)
    skull = np.where((distance > 5) & (distance < 10), 1.3, 0)
    return Head(
        epi=noisy(900 * grey + 700 * white + 1100 * fluid, T1_TO_MNI @ EPI_TO_T1, EPI_SHAPE, EPI_AFFINE, warp),
        brain_t1=noisy(1000 * brain, T1_TO_MNI, T1_SHAPE, T1_AFFINE, warp),
        t1=noisy(1000 * (brain + skull), T1_TO_MNI, T1_SHAPE, T1_AFFINE, warp),
    )


def noisy(
    on_template: np.ndarray,
    to_mni: np.ndarray,
    shape: tuple[int, ...],
    affine: np.ndarray,
    warp: Callable[[np.ndarray], np.ndarray],
) -> nibabel.Nifti1Image:
    template = nilearn_datasets.load_mni152_template(resolution=1)
    points = apply_affine(to_mni @ affine, np.indices(shape).reshape(3, -1).T)
    voxels = apply_affine(np.linalg.inv(template.affine), points + warp(points))
    blurred = ndimage.gaussian_filter(on_template, 1.2)
    values = ndimage.map_coordinates(blurred, voxels.T, order=1).reshape(shape)
    values += np.random.default_rng(0).normal(0, 30, shape)
    return nibabel.Nifti1Image(np.abs(values).astype(np.float32), affine)


def errors_mm(
    alignment: Alignment,
    epi_moved: np.ndarray | None = None,
    warp: Callable[[np.ndarray], np.ndarray] = straight,
) -> np.ndarray:
    """Return how far off each of the mask's points is that lies in the EPI's field of view."""
    points = mask_points_mm(tissue_mask())
    unwarped = points
    for _ in range(30):
        unwarped = points - warp(unwarped)
    truth = apply_affine(np.linalg.inv(T1_TO_MNI @ EPI_TO_T1), unwarped)
    voxels = apply_affine(np.linalg.inv(EPI_AFFINE), truth)
    is_seen = np.all((voxels >= -0.5) & (voxels <= np.array(EPI_SHAPE) - 0.5), axis=1)
    if epi_moved is not None:
        truth = apply_affine(epi_moved, truth)
    return np.linalg.norm(alignment.epi_points(points) - truth, axis=1)[is_seen]


def median_error_mm(alignment: Alignment, epi_moved: np.ndarray | None = None) -> float:
    return float(np.median(errors_mm(alignment, epi_moved)))


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


def test_the_shading_of_a_coil_does_not_pull_the_epi_along(head: Head) -> None:
    y, z = (np.arange(size) * 2.0 - size for size in T1_SHAPE[1:])
    shading = 1 + 0.25 * np.sin(y[:, None] / 80) * np.cos(z / 90)
    shaded = nibabel.Nifti1Image((head.t1.get_fdata() * shading).astype(np.float32), T1_AFFINE)
    shift_mm = align(head.epi, shaded, method="affine").epi_to_t1[:3, 3] - EPI_TO_T1[:3, 3]
    assert np.linalg.norm(shift_mm) < 0.6


@pytest.mark.slow
def test_headers_that_disagree_by_centimetres_are_put_right_on_a_stripped_t1(head: Head) -> None:
    shift = moved((0, 0, 0), (0, 30, 20))
    shifted = nibabel.Nifti1Image(head.epi.get_fdata(dtype=np.float32), shift @ EPI_AFFINE)
    assert median_error_mm(align(shifted, head.brain_t1, method="affine"), shift) < 1.0


@pytest.mark.parametrize("method", ["affine", pytest.param("syn", marks=pytest.mark.slow)])
def test_without_a_t1_the_epi_goes_to_the_template_and_the_user_is_told(
    method: str, head: Head, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        alignment = align(head.epi, None, method=method)
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
    assert apply_affine(alignment.epi_to_t1, alignment.epi_points(points_mni)) == pytest.approx(
        alignment.t1_points(points_mni)
    )


def linear_warp(size: float = 0.1) -> Warp:
    """Return a warp that moves points along x by a share of their y, on a grid of 4 mm."""
    affine = np.array([[4.0, 0, 0, -40], [0, 4, 0, -40], [0, 0, 4, -40], [0, 0, 0, 1]])
    displacement = np.zeros((21, 21, 21, 3), dtype=np.float32)
    displacement[..., 0] = size * (-40 + 4 * np.arange(21))[:, np.newaxis]
    return Warp(displacement_mm=displacement, affine=affine)


def test_a_point_is_displaced_in_mni_space_before_the_matrices() -> None:
    alignment = Alignment(method="syn", epi_to_t1=np.eye(4), t1_to_mni=moved((0, 0, 0), (5, 0, 0)), warp=linear_warp())
    inside = np.array([[0.0, 10, 0], [1, -30, 7]])
    assert alignment.epi_points(inside) == pytest.approx(np.array([[1.0 - 5, 10, 0], [1 - 3 - 5, -30, 7]]), abs=1e-6)
    assert alignment.epi_points(np.array([[0.0, 90, 0]])) == pytest.approx(np.array([[4.0 - 5, 90, 0]]), abs=1e-6)


def test_alignments_are_equal_where_matrices_and_warps_are_and_survive_pickling() -> None:
    alignment = Alignment(method="syn", epi_to_t1=EPI_TO_T1, t1_to_mni=T1_TO_MNI, warp=linear_warp(), overlap=0.96)
    again = pickle.loads(pickle.dumps(alignment))
    points = np.random.default_rng(0).uniform(-30, 30, (20, 3))
    assert again == alignment
    assert np.array_equal(again.epi_points(points), alignment.epi_points(points))
    other = Alignment(method="syn", epi_to_t1=EPI_TO_T1, t1_to_mni=T1_TO_MNI, warp=linear_warp(0.2), overlap=0.96)
    assert other != alignment


def test_an_alignment_tells_json_its_matrices_and_the_digest_of_its_warp() -> None:
    alignment = Alignment(method="syn", epi_to_t1=EPI_TO_T1, t1_to_mni=T1_TO_MNI, warp=linear_warp(), overlap=0.96)
    fields = json.loads(json.dumps(alignment.to_json()))
    assert np.array_equal(fields["epi_to_t1"], EPI_TO_T1) and np.array_equal(fields["t1_to_mni"], T1_TO_MNI)
    assert (fields["method"], fields["overlap"]) == ("syn", 0.96)
    assert len(fields["warp_sha256"]) == 64 and fields["warp_sha256"] != linear_warp(0.2).sha256
    assert Alignment(method="affine", epi_to_t1=np.eye(4), t1_to_mni=np.eye(4)).to_json()["warp_sha256"] is None


def test_a_warp_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(x, y, z, 3\)"):
        Warp(displacement_mm=np.zeros((3, 4, 5), dtype=np.float32), affine=np.eye(4))


def test_the_warp_leads_from_the_template_to_the_same_anatomy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "WARP_ITERATIONS", (30, 5, 0))
    template = nilearn_datasets.load_mni152_template(resolution=1)
    image = noisy(1000 * template.get_fdata(), np.eye(4), T1_SHAPE, T1_AFFINE, bend)
    found = registration._warp_to(registration._volume(image), np.eye(4))
    points = mask_points_mm(tissue_mask())
    unwarped = points
    for _ in range(30):
        unwarped = points - bend(unwarped)
    assert np.median(np.linalg.norm(points - unwarped, axis=1)) > 2.5
    assert np.median(np.linalg.norm(found.displaced(points) - unwarped, axis=1)) < 0.8


@pytest.mark.slow
def test_a_bent_head_under_a_bright_skull_is_found_by_syn() -> None:
    head = template_made(bend)
    affine, found = align(head.epi, head.t1, method="affine"), align(head.epi, head.t1, method="syn")
    errors = errors_mm(found, warp=bend)
    assert found.method == "syn" and found.warp is not None
    assert np.median(errors) < 0.9 and np.percentile(errors, 95) < 2.2
    assert np.median(errors_mm(affine, warp=bend)) > 1.5
    assert found.overlap is not None and found.overlap > 0.93
    assert align(head.epi, head.t1, method="syn") == found


@pytest.mark.slow
def test_images_stored_along_other_axes_are_aligned_alike(head: Head, found: Alignment) -> None:
    again = align(stored(head.epi, "LIP"), stored(head.t1, "PSR"), method="affine")
    assert again.epi_to_t1 == pytest.approx(found.epi_to_t1, abs=1e-6)
    assert again.t1_to_mni == pytest.approx(found.t1_to_mni, abs=1e-6)
    assert again.overlap == pytest.approx(found.overlap, abs=1e-3)


def stored(image: nibabel.Nifti1Image, code: str) -> nibabel.Nifti1Image:
    """Return the same image with its axes in another order."""
    wanted = nibabel.orientations.axcodes2ornt(code)
    return image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), wanted))


@pytest.mark.parametrize("code", ["LPS", "SAR", "PIL"])
def test_the_canonical_image_is_the_same_however_it_is_stored(code: str) -> None:
    values = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    image = nibabel.Nifti1Image(values, moved((4, -3, 8), (10, 20, -30)) @ np.diag([3.0, 3, 4, 1]))
    found, affine = canonical(stored(image, code))
    assert np.array_equal(found, values)
    assert affine == pytest.approx(image.affine)


def test_the_overlap_of_the_brains_is_measured(found: Alignment) -> None:
    assert found.overlap is not None and found.overlap > 0.93


def test_brains_that_hardly_overlap_are_told_and_refused_if_they_lie_apart(
    head: Head, caplog: pytest.LogCaptureFixture
) -> None:
    values = head.epi.get_fdata(dtype=np.float32)
    to_mni = T1_TO_MNI @ EPI_TO_T1 @ EPI_AFFINE
    with caplog.at_level(logging.WARNING):
        align(nibabel.Nifti1Image(values, moved((0, 0, 0), (0, 20, 0)) @ to_mni), None, method="header")
    assert "look at the registration" in caplog.text
    with pytest.raises(BadInput, match="the registration failed"):
        align(nibabel.Nifti1Image(values, moved((0, 0, 0), (0, 90, 0)) @ to_mni), None, method="header")


def test_a_matrix_without_an_inverse_is_refused() -> None:
    with pytest.raises(ValueError, match="invertible 4 x 4"):
        Alignment(method="affine", epi_to_t1=np.zeros((4, 4)), t1_to_mni=np.eye(4))


def test_an_unknown_method_is_refused_with_the_known_ones(head: Head) -> None:
    with pytest.raises(BadInput, match="one of syn, affine, header, but got 'spm'"):
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
