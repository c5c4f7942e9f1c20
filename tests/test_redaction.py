"""Nobody reads a credential in a log line, a refusal, a traceback or a report of what was run."""

import dataclasses
import logging
import os
import signal
import subprocess
import sys

import pytest
from searching import ROOT, environment

from datasets.command_line import run_command
from datasets.errors import BadInput
from datasets.redaction import RedactedFormatter, redacted
from datasets.storage import keys_to_environment, without_secrets
from deploy.stack.ports import free_ports
from platform.data.products import DataSettings
from platform.search import parse_arguments, study_settings, take_keys_out, whereabouts
from platform.study.settings import StudySettings
from platform.study.tables import main as study_tables
from platform.tracking.runs import TrackingSettings, check_tracking
from platform.training.fold_job import Workers

SECRET = "hush77-hush77"  # noqa: S105 - not one
DATABASE = f"postgresql+psycopg2://me:{SECRET}@db.example/studies"
SERVER = f"https://me:{SECRET}@mlflow.example:5000"
SHARDS = f"s3://KEY:{SECRET}@bucket/path?region=x"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"cannot use {DATABASE}: refused", "cannot use postgresql+psycopg2://db.example/studies: refused"),
        (f"from '{SERVER}/api' to {SHARDS}", "from 'https://mlflow.example:5000/api' to s3://bucket/path?region=x"),
        ("s3://KEY:SE/CR?ET@bucket/path", "s3://bucket/path"),
        ("http://me:se@cret@host/path", "http://host/path"),
        ("http://token@host/path", "http://host/path"),
        ("postgresql://host/db?user=me&password=hush&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("http://host:8080/path@v1 and s3://bucket/a@b", "http://host:8080/path@v1 and s3://bucket/a@b"),
        ("models:/eeg2fmri-transformer@champion", "models:/eeg2fmri-transformer@champion"),
        ("write to a@b.example; 5:3 @ 7", "write to a@b.example; 5:3 @ 7"),
    ],
)
def test_credentials_are_taken_out_of_a_text_and_nothing_else(text, shown):
    assert redacted(text) == shown


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "PGPASSWORD", "RAY_AUTH_TOKEN"])
def test_secrets_in_the_environment_are_taken_out_wherever_they_stand(monkeypatch, name):
    monkeypatch.setenv(name, SECRET)
    assert redacted(f"Bearer {SECRET} was refused") == "Bearer *** was refused"


def test_a_secret_too_short_to_be_told_from_a_word_changes_no_text(monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "a")
    assert redacted("a database") == "a database"


def test_a_log_line_and_its_traceback_show_no_credentials():
    try:
        raise OSError(f"no answer from {SERVER}")
    except OSError:
        record = logging.LogRecord("x", 20, "x", 1, "at %s", (DATABASE,), sys.exc_info())
    line = RedactedFormatter("%(message)s").format(record)
    assert "at postgresql+psycopg2://db.example/studies" in line
    assert "OSError: no answer from https://mlflow.example:5000" in line
    assert SECRET not in line


def test_a_password_in_a_query_is_shown_nowhere():
    assert SECRET not in without_secrets(f"postgresql://host/db?password={SECRET}")


# What a search is told, and shows


def settings_with_secrets() -> StudySettings:
    return StudySettings(
        name="x",
        architecture="transformer",
        data=DataSettings(shards="/shards", cache_folder="/cache", rate_hz=125),
        storage_url=DATABASE,
        tracking=TrackingSettings(uri=SERVER),
        workers=Workers(),
        num_trials=1,
        start_from=f"{DATABASE}#earlier",
    )


@pytest.mark.parametrize("is_tracked", [True, False])
def test_where_a_study_lies_is_told_without_passwords(is_tracked):
    text = whereabouts(settings_with_secrets(), is_tracked=is_tracked)
    assert "postgresql+psycopg2://db.example/studies" in text
    assert SECRET not in text


