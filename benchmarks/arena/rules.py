"""Ours in the arena: the platform's own racing and samplers, by the functions that a real search calls.

Takes a table, a racing and a sampler; gives a rule for the clock.
"""

import dataclasses
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from benchmarks.arena.clock import Job
from benchmarks.arena.tables import Rows, ScoreTable
from platform.proposals.samplers import Proposal, propose
from platform.racing.next_job import Propose, Race, RacingSettings, RunFold, TrialProgress
from search_spaces import SearchSpace


def most_scored(scores: list[dict[int, float]]) -> int | None:
    """Return the trial with the best mean among those with the most folds, the usual recommendation of a race."""
    most = max((len(of_trial) for of_trial in scores), default=0)
    if most == 0:
        return None
    foremost = [trial for trial, of_trial in enumerate(scores) if len(of_trial) == most]
    return max(foremost, key=lambda trial: sum(scores[trial].values()) / most)


def feature_names(table: ScoreTable) -> list[str]:
    """Return the names of a table's hyperparameters."""
    return [f"x{number}" for number in range(table.features_TD.shape[1])]


class Ours:
    """``platform.racing.next_job`` and ``platform.proposals.samplers``; recommends the best mean over the most folds.

    Once a trial has all folds this is the winner of a real search.
    """

    def __init__(self, table: ScoreTable, seed: int, racing: str, sampler: str, num_trials: int) -> None:
        self._settings = RacingSettings(num_trials=num_trials, num_folds=table.num_folds, racing=racing)
        self._race = Race(self._settings)
        self._rows, self._seconds_TF = Rows(table), table.seconds_TF
        self._names, self._sampler, self._seed = feature_names(table), sampler, seed
        self._space = SearchSpace(suggest=self._suggest, default=dict.fromkeys(self._names, 0.5))
        self._trials: list[TrialProgress] = []
        self._taken: list[int] = []
        self._told: dict[int, FrozenTrial] = {}

    def _suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        return {name: trial.suggest_float(name, 0.0, 1.0) for name in self._names}

    def next_job(self, in_flight: set[Job]) -> Job | None:
        """Return what ``next_job`` of the platform says, trials being proposed as they are due."""
        jobs = {(trial, fold, 0) for trial, fold in in_flight}
        while isinstance(step := self._race.next_job(self._trials, jobs), Propose):
            self._propose(step)
        return (step.trial, step.fold) if isinstance(step, RunFold) else None

    def _propose(self, step: Propose) -> None:
        proposal = propose(self._history(step.told_up_to), self._sampler, self._space, self._seed, step.trial)
        self._taken.append(self._rows.take([proposal.configuration[name] for name in self._names]))
        self._trials.append(TrialProgress(number=step.trial))

    def _history(self, told_up_to: int) -> list[FrozenTrial]:
        """Return the trials as a ledger would: told up to a number, the later ones as still running."""
        for number in range(max(0, told_up_to + 1)):
            if number not in self._told:
                self._told[number] = self._frozen(number, is_told=True)
                self._trials[number] = dataclasses.replace(self._trials[number], is_told=True)
        return [self._told.get(number) or self._frozen(number, is_told=False) for number in range(len(self._trials))]

    def _frozen(self, number: int, *, is_told: bool) -> FrozenTrial:
        params = dict(zip(self._names, self._rows.features(self._taken[number]), strict=True))
        asked = Proposal(
            params=params, distributions=dict.fromkeys(self._names, FloatDistribution(0.0, 1.0)), configuration=params
        )
        if not is_told:
            frozen = create_trial(state=TrialState.RUNNING, params=asked.params, distributions=asked.distributions)
        else:
            frozen = self._ended(number, asked)
        frozen.number = number
        return frozen

    def _ended(self, number: int, asked: Proposal) -> FrozenTrial:
        scores = self._trials[number].scores
        mean = sum(scores.values()) / len(scores)
        is_complete = len(scores) == self._settings.num_folds
        seconds_F = self._seconds_TF[self._taken[number]]
        return create_trial(
            state=TrialState.COMPLETE if is_complete else TrialState.PRUNED,
            value=mean if is_complete else None,
            params=asked.params,
            distributions=asked.distributions,
            intermediate_values={len(scores): mean},
            user_attrs={
                f"fold/{fold:04d}": {"fold": fold, "score": score, "seconds": float(seconds_F[fold])}
                for fold, score in scores.items()
            },
        )

    def row(self, trial: int) -> int:
        """Return a trial's row in the table."""
        return self._taken[trial]

    def tell(self, job: Job, score: float) -> None:
        """Record a score where a ledger would: late where the trial was settled before."""
        number, fold = job
        trial = self._trials[number]
        if self._race.is_settled(trial, self._trials):
            self._trials[number] = dataclasses.replace(trial, late={**trial.late, (fold, 0): score})
        else:
            self._trials[number] = dataclasses.replace(trial, scores={**trial.scores, fold: score})

    def chosen(self) -> int | None:
        """Return the best mean over the most folds."""
        return most_scored([{**each.scores, **_search_scores(each)} for each in self._trials])


def _search_scores(trial: TrialProgress) -> dict[int, float]:
    return {fold: score for (fold, repeat), score in trial.late.items() if repeat == 0 and score is not None}
