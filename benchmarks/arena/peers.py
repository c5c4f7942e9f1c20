"""The peers in the arena, each by its library's own classes.

Takes a table and a seed; gives rules for the clock.  A peer whose library is not installed is listed, never left out.
"""

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning

from benchmarks.arena.clock import Rule
from benchmarks.arena.optional_peers import SmacIntensifier, SyneAsha, SyneCqr
from benchmarks.arena.sequential import FIRST_FOLDS, HALVING, Sequential
from benchmarks.arena.tables import ScoreTable


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


PEERS: dict[str, tuple[tuple[str, ...], Callable[[ScoreTable, int, int], Rule]]] = {
    "random, all folds": ((), Sequential),
    "Optuna TPE, all folds": ((), OptunaTpe),
    "Optuna TPE + Wilcoxon": ((), OptunaWilcoxon),
    "Ray ASHA + OptunaSearch": ((), RayAsha),
    "Syne Tune ASHA": (("syne_tune",), SyneAsha),
    "SMAC3 intensifier": (("smac",), SmacIntensifier),
    "Syne Tune CQR, all folds": (("syne_tune", "huggingface_hub"), SyneCqr),
}
"""By name: the optional modules that it needs (dependency group ``arena``), and the rule."""
SLOW = {"Syne Tune CQR, all folds"}
"""Peers that take minutes a table: ``--quick`` leaves them out and says so, and they may be played on fewer tables."""


def missing(name: str) -> list[str]:
    """Return the modules that a peer needs and that are not installed."""
    return [module for module in PEERS[name][0] if importlib.util.find_spec(module) is None]
