"""Low-rank output: the principal components of a fold's training volumes, from one Gram matrix of the study.

Takes volumes of runs; gives orthonormal spatial patterns and every training volume's weights on them.

Legend of shapes: N volumes, V voxels, K patterns.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse.linalg import eigsh

DENSE_VOLUMES = 4000
MAX_RANK = 128
"""Patterns of an output basis, at the most."""


def gram_matrix(runs: Sequence[NDArray[np.float16]]) -> NDArray[np.float32]:
    """Return inner products over voxels of all volumes of all runs, shape (N, N), read one pair of runs at a time."""
    starts = np.cumsum([0, *(len(run) for run in runs)])
    gram_NN = np.empty((starts[-1], starts[-1]), np.float32)
    for row, run in enumerate(runs):
        volumes = _as_float32(run)
        for column in range(row + 1):
            block = volumes @ _as_float32(runs[column]).T
            here, there = slice(starts[row], starts[row + 1]), slice(starts[column], starts[column + 1])
            gram_NN[here, there] = block.numpy()
            gram_NN[there, here] = block.numpy().T
    return gram_NN


def principal_components(
    gram_NN: NDArray[np.float32], runs: Sequence[NDArray[np.float16]], rank: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the leading orthonormal patterns (K, V) of these runs' volumes and the volumes' weights on them (N, K).

    Args:
        gram_NN: the Gram matrix of just these runs' volumes, in their order.
        runs: their volumes, each (volumes, V).
        rank: patterns wanted; fewer than there are volumes, and no more than voxels, are given.
    """
    rank = min(rank, len(gram_NN) - 1, runs[0].shape[1])
    values_K, vectors_NK = _leading(gram_NN, rank)
    order = np.argsort(values_K)[::-1]
    singular_K = np.sqrt(np.maximum(values_K[order], 1e-6))
    vectors_NK = vectors_NK[:, order]
    patterns_KV = np.zeros((rank, runs[0].shape[1]), np.float32)
    start = 0
    for run in runs:
        share_KT = (vectors_NK[start : start + len(run)] / singular_K).T.astype(np.float32)
        patterns_KV += share_KT @ run.astype(np.float32)
        start += len(run)
    return patterns_KV, (vectors_NK * singular_K).astype(np.float32)


def _as_float32(volumes: NDArray[np.float16]) -> torch.Tensor:
    """Return volumes as float32; torch converts several times faster than numpy."""
    with warnings.catch_warnings():  # the map is read-only, and we only read
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(volumes).float()


def _leading(gram_NN: NDArray[np.float32], rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the largest eigenvalues and their eigenvectors, both repeatable; the method is the faster one by size."""
    num_volumes = len(gram_NN)
    if num_volumes <= DENSE_VOLUMES:
        return eigh(gram_NN.astype(np.float64), subset_by_index=[num_volumes - rank, num_volumes - 1])
    return eigsh(gram_NN, k=rank, v0=np.ones(num_volumes, np.float32))
