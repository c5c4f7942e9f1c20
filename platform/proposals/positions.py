"""Proposals without state: CMA-ES, Sobol points and NSGA-II, each worked out anew from the history and two seeds.

Takes what a sampler is shown; gives a position in [0, 1) of every parameter that the method has a say in.  Optuna's own
classes keep their state in the storage's system attributes, in the order in which workers happened to ask; nothing is
kept here, so the order makes no difference.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import cmaes
import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import qmc

from platform.proposals.seen_trials import COST

POPULATION = 16
"""Parents of NSGA-II."""
_CROSSOVER = 0.9
_SIGMA = 1 / 6
_BELOW_ONE = 1 - 2**-53


class Positioned(BaseSampler):
    """Answers with the value at a parameter's position where there is one, else with what another sampler says."""

    def __init__(self, positions: Mapping[str, float], rest: BaseSampler) -> None:
        self._positions = positions
        self._rest = rest

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """Return nothing: every parameter is asked for by itself, conditional ones where they are asked."""
        return {}

    def sample_relative(
        self,
        study: optuna.Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
        search_space: dict[str, BaseDistribution],  # noqa: ARG002
    ) -> dict[str, Any]:
        """Return nothing, as above."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:  # noqa: ANN401 - a parameter's value
        """Return the value of one parameter."""
        if param_name in self._positions:
            return value_at(param_distribution, self._positions[param_name])
        return self._rest.sample_independent(study, trial, param_name, param_distribution)


def value_at(distribution: BaseDistribution, position: float) -> Any:  # noqa: ANN401 - a parameter's value
    """Return a distribution's value at a position in [0, 1): values of equal probability take equal lengths."""
    position = min(max(position, 0.0), _BELOW_ONE)
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(position * len(distribution.choices))]
    low, high = _ends(distribution)
    value = low + position * (high - low)
    value = math.exp(value) if distribution.log else value  # type: ignore[attr-defined]
    return _rounded(distribution, value)


def position_of(distribution: BaseDistribution, value: Any) -> float:  # noqa: ANN401 - a parameter's value
    """Return the position of a value, in the middle of the positions that give it."""
    if isinstance(distribution, CategoricalDistribution):
        return (distribution.to_internal_repr(value) + 0.5) / len(distribution.choices)
    low, high = _ends(distribution)
    at = math.log(value) if distribution.log else float(value)  # type: ignore[attr-defined]
    return (at - low) / (high - low) if high > low else 0.5


def sobol_positions(names: Sequence[str], seed: int, number: int) -> dict[str, float]:
    """Return one point of the study's scrambled Sobol sequence: that of the trial's number."""
    if not names:
        return {}
    sequence = qmc.Sobol(len(names), scramble=True, rng=seed)
    if number:
        sequence.fast_forward(number)
    return dict(zip(names, sequence.random(1)[0].tolist(), strict=True))


def cma_es_positions(seen: Sequence[FrozenTrial], seed: int) -> dict[str, float]:
    """Return a draw of CMA-ES after the told trials, taken in order, one population after the other.

    It has a say in the numbers (not choices) that every told trial has; two at least, else in none.  Trials that were
    proposed before their predecessors were told come from the distribution before, and count all the same.
    """
    told = [trial for trial in seen if trial.state == TrialState.COMPLETE]
    names = _common_numbers(told)
    if len(names) < 2:
        return {}
    found = _cma_es(len(names), seed)
    for first in range(0, len(told) - found.population_size + 1, found.population_size):
        population = told[first : first + found.population_size]
        found.tell([(_point(trial, names), -_score(trial)) for trial in population])
        if found.should_stop():
            found = _cma_es(len(names), seed)
    return dict(zip(names, found.ask().tolist(), strict=True))


