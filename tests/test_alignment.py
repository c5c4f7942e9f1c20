"""Alignment of subjects' EEG, checked on subjects whose mixing is known."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from platform.data.training_set import AlignedEeg
from platform.data.windows import WINDOW_VOLUMES, CachedRun, eeg_batch
from platform.prediction.alignment import (
    FLOOR,
    MEANS,
    aligning_matrix,
    barycentre,
    log_covariance,
    monge_matrix,
    piece_covariances,
    riemannian_mean,
    similarity_weights,
)

RATE_HZ, CHANNELS, PIECES = 125, 5, 40

each_mean = pytest.mark.parametrize("mean", MEANS)


def sources(seed: int = 0, channels: int = CHANNELS) -> np.ndarray:
    """Return sources whose power changes from piece to piece."""
    rng = np.random.default_rng(seed)
    power = np.repeat(np.exp(0.5 * rng.standard_normal((channels, PIECES))), 2 * RATE_HZ, axis=1)
    return power * rng.standard_normal(power.shape)


def mixing(seed: int, channels: int = CHANNELS) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((channels, channels)) + 2 * np.eye(channels)


def aligned(eeg_CS: np.ndarray, mean: str) -> np.ndarray:
    return aligning_matrix(MEANS[mean](piece_covariances(eeg_CS, RATE_HZ))) @ eeg_CS


@each_mean
@pytest.mark.parametrize("seed", [1, 2])
def test_the_mean_covariance_of_aligned_eeg_is_the_identity_whatever_the_mixing(mean, seed):
    covariances = piece_covariances(aligned(mixing(seed) @ sources(), mean), RATE_HZ)
    np.testing.assert_allclose(MEANS[mean](covariances), np.eye(CHANNELS), atol=0.06)


@each_mean
def test_subjects_with_the_same_sources_and_other_mixings_become_alike_up_to_a_rotation(mean):
    one, other = (aligned(mixing(seed) @ sources(), mean) for seed in (1, 2))
    rotation = other @ np.linalg.pinv(one)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(CHANNELS), atol=0.1)
    np.testing.assert_allclose(rotation @ one, other, atol=1e-3 * np.abs(one).max())
    assert np.abs(rotation - np.eye(CHANNELS)).max() > 0.1


def test_covariances_are_those_of_every_two_seconds():
    eeg_CS = sources()
    covariances = piece_covariances(eeg_CS[:, :-1], RATE_HZ)
    assert covariances.shape == (PIECES - 1, CHANNELS, CHANNELS)
    np.testing.assert_allclose(covariances[3], np.cov(eeg_CS[:, 750:1000], bias=True), rtol=1e-9)


def test_the_aligning_matrix_is_the_inverse_root():
    mean_CC = MEANS["euclidean"](piece_covariances(mixing(1) @ sources(), RATE_HZ))
    np.testing.assert_allclose(aligning_matrix(mean_CC), np.linalg.inv(sqrtm(mean_CC).real), rtol=1e-4, atol=1e-5)


def test_the_geometric_mean_of_two_is_the_middle_of_the_way_between_them():
    one, other = (np.cov(mixing(seed) @ sources(seed)) for seed in (1, 2))
    root = sqrtm(one).real
    inverse = np.linalg.inv(root)
    middle = root @ sqrtm(inverse @ other @ inverse).real @ root
    np.testing.assert_allclose(riemannian_mean(np.stack([one, other])), middle, rtol=0.05, atol=0.05)


def test_the_geometric_mean_minds_a_loud_piece_less():
    quiet = np.stack([np.eye(3)] * 9)
    means = [MEANS[mean](np.concatenate([quiet, 1000 * np.eye(3)[None]]))[0, 0] for mean in ("riemannian", "euclidean")]
    assert means[0] < 3 < 50 < means[1]


@each_mean
@pytest.mark.parametrize("fault", ["average reference", "flat", "interpolated", "nothing at all"])
def test_eeg_without_full_rank_is_not_blown_up(mean, fault):
    eeg_CS = mixing(1) @ sources()
    if fault == "average reference":
        eeg_CS = eeg_CS - eeg_CS.mean(axis=0)
    elif fault == "flat":
        eeg_CS[2] = 0
    elif fault == "interpolated":
        eeg_CS[2] = eeg_CS[[0, 1, 3]].mean(axis=0)
    else:
        eeg_CS[:] = 0
    rounded = eeg_CS.astype(np.float16).astype(np.float64)
    whitened = aligned(rounded, mean)
    assert np.isfinite(whitened).all()
    largest = 1 / np.sqrt(FLOOR * (np.cov(rounded).trace() / CHANNELS or 1 / FLOOR))
    assert np.linalg.norm(aligning_matrix(np.cov(rounded)), 2) <= 1.001 * largest
    values = np.linalg.eigvalsh(np.cov(whitened))
    if fault != "nothing at all":
        assert values[0] < 0.01 and values[1:].min() > 0.5
    assert values[-1] < 20


def test_the_shortest_way_to_a_covariance_ends_there_is_symmetric_and_nothing_for_who_is_there_already():
    own, shared = (np.cov(mixing(seed) @ sources(seed)) for seed in (1, 2))
    matrix = monge_matrix(own, shared)
    np.testing.assert_allclose(matrix @ own @ matrix.T, shared, rtol=1e-3, atol=1e-3 * shared.max())
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-4)
    np.testing.assert_allclose(monge_matrix(own, own), np.eye(CHANNELS), atol=1e-4)
    other_way = sqrtm(shared).real @ np.linalg.inv(sqrtm(own).real)
    np.testing.assert_allclose(other_way @ own @ other_way.T, shared, rtol=1e-6, atol=1e-6 * shared.max())
    moved, moved_otherwise = (
        np.linalg.norm((each - np.eye(CHANNELS)) @ sqrtm(own).real) for each in (matrix, other_way)
    )
    assert moved < moved_otherwise


def test_the_barycentre_is_as_far_along_the_way_to_all_of_them():
    covariances = np.stack([np.cov(mixing(seed) @ sources(seed)) for seed in (1, 2, 3)])
    shared = barycentre(covariances)
    ways = [monge_matrix(shared, each) for each in covariances]
    np.testing.assert_allclose(np.mean(ways, axis=0), np.eye(CHANNELS), atol=1e-3)
    scales = np.array([1.0, 4.0, 9.0])
    np.testing.assert_allclose(barycentre(scales[:, None, None] * np.eye(3)), 4 * np.eye(3), rtol=1e-5)


def test_inputs_are_aligned_by_their_own_subjects_matrix():
    rng = np.random.default_rng(0)
    rows = 3 + WINDOW_VOLUMES
    runs = [
        CachedRun(
            subject=subject,
            task="auditory",
            run=1,
            eeg_CS=rng.standard_normal((CHANNELS, rows * 250)).astype(np.float16),
            bold_RV=rng.standard_normal((rows, 4)).astype(np.float16),
            samples_per_volume=250,
        )
        for subject in ("sub-01", "sub-02")
    ]
    matrices = {f"sub-{number:02d}": mixing(number).astype(np.float32) for number in (1, 2)}
    read = AlignedEeg(matrices={subject: torch.from_numpy(matrix) for subject, matrix in matrices.items()})
    index = np.array([[1, 2], [0, 0], [1, 0]])
    plain = eeg_batch(runs, index).numpy()
    for row, subject in enumerate(("sub-02", "sub-01", "sub-02")):
        np.testing.assert_allclose(read(runs, index)[row].numpy(), matrices[subject] @ plain[row], rtol=1e-4, atol=1e-4)


# Similarity


def test_the_member_that_learned_from_similar_subjects_weighs_most():
    logs = [log_covariance(np.cov(mixing(seed) @ sources())) for seed in range(4)]
    like_third = log_covariance(np.cov((mixing(2) + 0.05 * mixing(9)) @ sources()))
    learned_from = np.array([[False, True, True, True], [True, True, False, True], [True, True, True, False]])
    weights = similarity_weights(like_third, np.stack(logs), learned_from)
    assert weights.sum() == pytest.approx(1)
    assert weights.argmin() == 1
    alone = similarity_weights(like_third, np.stack(logs), np.eye(4, dtype=bool))
    assert alone.argmax() == 2 and alone[2] > 0.3


def test_members_weigh_alike_where_subjects_are_alike():
    logs = np.stack([np.eye(3)] * 4)
    weights = similarity_weights(np.eye(3), logs, np.eye(4, dtype=bool))
    np.testing.assert_allclose(weights, 0.25)
