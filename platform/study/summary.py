"""A study's result in words: the best configuration beside every baseline, and where to look further.

Takes a study's result; gives text for a terminal.
"""

import math
import statistics
from collections.abc import Mapping
from typing import Any

from platform.evidence.findings import Findings
from platform.evidence.statistics import Estimate
from platform.evidence.verdict import WORDS
from platform.ledger.records import WINNER, FurtherScores, LedgerTrial, mean
from platform.racing.paired import leaders
from platform.scores.baselines import CONFOUNDS, FITTED_IN_SUBJECT, KNOWS_EEG
from platform.study.result import StudyResult
from platform.training.calibration import Calibration

WIDTH = 100
SHORT_NAMES = {WINNER: "winner", "ridge_band_power": "ridge", "time_in_run": "time"}
SCORE_NAMES = {
    "temporal_r_grey": "temporal r, grey matter",
    "temporal_r_grey_without_global": "  global signal removed",
    "temporal_r_parcels": "temporal r, parcels",
    "r2_subject_mean": "R2 against the subject's mean",
    "identification": "identification (chance 0.5)",
    "unique_r": "unique r, beyond confounds",
    "unique_r_beyond_events": "unique r, and beyond events",
    "ssim_given_own_mean": "given own mean image: SSIM",
    "psnr_db_given_own_mean": "given own mean image: PSNR, dB",
    "mse_given_own_mean": "given own mean image: MSE, 1e-4",
}
"""The scores of the summary's second table, in its order; all others stand in MLflow."""
_TEN_THOUSANDTHS = 1e4
RULED_OUT = 0.05
"""Chance of being better than the best, below which a trial does not lead with it."""


def summary(result: StudyResult) -> str:
    """Return what a search found, for a terminal."""
    if result.winner is None:
        return (
            f"study {result.name}: no trial has run on all {result.num_subjects} folds yet, so there is no best "
            "configuration; run the same command again to go on, or see why trials failed in MLflow"
        )
    return "\n".join(
        [
            "=" * WIDTH,
            f"study {result.name}: {_states(result)}",
            *([f"ended early: {result.ended_by}"] if result.ended_by else []),
            "",
            *_configuration(result.winner),
            "",
            *_scores(result, result.winner),
            "",
            *_further(result),
            *_finalists(result),
            *_not_chosen_by(result),
            *_nulls(result),
            *_caution(result, result.winner),
            "=" * WIDTH,
        ]
    )


def _states(result: StudyResult) -> str:
    states = [trial.state for trial in result.trials]
    named = {"COMPLETE": "on all folds", "PRUNED": "raced out", "FAIL": "failed", "RUNNING": "not settled"}
    counts = ", ".join(f"{states.count(state)} {name}" for state, name in named.items() if state in states)
    folds = "a fold for each pair" if result.nested else "one fold each"
    return f"{len(states)} trials ({counts}), {result.num_subjects} {result.unit}s, {folds}"


def _configuration(winner: LedgerTrial) -> list[str]:
    rows = [f"  {key:<22} {_shown(value)}" for key, value in sorted(winner.configuration.items())]
    uses = f", {winner.uses}" if winner.uses else ""
    return [f"best configuration (trial {winner.number}{uses})", *rows]


def _scores(result: StudyResult, winner: LedgerTrial) -> list[str]:
    subjects = result.num_subjects
    head = f"  {'temporal r, responsive voxels':<34}{'validation':>16}{'test':>18}{result.unit + 's':>12}"
    rows = [_row(f"best configuration (trial {winner.number})", winner.scores, result.test, subjects)]
    for name, scores in result.baselines.items():
        rows.append(_row(f"baseline {name}{_remark(name)}", scores.validation, scores.test, subjects))
    return [
        head,
        *rows,
        "  mean +- standard error over folds; test scores stayed sealed until the search was over",
        "  * fitted in the subject's own other runs: no model of other subjects",
    ]


def _remark(name: str) -> str:
    if name in FITTED_IN_SUBJECT:
        return " *"
    return "" if name in KNOWS_EEG | CONFOUNDS else " (no EEG)"


def _further(result: StudyResult) -> list[str]:
    """Return the second table: the winner's further test scores beside those of the baselines that have some."""
    if not result.further:
        return []
    columns = [SHORT_NAMES.get(name, name) for name in result.further]
    rows = [
        _further_row(name, shown, result.further)
        for name, shown in SCORE_NAMES.items()
        if name in result.further[WINNER]
    ]
    head = "".join(f"{column:>11}" for column in columns)
    return [f"  {'further test scores, mean':<32}{head}", *rows, ""]


def _finalists(result: StudyResult) -> list[str]:
    """Return a line for each trial that ran with several seeds, and which of those that lead is the cheapest."""
    lines = [
        f"  trial {trial.number}: mean validation r {' '.join(f'{value:+.3f}' for value in means)} by seed, "
        f"SD {statistics.stdev(means):.4f}"
        for trial in sorted(result.trials, key=lambda each: -mean(each.scores) if each.scores else math.inf)
        if len(means := trial.means_by_repeat) > 1
    ]
    return [*lines, *_cheapest(result), *([""] if lines else [])]


