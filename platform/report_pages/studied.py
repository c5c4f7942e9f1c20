"""A closed study as its report reads it: what the findings say, and the ledger's tables with subjects' names.

Takes a ledger and its findings; gives the tables that sections show.  Of all trials only the winner's test scores are
among them.
"""

import csv
import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from platform.evidence.findings import Findings
from platform.ledger.ledger import Ledger
from platform.ledger.records import BaselineFolds, LedgerTrial

TEST = "test"
FOLD_SUBJECTS = "fold_subjects"
"""Under this the ledger notes who is tested by which fold."""
BASELINE_NAMES = {
    "zero": "zero",
    "time_in_run": "time in run",
    "events": "events",
    "pulse": "pulse",
    "eyes_and_muscle": "eyes and muscle",
    "head_motion": "head motion",
    "confounds": "all confounds",
    "ridge_band_power": "ridge on band power",
    "ridge_within_subject": "ridge within subject",
}
KINDS = {
    "zero": 4, "time_in_run": 4, "events": 4,
    "pulse": 3, "eyes_and_muscle": 3, "head_motion": 3, "confounds": 3,
    "ridge_band_power": 0, "ridge_within_subject": 0,
}  # fmt: skip
"""Which colour and symbol a baseline has, by what it knows."""
KIND_NAMES = {1: "the winner", 0: "knows EEG", 3: "confounds", 4: "knows no EEG"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Studied:
    """What a report's sections share."""

    ledger: Ledger
    findings: Findings

    @property
    def winner(self) -> LedgerTrial:
        """The trial with the highest mean validation score over all folds."""
        return self.findings.winner

    @property
    def unit(self) -> str:
        """What a fold leaves out: a subject, a recording, or a share of shuffled windows."""
        return self.findings.unit

    @functools.cached_property
    def baselines(self) -> dict[str, BaselineFolds]:
        """Every baseline's scores by fold."""
        return self.ledger.baselines()

    @functools.cached_property
    def nested(self) -> Mapping[str, Any]:
        """What a nested study says of every subject; empty where it is none."""
        return self.ledger.noted("nested") or {}

    @functools.cached_property
    def test(self) -> dict[int, float]:
        """The winner's test scores by fold; of a nested study by subject, in the order of their names."""
        if self.nested:
            return dict(enumerate(self.nested["winner"].values()))
        return self.ledger.test_scores(self.winner.number)

    @functools.cached_property
    def folds(self) -> list[int]:
        """The folds that the winner ran on."""
        return sorted(self.winner.scores)

    @functools.cached_property
    def tested(self) -> dict[int, str]:
        """Who is tested, as the keys of ``test`` have it; "fold 3" where the ledger does not say."""
        if self.nested:
            return dict(enumerate(self.nested["winner"]))
        names = self.ledger.noted(FOLD_SUBJECTS) or []
        return {fold: names[fold] if fold < len(names) else f"fold {fold}" for fold in self.folds}

    @functools.cached_property
    def further(self) -> dict[str, dict[str, dict[int, float]]]:
        """Further test scores by predictor, by score, by fold; empty where none are stored for all folds."""
        of_winner = self.ledger.further_scores(f"trial-{self.winner.number:04d}")
        beside = self.ledger.further_scores("references")
        if set(of_winner) != set(self.folds):
            return {}
        found: dict[str, dict[str, dict[int, float]]] = {}
        for fold in self.folds:
            for predictor, scores in {"winner": of_winner[fold][TEST], **beside.get(fold, {})}.items():
                for score, value in scores.items():
                    found.setdefault(predictor, {}).setdefault(score, {})[fold] = value
        return found

    def name_of(self, predictor: str) -> str:
        """Return what a predictor is called on the page."""
        return "the winner" if predictor == "winner" else BASELINE_NAMES.get(predictor, predictor)

    def by_subject_csv(self) -> bytes:
        """Return the winner's and the baselines' scores as CSV, one row for each who is tested."""
        rows: list[dict[str, str | float]] = []
        for fold, subject in self.tested.items():
            of_fold: dict[str, str | float] = {"tested": subject, "fold": fold}
            if not self.nested:
                of_fold["winner_validation"] = self.winner.scores[fold]
            of_fold["winner_test"] = self.test[fold]
            for name, scores in self.baselines.items():
                if fold in scores.test:
                    of_fold[f"{name}_validation"] = scores.validation[fold]
                    of_fold[f"{name}_test"] = scores.test[fold]
            for score, by_fold in self.further.get("winner", {}).items():
                of_fold[f"winner_{score}"] = by_fold[fold]
            rows.append(of_fold)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()
