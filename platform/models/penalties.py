"""Penalties on what a model encodes, so that it tells little about whose EEG it was.

Takes a model and weights; gives a model that predicts the same and, while training, keeps a penalty for the loss.

Legend of shapes: B windows, T tokens, D features, P subjects.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from platform.models.blocks import EncodedModel
from platform.models.subjects import MIN_WINDOWS, SubjectAware

ADVERSARY_WIDTH = 64


class Penalised(SubjectAware):
    """A model, and what is added to its loss while training: an adversary's success, or how subjects differ.

    The adversary (Ganin et al. 2016) learns from the encoded features whose window it is; its gradient reaches the
    model reversed, times its weight, which so learns to hide it.  CORAL (Sun and Saenko 2016) is the distance between
    the covariances of features of the subjects in the batch.  Both use training subjects only.
    """

    def __init__(
        self, model: EncodedModel, example: Tensor, num_subjects: int, *, adversary_weight: float, coral_weight: float
    ) -> None:
        super().__init__()
        self.model = model
        self.adversary_weight, self.coral_weight = adversary_weight, coral_weight
        self.penalty: Tensor | None = None
        self.adversary: nn.Module | None = None
        if adversary_weight:
            width = _num_features(model, example)
            self.adversary = nn.Sequential(
                nn.Linear(width, ADVERSARY_WIDTH), nn.ReLU(), nn.Linear(ADVERSARY_WIDTH, num_subjects)
            )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what the model predicts; ``penalty`` is then that of these windows, None where none is told."""
        self.penalty = None
        if self.subject_B is None:
            predicted: Tensor = self.model(inputs)
            return predicted
        encoded = self.model.encode(inputs)
        self.penalty = self._penalty(_one_vector(encoded).float(), self.subject_B)
        return self.model.head(encoded)

    def _penalty(self, features_BD: Tensor, subject_B: Tensor) -> Tensor:
        penalty = self.coral_weight * coral(features_BD, subject_B)
        if self.adversary is None:
            return penalty
        told_BP = self.adversary(reversed_gradient(features_BD, self.adversary_weight))
        return penalty + functional.cross_entropy(told_BP.float(), subject_B)


def coral(features_BD: Tensor, subject_B: Tensor) -> Tensor:
    """Return the mean squared distance between subjects' covariances over all pairs, over 4 D squared.

    Subjects with fewer than MIN_WINDOWS windows are left out; with fewer than two subjects it is 0.
    """
    subjects, counts = subject_B.unique(return_counts=True)
    kept = subjects[counts >= MIN_WINDOWS]
    if len(kept) < 2:  # noqa: PLR2004 - a pair
        return 0 * features_BD.sum()
    covariances_PDD = torch.stack([_covariance(features_BD[subject_B == subject]) for subject in kept])
    apart = (covariances_PDD - covariances_PDD.mean(dim=0)).square().sum()
    mean_of_pairs = 2 * apart / (len(kept) - 1)  # squares about the mean are those of all pairs, over their number
    return mean_of_pairs / (4 * features_BD.shape[1] ** 2)


def _covariance(vectors_ND: Tensor) -> Tensor:
    centred_ND = vectors_ND - vectors_ND.mean(dim=0)
    return centred_ND.T @ centred_ND / (len(vectors_ND) - 1)


class _ReversedGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: torch.autograd.function.FunctionCtx, features: Tensor, weight: float) -> Tensor:
        context.weight = weight  # type: ignore[attr-defined]
        return features.view_as(features)

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        return -context.weight * gradients[0], None  # type: ignore[attr-defined]


def reversed_gradient(features: Tensor, weight: float) -> Tensor:
    """Return the same features; the gradient that comes back to them is turned round, and times the weight."""
    reversed_: Tensor = _ReversedGradient.apply(features, weight)  # type: ignore[no-untyped-call]
    return reversed_


def _one_vector(encoded: Tensor) -> Tensor:
    """Return one vector per window, (B, D): the mean over tokens where there are several."""
    return encoded if encoded.ndim == 2 else encoded.flatten(1, -2).mean(dim=1)  # noqa: PLR2004 - (B, D)


def _num_features(model: EncodedModel, example: Tensor) -> int:
    was_training = model.training
    model.eval()
    with torch.no_grad():
        num_features = _one_vector(model.encode(example)).shape[1]
    model.train(was_training)
    return num_features
