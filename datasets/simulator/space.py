"""The ways between MNI, a simulated subject's tissue in the scanner, and where an EPI shows that tissue.

Takes a seed; gives maps of points in mm.  Anatomy is an affine and a smooth warp by cosines (as SPM's), held from the
scanner to MNI, where it is exact and separable on images; the way back is found by fixed-point iteration.  The EPI is
distorted along y, its phase-encoding axis, near the air of the sinuses and ears.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from datasets.simulator.same_bytes import product
from datasets.simulator.sources import Floats

WARP_ORIGIN_MM = (-100.0, -145.0, -100.0)
WARP_LENGTH_MM = (200.0, 250.0, 200.0)
WARP_COSINES = (5, 6, 5)
SINUS_MM = ((0.0, 44.0, -24.0), (-52.0, -20.0, -30.0), (52.0, -20.0, -30.0))
"""Where air distorts the EPI, in MNI space: above the sphenoid sinus, and beside the ear canals."""
SINUS_WIDTH_MM = (18.0, 14.0, 14.0)
_SINUS_SIZE = (1.0, -0.6, -0.6)
_ITERATIONS = 60
_TOLERANCE_MM = 1e-4
_POINTS_AT_ONCE = 32768


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadSpace:
    """One subject's geometry; every method takes and gives points (points, 3) in mm.

    ``scanner_from_mni`` is 4 x 4; ``warp_mm`` (i, j, k, 3) are the cosines' coefficients, added to a point of the
    scanner before the affine leads to MNI; ``distortion_centre_mm`` (spots, 3), ``distortion_width_mm`` and
    ``distortion_mm`` (spots,) are Gaussians of how far along y an image's point shows tissue from.
    """

    scanner_from_mni: Floats
    warp_mm: Floats
    distortion_centre_mm: Floats
    distortion_width_mm: Floats
    distortion_mm: Floats

    def warp_at(self, tissue_mm: Floats) -> Floats:
        """Return what the warp adds to points of the scanner."""
        moved = np.empty((len(tissue_mm), 3))
        for start in range(0, len(tissue_mm), _POINTS_AT_ONCE):
            chunk = slice(start, start + _POINTS_AT_ONCE)
            x, y, z = (_cosines(tissue_mm[chunk, axis], axis) for axis in range(3))
            along_z = product(z, self.warp_mm.transpose(2, 0, 1, 3).reshape(WARP_COSINES[2], -1))
            along_yz = np.einsum("nj,nijc->nic", y, along_z.reshape(-1, *WARP_COSINES[:2], 3))
            moved[chunk] = np.einsum("ni,nic->nc", x, along_yz)
        return moved

    def mni_points(self, tissue_mm: Floats) -> Floats:
        """Return where in MNI space the tissue at points of the scanner lies."""
        return _apply(_inverse(self.scanner_from_mni), tissue_mm + self.warp_at(tissue_mm))

    def straight_mni_points(self, tissue_mm: Floats) -> Floats:
        """Return where points of the scanner would lie in MNI space if there were no warp."""
        return _apply(_inverse(self.scanner_from_mni), tissue_mm)

    def mni_of_grid(self, shape: tuple[int, ...], affine: Floats) -> Floats:
        """Return ``mni_points`` of all voxels of a grid along the scanner's axes, (3, x, y, z), the cheaper way."""
        axes = [affine[axis, axis] * np.arange(size) + affine[axis, 3] for axis, size in enumerate(shape)]
        x, y, z = (_cosines(along, axis) for axis, along in enumerate(axes))
        inverse = _inverse(self.scanner_from_mni)
        along_z = np.einsum("ijkc,zk->cijz", self.warp_mm, z)
        along_yz = np.einsum("cijz,yj->ciyz", along_z, y)
        moved = product(x, along_yz.transpose(1, 0, 2, 3).reshape(WARP_COSINES[0], -1))
        moved = moved.reshape(shape[0], 3, *shape[1:]).transpose(1, 0, 2, 3).copy()
        for axis, along in enumerate(axes):
            moved[axis] += along.reshape([-1 if other == axis else 1 for other in range(3)])
        return (product(inverse[:3, :3], moved.reshape(3, -1)) + inverse[:3, 3:]).reshape(3, *shape)

    def scanner_points(self, mni_mm: Floats) -> Floats:
        """Return where in the scanner the tissue of points in MNI space lies: the inverse of ``mni_points``."""
        straight = _apply(self.scanner_from_mni, mni_mm)
        return _fixed_point(straight, lambda points: straight - self.warp_at(points))

    def shift_mm(self, image_mm: Floats) -> Floats:
        """Return how far along y the tissue lies that an EPI shows at points, (points,)."""
        return _sum_of(self._spots(image_mm))

    def stretch(self, image_mm: Floats) -> Floats:
        """Return how much brighter an EPI is at points because it squeezes tissue there, (points,)."""
        beyond = image_mm[:, 1, None] - self.distortion_centre_mm[:, 1]
        slopes = -self._spots(image_mm) * beyond / self.distortion_width_mm**2
        return 1 + _sum_of(slopes)

    def tissue_points(self, image_mm: Floats) -> Floats:
        """Return where the tissue lies that an EPI shows at points."""
        shift = np.zeros_like(image_mm)
        shift[:, 1] = self.shift_mm(image_mm)
        return image_mm + shift

    def epi_points(self, mni_mm: Floats) -> Floats:
        """Return where an EPI of the unmoved head shows the tissue of points in MNI space."""
        tissue = self.scanner_points(mni_mm)

        def shown(points: Floats) -> Floats:
            moved = tissue.copy()
            moved[:, 1] -= self.shift_mm(points)
            return moved

        return _fixed_point(tissue, shown)

    def _spots(self, image_mm: Floats) -> Floats:
        squared = ((image_mm[:, None] - self.distortion_centre_mm) ** 2).sum(axis=2)
        spots: Floats = self.distortion_mm * np.exp(-0.5 * squared / self.distortion_width_mm**2)
        return spots


