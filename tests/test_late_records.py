"""What is recorded after a trial was told: kept by the study, read again, and shown."""

from pathlib import Path

import pytest

from datasets.errors import BadInput
from platform.ledger.ledger import Ledger
from platform.ledger.records import FoldRecord, best_trial
from platform.ledger.studies import open_ledger
from platform.proposals.samplers import Proposal
from platform.study.tables import trial_rows

TERMS = {"racing": "paired"}
NUM_FOLDS = 3


def url(folder: Path) -> str:
    return f"sqlite:///{folder}/studies.db"


def record(trial: int, fold: int, score: float | None, repeat: int = 0) -> FoldRecord:
    test_score = None if score is None else score - 1
    return FoldRecord(
        trial=trial, fold=fold, score=score, test_score=test_score, seconds=2.0, repeat=repeat,
        stop_reason="" if score is not None else "the loss is nan",
    )  # fmt: skip


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    """Return a study of one trial on all folds, one that was raced out after the first, and one that failed."""
    ledger = open_ledger(url(tmp_path), "study", TERMS)
    ledger.keep_num_folds(NUM_FOLDS)
    for number, scores in enumerate(((0.1, 0.2, 0.3), (0.9,), (None,))):
        ledger.add(Proposal(params={}, distributions={}, configuration={}))
        for fold, score in enumerate(scores):
            ledger.commit(record(number, fold, score))
        ledger.tell(number, NUM_FOLDS)
    return ledger


def both(ledger: Ledger, folder: Path) -> list[Ledger]:
    return [ledger, open_ledger(url(folder), "study", TERMS)]


def test_a_trial_that_was_raced_out_is_complete_once_it_has_all_folds(ledger, tmp_path):
    assert [trial.state for trial in ledger.trials] == ["COMPLETE", "PRUNED", "FAIL"]
    ledger.commit(record(1, 1, 0.8))
    assert [each.trials[1].state for each in both(ledger, tmp_path)] == ["PRUNED", "PRUNED"]
    ledger.commit(record(1, 2, 0.7))
    for each in both(ledger, tmp_path):
        assert each.trials[1].state == "COMPLETE"
        assert each.trials[1].scores == {0: 0.9, 1: 0.8, 2: 0.7}
        assert best_trial(each.trials).number == 1


def test_racing_tells_late_scores_from_those_that_its_first_stage_saw(ledger, tmp_path):
    ledger.commit(record(1, 1, 0.8))
    ledger.commit(record(1, 2, None))
    for each in both(ledger, tmp_path):
        progress = each.trials[1].progress
        assert (progress.scores, progress.late) == ({0: 0.9}, {(1, 0): 0.8, (2, 0): None})
        assert progress.is_told
        assert not progress.is_failed


def test_samplers_see_no_late_score(ledger):
    before = ledger.history(2)
    ledger.commit(record(1, 1, 0.8))
    assert ledger.history(2) == before


def test_the_first_late_record_of_a_job_wins(ledger, tmp_path):
    ledger.commit(record(1, 1, 0.8))
    ledger.commit(record(1, 1, 0.1))
    ledger.commit(record(0, 0, 0.7))
    for each in both(ledger, tmp_path):
        assert each.trials[1].scores == {0: 0.9, 1: 0.8}
        assert each.trials[0].scores[0] == 0.1


def test_a_failed_trial_takes_no_late_record(ledger, tmp_path):
    ledger.commit(record(2, 1, 0.8))
    assert not any(each.trials[2].late for each in both(ledger, tmp_path))


def test_a_trial_is_no_failure_for_a_repeat_that_failed(ledger, tmp_path):
    ledger.commit(record(0, 0, None, repeat=1))
    assert [each.trials[0].failure for each in both(ledger, tmp_path)] == ["", ""]


def test_repeats_are_means_of_their_own(ledger, tmp_path):
    for fold in range(NUM_FOLDS):
        ledger.commit(record(0, fold, 0.5, repeat=1))
        ledger.commit(record(0, fold, 0.6 if fold else None, repeat=2))
    for each in both(ledger, tmp_path):
        assert each.trials[0].means_by_repeat == pytest.approx([0.2, 0.5])
        assert each.trials[0].scores == {0: 0.1, 1: 0.2, 2: 0.3}
        assert each.trials[0].seconds == pytest.approx(2.0 * 9)


def test_late_test_scores_are_sealed_until_the_study_is_closed(ledger, tmp_path):
    ledger.commit(record(1, 1, 0.75))
    assert b"-0.25" not in (tmp_path / "studies.db").read_bytes()
    with pytest.raises(BadInput, match="stay sealed"):
        ledger.test_scores(1)
    ledger.close()
    assert open_ledger(url(tmp_path), "study", TERMS).test_scores(1) == pytest.approx({0: -0.1, 1: -0.25})


def test_tables_count_late_jobs_and_seeds(ledger):
    ledger.commit(record(1, 1, 0.8))
    for fold in range(NUM_FOLDS):
        ledger.commit(record(0, fold, 0.4, repeat=1))
    rows = {row["trial"]: row for row in trial_rows(ledger)}
    assert (rows[0]["seeds"], rows[0]["late_jobs"], rows[0]["seed_sd"]) == (2, 3, pytest.approx(0.2 / 2**0.5))
    assert (rows[1]["seeds"], rows[1]["late_jobs"], rows[1]["seed_sd"]) == (1, 1, None)
