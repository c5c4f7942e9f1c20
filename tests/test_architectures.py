"""The architectures: one contract for each, whatever its configuration."""

import dataclasses
import inspect
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from model_shapes import BATCH, CHANNELS, GRID, PATTERNS, RATE_HZ, VOLUMES, VOXELS, build, eeg, shape
from torch import nn
from torch.nn import functional

from platform.data import band_power
from platform.models import ARCHITECTURES, Volumes
from platform.models import band_power as band_power_model
from platform.models.attention import Attention
from platform.models.blocks import NORMS, StochasticDepth
from platform.models.convolutional import MIXINGS, POOLINGS, Convolution
from platform.models.embedding import EMBEDDINGS
from platform.models.encoding import ENCODINGS, TIME_ENCODINGS
from platform.models.reading import laplacian
from platform.models.transformer import DECODINGS, TOKEN_NORMS, TOKENS
from platform.training.job import split_configuration

WINDOW_SAMPLES, VOLUME_SAMPLES = VOLUMES * 2 * RATE_HZ, 2 * RATE_HZ

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "fully_connected": [
        {},
        {"learned_reading": True},
        *({"embedding": name} for name in EMBEDDINGS if name != "log_power"),
        *({"norm": name, "stochastic_depth": 0.2} for name in NORMS),
        {"num_layers": 0},
        {"bottleneck": 5},
    ],
    "convolutional": [
        {},
        *(
            {"mixing": mixing, "pooling": pooling, "num_convolutions": number}
            for mixing in MIXINGS
            for pooling in POOLINGS
            for number in (1, 3)
        ),
        *({"norm": name, "num_convolutions": 2, "stochastic_depth": 0.2} for name in NORMS),
        {"norm": "batch", "mixing": "shared"},
        {"num_layers": 0},
        {"bottleneck": 5},
    ],
    "transformer": [
        {},
        {"learned_reading": True, "lags": "free", "level": "training"},
        *({"embedding": name, "tokens": tokens} for name in EMBEDDINGS for tokens in TOKENS),
        *({"encoding": encoding, "tokens": tokens} for encoding in ENCODINGS for tokens in ("channels", "both")),
        *({"decoding": decoding, "num_decoder_layers": 2, "stochastic_depth": 0.2} for decoding in DECODINGS),
        *({"norm": name} for name in TOKEN_NORMS if name != "layer"),
    ],
    "band_power": [{}, *({"norm": name, "stochastic_depth": 0.2} for name in NORMS), {"num_layers": 0}],
    "shallow_convnet": [{}, {"num_filters": 8, "filter_seconds": 0.4, "pool_seconds": 4.0}],
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Use one thread: for models this small a second one only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


EVERY_MODEL = [
    pytest.param(name, low_rank, variant, id=f"{name}-{'low_rank' if low_rank else 'voxels'}-{variant}")
    for name in ARCHITECTURES
    for low_rank in (False, True)
    for variant in VARIANTS[name]
]
each_model = pytest.mark.parametrize(("architecture", "low_rank", "configuration"), EVERY_MODEL)


# One contract for all


@each_model
def test_a_model_predicts_all_voxels_or_all_weights_of_the_basis(architecture, low_rank, configuration):
    model = build(architecture, low_rank=low_rank, **configuration).eval()
    assert model(eeg()).shape == (BATCH, PATTERNS if low_rank else VOXELS)
    volumes = Volumes(model, shape(low_rank=low_rank).basis)
    assert volumes(eeg()).shape == (BATCH, VOXELS)


@each_model
def test_gradients_reach_every_parameter(architecture, low_rank, configuration):
    model = build(architecture, low_rank=low_rank, **configuration)
    model(eeg()).square().mean().backward()
    dead = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        if parameter.grad is None or not parameter.grad.any() or not torch.isfinite(parameter.grad).all()
    ]
    assert not dead


@each_model
def test_a_seed_decides_the_weights_and_dropout(architecture, low_rank, configuration):
    outputs = [build(architecture, low_rank=low_rank, seed=seed, **configuration)(eeg()) for seed in (1, 1, 2)]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)
    assert not torch.allclose(outputs[0], outputs[2])


