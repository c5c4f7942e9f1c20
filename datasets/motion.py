"""Head motion of a run, from its raw volumes: where the head lay at each of them.

Takes a 4-D NIfTI image; gives one rigid pose per volume, mm to mm of scanner space whatever the image's affine, the six
motion parameters and framewise displacement.  Source: the least-squares realignment of SPM (Friston et al. 1995,
https://doi.org/10.1002/hbm.460030303) with inverse-compositional updates (Baker and Matthews 2004,
https://doi.org/10.1023/B:VISI.0000011205.11775.fd), which need one image gradient for all volumes.

Legend of shapes: V volumes, N points.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import nibabel
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from datasets.errors import BadInput
from datasets.registration import canonical, epi_brain

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]

MOTION_NAMES = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
HEAD_RADIUS_MM = 50.0  # of Power's framewise displacement
IN_MM = np.array([1.0, 1.0, 1.0, HEAD_RADIUS_MM, HEAD_RADIUS_MM, HEAD_RADIUS_MM])  # of a step's six numbers
SMOOTHING_MM = 5.0
ROUGH_SMOOTHING_MM = 12.0  # of runs, that lie further apart than volumes do
EVERY = 2  # voxels, along each axis
BORDER = 1.0  # voxels at the edge of the field of view that are not compared: smoothing mirrors them
SMALLEST_AXIS = 8  # voxels
PASSES = 2  # to the plain mean, then to the realigned one
ITERATIONS, CONVERGED_MM = 30, 0.005
SEEN_SHARE = 0.5  # of the points, in the field of view: fewer tell nothing
FLAT_BELOW = 0.01  # of the mean's contrast
REALIGNED_VOLUMES = 16  # evenly over the run: all of them take ten times as long and show no more


@dataclass(frozen=True, kw_only=True, eq=False)
class Motion:
    """How a head moved.

    Attributes:
        poses: float64 (V, 4, 4), from a point of the reference's scanner space to where that tissue lay at each
            volume, mm to mm.
        parameters: float64 (V, 6) in order of MOTION_NAMES: mm, and rad about ``centre_mm``; a pose turns by
            rot_x, rot_y, rot_z about the head's own axes in this order, then translates.
        framewise_displacement_mm: float64 (V,), 0 for the first volume; Power et al. (2012),
            https://doi.org/10.1016/j.neuroimage.2011.10.018.
        centre_mm: float64 (3,), the middle of the brain.
    """

    poses: Floats
    parameters: Floats
    framewise_displacement_mm: Floats
    centre_mm: Floats


def motion_from_parameters(parameters: Floats, *, centre_mm: Sequence[float] | Floats = (0.0, 0.0, 0.0)) -> Motion:
    """Return the motion that has these parameters (V, 6), in order of MOTION_NAMES, about a centre (3,) in mm."""
    if parameters.ndim != 2 or parameters.shape[1] != len(MOTION_NAMES):
        raise ValueError(f"parameters must have the shape (volumes, 6), but have {parameters.shape}")
    centre = np.asarray(centre_mm, dtype=np.float64)
    poses = np.tile(np.eye(4), (len(parameters), 1, 1))
    poses[:, :3, :3] = Rotation.from_euler("XYZ", parameters[:, 3:]).as_matrix()
    poses[:, :3, 3] = parameters[:, :3] + centre - poses[:, :3, :3] @ centre
    return Motion(
        poses=poses,
        parameters=np.array(parameters, dtype=np.float64),
        framewise_displacement_mm=framewise_displacement(parameters),
        centre_mm=centre,
    )


def motion_from_poses(poses: Floats, *, centre_mm: Sequence[float] | Floats = (0.0, 0.0, 0.0)) -> Motion:
    """Return the motion that has these rigid poses (V, 4, 4)."""
    centre = np.asarray(centre_mm, dtype=np.float64)
    parameters = np.empty((len(poses), len(MOTION_NAMES)))
    parameters[:, :3] = poses[:, :3, :3] @ centre + poses[:, :3, 3] - centre
    parameters[:, 3:] = Rotation.from_matrix(poses[:, :3, :3]).as_euler("XYZ")
    return motion_from_parameters(parameters, centre_mm=centre)


def framewise_displacement(parameters: Floats) -> Floats:
    """Return how far the head moved since the volume before, (V,) in mm, from parameters (V, 6)."""
    steps = np.abs(np.diff(parameters, axis=0, prepend=parameters[:1]))
    return np.asarray(steps[:, :3].sum(axis=1) + HEAD_RADIUS_MM * steps[:, 3:].sum(axis=1), dtype=np.float64)


def estimate_motion(image: nibabel.Nifti1Image, *, reference: nibabel.Nifti1Image | None = None) -> Motion:
    """Estimate the pose of each volume of a run (4-D); BadInput where the image cannot be used.

    Poses start from the run's average pose; with a ``reference`` (3-D, as ``realigned_mean`` of the subject's first
    run) from the pose of the head there.  A volume that cannot be brought to the others takes the pose before it.
    """
    if len(image.shape) != 4 or min(image.shape[:3]) < SMALLEST_AXIS or image.shape[3] < 2:
        raise BadInput(
            f"BOLD must be a 4-D image of 2 volumes and {SMALLEST_AXIS} voxels an axis or more, but is {image.shape}"
        )
    volumes, affine = canonical(image)
    mean = np.asarray(volumes.mean(axis=3, dtype=np.float64), dtype=np.float32)
    brain = epi_brain(nibabel.Nifti1Image(mean, affine))
    target = _target(mean, affine, brain, SMOOTHING_MM)
    coefficients = [_coefficients(volume, affine, SMOOTHING_MM) for volume in np.moveaxis(volumes, 3, 0)]
    poses, target = _track(coefficients, affine, target)
    if reference is None:
        poses = _about_average(poses, target.centre_mm)
    else:
        poses = poses @ _from_reference(reference, target, _target(mean, affine, brain, ROUGH_SMOOTHING_MM))
    return motion_from_poses(poses, centre_mm=target.centre_mm)


def realigned_mean(image: nibabel.Nifti1Image, motion: Motion) -> nibabel.Nifti1Image:
    """Return the mean (3-D, float32) of volumes evenly over the run, brought back to where the poses start from."""
    volumes, affine = _finite(image), np.asarray(image.affine, dtype=np.float64)
    step = max(1, len(motion.poses) // REALIGNED_VOLUMES)
    total = np.zeros(volumes.shape[:3], dtype=np.float64)
    chosen = range(0, len(motion.poses), step)
    for index in chosen:
        matrix = np.linalg.inv(affine) @ motion.poses[index] @ affine
        total += ndimage.affine_transform(volumes[..., index], matrix, order=3, output=np.float32, mode="nearest")
    return nibabel.Nifti1Image((total / len(chosen)).astype(np.float32), affine)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Target:
    """What volumes are brought to: points (N, 3) in mm, the values there (N,), and what small motion does to them.

    ``slopes`` (N, 6) are the changes of the value by a mm along, and by a rad about, the three axes through the centre.
    """

    points_mm: Floats
    values: Floats
    slopes: Floats
    centre_mm: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fit:
    """The pose that brings a volume to the target, and its values there (N,) on the target's scale."""

    pose: Floats
    values: Floats
    is_found: bool


