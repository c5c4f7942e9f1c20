"""The verdict: the furthest word whose every step was shown, with the reason for where it stops."""

import math

import pytest

from platform.evidence.verdict import (
    CONFOUND,
    EEG_SPECIFIC,
    NOT_BEYOND_EVENTS,
    NOTHING,
    REPLICATED,
    WORDS,
    Evidence,
    Step,
    verdict,
)

SHOWN, NOT_SHOWN, UNKNOWN = Step(mean=0.1, low=0.02), Step(mean=0.1, low=-0.02), Step(missing="nobody looked")


@pytest.mark.parametrize(
    ("score", "beyond_confounds", "beyond_events", "replication", "word", "reason"),
    [
        (NOT_SHOWN, SHOWN, SHOWN, None, NOTHING, "temporal r +0.100, not above 0 (95 % interval from -0.020)"),
        (Step(mean=0.1, low=math.nan), SHOWN, SHOWN, SHOWN, NOTHING, "too few subjects for an interval"),
        (SHOWN, NOT_SHOWN, SHOWN, None, CONFOUND, "unique r, beyond confounds +0.100, not above 0"),
        (SHOWN, UNKNOWN, SHOWN, None, CONFOUND, "unique r, beyond confounds is not known: nobody looked"),
        (SHOWN, SHOWN, NOT_SHOWN, None, NOT_BEYOND_EVENTS, "unique r, beyond confounds and stimuli +0.100, not above"),
        (SHOWN, SHOWN, SHOWN, None, EEG_SPECIFIC, "unique r, beyond confounds and stimuli +0.100, above 0"),
        (SHOWN, SHOWN, SHOWN, NOT_SHOWN, EEG_SPECIFIC, "temporal r in the second data set +0.100, not above 0"),
        (SHOWN, SHOWN, SHOWN, SHOWN, REPLICATED, "temporal r in the second data set +0.100, above 0"),
    ],
)
def test_it_is_the_last_step_that_was_shown(score, beyond_confounds, beyond_events, replication, word, reason):
    found = verdict(
        Evidence(score=score, beyond_confounds=beyond_confounds, beyond_events=beyond_events, replication=replication)
    )
    assert found.word == word
    assert reason in found.reasons[-1]
    assert word in WORDS


@pytest.mark.parametrize(("p", "word"), [(0.2, NOTHING), (0.01, EEG_SPECIFIC)])
def test_a_null_that_scores_as_high_leaves_nothing(p, word):
    found = verdict(Evidence(score=SHOWN, beyond_confounds=SHOWN, beyond_events=SHOWN, nulls=[("winner_sign_flip", p)]))
    assert found.word == word
    assert any(f"p {p:.3f}" in reason for reason in found.reasons)


def test_a_control_says_so_first():
    found = verdict(Evidence(score=SHOWN, beyond_confounds=SHOWN, beyond_events=SHOWN, is_control=True))
    assert found.reasons[0].startswith("EEG was paired with another run's volumes")


def test_where_other_recordings_of_the_scored_subjects_trained_nothing_is_said_of_new_ones():
    found = verdict(Evidence(score=SHOWN, beyond_confounds=SHOWN, beyond_events=SHOWN, is_within=True))
    assert found.word == NOTHING
    assert "--protocol within" in found.reasons[0] and found.reasons[-1].startswith("temporal r +0.100, above 0")
