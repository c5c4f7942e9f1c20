"""Put MNI's template into a simulated subject's own head: T1 with skull, scalp and neck, and a T2*-weighted EPI.

Takes a subject's seed; gives images, their affines and the way to MNI.  The template is nilearn's bundled ICBM152 2009,
which has no skull: layers of fluid, bone and scalp are laid around its brain.  No network.

Legend of shapes: N voxels of the EPI in and around the head, slice by slice, in the order (z, y, x).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from nilearn import datasets as nilearn_datasets
from numpy.typing import NDArray
from scipy.ndimage import (
    binary_fill_holes,
    distance_transform_edt,
    gaussian_filter,
    map_coordinates,
    spline_filter,
)

from datasets.simulator.levels import Nuisance
from datasets.simulator.same_bytes import product
from datasets.simulator.sources import Floats
from datasets.simulator.space import HeadSpace, draw_space

Floats32 = NDArray[np.float32]

EPI_SHAPE = (64, 64, 32)
EPI_ZOOMS_MM = (3.0, 3.0, 4.0)
T1_SHAPE = (128, 160, 128)
T1_ZOOMS_MM = (1.5, 1.5, 1.5)
FINE_SHAPE = (104, 104, 72)
FINE_MM = 2.0
"""The grid on which the unmoved EPI is held, a cubic spline of 2 mm; it reaches 8 mm beyond the EPI."""
AROUND_HEAD_MM = 17.0
TAYLOR_STEP_MM = 0.3
_EPI_CENTRE_MM = (0.0, -18.0, 18.0)
_T1_CENTRE_MM = (0.0, -16.0, 5.0)
_TEMPLATE_MM = 2
_PADDING = 20
_EPI_INTENSITY = {"grey": 1000.0, "white": 800.0, "fluid": 1250.0}
_LAYERS_MM = (0.0, 1.0, 2.5, 3.5, 4.5, 5.5, 7.0, 8.0, 12.0, 13.5)
_T1_LAYERS = (0.25, 0.22, 0.20, 0.10, 0.35, 0.10, 0.12, 0.75, 0.70, 0.0)
_EPI_LAYERS = (800.0, 800.0, 600.0, 40.0, 40.0, 40.0, 60.0, 150.0, 130.0, 0.0)
"""Intensities at distances from the brain: fluid, bone (with marrow in T1), scalp, air."""
_NECK = {"top_mm": -45.0, "centre_y_mm": -30.0, "radius_x_mm": 58.0, "radius_y_mm": 66.0, "t1": 0.45, "epi": 150.0}


@dataclass(frozen=True, kw_only=True, eq=False)
class EpiVoxels:
    """The voxels of the EPI in and around the unmoved head, and what they show.

    ``index`` (N,) are positions in a flat (z, y, x) volume, ``starts`` (slices + 1,) where each slice begins in them.
    ``points_mm`` and ``mni_mm`` (N, 3) are their places in the scanner and in MNI; ``grey`` and ``fluid`` (N,) tissue
    fractions; ``is_brain`` (N,).  ``intensity`` (N,), ``slope`` (3, N) and ``curvature`` (6, N; xx, yy, zz, xy, xz, yz)
    are the EPI's values and derivatives per mm.
    """

    index: NDArray[np.int64]
    starts: NDArray[np.int64]
    points_mm: Floats32
    mni_mm: Floats
    grey: Floats32
    fluid: Floats32
    is_brain: NDArray[np.bool_]
    intensity: Floats32
    slope: Floats32
    curvature: Floats32


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """One subject's head: T1 (float32) and EPI, each with its affine, and ``space``, the way to MNI.

    ``fine`` are the spline coefficients (FINE_SHAPE) of the unmoved EPI, ``fine_affine`` their grid in the scanner.
    """

    space: HeadSpace
    t1: Floats32
    t1_affine: Floats
    epi_affine: Floats
    fine: Floats32
    fine_affine: Floats
    epi: EpiVoxels

    def epi_at(self, points_mm: Floats | Floats32) -> Floats32:
        """Return what the unmoved head's EPI shows at points (points, 3) of the scanner."""
        return _sample(self.fine, self.fine_affine, points_mm)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Template:
    """The template's tissues at 2 mm, padded by air: float32 arrays of one shape, and their affine."""

    t1: Floats32
    epi: Floats32
    grey: Floats32
    white: Floats32
    outside_mm: Floats32
    affine: Floats


