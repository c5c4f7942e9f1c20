"""One word on a study: does its best configuration work on somebody it never saw, and is it the brain?

Takes what was estimated of the winner; gives a word and its reasons.  A pure function, the same at the end of a search,
in MLflow and in a report.

Each word is one step further than the one before, and a step that was not shown counts as not taken: without recorded
confounds nobody can say more than that a confound may explain the score.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

NOTHING, CONFOUND, NOT_BEYOND_EVENTS = "nothing", "confound", "not beyond events"
EEG_SPECIFIC, REPLICATED = "EEG-specific", "replicated"
WORDS = {
    NOTHING: "no sign that anything of the volumes is predicted in new subjects",
    CONFOUND: "volumes are predicted, but heart, eyes, muscles or head motion may be what predicts them",
    NOT_BEYOND_EVENTS: "volumes are predicted beyond confounds, but not better than the stimuli alone predict them",
    EEG_SPECIFIC: "EEG predicts volumes of new subjects beyond confounds and stimuli",
    REPLICATED: "EEG predicts volumes of new subjects beyond confounds and stimuli, in a second data set, too",
}
MOST_CHANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class Step:
    """A score that must be above 0.

    Attributes:
        mean, low: the score, corrected, and the low end of its 95 % interval; nan where it was not computed.
        missing: why it was not, in words.
    """

    mean: float = math.nan
    low: float = math.nan
    missing: str = ""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a verdict is made of.

    Attributes:
        score: temporal r of the winner.
        beyond_confounds, beyond_events: what EEG adds to confounds, and to confounds and stimuli together.
        nulls: name and p of every null that was computed with flipped signs.
        is_control: whether EEG was paired with another run's volumes.
        is_within: whether other recordings of the scored subjects trained, so that nothing is said of new ones.
        replication: the frozen configuration's score on a second data set; None where there is none.
    """

    score: Step
    beyond_confounds: Step
    beyond_events: Step
    nulls: Sequence[tuple[str, float]] = ()
    is_control: bool = False
    is_within: bool = False
    replication: Step | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One of ``WORDS``, and why."""

    word: str
    reasons: tuple[str, ...] = field(default=())


def verdict(evidence: Evidence) -> Verdict:
    """Return the furthest word whose every step was shown."""
    control = ("EEG was paired with another run's volumes: nothing can be found here",) if evidence.is_control else ()
    failed = [(name, p) for name, p in evidence.nulls if p > MOST_CHANCE]
    score = _reason("temporal r", evidence.score)
    if evidence.is_within:
        leak = "other recordings of the scored subjects trained (--protocol within), so nothing is said of new subjects"
        return Verdict(word=NOTHING, reasons=(*control, leak, score))
    if not _is_shown(evidence.score):
        return Verdict(word=NOTHING, reasons=(*control, score))
    if failed:
        name, p = failed[0]
        return Verdict(word=NOTHING, reasons=(*control, score, f"but {name} gives as much by chance: p {p:.3f}"))
    reasons = (*control, score, *(f"{name}: p {p:.3f}" for name, p in evidence.nulls))
    steps = {
        CONFOUND: ("unique r, beyond confounds", evidence.beyond_confounds),
        NOT_BEYOND_EVENTS: ("unique r, beyond confounds and stimuli", evidence.beyond_events),
    }
    for word, (name, step) in steps.items():
        reasons = (*reasons, _reason(name, step))
        if not _is_shown(step):
            return Verdict(word=word, reasons=reasons)
    if evidence.replication is None:
        return Verdict(word=EEG_SPECIFIC, reasons=reasons)
    reasons = (*reasons, _reason("temporal r in the second data set", evidence.replication))
    return Verdict(word=REPLICATED if _is_shown(evidence.replication) else EEG_SPECIFIC, reasons=reasons)


def _is_shown(step: Step) -> bool:
    return step.low > 0  # False where it is nan


def _reason(name: str, step: Step) -> str:
    if step.missing:
        return f"{name} is not known: {step.missing}"
    if math.isnan(step.low):
        return f"{name} {step.mean:+.3f}, too few subjects for an interval"
    is_above = "above 0" if step.low > 0 else "not above 0"
    return f"{name} {step.mean:+.3f}, {is_above} (95 % interval from {step.low:+.3f})"