def _cheapest(result: StudyResult) -> list[str]:
    complete = [trial for trial in result.trials if trial.state == "COMPLETE"]
    if result.racing != "paired" or len(complete) < 2:  # noqa: PLR2004 - nothing to compare
        return []
    at = leaders([trial.scores for trial in complete], result.num_subjects, RULED_OUT)
    leading = [complete[position] for position in at]
    if len(leading) == 1:
        return [f"  trial {leading[0].number} leads: every rival is less than {RULED_OUT:.0%} likely to be better"]
    cheapest = min(leading, key=lambda trial: (trial.seconds_per_job, trial.number))
    numbers = ", ".join(str(trial.number) for trial in leading)
    return [
        f"  trials {numbers} cannot be told apart by their scores; the cheapest is trial {cheapest.number} "
        f"({cheapest.seconds_per_job:.3g} s a fold job)"
    ]


def _not_chosen_by(result: StudyResult) -> list[str]:
    """Return what subjects say by whom nothing was chosen: of a nested study, or locked away."""
    lines = []
    if result.nested:
        scores, chosen = result.nested["subjects"], sorted(set(result.nested["chosen"].values()))
        lines.append(
            f"  nested: {_with_error(scores)} over {len(scores)} subjects, each scored at what the others chose "
            f"(of {result.nested['num_trials']} trials: {', '.join(map(str, chosen))})"
        )
    if "subjects" in result.locked_away:
        opened, scores = result.locked_away, result.locked_away["subjects"]
        best = max(_rivals(opened["baselines"]), key=lambda name: mean(opened["baselines"][name]))
        lines.append(
            f"  locked away: trial {opened['trial']} {_with_error(scores)} on {len(scores)} subjects, {best} "
            f"{_with_error(opened['baselines'][best])}; opened at {opened['at']}"
        )
    return [*lines, *([""] if lines else [])]


def _nulls(result: StudyResult) -> list[str]:
    """Return where a score stands among those without coupling."""
    lines = [
        f"  null {null['name']}: {null['observed']:+.3f}, and {max(null['values']):+.3f} at most under "
        f"{len(null['values'])} flips of BOLD's sign by subject, p {null['p']:.3f}"
        for null in result.nulls
    ]
    return [*lines, *([""] if lines else [])]


def _rivals(baselines: Mapping[str, Any]) -> list[str]:
    return [name for name in baselines if name not in FITTED_IN_SUBJECT]


def _further_row(name: str, shown: str, further: FurtherScores) -> str:
    unit = _TEN_THOUSANDTHS if name == "mse_given_own_mean" else 1
    values = [f"{mean(scores[name]) * unit:.3f}" if name in scores else "-" for scores in further.values()]
    return f"  {shown:<32}" + "".join(f"{value:>11}" for value in values)


def _row(name: str, validation: Mapping[Any, float], test: Mapping[Any, float], subjects: int) -> str:
    return f"  {name:<34}{_with_error(validation):>16}{_with_error(test):>18}{subjects:>12}"


def _with_error(scores: Mapping[Any, float]) -> str:
    error = statistics.stdev(scores.values()) / math.sqrt(len(scores)) if len(scores) > 1 else math.nan
    return f"{mean(scores):+.3f} +- {error:.3f}"


def _caution(result: StudyResult, winner: LedgerTrial) -> list[str]:
    lines = [f"CAUTION: {result.leak}."] if result.leak else []
    if result.pairing != "recorded":
        lines.append(
            "CONTROL: EEG was paired with another run's BOLD; any score above 0 here needs no coupling at all."
        )
    rivals = {name: scores for name, scores in result.baselines.items() if name not in FITTED_IN_SUBJECT}
    if result.calibration is not None:
        lines.append(_calibrated(result.calibration))
    best_name, best = max(rivals.items(), key=lambda item: mean(item[1].validation))
    num_better = sum(winner.scores[fold] > best.validation[fold] for fold in winner.scores)
    difference = mean(winner.scores) - mean(best.validation)
    verb = "above" if difference > 0 else "NOT above"
    lines.append(
        f"The best configuration is {verb} the best baseline ({best_name}) by validation: {difference:+.3f}, "
        f"higher on {num_better} of {len(winner.scores)} folds."
    )
    return [*lines, *_verdict(result.findings)]


def _verdict(found: Findings | None) -> list[str]:
    """Return what a new subject may be expected to score, and the verdict with its reasons."""
    if found is None:
        return []
    added = found.raw.mean - found.corrected.mean
    expected = f"other {found.unit}s of these subjects" if found.leak else "a new subject"
    return [
        f"Chosen on these very {found.unit}s, it scores {added:+.3f} too high; {expected} may expect "
        f"{_with_interval(found.corrected)}.",
        f"The smallest score that such a study finds four times out of five: {found.smallest_effect:.3f}.",
        f"VERDICT: {found.verdict.word} ({WORDS[found.verdict.word]})",
        *(f"  {reason}" for reason in found.verdict.reasons),
    ]


def _with_interval(estimate: Estimate) -> str:
    return f"{estimate.mean:+.3f} (95 % interval {estimate.low:+.3f} to {estimate.high:+.3f})"


def _calibrated(calibration: Calibration) -> str:
    known = {"eeg": "EEG alone, unlabelled", "paired": "EEG with its volumes"}[calibration.how]
    return (
        f"CALIBRATED: the first {calibration.minutes:g} minutes of every scored subject adapt the model ({known}).\n"
        "All scores, the baselines' too, are of the rest; baselines and the refitted model are not calibrated."
    )


def _shown(value: Any) -> str:  # noqa: ANN401 - a choice of any kind
    return f"{value:.4g}" if isinstance(value, float) else str(value)
