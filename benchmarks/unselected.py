"""Scores of subjects that chose nothing, against the truth: pairs of subjects, and subjects locked away.

Takes the studies of ``benchmarks.truth``; plays them by the folds, the division and the scores of a real search under
``--protocol nested`` and ``--lock-away``, and gives what they say.  A curve has three epochs, as good as each other:
to take the best of them for its own subject would show as bias.

Suffixes: T trials, S subjects, F folds, P a pair's two subjects, E epochs.
"""

import math

import numpy as np

from benchmarks.truth import (
    NONE,
    OF_JOB,
    RULES,
    Array,
    Study,
    luck_of,
    luck_share,
    noise_of,
    searched,
    simulated,
)
from platform.data.folds import Fold, leave_two_subjects_out, lock_away
from platform.evidence.protocols import nested_scores
from platform.evidence.statistics import LOCKED_AWAY, NESTED, estimate
from platform.ledger.records import FoldRecord, LedgerTrial
from platform.scores.selection import cross_selected

NUM_SUBJECTS, NUM_LOCKED_AWAY, NUM_EPOCHS, IN_PAIR = 12, 4, 3, 2
IN_NESTED = 20
"""Trials of a study on pairs: each runs on 66 of them."""
_NESTED, _LOCKED = 11, 12
"""Keep these draws apart from those of ``benchmarks.truth``."""


def nested(seed: int, level: str, luck: str) -> Study:
    """Play a study on pairs of subjects; return what it says of choosing the best of so many trials."""
    rng = np.random.default_rng([_NESTED, seed, len(level), len(luck)])
    names = [f"sub-{number:02d}" for number in range(NUM_SUBJECTS)]
    folds = leave_two_subjects_out(names, seed)
    true_T = rng.normal(0, 0 if level == NONE else 1, IN_NESTED)
    luck_TF, curves_TFPE = _curves(rng, level, luck, folds, true_T)
    trials = [_trial(number, curves_FPE) for number, curves_FPE in enumerate(curves_TFPE.tolist())]
    winner = max(trials, key=lambda trial: math.fsum(trial.scores.values())).number
    found = nested_scores(trials, folds, winner)
    chosen_S = np.array([found.chosen[name] for name in names])
    with_FS = np.array([[name in fold.validation for name in names] for fold in folds])
    luck_S = np.array([luck_TF[trial, with_F].mean() for trial, with_F in zip(chosen_S, with_FS.T, strict=True)])
    scores_S = np.array([found.subjects[name] for name in names])
    true = float(true_T[chosen_S].mean())
    return Study(
        true=true,
        here=true + float(luck_S.mean()),
        said={NESTED: estimate(scores_S, NUM_SUBJECTS - IN_PAIR, NESTED)},
    )


def locked_away(seed: int, level: str, luck: str) -> Study:
    """Play a search on the subjects in folds; return what those that are in none say of its winner."""
    names = [f"sub-{number:02d}" for number in range(NUM_SUBJECTS + NUM_LOCKED_AWAY)]
    in_folds, away = lock_away(names, NUM_LOCKED_AWAY, seed)
    table = simulated(seed, level, luck, len(in_folds))
    winner = searched(table, RULES["paired"]).winner
    rng = np.random.default_rng([_LOCKED, seed, len(level), len(luck)])
    own_S = rng.normal(0, 1, len(away)) + rng.normal(0, noise_of(level), len(away))
    true = float(table.true_T[winner])
    scores_S = true + table.luck_T[winner] + own_S
    return Study(
        true=true,
        here=true + float(table.luck_T[winner]),
        said={LOCKED_AWAY: estimate(scores_S, 0, LOCKED_AWAY)},
    )


def _curves(rng: np.random.Generator, level: str, luck: str, folds: list[Fold], true_T: Array) -> tuple[Array, Array]:
    """Return every training's luck, and what each of the pair scores after every epoch."""
    noise, own = noise_of(level), luck == "own"
    names = sorted({name for fold in folds for name in fold.validation})
    pairs_FP = np.array([[names.index(name) for name in fold.validation] for fold in folds])
    is_training_FS = np.array([[1.0 * (name in fold.training) for name in names] for fold in folds])
    share = luck_share(is_training_FS)
    lasting, passing = (noise * math.sqrt((1 - own * share) * part) for part in (1 - OF_JOB, OF_JOB))
    own_TS = rng.normal(0, lasting, (IN_NESTED, len(names)))
    of_subject_S = rng.normal(0, math.sqrt(1 - share), len(names))
    luck_TF = luck_of(rng, share, noise * own, len(names), IN_NESTED) @ is_training_FS.T / is_training_FS.sum(axis=1)
    scores_TS = true_T[:, None] + of_subject_S + own_TS
    scores_TFP = scores_TS[:, pairs_FP] + luck_TF[:, :, None]
    return luck_TF, scores_TFP[..., None] + rng.normal(0, passing, (*scores_TFP.shape, NUM_EPOCHS))


def _trial(number: int, curves_FPE: list[list[list[float]]]) -> LedgerTrial:
    records = {
        fold: FoldRecord(
            trial=number,
            fold=fold,
            score=cross_selected(first, second).score,
            validation=(tuple(first), tuple(second)),
        )
        for fold, (first, second) in enumerate(curves_FPE)
    }
    return LedgerTrial(number=number, state="COMPLETE", params={}, configuration={}, records=records)


STUDIES = {"pairs of subjects": nested, "4 locked away": locked_away}
"""Both play on 12 subjects in folds."""
