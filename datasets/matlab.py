"""Read one numeric matrix from a MATLAB file.

Takes a file as MATLAB 5 to 7.2 wrote it; gives the array, or says in one line why it cannot be had.
"""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from datasets.errors import BadInput

_UNREADABLE = (
    OSError, ValueError, TypeError, KeyError, IndexError, EOFError, NotImplementedError, MatReadError, MemoryError,
    OverflowError, struct.error, zlib.error,
)  # fmt: skip


def read_matrix(path: Path, name: str) -> NDArray[Any]:
    """Return the array called ``name``, or the one two-dimensional numeric array of the file under whatever name.

    Raises:
        BadInput: the file cannot be read, is MATLAB 7.3, or holds no such array.
    """
    contents = _contents_of(path)
    arrays = {key: value for key, value in contents.items() if not key.startswith("__") and _is_matrix(value)}
    if name in arrays:
        return arrays[name]
    if len(arrays) != 1:
        raise BadInput(f"{path} must hold {name} or one single numeric matrix, but holds {sorted(arrays) or 'none'}")
    return next(iter(arrays.values()))


def first_line(error: BaseException) -> str:
    """Return an error's first line, or its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _contents_of(path: Path) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as stream:
            start = stream.read(10)
        if not start:
            raise BadInput(f"{path} is empty (0 bytes); download it again")
        if start == b"MATLAB 7.3":
            raise BadInput(f"{path} is a MATLAB 7.3 file; save it in MATLAB with save(..., '-v7')")
        contents: dict[str, Any] = loadmat(path)
    except BadInput:
        raise
    except _UNREADABLE as error:
        raise BadInput(f"cannot read {path} as a MATLAB file: {first_line(error)}; download it again") from error
    return contents


def _is_matrix(value: object) -> bool:
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.size <= 1:
        return False
    return bool(np.issubdtype(value.dtype, np.integer) or np.issubdtype(value.dtype, np.floating))
