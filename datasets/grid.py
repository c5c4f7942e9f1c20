"""The grid that every subject's volumes are brought to, and the tissue masks on it.

Takes nilearn's bundled ICBM 2009a symmetric tissue maps; gives masks on the 53 x 63 x 52 grid, their points in mm and
their digest.  A mask's voxels are everywhere in C order: first axis (right to left) slowest, third (upwards) fastest,
as ``volume[mask]`` lists them.
"""

import functools
import hashlib

import nibabel
import numpy as np
from nilearn import datasets as nilearn_datasets
from nilearn import image as nilearn_image
from numpy.typing import NDArray
from scipy import ndimage

GRID_SHAPE = (53, 63, 52)
VOXEL_MM = 3.0
GRID_AFFINE: NDArray[np.float64] = np.array(
    [[-VOXEL_MM, 0.0, 0.0, 78.0], [0.0, VOXEL_MM, 0.0, -112.0], [0.0, 0.0, VOXEL_MM, -70.0], [0.0, 0.0, 0.0, 1.0]]
)
GRID_AFFINE.setflags(write=False)
TEMPLATE = "ICBM 2009a nonlinear symmetric"
TISSUE_THRESHOLD = 0.5
TEMPLATE_BRAIN = 0.1  # of the template's brightest voxel; nilearn's template has no skull
FLUID_BELOW = 0.1  # grey and white matter together
FLUID_DEPTH_MM = 15.0  # below the brain's surface, where fluid lies in ventricles and around the brain stem
FLUID_STEP_MM = 2  # between points, and how far they keep from any tissue


@functools.cache
def tissue_probabilities() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the probabilities of grey and of white matter on the grid.

    Each is read-only, of GRID_SHAPE, within 0..1: nilearn's 1 mm map smoothed by a Gaussian of one voxel's width
    (3 mm FWHM) so that no fold aliases, then sampled at the grid's points.
    """
    return _on_grid(nilearn_datasets.load_mni152_gm_template()), _on_grid(nilearn_datasets.load_mni152_wm_template())


@functools.cache
def tissue_mask() -> NDArray[np.bool_]:
    """Return where grey and white matter together are more probable than one half: 64 820 voxels, read-only."""
    grey, white = tissue_probabilities()
    mask = grey + white > TISSUE_THRESHOLD
    mask.setflags(write=False)
    return mask


def mask_points_mm(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the MNI coordinates (voxels, 3) in mm of a mask's voxels, in C order of the mask."""
    _check_mask(mask)
    return np.asarray(nibabel.affines.apply_affine(GRID_AFFINE, np.argwhere(mask)), dtype=np.float64)


def grid_points_mm() -> NDArray[np.float64]:
    """Return the MNI coordinates (voxels, 3) in mm of all voxels of the grid, in C order."""
    return mask_points_mm(np.ones(GRID_SHAPE, dtype=bool))


@functools.cache
def fluid_points_mm() -> NDArray[np.float64]:
    """Return MNI coordinates (points, 3) in mm deep in the template's ventricles, read-only: 277 of them."""
    template = nilearn_datasets.load_mni152_template(resolution=1)
    grey = nilearn_datasets.load_mni152_gm_template(resolution=1)
    white = nilearn_datasets.load_mni152_wm_template(resolution=1)
    every = slice(None, None, FLUID_STEP_MM)
    t1, grey_part, white_part = (
        image.get_fdata(dtype=np.float32)[every, every, every] for image in (template, grey, white)
    )
    brain = ndimage.binary_fill_holes(t1 > TEMPLATE_BRAIN)
    depth_mm = FLUID_STEP_MM * ndimage.distance_transform_edt(brain)
    fluid = (grey_part + white_part < FLUID_BELOW) & (depth_mm > FLUID_DEPTH_MM)
    voxels = FLUID_STEP_MM * np.argwhere(ndimage.binary_erosion(fluid))
    points = np.asarray(nibabel.affines.apply_affine(template.affine, voxels), dtype=np.float64)
    points.setflags(write=False)
    return points


def mask_sha256(mask: NDArray[np.bool_]) -> str:
    """Return the SHA-256 (hexadecimal) of a mask: of its voxels in C order, one byte each, 0 or 1."""
    _check_mask(mask)
    return hashlib.sha256(np.ascontiguousarray(mask, dtype=np.uint8).tobytes()).hexdigest()


def _on_grid(tissue: nibabel.Nifti1Image) -> NDArray[np.float32]:
    smoothed = nilearn_image.smooth_img(tissue, VOXEL_MM)
    sampled = nilearn_image.resample_img(smoothed, GRID_AFFINE, GRID_SHAPE, interpolation="linear", copy_header=True)
    probabilities = np.clip(sampled.get_fdata(dtype=np.float32), 0.0, 1.0)
    probabilities.setflags(write=False)
    return probabilities


def _check_mask(mask: NDArray[np.bool_]) -> None:
    if mask.shape != GRID_SHAPE or mask.dtype != np.bool_:
        raise ValueError(f"a mask must be boolean and of shape {GRID_SHAPE}, but is {mask.dtype} of shape {mask.shape}")
