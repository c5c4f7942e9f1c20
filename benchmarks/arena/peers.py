"""The peers in the arena, each by its library's own classes: a configuration runs on one fold after the other.

Takes a table and a seed; gives rules for the clock.  A peer whose library is not installed is listed, never left out.
"""

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning

from benchmarks.arena.clock import NUM_SLOTS, Job
from benchmarks.arena.rules import feature_names, most_scored
from benchmarks.arena.tables import Rows, ScoreTable

FIRST_FOLDS = 4
HALVING = 2


class Sequential:
    """A rule that runs each trial on all folds in order unless it is stopped; this one draws rows at random.

    Recommends the best mean over the most folds.  No trial starts before a slot is free.
    """

    def __init__(self, table: ScoreTable, seed: int, num_trials: int) -> None:
        self._rows, self._num_trials, self._num_folds = Rows(table), num_trials, table.num_folds
        self._names = feature_names(table)
        self._seed, self._rng = seed, np.random.default_rng(seed)
        self._taken: list[int] = []
        self._scores: list[dict[int, float]] = []
        self._running: list[int] = []

    def next_job(self, in_flight: set[Job]) -> Job | None:
        """Return the next fold of a trial that waits, or the first fold of a new trial."""
        busy = {trial for trial, _ in in_flight}
        waiting = next((trial for trial in self._running if trial not in busy), None)
        if waiting is None:
            if len(self._taken) == self._num_trials or len(self._running) >= NUM_SLOTS:
                return None
            waiting = len(self._taken)
            self._taken.append(self._rows.take(self.suggest(waiting)))
            self._scores.append({})
            self._running.append(waiting)
        return waiting, len(self._scores[waiting])

    def row(self, trial: int) -> int:
        """Return a trial's row in the table."""
        return self._taken[trial]

    def tell(self, job: Job, score: float) -> None:
        """Pass a score on, and end the trial where all folds are done or the peer stops it."""
        trial, fold = job
        self._scores[trial][fold] = score
        is_over = fold + 1 == self._num_folds
        if self.stops(trial, fold, score) or is_over:
            self._running.remove(trial)
            self.end(trial)

    def chosen(self) -> int | None:
        """Return the best mean over the most folds."""
        return most_scored(self._scores)

    def mean(self, trial: int) -> float:
        """Return a trial's mean so far."""
        return sum(self._scores[trial].values()) / len(self._scores[trial])

    def suggest(self, trial: int) -> list[float]:  # noqa: ARG002 - peers override it
        """Return the features of a new trial."""
        return self._rng.random(len(self._names)).tolist()

    def stops(self, trial: int, fold: int, score: float) -> bool:  # noqa: ARG002 - peers override it
        """Tell whether the peer stops a trial after this fold."""
        return False

    def end(self, trial: int) -> None:
        """Tell the peer that a trial has ended."""


class OptunaTpe(Sequential):
    """Optuna's TPE at its defaults on all folds; recommends ``study.best_trial``, the best mean over all folds."""

    def __init__(self, table: ScoreTable, seed: int, num_trials: int) -> None:
        super().__init__(table, seed, num_trials)
        self._study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed), pruner=self._pruner()
        )
        self._asked: list[optuna.Trial] = []

    def _pruner(self) -> optuna.pruners.BasePruner:
        return optuna.pruners.NopPruner()

    def suggest(self, trial: int) -> list[float]:  # noqa: ARG002 - Optuna counts for itself
        """Ask Optuna."""
        asked = self._study.ask()
        self._asked.append(asked)
        return [asked.suggest_float(name, 0.0, 1.0) for name in self._names]

    def end(self, trial: int) -> None:
        """Tell Optuna the mean."""
        self._study.tell(self._asked[trial], self.mean(trial))


class OptunaWilcoxon(OptunaTpe):
    """TPE with ``WilcoxonPruner`` at its defaults, folds as steps; a stopped trial returns its mean, as documented.

    Recommends ``study.best_trial``.
    """

    def _pruner(self) -> optuna.pruners.BasePruner:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return optuna.pruners.WilcoxonPruner()

    def stops(self, trial: int, fold: int, score: float) -> bool:
        """Report the fold and ask the pruner."""
        self._asked[trial].report(score, fold)
        return self._asked[trial].should_prune()

    def chosen(self) -> int | None:
        """Return Optuna's best trial; before one has ended, the best mean over the most folds."""
        try:
            return self._study.best_trial.number
        except ValueError:
            return super().chosen()


