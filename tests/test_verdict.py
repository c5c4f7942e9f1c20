"""The verdict: the furthest word whose every step was shown, with the reason for where it stops."""

import dataclasses
import json
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
    evidence_of,
    verdict,
)

SHOWN, NOT_SHOWN, UNKNOWN = Step(mean=0.1, low=0.02), Step(mean=0.1, low=-0.02), Step(missing="nobody looked")


@pytest.mark.parametrize(
    ("score", "beyond_confounds", "beyond_events", "word", "reason"),
    [
        (NOT_SHOWN, SHOWN, SHOWN, NOTHING, "temporal r +0.100, not above 0 (95 % interval from -0.020)"),
        (Step(mean=0.1, low=math.nan), SHOWN, SHOWN, NOTHING, "too few subjects for an interval"),
        (SHOWN, NOT_SHOWN, SHOWN, CONFOUND, "unique r, beyond confounds +0.100, not above 0"),
        (SHOWN, UNKNOWN, SHOWN, CONFOUND, "unique r, beyond confounds is not known: nobody looked"),
        (SHOWN, SHOWN, NOT_SHOWN, NOT_BEYOND_EVENTS, "unique r, beyond confounds and stimuli +0.100, not above"),
        (SHOWN, SHOWN, SHOWN, EEG_SPECIFIC, "unique r, beyond confounds and stimuli +0.100, above 0"),
    ],
)
def test_it_is_the_last_step_that_was_shown(score, beyond_confounds, beyond_events, word, reason):
    found = verdict(Evidence(score=score, beyond_confounds=beyond_confounds, beyond_events=beyond_events))
    assert found.word == word
    assert reason in found.reasons[-1]
    assert word in WORDS


def evidence(*steps: Step, **more) -> Evidence:
    return Evidence(**dict(zip(("score", "beyond_confounds", "beyond_events"), steps, strict=True)), **more)


ALL, BODY, STIMULI = evidence(SHOWN, SHOWN, SHOWN), evidence(SHOWN, NOT_SHOWN, SHOWN), evidence(SHOWN, SHOWN, NOT_SHOWN)
NONE, CONTROL = evidence(NOT_SHOWN, SHOWN, SHOWN), evidence(SHOWN, SHOWN, SHOWN, is_control=True)
BY_CHANCE = evidence(SHOWN, SHOWN, SHOWN, nulls=(("winner_sign_flip", 0.3),))


@pytest.mark.parametrize(
    ("here", "elsewhere", "word"),
    [
        (ALL, [], EEG_SPECIFIC),
        (ALL, [ALL], REPLICATED),
        (ALL, [ALL, ALL], REPLICATED),
        (ALL, [ALL, NONE], EEG_SPECIFIC),  # of two data sets nobody chooses the one that suits
        (ALL, [NONE], EEG_SPECIFIC),
        (ALL, [BODY], EEG_SPECIFIC),
        (ALL, [STIMULI], EEG_SPECIFIC),
        (ALL, [BY_CHANCE], EEG_SPECIFIC),
        (ALL, [CONTROL], EEG_SPECIFIC),
        (CONTROL, [ALL], EEG_SPECIFIC),
        (ALL, [evidence(SHOWN, UNKNOWN, UNKNOWN)], EEG_SPECIFIC),
        (STIMULI, [ALL], NOT_BEYOND_EVENTS),
        (BODY, [ALL], CONFOUND),
        (NONE, [ALL], NOTHING),
    ],
)
def test_it_is_replicated_where_every_step_was_taken_here_and_in_every_other_data_set(here, elsewhere, word):
    others = [(f"in study {at}", other) for at, other in enumerate(elsewhere)]
    found = verdict(dataclasses.replace(here, replications=others))
    assert found.word == word
    if verdict(here).word == EEG_SPECIFIC:
        told = found.reasons[len(found.reasons) - len(others) :]
        assert [reason.partition(";")[0] for reason in told] == [
            f"{where}: {verdict(other).word}" for where, other in others
        ]


@pytest.mark.parametrize("kept", [ALL, CONTROL, BY_CHANCE, evidence(Step(mean=0.1, low=math.nan), UNKNOWN, UNKNOWN)])
def test_what_a_ledger_keeps_of_evidence_gives_the_same_verdict(kept):
    noted = json.loads(json.dumps(kept.noted, allow_nan=False))
    assert verdict(evidence_of(noted)) == verdict(kept)


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
