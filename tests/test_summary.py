"""The summary: what was found in words, and the words that keep it honest."""

import dataclasses
from collections.abc import Sequence

import pytest

from platform.evidence.findings import Findings
from platform.evidence.statistics import MIXED_MODEL, RAW, Estimate
from platform.evidence.verdict import CONFOUND, Verdict
from platform.ledger.records import WINNER, BaselineFolds, FoldRecord, LedgerTrial
from platform.scores.baselines import BASELINES, CONFOUNDS, FITTED_IN_SUBJECT, KNOWS_EEG
from platform.study.result import StudyResult
from platform.study.summary import WIDTH, summary
from platform.training.calibration import Calibration

NUM_SUBJECTS = 5
FOUND = Findings(
    study="transformer",
    is_closed=True,
    winner=LedgerTrial(number=3, state="COMPLETE", params={}, configuration={}, records={}),
    raw=Estimate(mean=0.2, low=0.11, high=0.29, method=RAW, num_subjects=NUM_SUBJECTS, is_selected=True),
    corrected=Estimate(mean=0.15, low=0.06, high=0.24, method=MIXED_MODEL, num_subjects=NUM_SUBJECTS),
    bootstrapped=None,
    unselected=(),
    comparisons=(),
    leaders=(3,),
    cheapest=3,
    smallest_effect=0.09,
    seed_sd=None,
    importance=(),
    nulls=(),
    verdict=Verdict(word=CONFOUND, reasons=("temporal r +0.150, above 0 (95 % interval from +0.060)",)),
)


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
            validation=by_fold(*[0.02 * number] * NUM_SUBJECTS), test=by_fold(*[0.01 * number] * NUM_SUBJECTS)
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
    assert ("(no EEG)" in line) == (name not in KNOWS_EEG | CONFOUNDS)
    assert ("*" in line) == (name in FITTED_IN_SUBJECT)
    number = list(BASELINES).index(name)
    assert f"{0.02 * number:+.3f} +- 0.000" in line and f"{0.01 * number:+.3f} +- 0.000" in line
    assert line.split()[-1] == str(NUM_SUBJECTS)


def test_how_trials_ended_is_counted():
    text = summary(result())
    assert "study transformer: 4 trials (1 on all folds, 1 raced out, 1 failed, 1 not settled)" in text
    assert "5 subjects, one fold each" in text


def test_a_winner_above_the_best_baseline_is_called_so():
    text = summary(result())
    assert "is above the best baseline (ridge_band_power) by validation: +0.130, higher on 4 of 5 folds" in text
    assert "NOT" not in text


@pytest.mark.parametrize("scores", [(0.1,) * 5, (0.14,) * 5, (-0.2, -0.1, 0.0, 0.1, 0.2)], ids=str)
def test_a_winner_that_is_not_above_the_best_baseline_is_said_not_to_be(scores):
    text = summary(result(scores))
    assert "is NOT above the best baseline (ridge_band_power)" in text


def test_what_choosing_added_is_taken_off_and_the_verdict_has_its_reasons():
    text = summary(result(findings=FOUND))
    assert "it scores +0.050 too high; a new subject may expect +0.150 (95 % interval +0.060 to +0.240)" in text
    assert row(text, "The smallest score").endswith("four times out of five: 0.090.")
    assert row(text, "VERDICT:").startswith("VERDICT: confound (")
    assert row(text, "temporal r +0.150, above 0")


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


# Further scores


def further(**scores: tuple[float, ...]) -> dict[str, dict[str, dict[int, float]]]:
    """Return the same scores for the winner, and tenths of them for two baselines."""
    return {
        predictor: {name: by_fold(*[share * value for value in values]) for name, values in scores.items()}
        for predictor, share in ((WINNER, 1.0), ("ridge_band_power", 0.1), ("zero", 0.0))
    }


def test_further_scores_stand_beside_those_of_baselines_as_means():
    text = summary(result(further=further(temporal_r_grey=(0.2, 0.3), identification=(0.6, 0.7))))
    assert row(text, "further test scores, mean").split()[-3:] == ["winner", "ridge", "zero"]
    assert row(text, "temporal r, grey matter").split()[-3:] == ["0.250", "0.025", "0.000"]
    assert row(text, "identification").split()[-3:] == ["0.650", "0.065", "0.000"]


def test_a_score_that_a_baseline_has_not_is_a_dash_and_one_that_nobody_has_is_left_out():
    scores = further(temporal_r_grey=(0.2,), unique_r=(0.1,))
    del scores["zero"]["unique_r"]
    text = summary(result(further=scores))
    assert row(text, "unique r, beyond confounds").split()[-3:] == ["0.100", "0.010", "-"]
    assert "SSIM" not in text


def test_the_mean_squared_error_is_shown_in_units_that_can_be_read():
    text = summary(result(further=further(mse_given_own_mean=(9e-4, 5e-4))))
    assert row(text, "given own mean image: MSE, 1e-4").split()[-3:] == ["7.000", "0.700", "0.000"]


def test_without_further_scores_there_is_no_second_table():
    assert "further test scores" not in summary(result())


def test_a_baseline_fitted_in_the_subject_is_no_rival():
    scores = result().baselines
    within = dict(scores, ridge_within_subject=BaselineFolds(validation=by_fold(*[0.9] * 5), test=by_fold(*[0.9] * 5)))
    assert "above the best baseline (ridge_band_power)" in summary(result(baselines=within))


@pytest.mark.parametrize(("how", "known"), [("eeg", "EEG alone, unlabelled"), ("paired", "EEG with its volumes")])
def test_a_calibrated_study_says_what_was_calibrated_and_what_was_not(how, known):
    text = summary(result(calibration=Calibration(how=how, minutes=2.5)))
    assert f"CALIBRATED: the first 2.5 minutes of every scored subject adapt the model ({known})." in text
    assert "the baselines' too, are of the rest; baselines and the refitted model are not calibrated" in text
    assert "CALIBRATED" not in summary(result())
