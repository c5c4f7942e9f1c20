"""What is shown of a running search: rows, estimates, lines, and a terminal left as it was found."""

import contextlib
import io
import json
import logging
import math
import os
import pty
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from platform.data.folds import Fold
from platform.data.products import DataSettings
from platform.ledger.records import FoldRecord, LedgerTrial
from platform.study import progress as progress_module
from platform.study.progress import (
    PlainProgress,
    RunningJob,
    Standing,
    TableProgress,
    best_rows,
    counts_line,
    failure_line,
    json_line,
    picture,
    running_line,
    seconds_left,
    showing,
    standard_error,
    time_line,
)
from platform.training.config import Epochs
from platform.training.job import Job

ROOT = Path(__file__).resolve().parent.parent
TEST_SCORE = 0.777


def trial(number: int, *scores: float | None, state: str = "RUNNING", seconds: float = 10.0) -> LedgerTrial:
    """Return a trial with these scores on its first folds; None is a failed job."""
    records = {
        fold: FoldRecord(
            trial=number,
            fold=fold,
            score=score,
            test_score=TEST_SCORE,
            seconds=seconds,
            stop_reason="early stopping" if score is not None else "out of memory at batch_size 64",
        )
        for fold, score in enumerate(scores)
    }
    return LedgerTrial(number=number, state=state, params={}, configuration={"width": 8}, records=records)


def standing(*trials: LedgerTrial, **changes: object) -> Standing:
    example = Standing(study="example", num_trials=10, num_folds=4, num_slots=2, trials=trials)
    return replace(example, **changes)


def job(number: int, fold: int, repeat: int = 0) -> Job:
    return Job(
        data=DataSettings(shards="", cache_folder=""),
        architecture="transformer",
        configuration={},
        epochs=Epochs(),
        seed=0,
        trial=number,
        fold=Fold(number=fold, test="a", validation=("b", "c"), training=("d", "e")),
        repeat=repeat,
    )


# Rows


def test_trials_on_more_folds_come_first_and_of_these_the_higher_means():
    trials = [trial(0, 0.1, 0.1), trial(1, 0.9), trial(2, 0.3, 0.1), trial(3), trial(4, 0.5, None, state="FAIL")]
    assert [(row.trial, row.num_folds) for row in best_rows(trials)] == [(2, 2), (0, 2), (1, 1)]


def test_of_equals_the_earlier_trial_comes_first_and_no_more_than_five_are_shown():
    assert [row.trial for row in best_rows([trial(number, 0.2) for number in range(8)])] == [0, 1, 2, 3, 4]


def test_a_mean_stands_with_its_standard_error_over_folds():
    row = best_rows([trial(0, 0.1, 0.2, 0.3, state="COMPLETE")])[0]
    assert row.mean == pytest.approx(0.2)
    assert row.error == pytest.approx(0.1 / math.sqrt(3))
    assert row.state == "on all folds"


def test_one_fold_has_no_standard_error():
    assert math.isnan(standard_error([0.3]))
    assert " - " in drawn(standing(trial(0, 0.3)))


# Lines


def test_trials_are_counted_by_how_they_ended():
    found = standing(trial(0, 0.1, state="COMPLETE"), trial(1, 0.1, state="PRUNED"), trial(2, None), trial(3))
    assert counts_line(found) == "4 of 10 trials: 1 on all folds, 1 raced out, 1 failed, 1 open"
    assert failure_line(found) == "trial 2: out of memory at batch_size 64"
    assert counts_line(standing()) == "0 of 10 trials"


def test_the_oldest_running_jobs_are_named_and_the_others_counted():
    running = tuple(RunningJob(trial=7, fold=fold, since_s=fold * 10.0) for fold in range(6))
    assert running_line(standing(running=running), 100.0) == (
        "trial 7 fold 0 (100 s), trial 7 fold 1 (90 s), trial 7 fold 2 (80 s), trial 7 fold 3 (70 s) and 2 more"
    )
    assert running_line(standing(), 0.0) == "none"


