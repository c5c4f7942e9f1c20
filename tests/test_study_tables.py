"""Studies as tables: what is shown, exported and deleted, and what is not."""

import subprocess
import sys
from collections.abc import Callable

import pyarrow.csv
import pyarrow.parquet
import pytest
from searching import ROOT, environment

from datasets.command_line import run_command
from datasets.errors import BadInput
from platform.ledger.ledger import Ledger
from platform.ledger.records import FoldRecord
from platform.ledger.studies import open_ledger, read_ledger, study_names
from platform.proposals.samplers import Proposal
from platform.study.tables import COMMANDS, export, main, shown, trial_rows

NUM_FOLDS = 3
SCORES = {0: [0.1, 0.2, 0.3], 1: [0.4, 0.5, 0.6], 2: [0.9]}
CONFIGURATIONS = [
    {"width": 16, "dropout": 0, "lags": "free"},
    {"width": 32, "dropout": 0.5, "weights": [1, 2]},
    {"width": 64, "dropout": 0.25, "lags": "haemodynamic"},
    {"width": 8, "dropout": 0.1},
]


@pytest.fixture
def storage(tmp_path) -> str:
    return f"sqlite:///{tmp_path / 'studies.db'}"


@pytest.fixture
def ledger(storage) -> Ledger:
    """Return a study whose second trial is best, whose third was raced out, and whose fourth failed."""
    ledger = open_ledger(storage, "example", {"seed": 0})
    for configuration in CONFIGURATIONS:
        ledger.add(Proposal(params={}, distributions={}, configuration=configuration))
    for trial, scores in SCORES.items():
        for fold, score in enumerate(scores):
            ledger.commit(FoldRecord(trial=trial, fold=fold, score=score, test_score=-score, seconds=1.5))
        ledger.tell(trial, NUM_FOLDS)
    ledger.commit(FoldRecord(trial=3, fold=0, score=None, stop_reason="the loss is nan"))
    ledger.tell(3, NUM_FOLDS)
    ledger.commit_baselines(0, {"zero": (0.0, 0.0), "ridge": (0.25, 0.5)})
    return ledger


@pytest.fixture
def run(tmp_path, monkeypatch, capsys) -> Callable[..., tuple[int, str]]:
    """Return what runs the command in this process, with the storage of the studies as its home's."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setenv("EEG2FMRI_HOME", str(tmp_path))
        monkeypatch.setattr(sys, "argv", ["study", *arguments])
        status = run_command(main)
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


def test_trials_stand_by_their_mean_the_complete_ones_first(ledger):
    rows = trial_rows(ledger)
    assert [row["trial"] for row in rows] == [1, 0, 2, 3]
    assert [row["state"] for row in rows] == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL"]
    assert rows[0]["validation_mean"] == pytest.approx(0.5)
    assert [rows[0][f"validation_{fold:04d}"] for fold in range(NUM_FOLDS)] == SCORES[1]
    assert rows[2]["validation_0001"] is None
    assert (rows[3]["failure"], rows[3]["validation_mean"]) == ("the loss is nan", None)
    assert rows[0]["seconds"] == pytest.approx(4.5)


def test_test_scores_stand_in_the_winners_row_alone_and_only_once_the_search_is_over(ledger):
    assert not any(name.startswith("test_") for row in trial_rows(ledger) for name in row)
    ledger.close()
    winner, *others = trial_rows(ledger)
    assert [winner[f"test_{fold:04d}"] for fold in range(NUM_FOLDS)] == [-score for score in SCORES[1]]
    assert all(row[f"test_{fold:04d}"] is None for row in others for fold in range(NUM_FOLDS))


def test_what_is_shown_are_the_best_trials_and_the_baselines(ledger):
    text = shown(ledger, top=2)
    assert "study example: 4 trials; its search is not over" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["1", "complete", "3", "+0.5000", "4"] in lines
    assert ["ridge", "baseline", "1", "+0.2500"] in lines
    assert not any(line[:2] == ["2", "pruned"] for line in lines)
    assert "... 2 more" in text


@pytest.mark.parametrize(
    ("name", "read"), [("a.csv", pyarrow.csv.read_csv), ("new/b.parquet", pyarrow.parquet.read_table)]
)
def test_what_is_exported_is_what_the_ledger_holds(ledger, tmp_path, name, read):
    assert export(ledger, tmp_path / name) == len(CONFIGURATIONS)
    table = read(tmp_path / name).to_pydict()
    assert table["trial"] == [1, 0, 2, 3]
    assert table["width"] == [32, 16, 64, 8]
    assert table["dropout"] == [0.5, 0.0, 0.25, 0.1]
    assert table["validation_0000"][:3] == [0.4, 0.1, 0.9]
    assert table["weights"][0] == "[1, 2]"


def test_a_file_of_an_unknown_kind_is_refused_and_nothing_is_written(ledger, tmp_path):
    with pytest.raises(BadInput, match="--to must end with .csv or .parquet"):
        export(ledger, tmp_path / "a.xlsx")
    assert not (tmp_path / "a.xlsx").exists()


def test_a_study_without_a_trial_has_nothing_to_export(storage, tmp_path):
    with pytest.raises(BadInput, match="has no trial yet"):
        export(open_ledger(storage, "empty", {}), tmp_path / "a.csv")


def test_the_commands_do_what_they_say(ledger, storage, tmp_path, run):
    assert run("list") == (0, "example: 4 trials, best +0.5000 (trial 1), not over\n")
    assert "+0.5000" in run("show", "example")[1]
    assert run("export", "example", "--to", str(tmp_path / "all.csv"))[0] == 0
    assert (tmp_path / "all.csv").is_file()
    status, said = run("delete", "example")
    assert status == 2 and said.count("\n") == 1 and "loses 8 fold jobs of 4 trials" in said
    assert study_names(storage) == ["example"]
    assert run("delete", "example", "--yes")[0] == 0
    assert study_names(storage) == []


def test_the_command_runs_as_a_module(ledger, tmp_path):
    command = [sys.executable, "-m", "platform.study", "list"]
    ran = subprocess.run(command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=120)
    assert ran.stdout == "example: 4 trials, best +0.5000 (trial 1), not over\n"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("show", "other"), "there is no study other in"),
        (("show",), "needs the name of a study"),
        (("export", "example"), "export needs a file"),
        (("list", "--study-storage", "sqlite:////nowhere/studies.db"), "there is no study storage at /nowhere"),
    ],
)
def test_bad_input_is_one_line_that_says_what_to_do(ledger, run, arguments, problem):
    status, said = run(*arguments)
    assert status == 2
    assert problem in said and said.count("\n") == 1


def test_reading_a_study_makes_none(ledger, storage):
    with pytest.raises(BadInput, match="there is no study other in .*; it holds example"):
        read_ledger(storage, "other")
    assert study_names(storage) == ["example"]
    assert set(COMMANDS) == {"list", "show", "export", "delete"}
