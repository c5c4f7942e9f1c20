"""Several models as one, each of which leaves out other training subjects.

Takes models; gives one that trains all of them at once and predicts the mean of what they say, weighted by how similar
the subject is to those that each has learned from.

Legend of shapes: B windows, M members, J members that learn from a window (all but one), K outputs, P subjects.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from platform.models.subjects import SubjectAware, of_subjects


class Ensemble(SubjectAware):
    """Members of which number m leaves out the training subjects m, m + M, m + 2 M and so on.

    While training it returns (J, B, K): the predictions of every window by all members but the one that leaves it out.
    Their losses are averaged, so that every member learns from its own windows alone, as if it were trained by itself.
    While scoring it returns (B, K), the mean over members, weighted where the subject's weights are known.
    """

    def __init__(self, members: Sequence[nn.Module], weights_M: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.known = dict(weights_M)
        self.subject: str | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (J, B, K) while training subjects are told, else (B, K)."""
        if self.subject_B is not None:
            return self._of_learners(inputs, self.subject_B)
        predicted_MBK = torch.stack([member(inputs) for member in self.members])
        weights_M = self.known.get(self.subject or "")
        if weights_M is None:
            return predicted_MBK.mean(dim=0)
        return torch.tensordot(weights_M.to(predicted_MBK), predicted_MBK, dims=1)

    def _of_learners(self, inputs: Tensor, subject_B: Tensor) -> Tensor:
        left_out_by_B = subject_B % len(self.members)
        predicted: list[Tensor] = []
        places: list[Tensor] = []
        unused = inputs.new_zeros(())
        for number, member in enumerate(self.members):
            rows = torch.nonzero(left_out_by_B != number).flatten()
            if not len(rows):  # part of the result all the same, as DistributedDataParallel wants it
                unused = unused + sum(0 * parameter.sum() for parameter in member.parameters())
                continue
            with of_subjects(member, subject_B[rows]):
                predicted.append(member(inputs[rows]))
            turn = (number - left_out_by_B[rows] - 1) % len(self.members)
            places.append(turn * len(subject_B) + rows)
        order = torch.argsort(torch.cat(places))
        return torch.cat(predicted)[order].unflatten(0, (-1, len(subject_B))) + unused


def learned_from(num_members: int, num_subjects: int) -> Tensor:
    """Return which training subjects each member learns from, bool, (M, P)."""
    return torch.arange(num_subjects)[None] % num_members != torch.arange(num_members)[:, None]


@contextmanager
def of_recording(model: nn.Module, subject: str) -> Iterator[None]:
    """Tell the ensembles of a model whose recording they are about to predict."""
    ensembles = [module for module in model.modules() if isinstance(module, Ensemble)]
    for ensemble in ensembles:
        ensemble.subject = subject
    try:
        yield
    finally:
        for ensemble in ensembles:
            ensemble.subject = None
