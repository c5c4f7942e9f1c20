"""The grid and the tissue masks on it."""

import numpy as np
import pytest

from datasets import grid


def test_the_grid_is_spms_bounding_box_at_three_millimetres() -> None:
    last_voxel = grid.GRID_AFFINE @ [52, 62, 51, 1]
    assert grid.GRID_AFFINE[:3, 3].tolist() == [78, -112, -70]
    assert last_voxel[:3].tolist() == [-78, 74, 83]


def test_the_tissue_mask_has_64820_voxels() -> None:
    mask = grid.tissue_mask()
    assert mask.shape == grid.GRID_SHAPE
    assert mask.sum() == 64_820


def test_tissue_probabilities_lie_between_zero_and_one_and_cannot_be_written() -> None:
    for tissue in grid.tissue_probabilities():
        assert tissue.shape == grid.GRID_SHAPE
        assert tissue.dtype == np.float32
        assert 0 <= tissue.min() < 0.01 and 0.9 < tissue.max() <= 1
        with pytest.raises(ValueError, match="read-only"):
            tissue[0, 0, 0] = 1


def test_the_tissue_mask_is_symmetric_as_its_template_is() -> None:
    mask = grid.tissue_mask()
    assert np.mean(mask == mask[::-1]) > 0.995


def test_points_stand_in_c_order_of_the_mask() -> None:
    mask = np.zeros(grid.GRID_SHAPE, dtype=bool)
    mask[0, 0, 0] = mask[0, 0, 1] = mask[0, 1, 0] = mask[1, 0, 0] = True
    expected = [[78, -112, -70], [78, -112, -67], [78, -109, -70], [75, -112, -70]]
    assert grid.mask_points_mm(mask).tolist() == expected


def test_points_agree_with_values_taken_by_the_mask() -> None:
    axes = [
        grid.GRID_AFFINE[axis, 3] + grid.GRID_AFFINE[axis, axis] * np.arange(grid.GRID_SHAPE[axis]) for axis in range(3)
    ]
    coordinates = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    mask = grid.tissue_mask()
    assert np.array_equal(grid.mask_points_mm(mask), coordinates[mask])


def test_the_grids_points_are_those_of_all_its_voxels() -> None:
    mask = grid.tissue_mask()
    assert np.array_equal(grid.grid_points_mm()[mask.ravel()], grid.mask_points_mm(mask))


def test_the_fluids_points_lie_in_the_ventricles_where_the_mask_has_no_tissue() -> None:
    points = grid.fluid_points_mm()
    assert len(points) > 200
    assert np.abs(points[:, 0]).max() < 35 and points[:, 1].min() > -60 and points[:, 1].max() < 30
    voxels = np.rint((points - grid.GRID_AFFINE[:3, 3]) / np.diag(grid.GRID_AFFINE)[:3]).astype(int)
    assert not grid.tissue_mask()[*voxels.T].any()
    with pytest.raises(ValueError, match="read-only"):
        points[0, 0] = 1


def test_the_digest_depends_on_the_voxels_alone() -> None:
    mask = grid.tissue_mask()
    changed = mask.copy()
    changed[26, 30, 26] ^= True
    assert grid.mask_sha256(mask) == grid.mask_sha256(np.asfortranarray(mask))
    assert grid.mask_sha256(mask) != grid.mask_sha256(changed)
    assert len(grid.mask_sha256(mask)) == 64


@pytest.mark.parametrize("mask", [np.zeros((53, 63, 51), dtype=bool), np.zeros(grid.GRID_SHAPE)])
def test_a_mask_of_another_shape_or_type_is_refused(mask: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be boolean and of shape"):
        grid.mask_points_mm(mask)