@each_model
def test_a_window_is_predicted_the_same_alone_and_among_others(architecture, low_rank, configuration):
    model = build(architecture, low_rank=low_rank, **configuration)
    model(eeg(seed=1))  # where a norm remembers batches, it has seen one
    model.eval()
    torch.testing.assert_close(model(eeg())[1:2], model(eeg()[1:2]), rtol=1e-4, atol=1e-5)


@each_model
def test_every_channel_and_every_part_of_the_window_matters(architecture, low_rank, configuration):
    model = build(architecture, low_rank=low_rank, **configuration).eval()
    for channel, volume in ((0, 0), (CHANNELS - 1, VOLUMES - 1)):
        changed = eeg()
        changed[:, channel, volume * VOLUME_SAMPLES : (volume + 1) * VOLUME_SAMPLES] *= 5
        assert not torch.equal(model(changed), model(eeg()))


@each_model
def test_silence_is_finite_and_so_is_what_is_learned_from_it(architecture, low_rank, configuration):
    model = build(architecture, low_rank=low_rank, **configuration)
    predicted = model(torch.zeros(BATCH, CHANNELS, WINDOW_SAMPLES))
    predicted.sum().backward()
    assert torch.isfinite(predicted).all()
    learned = (parameter for parameter in model.parameters() if parameter.requires_grad)
    assert all(torch.isfinite(parameter.grad).all() for parameter in learned)


@each_model
def test_a_batch_may_hold_one_window_or_none(architecture, low_rank, configuration):
    model = build(architecture, low_rank=low_rank, **configuration)
    for num_windows in (1, 0):
        predicted = model(eeg(num_windows=num_windows))
        predicted.sum().backward()
        assert predicted.shape == (num_windows, PATTERNS if low_rank else VOXELS)
        assert torch.isfinite(predicted).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_is_given_eeg_and_nothing_else(architecture):
    model = build(architecture, low_rank=False)
    innermost = model[-1] if isinstance(model, nn.Sequential) else model
    assert len(inspect.signature(innermost.forward).parameters) == 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_default_model_learns_a_toy_problem(architecture):
    model = build(architecture, low_rank=True, dropout=0.0)
    loud_B = torch.linspace(-1, 1, 16)
    windows = eeg(num_windows=16) * torch.exp(loud_B)[:, None, None]
    targets = loud_B[:, None] * torch.ones(PATTERNS)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        loss = (model(windows) - targets).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.05 * targets.square().mean()


def fields_of(architecture):
    return {field.name for field in dataclasses.fields(ARCHITECTURES[architecture].config)}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_shares_of_dropped_units_and_layers_are_refused_outside_0_to_1(architecture):
    config = ARCHITECTURES[architecture].config
    for name in {"dropout", "stochastic_depth"} & fields_of(architecture):
        for share in (-0.1, 1.0):
            with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 1\), but got {share}"):
                config(**{name: share})


WRONG_CHOICES = [
    ("fully_connected", "embedding", EMBEDDINGS),
    ("fully_connected", "norm", NORMS),
    ("convolutional", "mixing", MIXINGS),
    ("convolutional", "pooling", POOLINGS),
    ("convolutional", "norm", NORMS),
    ("transformer", "embedding", EMBEDDINGS),
    ("transformer", "tokens", TOKENS),
    ("transformer", "encoding", ENCODINGS),
    ("transformer", "decoding", DECODINGS),
    ("transformer", "norm", TOKEN_NORMS),
    ("band_power", "norm", NORMS),
]


@pytest.mark.parametrize(("architecture", "name", "choices"), WRONG_CHOICES)
def test_an_unknown_choice_is_refused_and_the_known_ones_are_listed(architecture, name, choices):
    with pytest.raises(ValueError, match="fourier") as refused:
        ARCHITECTURES[architecture].config(**{name: "fourier"})
    assert str(refused.value) == f"{name} must be one of {sorted(choices)}, but got 'fourier'"


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if "activation" in fields_of(name)])
def test_an_unknown_activation_is_refused(architecture):
    with pytest.raises(ValueError, match=r"activation must be one of \['elu', .*'relu', .*\], but got 'tanhh'"):
        ARCHITECTURES[architecture].config(activation="tanhh")


