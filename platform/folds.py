"""Split subjects into leave-one-subject-out folds.

Takes the subjects that a manifest names and the study's seed; gives one fold per subject.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datasets.errors import BadInput

MIN_SUBJECTS = 4


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One subject held out for testing, two for validation, all others for training."""

    number: int
    test: str
    validation: tuple[str, str]
    training: tuple[str, ...]


def leave_one_subject_out(subjects: Sequence[str], seed: int) -> list[Fold]:
    """Return one fold per subject; the validation subjects are the next two in an order drawn from the seed.

    The folds stand in that order, too, so that the first n folds are a random sample of the subjects.

    Raises:
        BadInput: where there are fewer than 4 subjects, or one of them stands twice.
    """
    if len(set(subjects)) < len(subjects):
        raise BadInput(f"leaving one subject out needs distinct subjects, but got {list(subjects)}")
    if len(subjects) < MIN_SUBJECTS:
        raise BadInput(
            f"a fold needs {MIN_SUBJECTS} or more subjects (one tests, two validate, the others train), "
            f"but the shards hold {len(subjects)}: {', '.join(subjects) or 'none'}; prepare more subjects"
        )
    order = [str(subject) for subject in np.random.default_rng(seed).permutation(sorted(subjects))]
    return [_fold_at(order, number) for number in range(len(order))]


def _fold_at(order: Sequence[str], number: int) -> Fold:
    test, first, second, *training = [*order[number:], *order[:number]]
    return Fold(number=number, test=test, validation=(first, second), training=tuple(sorted(training)))
