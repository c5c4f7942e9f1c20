"""Low-rank output: patterns that a fold's training volumes are made of, and every volume's weights on them.

Takes volumes of runs and their Gram matrices; gives spatial patterns over the whole mask, so that weights times
patterns come close to the volumes in the voxels that count.

Legend of shapes: N volumes, V voxels, G voxels that weigh, K patterns, P features.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse.linalg import eigsh

DENSE_VOLUMES = 4000
MAX_RANK = 128
"""Patterns of an output basis, at the most."""
_NOTHING = 1e-6
RIDGE_SHARE = 0.03
"""Penalty of the regression behind ``reduced_rank``, as a share of the largest eigenvalue of the features."""


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
        rank: patterns wanted; fewer than there are volumes, and no more than voxels (that count), are given.
    """
    vectors_NK, singular_K = _leading(gram_NN, min(rank, len(gram_NN) - 1, runs[0].shape[1]))
    return combined(runs, vectors_NK / singular_K), (vectors_NK * singular_K).astype(np.float32)


def reduced_rank(
    gram_NN: NDArray[np.float32], features_NP: NDArray[np.float32], runs: Sequence[NDArray[np.float16]], rank: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the patterns (K, V) along which ridge regression on features predicts volumes best, and weights (N, K).

    They are the principal components of the fitted volumes (reduced-rank regression, Izenman 1975): directions that no
    EEG predicts, however much variance they hold, are left out.  Weights are the true volumes', not the fitted ones'.

    Args:
        gram_NN: inner products of the runs' volumes over the voxels that count.
        features_NP: what is known of every volume.
        runs: the volumes, each (volumes, V).
        rank: patterns wanted; fewer than there are volumes, and no more than voxels or features, are given.
    """
    turned_NR, sizes_R, _ = np.linalg.svd(features_NP.astype(np.float64), full_matrices=False)
    kept_R = sizes_R**2 / (sizes_R**2 + RIDGE_SHARE * sizes_R[0] ** 2)
    fitted_gram_RR = kept_R[:, None] * (turned_NR.T @ gram_NN @ turned_NR) * kept_R
    vectors_RK, singular_K = _leading(fitted_gram_RR, min(rank, len(sizes_R), len(gram_NN) - 1, runs[0].shape[1]))
    shares_NK = (turned_NR * kept_R) @ (vectors_RK / singular_K)
    return combined(runs, shares_NK), (gram_NN @ shares_NK).astype(np.float32)


def parcel_means(
    runs: Sequence[NDArray[np.float16]], parcels_V: NDArray[np.int64], chosen_K: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a pattern for each chosen parcel, 1 in its voxels, (K, V), and every volume's mean over it, (N, K)."""
    patterns_KV = (parcels_V == chosen_K[:, None]).astype(np.float32)
    mean_KV = patterns_KV / patterns_KV.sum(axis=1, keepdims=True)
    return patterns_KV, np.concatenate([run.astype(np.float32) @ mean_KV.T for run in runs])


def combined(runs: Sequence[NDArray[np.float16]], shares_NK: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return sums of the runs' volumes by these shares, (K, V)."""
    patterns_KV = np.zeros((shares_NK.shape[1], runs[0].shape[1]), np.float32)
    start = 0
    for run in runs:
        patterns_KV += shares_NK[start : start + len(run)].T.astype(np.float32) @ run.astype(np.float32)
        start += len(run)
    return patterns_KV


def _as_float32(volumes: NDArray[np.float16]) -> torch.Tensor:
    """Return volumes as float32; torch converts several times faster than numpy."""
    with warnings.catch_warnings():  # the map is read-only, and we only read
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(volumes).float()


def _leading(gram_NN: NDArray[Any], rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the leading eigenvectors (N, K), largest first, and the roots of their eigenvalues (K,), both repeatable.

    Those that are next to nothing beside the largest are left out: rounding, where there are fewer voxels than patterns
    wanted.  The method is the faster one by size.
    """
    num_volumes = len(gram_NN)
    if num_volumes <= DENSE_VOLUMES:
        values_K, vectors_NK = eigh(gram_NN.astype(np.float64), subset_by_index=[num_volumes - rank, num_volumes - 1])
    else:
        values_K, vectors_NK = eigsh(gram_NN, k=rank, v0=np.ones(num_volumes, np.float32))
    order = np.argsort(values_K)[::-1]
    order = order[values_K[order] > _NOTHING * max(values_K.max(), _NOTHING)]
    return vectors_NK[:, order], np.sqrt(values_K[order])