class RayAsha(Sequential):
    """Ray Tune's ``AsyncHyperBandScheduler`` and ``OptunaSearch``: folds as time steps, the running mean as metric.

    Grace of 4 folds and a factor of 2 favour it: its defaults (1 and 4) let one subject choose.  Recommends the best
    mean over the most folds, not ``get_best_result``'s last metric of any trial, which favours it, too.
    """

    def __init__(self, table: ScoreTable, seed: int, num_trials: int) -> None:
        from ray.tune.schedulers import AsyncHyperBandScheduler
        from ray.tune.search.optuna import OptunaSearch

        super().__init__(table, seed, num_trials)
        space: dict[str, optuna.distributions.BaseDistribution] = {
            name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in self._names
        }
        self._search = OptunaSearch(space, metric="score", mode="max", seed=seed)
        self._asha: Any = AsyncHyperBandScheduler(
            time_attr="fold", metric="score", mode="max", max_t=table.num_folds,
            grace_period=FIRST_FOLDS, reduction_factor=HALVING,
        )  # fmt: skip

    def suggest(self, trial: int) -> list[float]:
        """Ask OptunaSearch, and add the trial to the scheduler."""
        found: dict[str, Any] = self._search.suggest(str(trial)) or {}
        self._asha.on_trial_add(None, _Named(str(trial)))
        return [found[name] for name in self._names]

    def stops(self, trial: int, fold: int, score: float) -> bool:  # noqa: ARG002 - the mean counts
        """Report the running mean to both."""
        result = self._result(trial)
        self._search.on_trial_result(str(trial), result)
        return self._asha.on_trial_result(None, _Named(str(trial)), result) == "STOP"

    def end(self, trial: int) -> None:
        """Tell the search of the end."""
        self._search.on_trial_complete(str(trial), self._result(trial))

    def _result(self, trial: int) -> dict[str, Any]:
        folds = len(self._scores[trial])
        return {"fold": folds, "score": self.mean(trial), "training_iteration": folds}


class _Named:
    """All that Ray's scheduler reads of a trial."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


class SyneAsha(Sequential):
    """Syne Tune's ``ASHA`` by its scheduler's own methods, folds as time steps, grace 4 and factor 2 as Ray's.

    Recommends the best mean over the most folds.
    """

    def __init__(self, table: ScoreTable, seed: int, num_trials: int) -> None:
        from syne_tune.config_space import uniform  # type: ignore[import-not-found,unused-ignore]

        super().__init__(table, seed, num_trials)
        self._scheduler = self._made({name: uniform(0.0, 1.0) for name in self._names}, seed)
        self._asked: list[Any] = []

    def _made(self, space: dict[str, Any], seed: int) -> Any:  # noqa: ANN401 - a library without type hints
        from syne_tune.optimizer.baselines import ASHA  # type: ignore[import-not-found,unused-ignore]

        return ASHA(
            space, "score", time_attr="fold", max_t=self._num_folds, do_minimize=False, random_seed=seed,
            grace_period=FIRST_FOLDS, reduction_factor=HALVING,
        )  # fmt: skip

    def suggest(self, trial: int) -> list[float]:
        """Ask the scheduler."""
        import datetime

        from syne_tune.backend.trial_status import Trial  # type: ignore[import-not-found,unused-ignore]

        config = self._scheduler.suggest().config
        self._asked.append(Trial(trial_id=trial, config=config, creation_time=datetime.datetime.now(datetime.UTC)))
        self._scheduler.on_trial_add(self._asked[trial])
        return [config[name] for name in self._names]

    def stops(self, trial: int, fold: int, score: float) -> bool:  # noqa: ARG002 - the mean counts
        """Report the running mean."""
        decision = self._scheduler.on_trial_result(self._asked[trial], {"fold": fold + 1, "score": self.mean(trial)})
        return decision == "STOP"


class SyneCqr(SyneAsha):
    """Syne Tune's ``CQR`` on all folds, told each trial's mean; recommends the best mean over all folds."""

    def _made(self, space: dict[str, Any], seed: int) -> Any:  # noqa: ANN401 - a library without type hints
        from syne_tune.optimizer.baselines import CQR  # type: ignore[import-not-found,unused-ignore]

        return CQR(space, "score", do_minimize=False, random_seed=seed)

    def stops(self, trial: int, fold: int, score: float) -> bool:  # noqa: ARG002 - all folds
        """Stop nothing."""
        return False

    def end(self, trial: int) -> None:
        """Tell the mean."""
        self._scheduler.on_trial_complete(self._asked[trial], {"score": self.mean(trial)})


PEERS: dict[str, tuple[tuple[str, ...], Callable[[ScoreTable, int, int], Sequential]]] = {
    "random, all folds": ((), Sequential),
    "Optuna TPE, all folds": ((), OptunaTpe),
    "Optuna TPE + Wilcoxon": ((), OptunaWilcoxon),
    "Ray ASHA + OptunaSearch": ((), RayAsha),
    "Syne Tune ASHA": (("syne_tune",), SyneAsha),
    "Syne Tune CQR, all folds": (("syne_tune", "huggingface_hub"), SyneCqr),
}
"""By name: the optional modules that it needs (dependency group ``arena``), and the rule."""
SLOW = {"Syne Tune CQR, all folds"}
"""Peers that ``--quick`` leaves to the whole run, and says so."""
NOT_PLAYED = {"SMAC3 intensifier with instances": "not written yet"}


def missing(name: str) -> list[str]:
    """Return the modules that a peer needs and that are not installed."""
    return [module for module in PEERS[name][0] if importlib.util.find_spec(module) is None]