def draw_head(nuisance: Nuisance, rng: np.random.Generator) -> Head:
    """Draw one subject's head: its geometry, its T1 and its EPI at rest."""
    space = draw_space(nuisance.warp_mm, nuisance.distortion_mm, rng)
    t1_affine = _grid(T1_SHAPE, T1_ZOOMS_MM, _T1_CENTRE_MM)
    epi_affine = _grid(EPI_SHAPE, EPI_ZOOMS_MM, _EPI_CENTRE_MM)
    fine_affine = _grid(FINE_SHAPE, (FINE_MM,) * 3, _EPI_CENTRE_MM)
    t1 = _draw_t1(space, t1_affine, rng)
    fine = _fine_epi(space, fine_affine)
    return Head(
        space=space,
        t1=t1,
        t1_affine=t1_affine,
        epi_affine=epi_affine,
        fine=fine,
        fine_affine=fine_affine,
        epi=_epi_voxels(space, epi_affine, fine, fine_affine),
    )


def grid_points(shape: tuple[int, ...], affine: Floats) -> Floats:
    """Return the places (voxels, 3) in mm of a grid's voxels, in the order (z, y, x): slice by slice."""
    z, y, x = (index.ravel() for index in np.indices(shape[::-1]))
    result: Floats = product(np.stack([x, y, z], axis=1).astype(np.float64), affine[:3, :3].T) + affine[:3, 3]
    return result


def _grid(shape: tuple[int, ...], zooms_mm: tuple[float, ...], centre_mm: tuple[float, ...]) -> Floats:
    """Return the affine of a grid around a centre, its first axis to the left as scanners write it."""
    affine = np.diag([-zooms_mm[0], zooms_mm[1], zooms_mm[2], 1.0])
    affine[:3, 3] = np.array(centre_mm) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


@lru_cache(maxsize=1)
def _template() -> _Template:
    loaders = {
        "t1": nilearn_datasets.load_mni152_template,
        "grey": nilearn_datasets.load_mni152_gm_template,
        "white": nilearn_datasets.load_mni152_wm_template,
    }
    images = {name: load(resolution=1) for name, load in loaders.items()}
    parts = {name: _halved(image.get_fdata(dtype=np.float32)) for name, image in images.items()}
    affine = images["t1"].affine @ np.array([[2, 0, 0, 0.5], [0, 2, 0, 0.5], [0, 0, 2, 0.5], [0, 0, 0, 1]])
    affine[:3, 3] -= _PADDING * affine[:3, :3].sum(axis=1)
    brain = binary_fill_holes(gaussian_filter((parts["t1"] > 0.1).astype(np.float32), 1) > 0.5)
    outside_mm = (_TEMPLATE_MM * (distance_transform_edt(~brain) - 0.5)).clip(0).astype(np.float32)
    heights_mm = affine[2, 3] + _TEMPLATE_MM * np.arange(brain.shape[2])
    neck = _neck(brain.shape, affine) & (outside_mm > 0) & (heights_mm < _NECK["top_mm"])
    return _Template(
        t1=_layered(parts["t1"], brain, outside_mm, _T1_LAYERS, neck, _NECK["t1"]),
        epi=_layered(_epi_contrast(parts, affine), brain, outside_mm, _EPI_LAYERS, neck, _NECK["epi"]),
        grey=parts["grey"],
        white=parts["white"],
        outside_mm=np.where(neck, 0.5, outside_mm).astype(np.float32),
        affine=affine,
    )


