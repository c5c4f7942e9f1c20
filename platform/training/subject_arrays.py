"""A trained model's view of a subject as arrays: what its encoder gives for windows, and what its head makes of it.

Takes a model, the runs of a subject and their volumes; gives what calibration works on.

Legend of shapes: B windows of a batch, T windows of a run, D features (flat), K outputs, V voxels that weigh.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from platform.data.training_set import Inputs
from platform.data.windows import CachedRun, window_index
from platform.models.blocks import EncodedModel
from platform.models.ensemble import Ensemble
from platform.models.penalties import Penalised
from platform.training.calibration import Moments, SubjectArrays, moments
from platform.training.loop import EVALUATION_BATCH

Floats = NDArray[np.float32]


class EncoderAndHead:
    """A model in two halves with one flat vector between them; of an ensemble all members' vectors side by side."""

    def __init__(self, model: nn.Module) -> None:
        bare = model.model if isinstance(model, Penalised) else model
        self._ensemble = bare if isinstance(bare, Ensemble) else None
        members = list(bare.members) if isinstance(bare, Ensemble) else [bare]
        self._members = [member for member in members if isinstance(member, EncodedModel)]
        assert len(self._members) == len(members), "calibration needs models made of an encoder and a head"
        self._model = model
        self._shape: torch.Size | None = None
        self.device = next(model.parameters()).device

    def encode(self, run: CachedRun, inputs: Inputs) -> Floats:
        """Return what is encoded of every window of a run, (T, D), in batches as ``loop.predict`` makes them."""
        self._model.eval()
        index_N2 = window_index([run])
        pieces = np.array_split(index_N2, -(-len(index_N2) // EVALUATION_BATCH))
        with torch.inference_mode():
            parts = [self._encode(inputs([run], piece_B2).to(self.device)).cpu() for piece_B2 in pieces]
        return np.asarray(torch.cat(parts).numpy())

    def predict(self, features_TD: Floats, subject: str) -> Tensor:
        """Return what the head makes of encoded features, (T, K)."""
        assert self._shape is not None, "windows must have been encoded before"
        parts = torch.from_numpy(features_TD).to(self.device).chunk(len(self._members), dim=1)
        with torch.inference_mode():
            predicted = [
                member.head(part.unflatten(1, self._shape)).cpu()
                for member, part in zip(self._members, parts, strict=True)
            ]
        weights_M = None if self._ensemble is None else self._ensemble.known.get(subject)
        if weights_M is None:
            return torch.stack(predicted).mean(dim=0)
        return torch.tensordot(weights_M.to(predicted[0]), torch.stack(predicted), dims=1)

    def _encode(self, inputs: Tensor) -> Tensor:
        encoded = [member.encode(inputs) for member in self._members]
        self._shape = encoded[0].shape[1:]
        return torch.cat([each.flatten(1) for each in encoded], dim=1)


def subject_arrays(
    halves: EncoderAndHead,
    runs: Sequence[CachedRun],
    volumes: Sequence[Floats],
    inputs: Inputs,
    to_voxels: Callable[[Tensor], Floats],
    training: Moments | None,
) -> SubjectArrays:
    """Return what calibration needs to know of one subject.

    Args:
        halves: the trained model.
        runs: of the subject, in order.
        volumes: of the runs' windows at the voxels that weigh, each (T, V).
        inputs: what the model sees of windows.
        to_voxels: from the model's outputs (T, K) to the voxels that weigh, (T, V).
        training: the encoded features' moments in a training subject; None where they are not asked for.
    """
    name = runs[0].subject
    return SubjectArrays(
        features=[halves.encode(run, inputs) for run in runs],
        volumes=volumes,
        head=lambda features_TD: to_voxels(halves.predict(features_TD, name)),
        training=training,
        name=name,
    )


def training_moments(halves: EncoderAndHead, subjects: Sequence[Sequence[CachedRun]], inputs: Inputs) -> Moments:
    """Return the encoded features' moments in a training subject, from each one's first run."""
    return moments([[halves.encode(runs[0], inputs)] for runs in subjects if runs])
