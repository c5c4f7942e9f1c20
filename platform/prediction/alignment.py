"""Alignment of subjects' EEG: each subject's channels mixed so that its mean covariance is as everybody's.

Takes EEG; gives covariances of short pieces, their mean, and the matrix that aligns.  Pure functions of arrays.  A
subject is aligned by its own EEG, the subject that is scored included: this needs no labels of it (transductive).

Legend of shapes: C channels, S samples, N pieces, M members, P subjects.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

PIECE_SECONDS = 2.0
FLOOR = 1e-3
"""The smallest eigenvalue that counts, as a share of the mean one.

EEG is rarely of full rank: an average reference takes one direction, every flat or interpolated channel another.  What
is left of them is rounding, which an inverse root of their variance would blow up to the size of EEG.  So no direction
is made more than 30 times as large as the average one.
"""
_NUM_STEPS, _TOLERANCE = 50, 1e-6

FloatArray = NDArray[np.float64]


def piece_covariances(eeg_CS: NDArray[np.floating], rate_hz: float) -> FloatArray:
    """Return the covariance of every 2 s of a recording, (N, C, C); what is left at its end is left out."""
    length = round(PIECE_SECONDS * rate_hz)
    num_pieces = eeg_CS.shape[1] // length
    pieces_NCS = eeg_CS[:, : num_pieces * length].reshape(len(eeg_CS), num_pieces, length).transpose(1, 0, 2)
    return np.stack([_covariance(piece_CS.astype(np.float64)) for piece_CS in pieces_NCS])


def euclidean_mean(covariances_NCC: FloatArray) -> FloatArray:
    """Return the arithmetic mean of covariances, (C, C) (Euclidean alignment: He and Wu 2020)."""
    return np.asarray(covariances_NCC.mean(axis=0))


def riemannian_mean(covariances_NCC: FloatArray) -> FloatArray:
    """Return the geometric mean of covariances, (C, C) (Riemannian re-centring: Zanini et al. 2018).

    Pieces of unusual power move it less than the arithmetic mean.  It is taken with the floor under all pieces alike,
    since it is 0 in every direction in which any of them is flat.
    """
    from pyriemann.geometry.mean import mean_riemann  # opens all of scikit-learn, which takes seconds

    least = FLOOR * np.trace(euclidean_mean(covariances_NCC)) / covariances_NCC.shape[1]
    floor_CC = (least or 1.0) * np.eye(covariances_NCC.shape[1])
    return np.asarray(mean_riemann(covariances_NCC + floor_CC, tol=_TOLERANCE, maxiter=_NUM_STEPS))


MEANS: dict[str, Callable[[FloatArray], FloatArray]] = {"euclidean": euclidean_mean, "riemannian": riemannian_mean}
"""How the covariances of a subject's pieces are averaged."""

ALIGNMENTS = ("none", *MEANS, "monge")
"""How a subject's EEG is aligned: made white by a mean of its covariances, or moved to what training subjects share.

"monge" takes the shortest way from a subject's covariance to the barycentre of the training subjects' (Gnassounou et
al. 2024, its spatial part): channels keep their places and their sizes, where white EEG is as loud in every direction.
"""


def aligning_matrix(mean_CC: FloatArray) -> NDArray[np.float32]:
    """Return the inverse square root of a mean covariance, (C, C), its eigenvalues not below the floor."""
    return _power(mean_CC, -0.5).astype(np.float32)


def barycentre(covariances_PCC: FloatArray) -> FloatArray:
    """Return the covariance that the subjects' covariances are nearest to, (C, C) (Bures-Wasserstein)."""
    middle_CC = euclidean_mean(covariances_PCC)
    for _ in range(_NUM_STEPS):
        root_CC, inverse_CC = _power(middle_CC, 0.5), _power(middle_CC, -0.5)
        between_CC = euclidean_mean(np.stack([_root(root_CC @ each_CC @ root_CC) for each_CC in covariances_PCC]))
        earlier_CC, middle_CC = middle_CC, inverse_CC @ between_CC @ between_CC @ inverse_CC
        if np.abs(middle_CC - earlier_CC).max() <= _TOLERANCE * np.abs(middle_CC).max():
            break
    return middle_CC


def monge_matrix(covariance_CC: FloatArray, to_CC: FloatArray) -> NDArray[np.float32]:
    """Return the symmetric matrix that gives EEG of one covariance another one, and moves it least, (C, C)."""
    root_CC, inverse_CC = _power(covariance_CC, 0.5), _power(covariance_CC, -0.5)
    return np.asarray(inverse_CC @ _root(root_CC @ to_CC @ root_CC) @ inverse_CC, np.float32)


def log_covariance(mean_CC: FloatArray) -> FloatArray:
    """Return the matrix logarithm of a mean covariance, (C, C), its eigenvalues not below the floor."""
    values_C, vectors_CC = _floored(mean_CC)
    return np.asarray((vectors_CC * np.log(values_C)) @ vectors_CC.T)


def similarity_weights(
    log_covariance_CC: FloatArray, known_PCC: FloatArray, learned_from_MP: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return how much each member of an ensemble says about a subject, (M,), sum 1.

    A subject that a member has learned from counts by a Gaussian of its distance from the subject scored, whose width
    is the median of these distances; a member counts by the mean over the subjects that it has learned from.  Distances
    are between logarithms of mean covariances (log-Euclidean).

    Args:
        log_covariance_CC: of the subject that is scored.
        known_PCC: of the training subjects.
        learned_from_MP: which training subjects each member has learned from.
    """
    distances_P = np.linalg.norm(known_PCC - log_covariance_CC, axis=(1, 2))
    width = np.median(distances_P) or 1.0
    affinity_P = np.exp(-0.5 * np.square(distances_P / width))
    weights_M = learned_from_MP @ affinity_P / learned_from_MP.sum(axis=1)
    return np.asarray(weights_M / weights_M.sum(), np.float32)


def _covariance(piece_CS: FloatArray) -> FloatArray:
    centred_CS = piece_CS - piece_CS.mean(axis=1, keepdims=True)
    return np.asarray(centred_CS @ centred_CS.T / piece_CS.shape[1])


def _power(covariance_CC: FloatArray, exponent: float) -> FloatArray:
    """Return a power of a covariance, its eigenvalues not below the floor."""
    values_C, vectors_CC = _floored(covariance_CC)
    return np.asarray((vectors_CC * values_C**exponent) @ vectors_CC.T)


def _root(product_CC: FloatArray) -> FloatArray:
    """Return the square root of a product of covariances; its eigenvalues are theirs squared, and have no floor."""
    values_C, vectors_CC = np.linalg.eigh(product_CC)
    return np.asarray((vectors_CC * np.sqrt(np.maximum(values_C, 0))) @ vectors_CC.T)


def _floored(mean_CC: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return eigenvalues, none below the floor, and eigenvectors."""
    values_C, vectors_CC = np.linalg.eigh(mean_CC)
    least = FLOOR * values_C.mean()
    return np.maximum(values_C, least if least > 0 else 1.0), vectors_CC
