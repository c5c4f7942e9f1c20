"""What a trial chooses from: one contract for every activation, loss, optimizer, schedule, augmentation and order."""

import inspect
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from platform.choices import activations, augmentations, losses, optimizers, schedules
from platform.choices.activations import ACTIVATIONS
from platform.choices.augmentations import AUGMENTATIONS, Batch
from platform.choices.losses import LOSSES
from platform.choices.optimizers import OPTIMIZERS, averaged, settle
from platform.choices.schedules import SCHEDULES, Progress, warmed_up
from platform.data import training_set
from platform.data.training_set import ORDERS
from platform.training.config import TrainingConfig
from platform.training.loop import count_plateaus

SHARES_DONE = [step / 997 for step in range(997)]
LEARNING_RATE = 0.02
CHOICES = {
    f"{module.__name__.split('.')[-1]}-{name}": (module, name, getattr(choice, "compute", choice))
    for module, choices in (
        (activations, ACTIVATIONS), (losses, LOSSES), (optimizers, OPTIMIZERS), (schedules, SCHEDULES),
        (augmentations, AUGMENTATIONS), (training_set, ORDERS),
    )
    for name, choice in choices.items()
}  # fmt: skip
ONES = torch.ones(7)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Use one thread: for models this small a second one only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def toy_regression(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs_BI = torch.randn(64, 5, generator=generator)
    return inputs_BI, inputs_BI @ torch.randn(5, 2, generator=generator)


def error_after_training(
    *,
    activation: str = "gelu",
    loss: str = "mse",
    optimizer: str = "adam",
    schedule: str = "constant",
    learning_rate: float = LEARNING_RATE,
    steps: int = 200,
) -> float:
    """Return how much of a toy regression's variance is not explained after training: 1 - r squared."""
    inputs_BI, targets_BO = toy_regression()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), ACTIVATIONS[activation](), nn.Linear(16, 2))
    optimise = OPTIMIZERS[optimizer](model.parameters(), learning_rate, 1e-4)
    for step in range(steps):
        for group in optimise.param_groups:
            group["lr"] = learning_rate * SCHEDULES[schedule](Progress(done=step / steps))
        optimise.zero_grad()
        LOSSES[loss].compute(model(inputs_BI), targets_BO, torch.ones(2)).backward()
        optimise.step()
    with averaged(optimise), torch.no_grad():
        predicted_BO = model(inputs_BI)
    r_O = [np.corrcoef(predicted_BO[:, output], targets_BO[:, output])[0, 1] for output in range(2)]
    return 1 - float(np.mean(r_O)) ** 2


@pytest.mark.parametrize("key", CHOICES)
def test_every_choice_is_documented(key):
    module, name, choice = CHOICES[key]
    assert inspect.getdoc(choice) or name in (module.__doc__ or "")


def test_there_are_as_many_choices_as_promised():
    counts = [len(choices) for choices in (ACTIVATIONS, LOSSES, OPTIMIZERS, SCHEDULES)]
    assert counts[0] >= 9 and counts[1] >= 8 and counts[2] >= 10
    assert counts[3] + 1 >= 8  # and the warm-up that any of them may follow


# Activations


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_finite_differentiable_and_not_linear(name):
    values = torch.tensor([-1e4, -3.0, -0.1, 0.1, 3.0, 1e4], requires_grad=True)
    activated = ACTIVATIONS[name]()(values)
    activated.sum().backward()
    assert activated.shape == values.shape
    assert torch.isfinite(activated).all() and torch.isfinite(values.grad).all()
    assert values.grad.unique().numel() > 1


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_learns(name):
    assert error_after_training(activation=name) < 0.05


# Losses


def drawn(rows: int = 6) -> tuple[Tensor, Tensor]:
    predicted, target = torch.randn(2, rows, 7, generator=torch.Generator().manual_seed(0))
    return predicted, target


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_zero_where_the_prediction_is_right_and_grows_with_its_error(name):
    noise, target = drawn(20)
    values = [float(LOSSES[name].compute(target + error * noise, target, ONES)) for error in (0.0, 0.5, 1.0, 2.0)]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values == sorted(set(values))


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.is_mean_over_windows])
def test_a_loss_that_says_so_is_a_mean_over_windows_so_that_batches_can_be_split(name):
    predicted, target = drawn()
    compute = LOSSES[name].compute
    parts = [compute(predicted[at : at + 2], target[at : at + 2], ONES) for at in (0, 2, 4)]
    whole = compute(predicted, target, ONES)
    assert whole.shape == ()
    torch.testing.assert_close(whole, torch.stack(parts).mean())


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if not loss.is_mean_over_windows])
def test_a_loss_that_says_so_is_no_mean_over_windows(name):
    predicted, target = drawn()
    compute = LOSSES[name].compute
    parts = [compute(predicted[at : at + 2], target[at : at + 2], ONES) for at in (0, 2, 4)]
    assert not torch.isclose(compute(predicted, target, ONES), torch.stack(parts).mean())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("rows", [1, 4])
