"""Put MNI's template into a simulated subject's own head: T1, mean EPI, and the way from the scanner to MNI.

Takes a subject's seed; gives arrays and affines.  The template is nilearn's bundled ICBM152 2009: no network.  A later
nonlinear warp belongs into ``sample_template`` and ``mni_positions_mm``, the only two places that know the way to MNI.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from nilearn import datasets as nilearn_datasets
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, gaussian_filter
from scipy.spatial.transform import Rotation

from datasets.simulated_sources import Floats

Floats32 = NDArray[np.float32]

EPI_SHAPE = (64, 64, 32)
EPI_ZOOMS_MM = (3.0, 3.0, 4.0)
T1_SHAPE = (128, 160, 128)
T1_ZOOMS_MM = (1.5, 1.5, 1.5)
_EPI_CENTRE_MM = (0.0, -18.0, 18.0)
_T1_CENTRE_MM = (0.0, -16.0, 5.0)
_TEMPLATE_MM = 2
_EPI_INTENSITY = {"grey": 1000.0, "white": 800.0, "fluid": 1250.0}


@dataclass(frozen=True, kw_only=True)
class Head:
    """One subject's head: ``scanner_from_mni`` is 4 x 4 in mm; T1 and mean EPI float32, each with its affine.

    ``is_brain`` is bool on the EPI's grid.
    """

    scanner_from_mni: Floats
    t1: Floats32
    t1_affine: Floats
    mean_epi: Floats32
    epi_affine: Floats
    is_brain: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class _Template:
    """The template's tissues at 2 mm: float32 arrays of one shape, and their affine."""

    t1: Floats32
    grey: Floats32
    white: Floats32
    brain: Floats32
    affine: Floats


def draw_head(rng: np.random.Generator) -> Head:
    """Draw one subject's head: a few degrees, up to 10 mm and 5 % from MNI."""
    scanner_from_mni = _draw_affine(rng)
    epi_affine, t1_affine = _grid(EPI_SHAPE, EPI_ZOOMS_MM, _EPI_CENTRE_MM), _grid(T1_SHAPE, T1_ZOOMS_MM, _T1_CENTRE_MM)
    template = _template()
    epi_parts = {
        name: sample_template(getattr(template, name), template.affine, scanner_from_mni, epi_affine, EPI_SHAPE)
        for name in ("grey", "white", "brain")
    }
    t1 = sample_template(template.t1, template.affine, scanner_from_mni, t1_affine, T1_SHAPE)
    t1 = 1000 * t1 * _bias(T1_SHAPE, rng) + 8 * np.abs(rng.standard_normal(T1_SHAPE, dtype=np.float32))
    return Head(
        scanner_from_mni=scanner_from_mni,
        t1=t1.astype(np.float32),
        t1_affine=t1_affine,
        mean_epi=_mean_epi(epi_parts, mni_positions_mm(EPI_SHAPE, epi_affine, scanner_from_mni)),
        epi_affine=epi_affine,
        is_brain=epi_parts["brain"] > 0.5,
    )


def _draw_affine(rng: np.random.Generator) -> Floats:
    affine = np.eye(4)
    rotation = Rotation.from_euler("xyz", rng.normal(0, 3, 3).clip(-7, 7), degrees=True).as_matrix()
    affine[:3, :3] = rotation @ np.diag(1 + rng.uniform(-0.05, 0.05, 3))
    affine[:3, 3] = rng.uniform(-10, 10, 3) / np.sqrt(3)
    return affine


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
    arrays = {name: _halved(image.get_fdata(dtype=np.float32)) for name, image in images.items()}
    affine = images["t1"].affine @ np.array([[2, 0, 0, 0.5], [0, 2, 0, 0.5], [0, 0, 2, 0.5], [0, 0, 0, 1]])
    brain = (gaussian_filter((arrays["t1"] > 0.1).astype(np.float32), 1) > 0.5).astype(np.float32)
    return _Template(**arrays, brain=brain, affine=affine)


def _halved(volume: Floats32) -> Floats32:
    """Return the means of 2 x 2 x 2 voxels (nilearn's own resampling to 2 mm takes ten times as long)."""
    sizes = [size // 2 for size in volume.shape]
    even = volume[: 2 * sizes[0], : 2 * sizes[1], : 2 * sizes[2]]
    result: Floats32 = even.reshape(sizes[0], 2, sizes[1], 2, sizes[2], 2).mean(axis=(1, 3, 5))
    return result


def sample_template(
    volume: Floats32, affine: Floats, scanner_from_mni: Floats, grid_affine: Floats, shape: tuple[int, ...]
) -> Floats32:
    """Return the template's volume as it lies in the scanner, on a grid of ``shape``; smoothed to the grid's voxels."""
    zooms_mm = np.abs(np.diag(grid_affine)[:3])
    smoothed = gaussian_filter(volume, np.maximum(0, zooms_mm / _TEMPLATE_MM - 1) / 2)
    matrix = np.linalg.inv(scanner_from_mni @ affine) @ grid_affine
    result: Floats32 = affine_transform(smoothed, matrix, output_shape=shape, order=1)
    return result


def mni_positions_mm(shape: tuple[int, ...], grid_affine: Floats, scanner_from_mni: Floats) -> Floats:
    """Return where each voxel of a grid in the scanner lies in MNI space, (voxels, 3) in mm, in C order."""
    voxels = np.indices(shape).reshape(3, -1)
    matrix = np.linalg.inv(scanner_from_mni) @ grid_affine
    positions: Floats = (matrix[:3, :3] @ voxels + matrix[:3, 3:]).T
    return positions


def _bias(shape: tuple[int, ...], rng: np.random.Generator) -> Floats32:
    """Return a slow gain over the field of view, 1 +- 0.15."""
    axes = [np.linspace(-1, 1, size, dtype=np.float32) for size in shape]
    slopes = rng.uniform(-0.08, 0.08, 3).astype(np.float32)
    ramps = [slope * axis for slope, axis in zip(slopes, axes, strict=True)]
    return 1 + ramps[0][:, None, None] + ramps[1][None, :, None] + ramps[2][None, None, :]


def _mean_epi(parts: dict[str, Floats32], mni_mm: Floats) -> Floats32:
    """Return a T2*-weighted brain: bright fluid, dark above the sinuses and below the EEG's wires (left posterior)."""
    fluid = np.clip(parts["brain"] - parts["grey"] - parts["white"], 0, 1)
    brain = sum(
        _EPI_INTENSITY[name] * part for name, part in (parts | {"fluid": fluid}).items() if name in _EPI_INTENSITY
    )
    shade = 1 - 0.7 * _spot(mni_mm, (0, 44, -24), 14) - 0.3 * _spot(mni_mm, (-45, -80, 10), 25)
    result: Floats32 = (np.asarray(brain) * shade.reshape(EPI_SHAPE)).astype(np.float32)
    return result


def _spot(mni_mm: Floats, centre_mm: tuple[float, float, float], width_mm: float) -> Floats:
    squared = ((mni_mm - np.array(centre_mm)) ** 2).sum(axis=1)
    result: Floats = np.exp(-0.5 * squared / width_mm**2)
    return result
