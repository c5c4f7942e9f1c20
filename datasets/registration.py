"""Bring a subject's EPI to MNI space: EPI -> T1 -> template.

Takes the mean EPI and the T1 of a subject as NIfTI images; gives an Alignment, which tells where a point of MNI space
lies in the scanner space of the EPI.  Registration is deterministic and single-threaded: run subjects in parallel.
"""

import functools
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import nibabel
import numpy as np
from dipy.align.imaffine import AffineRegistration, MutualInformationMetric, transform_centers_of_mass
from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
from dipy.align.metrics import CCMetric
from dipy.align.transforms import AffineTransform3D, RigidTransform3D, Transform, TranslationTransform3D
from nibabel.affines import apply_affine, voxel_sizes
from nilearn import datasets as nilearn_datasets
from nilearn.masking import compute_epi_mask
from numpy.typing import NDArray
from scipy import ndimage

from datasets.errors import BadInput
from datasets.grid import TEMPLATE_BRAIN, grid_points_mm

logger = logging.getLogger(__name__)

Matrix = NDArray[np.float64]
Points = NDArray[np.float64]

LEVEL_ITERATIONS, LEVEL_FACTORS, LEVEL_SIGMAS = (1000, 100, 10), (4, 2, 1), (3.0, 1.0, 0.0)
ROUGH, FINE = 2, 3  # how many of the levels, from the coarsest, a step goes through
HISTOGRAM_BINS = 32
SAMPLED_SHARE = 0.3  # of the voxels: a third of the time of all of them, and 0.1 mm worse
RIGID_STEP_MM = 2.0
AFFINE_STEP_MM = 4.0
BRAIN_MARGIN_MM = 6.0
SHADING_MM = 20.0  # standard deviation of what is taken for a coil's shading, and for no anatomy
TISSUE_ABOVE = 0.2  # of the T1's bright tissue: what is darker has no say in the shading
SHADED_SHARE = 0.02  # of tissue around a voxel: with less nothing is known there
STRIP_ABOVE = 0.3  # of a carried brain mask: a generous border keeps the edge that the affine needs
WARP_STEP_MM = 2.0
WARP_MARGIN = 3  # voxels around the template's brain
WARP_ITERATIONS = (40, 20, 10)
WARP_RADIUS = 3  # voxels, of the local cross-correlation
OVERLAP_WARNED, OVERLAP_REFUSED = 0.9, 0.6  # right ones have 0.96, ones 10 mm off 0.88 to 0.91
WITHOUT_T1 = "affine without T1"


