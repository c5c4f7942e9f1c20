"""Windows to train on: what a model sees of each, what it must predict, whose it is, and the order of an epoch.

Takes runs and what a fold's training subjects say about outputs; gives batches.

Legend of shapes: N training windows, B windows of a batch, K outputs of the model (voxels or basis weights).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from platform.choices.augmentations import Batch
from platform.data.windows import CachedRun, eeg_batch, target_batch, window_index

PIECE_WINDOWS = 16
"""Windows of one subject that follow each other where an epoch goes by pieces: half of the smallest batch searched."""

Inputs = Callable[[Sequence[CachedRun], NDArray[np.int64]], Tensor]
"""From runs and windows, (B, 2) as (number of run, number of window), to what a model sees: (B, C, S) or (B, F)."""

RunKey = tuple[str, str, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class AlignedEeg:
    """Inputs whose channels are mixed by each subject's own matrix, (C, C)."""

    matrices: Mapping[str, Tensor]

    def __call__(self, runs: Sequence[CachedRun], index_B2: NDArray[np.int64]) -> Tensor:
        """Return the aligned EEG of the given windows, (B, C, S)."""
        matrix_BCC = torch.stack([self.matrices[runs[int(which)].subject] for which in index_B2[:, 0]])
        return matrix_BCC @ eeg_batch(runs, index_B2)


@dataclass(frozen=True, kw_only=True, eq=False)
class CachedFeatures:
    """Inputs computed before: features of all windows, (N, ...), one run's after the other's.

    Attributes:
        every_N: the features.
        starts: where those of each run begin, by subject, task and number of the run.
    """

    every_N: Tensor
    starts: Mapping[RunKey, int]

    def __call__(self, runs: Sequence[CachedRun], index_B2: NDArray[np.int64]) -> Tensor:
        """Return the features of the given windows, (B, ...)."""
        start_R = np.array([self.starts[run.subject, run.task, run.run] for run in runs])
        return self.every_N[torch.from_numpy(start_R[index_B2[:, 0]] + index_B2[:, 1])]


def cached_features(of_runs: Iterable[tuple[CachedRun, NDArray[np.float32]]]) -> CachedFeatures:
    """Return inputs from runs and the features of all windows of each, (T, ...)."""
    runs, features = zip(*of_runs, strict=True)
    starts = np.cumsum([0, *(len(features_T) for features_T in features)]).tolist()
    keys = [(run.subject, run.task, run.run) for run in runs]
    every_N = torch.from_numpy(np.concatenate(features))
    return CachedFeatures(every_N=every_N, starts=dict(zip(keys, starts, strict=False)))


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingSet:
    """Windows to train on.

    Attributes:
        runs: whose windows they are.
        coefficients_NK: basis weights of every window's volume; None where the target is the volume itself.
        weights_K: how reliably each output responds in the training subjects, not negative, mean 1.
        inputs: what a model sees of windows.
    """

    runs: Sequence[CachedRun]
    coefficients_NK: Tensor | None
    weights_K: Tensor
    inputs: Inputs = eeg_batch

    @cached_property
    def index(self) -> NDArray[np.int64]:
        """Every window, as (number of run, number of window)."""
        return window_index(self.runs)

    @cached_property
    def subjects(self) -> NDArray[np.int64]:
        """Whose each window is, numbered from 0 in the order of the runs."""
        names = list(dict.fromkeys(run.subject for run in self.runs))
        return np.array([names.index(run.subject) for run in self.runs])[self.index[:, 0]]

    def batch(self, positions_B: NDArray[np.int64]) -> Batch:
        """Return the windows at these positions of the index."""
        wanted_B2 = self.index[positions_B]
        return Batch(
            inputs=self.inputs(self.runs, wanted_B2),
            targets_BK=self._targets(positions_B, wanted_B2),
            subject_B=torch.from_numpy(self.subjects[positions_B]),
        )

    def _targets(self, positions_B: NDArray[np.int64], wanted_B2: NDArray[np.int64]) -> Tensor:
        if self.coefficients_NK is not None:
            return self.coefficients_NK[torch.from_numpy(positions_B)]
        return target_batch(self.runs, wanted_B2)


def shuffled(subject_N: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Take the windows in any order."""
    return rng.permutation(len(subject_N))


def subject_balanced(subject_N: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Take a window of each subject in turn, so that every batch holds all alike; subjects with few windows repeat."""
    subjects = np.unique(subject_N)
    most = np.bincount(subject_N).max()
    turns = [_repeated(rng.permutation(np.flatnonzero(subject_N == subject)), most) for subject in subjects]
    order: NDArray[np.int64] = np.stack(turns, axis=1).ravel()
    return order


def subject_pieces(subject_N: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Take PIECE_WINDOWS windows of a subject, then as many of another: a batch holds few subjects, and much of each.

    What a batch says of a subject, its statistics or covariance, then rests on enough windows.
    """
    pieces = [
        piece
        for subject in np.unique(subject_N)
        for piece in _pieces(rng.permutation(np.flatnonzero(subject_N == subject)))
    ]
    return np.concatenate([pieces[number] for number in rng.permutation(len(pieces))])


def _pieces(positions: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return np.array_split(positions, -(-len(positions) // PIECE_WINDOWS))


def _repeated(positions: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    return np.resize(positions, length)


ORDERS: dict[str, Callable[[NDArray[np.int64], np.random.Generator], NDArray[np.int64]]] = {
    "shuffled": shuffled,
    "subject_balanced": subject_balanced,
    "subject_pieces": subject_pieces,
}
"""How an epoch goes through the windows."""
