"""Which folds a study has under each protocol, and what a nested one says of subjects that nothing was chosen by.

Takes the subjects, the seed and a protocol's name; gives folds.  Takes a nested study's records; gives, for every
subject, the score of the configuration that the others chose.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from datasets.errors import BadInput
from platform.data.folds import (
    Fold,
    leave_one_data_set_out,
    leave_one_subject_out,
    leave_two_subjects_out,
    lock_away,
)
from platform.data.products import SHARE
from platform.ledger.records import LedgerTrial
from platform.scores.selection import best_position

WITHIN, DATA_SETS, SHUFFLED = "within", "data-sets", "within-shuffled"
PROTOCOLS: dict[str, Callable[[Sequence[str], int], list[Fold]]] = {
    "loso": leave_one_subject_out,
    "nested": leave_two_subjects_out,
    WITHIN: leave_one_subject_out,
    DATA_SETS: leave_one_data_set_out,
    SHUFFLED: leave_one_subject_out,
}
"""From subjects and a seed to folds; ``within`` is told recordings in place of subjects, ``within-shuffled`` shares."""
UNIT_OF = {**{name: "subject" for name in PROTOCOLS}, WITHIN: "recording", SHUFFLED: SHARE}
"""What a protocol's folds leave out, a key of ``platform.data.products.UNITS``."""
LEAKS = {
    WITHIN: "other recordings of the scored subjects trained (--protocol within), so nothing is said of new subjects",
    SHUFFLED: "it leaks: windows were shuffled (--protocol within-shuffled), so that neighbours of the scored ones, "
    "with most of their EEG, trained; nothing is said of new subjects",
}
"""What a protocol lets through from training to scores, where it does."""
WITHOUT_FURTHER_SCORES = ("nested", SHUFFLED)
"""Protocols whose winner is trained again for no further scores."""
BLIND_SAMPLERS = ("random", "qmc")
"""Propose without knowing any score: a nested estimate needs that."""

Curves = Mapping[str, Mapping[str, Sequence[float]]]
"""Scores after every epoch: of a subject, beside the one that was left out with it."""


@dataclass(frozen=True, kw_only=True)
class Division:
    """Who is in a study's folds, and who is in none until its search is over."""

    folds: tuple[Fold, ...]
    in_folds: tuple[str, ...]
    locked_away: tuple[str, ...]

    @property
    def num_training(self) -> int:
        """Subjects that train in a fold, at the least."""
        return min(len(fold.training) for fold in self.folds)

    @property
    def validation(self) -> list[list[int]]:
        """Who validates in each fold, as numbers of the folds that test them; not of pairs of subjects."""
        numbers = {fold.test: fold.number for fold in self.folds}
        return [[numbers[subject] for subject in fold.validation] for fold in self.folds]


def divided(subjects: Sequence[str], seed: int, protocol: str, num_locked_away: int) -> Division:
    """Return a study's folds; BadInput where there are too few subjects for them."""
    in_folds, locked_away = lock_away(subjects, num_locked_away, seed)
    folds = tuple(PROTOCOLS[protocol](in_folds, seed))
    return Division(folds=folds, in_folds=in_folds, locked_away=locked_away)


def refuse_what_chooses(sampler: str, racing: str, *, learns_otherwise: Sequence[str]) -> None:
    """Refuse, for a nested study, what would let a subject's own scores choose the trials that it is scored by."""
    if sampler not in BLIND_SAMPLERS or racing != "none" or learns_otherwise:
        given = [f"--sampler {sampler}", f"--racing {racing}", *learns_otherwise]
        raise BadInput(
            "--protocol nested needs trials that no score has chosen: --sampler random or qmc, --racing none, and "
            f"neither --start-from nor --median-stopping; but got {', '.join(given)}"
        )


@dataclass(frozen=True, kw_only=True)
class Nested:
    """What a nested study says of every subject.

    Attributes:
        subjects: the score, by subject, of the trial that all others chose: nothing was chosen by that subject.
        chosen: that trial's number, by subject.
        winner: the scores, by subject, of the one trial that all subjects together chose: selected.
        num_trials: trials to choose from.
    """

    subjects: Mapping[str, float]
    chosen: Mapping[str, int]
    winner: Mapping[str, float]
    num_trials: int

    @property
    def noted(self) -> dict[str, Any]:
        """What the ledger keeps of it."""
        return asdict(self)


def nested_scores(trials: Sequence[LedgerTrial], folds: Sequence[Fold], winner: int) -> Nested:
    """Return every subject's score at the trial and the epochs that the other subjects chose, from pairs of subjects.

    For an outer subject, a trial's inner score is the mean over the others of their scores, each trained without both,
    after as many epochs as were best for the rest of them (the median).  The trial with the best is the one chosen.
    The outer subject's score is the mean over its pairs, each at the epoch that is best for the pair's other subject.

    Raises:
        BadInput: where no trial has run on all pairs.
    """
    curves = {trial.number: _curves(trial, folds) for trial in trials if len(trial.scores) == len(folds)}
    if winner not in curves:
        raise BadInput("no trial has run on all pairs of subjects; run the same command again to go on")
    subjects = sorted({subject for fold in folds for subject in fold.validation})
    chosen = {
        subject: max(curves, key=lambda number: (_inner_score(curves[number], subject), -number))
        for subject in subjects
    }
    return Nested(
        subjects={subject: _outer_score(curves[chosen[subject]], subject) for subject in subjects},
        chosen=chosen,
        winner={subject: _outer_score(curves[winner], subject) for subject in subjects},
        num_trials=len(curves),
    )


def _curves(trial: LedgerTrial, folds: Sequence[Fold]) -> Curves:
    found: dict[str, dict[str, Sequence[float]]] = {}
    for fold in folds:
        for subject, other, curve in zip(
            fold.validation, fold.validation[::-1], trial.records[fold.number].validation, strict=True
        ):
            found.setdefault(subject, {})[other] = curve
    return found


def _inner_score(curves: Curves, outer: str) -> float:
    """Return what a trial scores on all subjects but the outer one, in trainings that had neither."""
    inner = {subject: of_subject[outer] for subject, of_subject in curves.items() if subject != outer}
    best = {subject: best_position(curve) for subject, curve in inner.items()}
    scores = []
    for subject, curve in inner.items():
        epoch = round(float(np.median([best[other] for other in inner if other != subject])))
        scores.append(curve[min(epoch, len(curve) - 1)])
    return statistics.fmean(scores)


def _outer_score(curves: Curves, outer: str) -> float:
    return statistics.fmean(
        curve[best_position(curves[other][outer])] for other, curve in sorted(curves[outer].items())
    )