def nsga2_positions(seen: Sequence[FrozenTrial], seed: int) -> dict[str, float]:
    """Return a child of two of the best told trials, by score and by cost; nothing before there is a population.

    The parents are those that survive of all told trials (Deb et al. 2002: fronts, then crowding), each chosen by a
    binary tournament; a parameter comes from either parent that has it, and is drawn anew once in a child.
    """
    told = [trial for trial in seen if trial.state == TrialState.COMPLETE]
    if len(told) < POPULATION:
        return {}
    random = np.random.default_rng(seed)
    parents = [told[index] for index in _survivors(np.array([[-_score(t), t.system_attrs[COST]] for t in told]))]
    first, second = (parents[int(random.integers(len(parents), size=2).min())] for _ in range(2))
    if random.random() >= _CROSSOVER:
        second = first
    names = sorted({*first.params, *second.params})
    child = {}
    for name in names:
        of_first, is_new = random.random() < 0.5, random.random() < 1 / len(names)
        parent = first if name in first.params and (of_first or name not in second.params) else second
        if not is_new:
            child[name] = position_of(parent.distributions[name], parent.params[name])
    return child


def _survivors(losses_TK: NDArray[np.float64]) -> list[int]:
    """Return the best ``POPULATION`` rows, best first: by front, and within one the least crowded first."""
    left = list(range(len(losses_TK)))
    chosen: list[int] = []
    while left and len(chosen) < POPULATION:
        rows = losses_TK[left]
        no_worse = (rows[:, None] <= rows[None]).all(axis=2)
        is_better = (rows[:, None] < rows[None]).any(axis=2)
        is_dominated = np.any(no_worse & is_better, axis=0).tolist()
        front = [index for index, dominated in zip(left, is_dominated, strict=True) if not dominated]
        left = [index for index, dominated in zip(left, is_dominated, strict=True) if dominated]
        crowding = _crowding(losses_TK[front])
        chosen += [front[place] for place in np.argsort(-crowding, kind="stable")]
    return chosen[:POPULATION]


def _crowding(losses_TK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the length of each row's free surroundings; infinite at the ends of the front."""
    distances = np.zeros(len(losses_TK))
    for values in losses_TK.T:
        order = np.argsort(values, kind="stable")
        finite = values[order][np.isfinite(values[order])]
        span = finite[-1] - finite[0] if len(finite) else 0.0
        distances[order[[0, -1]]] = math.inf
        if span > 0:
            between = np.nan_to_num(values[order][2:] - values[order][:-2], posinf=span)
            distances[order[1:-1]] += between / span
    return distances


def _cma_es(dimensions: int, seed: int) -> cmaes.CMA:
    bounds = np.array([[0.0, 1.0]] * dimensions)
    return cmaes.CMA(mean=np.full(dimensions, 0.5), sigma=_SIGMA, bounds=bounds, seed=seed % 2**31)


def _common_numbers(told: Sequence[FrozenTrial]) -> list[str]:
    if not told:
        return []
    first = told[0].distributions
    return [
        name
        for name, distribution in sorted(first.items())
        if not isinstance(distribution, CategoricalDistribution)
        and not distribution.single()
        and all(trial.distributions.get(name) == distribution for trial in told)
    ]


def _point(trial: FrozenTrial, names: Sequence[str]) -> NDArray[np.float64]:
    return np.array([position_of(trial.distributions[name], trial.params[name]) for name in names])


def _score(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def _ends(distribution: BaseDistribution) -> tuple[float, float]:
    """Return the ends of a number's range, on its own scale; those of whole steps reach half a step further."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    half = 0.0 if distribution.step is None else distribution.step / 2
    low, high = distribution.low - half, distribution.high + half
    return (math.log(low), math.log(high)) if distribution.log else (low, high)


def _rounded(distribution: BaseDistribution, value: float) -> float:
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.step is not None:
        value = distribution.low + round((value - distribution.low) / distribution.step) * distribution.step
    value = min(max(value, distribution.low), distribution.high)
    return int(value) if isinstance(distribution, IntDistribution) else float(value)