# Time left


def test_there_is_no_estimate_before_a_job_is_done():
    assert seconds_left(standing(trial(0)), 0.0) is None
    assert time_line(standing(trial(0)), 5.0) == "5 s, no estimate yet"


def test_without_a_settled_trial_all_folds_of_all_trials_are_expected():
    assert seconds_left(standing(trial(0, 0.1)), 0.0) == pytest.approx((9 * 4 + 3) * 10.0 / 2)


def test_trials_to_come_are_expected_to_cost_what_settled_ones_did():
    settled = [trial(number, 0.1, 0.1, state="PRUNED") for number in range(9)]
    assert seconds_left(standing(*settled), 0.0) == pytest.approx(1 * 2 * 10.0 / 2)


def test_a_running_job_is_still_to_be_done_though_its_trial_had_as_many_as_others():
    settled = [trial(number, 0.1, state="PRUNED") for number in range(9)]
    found = standing(*settled, trial(9, 0.3), running=(RunningJob(trial=9, fold=1, since_s=0.0),))
    assert seconds_left(found, 0.0) == pytest.approx(10.0 / 2)


def test_finalists_are_expected_to_run_with_two_more_seeds():
    settled = [trial(number, 0.1, state="PRUNED") for number in range(10)]
    repeat = replace(settled[0].records[0], repeat=1)
    settled[0] = replace(settled[0], late={(0, 1): repeat})
    found = standing(*settled, num_finalists=2)
    assert found.num_repeats_left == 2 * 2 * 4 - 1
    assert seconds_left(found, 0.0) == pytest.approx(15 * 10.0 / 2)


def test_the_time_budget_bounds_the_estimate():
    found = standing(trial(0, 0.1), time_budget_s=60.0, began_s=100.0)
    assert seconds_left(found, 150.0) == pytest.approx(10.0)
    assert seconds_left(found, 1000.0) == 0.0
    assert time_line(found, 150.0) == "50 s of 60 s, about 10 s left"


# The table


