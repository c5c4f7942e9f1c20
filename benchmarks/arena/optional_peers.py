"""Peers whose libraries are in the dependency group ``arena``: Syne Tune's ASHA and CQR, SMAC3's intensifier.

Takes a table and a seed; gives rules for the clock.
"""

import datetime
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.arena.clock import Job
from benchmarks.arena.sequential import FIRST_FOLDS, HALVING, Sequential
from benchmarks.arena.tables import ScoreTable


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


class SmacIntensifier:
    """SMAC3's ``Intensifier`` with folds as instances, on configurations in random order, by its own generator.

    A challenger runs on 1, 2, 4, ... folds that the incumbent has run on while its mean there is no worse; with every
    challenger the incumbent gets one fold more.  Recommends the incumbent.
    """

    def __init__(self, table: ScoreTable, seed: int, num_trials: int) -> None:
        from ConfigSpace import Configuration, ConfigurationSpace  # type: ignore[import-not-found,unused-ignore]
        from smac import Scenario  # type: ignore[import-not-found,unused-ignore]
        from smac.intensifier import Intensifier  # type: ignore[import-not-found,unused-ignore]
        from smac.runhistory import RunHistory  # type: ignore[import-not-found,unused-ignore]

        logging.getLogger("smac").setLevel(logging.CRITICAL)
        num_rows = len(table.scores_TF)
        space = ConfigurationSpace({"row": (0, num_rows - 1)})
        folds = [str(fold) for fold in range(table.num_folds)]
        scenario = Scenario(space, deterministic=True, instances=folds, seed=seed, n_trials=num_rows * table.num_folds)
        self._taken = np.random.default_rng(seed).permutation(num_rows)[:num_trials].tolist()
        self._intensifier: Any = Intensifier(scenario, max_config_calls=table.num_folds, seed=seed)
        self._intensifier.runhistory = self._history = RunHistory()
        self._intensifier.config_selector = [Configuration(space, {"row": row}) for row in self._taken]
        self._jobs: Iterator[Any] = iter(self._intensifier)
        self._asked: dict[Job, Any] = {}
        self._is_at_end = False

    def next_job(self, in_flight: set[Job]) -> Job | None:  # noqa: ARG002 - SMAC knows what it has asked for
        """Ask the intensifier; where its generator has ended, begin it anew: with jobs in flight it gives up early."""
        asked = next(self._jobs, None)
        if asked is None and not self._is_at_end:
            self._jobs = iter(self._intensifier)
            asked = next(self._jobs, None)
        self._is_at_end = asked is None
        if asked is None:
            return None
        self._history.add_running_trial(asked)
        job = self._trial(asked.config), int(asked.instance)
        self._asked[job] = asked
        return job

    def _trial(self, config: Any) -> int:  # noqa: ANN401 - a library without type hints
        return self._taken.index(int(config["row"]))

    def row(self, trial: int) -> int:
        """Return a trial's row in the table."""
        return self._taken[trial]

    def tell(self, job: Job, score: float) -> None:
        """Tell the history, and let the intensifier compare."""
        self._is_at_end = False
        asked = self._asked.pop(job)
        self._history.add(config=asked.config, cost=-score, instance=asked.instance, seed=asked.seed, force_update=True)
        self._intensifier.update_incumbents(asked.config)

    def chosen(self) -> int | None:
        """Return the incumbent."""
        incumbents = self._intensifier.get_incumbents()
        return self._trial(incumbents[0]) if incumbents else None
