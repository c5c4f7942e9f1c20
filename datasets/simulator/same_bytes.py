"""Products of matrices whose bytes are the same however many threads BLAS may use.

Takes two matrices; gives their product, made in pieces that OpenBLAS (which numpy brings) gives to one thread: with
more it cuts elsewhere and rounds otherwise, and processes that share the cores wait for each other.
"""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", bound=np.floating[Any])

LARGEST_PIECE = 2**18
"""Multiplications up to which OpenBLAS starts no threads: SMP_THRESHOLD_MIN x GEMM_MULTITHREAD_THRESHOLD."""


def product(left: NDArray[Number], right: NDArray[Number]) -> NDArray[Number]:
    """Return left (rows, inner) times right (inner, columns)."""
    rows, columns = len(left), right.shape[1]
    result = np.empty((rows, columns), dtype=np.result_type(left, right))
    if rows > columns:
        for piece in _pieces(rows, left.shape[1] * columns):
            np.matmul(left[piece], right, out=result[piece])
    else:
        for piece in _pieces(columns, left.shape[1] * rows):
            np.matmul(left, right[:, piece], out=result[:, piece])
    return result


def _pieces(size: int, cost_of_one: int) -> list[slice]:
    step = max(1, LARGEST_PIECE // max(1, cost_of_one))
    return [slice(start, start + step) for start in range(0, size, step)]
