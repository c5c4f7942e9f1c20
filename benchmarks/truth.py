"""How far to believe a study's corrected score: searches on tables of scores whose truth is known.

``python -m benchmarks.truth [--studies N]`` plays whole studies by the real ``next_job``, lets the best by validation
win, and estimates its score by the functions that every study's findings come from; it prints a table, and below that
one of studies whose subjects chose nothing (``benchmarks.unselected``).

A trial's score on a subject is its own effect (standard deviation 1, the spread), the subject's (1), what trial and
subject are to each other (the noise), and luck with the training subjects, which folds share: so much that the scores
of two folds correlate by 1 / (n + 1), n training subjects, as Nadeau and Bengio (2003) put it.  That luck is the same
for all trials ("common"), or each trial has its own beside ("own"), which no split of the same subjects could ever
show.  A subject's validation and test scores share all of that but a tenth of the noise's variance.  Under ``none`` no
trial has an effect: the truth is 0, the noise 1.

Bias is told twice: against the configuration's mean over training subjects that might have been, and against what it
is worth when trained on these very subjects, their luck included.

Suffixes: T trials, S subjects, M methods.
"""

import argparse
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.racing_tradeoff import played
from benchmarks.table import Row, print_table
from platform.evidence.findings import NOT_TRAINING
from platform.evidence.statistics import RAW, Estimate, corrected, corrected_by_bootstrap, estimate
from platform.racing.next_job import RacingSettings, TrialProgress

NUM_TRIALS, NUM_SUBJECTS = 40, 16
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
    """Effects of trials, and every trial's score on every subject: while it validated, and when it was left out.

    Attributes:
        true_T: the effects.
        here_T: the same with the luck of these training subjects.
        luck_T: the luck of training on all subjects.
        validation_TS, test_TS: the scores.
    """

    true_T: Array
    here_T: Array
    luck_T: Array
    validation_TS: Array
    test_TS: Array


@dataclass(frozen=True, kw_only=True)
class Played:
    """A search on a table: which trial won, and which scores of every trial the search has seen."""

    winner: int
    validation_TS: Array
    test_TS: Array


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is true of what was scored, over all training subjects and over these, and what is said of it by method."""

    true: float
    here: float
    said: dict[str, Estimate]


Kind = Callable[[int, str, str], Study]


def main() -> None:
    """Play and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.truth", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=500, help="of each kind")
    parser.add_argument("--first", type=int, default=0, help="seed of the first study")
    parser.add_argument("--kinds", nargs="+", choices=list(kinds()), default=list(kinds()), help="else all")
    chosen = parser.parse_args()
    print_table(measure(chosen.studies, chosen.first, chosen.kinds))


def kinds() -> dict[str, Kind]:
    """Return what plays a study of a kind, from its seed, level and luck."""
    from benchmarks import unselected  # it plays these tables, too

    raced = {rule: functools.partial(study, settings=settings) for rule, settings in RULES.items()}
    return {**raced, **unselected.STUDIES}


def measure(num_studies: int = 500, first: int = 0, names: Sequence[str] = ()) -> list[Row]:
    """Return one row for each kind of study and estimate."""
    seeds, found = range(first, first + num_studies), []
    for luck, level, (name, play) in itertools.product(LUCKS, LEVELS, kinds().items()):
        if not names or name in names:
            studies = [play(seed, level, luck) for seed in seeds]
            found += rows(f"luck {luck}, {_named(level)}, {name}", studies, is_none=level == NONE)
    return found


def study(seed: int, level: str, luck: str, settings: dict[str, str]) -> Study:
    """Play one search and return what is said of its winner."""
    table = simulated(seed, level, luck)
    found, training = searched(table, settings), NUM_SUBJECTS - NOT_TRAINING
    said = {
        "raw": estimate(found.test_TS[found.winner], training, RAW),
        "mixed model": corrected(found.validation_TS, found.test_TS, found.winner, training),
    }
    bootstrapped = corrected_by_bootstrap(found.validation_TS, found.test_TS, found.winner, training, seed)
    if bootstrapped is not None:
        said["BBC-CV"] = bootstrapped
    return Study(true=float(table.true_T[found.winner]), here=float(table.here_T[found.winner]), said=said)


def searched(table: Table, settings: dict[str, str]) -> Played:
    """Play one search."""
    num_subjects = table.test_TS.shape[1]
    race = RacingSettings(num_trials=NUM_TRIALS, num_folds=num_subjects, **settings)
    _, trials = played(fold_scores(table.validation_TS), race)
    ran_TS = np.array([[trial.score_of(fold) is not None for fold in range(num_subjects)] for trial in trials])
    means_T = np.array([_mean(trial, ran_S) for trial, ran_S in zip(trials, ran_TS, strict=True)])
    validated_TS = np.roll(ran_TS, 1, axis=1) | np.roll(ran_TS, 2, axis=1)
    return Played(
        winner=int(means_T.argmax()),
        validation_TS=np.where(validated_TS, table.validation_TS[: len(trials)], np.nan),
        test_TS=np.where(ran_TS, table.test_TS[: len(trials)], np.nan),
    )


