"""Choosing an epoch: two validation subjects choose for each other."""

import numpy as np
import pytest

from platform.scores.selection import best_position, cross_selected

EPOCHS, STUDIES = 30, 4000


def test_each_subject_is_scored_at_the_epoch_that_the_other_chooses():
    selection = cross_selected([0.9, 0.1, 0.2], [0.3, 0.0, 0.8])
    assert selection.score == pytest.approx((0.2 + 0.3) / 2)


def test_both_choose_the_test_epoch_together():
    assert cross_selected([0.9, 0.6, 0.0], [0.0, 0.5, 0.8]).chosen == 1


def test_a_subjects_own_best_score_is_never_used():
    rng = np.random.default_rng(0)
    for first, second in rng.standard_normal((200, 2, EPOCHS)).tolist():
        own_best = best_position(first)
        if own_best == best_position(second):
            continue
        raised = [score + 100 * (epoch == own_best) for epoch, score in enumerate(first)]
        assert cross_selected(raised, second).score == cross_selected(first, second).score


def test_on_noise_the_score_is_zero_where_the_best_epochs_own_score_is_not():
    scores = np.random.default_rng(1).standard_normal((STUDIES, 2, EPOCHS))
    crossed = [cross_selected(*pair).score for pair in scores.tolist()]
    own_best = scores.max(axis=2).mean(axis=1)
    assert abs(np.mean(crossed)) < 4 * np.std(crossed) / np.sqrt(STUDIES)
    assert own_best.mean() > 1.9


def test_on_noise_the_test_subject_gains_nothing_from_the_joint_choice():
    scores = np.random.default_rng(2).standard_normal((STUDIES, 3, EPOCHS))
    test = [third[cross_selected(first, second).chosen] for first, second, third in scores.tolist()]
    assert abs(np.mean(test)) < 4 / np.sqrt(STUDIES)


def test_epochs_that_are_truly_better_are_found():
    rng = np.random.default_rng(3)
    scores = rng.standard_normal((500, 2, EPOCHS)) * 0.1 + np.linspace(0, 3, EPOCHS)
    assert np.mean([cross_selected(*pair).score for pair in scores.tolist()]) > 2.7


def test_ties_go_to_the_earliest_epoch():
    assert best_position([1, 3, 3, 2]) == 1
    assert cross_selected([0, 0, 0], [0, 0, 0]).chosen == 0


def test_a_single_epoch_is_chosen_without_choice():
    assert cross_selected([0.25], [0.75]).score == 0.5


@pytest.mark.parametrize(("first", "second"), [([], []), ([1.0], []), ([1.0], [1.0, 2.0])])
def test_every_epoch_needs_a_score_of_both(first, second):
    with pytest.raises(ValueError, match="both validation subjects need a score"):
        cross_selected(first, second)
