"""What a trial chooses from: one contract for every activation, loss, optimizer, schedule, architecture and space."""

import dataclasses
import inspect
from typing import Any

import optuna
import pytest
import torch
from torch import Tensor, nn

from platform import activations, losses, optimizers, schedules
from platform.activations import ACTIVATIONS
from platform.loop import TrainingConfig
from platform.losses import LOSSES
from platform.models import ARCHITECTURES, Volumes
from platform.models.embedding import EMBEDDINGS
from platform.models.shape import ModelShape
from platform.optimizers import OPTIMIZERS
from platform.samplers import propose
from platform.schedules import SCHEDULES
from platform.training import split_configuration
from search_spaces import SEARCH_SPACES

BATCH, CHANNELS, VOLUMES, RATE_HZ, GRID, VOXELS, PATTERNS = 3, 4, 15, 125, (3, 4, 5), 37, 6
SHARES_DONE = [step / 997 for step in range(997)]
CHOICES = {
    f"{module.__name__.split('.')[-1]}-{name}": (module, name, choice)
    for module, choices in (
        (activations, ACTIVATIONS), (losses, LOSSES), (optimizers, OPTIMIZERS), (schedules, SCHEDULES),
    )
    for name, choice in choices.items()
}  # fmt: skip


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
    steps: int = 200,
) -> float:
    """Return what is left of a toy regression's error, as a share of it before training."""
    inputs_BI, targets_BO = toy_regression()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), ACTIVATIONS[activation](), nn.Linear(16, 2))
    before = float((model(inputs_BI) - targets_BO).square().mean().detach())
    optimise = OPTIMIZERS[optimizer](model.parameters(), 0.02, 1e-4)
    for step in range(steps):
        for group in optimise.param_groups:
            group["lr"] = 0.02 * SCHEDULES[schedule](step / steps)
        optimise.zero_grad()
        LOSSES[loss](model(inputs_BI), targets_BO).backward()
        optimise.step()
    return float((model(inputs_BI) - targets_BO).square().mean().detach()) / before


