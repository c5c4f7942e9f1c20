"""Read images: a run's BOLD as one series of volumes, and single images as a T1.

Takes NIfTI files; gives images whose values are already read as float32, or says in one line why they cannot be used.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from datasets.errors import BadInput
from datasets.matlab import first_line

_UNREADABLE = (
    OSError, ValueError, EOFError, MemoryError, OverflowError, zlib.error, nibabel.filebasedimages.ImageFileError,
    nibabel.spatialimages.HeaderDataError,
)  # fmt: skip
AFFINE_TOLERANCE_MM = 1e-3


def read_bold(paths: tuple[Path, ...]) -> nibabel.Nifti1Image:
    """Read a BOLD series whole: one 4-D image, or the 3-D images of its volumes joined in order.

    Its values are kept as float32: ``get_fdata(dtype=np.float32)`` costs nothing more.

    Raises:
        BadInput: a file cannot be read or is cut short, it is not a series of volumes, or a volume has no finite value.
    """
    if len(paths) == 1:
        image = _read(paths[0], "BOLD")
        if len(image.shape) != 4 or image.shape[3] < 2:
            raise BadInput(f"{paths[0]} must be a NIfTI series of volumes (4-D), but has the shape {image.shape}")
    else:
        image = _joined(paths)
    _check_volumes(image, paths)
    return image


def read_image(path: Path, what: str) -> nibabel.Nifti1Image:
    """Read one volume, as the ``what`` "T1" of a subject; values that are not finite become 0.

    Raises:
        BadInput: the file cannot be read or is cut short, is not one volume, or holds nothing but one value.
    """
    image = _one_volume(_read(path, what), path)
    values = image.get_fdata(dtype=np.float32)
    if not np.isfinite(values).all():
        values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
        image = nibabel.Nifti1Image(values, image.affine, image.header)
        image.get_fdata(dtype=np.float32)
    if values.min() == values.max():
        raise BadInput(f"the {what} {path} must show something, but all its values are the same; check the file")
    return image


def is_empty(path: Path) -> bool:
    """Tell whether a file holds nothing; OSError as the system says it, where nibabel only says "unknown type"."""
    with Path(path).open("rb") as stream:
        return not stream.read(1)


def _read(path: Path, what: str) -> nibabel.Nifti1Image:
    """Read an image and its values; a pair of files (.hdr, .img) becomes one image."""
    try:
        if is_empty(path):
            raise BadInput(f"cannot read the {what} of {path}: it is empty (0 bytes); download it again")
        image: Any = nibabel.load(path)
        values = image.get_fdata(dtype=np.float32)
    except BadInput:
        raise
    except _UNREADABLE as error:
        raise BadInput(f"cannot read the {what} of {path}: {first_line(error)}; download it again") from error
    if isinstance(image, nibabel.Nifti1Image):
        return image
    if isinstance(image, nibabel.Nifti1Pair):
        return _image_of(values, image)
    raise BadInput(f"{path} must be a NIfTI image, but is of the kind {type(image).__name__}")


def _joined(paths: Sequence[Path]) -> nibabel.Nifti1Image:
    """Join the images of single volumes, which must be of one shape and lie in one place."""
    if not paths:
        raise BadInput("BOLD must have 2 volumes or more, but there is no file")
    first = _one_volume(_read(paths[0], "BOLD"), paths[0])
    volumes = np.empty((*first.shape, len(paths)), dtype=np.float32)
    volumes[..., 0] = first.get_fdata(dtype=np.float32)
    for index, path in enumerate(paths[1:], start=1):
        image = _one_volume(_read(path, "BOLD"), path)
        if image.shape != first.shape or not np.allclose(image.affine, first.affine, atol=AFFINE_TOLERANCE_MM):
            raise BadInput(
                f"{path} must have the shape and affine of {paths[0]}: all volumes of a run lie in one place"
            )
        volumes[..., index] = image.get_fdata(dtype=np.float32)
    return _image_of(volumes, first)


def _one_volume(image: nibabel.Nifti1Image, path: Path) -> nibabel.Nifti1Image:
    if len(image.shape) == 4 and image.shape[3] == 1:
        return _image_of(image.get_fdata(dtype=np.float32)[..., 0], image)
    if len(image.shape) != 3:
        raise BadInput(f"{path} must be one volume (3-D), but has the shape {image.shape}")
    return image


def _image_of(values: NDArray[np.float32], like: Any) -> nibabel.Nifti1Image:  # noqa: ANN401 - a pair or an image
    header = nibabel.Nifti1Header.from_header(like.header)
    header.set_data_dtype(np.float32)
    header.set_slope_inter(1, 0)
    image = nibabel.Nifti1Image(values, like.affine, header)
    image.get_fdata(dtype=np.float32)
    return image


def _check_volumes(image: nibabel.Nifti1Image, paths: tuple[Path, ...]) -> None:
    volumes = image.get_fdata(dtype=np.float32)
    empty = [index for index in range(image.shape[3]) if not np.isfinite(volumes[..., index]).any()]
    if empty:
        raise BadInput(f"{paths[0]}: volumes {empty[:8]} of the BOLD (from 0) hold no finite value; download it again")
