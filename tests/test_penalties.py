"""Penalties on what a model encodes of whose EEG it was."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from platform.models.blocks import EncodedModel
from platform.models.penalties import Penalised, coral, reversed_gradient
from platform.models.subjects import MIN_WINDOWS, of_subjects


class Linear(EncodedModel):
    """Two numbers, of which it may encode both."""

    def __init__(self, num_tokens: int = 0) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.encoder = nn.Linear(2, 4)
        self.head = nn.Linear(4, 1)

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        encoded = self.encoder(inputs)
        return encoded[:, None].expand(-1, self.num_tokens, -1) if self.num_tokens else encoded


def toy() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return inputs whose first number is the target and whose second tells the subject, mostly; targets; subjects."""
    noise_B2 = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    subject_B = torch.arange(200) % 2
    inputs_B2 = noise_B2 + torch.stack([0 * subject_B, 2 * subject_B - 1], dim=1)
    return inputs_B2, noise_B2[:, :1], subject_B


def trained(adversary_weight: float) -> tuple[float, float]:
    """Return the losses of a model and of the adversary that reads what it encodes."""
    inputs, target, subject_B = toy()
    torch.manual_seed(0)
    model = Penalised(Linear(), inputs, 2, adversary_weight=adversary_weight, coral_weight=0.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.03)
    for _ in range(400):
        optimizer.zero_grad()
        with of_subjects(model, subject_B):
            loss = (model(inputs) - target).square().mean()
        (loss + model.penalty).backward()
        optimizer.step()
    return float(loss.detach()), float(model.penalty.detach())


def test_an_adversary_makes_the_subject_unpredictable_from_features_where_it_was_predictable():
    """One of no weight reads the subject from what a model encodes; one that the model minds is left to guess."""
    plain, hidden = trained(1e-9), trained(0.3)
    assert plain[1] < 0.55
    assert hidden[1] == pytest.approx(math.log(2), abs=0.03)
    assert max(plain[0], hidden[0]) < 0.05


def test_the_reversed_gradient_is_the_gradient_turned_round():
    features = torch.tensor([1.0, 2.0], requires_grad=True)
    passed = reversed_gradient(features, 0.5)
    assert torch.equal(passed, features)
    (passed * torch.tensor([3.0, 4.0])).sum().backward()
    assert features.grad.tolist() == [-1.5, -2.0]


def test_the_adversary_descends_where_the_encoder_ascends():
    inputs, _, subject_B = toy()
    model = Penalised(Linear(), inputs, 2, adversary_weight=0.25, coral_weight=0.0)
    with of_subjects(model, subject_B):
        model(inputs)
    model.penalty.backward()
    expected = functional.cross_entropy(model.adversary(model.model.encode(inputs)), subject_B)
    own = torch.autograd.grad(expected, [model.adversary[0].weight, model.model.encoder.weight])
    torch.testing.assert_close(model.adversary[0].weight.grad, own[0])
    torch.testing.assert_close(model.model.encoder.weight.grad, -0.25 * own[1])
    assert model.model.head.weight.grad is None


@pytest.mark.parametrize(
    "weights", [{"adversary_weight": 1.0, "coral_weight": 0.0}, {"adversary_weight": 0.0, "coral_weight": 2.0}]
)
def test_a_penalised_model_predicts_as_the_model_does(weights):
    inputs, _, subject_B = toy()
    model = Penalised(Linear(num_tokens=3), inputs, 2, **weights)
    with of_subjects(model, subject_B):
        assert torch.equal(model(inputs), model.model(inputs))
    assert model.penalty.ndim == 0 and model.penalty > 0
    assert torch.equal(model(inputs), model.model(inputs))
    assert model.penalty is None


# CORAL


def slow_coral(features_BD: np.ndarray, subject_B: np.ndarray) -> float:
    covariances = [np.cov(features_BD[subject_B == subject].T) for subject in np.unique(subject_B)]
    pairs = [
        np.linalg.norm(one - other, "fro") ** 2 / (4 * features_BD.shape[1] ** 2)
        for number, one in enumerate(covariances)
        for other in covariances[:number]
    ]
    return float(np.mean(pairs))


def features_of_three() -> tuple[torch.Tensor, torch.Tensor]:
    subject_B = torch.arange(24) % 3
    features_BD = torch.randn(24, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return features_BD * (1 + subject_B[:, None]), subject_B


def test_coral_is_the_mean_over_pairs_of_subjects_and_so_is_its_gradient():
    features_BD, subject_B = features_of_three()
    features_BD.requires_grad_()
    penalty = coral(features_BD, subject_B)
    plain = features_BD.detach().numpy()
    assert float(penalty.detach()) == pytest.approx(slow_coral(plain, subject_B.numpy()), rel=1e-9)
    penalty.backward()
    for row, column in ((0, 0), (7, 2), (23, 3)):
        step = np.zeros_like(plain)
        step[row, column] = 1e-5
        ahead, behind = (slow_coral(plain + sign * step, subject_B.numpy()) for sign in (1, -1))
        assert float(features_BD.grad[row, column]) == pytest.approx((ahead - behind) / 2e-5, rel=1e-5)


def test_coral_leaves_out_subjects_with_too_few_windows_and_needs_two():
    features_BD, subject_B = features_of_three()
    few = torch.cat([torch.zeros(MIN_WINDOWS - 1, dtype=torch.int64) + 9, subject_B])
    more = torch.cat([torch.randn(MIN_WINDOWS - 1, 4, dtype=torch.float64), features_BD])
    assert float(coral(more, few)) == float(coral(features_BD, subject_B))
    assert float(coral(features_BD, torch.zeros(24, dtype=torch.int64))) == 0
