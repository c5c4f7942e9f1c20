"""Layers of each training subject, before a model whose other layers all subjects share (Defossez et al. 2023).

Takes a model and the number of training subjects; gives a model that learns what is particular to each of them, and
meets a subject that it has never seen with the mean of their layers.

Legend of shapes: B windows, C channels, S samples, F features, P training subjects.
"""

import torch
from torch import Tensor, nn

from platform.models.blocks import EncodedModel
from platform.models.subjects import SubjectAware


class SubjectMixing(SubjectAware):
    """EEG (B, C, S) mixed by a matrix of each subject; all begin as the identity, to which weight decay draws them."""

    def __init__(self, num_subjects: int, num_channels: int) -> None:
        super().__init__()
        self.change_PCC = nn.Parameter(torch.zeros(num_subjects, num_channels, num_channels))

    def forward(self, eeg_BCS: Tensor) -> Tensor:
        """Return mixed EEG of the same shape."""
        return eeg_BCS + _of_each(self.change_PCC, self) @ eeg_BCS


class SubjectScale(SubjectAware):
    """Features (B, F), each scaled and shifted by its subject's own numbers.

    Features of one window have no channels to be mixed any more; what a subject's cap and skull do to the logarithm of
    power is a shift.
    """

    def __init__(self, num_subjects: int, num_features: int) -> None:
        super().__init__()
        self.change_PF = nn.Parameter(torch.zeros(num_subjects, num_features))
        self.shift_PF = nn.Parameter(torch.zeros(num_subjects, num_features))

    def forward(self, features_BF: Tensor) -> Tensor:
        """Return features of the same shape."""
        return features_BF + _of_each(self.change_PF, self) * features_BF + _of_each(self.shift_PF, self)


class WithSubjectLayer(EncodedModel):
    """A model behind a layer of each subject."""

    def __init__(self, layer: SubjectMixing | SubjectScale, model: EncodedModel) -> None:
        super().__init__()
        self.layer = layer
        self.model = model
        self.head = model.head

    def encode(self, inputs: Tensor) -> Tensor:
        """Return what the model encodes of the subject's inputs."""
        return self.model.encode(self.layer(inputs))


def _of_each(parameter: Tensor, layer: SubjectAware) -> Tensor:
    """Return each window's subject's part of a parameter, (B, ...), or the mean of all where no subject is told."""
    return parameter.mean(dim=0, keepdim=True) if layer.subject_B is None else parameter[layer.subject_B]
