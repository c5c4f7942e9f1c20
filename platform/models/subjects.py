"""Layers that know whose window is whose: statistics and maps of each subject, told apart without another input.

What goes in is a model and, while training, the number of every window's subject, which ``of_subjects`` tells all such
layers for as long as a ``with`` lasts; forward signatures stay as they are.  While scoring no number is told: a batch
then holds windows of one subject.

Legend of shapes: B windows, P subjects of a batch, D features of a vector; "..." any number of axes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

MIN_WINDOWS = 4
"""Fewer of one subject say too little of it: what was seen over training stands for its statistics."""
MEMORY_WINDOWS = 64
"""Of one subject, that its statistics rest on while training: some batches' worth, since weights change meanwhile."""
_MOMENTUM = 0.1
_EPS = 1e-5


class SubjectAware(nn.Module):
    """A layer that may ask whose each window of the batch is: ``subject_B``, int64; None while scoring."""

    subject_B: Tensor | None = None  # noqa: N815 - a shape


@contextmanager
def of_subjects(model: nn.Module, subject_B: Tensor) -> Iterator[None]:
    """Tell all layers of a model that ask for it whose each window of the next batch is, numbered from 0."""
    layers = [module for module in model.modules() if isinstance(module, SubjectAware)]
    for layer in layers:
        layer.subject_B = subject_B
    try:
        yield
    finally:
        for layer in layers:
            layer.subject_B = None


class SubjectNorm(SubjectAware):
    """Each feature by its mean and deviation over its own subject's windows, (B, ..., D).

    While training these are statistics over about the last MEMORY_WINDOWS windows of each subject, this batch's
    included: a batch alone holds too few of each (Kobler et al. 2022).  Where no subjects are remembered, they are the
    batch's own.  While scoring the batch is one subject's, so that its own statistics are used there too (Li et al.
    2016): this needs no labels of that subject, but its EEG (transductive).  A subject of which fewer than MIN_WINDOWS
    windows were seen, as a single window while scoring, is normalised by the mean of the training subjects' statistics.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_variance", torch.ones(num_features))
        self.running_mean: Tensor
        self.running_variance: Tensor
        self.means_PD: Tensor
        self.variances_PD: Tensor
        self.seen_P: Tensor
        self.remember(0)

    def remember(self, num_subjects: int) -> None:
        """Make room for the statistics of so many training subjects."""
        self.register_buffer("means_PD", torch.zeros(num_subjects, len(self.weight)))
        self.register_buffer("variances_PD", torch.ones(num_subjects, len(self.weight)))
        self.register_buffer("seen_P", torch.zeros(num_subjects))

    def forward(self, vectors: Tensor) -> Tensor:
        """Return normalised vectors of the same shape."""
        flat_BND = vectors.float().unsqueeze(1).flatten(1, -2)
        told_B = self.subject_B if self.training else None
        whose_BP = _memberships(flat_BND, told_B)
        if told_B is None or not len(self.seen_P):
            mean_PD, variance_PD = _moments(flat_BND, whose_BP)
            is_enough_P1 = (whose_BP.sum(dim=0) >= MIN_WINDOWS)[:, None]
        else:
            mean_PD, variance_PD, is_enough_P1 = self._remembered(flat_BND, whose_BP, told_B.unique())
        if self.training:
            self._move_running(mean_PD.detach(), variance_PD.detach(), is_enough_P1)
        mean_PD = torch.where(is_enough_P1, mean_PD, self.running_mean)
        variance_PD = torch.where(is_enough_P1, variance_PD, self.running_variance)
        centred_BND = flat_BND - (whose_BP @ mean_PD)[:, None]
        normed_BND = centred_BND * torch.rsqrt(whose_BP @ variance_PD + _EPS)[:, None]
        return (normed_BND * self.weight + self.bias).to(vectors.dtype).reshape(vectors.shape)

    def _remembered(self, vectors_BND: Tensor, whose_BP: Tensor, subjects_P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return means and variances of the last windows, each (P, D), and whether they rest on enough, (P, 1)."""
        counts_P = whose_BP.sum(dim=0)
        before_P = torch.minimum(self.seen_P[subjects_P], (MEMORY_WINDOWS - counts_P).clamp(min=0))
        share_P1 = (counts_P / (before_P + counts_P))[:, None]
        own_mean_PD, _ = _moments(vectors_BND, whose_BP)
        mean_PD = torch.lerp(self.means_PD[subjects_P], own_mean_PD, share_P1)
        apart_BD = (vectors_BND - (whose_BP @ mean_PD)[:, None]).square().mean(dim=1)
        own_variance_PD = (whose_BP / counts_P).T @ apart_BD
        variance_PD = torch.lerp(self.variances_PD[subjects_P], own_variance_PD, share_P1)
        self.means_PD[subjects_P] = mean_PD.detach()
        self.variances_PD[subjects_P] = variance_PD.detach()
        self.seen_P[subjects_P] += counts_P
        return mean_PD, variance_PD, (self.seen_P[subjects_P] >= MIN_WINDOWS)[:, None]

    def _move_running(self, mean_PD: Tensor, variance_PD: Tensor, is_enough_P1: Tensor) -> None:
        """Move the running statistics towards the mean over the batch's subjects of which enough was seen."""
        share_P1 = is_enough_P1.float() / is_enough_P1.sum().clamp(min=1)
        step = _MOMENTUM * is_enough_P1.any().float()
        with torch.no_grad():
            self.running_mean.lerp_((share_P1 * mean_PD).sum(dim=0), step)
            self.running_variance.lerp_((share_P1 * variance_PD).sum(dim=0), step)


def remember_subjects(model: nn.Module, num_subjects: int) -> None:
    """Let the norms of a model remember so many training subjects from batch to batch."""
    for module in model.modules():
        if isinstance(module, SubjectNorm):
            module.remember(num_subjects)


def _memberships(vectors_BND: Tensor, subject_B: Tensor | None) -> Tensor:
    """Return 1 where a window is a subject's, else 0, (B, P); one subject where none are told."""
    if subject_B is None:
        return torch.ones_like(vectors_BND[:, 0, :1])
    subjects_P = subject_B.unique()
    return (subject_B[:, None] == subjects_P).to(vectors_BND)


def _moments(vectors_BND: Tensor, whose_BP: Tensor) -> tuple[Tensor, Tensor]:
    """Return each subject's mean and variance of every feature, each (P, D)."""
    share_PB = (whose_BP / whose_BP.sum(dim=0).clamp(min=1)).T
    mean_PD = share_PB @ vectors_BND.mean(dim=1)
    centred_BND = vectors_BND - (whose_BP @ mean_PD)[:, None]
    return mean_PD, share_PB @ centred_BND.square().mean(dim=1)
