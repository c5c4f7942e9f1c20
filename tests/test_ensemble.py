"""Several models as one, each of which leaves out other training subjects."""

import pytest
import torch
from torch import nn

from platform.models.ensemble import Ensemble, learned_from, of_recording
from platform.models.subjects import SubjectNorm, of_subjects

SUBJECT_B = torch.tensor([0, 1, 2, 3, 4, 0, 3, 3])


def inputs(seed: int = 0) -> torch.Tensor:
    return torch.randn(len(SUBJECT_B), 4, generator=torch.Generator().manual_seed(seed))


def ensemble(num_members: int = 3, **weights: list[float]) -> Ensemble:
    torch.manual_seed(0)
    known = {name.replace("_", "-"): torch.tensor(values) for name, values in weights.items()}
    return Ensemble([nn.Linear(4, 2) for _ in range(num_members)], known)


@pytest.mark.parametrize("num_members", [2, 3, 5])
def test_every_window_is_predicted_by_all_members_but_the_one_that_leaves_it_out(num_members):
    model = ensemble(num_members)
    with of_subjects(model, SUBJECT_B):
        predicted_JBK = model(inputs())
    assert predicted_JBK.shape == (num_members - 1, len(SUBJECT_B), 2)
    learned = learned_from(num_members, 5)
    for row, subject in enumerate(SUBJECT_B.tolist()):
        expected = [member(inputs())[row] for number, member in enumerate(model.members) if learned[number, subject]]
        found = predicted_JBK[:, row]
        assert len(expected) == num_members - 1
        torch.testing.assert_close(found.sum(dim=0), torch.stack(expected).sum(dim=0))
        assert all(any(torch.allclose(each, one, atol=1e-6) for one in found) for each in expected)


def test_a_member_learns_nothing_from_the_subjects_that_it_leaves_out():
    model, targets = ensemble(), torch.randn(len(SUBJECT_B), 2)
    gradients = []
    for changed in (inputs(), torch.where((SUBJECT_B % 3 == 1)[:, None], inputs(1), inputs())):
        model.zero_grad()
        with of_subjects(model, SUBJECT_B):
            (model(changed) - targets).square().mean().backward()
        gradients.append([member.weight.grad.clone() for member in model.members])
    alike = [torch.allclose(before, after) for before, after in zip(*gradients, strict=True)]
    assert alike == [False, True, False]


def test_members_learn_as_they_would_alone():
    model, targets = ensemble(), torch.randn(len(SUBJECT_B), 2)
    with of_subjects(model, SUBJECT_B):
        (model(inputs()) - targets).square().mean().backward()
    for number, member in enumerate(model.members):
        rows = number != SUBJECT_B % 3
        loss = (member(inputs()[rows]) - targets[rows]).square().mean() * rows.float().mean() / 2
        torch.testing.assert_close(member.weight.grad, torch.autograd.grad(loss, member.weight)[0])


def test_a_batch_of_subjects_that_a_member_leaves_out_reaches_all_members_with_a_gradient_of_none_or_zero():
    model = ensemble()
    with of_subjects(model, torch.zeros(len(SUBJECT_B), dtype=torch.int64)):
        predicted_JBK = model(inputs())
    assert predicted_JBK.shape == (2, len(SUBJECT_B), 2)
    predicted_JBK.sum().backward()
    sizes = [float(member.weight.grad.abs().sum()) for member in model.members]
    assert sizes[0] == 0 < min(sizes[1:])


def test_what_is_scored_is_the_mean_weighted_for_the_subject():
    model = ensemble(sub_01=[0.5, 0.25, 0.25]).eval()
    each = torch.stack([member(inputs()) for member in model.members])
    torch.testing.assert_close(model(inputs()), each.mean(dim=0))
    with of_recording(nn.Sequential(model), "sub-01"):
        torch.testing.assert_close(model(inputs()), 0.5 * each[0] + 0.25 * each[1] + 0.25 * each[2])
    with of_recording(model, "sub-02"):
        torch.testing.assert_close(model(inputs()), each.mean(dim=0))
    torch.testing.assert_close(model(inputs()), each.mean(dim=0))


def test_layers_within_a_member_are_told_whose_its_own_windows_are():
    torch.manual_seed(0)
    model = Ensemble([SubjectNorm(4) for _ in range(2)], {})
    subject_B = torch.tensor([0, 1]).repeat_interleave(8)
    plain = torch.randn(16, 4)
    with of_subjects(model, subject_B):
        predicted_JBK = model(plain + 5 * subject_B[:, None])
        expected_JBK = model(plain)
    torch.testing.assert_close(predicted_JBK, expected_JBK, atol=1e-4, rtol=1e-3)
    assert all(member.subject_B is None for member in model.members)
