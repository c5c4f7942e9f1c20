"""The report: its numbers are the ledger's, other trials' test scores stay out of it, and bad input is one line."""

import re
import statistics

import pytest

from datasets.errors import BadInput
from platform.ledger import FoldRecord, Ledger, open_ledger
from platform.report import report_page
from platform.samplers import Proposal

NUM_FOLDS = 4
VALIDATION = {0: (0.11, 0.12, 0.16, 0.14), 1: (0.31, 0.33, 0.36, 0.34)}
TEST = {0: (0.7771, 0.7772, 0.7773, 0.7774), 1: (0.21, 0.22, 0.26, 0.24)}


def study(folder, trials=(0, 1), *, closed=True) -> Ledger:
    ledger = open_ledger(f"sqlite:///{folder / 'studies.db'}", "small", {"seed": 7, "data": "<b>digest</b>"})
    for number in trials:
        ledger.add(Proposal(params={}, distributions={}, configuration={"width": 8 * (number + 1)}))
        for fold in range(NUM_FOLDS):
            scores = {"score": VALIDATION[number][fold], "test_score": TEST[number][fold]}
            ledger.commit(FoldRecord(trial=number, fold=fold, seconds=2.0, **scores))
        ledger.tell(number, NUM_FOLDS)
    for fold in range(NUM_FOLDS):
        ledger.commit_baselines(fold, {"events": (0.05 + 0.01 * fold, 0.02 * fold)})
    if closed:
        ledger.close()
    return ledger


def shown(values) -> str:
    return f"{statistics.fmean(values):+.4f} (SD {statistics.stdev(values):.4f})"


def cells(page: str, heading: str) -> list[str]:
    (found,) = re.findall(rf'<tr><th scope="row">{re.escape(heading)}</th>(.*?)</tr>', page)
    return re.findall(r"<td>(.*?)</td>", found)


def test_winner_and_baselines_stand_with_the_ledgers_numbers(tmp_path):
    page = report_page(study(tmp_path))
    assert cells(page, "best configuration (trial 1)") == [shown(VALIDATION[1]), shown(TEST[1])]
    assert cells(page, "events") == [shown([0.05, 0.06, 0.07, 0.08]), shown([0, 0.02, 0.04, 0.06])]


def test_no_other_trials_test_scores_stand_on_the_page(tmp_path):
    page = report_page(study(tmp_path))
    assert cells(page, "0") == ["complete", "4", shown(VALIDATION[0]), "8"]
    assert "0.777" not in page


def test_openings_are_listed_and_text_is_no_markup(tmp_path):
    ledger = study(tmp_path)
    page = report_page(ledger)
    assert cells(page, ledger.closings[0]["at"]) == ["2"]
    assert "<b>digest" not in page and "<script" not in page and "http" not in page


def test_a_study_that_is_not_over_is_refused(tmp_path):
    with pytest.raises(BadInput, match="is not over"):
        report_page(study(tmp_path, closed=False))


def test_a_study_without_a_complete_trial_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no trial on all folds"):
        report_page(study(tmp_path, trials=()))
