"""Studies on a real PostgreSQL: the same tables, nothing lost when the server dies, one line when it cannot be used."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest
from kill_storm import lost_after_commit, read_log, run_again_after_commit
from postgres_server import PostgreSQL, running_postgresql
from ray_head import RayHead
from searching import ROOT, environment
from sqlalchemy.exc import OperationalError
from standin_study import Standin, start_standin, table_of

from datasets.errors import BadInput
from datasets.retries import Patience
from platform.ledger import ledger as ledger_module
from platform.ledger.records import FoldRecord
from platform.ledger.studies import open_ledger
from platform.proposals.samplers import Proposal

MINUTES = 60.0
OUTAGE_SECONDS = 3.0
PROPOSAL = Proposal(params={}, distributions={}, configuration={"width": 8})


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with running_postgresql() as running:
        yield running


@pytest.fixture
def mortal_server() -> Iterator[PostgreSQL]:
    with running_postgresql() as running:
        yield running


def standin(folder: Path, url: str, **fields: object) -> Standin:
    folder.mkdir(parents=True, exist_ok=True)
    return Standin(
        **{
            "storage_url": url, "log": str(folder / "log"), "job_storage": str(folder / "jobs"), "num_trials": 6,
            **fields,
        }
    )  # fmt: skip


def finished(process: "subprocess.Popen[str]", minutes: float = 4.0) -> str:
    printed, _ = process.communicate(timeout=minutes * MINUTES)
    assert process.returncode == 0, printed[-3000:]
    return printed


def outage(server: PostgreSQL, seconds: float) -> threading.Thread:
    """Kill the server now and start it again after so many seconds."""
    server.kill()

    def start() -> None:
        time.sleep(seconds)
        server.start()

    thread = threading.Thread(target=start)
    thread.start()
    return thread


# A server that goes away


@pytest.fixture
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(ledger_module, "PATIENCE", Patience(seconds=0.2, first_wait_s=0.1))


WRITES: dict[str, Callable] = {
    "add": lambda ledger: ledger.add(PROPOSAL),
    "commit": lambda ledger: ledger.commit(FoldRecord(trial=0, fold=1, score=0.5)),
    "tell": lambda ledger: ledger.tell(0, 2),
    "note": lambda ledger: ledger.note("key", "value"),
    "history": lambda ledger: ledger.history(0),
}


def test_what_a_ledger_does_while_its_server_is_started_anew_is_done_when_it_is_back(mortal_server, caplog):
    ledger = open_ledger(mortal_server.url(), "outage", {})
    with ledger.sole_writer():
        ledger.add(PROPOSAL)
        ledger.commit(FoldRecord(trial=0, fold=0, score=0.25))
        caplog.set_level("INFO")
        for name, write in WRITES.items():
            back = outage(mortal_server, 1.0)
            write(ledger)
            back.join()
            assert "trying again" in caplog.text, name
        assert mortal_server.password not in caplog.text
    again = open_ledger(mortal_server.url(), "outage", {})
    assert [(trial.state, trial.scores) for trial in again.trials] == [
        ("COMPLETE", {0: 0.25, 1: 0.5}),
        ("RUNNING", {}),
    ]
    assert again.noted("key") == "value"


def test_an_answer_that_is_lost_does_not_make_a_second_trial(server, monkeypatch):
    ledger = open_ledger(server.url(), "lost answer", {})
    real, calls = ledger._storage.create_new_trial, []

    def answer_lost(*arguments: object, **named: object) -> int:
        calls.append(real(*arguments, **named))
        raise psycopg2_fault()

    monkeypatch.setattr(ledger._storage, "create_new_trial", answer_lost)
    assert ledger.add(PROPOSAL).number == 0
    assert len(calls) == 1
    assert len(open_ledger(server.url(), "lost answer", {}).trials) == 1


def psycopg2_fault() -> Exception:
    return OperationalError("COMMIT", {}, psycopg2.OperationalError("server closed the connection unexpectedly"))


def test_a_server_that_stays_away_is_one_line_without_the_password(mortal_server, impatient):
    ledger = open_ledger(mortal_server.url(), "away", {})
    mortal_server.kill()
    with pytest.raises(BadInput, match="nothing committed is lost") as refusal:
        ledger.add(PROPOSAL)
    assert "\n" not in str(refusal.value)
    assert mortal_server.password not in str(refusal.value)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_outlives_its_server_killed_in_the_middle(mortal_server, tmp_path):
    disturbed = standin(tmp_path / "disturbed", mortal_server.url(), seconds=0.5)
    process = start_standin(disturbed)
    wait_for_commits(disturbed, 5)
    outage(mortal_server, OUTAGE_SECONDS).join()
    printed = finished(process)
    assert "trying again" in printed
    assert mortal_server.password not in printed
    alone = standin(tmp_path / "alone", f"sqlite:///{tmp_path / 'alone.db'}")
    finished(start_standin(alone))
    assert table_of(disturbed) == table_of(alone)
    assert not lost_after_commit(disturbed)
    assert not run_again_after_commit(disturbed)


def wait_for_commits(study: Standin, number: int) -> None:
    deadline = time.monotonic() + 3 * MINUTES
    while sum(line[0] == "commit" for line in read_log(study)) < number:
        assert time.monotonic() < deadline
        time.sleep(0.05)


# Several studies, and several searches


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_four_studies_at_once_on_one_ray_and_one_server_are_what_each_is_alone_on_sqlite(server, tmp_path):
    head = RayHead(tmp_path / "head")
    seeds = range(4)
    together = [
        standin(tmp_path / f"together-{seed}", server.url(), name=f"study {seed}", seed=seed, seconds=0.05)
        for seed in seeds
    ]
    try:
        head.start()
        started = [start_standin(replace(each, address=head.address), **head.environment) for each in together]
        for process in started:
            finished(process, minutes=10)
    finally:
        head.kill()
    for seed, study in zip(seeds, together, strict=True):
        alone = standin(
            tmp_path / f"alone-{seed}", f"sqlite:///{tmp_path / 'alone.db'}", name=f"study {seed}", seed=seed
        )
        finished(start_standin(alone))
        assert table_of(study) == table_of(alone)


CLAIMING = """
import sys
from platform.ledger.studies import open_ledger
with open_ledger(sys.argv[1], "claimed", {}).sole_writer():
    print("mine", flush=True)
    sys.stdin.read()
