"""Folds: who tests, who validates, who trains."""

from collections import Counter

import numpy as np
import pytest

from datasets.errors import BadInput
from platform.data.folds import Fold, leave_one_subject_out

SUBJECTS = [f"sub-{number:02d}" for number in range(1, 17)]


@pytest.fixture(params=[4, 5, 16])
def folds(request) -> list[Fold]:
    return leave_one_subject_out(SUBJECTS[: request.param], seed=3)


def test_every_subject_tests_once_and_validates_twice(folds):
    assert Counter(fold.test for fold in folds) == Counter(SUBJECTS[: len(folds)])
    validates = Counter(subject for fold in folds for subject in fold.validation)
    assert set(validates) == set(SUBJECTS[: len(folds)])
    assert set(validates.values()) == {2}


def test_a_fold_holds_every_subject_exactly_once(folds):
    for fold in folds:
        assert sorted([fold.test, *fold.validation, *fold.training]) == SUBJECTS[: len(folds)]


def test_folds_are_numbered_in_their_order(folds):
    assert [fold.number for fold in folds] == list(range(len(folds)))


def test_training_subjects_stand_sorted_so_that_equal_sets_share_what_is_cached(folds):
    assert all(list(fold.training) == sorted(fold.training) for fold in folds)


def test_the_order_of_the_input_does_not_matter():
    shuffled = [str(subject) for subject in np.random.default_rng(0).permutation(SUBJECTS)]
    assert leave_one_subject_out(shuffled, 7) == leave_one_subject_out(SUBJECTS, 7)


def test_seeds_give_different_orders():
    orders = {tuple(fold.test for fold in leave_one_subject_out(SUBJECTS, seed)) for seed in range(20)}
    assert len(orders) == 20


def test_the_first_folds_are_a_random_sample_of_the_subjects():
    first = Counter(leave_one_subject_out(SUBJECTS, seed)[0].test for seed in range(800))
    assert set(first) == set(SUBJECTS)
    assert max(first.values()) < 90  # 50 are expected of each


def test_subjects_are_plain_strings_that_json_can_hold(folds):
    assert all(type(name) is str for fold in folds for name in (fold.test, *fold.validation, *fold.training))


@pytest.mark.parametrize("number", [0, 1, 3])
def test_fewer_than_four_subjects_are_refused(number):
    with pytest.raises(BadInput, match=f"needs 4 or more subjects .* the shards hold {number}"):
        leave_one_subject_out(SUBJECTS[:number], 0)


def test_a_subject_that_stands_twice_is_refused():
    with pytest.raises(BadInput, match="distinct subjects"):
        leave_one_subject_out([*SUBJECTS, SUBJECTS[0]], 0)