def draw_space(warp_mm: float, distortion_mm: float, rng: np.random.Generator) -> HeadSpace:
    """Draw one subject's geometry: a few degrees, up to 10 mm and 5 % from MNI, and a warp of at most ``warp_mm``."""
    scanner_from_mni = _draw_affine(rng)
    coefficients = _draw_warp(warp_mm, rng)
    return HeadSpace(
        scanner_from_mni=scanner_from_mni,
        warp_mm=coefficients,
        distortion_centre_mm=_apply(scanner_from_mni, np.array(SINUS_MM)),
        distortion_width_mm=np.array(SINUS_WIDTH_MM),
        distortion_mm=distortion_mm * np.array(_SINUS_SIZE) * rng.uniform(0.8, 1.0, len(_SINUS_SIZE)),
    )


def _draw_affine(rng: np.random.Generator) -> Floats:
    affine = np.eye(4)
    rotation = Rotation.from_euler("xyz", rng.normal(0, 3, 3).clip(-7, 7), degrees=True).as_matrix()
    affine[:3, :3] = rotation @ np.diag(1 + rng.uniform(-0.05, 0.05, 3))
    affine[:3, 3] = rng.uniform(-10, 10, 3) / np.sqrt(3)
    return affine


def _draw_warp(largest_mm: float, rng: np.random.Generator) -> Floats:
    """Return coefficients, smaller the faster their cosines, scaled by the largest shift within the brain."""
    frequency = np.sqrt(sum(np.square(index) for index in np.indices(WARP_COSINES)))
    drawn = rng.normal(size=(*WARP_COSINES, 3)) / (1 + (frequency[..., None] / 2.5) ** 2)
    drawn[0, 0, 0] = 0
    unit = HeadSpace(
        scanner_from_mni=np.eye(4),
        warp_mm=drawn,
        distortion_centre_mm=np.zeros((0, 3)),
        distortion_width_mm=np.zeros(0),
        distortion_mm=np.zeros(0),
    )
    ball = np.stack(np.meshgrid(*[np.linspace(-1, 1, 12)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    brain = ball[np.linalg.norm(ball, axis=1) <= 1] * [72, 90, 77] + [0, -16, 7]
    size = np.linalg.norm(unit.warp_at(brain), axis=1).max()
    scaled: Floats = drawn * (largest_mm * rng.uniform(0.85, 1.0) / size)
    return scaled


def _cosines(along_mm: Floats, axis: int) -> Floats:
    """Return the cosines of one axis at positions along it, (points, WARP_COSINES[axis])."""
    angle = np.pi * (along_mm - WARP_ORIGIN_MM[axis]) / WARP_LENGTH_MM[axis]
    result: Floats = np.cos(angle[:, None] * np.arange(WARP_COSINES[axis]))
    return result


def _fixed_point(start: Floats, step: Any) -> Floats:  # noqa: ANN401 - points to points
    points = start
    for _ in range(_ITERATIONS):
        previous, points = points, step(points)
        if len(points) == 0 or np.abs(points - previous).max() < _TOLERANCE_MM:
            return points
    raise ValueError("the warp cannot be inverted: it must be smaller, or smoother")


def _inverse(matrix: Floats) -> Floats:
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64)


def _apply(matrix: Floats, points: Floats) -> Floats:
    return product(points, matrix[:3, :3].T) + matrix[:3, 3]


def _sum_of(rows: Floats) -> Floats:
    result: Floats = rows.sum(axis=1)
    return result