def drawn(found: Standing, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(picture(found, 100.0))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_of_the_table_is_wrapped_and_nothing_of_it_is_cut_but_long_lists(width):
    running = tuple(RunningJob(trial=100 + fold, fold=fold, since_s=0.0) for fold in range(9))
    lines = drawn(standing(trial(0, 0.1, 0.3), trial(1, None), running=running), width).splitlines()
    assert max(map(len, lines)) <= width
    assert [line.split("  ")[0].strip() for line in lines] == [
        "study example", "best trial", "", "trials", "fold jobs", "running", "time", "last failure",
    ]  # fmt: skip


def test_the_table_shows_no_test_score():
    assert "777" not in drawn(standing(trial(0, 0.1, 0.3, state="COMPLETE")))


# Events


def follow_a_search(how: str) -> None:
    with showing(how, standing()) as progress:
        progress.proposed(trial(0))
        progress.started(job(0, 0))
        progress.recorded(trial(0, 0.25), trial(0, 0.25).records[0])
        progress.ended(job(0, 0))
        logging.getLogger("another").info("said by %s", "another module")
        progress.told(trial(0, 0.25, state="PRUNED"))


def test_json_is_one_object_a_line_for_every_event_and_every_line_of_the_log(capsys):
    handler = logging.StreamHandler(sys.stderr)
    root = logging.getLogger()
    root.addHandler(handler)
    level, before = root.level, handler.formatter
    root.setLevel(logging.INFO)
    try:
        follow_a_search("json")
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    printed = capsys.readouterr().err
    events = [json.loads(line) for line in printed.splitlines()]
    assert [event["event"] for event in events] == [
        "study", "proposal", "started", "record", "ended", "log", "told", "end",
    ]  # fmt: skip
    assert events[1]["configuration"] == {"width": 8}
    assert {key: events[3][key] for key in ("trial", "fold", "repeat", "score")} == {
        "trial": 0, "fold": 0, "repeat": 0, "score": 0.25,
    }  # fmt: skip
    assert events[5]["message"] == "said by another module"
    assert (events[6]["state"], events[6]["mean"], events[6]["standard_error"]) == ("PRUNED", 0.25, None)
    assert handler.formatter is before
    assert "777" not in printed and "test" not in printed


def test_what_is_no_number_is_null_in_json():
    assert json.loads(json_line("told", {"mean": math.nan, "folds": 0})) | {"time": ""} == {
        "event": "told", "time": "", "mean": None, "folds": 0,
    }  # fmt: skip


def test_plain_progress_is_a_line_of_the_log_a_record(caplog):
    caplog.set_level(logging.INFO)
    follow_a_search("plain")
    assert caplog.messages[0] == (
        "fold job 1: trial 0 fold 0: validation r +0.2500 (0 epochs, 10 s); trial's mean over 1 folds +0.2500"
    )
    assert len(caplog.messages) == 2


def test_where_nobody_watches_progress_is_plain(caplog):
    caplog.set_level(logging.INFO)
    follow_a_search("auto")
    assert caplog.messages[0].startswith("fold job 1:")


@pytest.mark.parametrize(("widgets", "kind"), [(None, PlainProgress), (object(), TableProgress)], ids=["no", "yes"])
def test_in_jupyter_the_table_is_drawn_where_ipywidgets_is_and_lines_are_written_where_not(monkeypatch, widgets, kind):
    monkeypatch.setattr(progress_module, "Console", lambda **_: Console(file=io.StringIO(), force_jupyter=True))
    monkeypatch.setattr(progress_module, "find_spec", lambda name: widgets if name == "ipywidgets" else None)
    monkeypatch.setattr(progress_module, "_live", lambda progress, console: contextlib.nullcontext())
    with showing("auto", standing()) as progress:
        assert type(progress) is kind


def test_a_job_that_ends_runs_no_more_and_its_repeat_goes_on():
    with showing("plain", standing()) as progress:
        progress.started(job(0, 1))
        progress.started(job(0, 1, repeat=2))
        progress.ended(job(0, 1))
        assert [(each.trial, each.fold, each.repeat) for each in progress.standing.running] == [(0, 1, 2)]


# A terminal

WATCHED = """
import logging, sys, time
sys.path[:0] = ["tests"]
from datasets.command_line import run_command
import test_progress as t

def main():
    with t.showing("auto", t.standing(t.trial(0, 0.1, 0.3, state="COMPLETE"))) as progress:
        progress.proposed(t.trial(1))
        progress.started(t.job(1, 0))
        logging.getLogger("another").info("said while the table is shown")
        progress.recorded(t.trial(1, 0.25), t.trial(1, 0.25).records[0])
        time.sleep(0.3)
        {end}
    print("the summary")

raise SystemExit(run_command(main))
"""


def on_a_terminal(end: str) -> tuple[int, str]:
    """Run a search's display in a process on a terminal; return its exit status and what the terminal got."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "40", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", WATCHED.format(end=end)], cwd=ROOT, env=environment, stdin=slave, stdout=slave,
        stderr=slave, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    got = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while piece := os.read(master, 65536):
            got += piece
    os.close(master)
    return process.wait(60), got.decode().removesuffix("\x1b[0m").rstrip()


@pytest.mark.parametrize(("end", "status"), [("pass", 0), ("raise KeyboardInterrupt", 130)])
def test_on_a_terminal_the_table_leaves_the_log_whole_and_the_cursor_shown(end, status):
    found, got = on_a_terminal(end)
    assert found == status, got
    assert "said while the table is shown\x1b[0m\r\n" in got or "said while the table is shown\r\n" in got
    assert "best trial" in got
    assert got.rindex("\x1b[?25h") > got.rindex("\x1b[?25l")
    assert got.endswith("the summary" if status == 0 else "the same command goes on from here")
