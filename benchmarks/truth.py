"""How far to believe a study's corrected score: searches on tables of scores whose truth is known.

``python -m benchmarks.truth [--studies N]`` plays whole studies by the real ``next_job``, lets the best by validation
win, and estimates its score by the functions that every study's findings come from; it prints a table.

A trial's score on a subject is its own effect (standard deviation 1, the spread), the subject's (1), what trial and
subject are to each other (the noise), and luck with the training subjects, which folds share: 1 / (n + 1) of the
variance, n training subjects, the correlation that Nadeau and Bengio (2003) put between folds.  That luck is the same
for all trials ("common"), or each trial has its own beside ("own"), which no split of the same subjects could ever
show.  A subject's validation and test scores share all of that but a tenth of the noise's variance.  Under ``none`` no
trial has an effect: the truth is 0, the noise 1.

Suffixes: T trials, S subjects, M methods.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.racing_tradeoff import played
from benchmarks.table import Row, print_table
from platform.findings import NOT_TRAINING
from platform.racing import RacingSettings, TrialProgress
from platform.statistics import RAW, Estimate, corrected, corrected_by_bootstrap, estimate

NUM_TRIALS, NUM_SUBJECTS = 40, 16
TRAINING = NUM_SUBJECTS - NOT_TRAINING
NONE = "none"
LEVELS = ("0.5", "1", "3", NONE)
"""Noise, by the spread between trials; or no effect of any trial."""
RULES = {"all on all": {"racing": "none"}, "paired": {"racing": "paired"}}
LUCKS = ("common", "own")
OF_JOB = 0.1
"""Share of the noise's variance that a subject's validation and test scores do not share."""
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Effects of trials, and every trial's score on every subject: while it validated, and when it was left out."""

    true_T: Array
    validation_TS: Array
    test_TS: Array


@dataclass(frozen=True, kw_only=True)
class Study:
    """The winner's true score beside what is said of it."""

    true: float
    raw: Estimate
    corrected: Estimate
    bootstrapped: Estimate | None


def main() -> None:
    """Play and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.truth", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=500, help="of each kind")
    chosen = parser.parse_args()
    print_table(rows(chosen.studies))


def rows(num_studies: int = 500) -> list[Row]:
    """Return one row for each kind of study, rule and estimate."""
    found = []
    for luck in LUCKS:
        for level in LEVELS:
            for rule, settings in RULES.items():
                studies = [study(seed, level, luck, settings) for seed in range(num_studies)]
                found += _rows(f"luck {luck}, {_named(level)}, {rule}", studies, is_none=level == NONE)
    return found


def study(seed: int, level: str, luck: str, settings: dict[str, str]) -> Study:
    """Play one search and return what is said of its winner."""
    table = simulated(seed, level, luck)
    race = RacingSettings(num_trials=NUM_TRIALS, num_folds=NUM_SUBJECTS, **settings)
    _, trials = played(fold_scores(table.validation_TS), race)
    ran_TS = np.array([[trial.score_of(fold) is not None for fold in range(NUM_SUBJECTS)] for trial in trials])
    means_T = np.array([_mean(trial) if all(ran) else -math.inf for trial, ran in zip(trials, ran_TS, strict=True)])
    winner = int(means_T.argmax())
    test_TS = np.where(ran_TS, table.test_TS[: len(trials)], np.nan)
    validation_TS = np.where(ran_TS, table.validation_TS[: len(trials)], np.nan)
    return Study(
        true=float(table.true_T[winner]),
        raw=estimate(test_TS[winner], TRAINING, RAW),
        corrected=corrected(test_TS, winner, TRAINING),
        bootstrapped=corrected_by_bootstrap(validation_TS, test_TS, winner, TRAINING, seed),
    )


def simulated(seed: int, level: str, luck: str) -> Table:
    """Return the truth and the scores of a study."""
    rng, is_none = np.random.default_rng([seed, LEVELS.index(level), LUCKS.index(luck)]), level == NONE
    noise, rho = 1.0 if is_none else float(level), 1 / (TRAINING + 1)
    own_rho = rho if luck == "own" else 0.0
    true_T = rng.normal(0, 0 if is_none else 1, NUM_TRIALS)
    of_subject_S = rng.normal(0, math.sqrt(1 - rho), NUM_SUBJECTS)
    lasting, passing = (noise * math.sqrt((1 - own_rho) * share) for share in (1 - OF_JOB, OF_JOB))
    own_TS = rng.normal(0, lasting, (NUM_TRIALS, NUM_SUBJECTS))
    of_jobs_2TS = rng.normal(0, passing, (2, NUM_TRIALS, NUM_SUBJECTS))
    of_training_TS = rng.normal(0, math.sqrt(rho * TRAINING), NUM_SUBJECTS) + rng.normal(
        0, noise * math.sqrt(own_rho * TRAINING), (NUM_TRIALS, NUM_SUBJECTS)
    )
    luck_TS = np.stack([of_training_TS[:, _training(fold)].mean(axis=1) for fold in range(NUM_SUBJECTS)], axis=1)
    luck_validating_TS = (np.roll(luck_TS, 1, axis=1) + np.roll(luck_TS, 2, axis=1)) / 2
    shared_TS = true_T[:, None] + of_subject_S + own_TS
    return Table(
        true_T=true_T,
        validation_TS=shared_TS + luck_validating_TS + of_jobs_2TS[0],
        test_TS=shared_TS + luck_TS + of_jobs_2TS[1],
    )


def fold_scores(validation_TS: Array) -> Array:
    """Return what the search sees of every fold: the mean of its two validation subjects, the next ones."""
    return (np.roll(validation_TS, -1, axis=1) + np.roll(validation_TS, -2, axis=1)) / 2


def _training(fold: int) -> list[int]:
    return [(fold + NOT_TRAINING + at) % NUM_SUBJECTS for at in range(TRAINING)]


def _mean(trial: TrialProgress) -> float:
    return float(np.mean([trial.score_of(fold) for fold in range(NUM_SUBJECTS)]))


def _named(level: str) -> str:
    return level if level == NONE else f"noise {level}"


def _rows(what: str, studies: Sequence[Study], *, is_none: bool) -> list[Row]:
    methods: dict[str, Callable[[Study], Estimate | None]] = {
        "raw": lambda each: each.raw,
        "mixed model": lambda each: each.corrected,
        "BBC-CV": lambda each: each.bootstrapped,
    }
    found = []
    for name, of in methods.items():
        pairs = [(each.true, said) for each in studies if (said := of(each)) is not None]
        if pairs:
            errors = [said.mean - true for true, said in pairs]
            covered = float(np.mean([said.low <= true <= said.high for true, said in pairs]))
            above = float(np.mean([said.low > 0 for _, said in pairs]))
            claims = f"; above 0 in {above:.1%}" if is_none else ""
            error = float(np.std(errors, ddof=1)) / math.sqrt(len(errors))
            found.append(
                Row(
                    benchmark="truth",
                    what=f"{what}: {name}",
                    value=f"bias {np.mean(errors):+.3f} +- {error:.3f}",
                    ratio=f"interval covers {covered:.1%}{claims}",
                )
            )
    return found


if __name__ == "__main__":
    main()
