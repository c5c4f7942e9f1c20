"""The search spaces: only legal configurations, and every choice there is."""

import dataclasses
from typing import Any

import optuna
import pytest
import torch
from model_shapes import build, eeg

from platform.choices.activations import ACTIVATIONS
from platform.choices.losses import LOSSES
from platform.choices.optimizers import OPTIMIZERS
from platform.choices.schedules import SCHEDULES
from platform.models import ADAPTERS, ARCHITECTURES
from platform.models.convolutional import MIXINGS, POOLINGS
from platform.models.embedding import EMBEDDINGS
from platform.models.encoding import ENCODINGS
from platform.models.reading import LAGS, LEVELS, MONTAGES
from platform.models.transformer import DECODINGS, TOKENS
from platform.proposals.samplers import propose
from platform.training.config import TrainingConfig
from platform.training.job import split_configuration
from search_spaces import SEARCH_SPACES

NUM_DRAWN, BUILT_EVERY = 1000, 50
NOT_SEARCHED = {"feedforward_ratio", "bottleneck", "refinement_filters", "accumulation", "precision"}
READING = {"montage": MONTAGES, "lags": LAGS, "level": LEVELS}
OFFERED_WHOLE: dict[str, dict[str, Any]] = {
    "fully_connected": {"embedding": EMBEDDINGS, **READING},
    "convolutional": {"mixing": MIXINGS, "pooling": POOLINGS, **READING},
    "transformer": {
        "embedding": EMBEDDINGS,
        "tokens": TOKENS,
        "encoding": ENCODINGS,
        "decoding": DECODINGS,
        **READING,
    },
    "band_power": {},
    "shallow_convnet": {},
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Use one thread: for models this small a second one only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[dict[str, Any]]]:
    """Return random configurations of every search space."""
    configurations = {}
    for architecture, space in SEARCH_SPACES.items():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        configurations[architecture] = [space.suggest(study.ask()) for _ in range(NUM_DRAWN)]
    return configurations


def test_every_architecture_has_a_search_space_and_no_search_space_lacks_its_architecture():
    assert set(SEARCH_SPACES) == {*ARCHITECTURES, *ADAPTERS}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_search_space_gives_legal_configurations_only(architecture, drawn):
    for number, configuration in enumerate(drawn[architecture]):
        model_config, training_config = split_configuration(architecture, configuration)
        if number % BUILT_EVERY == 0:
            low_rank = bool(training_config.output_rank)
            model = build(architecture, low_rank=low_rank, **dataclasses.asdict(model_config))
            assert torch.isfinite(model(eeg())).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_search_space_varies_every_field_and_nothing_else(architecture, drawn):
    fields = {
        field.name
        for which in (ARCHITECTURES[architecture].config, TrainingConfig)
        for field in dataclasses.fields(which)
    }
    values = {name: {configuration.get(name) for configuration in drawn[architecture]} - {None} for name in fields}
    assert {name for configuration in drawn[architecture] for name in configuration} <= fields
    assert {name for name in fields if len(values[name]) < 2} <= NOT_SEARCHED


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_search_space_offers_every_choice(architecture, drawn):
    offered = {
        "activation": ACTIVATIONS,
        "loss": LOSSES,
        "optimizer": OPTIMIZERS,
        "schedule": SCHEDULES,
        **OFFERED_WHOLE[architecture],
    }
    if "activation" not in {field.name for field in dataclasses.fields(ARCHITECTURES[architecture].config)}:
        del offered["activation"]
    for key, choices in offered.items():
        assert {configuration.get(key) for configuration in drawn[architecture]} - {None} == set(choices)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_search_space_can_suggest_its_own_first_trial(architecture):
    parameters = SEARCH_SPACES[architecture].default
    trial = optuna.trial.FixedTrial(parameters)
    SEARCH_SPACES[architecture].suggest(trial)
    assert trial.params == parameters


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_default_of_a_search_space_is_what_the_configurations_default_to(architecture):
    configuration = propose([], "random", SEARCH_SPACES[architecture], seed=0, number=0).configuration
    assert split_configuration(architecture, configuration) == split_configuration(architecture, {})


def test_electrode_positions_are_suggested_only_where_tokens_have_them(drawn):
    together = {(configuration["tokens"], configuration["encoding"]) for configuration in drawn["transformer"]}
    assert together == {(tokens, encoding) for tokens in TOKENS for encoding in ENCODINGS} - {("patches", "electrode")}


@pytest.mark.parametrize("architecture", ["fully_connected", "band_power"])
def test_what_only_layers_have_is_asked_only_where_there_are_layers(architecture, drawn):
    for configuration in drawn[architecture]:
        assert (
            ("activation" in configuration)
            == ("stochastic_depth" in configuration)
            == (configuration["num_layers"] > 0)
        )