@pytest.mark.parametrize("key", CHOICES)
def test_every_choice_is_documented(key):
    module, name, choice = CHOICES[key]
    assert inspect.getdoc(choice) or name in (module.__doc__ or "")


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


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_zero_where_the_prediction_is_right_and_grows_with_its_error(name):
    target = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    values = [float(LOSSES[name](target + error, target)) for error in (0.0, 0.5, 1.0, 2.0)]
    assert values[0] == 0
    assert values == sorted(set(values))


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_a_mean_over_all_elements_so_that_batches_can_be_split(name):
    predicted, target = torch.randn(2, 6, 7, generator=torch.Generator().manual_seed(0))
    whole = LOSSES[name](predicted, target)
    parts = [LOSSES[name](predicted[at : at + 2], target[at : at + 2]) for at in (0, 2, 4)]
    assert whole.shape == ()
    torch.testing.assert_close(whole, torch.stack(parts).mean())


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_has_finite_gradients_even_for_huge_errors(name):
    predicted = torch.tensor([[0.0, 1e-8, 1.0, 1e6]], requires_grad=True)
    LOSSES[name](predicted, torch.zeros(1, 4)).backward()
    assert torch.isfinite(predicted.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_learns(name):
    assert error_after_training(loss=name) < 0.05


# Optimizers


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_learns(name):
    assert error_after_training(optimizer=name) < 0.05


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_has_the_learning_rate_and_weight_decay_it_was_given(name):
    built = OPTIMIZERS[name](nn.Linear(2, 2).parameters(), 0.125, 0.25)
    assert {(group["lr"], group["weight_decay"]) for group in built.param_groups} == {(0.125, 0.25)}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_makes_weights_smaller(name):
    def weight_after(weight_decay: float) -> float:
        parameter = nn.Parameter(torch.tensor([3.0]))
        optimizer = OPTIMIZERS[name]([parameter], 0.01, weight_decay)
        for _ in range(20):
            parameter.grad = torch.zeros(1)
            optimizer.step()
        return float(parameter.detach())

    assert weight_after(0.0) == 3
    assert 0 < weight_after(0.5) < 3


# Schedules


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_stays_between_zero_and_one_and_never_jumps(name):
    factors = [SCHEDULES[name](done) for done in SHARES_DONE]
    assert min(factors) >= 0 and max(factors) <= 1
    assert max(abs(one - other) for one, other in zip(factors, factors[1:], strict=False)) < 0.02


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_reaches_the_whole_learning_rate_and_begins_above_zero(name):
    assert max(SCHEDULES[name](done) for done in SHARES_DONE) == pytest.approx(1, abs=1e-3)
    assert SCHEDULES[name](0.0) > 0


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_learns(name):
    assert error_after_training(schedule=name) < 0.05


# Architectures


def shape(*, low_rank: bool) -> ModelShape:
    generator = torch.Generator().manual_seed(0)
    everywhere = torch.cartesian_prod(*(torch.arange(size) for size in GRID))
    return ModelShape(
        num_channels=CHANNELS,
        num_samples=VOLUMES * 2 * RATE_HZ,
        num_volumes=VOLUMES,
        rate_hz=RATE_HZ,
        grid_shape=GRID,
        voxel_indices=everywhere[torch.randperm(len(everywhere), generator=generator)[:VOXELS]],
        basis=torch.randn(PATTERNS, VOXELS, generator=generator) if low_rank else None,
    )


def build(architecture: str, *, low_rank: bool, seed: int = 0, **configuration: Any) -> nn.Module:  # noqa: ANN401
    which = ARCHITECTURES[architecture]
    torch.manual_seed(seed)
    return which.build(which.config(**configuration), shape(low_rank=low_rank))


def eeg(seed: int = 0) -> Tensor:
    return torch.randn(BATCH, CHANNELS, VOLUMES * 2 * RATE_HZ, generator=torch.Generator().manual_seed(seed))


def variants(architecture: str) -> list[dict[str, Any]]:
    """Return the default configuration and, where an architecture has embeddings, one with each."""
    names = {field.name for field in dataclasses.fields(ARCHITECTURES[architecture].config)}
    return [{}, *({"embedding": name} for name in EMBEDDINGS if "embedding" in names)]


EVERY_MODEL = [
    pytest.param(name, low_rank, variant, id=f"{name}-{'low_rank' if low_rank else 'voxels'}-{variant}")
    for name in ARCHITECTURES
    for low_rank in (False, True)
    for variant in variants(name)
]


@pytest.mark.parametrize(("architecture", "low_rank", "configuration"), EVERY_MODEL)
def test_a_model_predicts_all_voxels_or_all_weights_of_the_basis(architecture, low_rank, configuration):
    model = build(architecture, low_rank=low_rank, **configuration).eval()
    assert model(eeg()).shape == (BATCH, PATTERNS if low_rank else VOXELS)
    volumes = Volumes(model, shape(low_rank=low_rank).basis)
    assert volumes(eeg()).shape == (BATCH, VOXELS)


@pytest.mark.parametrize(("architecture", "low_rank", "configuration"), EVERY_MODEL)
def test_gradients_reach_every_parameter(architecture, low_rank, configuration):
    model = build(architecture, low_rank=low_rank, **configuration)
    model(eeg()).square().mean().backward()
    dead = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any() or not torch.isfinite(parameter.grad).all()
    ]
    assert not dead


@pytest.mark.parametrize(("architecture", "low_rank", "configuration"), EVERY_MODEL)
def test_a_seed_decides_the_weights_and_dropout(architecture, low_rank, configuration):
    outputs = [build(architecture, low_rank=low_rank, seed=seed, **configuration)(eeg()) for seed in (1, 1, 2)]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)
    assert not torch.allclose(outputs[0], outputs[2])


