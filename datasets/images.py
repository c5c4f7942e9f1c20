"""Read images: a run's BOLD as one series of volumes, and single images as a T1.

Takes NIfTI files; gives images whose values are already read as float32, or says in one line why they cannot be used.
"""

import gzip
import logging
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from datasets.errors import BadInput
from datasets.matlab import first_line

_UNREADABLE = (
    OSError, ValueError, EOFError, MemoryError, OverflowError, zlib.error, nibabel.filebasedimages.ImageFileError,
    nibabel.spatialimages.HeaderDataError,
)  # fmt: skip
AFFINE_TOLERANCE_MM = 1e-3
SMALLEST_DETERMINANT = 1e-6
BOX_MARGIN = 8
"""Voxels around points that are read with them: a cubic spline forgets what lies further by 3e-5."""
VOLUMES_AT_ONCE = 8
ODD_FACTOR = 2.0
"""A volume whose mean is off the run's median volume by more is warned of."""
_BLOCK_BYTES = 1 << 20
_NO_MEMBER = "Not a gzipped file"  # what follows the end, or no compressed image at all: reading it says so

logger = logging.getLogger(__name__)


def read_bold(paths: tuple[Path, ...], *, around_mm: NDArray[np.float64] | None = None) -> nibabel.Nifti1Image:
    """Read a BOLD series whole: one 4-D image, or the 3-D images of its volumes joined in order.

    Its values are kept as float32: ``get_fdata(dtype=np.float32)`` costs nothing more.  With ``around_mm`` (points, 3)
    only the box of these points is read, with what they are interpolated from: at 2 mm 0.4 GB, not 1.1.

    Raises:
        BadInput: a file cannot be read or is cut short, it is not a series of volumes, a volume has no finite value or
            shows nothing, or nothing changes from volume to volume.
    """
    if len(paths) == 1:
        image = _read(paths[0], "BOLD", around_mm)
        if len(image.shape) != 4 or image.shape[3] < 2:
            raise BadInput(f"{paths[0]} must be a NIfTI series of volumes (4-D), but has the shape {image.shape}")
    else:
        image = _joined(paths, around_mm)
    _check_volumes(image, paths)
    return image


def read_image(path: Path, what: str, *, around_mm: NDArray[np.float64] | None = None) -> nibabel.Nifti1Image:
    """Read one volume, as the ``what`` "T1" of a subject; values that are not finite become 0.

    ``around_mm`` as for ``read_bold``.

    Raises:
        BadInput: the file cannot be read or is cut short, is not one volume, or holds nothing but one value.
    """
    check_whole((path,), what)
    image = _one_volume(_read(path, what, around_mm), path)
    values = image.get_fdata(dtype=np.float32)
    if not np.isfinite(values).all():
        values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
        image = nibabel.Nifti1Image(values, image.affine, image.header)
        image.get_fdata(dtype=np.float32)
    if values.min() == values.max():
        raise BadInput(f"the {what} {path} must show something, but all its values are the same; check the file")
    return image


def check_whole(paths: Sequence[Path], what: str) -> None:
    """Read compressed files to their ends, where their checksums stand: BadInput where one is damaged or cut.

    Reading an image stops where its last value is, so its checksum is never seen.  What follows the end does no harm.
    """
    for path in paths:
        if path.suffix != ".gz":
            continue
        try:
            with gzip.open(path) as stream:
                while stream.read(_BLOCK_BYTES):
                    pass
        except _UNREADABLE as error:
            if not str(error).startswith(_NO_MEMBER):
                raise BadInput(f"cannot read the {what} of {path}: {first_line(error)}; download it again") from error


def is_empty(path: Path) -> bool:
    """Tell whether a file holds nothing; OSError as the system says it, where nibabel only says "unknown type"."""
    with Path(path).open("rb") as stream:
        return not stream.read(1)


def _read(path: Path, what: str, around_mm: NDArray[np.float64] | None = None) -> nibabel.Nifti1Image:
    """Read an image and its values; a pair of files (.hdr, .img) becomes one image."""
    try:
        if is_empty(path):
            raise BadInput(f"cannot read the {what} of {path}: it is empty (0 bytes); download it again")
        image: Any = (
            nibabel.load(path) if around_mm is None else _box(nibabel.load(path, keep_file_open=True), around_mm)
        )
        values = image.get_fdata(dtype=np.float32)
    except BadInput:
        raise
    except _UNREADABLE as error:
        raise BadInput(f"cannot read the {what} of {path}: {first_line(error)}; download it again") from error
    if not isinstance(image, nibabel.Nifti1Pair):
        raise BadInput(f"{path} must be a NIfTI image, but is of the kind {type(image).__name__}")
    _check_place(image, path, what)
    return image if isinstance(image, nibabel.Nifti1Image) else _image_of(values, image)


