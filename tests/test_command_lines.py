"""Command lines: what an option may come from, and how a command refuses."""

import argparse
import errno
import os
import signal
import sys

import pytest

from datasets.command_line import (
    CommandParser,
    environment_variable,
    positive_integer,
    positive_number,
    run_command,
)
from datasets.errors import BadInput


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("EEG2FMRI_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def parser() -> CommandParser:
    parser = CommandParser(prog="python -m example", description="An example.")
    parser.add_argument("architecture")
    parser.add_option("--num-trials", type=positive_integer, default=8, help="how many trials")
    parser.add_option("--resume", action="store_true", help="go on")
    parser.add_option("--subjects", nargs="+", help="only these, 100 % of them")
    parser.add_option("--seed", type=int, help="the seed")
    return parser


@pytest.fixture
def signals():
    earlier = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, earlier)


def refusal_of(parser, words, capsys) -> str:
    with pytest.raises(SystemExit) as end:
        parser.parse_args(words)
    assert end.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1
    return output.err


# Where a value comes from


def test_defaults_hold_where_nothing_is_set(parser):
    arguments = parser.parse_args(["cnn"])
    assert vars(arguments) == {
        "architecture": "cnn",
        "num_trials": 8,
        "resume": False,
        "subjects": None,
        "seed": None,
    }


def test_the_environment_wins_over_the_default(parser, monkeypatch):
    monkeypatch.setenv("EEG2FMRI_NUM_TRIALS", "3")
    assert parser.parse_args(["cnn"]).num_trials == 3


@pytest.mark.parametrize("words", [["--num-trials", "5", "cnn"], ["cnn", "--num-trials=5"]])
def test_the_command_line_wins_over_the_environment(parser, monkeypatch, words):
    monkeypatch.setenv("EEG2FMRI_NUM_TRIALS", "3")
    assert parser.parse_args(words).num_trials == 5


def test_the_command_line_is_read_where_no_words_are_given(parser, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["example", "cnn", "--seed", "4"])
    assert parser.parse_args().seed == 4


@pytest.mark.parametrize(
    ("value", "expected"), [("1", True), ("TRUE", True), ("on", True), ("0", False), ("No", False)]
)
def test_a_flag_may_be_set_in_the_environment(parser, monkeypatch, value, expected):
    monkeypatch.setenv("EEG2FMRI_RESUME", value)
    assert parser.parse_args(["cnn"]).resume is expected


@pytest.mark.parametrize("value", ["sub-01,sub-02", "sub-01 sub-02", " sub-01, sub-02 "])
def test_a_list_from_the_environment_does_not_swallow_the_first_argument(parser, monkeypatch, value):
    monkeypatch.setenv("EEG2FMRI_SUBJECTS", value)
    arguments = parser.parse_args(["cnn"])
    assert arguments.architecture == "cnn"
    assert arguments.subjects == ["sub-01", "sub-02"]
    assert parser.parse_args(["cnn", "--subjects", "sub-03"]).subjects == ["sub-03"]


def test_a_value_from_the_environment_may_start_with_a_dash(parser, monkeypatch):
    monkeypatch.setenv("EEG2FMRI_SEED", "-1")
    assert parser.parse_args(["cnn"]).seed == -1


@pytest.mark.parametrize("name", ["EEG2FMRI_NUM_TRIALS", "EEG2FMRI_RESUME", "EEG2FMRI_SUBJECTS", "EEG2FMRI_SEED"])
def test_an_empty_variable_counts_as_not_set(parser, monkeypatch, name):
    monkeypatch.setenv(name, "")
    assert parser.parse_args(["cnn"]).num_trials == 8


def test_a_required_option_may_come_from_the_environment(monkeypatch):
    parser = CommandParser(prog="example", description="An example.")
    parser.add_option("--shards", required=True, help="where the shards are")
    monkeypatch.setenv("EEG2FMRI_SHARDS", "s3://bucket/a b?c=d")
    assert parser.parse_args([]).shards == "s3://bucket/a b?c=d"


def test_help_shows_defaults_and_variables(parser, capsys):
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--help"])
    assert end.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "how many trials [default 8; EEG2FMRI_NUM_TRIALS]" in shown
    assert "only these, 100 % of them [EEG2FMRI_SUBJECTS]" in shown
    assert "end-of-list" not in shown


def test_a_variable_is_named_after_its_option():
    assert environment_variable("--study-storage") == "EEG2FMRI_STUDY_STORAGE"


# Refusals


def test_a_bad_value_is_refused_in_one_line(parser, capsys):
    message = refusal_of(parser, ["cnn", "--num-trials", "0"], capsys)
    assert message == (
        "error: argument --num-trials: must be an integer of at least 1, but got 0; see python -m example --help\n"
    )


def test_a_bad_value_from_the_environment_names_the_variable(parser, monkeypatch, capsys):
    monkeypatch.setenv("EEG2FMRI_SEED", "x")
    assert "(EEG2FMRI_SEED is set in the environment)" in refusal_of(parser, ["cnn"], capsys)


def test_a_bad_flag_in_the_environment_is_refused(parser, monkeypatch, capsys):
    monkeypatch.setenv("EEG2FMRI_RESUME", "perhaps")
    assert "EEG2FMRI_RESUME must be one of 1, 0, true or false, but is 'perhaps'" in refusal_of(parser, ["cnn"], capsys)


@pytest.mark.parametrize("words", [[], ["cnn", "--num", "3"], ["cnn", "--unknown"], ["cnn", "more"]])
def test_what_is_missing_shortened_or_unknown_is_refused(parser, words, capsys):
    refusal_of(parser, words, capsys)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", ""])
def test_a_positive_integer_is_an_integer_of_at_least_1(text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be an integer of at least 1, but got"):
        positive_integer(text)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "many", ""])
def test_a_positive_number_is_finite_and_above_0(text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be a number above 0, but got"):
        positive_number(text)


def test_positive_numbers_are_parsed():
    assert positive_integer("1") == 1
    assert positive_number("1e-3") == 0.001


# Exit status


def raising(error):
    def main():
        raise error

    return main


def test_a_command_that_ends_well_has_status_0(signals, capsys):
    assert run_command(lambda: None) == 0
    assert capsys.readouterr().err == ""


def test_bad_input_is_one_line_and_status_2(signals, capsys):
    assert run_command(raising(BadInput("no manifest\n  at s3://bucket; prepare the shards"))) == 2
    assert capsys.readouterr().err == "error: no manifest at s3://bucket; prepare the shards\n"


def test_ctrl_c_is_one_line_and_status_130(signals, capsys):
    assert run_command(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on from here\n"


def test_sigterm_ends_a_command_as_ctrl_c_does(signals):
    assert run_command(lambda: signal.raise_signal(signal.SIGTERM)) == 130


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_and_status_2(signals, capsys, number):
    assert run_command(raising(OSError(number, os.strerror(number), "/shards/x"))) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: the disk is full: ")
    assert "/shards/x" in message
    assert len(message.splitlines()) == 1


def test_a_folder_that_may_not_be_written_is_one_line_and_status_2(signals, capsys):
    assert run_command(raising(PermissionError(errno.EACCES, "Permission denied", "/shards"))) == 2
    assert "choose a folder that you may write to" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(errno.EBADF, "a closed file")])
def test_what_the_user_cannot_mend_keeps_its_traceback(signals, error):
    with pytest.raises(type(error)):
        run_command(raising(error))