def simulated(seed: int, level: str, luck: str, num_subjects: int = NUM_SUBJECTS) -> Table:
    """Return the truth and the scores of a study."""
    rng, is_none = np.random.default_rng([seed, LEVELS.index(level), LUCKS.index(luck)]), level == NONE
    noise, own = noise_of(level), luck == "own"
    is_training_SS = np.array(
        [
            [1.0 * (other in _training(fold, num_subjects)) for other in range(num_subjects)]
            for fold in range(num_subjects)
        ]
    )
    share = luck_share(is_training_SS)
    true_T = rng.normal(0, 0 if is_none else 1, NUM_TRIALS)
    of_subject_S = rng.normal(0, math.sqrt(1 - share), num_subjects)
    lasting, passing = (noise * math.sqrt((1 - own * share) * part) for part in (1 - OF_JOB, OF_JOB))
    own_TS = rng.normal(0, lasting, (NUM_TRIALS, num_subjects))
    of_jobs_2TS = rng.normal(0, passing, (2, NUM_TRIALS, num_subjects))
    of_training_TS = luck_of(rng, share, noise * own, num_subjects)
    luck_TS = of_training_TS @ is_training_SS.T / is_training_SS.sum(axis=1)
    luck_validating_TS = (np.roll(luck_TS, 1, axis=1) + np.roll(luck_TS, 2, axis=1)) / 2
    shared_TS = true_T[:, None] + of_subject_S + own_TS
    return Table(
        true_T=true_T,
        here_T=true_T + luck_TS.mean(axis=1),
        luck_T=of_training_TS.mean(axis=1),
        validation_TS=shared_TS + luck_validating_TS + of_jobs_2TS[0],
        test_TS=shared_TS + luck_TS + of_jobs_2TS[1],
    )


def noise_of(level: str) -> float:
    """Return the noise."""
    return 1.0 if level == NONE else float(level)


def luck_share(is_training_FS: Array) -> float:
    """Return luck's share of the variance for which two folds' scores correlate by 1 / (n + 1).

    Luck is a mean over a fold's training subjects, so that of two folds is as alike as they share of them.
    """
    num_training = is_training_FS[0].sum()
    shared_FF = is_training_FS @ is_training_FS.T / num_training
    between = float(shared_FF[~np.eye(len(shared_FF), dtype=bool)].mean())
    return float(1 / (num_training + 1) / between)


def luck_of(
    rng: np.random.Generator, share: float, own: float, num_subjects: int, num_trials: int = NUM_TRIALS
) -> Array:
    """Return what training on each subject adds, common to all trials, and each trial's own: a fold's is the mean."""
    size = math.sqrt(share * (num_subjects - NOT_TRAINING))
    return rng.normal(0, size, num_subjects) + own * rng.normal(0, size, (num_trials, num_subjects))


def fold_scores(validation_TS: Array) -> Array:
    """Return what the search sees of every fold: the mean of its two validation subjects, the next ones."""
    return (np.roll(validation_TS, -1, axis=1) + np.roll(validation_TS, -2, axis=1)) / 2


def _training(fold: int, num_subjects: int) -> list[int]:
    return [(fold + at) % num_subjects for at in range(NOT_TRAINING, num_subjects)]


def _mean(trial: TrialProgress, ran_S: Array) -> float:
    return float(np.mean([trial.score_of(fold) for fold in range(len(ran_S))])) if ran_S.all() else -math.inf


def _named(level: str) -> str:
    return level if level == NONE else f"noise {level}"


def rows(what: str, studies: Sequence[Study], *, is_none: bool) -> list[Row]:
    """Return one row for each estimate: its bias, how often its interval covers the truth, and what it claims."""
    return [_row(f"{what}: {name}", name, studies, is_none=is_none) for name in studies[0].said]


def _row(what: str, name: str, studies: Sequence[Study], *, is_none: bool) -> Row:
    said = [each.said[name] for each in studies]
    true, here = (np.array([getattr(each, of) for each in studies]) for of in ("true", "here"))
    means, lows, highs = (np.array([getattr(each, of) for each in said]) for of in ("mean", "low", "high"))
    error = float(np.std(means - true, ddof=1)) / math.sqrt(len(said))
    covered, covered_here = (float(np.mean((lows <= of) & (of <= highs))) for of in (true, here))
    claims = f"; above 0 in {np.mean(lows > 0):.1%}" if is_none else ""
    return Row(
        benchmark="truth",
        what=what,
        value=f"bias {np.mean(means - true):+.3f} +- {error:.3f}, as trained here {np.mean(means - here):+.3f}",
        ratio=f"interval covers {covered:.1%}, as trained here {covered_here:.1%}{claims}",
    )


if __name__ == "__main__":
    main()
