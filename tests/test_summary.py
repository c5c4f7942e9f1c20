"""The summary: what was found in words, and the words that keep it honest."""

import dataclasses
from collections.abc import Sequence

import pytest

from platform.baselines import BASELINES, KNOWS_EEG
from platform.ledger import BaselineFolds, FoldRecord, LedgerTrial
from platform.study import StudyResult
from platform.summary import WIDTH, summary

NUM_SUBJECTS = 5


def trial(number: int, scores: Sequence[float], state: str = "COMPLETE") -> LedgerTrial:
    records = {fold: FoldRecord(trial=number, fold=fold, score=score) for fold, score in enumerate(scores)}
    configuration = {"width": 64, "learning_rate": 0.00123456, "loss": "mse"}
    return LedgerTrial(number=number, state=state, params={}, configuration=configuration, records=records)


def by_fold(*scores: float) -> dict[int, float]:
    return dict(enumerate(scores))


def result(winner_scores: Sequence[float] = (0.3, 0.31, 0.29, 0.1, 0.35), **changes: object) -> StudyResult:
    winner = trial(3, winner_scores)
    baselines = {
        name: BaselineFolds(
            validation=by_fold(*[0.05 * number] * NUM_SUBJECTS), test=by_fold(*[0.04 * number] * NUM_SUBJECTS)
        )
        for number, name in enumerate(BASELINES)
    }
    whole = {
        "name": "transformer",
        "num_subjects": NUM_SUBJECTS,
        "trials": [trial(0, [0.1], "PRUNED"), trial(1, [], "FAIL"), trial(2, [0.1], "RUNNING"), winner],
        "winner": winner,
        "test": by_fold(0.2, 0.21, 0.19, 0.2, 0.2),
        "baselines": baselines,
        "pairing": "recorded",
        "is_tracked": True,
    }
    return StudyResult(**{**whole, **changes})


def row(text: str, beginning: str) -> str:
    """Return the one line that begins so."""
    (found,) = [line for line in text.splitlines() if line.strip().startswith(beginning)]
    return found


def test_the_winner_and_its_configuration_are_named():
    text = summary(result())
    assert row(text, "best configuration (trial 3)  ")
    assert row(text, "width").split() == ["width", "64"]
    assert row(text, "learning_rate").split() == ["learning_rate", "0.001235"]
    assert row(text, "loss").split() == ["loss", "mse"]


def test_scores_stand_with_their_standard_error_and_the_number_of_subjects():
    scores = row(summary(result()), "best configuration (trial 3)  ").removeprefix("  best configuration (trial 3)")
    assert scores.split() == ["+0.270", "+-", "0.044", "+0.200", "+-", "0.003", "5"]


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_stands_beside_it_and_says_whether_it_knows_eeg(name):
    line = row(summary(result()), f"baseline {name} ")
    assert ("(no EEG)" in line) == (name not in KNOWS_EEG)
    number = list(BASELINES).index(name)
    assert f"{0.05 * number:+.3f} +- 0.000" in line and f"{0.04 * number:+.3f} +- 0.000" in line
    assert line.split()[-1] == str(NUM_SUBJECTS)


def test_how_trials_ended_is_counted():
    text = summary(result())
    assert "study transformer: 4 trials (1 on all folds, 1 raced out, 1 failed, 1 not settled)" in text
    assert "5 subjects, one fold each" in text


def test_a_winner_above_the_best_baseline_is_called_so():
    text = summary(result())
    assert "is above the best baseline (ridge_band_power) by validation: +0.120, higher on 4 of 5 folds" in text
    assert "NOT" not in text


@pytest.mark.parametrize("scores", [(0.1,) * 5, (0.15,) * 5, (-0.2, -0.1, 0.0, 0.1, 0.2)], ids=str)
def test_a_winner_that_is_not_above_the_best_baseline_is_said_not_to_be(scores):
    text = summary(result(scores))
    assert "is NOT above the best baseline (ridge_band_power)" in text


def test_that_the_winner_is_the_best_of_many_is_said():
    assert "the best of 4 configurations on these very subjects" in summary(result())


def test_a_control_is_marked_and_a_study_of_recorded_pairs_is_not():
    assert row(summary(result(pairing="run-swapped")), "CONTROL: EEG was paired with another run's BOLD")
    assert "CONTROL" not in summary(result())


def test_a_study_without_a_complete_trial_says_so_and_what_to_do():
    text = summary(result(winner=None, test={}))
    assert "no trial has run on all 5 folds yet" in text and "run the same command again" in text
    assert "above" not in text


def test_a_single_fold_has_no_standard_error_and_the_summary_still_stands():
    one = BaselineFolds(validation=by_fold(0.1), test=by_fold(0.1))
    winner = trial(0, [0.2])
    text = summary(
        dataclasses.replace(
            result(), trials=[winner], winner=winner, test=by_fold(0.2), baselines=dict.fromkeys(BASELINES, one)
        )
    )
    assert "+0.200 +- nan" in text


def test_lines_fit_a_terminal():
    table = [line for line in summary(result()).splitlines() if line.startswith("  ")]
    assert table and max(map(len, table)) <= WIDTH