def _target(mean: Floats32, affine: Floats, brain: NDArray[np.bool_], smoothing_mm: float) -> _Target:
    """Return every second voxel of the brain and of its border, where most of the contrast is."""
    smooth = _smoothed(mean, affine, smoothing_mm)
    chosen = np.zeros(brain.shape, dtype=bool)
    chosen[::EVERY, ::EVERY, ::EVERY] = True
    chosen &= ndimage.binary_dilation(brain)
    slopes: list[Floats32] = list(np.gradient(smooth))
    along_voxels = np.stack([slope[chosen] for slope in slopes], axis=1).astype(np.float64)
    gradient = along_voxels @ np.linalg.inv(affine[:3, :3])
    points = apply_affine(affine, np.argwhere(chosen))
    centre = apply_affine(affine, np.argwhere(brain)).mean(axis=0)
    return _Target(
        points_mm=points,
        values=smooth[chosen].astype(np.float64),
        slopes=np.hstack([gradient, np.cross(points - centre, gradient)]),
        centre_mm=centre,
    )


def _track(coefficients: Sequence[Floats32], affine: Floats, target: _Target) -> tuple[Floats, _Target]:
    """Return the poses (V, 4, 4) from the target to each volume, and the target with the realigned mean's values."""
    poses = np.tile(np.eye(4), (len(coefficients), 1, 1))
    for number in range(PASSES):
        fits: list[_Fit] = []
        for index, volume in enumerate(coefficients):
            start = poses[index] if number or not fits else fits[-1].pose
            fits.append(_fit(volume, affine, target, start))
        is_found = np.array([fit.is_found for fit in fits])
        poses = np.stack([fit.pose for fit in fits])[_last_true(is_found)]
        if is_found.any():
            target = replace(target, values=np.mean([fit.values for fit in fits if fit.is_found], axis=0))
    if not is_found.all():
        logger.warning(
            "%d volumes cannot be brought to the others, their motion is unknown: look at the images", (~is_found).sum()
        )
    return poses, target


