"""Propose the next trial: a pure function of the trials told so far, the study's seed and the trial's number.

Takes told and running trials of Optuna; gives parameters and the configuration made of them.  A sampler of its own
for each trial, seeded by its number, makes an interrupted study propose what an undisturbed one does.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from platform.proposals.positions import Positioned, cma_es_positions, nsga2_positions, sobol_positions
from platform.proposals.seen_trials import as_seen_by
from search_spaces import SearchSpace

NUM_STARTUP_TRIALS = 8
_SPACE_SAMPLES = 64


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a sampler is made for: one trial.

    Attributes:
        seen: the history, as this sampler is shown it.
        space: what the trial is drawn from.
        study_seed: the study's seed.
        trial_seed: drawn from it and the trial's number.
        number: the trial's number.
    """

    seen: Sequence[FrozenTrial]
    space: SearchSpace
    study_seed: int
    trial_seed: int
    number: int


def _tpe(question: Question) -> BaseSampler:
    with warnings.catch_warnings():  # what Optuna calls experimental here has been in use for years
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(
            seed=question.trial_seed,
            n_startup_trials=NUM_STARTUP_TRIALS,
            multivariate=True,
            group=True,
            constant_liar=True,
        )


def _gp(question: Question) -> BaseSampler:
    return GPSampler(
        seed=question.trial_seed,
        independent_sampler=_one_by_one(question),
        n_startup_trials=NUM_STARTUP_TRIALS,
        warn_independent_sampling=False,
    )


def _cma_es(question: Question) -> BaseSampler:
    return Positioned(cma_es_positions(question.seen, question.trial_seed), _one_by_one(question))


def _qmc(question: Question) -> BaseSampler:
    names = sorted(distributions_of(question.space))
    positions = sobol_positions(names, question.study_seed, question.number)
    return Positioned(positions, RandomSampler(seed=question.trial_seed))


def _random(question: Question) -> BaseSampler:
    return RandomSampler(seed=question.trial_seed)


def _nsga2(question: Question) -> BaseSampler:
    positions = nsga2_positions(question.seen, question.trial_seed)
    return Positioned(positions, RandomSampler(seed=question.trial_seed))


def _one_by_one(question: Question) -> BaseSampler:
    """Return a TPE for the parameters that a method of joint samples has no say in: choices or conditional ones."""
    return TPESampler(seed=question.trial_seed, n_startup_trials=NUM_STARTUP_TRIALS, multivariate=False)


SAMPLERS: dict[str, Callable[[Question], BaseSampler]] = {
    "tpe": _tpe,
    "gp": _gp,
    "cma-es": _cma_es,
    "qmc": _qmc,
    "random": _random,
    "nsga2": _nsga2,
}


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """One trial's parameters with their distributions, and the configuration that they make."""

    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]
    configuration: dict[str, Any]


def propose(history: Sequence[FrozenTrial], sampler: str, space: SearchSpace, seed: int, number: int) -> Proposal:
    """Return what a sampler proposes as trial ``number`` of a study after this history (higher scores are better).

    The first trials are the search space's presets, whose configurations are no parameters of any sampler; the next one
    is its default; then come the parameters that it starts from, if there are any.
    """
    if number < len(space.presets):
        return Proposal(params={}, distributions={}, configuration=dict(space.presets[number]))
    trial_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    seen = as_seen_by(sampler, history)
    question = Question(seen=seen, space=space, study_seed=seed, trial_seed=trial_seed, number=number)
    study = study_in_memory(SAMPLERS[sampler](question))
    study.add_trials(seen)
    first = [space.default, *space.starts]
    if number - len(space.presets) < len(first):
        study.enqueue_trial(first[number - len(space.presets)])
    with _quiet(optuna.logging.ERROR):  # GP warns of a package without which it is a little slower
        trial = study.ask()
        configuration = space.suggest(trial)
    return Proposal(params=trial.params, distributions=trial.distributions, configuration=configuration)


def space_digest(search_space: SearchSpace) -> str:
    """Return a digest of a search space's default, presets, parameters and distributions, conditional ones included.

    Of a user's own module the whole text counts: what it makes of its parameters is seen nowhere else.
    """
    space: dict[str, Any] = {"default": search_space.default}
    if search_space.presets:
        space["(presets)"] = search_space.presets
    if search_space.starts:
        space["(starts)"] = search_space.starts
    if search_space.source:
        space["(source)"] = search_space.source
    space |= {name: distribution_to_json(found) for name, found in distributions_of(search_space).items()}
    return hashlib.sha256(json.dumps(space, sort_keys=True).encode()).hexdigest()


def distributions_of(search_space: SearchSpace) -> dict[str, BaseDistribution]:
    """Return the distribution of every parameter that a search space asks for, conditional ones included."""
    study = study_in_memory(RandomSampler(seed=0))
    found: dict[str, BaseDistribution] = {}
    for _ in range(_SPACE_SAMPLES):
        trial = study.ask()
        search_space.suggest(trial)
        found |= trial.distributions
    return found


def study_in_memory(sampler: BaseSampler) -> optuna.Study:
    """Return a study that nothing keeps; Optuna says nothing of it."""
    with _quiet(optuna.logging.WARNING):
        return optuna.create_study(sampler=sampler, direction="maximize")


@contextmanager
def _quiet(level: int) -> Iterator[None]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(level)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
