"""A study's data with the sign of some subjects' BOLD flipped: what a null trains on.

Takes settings that name those subjects; gives the same data, EEG and all.  What depends on EEG alone stays, and so do
the objective's voxel weights, which no EEG has a say in; inner products of volumes change sign by subject.

Legend of shapes: N windows of several subjects, V voxels, F features.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from platform.data.products import DataSettings, StudyData
from platform.data.windows import CachedRun


class FlippedData(StudyData):
    """Data of which ``settings.flipped`` subjects have their BOLD times -1."""

    def __init__(self, settings: DataSettings) -> None:
        super().__init__(settings)
        self._recorded = StudyData(dataclasses.replace(settings, flipped=()))
        self._flipped: dict[str, list[CachedRun]] = {}

    def runs(self, subject: str) -> list[CachedRun]:
        """Return a subject's runs; flipped ones are copies in memory."""
        if subject not in self.settings.flipped:
            return self._recorded.runs(subject)
        if subject not in self._flipped:
            recorded = self._recorded.runs(subject)
            self._flipped[subject] = [dataclasses.replace(run, bold_RV=-run.bold_RV) for run in recorded]
        return self._flipped[subject]

    def band_power(self, subject: str) -> list[NDArray[np.float32]]:
        """Return what depends on EEG alone."""
        return self._recorded.band_power(subject)

    def mean_covariance(self, subject: str, mean: str) -> NDArray[np.float64]:
        """Return what depends on EEG alone."""
        return self._recorded.mean_covariance(subject, mean)

    def window_features(
        self,
        subject: str,
        name: str,
        compute_features: Callable[[torch.Tensor], torch.Tensor],
        alignment: str = "none",
        training: Sequence[str] = (),
    ) -> list[NDArray[np.float32]]:
        """Return what depends on EEG alone."""
        return self._recorded.window_features(subject, name, compute_features, alignment, training)

    def training_weights(self, subjects: Sequence[str]) -> NDArray[np.float32]:
        """Return the weights of the study itself, so that nulls are scored over the same voxels."""
        return self._recorded.training_weights(subjects)

    def gram_of(self, subjects: Sequence[str]) -> NDArray[np.float32]:
        """Return inner products of flipped volumes: those of the recorded ones, some times -1."""
        everyone = [run for run in self.runs_of(list(self.manifest.subjects)) if run.subject in subjects]
        sign_N = np.concatenate(
            [
                np.full(run.num_windows, -1 if run.subject in self.settings.flipped else 1, np.float32)
                for run in everyone
            ]
        )
        return self._recorded.gram_of(subjects) * sign_N * sign_N[:, np.newaxis]

    def product(
        self, name: str, depends_on: Mapping[str, Any], compute: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Return arrays that ``compute`` makes of flipped data; nothing keeps them, since no other job needs them."""
        del name, depends_on
        return compute()