def _last_true(is_true: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return for each position that of the last true one up to it, or of the first true one."""
    positions = np.where(is_true, np.arange(len(is_true)), np.argmax(is_true))
    return np.asarray(np.maximum.accumulate(positions))


def _from_reference(reference: nibabel.Nifti1Image, target: _Target, rough: _Target) -> Floats:
    """Return the matrix from the reference's scanner space to where the target's head lay."""
    if len(reference.shape) != 3 or min(reference.shape) < SMALLEST_AXIS:
        raise BadInput(f"the motion's reference must be a 3-D image, but its shape is {reference.shape}")
    volume, affine = canonical(reference)
    start = _fit(_coefficients(volume, affine, ROUGH_SMOOTHING_MM), affine, rough, np.eye(4)).pose
    fit = _fit(_coefficients(volume, affine, SMOOTHING_MM), affine, target, start)
    if not fit.is_found:
        raise BadInput("the run's head cannot be brought to the subject's first run; look at the images")
    return np.asarray(np.linalg.inv(fit.pose), dtype=np.float64)


def _fit(coefficients: Floats32, affine: Floats, target: _Target, start: Floats) -> _Fit:
    """Bring a volume's spline coefficients to the target; the start is the answer where that does not converge."""
    to_voxels, pose = np.linalg.inv(affine), start
    design = np.column_stack([target.values, target.slopes])
    last = np.array(coefficients.shape)[:, np.newaxis] - 1
    for _ in range(ITERATIONS):
        matrix = to_voxels @ pose
        voxels = matrix[:3, :3] @ target.points_mm.T + matrix[:3, 3:]
        values = ndimage.map_coordinates(
            coefficients, voxels, order=3, prefilter=False, mode="mirror", output=np.float64
        )
        is_inside = np.all((voxels >= BORDER) & (voxels <= last - BORDER), axis=0)
        if is_inside.mean() < SEEN_SHARE or values.std() < FLAT_BELOW * target.values.std():
            break
        solution = _least_squares(design * is_inside[:, np.newaxis], values)
        scale, step = solution[0], solution[1:] / solution[0]
        pose = pose @ np.linalg.inv(_small_motion(step, target.centre_mm))
        if np.abs(step * IN_MM).max() < CONVERGED_MM and scale > 0:
            return _Fit(pose=pose, values=values / scale, is_found=True)
    return _Fit(pose=start, values=target.values, is_found=False)


def _least_squares(design: Floats, values: Floats) -> Floats:
    """Return the scale and the scaled step; directions that the points do not tell stay at 0."""
    solution = np.linalg.lstsq(design.T @ design, design.T @ values, rcond=1e-12)[0]
    return np.asarray(solution, dtype=np.float64)


def _small_motion(step: Floats, centre_mm: Floats) -> Floats:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(step[3:]).as_matrix()
    matrix[:3, 3] = step[:3] + centre_mm - matrix[:3, :3] @ centre_mm
    return matrix


def _about_average(poses: Floats, centre_mm: Floats) -> Floats:
    """Return the poses from the average of them all."""
    average = np.eye(4)
    average[:3, :3] = Rotation.from_matrix(poses[:, :3, :3]).mean().as_matrix()
    middle = (poses[:, :3, :3] @ centre_mm + poses[:, :3, 3]).mean(axis=0)
    average[:3, 3] = middle - average[:3, :3] @ centre_mm
    return np.asarray(poses @ np.linalg.inv(average), dtype=np.float64)


def _finite(image: nibabel.Nifti1Image) -> Floats32:
    values = np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged"))
    return values if np.isfinite(values.sum()) else np.nan_to_num(values, posinf=0.0, neginf=0.0)


def _smoothed(volume: Floats32, affine: Floats, fwhm_mm: float) -> Floats32:
    sigma = fwhm_mm / np.sqrt(8 * np.log(2)) / voxel_sizes(affine)
    return np.asarray(ndimage.gaussian_filter(volume, sigma, mode="mirror"), dtype=np.float32)


def _coefficients(volume: Floats32, affine: Floats, fwhm_mm: float) -> Floats32:
    smooth = _smoothed(volume, affine, fwhm_mm)
    return np.asarray(ndimage.spline_filter(smooth, order=3, output=np.float32, mode="mirror"))