"""


def claiming(url: str) -> "subprocess.Popen[str]":
    """Start a process that claims the study and keeps it until it is ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIMING, url], cwd=ROOT, env={**environment(ROOT), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "mine\n"
    return process


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'studies.db'}"
    return request.getfixturevalue("server").url()


def test_a_second_search_of_a_study_is_refused_until_the_first_is_killed(url):
    first = claiming(url)
    try:
        with pytest.raises(BadInput, match="another search of study claimed is running"):
            open_ledger(url, "claimed", {}).sole_writer().__enter__()
        with open_ledger(url, "another", {}).sole_writer():
            pass
    finally:
        first.kill()
        first.communicate()
    with eventually_claimed(url):
        pass


def eventually_claimed(url: str):
    """Return the claim; PostgreSQL takes a moment to notice that a client is dead."""
    deadline = time.monotonic() + 10
    while True:
        claim = open_ledger(url, "claimed", {}).sole_writer()
        try:
            claim.__enter__()
        except BadInput:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            continue
        claim.__exit__(None, None, None)
        return open_ledger(url, "claimed", {}).sole_writer()


def test_a_ledger_reads_what_another_process_wrote_before_the_claim(url):
    ours, theirs = (open_ledger(url, "read again", {}) for _ in range(2))
    with theirs.sole_writer():
        theirs.add(PROPOSAL)
    with ours.sole_writer():
        assert len(ours.trials) == 1


def test_a_search_whose_claim_was_taken_while_the_server_was_away_ends(mortal_server):
    ours = open_ledger(mortal_server.url(), "claimed", {})
    with ours.sole_writer():
        mortal_server.kill()
        mortal_server.start()
        other = claiming(mortal_server.url())
        try:
            with pytest.raises(BadInput, match="another search of study claimed is running"):
                ours.add(PROPOSAL)
        finally:
            other.kill()
            other.communicate()


# What cannot be used


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"password": "open-sesame"}, "password authentication failed"), ({"database": "nowhere"}, "does not exist")],
    ids=["wrong password", "no such database"],
)
def test_a_server_that_refuses_is_one_line_and_exit_status_2_without_the_password(server, tmp_path, changes, expected):
    url = server.url(**changes)
    done = subprocess.run(
        [sys.executable, "-m", "platform.study", "show", "study", "--study-storage", url],
        cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=2 * MINUTES, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    errors = done.stderr.splitlines()
    assert len(errors) == 1
    assert expected in errors[0]
    assert changes.get("password", server.password) not in done.stderr + done.stdout
