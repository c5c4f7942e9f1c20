"""What a search found, for whoever tells of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from platform.evidence.findings import Findings
from platform.ledger.records import BaselineFolds, FurtherScores, LedgerTrial
from platform.training.calibration import Calibration


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What a search found; scores are keyed by fold.

    Attributes:
        name: the study's name.
        num_subjects: subjects in folds, or recordings, or shares of windows, as ``unit`` says.
        trials: every trial.
        winner: the trial with the highest mean validation score over all folds; None where no trial has them all.
        test: the winner's test scores, opened now that the search is over.
        baselines: every baseline's scores.
        pairing: how EEG was paired with BOLD.
        calibration: how the first minutes of scored subjects adapted the models; None for not at all.
        is_tracked: whether MLflow holds everything.
        further: further test scores, by ``winner`` or a baseline, by score, by fold; empty where none were wanted.
        racing: the rule by which trials raced.
        ended_by: which budget ended the search before its last trial, in words; "" where none did.
        nested, locked_away: what they say of each subject, and of what, as the ledger notes it; empty where unasked.
        nulls: scores without coupling, as the ledger notes them.
        unit: what a fold leaves out.
        leak: what training had of the scored subjects, in words; "" for nothing.
        findings: what the study found; None where there is no winner.
    """

    name: str
    num_subjects: int
    trials: Sequence[LedgerTrial]
    winner: LedgerTrial | None
    test: Mapping[int, float]
    baselines: Mapping[str, BaselineFolds]
    pairing: str
    is_tracked: bool
    calibration: Calibration | None = None
    further: FurtherScores = field(default_factory=dict)
    racing: str = "none"
    ended_by: str = ""
    nested: Mapping[str, Any] = field(default_factory=dict)
    locked_away: Mapping[str, Any] = field(default_factory=dict)
    nulls: Sequence[Mapping[str, Any]] = ()
    unit: str = "subject"
    leak: str = ""
    findings: Findings | None = None