@pytest.mark.parametrize(("architecture", "low_rank", "configuration"), EVERY_MODEL)
def test_a_window_is_predicted_the_same_alone_and_among_others(architecture, low_rank, configuration):
    model = build(architecture, low_rank=low_rank, **configuration).eval()
    torch.testing.assert_close(model(eeg())[1:2], model(eeg()[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("architecture", "low_rank", "configuration"), EVERY_MODEL)
def test_every_channel_and_every_part_of_the_window_matters(architecture, low_rank, configuration):
    model = build(architecture, low_rank=low_rank, **configuration).eval()
    for channel, volume in ((0, 0), (CHANNELS - 1, VOLUMES - 1)):
        changed = eeg()
        changed[:, channel, volume * 2 * RATE_HZ : (volume + 1) * 2 * RATE_HZ] *= 5
        assert not torch.equal(model(changed), model(eeg()))


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_an_embedding_of_silence_is_finite(embedding):
    model = build("transformer", low_rank=True, embedding=embedding)
    predicted = model(torch.zeros(BATCH, CHANNELS, VOLUMES * 2 * RATE_HZ))
    predicted.sum().backward()
    assert torch.isfinite(predicted).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 30, "num_heads": 4}, "width must be a multiple of num_heads, but got 30 and 4"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), but got 1.0"),
        ({"dropout": -0.1}, r"dropout must lie in \[0, 1\)"),
        ({"embedding": "fourier"}, r"embedding must be one of \['linear', 'log_power'\], but got 'fourier'"),
        ({"activation": "tanhh"}, r"activation must be one of \['elu', .*'relu', .*\], but got 'tanhh'"),
    ],
    ids=str,
)
def test_the_transformer_refuses_what_it_cannot_be_and_lists_the_choices(wrong, message):
    with pytest.raises(ValueError, match=message):
        ARCHITECTURES["transformer"].config(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"loss": "mes"}, r"loss must be one of \[.*'huber', .*'mse'.*\], but got 'mes'"),
        ({"optimizer": "sgd"}, r"optimizer must be one of \[.*'adamw', .*\], but got 'sgd'"),
        ({"schedule": "linear"}, r"schedule must be one of \[.*'cosine', .*\], but got 'linear'"),
        ({"output_rank": -1}, "output_rank must be 0"),
        ({"batch_size": 0}, "batch_size 1 or more"),
    ],
    ids=str,
)
def test_training_refuses_what_it_cannot_do_and_lists_the_choices(wrong, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**wrong)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_unknown_key_is_refused_and_the_known_ones_are_listed(architecture):
    with pytest.raises(ValueError, match=rf"the {architecture} has no \['heads'\]; it has \[.*'learning_rate'"):
        split_configuration(architecture, {"heads": 4})


# Search spaces


def test_every_architecture_has_a_search_space_and_no_search_space_lacks_its_architecture():
    assert set(SEARCH_SPACES) == set(ARCHITECTURES)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_search_space_gives_legal_configurations_only(architecture):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(200):  # every tenth is built, too
        configuration = SEARCH_SPACES[architecture].suggest(study.ask())
        model_config, training_config = split_configuration(architecture, configuration)
        if number % 10 == 0:
            low_rank = bool(training_config.output_rank)
            model = ARCHITECTURES[architecture].build(model_config, shape(low_rank=low_rank))
            assert torch.isfinite(model(eeg())).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_search_space_varies_every_field_and_nothing_else(architecture):
    fields = {
        field.name
        for which in (ARCHITECTURES[architecture].config, TrainingConfig)
        for field in dataclasses.fields(which)
    }
    suggested = set(SEARCH_SPACES[architecture].suggest(optuna.create_study().ask()))
    assert suggested <= fields
    assert fields - suggested <= {"feedforward_ratio"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_search_space_offers_every_activation_loss_optimizer_and_schedule(architecture):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [SEARCH_SPACES[architecture].suggest(study.ask()) for _ in range(100)]
    for key, choices in (
        ("activation", ACTIVATIONS), ("loss", LOSSES), ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES),
    ):  # fmt: skip
        assert {configuration[key] for configuration in drawn} == set(choices)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_default_of_a_search_space_is_what_the_configurations_default_to(architecture):
    configuration = propose([], "random", SEARCH_SPACES[architecture], seed=0, number=0).configuration
    assert split_configuration(architecture, configuration) == split_configuration(architecture, {})
