"""What a trial may vary about training, the same for every architecture, and how long a job may train.

Takes flat settings; gives them checked against the tables of choices.
"""

from dataclasses import dataclass
from typing import Any

import torch

from platform.choices.augmentations import AUGMENTATIONS
from platform.choices.losses import LOSSES
from platform.choices.optimizers import OPTIMIZERS
from platform.choices.schedules import SCHEDULES
from platform.data.basis import MAX_RANK
from platform.data.products import OUTPUTS
from platform.data.training_set import ORDERS
from platform.prediction.alignment import ALIGNMENTS

PRECISIONS = {"float32": None, "bf16": torch.bfloat16}
"""What matrices are multiplied in; weights, losses and scores are float32."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What a trial may vary about training; every model is trained by these.

    Attributes:
        output: what the basis is made of, a key of ``OUTPUTS``.
        output_rank: patterns of the basis that is predicted; 0 for all voxels.
        warm_up_share: of the training, over which the learning rate rises before its schedule.
        batch_size: windows of a step, over all workers.
        accumulation: pieces in which a worker goes through its share of a batch, to save memory.
        gradient_norm: the longest gradient that a step may follow; 0 for no limit.
        weight_average: decay by step of the average of weights that is scored; 0 for the last weights.
        order: how an epoch goes through the windows.
        alignment: by which mean of its covariances each subject's EEG is aligned.
        subject_layers: whether every training subject has a layer of its own, of which others get the mean.
        adversary_weight: of the reversed gradient of an adversary that tells subjects apart; 0 for none.
        coral_weight: in the loss, of the distance between subjects' covariances of features; 0 for none.
        num_members: of an ensemble, each of which leaves out other training subjects; 1 for a single model.
    """

    output: str = "responsive"
    output_rank: int = 32
    loss: str = "mse"
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warm_up_share: float = 0.0
    weight_decay: float = 1e-2
    batch_size: int = 32
    accumulation: int = 1
    gradient_norm: float = 1.0
    weight_average: float = 0.0
    precision: str = "float32"
    augmentation: str = "none"
    augmentation_strength: float = 0.2
    order: str = "shuffled"
    alignment: str = "none"
    subject_layers: bool = False
    adversary_weight: float = 0.0
    coral_weight: float = 0.0
    num_members: int = 1

    def __post_init__(self) -> None:
        choices: dict[str, Any] = {
            "output": OUTPUTS,
            "loss": LOSSES,
            "optimizer": OPTIMIZERS,
            "schedule": SCHEDULES,
            "precision": PRECISIONS,
            "augmentation": AUGMENTATIONS,
            "order": ORDERS,
            "alignment": ALIGNMENTS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {sorted(known)}, but got {getattr(self, name)!r}")
        if not 0 <= self.output_rank <= MAX_RANK or self.batch_size < 1 or self.accumulation < 1:
            raise ValueError(
                f"output_rank must be 0 (all voxels) to {MAX_RANK}, batch_size and accumulation 1 or more, but got "
                f"{self}"
            )
        shares = (self.warm_up_share, self.weight_average, self.augmentation_strength)
        if not all(0 <= share < 1 for share in shares) or self.gradient_norm < 0:
            raise ValueError(
                "warm_up_share, weight_average and augmentation_strength must lie in [0, 1), gradient_norm at 0 or "
                f"above, but got {self}"
            )
        if min(self.adversary_weight, self.coral_weight) < 0 or self.num_members < 1:
            raise ValueError(
                "adversary_weight and coral_weight must be 0 or more, num_members 1 or more, but got "
                f"{self.adversary_weight}, {self.coral_weight} and {self.num_members}"
            )
        if self.num_members > 1 and self.is_penalised:
            raise ValueError(
                "adversary_weight and coral_weight need a single encoder, but num_members is "
                f"{self.num_members}; set num_members to 1, or both weights to 0"
            )

    @property
    def is_penalised(self) -> bool:
        """Whether anything is added to the loss."""
        return self.adversary_weight > 0 or self.coral_weight > 0


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """How long a job may train: the same for every configuration of a study."""

    maximum: int = 20
    patience: int = 5
