"""Layers that know whose window is whose."""

import numpy as np
import pytest
import torch
from torch import nn

from platform.models.blocks import NORMS
from platform.models.subject_layers import SubjectMixing, SubjectScale
from platform.models.subjects import MIN_WINDOWS, SubjectNorm, of_subjects, remember_subjects

SUBJECT_B = torch.tensor([0, 3, 0, 3, 3, 0, 0, 3, 0, 3])


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def of_both(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with of_subjects(model, SUBJECT_B):
        return model(inputs)


# Normalisation


@pytest.mark.parametrize("axes", [(), (4,), (2, 3)], ids=str)
def test_a_subject_norm_undoes_each_subjects_shift_and_scale(axes):
    plain = vectors(10, *axes, 5)
    shift, scale = vectors(5, seed=1), vectors(5, seed=2).exp()
    altered = torch.where((SUBJECT_B == 3).view(-1, *[1] * len(axes), 1), plain * scale + shift, plain)
    norm = SubjectNorm(5)
    assert not torch.allclose(altered, plain)
    torch.testing.assert_close(of_both(norm, altered), of_both(norm, plain), atol=2e-4, rtol=1e-3)


def test_a_subject_norm_is_batch_norm_of_each_subjects_windows():
    inputs = vectors(10, 3, 5).numpy() * 2 + 1
    normed = of_both(SubjectNorm(5), torch.from_numpy(inputs)).detach().numpy()
    for subject in (0, 3):
        own = inputs[SUBJECT_B.numpy() == subject].reshape(-1, 5)
        expected = (own - own.mean(axis=0)) / np.sqrt(own.var(axis=0) + 1e-5)
        np.testing.assert_allclose(normed[SUBJECT_B.numpy() == subject].reshape(-1, 5), expected, atol=1e-5)


def test_while_scoring_a_batch_is_one_subjects_and_its_own_statistics_are_used():
    norm = SubjectNorm(5).eval()
    inputs = 3 * vectors(20, 5) + 7
    torch.testing.assert_close(norm(inputs).mean(dim=0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(norm(inputs).std(dim=0, correction=0), torch.ones(5), atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_windows", [1, MIN_WINDOWS - 1])
def test_few_windows_are_normalised_by_what_was_seen_over_training(num_windows):
    norm = SubjectNorm(5)
    training = 3 * vectors(10, 5) + 7
    for _ in range(200):
        of_both(norm, training)
    norm.eval()
    means, variances = (
        torch.stack([statistic(training[subject == SUBJECT_B]) for subject in (0, 3)]).mean(dim=0)
        for statistic in (lambda own: own.mean(dim=0), lambda own: own.var(dim=0, correction=0))
    )
    expected = (training[:num_windows] - means) / variances.sqrt()
    torch.testing.assert_close(norm(training[:num_windows]), expected, atol=1e-3, rtol=1e-3)


def test_a_subject_with_too_few_windows_in_a_batch_is_normalised_by_the_running_statistics():
    norm = SubjectNorm(5)
    inputs = 3 * vectors(10, 5) + 7
    alone = torch.tensor([0] * 9 + [1])
    with of_subjects(norm, alone):
        normed = norm(inputs)
    torch.testing.assert_close(normed[-1], (inputs[-1] - norm.running_mean) / (norm.running_variance + 1e-5).sqrt())
    torch.testing.assert_close(norm.running_mean, 0.1 * inputs[:9].mean(dim=0), atol=1e-5, rtol=0)


def test_a_norm_that_remembers_subjects_normalises_small_batches_by_their_last_windows():
    plain = vectors(60, 3, 5) * (1 + torch.arange(60) % 3)[:, None, None] + 4
    whose_B = torch.arange(60) % 3
    norm = SubjectNorm(5)
    norm.remember(3)
    for at in range(0, 60, 6):
        rows = slice(at, at + 6)
        with of_subjects(norm, whose_B[rows]):
            normed = norm(plain[rows])
    for subject in range(3):
        own = plain[whose_B == subject].reshape(-1, 5)
        torch.testing.assert_close(norm.means_PD[subject], own.mean(dim=0))
        deviation = (plain[54 + subject] - own.mean(dim=0)) / own.std(dim=0, correction=0)
        torch.testing.assert_close(normed[subject], deviation, atol=0.15, rtol=0.1)
    assert norm.seen_P.tolist() == [20, 20, 20]


def test_what_is_remembered_of_a_subject_fades():
    norm = SubjectNorm(2)
    norm.remember(1)
    for level in (0.0, *[100.0] * 40):
        with of_subjects(norm, torch.zeros(16, dtype=torch.int64)):
            norm(torch.full((16, 2), level))
    torch.testing.assert_close(norm.means_PD, torch.full((1, 2), 100.0), atol=0.01, rtol=0)


def test_a_norm_that_remembers_undoes_each_subjects_shift_and_scale_from_the_first_batch_on():
    plain = vectors(40, 5)
    whose_B = torch.arange(40) % 2
    altered = torch.where(whose_B[:, None] == 1, 3 * plain + 9, plain)
    normed = []
    for inputs in (plain, altered):
        norm = SubjectNorm(5)
        remember_subjects(nn.Sequential(norm), 2)
        parts = []
        for rows in torch.arange(40).split(10):
            with of_subjects(norm, whose_B[rows]):
                parts.append(norm(inputs[rows]))
        normed.append(torch.cat(parts))
    torch.testing.assert_close(*normed, atol=1e-3, rtol=1e-3)


def test_whose_windows_they_are_is_forgotten_after_the_batch_and_after_an_error():
    model = nn.Sequential(nn.Linear(5, 5), SubjectNorm(5))
    with pytest.raises(ZeroDivisionError), of_subjects(model, SUBJECT_B):
        assert model[1].subject_B is SUBJECT_B
        raise ZeroDivisionError
    assert model[1].subject_B is None


def test_an_exported_subject_norm_does_what_it_does_itself_for_one_window_and_for_many():
    norm = SubjectNorm(5)
    of_both(norm, 3 * vectors(10, 2, 5) + 7)
    norm.eval()
    dynamic = {"vectors": {0: torch.export.Dim("windows", min=1, max=64)}}
    program = torch.export.export(norm, (vectors(2, 2, 5),), dynamic_shapes=dynamic).module()
    for num_windows in (1, 2, 20):
        torch.testing.assert_close(program(vectors(num_windows, 2, 5)), norm(vectors(num_windows, 2, 5)))


def test_a_subject_norm_has_gradients_and_can_be_chosen_by_name():
    norm = NORMS["subject"](5)
    inputs = vectors(10, 5).requires_grad_()
    of_both(norm, inputs).square().sum().backward()
    assert torch.isfinite(inputs.grad).all() and norm.weight.grad.abs().sum() > 0


# Layers of each subject


def test_subject_layers_begin_as_nothing_and_learn_from_their_own_subject_alone():
    for layer, inputs in ((SubjectMixing(4, 3), vectors(10, 3, 6)), (SubjectScale(4, 5), vectors(10, 5))):
        torch.testing.assert_close(of_both(layer, inputs), inputs)
        of_both(layer, inputs).square().sum().backward()
        for parameter in layer.parameters():
            has_gradient = parameter.grad.flatten(1).abs().sum(dim=1) > 0
            assert has_gradient.tolist() == [True, False, False, True]


def test_a_new_subject_gets_the_mean_of_all_layers():
    layer = SubjectMixing(2, 3)
    torch.nn.init.normal_(layer.change_PCC)
    eeg = vectors(4, 3, 6)
    both = []
    for subject in (0, 1):
        with of_subjects(layer, torch.full((4,), subject)):
            both.append(layer(eeg))
    assert not torch.allclose(both[0], both[1])
    torch.testing.assert_close(layer.eval()(eeg), torch.stack(both).mean(dim=0))


def test_a_subject_layer_mixes_channels_as_a_matrix_product_does():
    layer = SubjectMixing(4, 3)
    torch.nn.init.normal_(layer.change_PCC)
    eeg = vectors(10, 3, 6)
    mixed = of_both(layer, eeg).detach().numpy()
    for row, subject in enumerate(SUBJECT_B.tolist()):
        expected = (np.eye(3) + layer.change_PCC[subject].detach().numpy()) @ eeg[row].numpy()
        np.testing.assert_allclose(mixed[row], expected, atol=1e-5)


def test_subject_layers_undo_what_each_subjects_cap_does():
    """One subject's channels are swapped: only with a layer of its own can one linear map serve both."""
    eeg, target = vectors(200, 2, 1), vectors(200, 2, 1)[:, 0]
    subject_B = torch.arange(200) % 2
    eeg = torch.where((subject_B == 1)[:, None, None], eeg.flip(1), eeg)
    losses = []
    for layer in (SubjectMixing(2, 2), nn.Identity()):
        torch.manual_seed(0)
        model = nn.Sequential(layer, nn.Flatten(), nn.Linear(2, 1))
        optimizer = torch.optim.Adam(model.parameters(), 0.05)
        for _ in range(200):
            optimizer.zero_grad()
            with of_subjects(model, subject_B):
                loss = (model(eeg) - target).square().mean()
            loss.backward()
            optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] < 0.01 < 0.2 < losses[1]
