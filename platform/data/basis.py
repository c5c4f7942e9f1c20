"""Low-rank output: patterns that a fold's training volumes are made of, and every volume's weights on them.

Takes volumes of runs and their Gram matrices; gives spatial patterns over the whole mask, so that weights times
patterns come close to the volumes in the voxels that count.

Legend of shapes: N volumes, V voxels, G voxels that weigh, K patterns, P features.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse.linalg import eigsh

DENSE_VOLUMES = 4000
SPARE_PATTERNS, PASSES = 32, 6
"""Without a Gram matrix: patterns sought beyond those wanted, and how often the volumes are read."""
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


def principal_components_by_passes(
    runs: Sequence[NDArray[np.float16]], weighted: Sequence[NDArray[np.float16]], rank: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what ``principal_components`` does, without a Gram matrix, whose size grows with the square of N.

    Subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4): patterns drawn at random, always the same, are
    multiplied by the volumes' covariance again and again, one run in memory at a time.  Leading patterns come out
    alike; the last of them hold a little less variance than the best would.

    Args:
        runs: volumes, each (volumes, V), of which patterns are made.
        weighted: the voxels of each that count, (volumes, G).
        rank: patterns wanted.
    """
    num_volumes, num_counting = sum(map(len, runs)), weighted[0].shape[1]
    rank = min(rank, num_volumes - 1, num_counting)
    width = min(rank + SPARE_PATTERNS, num_volumes, num_counting)
    basis_GK = np.linalg.qr(np.random.default_rng(0).standard_normal((num_counting, width)))[0]
    for _ in range(PASSES - 1):
        basis_GK = np.linalg.qr(_covariance_times(weighted, basis_GK.astype(np.float32)))[0]
    found_NK = _projected(weighted, basis_GK.astype(np.float32))
    vectors_NK, singular_K = _rotated(found_NK, rank)
    return combined(runs, vectors_NK / singular_K), (vectors_NK * singular_K).astype(np.float32)


def reduced_rank_by_passes(
    runs: Sequence[NDArray[np.float16]],
    weighted: Sequence[NDArray[np.float16]],
    features_NP: NDArray[np.float32],
    rank: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what ``reduced_rank`` does, without a Gram matrix: the volumes are read three times.

    Args:
        runs: volumes, each (volumes, V), of which patterns are made.
        weighted: the voxels of each that count, (volumes, G).
        features_NP: what is known of every volume.
        rank: patterns wanted.
    """
    turned_NR, kept_R = _features(features_NP)
    fitted_RG = kept_R[:, None] * combined(weighted, turned_NR)
    limit = min(rank, len(kept_R), len(features_NP) - 1, runs[0].shape[1])
    vectors_RK, singular_K = _leading(fitted_RG @ fitted_RG.T, limit)
    shares_NK = (turned_NR * kept_R) @ (vectors_RK / singular_K)
    return combined(runs, shares_NK), _projected(weighted, combined(weighted, shares_NK).T).astype(np.float32)


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
    turned_NR, kept_R = _features(features_NP)
    fitted_gram_RR = kept_R[:, None] * (turned_NR.T @ gram_NN @ turned_NR) * kept_R
    vectors_RK, singular_K = _leading(fitted_gram_RR, min(rank, len(kept_R), len(gram_NN) - 1, runs[0].shape[1]))
    shares_NK = (turned_NR * kept_R) @ (vectors_RK / singular_K)
    return combined(runs, shares_NK), (gram_NN @ shares_NK).astype(np.float32)


def _features(features_NP: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the left singular vectors of features, (N, R), and what ridge regression keeps of each, (R,)."""
    turned_NR, sizes_R, _ = np.linalg.svd(features_NP.astype(np.float64), full_matrices=False)
    return turned_NR, sizes_R**2 / (sizes_R**2 + RIDGE_SHARE * sizes_R[0] ** 2)


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


def _parts(runs: Sequence[NDArray[np.float16]]) -> Iterator[NDArray[np.float32]]:
    return (_as_float32(run).numpy() for run in runs)


def _projected(runs: Sequence[NDArray[np.float16]], basis_GK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the weights of all volumes on a basis, (N, K)."""
    return np.concatenate([part @ basis_GK for part in _parts(runs)])


def _covariance_times(runs: Sequence[NDArray[np.float16]], basis_GK: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the sum over runs of the volumes' covariance times a basis, (G, K)."""
    product_GK = np.zeros(basis_GK.shape, np.float64)
    for part in _parts(runs):
        product_GK += part.T @ (part @ basis_GK)
    return product_GK


def _rotated(found_NK: NDArray[np.float32], rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the leading left singular vectors of weights on an orthonormal basis, and their singular values."""
    vectors_KK, singular_K = _leading(found_NK.astype(np.float64).T @ found_NK, rank)
    return found_NK @ (vectors_KK / singular_K), singular_K


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