def _halved(volume: Floats32) -> Floats32:
    """Return the means of 2 x 2 x 2 voxels, padded (nilearn's own resampling to 2 mm takes ten times as long)."""
    sizes = [size // 2 for size in volume.shape]
    even = volume[: 2 * sizes[0], : 2 * sizes[1], : 2 * sizes[2]]
    means = even.reshape(sizes[0], 2, sizes[1], 2, sizes[2], 2).mean(axis=(1, 3, 5))
    result: Floats32 = np.pad(means, _PADDING)
    return result


def _neck(shape: tuple[int, ...], affine: Floats) -> NDArray[np.bool_]:
    x = affine[0, 3] + _TEMPLATE_MM * np.arange(shape[0])[:, None, None]
    y = affine[1, 3] + _TEMPLATE_MM * np.arange(shape[1])[None, :, None] - _NECK["centre_y_mm"]
    inside = (x / _NECK["radius_x_mm"]) ** 2 + (y / _NECK["radius_y_mm"]) ** 2 < 1
    result: NDArray[np.bool_] = np.broadcast_to(inside, shape)
    return result


def _layered(
    inner: Floats32,
    brain: NDArray[np.bool_],
    outside_mm: Floats32,
    layers: tuple[float, ...],
    neck: NDArray[np.bool_],
    neck_intensity: float,
) -> Floats32:
    """Return the brain within its layers, and below them the neck where nothing brighter lies."""
    around = np.interp(outside_mm, _LAYERS_MM, layers).astype(np.float32)
    around[neck & (outside_mm > _LAYERS_MM[2])] = neck_intensity
    return np.where(brain, inner, around).astype(np.float32)


def _epi_contrast(parts: dict[str, Floats32], affine: Floats) -> Floats32:
    """Return a T2*-weighted brain: bright fluid, dark above sinus and ears and below the EEG's wires (posterior)."""
    fluid = np.clip(1 - parts["grey"] - parts["white"], 0, 1)
    brain = sum(_EPI_INTENSITY[name] * part for name, part in (parts | {"fluid": fluid}).items() if name != "t1")
    axes = [affine[axis, 3] + _TEMPLATE_MM * np.arange(size) for axis, size in enumerate(fluid.shape)]
    shade = 1 - 0.7 * _spot(axes, (0, 44, -24), 14) - 0.3 * _spot(axes, (-45, -80, 10), 25)
    shade -= 0.5 * (_spot(axes, (-52, -20, -32), 12) + _spot(axes, (52, -20, -32), 12))
    result: Floats32 = (np.asarray(brain) * shade).astype(np.float32)
    return result


def _spot(axes: list[Floats], centre_mm: tuple[float, float, float], width_mm: float) -> Floats:
    x, y, z = (
        np.exp(-0.5 * (along - middle) ** 2 / width_mm**2) for along, middle in zip(axes, centre_mm, strict=True)
    )
    result: Floats = x[:, None, None] * y[None, :, None] * z[None, None, :]
    return result


def _draw_t1(space: HeadSpace, affine: Floats, rng: np.random.Generator) -> Floats32:
    template = _template()
    mni = space.mni_of_grid(T1_SHAPE, affine).reshape(3, -1).T
    t1 = _sample(template.t1, template.affine, mni, order=1).reshape(T1_SHAPE)
    result: Floats32 = 1000 * t1 * _bias(T1_SHAPE, rng)
    result += 8 * np.abs(rng.standard_normal(T1_SHAPE, dtype=np.float32))
    return result


def _bias(shape: tuple[int, ...], rng: np.random.Generator) -> Floats32:
    """Return a slow gain over the field of view, 1 +- 0.15."""
    axes = [np.linspace(-1, 1, size, dtype=np.float32) for size in shape]
    slopes = rng.uniform(-0.08, 0.08, 3).astype(np.float32)
    ramps = [slope * axis for slope, axis in zip(slopes, axes, strict=True)]
    return 1 + ramps[0][:, None, None] + ramps[1][None, :, None] + ramps[2][None, None, :]


def _fine_epi(space: HeadSpace, affine: Floats) -> Floats32:
    """Return the spline coefficients of the EPI at rest: distorted, brighter where squeezed, blurred by its voxels."""
    template = _template()
    blur_mm = np.sqrt(np.maximum(0, np.array(EPI_ZOOMS_MM) ** 2 - _TEMPLATE_MM**2) / 12)
    smoothed = gaussian_filter(template.epi, blur_mm / _TEMPLATE_MM)
    points = grid_points(FINE_SHAPE, affine)
    near = np.flatnonzero(_outside_mm(space.straight_mni_points(points)) < AROUND_HEAD_MM)
    shown = _sample(smoothed, template.affine, space.mni_points(space.tissue_points(points[near])), order=1)
    image = np.zeros(len(points), dtype=np.float32)
    image[near] = shown * space.stretch(points[near])
    image = image.reshape(FINE_SHAPE[::-1]).transpose(2, 1, 0)
    coefficients: Floats32 = spline_filter(image, order=3, output=np.float32, mode="mirror")
    return np.ascontiguousarray(coefficients)


def _epi_voxels(space: HeadSpace, epi_affine: Floats, fine: Floats32, fine_affine: Floats) -> EpiVoxels:
    template = _template()
    every = grid_points(EPI_SHAPE, epi_affine)
    every_mni = space.mni_points(space.tissue_points(every))
    outside = _outside_mm(every_mni)
    index = np.flatnonzero(outside < AROUND_HEAD_MM)
    points, mni = every[index], every_mni[index]
    grey, white = (_sample(part, template.affine, mni, order=1) for part in (template.grey, template.white))
    is_brain = outside[index] < 0.5
    intensity, slope, curvature = _derivatives(fine, fine_affine, points)
    in_slice = EPI_SHAPE[0] * EPI_SHAPE[1]
    return EpiVoxels(
        index=index,
        starts=np.searchsorted(index, in_slice * np.arange(EPI_SHAPE[2] + 1)),
        points_mm=points.astype(np.float32),
        mni_mm=mni,
        grey=grey,
        fluid=np.where(is_brain, np.clip(1 - grey - white, 0, 1), 0).astype(np.float32),
        is_brain=is_brain,
        intensity=intensity,
        slope=slope,
        curvature=curvature,
    )


def _outside_mm(mni_mm: Floats) -> Floats32:
    """Return how far from brain and neck points in MNI space lie."""
    template = _template()
    return _sample(template.outside_mm, template.affine, mni_mm, order=1, beyond=100.0)


def _derivatives(fine: Floats32, affine: Floats, points_mm: Floats) -> tuple[Floats32, Floats32, Floats32]:
    """Return value, first and second derivatives per mm of the EPI at points, by central differences."""
    steps = TAYLOR_STEP_MM * np.eye(3)

    def at(*moves: Floats) -> Floats32:
        return _sample(fine, affine, points_mm + sum(moves, np.zeros(3)))

    middle = at()
    ahead, behind = [at(step) for step in steps], [at(-step) for step in steps]
    slope = [(more - less) / (2 * TAYLOR_STEP_MM) for more, less in zip(ahead, behind, strict=True)]
    straight = [(more + less - 2 * middle) / TAYLOR_STEP_MM**2 for more, less in zip(ahead, behind, strict=True)]
    crossed = [
        (at(one, other) + at(-one, -other) - at(one, -other) - at(-one, other)) / (4 * TAYLOR_STEP_MM**2)
        for one, other in ((steps[0], steps[1]), (steps[0], steps[2]), (steps[1], steps[2]))
    ]
    return middle, np.stack(slope), np.stack([*straight, *crossed])


def _sample(
    volume: Floats32, affine: Floats, points_mm: Floats | Floats32, *, order: int = 3, beyond: float = 0.0
) -> Floats32:
    """Return a volume (or, of order 3, its spline's coefficients) at points, in mm; ``beyond`` outside it.

    The volume's axes are those of the space that the points are in.
    """
    voxels = (points_mm - affine[:3, 3]) / np.diag(affine)[:3]
    result: Floats32 = map_coordinates(
        volume, voxels.T, output=np.float32, order=order, mode="constant", cval=beyond, prefilter=False
    )
    return result