def _box(image: Any, around_mm: NDArray[np.float64]) -> Any:  # noqa: ANN401 - whatever nibabel has read
    """Return the part of an image that points (n, 3) in mm are interpolated from, read a few volumes at a time.

    An image that will be refused, or has none of the points, is returned as it is.
    """
    if not isinstance(image, nibabel.Nifti1Pair) or len(image.shape) not in (3, 4) or not _is_invertible(image.affine):
        return image
    voxels = apply_affine(np.linalg.inv(image.affine), around_mm)
    first = np.clip(np.floor(voxels.min(axis=0)).astype(int) - BOX_MARGIN, 0, image.shape[:3])
    first -= first % 2  # a point halfway between voxels then has the same nearest one
    last = np.clip(np.ceil(voxels.max(axis=0)).astype(int) + 1 + BOX_MARGIN, 0, image.shape[:3])
    if (first >= last).any():
        return image
    box = tuple(slice(*ends) for ends in zip(first.tolist(), last.tolist(), strict=True))
    values = np.empty((*(last - first), *image.shape[3:]), dtype=np.float32, order="F")
    if values.ndim == len(box):
        values[:] = image.dataobj[box]
    else:
        for start in range(0, image.shape[3], VOLUMES_AT_ONCE):
            some = slice(start, start + VOLUMES_AT_ONCE)
            values[..., some] = image.dataobj[*box, some]
    moved = np.array(image.affine)
    moved[:3, 3] = apply_affine(image.affine, first)
    return _image_of(values, image, moved)


def _is_invertible(affine: NDArray[np.float64]) -> bool:
    return bool(np.isfinite(affine).all() and abs(np.linalg.det(affine)) > SMALLEST_DETERMINANT)


def _check_place(image: nibabel.Nifti1Pair, path: Path, what: str) -> None:
    """Refuse an affine that leads nowhere, and warn of a header that has none: it does not tell left from right."""
    if not _is_invertible(image.affine):
        raise BadInput(
            f"the {what} {path} must have a finite, invertible affine in its header, but has {image.affine.tolist()}; "
            "correct the header, or convert the image anew"
        )
    if not image.header["qform_code"] and not image.header["sform_code"]:
        logger.warning(
            "the %s's header has neither a qform nor an sform: which side is left is a guess; convert the image anew",
            what,
        )


def _joined(paths: Sequence[Path], around_mm: NDArray[np.float64] | None = None) -> nibabel.Nifti1Image:
    """Join the images of single volumes, which must be of one shape and lie in one place."""
    if not paths:
        raise BadInput("BOLD must have 2 volumes or more, but there is no file")
    first = _one_volume(_read(paths[0], "BOLD", around_mm), paths[0])
    volumes = np.empty((*first.shape, len(paths)), dtype=np.float32)
    volumes[..., 0] = first.get_fdata(dtype=np.float32)
    for index, path in enumerate(paths[1:], start=1):
        image = _one_volume(_read(path, "BOLD", around_mm), path)
        if image.shape != first.shape or not np.allclose(image.affine, first.affine, atol=AFFINE_TOLERANCE_MM):
            raise BadInput(
                f"{path} must have the shape and affine of {paths[0]}: all volumes of a run lie in one place"
            )
        volumes[..., index] = image.get_fdata(dtype=np.float32)
    series = _image_of(volumes, first)
    series.header.set_xyzt_units(
        first.header.get_xyzt_units()[0], "unknown"
    )  # a single volume states no repetition time
    return series


def _one_volume(image: nibabel.Nifti1Image, path: Path) -> nibabel.Nifti1Image:
    if len(image.shape) == 4 and image.shape[3] == 1:
        return _image_of(image.get_fdata(dtype=np.float32)[..., 0], image)
    if len(image.shape) != 3:
        raise BadInput(f"{path} must be one volume (3-D), but has the shape {image.shape}")
    return image


def _image_of(
    values: NDArray[np.float32],
    like: Any,  # noqa: ANN401 - a pair or an image
    affine: NDArray[np.float64] | None = None,
) -> nibabel.Nifti1Image:
    header = nibabel.Nifti1Header.from_header(like.header)
    header.set_data_dtype(np.float32)
    header.set_slope_inter(1, 0)
    image = nibabel.Nifti1Image(values, like.affine if affine is None else affine, header)
    image.get_fdata(dtype=np.float32)
    return image


def _check_volumes(image: nibabel.Nifti1Image, paths: tuple[Path, ...]) -> None:
    volumes = image.get_fdata(dtype=np.float32)
    lows, highs, means = (np.array(each) for each in zip(*map(_extent, np.moveaxis(volumes, 3, 0)), strict=True))
    if not np.isfinite(means).all():
        empty = np.flatnonzero(~np.isfinite(means)).tolist()
        raise BadInput(f"{paths[0]}: volumes {empty[:8]} of the BOLD (from 0) hold no finite value; download it again")
    blank = np.flatnonzero(lows == highs).tolist()
    if blank and len(blank) < len(means):
        raise BadInput(
            f"{paths[0]}: volumes {blank[:8]} of the BOLD (from 0) show nothing, all their values are the same; "
            "download it again, or exclude the run"
        )
    if not blank and all(np.array_equal(volumes[..., 0], volumes[..., index]) for index in range(1, len(means))):
        raise BadInput(f"{paths[0]}: all volumes of the BOLD are the same; check how it was made, or exclude the run")
    usual = float(np.median(means))
    odd = np.flatnonzero((means > ODD_FACTOR * usual) | (means < usual / ODD_FACTOR)).tolist()
    if odd and usual > 0:
        logger.warning(
            "volumes %s of the BOLD (from 0) are far brighter or darker than the others; look at it", odd[:8]
        )


def _extent(volume: NDArray[np.float32]) -> tuple[float, float, float]:
    """Return the least, the largest and the mean of a volume's finite values; nan where there is none."""
    if not np.isfinite(total := float(volume.sum(dtype=np.float64))):
        volume = volume[np.isfinite(volume)]
        if not volume.size:
            return float("nan"), float("nan"), float("nan")
        total = float(volume.sum(dtype=np.float64))
    return float(volume.min()), float(volume.max()), total / volume.size
