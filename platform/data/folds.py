"""Split subjects into folds: one left out, or two, or a whole data set; and lock subjects away before that.

Takes the subjects that a manifest names and the study's seed; gives folds, in an order that all trials share.  Takes
how many windows recordings have; gives shares of them drawn at random, which leaks.

Legend of shapes: T windows of one recording.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.errors import BadInput
from platform.data.several_data_sets import data_set_of

MIN_SUBJECTS = 4
MIN_TOGETHER = 3
"""Subjects of a data set that is left out as a whole: one tests, two validate."""
NUM_SHARES = 8
"""Shares that all windows are dealt to: one tests, two validate, five train."""
_LOCKING, _SHUFFLING = 1, 3
"""Keep the draws of locked-away subjects and of shuffled windows apart from that of the folds' order."""


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One subject held out for testing, two for validation, all others for training.

    Where two are left out, both validate, each for the other, and the test subject is one of them.
    """

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
    order = _shuffled(subjects, np.random.default_rng(seed))
    return [_fold_at(order, number) for number in range(len(order))]


def leave_two_subjects_out(subjects: Sequence[str], seed: int) -> list[Fold]:
    """Return one fold per unordered pair of subjects: both validate, each for the other, and one is called the test.

    All others train.  The pairs stand in an order drawn from the seed.

    Raises:
        BadInput: where there are fewer than 4 subjects, or one of them stands twice.
    """
    num_subjects = len(leave_one_subject_out(subjects, seed))
    rng = np.random.default_rng(seed)
    order = _shuffled(subjects, rng)
    pairs = list(itertools.combinations(range(num_subjects), 2))
    shuffled = [pairs[at] for at in rng.permutation(len(pairs))]
    return [_fold_of_pair(order, number, *pair) for number, pair in enumerate(shuffled)]


def leave_one_data_set_out(subjects: Sequence[str], seed: int) -> list[Fold]:
    """Return one fold per subject, whose own data set trains nothing: the next two of that data set validate.

    All subjects of the other data sets train.  The folds stand in an order drawn from the seed, in which data sets mix.

    Raises:
        BadInput: where there is one data set only, or one with fewer than 3 subjects.
    """
    order = _shuffled(subjects, np.random.default_rng(seed))
    together = {name: [each for each in order if data_set_of(each) == name] for name in map(data_set_of, order)}
    if len(together) < 2:  # noqa: PLR2004
        raise BadInput(
            "--protocol data-sets leaves one data set out, so it needs two or more, prepared alike: give "
            "--shards FIRST,SECOND"
        )
    small = [f"{name} ({len(members)})" for name, members in sorted(together.items()) if len(members) < MIN_TOGETHER]
    if small:
        raise BadInput(
            f"--protocol data-sets needs {MIN_TOGETHER} or more subjects of every data set (one tests, two validate), "
            f"but there are fewer in {', '.join(small)}; prepare more subjects, or leave it out"
        )
    return [_fold_beside(order, together[data_set_of(subject)], number) for number, subject in enumerate(order)]


def lock_away(subjects: Sequence[str], number: int, seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the subjects that stay, and those drawn from the seed to be in no fold, both sorted.

    Raises:
        BadInput: where too few would stay for folds.
    """
    if number and len(subjects) - number < MIN_SUBJECTS:
        num_left = max(0, len(subjects) - number)
        raise BadInput(
            f"--lock-away {number} leaves {num_left} of {len(subjects)} subjects for folds, which "
            f"need {MIN_SUBJECTS} or more; lock away fewer, or prepare more subjects"
        )
    order = _shuffled(subjects, np.random.default_rng([seed, _LOCKING]))
    return tuple(sorted(order[number:])), tuple(sorted(order[:number]))


def shuffled_shares(num_windows: Sequence[int], seed: int) -> list[NDArray[np.int64]]:
    """Return the share of every window of every recording, 0 to ``NUM_SHARES`` - 1, (T,) each.

    Every recording's windows are shuffled and dealt out, the next recording's where the last one's ended.  So a share
    holds windows of all subjects, and as many as any other of each recording, but for one; and a window's neighbours,
    which share 28 of its 30 s of EEG, mostly lie in other shares.
    """
    rng, dealt, found = np.random.default_rng([seed, _SHUFFLING]), 0, []
    for number in num_windows:
        share_T = np.empty(number, np.int64)
        share_T[rng.permutation(number)] = (dealt + np.arange(number)) % NUM_SHARES
        found.append(share_T)
        dealt += number
    return found


def _shuffled(subjects: Sequence[str], rng: np.random.Generator) -> list[str]:
    return [str(subject) for subject in rng.permutation(sorted(subjects))]


def _fold_of_pair(order: Sequence[str], number: int, first: int, second: int) -> Fold:
    """Return a pair's fold; which of the two is called the test goes round, so that each is as often."""
    test = second if (second - first) * 2 <= len(order) else first
    training = tuple(sorted(subject for at, subject in enumerate(order) if at not in (first, second)))
    return Fold(number=number, test=order[test], validation=(order[first], order[second]), training=training)


def _fold_beside(order: Sequence[str], members: Sequence[str], number: int) -> Fold:
    at = members.index(order[number])
    test, first, second, *_ = [*members[at:], *members[:at]]
    training = tuple(sorted(subject for subject in order if subject not in members))
    return Fold(number=number, test=test, validation=(first, second), training=training)


def _fold_at(order: Sequence[str], number: int) -> Fold:
    test, first, second, *training = [*order[number:], *order[:number]]
    return Fold(number=number, test=test, validation=(first, second), training=tuple(sorted(training)))