@pytest.mark.parametrize(
    ("architecture", "wrong", "message"),
    [
        ("transformer", {"width": 30, "num_heads": 4}, "width must be a multiple of num_heads, but got 30 and 4"),
        ("transformer", {"num_heads": 0}, "width must be a multiple of num_heads, but got 64 and 0"),
        ("transformer", {"num_decoder_layers": 0}, "num_decoder_layers must be 1 or more, but got 0"),
        ("fully_connected", {"embedding_width": 0}, "embedding_width must be 1 or more, but got 0"),
        ("fully_connected", {"num_layers": -1}, "num_layers must be 0 or more, but got -1"),
        ("convolutional", {"num_convolutions": 0}, "num_convolutions must be 1 or more, but got 0"),
        ("convolutional", {"kernel_seconds": 0.0}, "kernel_seconds must lie above 0 and not above 1, but got 0.0"),
        ("band_power", {"width": 0}, "width must be 1 or more, but got 0"),
    ],
    ids=str,
)
def test_an_architecture_refuses_what_it_cannot_be(architecture, wrong, message):
    with pytest.raises(ValueError, match=message):
        ARCHITECTURES[architecture].config(**wrong)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_unknown_key_is_refused_and_the_known_ones_are_listed(architecture):
    with pytest.raises(ValueError, match=rf"the {architecture} has no \['heads'\]; it has \[.*'learning_rate'"):
        split_configuration(architecture, {"heads": 4})


# Parts


@pytest.mark.parametrize("norm", sorted(set(NORMS) - {"none"}))
def test_a_norm_takes_level_and_scale_away(norm):
    vectors = 5 + 3 * torch.randn(40, 7, 16, generator=torch.Generator().manual_seed(0))
    normed = NORMS[norm](16)(vectors)
    torch.testing.assert_close(normed, NORMS[norm](16)(2 * vectors + 1), rtol=1e-3, atol=1e-3)
    assert normed.mean().abs() < 1e-3
    assert (normed.std() - 1).abs() < 0.05


def test_stochastic_depth_drops_whole_windows_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = StochasticDepth(0.25)
    dropped = drop(torch.ones(4000, 2, 3))
    assert {tuple(window.unique().tolist()) for window in dropped} == {(0.0,), (torch.tensor(1 / 0.75).item(),)}
    assert (dropped.mean() - 1).abs() < 0.05
    assert torch.equal(drop.eval()(torch.ones(5, 2)), torch.ones(5, 2))


def test_a_convolution_over_pieces_is_torchs_convolution():
    convolution = Convolution(3, 5, taps=4, stride=2)
    steps_BTC = torch.randn(2, 21, 3)
    weight_FCT = convolution.filters.weight.unflatten(1, (4, 3)).transpose(1, 2)
    expected = nn.functional.conv1d(steps_BTC.transpose(1, 2), weight_FCT, convolution.filters.bias, stride=2)
    torch.testing.assert_close(convolution(steps_BTC), expected.transpose(1, 2))


# The transformer


def slices_of(predicted_BV):
    """Return the predicted voxels of each slice."""
    slice_of_voxel = shape(low_rank=False).voxel_indices[:, 0]
    return [predicted_BV[:, slice_of_voxel == number] for number in range(GRID[0])]


@pytest.mark.parametrize("changed", range(GRID[0]))
def test_an_autoregressive_decoder_sees_only_the_slices_before(changed):
    model = build("transformer", low_rank=False, decoding="autoregressive", num_decoder_layers=2).eval()
    before = slices_of(model(eeg()))
    with torch.no_grad():
        model.decoder.slice_queries[changed] += 1
    after = slices_of(model(eeg()))
    assert [not torch.equal(*both) for both in zip(before, after, strict=True)] == [
        number >= changed for number in range(GRID[0])
    ]


