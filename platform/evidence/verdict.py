"""One word on a study: does its best configuration work on somebody it never saw, and is it the brain?

Takes what was estimated of the winner; gives a word and its reasons.  A pure function, the same at the end of a search,
in MLflow and in a report.

Each word is one step further than the one before, and a step that was not shown counts as not taken: without recorded
confounds nobody can say more than that a confound may explain the score.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from platform.evidence.protocols import LEAKS, SHUFFLED, WITHIN

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
_STEPS = ("score", "beyond_confounds", "beyond_events")


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
        is_shuffled: whether the scored windows' own neighbours trained, so that nothing is said of anything.
        replications: what the same configuration, frozen, shows in other data sets; each name says where.
    """

    score: Step
    beyond_confounds: Step
    beyond_events: Step
    nulls: Sequence[tuple[str, float]] = ()
    is_control: bool = False
    is_within: bool = False
    is_shuffled: bool = False
    replications: Sequence[tuple[str, "Evidence"]] = ()

    @property
    def leak(self) -> str:
        """What training had of the scored subjects, in words; "" for nothing."""
        return LEAKS[SHUFFLED] if self.is_shuffled else LEAKS[WITHIN] if self.is_within else ""

    @property
    def noted(self) -> dict[str, Any]:
        """What a ledger keeps of it, replications left out: JSON knows no nan."""
        fields = dataclasses.asdict(dataclasses.replace(self, replications=()))
        del fields["replications"]
        steps = {name: _without_nan(fields[name]) for name in _STEPS}
        return {**fields, **steps, "nulls": [list(null) for null in self.nulls]}


def _without_nan(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in fields.items()}


def evidence_of(fields: Mapping[str, Any]) -> Evidence:
    """Return the evidence that a ledger keeps."""
    steps = {name: _step_of(fields[name]) for name in _STEPS}
    return Evidence(**{**fields, **steps, "nulls": tuple((name, p) for name, p in fields["nulls"])})


def _step_of(fields: Mapping[str, Any]) -> Step:
    mean, low = (math.nan if fields[name] is None else fields[name] for name in ("mean", "low"))
    return Step(mean=mean, low=low, missing=fields["missing"])


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
    if evidence.leak:
        return Verdict(word=NOTHING, reasons=(*control, evidence.leak, score))
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
    return _replicated(evidence, reasons)


def _replicated(evidence: Evidence, reasons: tuple[str, ...]) -> Verdict:
    """Return whether what is EEG-specific here is so in every other data set that was tried: none of them is chosen."""
    found = [
        (where, other, verdict(dataclasses.replace(other, replications=()))) for where, other in evidence.replications
    ]
    reasons = (*reasons, *(f"{where}: {there.word}; {there.reasons[-1]}" for where, _, there in found))
    is_control = evidence.is_control or any(other.is_control for _, other, _ in found)
    holds = bool(found) and not is_control and all(there.word == EEG_SPECIFIC for _, _, there in found)
    return Verdict(word=REPLICATED if holds else EEG_SPECIFIC, reasons=reasons)


def _is_shown(step: Step) -> bool:
    return step.low > 0  # False where it is nan


def _reason(name: str, step: Step) -> str:
    if step.missing:
        return f"{name} is not known: {step.missing}"
    if math.isnan(step.low):
        return f"{name} {step.mean:+.3f}, too few subjects for an interval"
    is_above = "above 0" if step.low > 0 else "not above 0"
    return f"{name} {step.mean:+.3f}, {is_above} (95 % interval from {step.low:+.3f})"
