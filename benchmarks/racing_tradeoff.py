"""What racing saves and what it costs: fold jobs against regret, on simulated tables of scores.

``python -m benchmarks.racing_tradeoff [--seeds N] [--figure FILE]`` plays whole studies by the real ``next_job``; it
prints a table and writes the figure of docs/search.md.

A score is a configuration's effect (standard deviation 1, the spread), a fold's (1.5) and noise.  Regret is how far the
chosen configuration's effect lies below the best one's, in units of the spread; that of scoring every configuration on
all folds is taken off.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from platform.racing.next_job import Done, Propose, Race, RacingSettings, RunFold, TrialProgress

NUM_TRIALS, NUM_FOLDS, FINALISTS = 128, 16, 3
NOISES = (0.5, 1.0, 3.0)
FOLD_SD = 1.5
RULES: dict[str, tuple[dict[str, Any], ...]] = {
    "halving": ({"racing": "halving"},),
    "paired": tuple(
        {"racing": "paired", "first_folds": first_folds, "mean_folds": mean_folds}
        for first_folds, mean_folds in ((1, 2.2), (1, 3.2), (2, 3.2), (2, 4.8))
    ),
}
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a rule did over several tables: its settings, share of all fold jobs, and regret beyond full scoring's."""

    rule: str
    settings: str
    noise: float
    saving: float
    regret: float
    error: float


def simulated(seed: int, noise: float, num_trials: int = NUM_TRIALS, num_folds: int = NUM_FOLDS) -> tuple[Array, Array]:
    """Return the effects of configurations, in random order, and the table of their scores on all folds."""
    rng = np.random.default_rng(seed)
    effects_T = rng.standard_normal(num_trials)
    noise_TF = noise * rng.standard_normal((num_trials, num_folds))
    return effects_T, effects_T[:, None] + FOLD_SD * rng.standard_normal(num_folds) + noise_TF


def play(scores_TF: Array, settings: RacingSettings) -> tuple[int, int]:
    """Return how many fold jobs a study takes, and which trial it chooses."""
    num_jobs, trials = played(scores_TF, settings)
    folds = range(settings.num_folds)
    whole = [each.number for each in trials if all(each.score_of(fold) is not None for fold in folds)]
    return num_jobs, max(whole, key=lambda number: float(scores_TF[number].mean()))


def played(scores_TF: Array, settings: RacingSettings) -> tuple[int, list[TrialProgress]]:
    """Return how many fold jobs a study takes, and its trials with the scores that they have in the end."""
    race = Race(settings)
    trials: list[TrialProgress] = []
    num_jobs = 0
    while not isinstance(step := race.next_job(trials, ()), Done):
        if isinstance(step, Propose):
            trials.append(TrialProgress(number=step.trial))
        elif isinstance(step, RunFold):
            num_jobs += step.repeat == 0
            trials[step.trial] = _recorded(race, trials, step, float(scores_TF[step.trial, step.fold]))
    return num_jobs, trials


def _recorded(race: Race, trials: Sequence[TrialProgress], step: RunFold, score: float) -> TrialProgress:
    trial = trials[step.trial]
    if race.is_settled(trial, trials):
        return dataclasses.replace(trial, late={**trial.late, (step.fold, step.repeat): score})
    return dataclasses.replace(trial, scores={**trial.scores, step.fold: score})


def outcome(rule: str, chosen: dict[str, Any], noise: float, num_seeds: int) -> Outcome:
    """Play a rule on as many tables and return what it saved and lost."""
    settings = RacingSettings(num_trials=NUM_TRIALS, num_folds=NUM_FOLDS, finalists=FINALISTS, **chosen)
    jobs, lost = [], []
    for seed in range(num_seeds):
        effects_T, scores_TF = simulated(seed, noise)
        num_jobs, best = play(scores_TF, settings)
        jobs.append(num_jobs)
        lost.append(float(effects_T[scores_TF.mean(axis=1).argmax()] - effects_T[best]))
    return Outcome(
        rule=rule,
        settings=", ".join(f"{name} {value}" for name, value in chosen.items() if name != "racing"),
        noise=noise,
        saving=NUM_TRIALS * NUM_FOLDS / statistics.fmean(jobs),
        regret=statistics.fmean(lost),
        error=statistics.stdev(lost) / num_seeds**0.5,
    )


def figure(outcomes: Sequence[Outcome]) -> Figure:
    """Return a figure of regret against saving, one line for each rule, one panel for each noise."""
    drawn = Figure(figsize=(9, 3), layout="constrained")
    for axes, noise in zip(drawn.subplots(1, len(NOISES), sharey=True, sharex=True), NOISES, strict=True):
        for rule in RULES:
            points = sorted((o for o in outcomes if (o.rule, o.noise) == (rule, noise)), key=lambda o: o.saving)
            axes.errorbar(
                [point.saving for point in points], [point.regret for point in points],
                [point.error for point in points], marker="o", capsize=2, linestyle="none", label=rule,
            )  # fmt: skip
        axes.axhline(0.1, color="grey", linestyle=":")
        axes.axvline(5, color="grey", linestyle=":")
        axes.set(title=f"noise {noise:g} x spread", xlabel="times fewer fold jobs")
    drawn.axes[0].set_ylabel("regret beyond full scoring, x spread")
    drawn.axes[0].legend()
    return drawn


def main() -> None:
    """Play every rule, print the table and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=60, help="tables at noise 1; more at more noise")
    parser.add_argument("--figure", type=Path)
    chosen = parser.parse_args()
    outcomes = []
    print("| rule | settings | noise | times fewer fold jobs | regret beyond full scoring |\n|---|---|---|---|---|")
    for rule, variants in RULES.items():
        for variant in variants:
            for noise in NOISES:
                found = outcome(rule, variant, noise, max(20, int(chosen.seeds * noise)))
                outcomes.append(found)
                shown = f"{found.saving:.1f} | {found.regret:+.3f} +- {found.error:.3f}"
                print(f"| {rule} | {found.settings or 'default'} | {noise:g} | {shown} |", flush=True)
    if chosen.figure:
        figure(outcomes).savefig(chosen.figure, dpi=110)


if __name__ == "__main__":
    main()