def test_attention_with_dropout_is_torchs_on_a_cpu(monkeypatch):
    attention = Attention(width=12, num_heads=3, dropout=0.3)
    for parameter in attention.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    asking, asked = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    torch.manual_seed(1)
    read = attention(asking, attention.keys_values(asked))
    torch.manual_seed(1)
    monkeypatch.setattr(attention, "_read", partial(functional.scaled_dot_product_attention, dropout_p=0.3))
    torch.testing.assert_close(read, attention(asking, attention.keys_values(asked)))


def test_an_autoregressive_decoder_goes_on_from_what_it_predicted_itself():
    model = build("transformer", low_rank=False, decoding="autoregressive").eval()
    tokens_BTD = torch.randn(BATCH, CHANNELS, 64, generator=torch.Generator().manual_seed(0))
    expected_BLD = torch.zeros(BATCH, 0, 64)
    inputs_BLD = torch.zeros(BATCH, 0, 64)
    (layer, eeg_keys_values), *_ = model.decoder.layers_and_eeg(tokens_BTD)
    for query_D in model.decoder.slice_queries:  # anew from the first slice for each slice, without keeping anything
        previous = model.decoder.from_previous(expected_BLD[:, -1:]) if expected_BLD.shape[1] else torch.zeros(1)
        inputs_BLD = torch.cat([inputs_BLD, (query_D + previous).expand(BATCH, 1, 64)], dim=1)
        kept = None
        for number in range(inputs_BLD.shape[1]):
            slice_B1D, kept = layer(inputs_BLD[:, number : number + 1], eeg_keys_values, kept)
        expected_BLD = torch.cat([expected_BLD, model.decoder.norm(slice_B1D)], dim=1)
    torch.testing.assert_close(model.decoder(tokens_BTD), expected_BLD)


def test_a_parallel_decoder_lets_every_slice_see_every_other():
    model = build("transformer", low_rank=False, num_decoder_layers=1).eval()
    before = slices_of(model(eeg()))
    with torch.no_grad():
        model.decoder.slice_queries[-1] += torch.linspace(-1, 1, 64)
    assert not any(torch.equal(*both) for both in zip(before, slices_of(model(eeg())), strict=True))


def test_electrodes_that_move_change_the_prediction_only_where_it_encodes_them():
    moved = dataclasses.replace(shape(low_rank=True), channel_positions=torch.full((CHANNELS, 3), 0.07))
    which = ARCHITECTURES["transformer"]
    for encoding, is_changed in (("electrode", True), ("learned", False), ("sinusoidal", False)):
        predicted = []
        for one in (shape(low_rank=True), moved):
            torch.manual_seed(0)
            config = which.config(encoding=encoding, montage="recorded")
            predicted.append(which.build(config, one).eval()(eeg()))
        assert torch.equal(*predicted) != is_changed


def test_times_are_told_apart_before_anything_is_learned():
    for name in ENCODINGS:
        encoding = TIME_ENCODINGS[name](VOLUMES, 64, None)()
        neighbours = nn.functional.cosine_similarity(encoding[:-1], encoding[1:], dim=1)
        assert encoding.norm(dim=1).min() > 4
        assert (neighbours < 0.99).all()


def test_without_positions_the_electrode_encoding_says_what_to_choose():
    which, nowhere = ARCHITECTURES["transformer"], dataclasses.replace(shape(low_rank=True), channel_positions=None)
    with pytest.raises(ValueError, match="needs the position of every channel; choose encoding learned or sinusoidal"):
        which.build(which.config(encoding="electrode"), nowhere)


# The convolutional network


def test_refined_volumes_are_those_of_the_grid_and_gradients_reach_the_refinement():
    model = build("convolutional", low_rank=False, refinement_filters=2)
    predicted = model(eeg())
    predicted.square().mean().backward()
    assert predicted.shape == (BATCH, VOXELS)
    assert all(parameter.grad.any() for parameter in model.parameters())


