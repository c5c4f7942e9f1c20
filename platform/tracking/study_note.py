"""What MLflow says of a study's winner: a note at the study's run, a card at its model, tags and metrics.

Takes a study's findings, the winner's scores beside the baselines', and the command that was given; gives text in
Markdown.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from platform.evidence.findings import Findings
from platform.evidence.statistics import ESTIMATES, Estimate
from platform.evidence.verdict import WORDS
from platform.ledger.records import BaselineFolds, LedgerTrial, mean

NOT_MEASURED = "What this model gives is a prediction, not a measurement."


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a study comes from: the command that repeats it, its shards without credentials, their digest.

    ``leak`` says what training had of the scored subjects; "" for nothing.
    """

    command: str = ""
    shards: str = ""
    digest: str = ""
    leak: str = ""


@dataclass(frozen=True, kw_only=True)
class StudyNote:
    """What is said of a study.

    Attributes:
        text: the note at its run.
        card: that of its model.
        tags, metrics: of its run.
        corrected: the winner's score corrected for having been chosen; None where it could not be estimated.
    """

    text: str
    card: str
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    corrected: float | None = None


def study_note(
    winner: LedgerTrial,
    baselines: Mapping[str, BaselineFolds],
    test_scores: Mapping[int, float],
    found: Findings | None,
    origin: Origin,
) -> StudyNote:
    """Return what is said of a closed study's winner, the verdict first; without findings no more than its scores."""
    warning = [f"**{origin.leak[0].upper()}{origin.leak[1:]}.**"] if origin.leak else []
    scores = [*warning, *(_found(found) if found else _uncorrected(winner, test_scores))]
    rows = [
        f"| {name} | {mean(scores.validation):+.4f} | {mean(scores.test):+.4f} |" for name, scores in baselines.items()
    ]
    best = f"| **trial {winner.number}** | {mean(winner.scores):+.4f} | {mean(test_scores):+.4f} |"
    beside = "\n".join(["| predictor | validation r | test r, not corrected |", "|---|---|---|", best, *rows])
    text = "\n\n".join([*scores, beside, *_repeated(origin)])
    card = "\n\n".join([f"**{NOT_MEASURED}**", *scores, *_alignment(winner), *_data(origin)])
    return StudyNote(text=text, card=card, tags=_tags(found), metrics=_metrics(found), corrected=_corrected(found))


def _found(found: Findings) -> list[str]:
    reasons = "\n".join(f"- {reason}" for reason in found.verdict.reasons)
    return [
        f"## {found.verdict.word}",
        f"{WORDS[found.verdict.word].capitalize()}.\n\n{reasons}",
        f"Trial {found.winner.number}, corrected for having been chosen: **r {_shown(found.corrected)}** over "
        f"{found.corrected.num_subjects} {found.unit}s ({ESTIMATES[found.corrected.method]}).",
        *(f"{ESTIMATES[other.method].capitalize()}: r {_shown(other)}." for other in found.unselected),
    ]


def _uncorrected(winner: LedgerTrial, test_scores: Mapping[int, float]) -> list[str]:
    return [
        f"Trial {winner.number}: validation r {mean(winner.scores):+.4f}, test r {mean(test_scores):+.4f}, the best of "
        "a search: expect less on new subjects."
    ]


def _shown(estimate: Estimate) -> str:
    return f"{estimate.mean:+.3f} (95 % interval {estimate.low:+.3f} to {estimate.high:+.3f})"


def _tags(found: Findings | None) -> dict[str, str]:
    return {} if found is None else {"verdict": found.verdict.word, "verdict.reasons": "; ".join(found.verdict.reasons)}


def _metrics(found: Findings | None) -> dict[str, float]:
    if found is None:
        return {}
    best = found.corrected
    told = {"corrected/mean": best.mean, "corrected/ci_low": best.low, "corrected/ci_high": best.high}
    return {key: value for key, value in told.items() if math.isfinite(value)}


def _corrected(found: Findings | None) -> float | None:
    return found.corrected.mean if found is not None and math.isfinite(found.corrected.mean) else None


def _alignment(winner: LedgerTrial) -> list[str]:
    alignment = winner.configuration.get("alignment", "none")
    return [] if alignment == "none" else [f"Each subject's EEG is aligned before the model sees it: {alignment}."]


def _repeated(origin: Origin) -> list[str]:
    return [f"The command that repeats this run:\n\n```\n{origin.command}\n```"] if origin.command else []


def _data(origin: Origin) -> list[str]:
    return [f"Trained on the shards {origin.shards}, manifest {origin.digest}."] if origin.digest else []