@dataclass(frozen=True, kw_only=True, eq=False)
class Warp:
    """A smooth displacement of MNI space: float32 (x, y, z, 3) in mm on a grid of voxels, ``affine`` to MNI mm.

    Between voxels it is linear; beyond the grid it is that of the grid's edge.
    """

    displacement_mm: NDArray[np.float32]
    affine: Matrix

    def __post_init__(self) -> None:
        shape = self.displacement_mm.shape
        if len(shape) != 4 or shape[3] != 3 or not np.isfinite(self.displacement_mm).all():
            raise ValueError(f"a warp must be finite and of the shape (x, y, z, 3), but its shape is {shape}")

    def displaced(self, points_mm: Points) -> Points:
        """Return points (n, 3) in MNI mm, each moved by the displacement there."""
        voxels = apply_affine(np.linalg.inv(self.affine), points_mm).T
        moved = [
            ndimage.map_coordinates(component, voxels, order=1, mode="nearest", output=np.float64)
            for component in np.moveaxis(self.displacement_mm, 3, 0)
        ]
        return points_mm + np.stack(moved, axis=1)

    @property
    def sha256(self) -> str:
        """The SHA-256 (hexadecimal) of the displacement and of its grid."""
        digest = hashlib.sha256(np.ascontiguousarray(self.displacement_mm, dtype="<f4").tobytes())
        digest.update(np.ascontiguousarray(self.affine, dtype="<f8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Alignment:
    """Where MNI space lies in a subject's EPI; callers ask ``epi_points`` and need not know of what it is made.

    Attributes:
        method: how it was found.
        epi_to_t1, t1_to_mni: 4 x 4 matrices from scanner mm to scanner mm and to MNI mm.
        warp: displaces a point of MNI space before the matrices lead back to the T1; None where the way is affine.
        overlap: Dice of the EPI's brain with the template's within the EPI's field of view; None where not measured.
    """

    method: str
    epi_to_t1: Matrix
    t1_to_mni: Matrix
    warp: Warp | None = None
    overlap: float | None = None

    def __post_init__(self) -> None:
        for name in ("epi_to_t1", "t1_to_mni"):
            matrix = np.array(getattr(self, name), dtype=np.float64)
            if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-6:
                raise ValueError(f"{name} must be a finite, invertible 4 x 4 matrix, but is {matrix.tolist()}")
            matrix.setflags(write=False)
            object.__setattr__(self, name, matrix)

    def __eq__(self, other: object) -> bool:
        return self.to_json() == other.to_json() if isinstance(other, Alignment) else NotImplemented

    def t1_points(self, points_mm: Points) -> Points:
        """Return where points (n, 3) in MNI mm lie in the T1's scanner space, (n, 3) in mm."""
        moved = points_mm if self.warp is None else self.warp.displaced(points_mm)
        return np.asarray(apply_affine(_inverse(self.t1_to_mni), moved), dtype=np.float64)

    def epi_points(self, points_mm: Points) -> Points:
        """Return where points (n, 3) in MNI mm lie in the EPI's scanner space, (n, 3) in mm."""
        return np.asarray(apply_affine(_inverse(self.epi_to_t1), self.t1_points(points_mm)), dtype=np.float64)

    def to_json(self) -> dict[str, Any]:
        """Return the alignment as a dictionary for JSON; of the warp only its SHA-256."""
        return {
            "method": self.method,
            "epi_to_t1": self.epi_to_t1.tolist(),
            "t1_to_mni": self.t1_to_mni.tolist(),
            "warp_sha256": None if self.warp is None else self.warp.sha256,
            "overlap": self.overlap,
        }


def align(mean_epi: nibabel.Nifti1Image, t1: nibabel.Nifti1Image | None, *, method: str) -> Alignment:
    """Align a subject's mean EPI (3-D) to MNI space by one of METHODS; BadInput where an image cannot be used.

    The EPI's brain, carried to the template, is compared with the template's: below OVERLAP_WARNED that is logged,
    below OVERLAP_REFUSED it is BadInput.

    Source of "affine": dipy's mutual information of Mattes et al. (2003), https://doi.org/10.1109/TMI.2003.809072;
    of "syn" besides: Avants et al. (2008), https://doi.org/10.1016/j.media.2007.06.004.
    """
    if method not in METHODS:
        raise BadInput(f"the registration must be one of {', '.join(METHODS)}, but got {method!r}")
    _check_image(mean_epi, "the mean EPI")
    if t1 is not None:
        _check_image(t1, "the T1")
    epi = _canonical_image(mean_epi)
    alignment = METHODS[method](epi, None if t1 is None else _canonical_image(t1))
    return replace(alignment, overlap=_checked_overlap(alignment, epi))


def trust_headers(mean_epi: nibabel.Nifti1Image, t1: nibabel.Nifti1Image | None) -> Alignment:  # noqa: ARG001 - a METHODS entry
    """Take the EPI's scanner space for MNI space, as it is in images that were normalised before."""
    return Alignment(method="header", epi_to_t1=np.eye(4), t1_to_mni=np.eye(4))


def register_affinely(mean_epi: nibabel.Nifti1Image, t1: nibabel.Nifti1Image | None) -> Alignment:
    """Register EPI -> T1 rigidly from the headers' common scanner space, then T1 -> template by an affine.

    The T1's skull is stripped by the EPI's brain mask first, and, as an EPI often ends within the brain, by the
    template's brain before the last step (0.4 mm median error in place of 0.75 mm on template-made images).

    Without a T1 the EPI is registered to the template directly, which is logged: it may be wrong by 10 mm.
    """
    return _without_t1(mean_epi) if t1 is None else _affine(mean_epi, _head(t1))


def register_nonlinearly(mean_epi: nibabel.Nifti1Image, t1: nibabel.Nifti1Image | None) -> Alignment:
    """Register as ``register_affinely`` does, then warp the template to the T1 by dipy's SyN at 2 mm.

    The T1's skull is stripped by the template's brain, as the affine carries it there.
    """
    if t1 is None:
        return _without_t1(mean_epi)
    head = _head(t1)
    alignment = _affine(mean_epi, head)
    return replace(alignment, method="syn", warp=_warp_to(head, _inverse(alignment.t1_to_mni)))


METHODS: dict[str, Callable[[nibabel.Nifti1Image, nibabel.Nifti1Image | None], Alignment]] = {
    "syn": register_nonlinearly,
    "affine": register_affinely,
    "header": trust_headers,
}


def epi_brain(mean_epi: nibabel.Nifti1Image) -> NDArray[np.bool_]:
    """Return the brain in a mean EPI: nilearn's histogram mask; BadInput where it finds none."""
    values = mean_epi.get_fdata(dtype=np.float32, caching="unchanged")
    mask = np.asarray(compute_epi_mask(mean_epi, ensure_finite=True).dataobj) > 0 if np.ptp(values) else values > 0
    if not mask.any() or not np.ptp(values[mask]):
        raise BadInput("found no brain in the mean EPI; look at the image, or exclude the subject")
    return np.asarray(mask)


def canonical(image: nibabel.Nifti1Image) -> tuple[NDArray[np.float32], Matrix]:
    """Return an image's finite values and its affine, its axes those that lie closest to right, front and up.

    What is taken of every second voxel, or of a random share, is then the same however the image is stored.
    """
    values = np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged"))
    if not np.isfinite(values.sum()):
        values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
    axes = nibabel.io_orientation(image.affine)
    affine = image.affine @ nibabel.orientations.inv_ornt_aff(axes, image.shape[:3])
    return np.asarray(nibabel.orientations.apply_orientation(values, axes)), np.asarray(affine, dtype=np.float64)


def _canonical_image(image: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    values, affine = canonical(image)
    return nibabel.Nifti1Image(np.ascontiguousarray(values), affine)


def _checked_overlap(alignment: Alignment, mean_epi: nibabel.Nifti1Image) -> float:
    """Return the Dice of the EPI's brain with the template's, over the grid's points in the EPI's field of view."""
    points = grid_points_mm()
    carried = alignment.epi_points(points)
    mask = epi_brain(mean_epi)
    is_seen = _Volume(values=np.ones(mask.shape), affine=mean_epi.affine).sampled(carried) > 0
    is_epi = _Volume(values=mask.astype(np.float64), affine=mean_epi.affine).sampled(carried[is_seen]) > 0.5
    is_template = _template(RIGID_STEP_MM).sampled(points[is_seen]) > TEMPLATE_BRAIN
    overlap = float(2 * (is_epi & is_template).sum() / max(1, is_epi.sum() + is_template.sum()))
    told = f"the EPI's brain and the template's overlap by {overlap:.2f} only (Dice)"
    if overlap < OVERLAP_REFUSED:
        raise BadInput(f"{told}: the registration failed; look at the images and at their affines")
    if overlap < OVERLAP_WARNED:
        logger.warning("%s: look at the registration", told)
    return round(overlap, 4)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Volume:
    """A 3-D image and its voxel-to-mm matrix."""

    values: NDArray[np.floating[Any]]
    affine: Matrix

    def where(self, mask: NDArray[np.bool_]) -> "_Volume":
        """Return the volume, zero outside the mask."""
        return _Volume(values=np.where(mask, self.values, 0.0), affine=self.affine)

    def sampled(self, points_mm: Points) -> NDArray[np.float32]:
        """Return the values at points (n, 3) in mm, linear between voxels, 0 outside."""
        voxels = apply_affine(np.linalg.inv(self.affine), points_mm).T
        return np.asarray(ndimage.map_coordinates(self.values, voxels, order=1, output=np.float32))

    def around_brain(self, margin: int) -> "_Volume":
        """Return the box of the template's brain, with some voxels around it."""
        brain = np.argwhere(self.values > TEMPLATE_BRAIN)
        first = np.maximum(brain.min(axis=0) - margin, 0)
        box = tuple(slice(start, end) for start, end in zip(first, brain.max(axis=0) + margin + 1, strict=True))
        shifted = self.affine.copy()
        shifted[:3, 3] = apply_affine(self.affine, first)
        return _Volume(values=np.ascontiguousarray(self.values[box]), affine=shifted)

    def at(self, step_mm: float) -> "_Volume":
        """Return the volume in blocks, averaged, of about ``step_mm``; voxels that are larger stay as they are."""
        sizes = np.maximum(1, np.round(step_mm / voxel_sizes(self.affine))).astype(int)
        counts = np.array(self.values.shape) // sizes
        cropped = self.values[tuple(slice(0, end) for end in counts * sizes)]
        blocks = cropped.reshape([number for pair in zip(counts, sizes, strict=True) for number in pair])
        to_fine = np.diag([*sizes.astype(float), 1.0])
        to_fine[:3, 3] = (sizes - 1) / 2
        return _Volume(values=blocks.mean(axis=(1, 3, 5), dtype=np.float64), affine=self.affine @ to_fine)


def _volume(image: nibabel.Nifti1Image) -> _Volume:
    values = np.nan_to_num(image.get_fdata(dtype=np.float32, caching="unchanged"), posinf=0.0, neginf=0.0)
    return _Volume(values=values.astype(np.float64), affine=np.asarray(image.affine, dtype=np.float64))


@functools.cache
def _template(step_mm: float) -> _Volume:
    return _volume(nilearn_datasets.load_mni152_template(resolution=1)).at(step_mm)


def _check_image(image: nibabel.Nifti1Image, name: str) -> None:
    if len(image.shape) != 3 or min(image.shape) < 8:
        raise BadInput(
            f"{name} must be a 3-D image of at least 8 voxels along each axis, but its shape is {image.shape}"
        )
    if abs(np.linalg.det(image.affine)) < 1e-6:
        raise BadInput(f"{name} must have an invertible affine in its header, but has {image.affine.tolist()}")


def _without_t1(mean_epi: nibabel.Nifti1Image) -> Alignment:
    logger.warning(
        "no T1: the EPI is registered to the template directly and may be wrong by 10 mm; "
        "give a T1, or images in MNI space with the registration 'header'"
    )
    brain = _volume(mean_epi).where(epi_brain(mean_epi))
    return Alignment(method=WITHOUT_T1, epi_to_t1=np.eye(4), t1_to_mni=_inverse(_template_to(brain, brain)))


def _affine(mean_epi: nibabel.Nifti1Image, head: _Volume) -> Alignment:
    epi, brain = _volume(mean_epi), epi_brain(mean_epi)
    epi_to_t1 = _rigid(epi, brain, head)
    t1_to_mni = _inverse(_template_to(_stripped(head, brain, epi_to_t1 @ epi.affine), head))
    return Alignment(method="affine", epi_to_t1=epi_to_t1, t1_to_mni=t1_to_mni)


def _warp_to(head: _Volume, template_to_head: Matrix) -> Warp:
    """Return the warp of the template after which the matrix leads to the same anatomy in the head."""
    template, rough = _template(WARP_STEP_MM).around_brain(WARP_MARGIN), _template(AFFINE_STEP_MM)
    stripped = _stripped(head, rough.values > TEMPLATE_BRAIN, template_to_head @ rough.affine)
    registration = SymmetricDiffeomorphicRegistration(
        metric=CCMetric(3, radius=WARP_RADIUS), level_iters=list(WARP_ITERATIONS)
    )
    registration.verbosity = 0
    found = registration.optimize(
        template.values,
        stripped.values,
        static_grid2world=template.affine,
        moving_grid2world=stripped.affine,
        prealign=template_to_head,
    )
    return Warp(displacement_mm=np.array(found.get_forward_field(), dtype=np.float32), affine=template.affine)


def _head(t1: nibabel.Nifti1Image) -> _Volume:
    """Return a T1, whose values are finite, at the step that registration works at; never a fine one in float64."""
    values = np.asarray(t1.get_fdata(dtype=np.float32, caching="unchanged"))
    return _evenly_lit(_Volume(values=values, affine=np.asarray(t1.affine, dtype=np.float64)).at(RIGID_STEP_MM))


def _evenly_lit(head: _Volume) -> _Volume:
    """Return a T1 without the slow shading of its coil, which pulls the rigid step: 1.6 mm become 0.5 mm at 25 %.

    The shading is the logarithm of what is bright, smoothed over what is bright.
    """
    values = head.values
    bright = values[values > values.mean()]
    if not bright.size:
        return head
    least = TISSUE_ABOVE * float(np.percentile(bright, 90))
    is_tissue = values > least
    sigma = SHADING_MM / voxel_sizes(head.affine)
    seen = ndimage.gaussian_filter(is_tissue.astype(np.float64), sigma)
    logarithm = np.where(is_tissue, np.log(np.maximum(values, least)), 0.0)
    shading = ndimage.gaussian_filter(logarithm, sigma) / np.maximum(seen, SHADED_SHARE)
    shading -= shading[is_tissue].mean()
    return _Volume(values=np.where(seen > SHADED_SHARE, values * np.exp(-shading), values), affine=head.affine)


def _rigid(epi: _Volume, brain: NDArray[np.bool_], head: _Volume) -> Matrix:
    """Return the rigid matrix EPI -> T1; only the brain and its border are compared, so the skull cannot pull."""
    border = _dilated(brain, epi.affine)
    start = _register(epi, head, TranslationTransform3D(), np.eye(4), levels=ROUGH, static_mask=border)
    return _register(epi, head, RigidTransform3D(), start, levels=FINE, static_mask=border)


def _template_to(brain: _Volume, head: _Volume) -> Matrix:
    """Return the affine matrix template -> head, found first on a roughly stripped brain, then stripped anew."""
    template = _template(AFFINE_STEP_MM)
    moving = brain.at(AFFINE_STEP_MM)
    centred = transform_centers_of_mass(template.values, template.affine, moving.values, moving.affine)
    start = np.asarray(centred.affine, dtype=np.float64)
    for transform, levels in (
        (TranslationTransform3D(), ROUGH),
        (RigidTransform3D(), ROUGH),
        (AffineTransform3D(), FINE),
    ):
        start = _register(template, moving, transform, start, levels=levels)
    restripped = _stripped(head, template.values > TEMPLATE_BRAIN, start @ template.affine)
    return _register(template, restripped.at(AFFINE_STEP_MM), AffineTransform3D(), start, levels=FINE)


def _stripped(head: _Volume, brain: NDArray[np.bool_], brain_to_head: Matrix) -> _Volume:
    """Return the head, zero outside a brain mask that is carried there from its voxels by a matrix to the head's mm."""
    to_brain_voxels = np.linalg.inv(brain_to_head) @ head.affine
    carried = ndimage.affine_transform(
        brain.astype(np.float64), to_brain_voxels, output_shape=head.values.shape, order=1
    )
    return head.where(carried > STRIP_ABOVE)


def _inverse(matrix: Matrix) -> Matrix:
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64)


def _dilated(mask: NDArray[np.bool_], affine: Matrix) -> NDArray[np.bool_]:
    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=voxel_sizes(affine)) <= BRAIN_MARGIN_MM)


def _register(
    static: _Volume,
    moving: _Volume,
    transform: Transform,
    start: Matrix,
    *,
    levels: int,
    static_mask: NDArray[np.bool_] | None = None,
) -> Matrix:
    """Return the matrix from static mm to moving mm that maximises mutual information, of the transform's kind."""
    sampled = SAMPLED_SHARE if static_mask is None else None  # dipy samples no masked volume
    registration = AffineRegistration(
        metric=MutualInformationMetric(nbins=HISTOGRAM_BINS, sampling_proportion=sampled),
        level_iters=list(LEVEL_ITERATIONS[:levels]),
        sigmas=list(LEVEL_SIGMAS[:levels]),
        factors=list(LEVEL_FACTORS[:levels]),
        verbosity=0,
    )
    found = registration.optimize(
        static.values,
        moving.values,
        transform,
        None,
        static_grid2world=static.affine,
        moving_grid2world=moving.affine,
        starting_affine=start,
        static_mask=None if static_mask is None else static_mask.astype(np.int32),
    )
    return np.asarray(found.affine, dtype=np.float64)