def test_a_refined_voxel_depends_on_its_neighbours_within_two_steps_and_on_no_other():
    voxel_indices = torch.cartesian_prod(torch.arange(7), torch.arange(2), torch.arange(2))
    small = dataclasses.replace(shape(low_rank=False), grid_shape=(7, 2, 2), voxel_indices=voxel_indices)
    which = ARCHITECTURES["convolutional"]
    _, refine = which.build(which.config(refinement_filters=2), small).head
    volume = torch.zeros(1, len(voxel_indices))
    changed = volume.clone()
    changed[0, 0] = 1
    differs = (refine(changed) != refine(volume))[0]
    assert torch.equal(differs, voxel_indices[:, 0] <= 2)


def test_refinement_of_a_basis_is_refused():
    with pytest.raises(ValueError, match=r"refinement_filters must be 0 where a basis is predicted .* but got 4"):
        build("convolutional", low_rank=True, refinement_filters=4)


# Band power


def noisy_run(num_volumes: int, rate_hz: int, samples_per_volume: int) -> np.ndarray:
    """Return EEG of a run whose rhythms wax and wane."""
    rng = np.random.default_rng(0)
    loud_R = np.exp(rng.standard_normal(num_volumes))
    noise = rng.standard_normal((CHANNELS, num_volumes * samples_per_volume))
    return (noise * np.repeat(loud_R, samples_per_volume)).astype(np.float16)


@pytest.mark.parametrize(("rate_hz", "repetition_time_s", "window"), [(125, 2.0, 15), (125, 2.16, 14), (250, 2.0, 15)])
def test_features_are_the_bands_and_lags_of_the_whole_run_up_to_a_constant(rate_hz, repetition_time_s, window):
    num_volumes, samples_per_volume = 24, round(rate_hz * repetition_time_s)
    eeg_CS = noisy_run(num_volumes, rate_hz, samples_per_volume)
    small = dataclasses.replace(
        shape(low_rank=True), num_samples=window * samples_per_volume, num_volumes=window, rate_hz=rate_hz
    )
    starts = [volume * samples_per_volume for volume in range(num_volumes - window)]
    windows = np.stack([eeg_CS[:, start : start + window * samples_per_volume] for start in starts])
    features = ARCHITECTURES["band_power"].features(small)(torch.from_numpy(windows).float()).numpy()
    sharper_CS = laplacian(CHANNELS, small.channel_positions).numpy() @ eeg_CS.astype(np.float32)
    both_CS = np.concatenate([eeg_CS.astype(np.float32), sharper_CS])
    whole = band_power.lagged_band_power(both_CS, rate_hz, num_volumes, repetition_time_s)[window:]
    difference = features - whole
    np.testing.assert_allclose(difference, np.broadcast_to(difference[0], difference.shape), atol=2e-4)
    assert features.shape == whole.shape
    assert features.std(axis=0).min() > 0.05


def test_features_have_no_parameters_and_no_state_to_store():
    features = ARCHITECTURES["band_power"].features(shape(low_rank=True))
    assert not list(features.parameters())
    assert not features.state_dict()


def test_features_have_the_constants_of_band_power():
    assert tuple(band_power.BANDS_HZ.values()) == band_power_model.BANDS_HZ
    for name in ("PEAKS_SECONDS", "PIECE_SECONDS", "RESPONSE_SECONDS"):
        assert getattr(band_power, name) == getattr(band_power_model, name)


def test_band_power_of_slow_eeg_is_refused():
    slow = dataclasses.replace(shape(low_rank=True), rate_hz=50, num_samples=VOLUMES * 100)
    with pytest.raises(ValueError, match="band power up to 45 Hz needs EEG of 90 Hz or more, but got 50 Hz"):
        ARCHITECTURES["band_power"].features(slow)


def test_volumes_put_the_features_before_the_model():
    small = shape(low_rank=True)
    which = ARCHITECTURES["band_power"]
    features, model = which.features(small), which.build(which.config(), small).eval()
    volumes = Volumes(model, small.basis, features).eval()
    torch.testing.assert_close(volumes(eeg()), model(features(eeg())) @ small.basis)
