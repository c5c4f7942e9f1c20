"""The ways between MNI, the scanner and the EPI lead back to where they came from."""

import numpy as np
import pytest

from datasets.grid import mask_points_mm, tissue_mask
from datasets.simulator.space import HeadSpace, draw_space


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    return mask_points_mm(tissue_mask())[::37]


def space_of(seed: int) -> HeadSpace:
    return draw_space(5.0, 5.0, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(4))
def test_the_way_to_the_epi_and_back_ends_where_it_began(seed: int, points: np.ndarray) -> None:
    space = space_of(seed)
    back = space.mni_points(space.tissue_points(space.epi_points(points)))
    np.testing.assert_allclose(back, points, atol=0.001)


@pytest.mark.parametrize("seed", range(4))
def test_the_warp_folds_nothing_and_moves_by_what_was_asked(seed: int, points: np.ndarray) -> None:
    space = space_of(seed)
    tissue = space.scanner_points(points)
    steps = 0.5 * np.eye(3)
    slopes = np.stack([space.warp_at(tissue + step) - space.warp_at(tissue - step) for step in steps], axis=2)
    assert np.linalg.det(slopes + np.eye(3)).min() > 0.5
    assert 3 < np.linalg.norm(space.warp_at(tissue), axis=1).max() < 6


def test_distortion_is_along_y_only_and_largest_near_the_sinuses(points: np.ndarray) -> None:
    space = space_of(0)
    shift = space.epi_points(points) - space.scanner_points(points)
    np.testing.assert_array_equal(shift[:, [0, 2]], 0)
    assert 3 < np.abs(shift[:, 1]).max() <= 6
    above = points[:, 2] > 40
    assert np.abs(shift[above, 1]).max() < 0.1


def test_an_epi_is_brighter_where_it_squeezes_tissue(points: np.ndarray) -> None:
    space = space_of(0)
    step = np.array([0.0, 0.25, 0.0])
    slope = space.tissue_points(points + step) - space.tissue_points(points - step)
    np.testing.assert_allclose(space.stretch(points), slope[:, 1] / 0.5, atol=0.001)


def test_a_grid_is_mapped_as_its_points_are() -> None:
    space, affine = space_of(1), np.array([[-3.0, 0, 0, 60], [0, 4, 0, -90], [0, 0, 5, -40], [0, 0, 0, 1]])
    places = np.indices((7, 6, 5)).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    grid = space.mni_of_grid((7, 6, 5), affine).reshape(3, -1).T
    np.testing.assert_allclose(grid, space.mni_points(places), atol=1e-9)
