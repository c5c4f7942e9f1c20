"""Propose the next trial: a pure function of the trials told so far, the study's seed and the trial's number.

Takes told and running trials of Optuna; gives parameters and the configuration made of them.  A sampler of its own
for each trial, seeded by its number, makes an interrupted study propose what an undisturbed one does.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from search_spaces import SearchSpace

NUM_STARTUP_TRIALS = 8
_SPACE_SAMPLES = 64


def _tpe(seed: int) -> BaseSampler:
    with warnings.catch_warnings():  # what Optuna calls experimental here has been in use for years
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(
            seed=seed, n_startup_trials=NUM_STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True
        )


def _random(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {"tpe": _tpe, "random": _random}


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """One trial's parameters with their distributions, and the configuration that they make."""

    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]
    configuration: dict[str, Any]


def propose(history: Sequence[FrozenTrial], sampler: str, space: SearchSpace, seed: int, number: int) -> Proposal:
    """Return what a sampler proposes as trial ``number`` of a study after this history (higher scores are better).

    The first trials are the search space's presets, whose configurations are no parameters of any sampler; the next one
    is its default.
    """
    if number < len(space.presets):
        return Proposal(params={}, distributions={}, configuration=dict(space.presets[number]))
    trial_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    study = study_in_memory(SAMPLERS[sampler](trial_seed))
    study.add_trials(history)
    if number == len(space.presets):
        study.enqueue_trial(space.default)
    trial = study.ask()
    configuration = space.suggest(trial)
    return Proposal(params=trial.params, distributions=trial.distributions, configuration=configuration)


def space_digest(search_space: SearchSpace) -> str:
    """Return a digest of a search space's default, presets, parameters and distributions, conditional ones included.

    Of a user's own module the whole text counts: what it makes of its parameters is seen nowhere else.
    """
    study = study_in_memory(RandomSampler(seed=0))
    space: dict[str, Any] = {"default": search_space.default}
    if search_space.presets:
        space["(presets)"] = search_space.presets
    if search_space.source:
        space["(source)"] = search_space.source
    for _ in range(_SPACE_SAMPLES):
        trial = study.ask()
        search_space.suggest(trial)
        space |= {name: distribution_to_json(found) for name, found in trial.distributions.items()}
    return hashlib.sha256(json.dumps(space, sort_keys=True).encode()).hexdigest()


def study_in_memory(sampler: BaseSampler) -> optuna.Study:
    """Return a study that nothing keeps; Optuna says nothing of it."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(sampler=sampler, direction="maximize")
    finally:
        optuna.logging.set_verbosity(verbosity)