def test_the_terms_of_a_study_name_the_earlier_one_without_its_password():
    settings = dataclasses.replace(settings_with_secrets(), starts=({"a": 1},))
    assert settings.terms("digest")["start_from"] == "postgresql+psycopg2://db.example/studies#earlier"


@pytest.fixture
def arguments(monkeypatch):
    """Give what a search is told on a local Ray, its keys in two URIs."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_ADDRESS"):
        monkeypatch.setenv(name, "")  # put back whatever is set there meanwhile
        monkeypatch.delenv(name)
    words = ["search", "transformer", "--shards", SHARDS, "--job-storage", SHARDS.replace("path", "jobs")]
    monkeypatch.setattr(sys, "argv", [*words, "--study-storage", DATABASE, "--tracking", SERVER])
    return parse_arguments()


def test_the_command_that_is_noted_shows_no_credentials(arguments):
    assert "--shards 's3://bucket/path?region=x'" in arguments.command
    assert SECRET not in arguments.command


def test_keys_move_from_uris_to_the_environment_which_a_local_ray_inherits(arguments, monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of another key")
    take_keys_out(arguments)
    settings = study_settings(arguments)
    assert settings.data.shards == "s3://bucket/path?region=x"
    assert settings.workers.storage == "s3://bucket/jobs?region=x"
    assert (os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]) == ("KEY", SECRET)
    assert "AWS_SESSION_TOKEN" not in os.environ


def test_keys_in_uris_stay_where_the_cluster_is_not_this_process_s_and_a_warning_tells(arguments, caplog):
    arguments.ray_address = "192.0.2.1:6379"
    before = arguments.shards, arguments.job_storage
    take_keys_out(arguments)
    assert (arguments.shards, arguments.job_storage) == before
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for `ray start`" in caplog.text
    assert SECRET not in caplog.text


def test_keys_are_decoded_and_two_different_pairs_refused(arguments):
    assert keys_to_environment(["s3://K:a%2Fb@bucket", "/local", "s3://other/x"]) == [
        "s3://bucket", "/local", "s3://other/x",
    ]  # fmt: skip
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "a/b"
    with pytest.raises(BadInput, match="s3://bucket and s3://bucket hold different keys"):
        keys_to_environment(["s3://K:a@bucket", "s3://L:a@bucket"])


# What goes wrong


@pytest.fixture
def restored(monkeypatch):
    """Put back what a command sets for the whole process."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_database_that_cannot_be_reached_is_named_without_its_password(monkeypatch, capsys, restored):
    url = f"postgresql+psycopg2://me:{SECRET}@127.0.0.1:{free_ports(1)[0]}/x"
    pytest.importorskip("psycopg2")
    monkeypatch.setattr(sys, "argv", ["study", "list", "--study-storage", url])
    assert run_command(study_tables) == 2
    message = capsys.readouterr().err
    assert "cannot use the study storage postgresql+psycopg2://127.0.0.1" in message
    assert SECRET not in message


@pytest.mark.parametrize("uri", [f"ftp://me:{SECRET}@host", f"file:///x?password={SECRET}"])
def test_a_tracking_uri_that_is_none_is_refused_without_its_password(uri):
    with pytest.raises(BadInput, match="--tracking must be a database or server") as refusal:
        check_tracking(TrackingSettings(uri=uri))
    assert SECRET not in str(refusal.value)


def test_a_wrong_option_is_refused_without_the_password_in_it(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["search", "transformer", "--racing", DATABASE])
    with pytest.raises(SystemExit):
        parse_arguments()
    assert SECRET not in capsys.readouterr().err


def test_a_program_that_fails_shows_its_traceback_without_credentials(tmp_path):
    program = (
        "from datasets.command_line import run_command\n"
        f"def main():\n    raise KeyError({DATABASE!r})\n"
        "run_command(main)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "KeyError: 'postgresql+psycopg2://db.example/studies'" in ended.stderr
    assert SECRET not in ended.stderr