def test_a_loss_has_finite_gradients_even_for_huge_errors_constant_outputs_and_single_windows(name, rows):
    predicted = torch.tensor([[0.0, 1e-8, 1.0, 1e6]] * rows, requires_grad=True)
    LOSSES[name].compute(predicted, torch.zeros(rows, 4), torch.ones(4)).backward()
    assert torch.isfinite(predicted.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_learns(name):
    assert error_after_training(loss=name) < 0.05


def test_weights_count_outputs_by_their_reliability():
    predicted, target = drawn()
    weights = torch.tensor([7.0, 0, 0, 0, 0, 0, 0])
    assert LOSSES["weighted_mse"].compute(predicted, target, weights).item() == pytest.approx(
        float((predicted - target)[:, 0].square().mean()), rel=1e-5
    )
    expected = 1 - np.corrcoef(predicted[:, 0], target[:, 0])[0, 1]
    assert LOSSES["correlation"].compute(predicted, target, weights).item() == pytest.approx(expected, rel=1e-4)


def test_correlation_and_cosine_know_no_size():
    predicted, target = drawn()
    for name in ("correlation", "cosine"):
        compute = LOSSES[name].compute
        torch.testing.assert_close(compute(3 * predicted, target, ONES), compute(predicted, target, ONES))


def test_log_cosh_is_numpys_and_does_not_overflow():
    predicted, target = drawn()
    expected = np.log(np.cosh((predicted - target).numpy().astype(np.float64))).mean()
    assert LOSSES["log_cosh"].compute(predicted, target, ONES).item() == pytest.approx(expected, rel=1e-5)
    assert math.isfinite(LOSSES["log_cosh"].compute(1e4 * predicted, target, ONES))


# Optimizers


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_learns(name):
    slow = {"sgd": 10, "adagrad": 5}
    assert error_after_training(optimizer=name, learning_rate=LEARNING_RATE * slow.get(name, 1)) < 0.05


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_has_the_learning_rate_and_weight_decay_it_was_given(name):
    built = OPTIMIZERS[name](nn.Linear(2, 2).parameters(), 0.125, 0.25)
    assert {(group["lr"], group["weight_decay"]) for group in built.param_groups} == {(0.125, 0.25)}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("shape", [(1,), (2, 2)])
def test_weight_decay_makes_weights_smaller(name, shape):
    def weight_after(weight_decay: float) -> float:
        parameter = nn.Parameter(3 * torch.ones(shape))
        optimizer = OPTIMIZERS[name]([parameter], 0.01, weight_decay)
        for _ in range(20):
            parameter.grad = torch.zeros(shape)
            optimizer.step()
        settle(optimizer)
        return float(parameter.detach().mean())

    assert weight_after(0.0) == pytest.approx(3)
    assert 0 < weight_after(0.5) < 3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_goes_on_from_its_state(name):
    def steps(parameter: nn.Parameter, optimizer: torch.optim.Optimizer, first: int) -> None:
        for step in range(first, first + 3):
            parameter.grad = torch.full((2, 3), 0.1 * (step + 1))
            optimizer.step()

    whole, parted = (nn.Parameter(torch.ones(2, 3)) for _ in range(2))
    optimizer = OPTIMIZERS[name]([whole], 0.01, 0.1)
    steps(whole, optimizer, 0)
    steps(whole, optimizer, 3)
    before = OPTIMIZERS[name]([parted], 0.01, 0.1)
    steps(parted, before, 0)
    after = OPTIMIZERS[name]([parted], 0.01, 0.1)
    after.load_state_dict(before.state_dict())
    steps(parted, after, 3)
    torch.testing.assert_close(parted, whole)


def test_muon_changes_the_learning_rate_of_both_its_parts():
    layer = nn.Linear(2, 2)
    optimizer = OPTIMIZERS["muon"](layer.parameters(), 0.01, 0.0)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(before, [parameter.detach() for parameter in layer.parameters()])


def test_schedule_free_scores_the_average_and_trains_on_from_where_it_was():
    parameter = nn.Parameter(torch.ones(2))
    optimizer = OPTIMIZERS["schedule_free"]([parameter], 0.1, 0.0)
    for _ in range(5):
        parameter.grad = torch.ones(2)
        optimizer.step()
    trained = parameter.detach().clone()
    with averaged(optimizer):
        assert not torch.allclose(parameter, trained)
    torch.testing.assert_close(parameter.detach(), trained)


# Schedules


JUMPS = {"step", "warm_restarts"}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warm_up_share", [0.0, 0.1])
def test_a_schedule_stays_between_zero_and_one_and_jumps_only_where_it_must(name, warm_up_share):
    factors = [warmed_up(SCHEDULES[name], Progress(done=done), warm_up_share) for done in SHARES_DONE]
    assert min(factors) >= 0 and max(factors) <= 1
    jumps = sum(abs(one - other) > 0.05 for one, other in zip(factors, factors[1:], strict=False))
    expected = 2 if name in JUMPS else 0
    # one_cycle falls from a warm-up's end to where it rises from by itself
    assert jumps == expected + (name == "one_cycle" and warm_up_share > 0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_reaches_the_whole_learning_rate_and_begins_above_zero(name):
    assert max(SCHEDULES[name](Progress(done=done)) for done in SHARES_DONE) == pytest.approx(1, abs=1e-3)
    assert SCHEDULES[name](Progress(done=0.0)) > 0


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_learns(name):
    assert error_after_training(schedule=name) < 0.05


def test_a_warm_up_rises_linearly_then_the_schedule_runs_its_whole_course():
    factors = [warmed_up(SCHEDULES["cosine"], Progress(done=done), 0.1) for done in (0.0, 0.05, 0.1, 0.55, 1 - 1e-9)]
    assert factors == pytest.approx([1 / 11, 6 / 11, 1, 0.5, 0], abs=1e-6)


def test_plateau_halves_the_learning_rate_at_each_plateau():
    factors = [SCHEDULES["plateau"](Progress(done=0.5, plateaus=plateaus)) for plateaus in range(3)]
    assert factors == [1, 0.5, 0.25]


@pytest.mark.parametrize(
    ("means", "plateaus"),
    [([], 0), ([1, 2, 3], 0), ([3, 2], 0), ([3, 2, 1], 1), ([3, 2, 1, 1, 1], 2), ([3, 2, 4, 3, 3], 1)],
)
def test_a_plateau_is_two_epochs_without_a_new_best(means, plateaus):
    assert count_plateaus([(mean - 1, mean + 1, 99.0) for mean in means]) == plateaus


# Augmentations


def windows(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        inputs=torch.randn(8, 4, 500, generator=generator),
        targets_BK=torch.randn(8, 3, generator=generator),
        subject_B=torch.tensor([0, 0, 0, 0, 1, 1, 2, 2]),
    )


def augmented(name: str, batch: Batch, strength: float = 0.4, seed: int = 0) -> Batch:
    return AUGMENTATIONS[name](batch, strength, torch.Generator().manual_seed(seed))


CHANGING = [name for name in AUGMENTATIONS if name != "none"]


@pytest.mark.parametrize("name", CHANGING)
def test_an_augmentation_changes_windows_by_the_generator_alone_and_keeps_their_form(name):
    batch = windows()
    one, again, other = (augmented(name, batch, seed=seed) for seed in (1, 1, 2))
    assert one.inputs.shape == batch.inputs.shape and one.inputs.dtype == torch.float32
    assert torch.isfinite(one.inputs).all()
    assert torch.equal(one.inputs, again.inputs) and not torch.equal(one.inputs, other.inputs)
    assert not torch.equal(one.inputs, batch.inputs)
    assert torch.equal(batch.inputs, windows().inputs)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_only_mixup_changes_targets(name):
    batch = windows()
    assert torch.equal(augmented(name, batch).targets_BK, batch.targets_BK) == (not name.startswith("mixup"))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_of_features_is_itself_or_nothing(name):
    batch = replace(windows(), inputs=torch.randn(8, 40, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(augmented(name, batch).inputs, batch.inputs) == (name not in ("noise", "mixup", "mixup_within"))


@pytest.mark.parametrize("name", CHANGING)
def test_an_augmentation_without_strength_changes_next_to_nothing(name):
    batch = windows()
    if name == "time_shift":  # at least a sample
        assert (augmented(name, batch, 0.0).inputs[..., 2:-2] - batch.inputs[..., 2:-2]).abs().max() > 0
        return
    torch.testing.assert_close(augmented(name, batch, 0.0).inputs, batch.inputs, atol=1e-5, rtol=1e-4)


def test_channel_dropout_silences_that_share_of_channels_whole():
    inputs = augmented("channel_dropout", replace(windows(), inputs=torch.ones(200, 30, 5))).inputs
    assert set(inputs.sum(dim=2).unique().tolist()) == {0.0, 5.0}
    assert 0.35 < float((inputs[..., 0] == 0).float().mean()) < 0.45


def test_a_time_shift_moves_all_channels_alike_and_lets_silence_in():
    batch = windows()
    shifted = augmented("time_shift", batch).inputs
    for window, source in zip(shifted, batch.inputs, strict=True):
        lags = [
            by
            for by in range(-10, 11)
            if torch.equal(window[:, max(by, 0) : 500 + min(by, 0)], source[:, max(-by, 0) : 500 - max(by, 0)])
        ]
        assert len(lags) == 1
        silent = window[:, : lags[0]] if lags[0] > 0 else window[:, 500 + lags[0] :]
        assert not silent.any()


def test_a_phase_surrogate_keeps_power_and_the_relations_of_channels():
    batch = windows()
    changed = augmented("phase_surrogate", batch).inputs
    before, after = torch.fft.rfft(batch.inputs), torch.fft.rfft(changed)
    torch.testing.assert_close(after.abs()[..., 1:-1], before.abs()[..., 1:-1], atol=1e-3, rtol=1e-3)
    cross = [(spectrum[:, 0] * spectrum[:, 1].conj())[..., 1:-1] for spectrum in (before, after)]
    torch.testing.assert_close(cross[1], cross[0], atol=1e-1, rtol=1e-3)


def test_mixup_within_blends_only_windows_of_one_subject():
    batch = replace(windows(), inputs=windows().subject_B.float()[:, None].repeat(1, 6))
    assert torch.equal(augmented("mixup_within", batch).inputs, batch.inputs)
    assert not torch.equal(augmented("mixup", batch).inputs, batch.inputs)


def test_mixup_blends_inputs_and_targets_by_the_same_share():
    batch = windows()
    batch = replace(batch, inputs=batch.targets_BK.repeat(1, 2))
    mixed = augmented("mixup", batch)
    torch.testing.assert_close(mixed.inputs[:, :3], mixed.targets_BK)


# Orders


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_takes_every_window_and_depends_on_its_generator_alone(name):
    subjects = np.repeat([0, 1, 2], [5, 9, 4])
    one, again, other = (ORDERS[name](subjects, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert set(one.tolist()) == set(range(18))
    assert one.tolist() == again.tolist() != other.tolist()


def test_balanced_batches_hold_every_subject_alike():
    subjects = np.repeat([0, 1, 2], [5, 9, 4])
    order = ORDERS["subject_balanced"](subjects, np.random.default_rng(0))
    assert len(order) == 27
    assert all(sorted(subjects[order[at : at + 3]]) == [0, 1, 2] for at in range(0, 27, 3))


def test_an_order_by_pieces_takes_many_windows_of_one_subject_before_those_of_another():
    subjects = np.repeat([0, 1, 2], [50, 90, 5])
    order = ORDERS["subject_pieces"](subjects, np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(145))
    changes = np.flatnonzero(np.diff(subjects[order])) + 1
    lengths = [len(piece) for piece in np.split(order, changes)]
    assert min(lengths) == 5 and sorted(lengths)[1] >= 12
    assert len(changes) > 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"loss": "mes"}, r"loss must be one of \[.*'huber', .*'mse'.*\], but got 'mes'"),
        ({"optimizer": "sdg"}, r"optimizer must be one of \[.*'adamw', .*\], but got 'sdg'"),
        ({"schedule": "linear"}, r"schedule must be one of \[.*'cosine', .*\], but got 'linear'"),
        ({"augmentation": "flip"}, r"augmentation must be one of \[.*'mixup', .*\], but got 'flip'"),
        ({"order": "sorted"}, r"order must be one of \['shuffled', 'subject_balanced', .*\], but got 'sorted'"),
        ({"alignment": "affine"}, r"alignment must be one of \['euclidean', 'monge', .*\], but got 'affine'"),
        ({"coral_weight": -1.0}, "adversary_weight and coral_weight must be 0 or more"),
        ({"num_members": 0}, "num_members 1 or more"),
        ({"num_members": 3, "coral_weight": 1.0}, "set num_members to 1, or both weights to 0"),
        ({"precision": "fp8"}, r"precision must be one of \['bf16', 'float32'\], but got 'fp8'"),
        ({"output_rank": -1}, "output_rank must be 0"),
        ({"batch_size": 0}, "batch_size and accumulation 1 or more"),
        ({"accumulation": 0}, "batch_size and accumulation 1 or more"),
        ({"warm_up_share": 1.0}, r"warm_up_share, .* must lie in \[0, 1\)"),
        ({"gradient_norm": -1.0}, "gradient_norm at 0 or above"),
    ],
    ids=str,
)
def test_training_refuses_what_it_cannot_do_and_lists_the_choices(wrong, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**wrong)
