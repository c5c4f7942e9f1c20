"""The ledger: what is committed stays, what is sealed stays sealed, and nothing is ever half there."""

import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from postgres_server import running_postgresql

from datasets.errors import BadInput
from platform.ledger.ledger import Ledger
from platform.ledger.records import FoldRecord, best_trial, mean
from platform.ledger.studies import MIGRATIONS, SCHEMA_VERSION, open_ledger, read_ledger
from platform.proposals.samplers import SAMPLERS, Proposal, propose, space_digest
from search_spaces import SEARCH_SPACES, SearchSpace

TESTS = Path(__file__).resolve().parent
PYTHONPATH = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
TERMS = {"protocol": 1, "seed": 0, "racing": "halving"}
NUM_FOLDS = 3
SPACE = SEARCH_SPACES["transformer"]
Open = Callable[..., Ledger]


# A server of PostgreSQL, where the machine has one


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """Start PostgreSQL on loopback and return the URL of a database."""
    with running_postgresql() as server:
        yield server.url()


# Ledgers and what is written to them


@pytest.fixture(scope="module")
def sqlite_template(tmp_path_factory) -> Path:
    """Return a database with tables and no study: making the tables takes longer than all else here."""
    path = tmp_path_factory.mktemp("template") / "studies.db"
    open_ledger(f"sqlite:///{path}", "unused", {})
    return path


@pytest.fixture
def sqlite_path(sqlite_template, tmp_path) -> Path:
    return Path(shutil.copy(sqlite_template, tmp_path / "studies.db"))


@pytest.fixture(params=["sqlite", "postgresql"])
def reopened(request) -> Open:
    """Return a function that opens this test's study anew, as another process would."""
    if request.param == "sqlite":
        url = f"sqlite:///{request.getfixturevalue('sqlite_path')}"
    else:
        url = request.getfixturevalue("postgresql")
    return lambda terms=TERMS: open_ledger(url, request.node.name, terms)


@pytest.fixture
def ledger(sqlite_path) -> Ledger:
    return open_ledger(f"sqlite:///{sqlite_path}", "study", TERMS)


def proposal(value: float = 0.5) -> Proposal:
    return Proposal(
        params={"dropout": value},
        distributions={"dropout": FloatDistribution(0, 1)},
        configuration={"dropout": value, "loss": "mse"},
    )


def record(trial: int = 0, fold: int = 0, score: float | None = 0.25, **fields: object) -> FoldRecord:
    whole = {
        "test_score": 0.125,
        "best_epochs": 2,
        "num_epochs": 3,
        "seconds": 1.5,
        "seed": 2**32 - 1,
        "stop_reason": "early stopping",
        "loss": (1.5, 1.25, 1.125),
        "validation": ((0.1, 0.2, 0.3), (0.3, 0.2, 0.1)),
        "trace": {"recording": "sub-01_task-auditory_run-1", "target": [0.5, -0.5]},
    }
    return FoldRecord(trial=trial, fold=fold, score=score, **{**whole, **fields})


def filled(ledger: Ledger, number: int, scores: Sequence[float | None]) -> Ledger:
    """Add a trial with these fold scores; None for a fold job that failed."""
    ledger.add(proposal((number % 10) / 10))
    for fold, score in enumerate(scores):
        reason = "" if score is not None else f"the loss is nan on fold {fold}"
        ledger.commit(record(number, fold, score, test_score=score, stop_reason=reason))
    return ledger


def as_json(fields: object) -> object:
    return json.loads(json.dumps(fields, default=vars))


# What is committed stays


def test_records_and_trials_survive_reopening(reopened):
    ledger = reopened()
    ledger.add(proposal(0.25))
    ledger.add(proposal(0.75))
    for fold in (0, 2):
        ledger.commit(record(1, fold))
    again = reopened()
    assert [trial.configuration for trial in again.trials] == [
        {"dropout": 0.25, "loss": "mse"}, {"dropout": 0.75, "loss": "mse"},
    ]  # fmt: skip
    assert again.trials[1].params == {"dropout": 0.75}
    assert [trial.state for trial in again.trials] == ["RUNNING", "RUNNING"]
    assert again.trials[0].records == {}
    assert as_json(again.trials[1].records[2]) == as_json(record(1, 2))
    assert again.trials[1].scores == {0: 0.25, 2: 0.25}


def test_what_a_ledger_tells_is_what_a_reopened_one_tells(reopened):
    ledger = filled(filled(reopened(), 0, [0.1, 0.2, 0.3]), 1, [0.5])
    ledger.tell(0, NUM_FOLDS)
    again = reopened()
    assert as_json(ledger.trials) == as_json(again.trials)
    assert [trial.progress for trial in ledger.trials] == [trial.progress for trial in again.trials]


def test_the_first_record_of_a_job_wins(reopened):
    ledger = reopened()
    ledger.add(proposal())
    ledger.commit(record(score=0.25))
    ledger.commit(record(score=0.75))
    assert ledger.trials[0].scores == reopened().trials[0].scores == {0: 0.25}


def test_a_record_that_comes_after_its_trial_was_told_is_dropped(reopened):
    ledger = filled(reopened(), 0, [None])
    ledger.tell(0, NUM_FOLDS)
    ledger.commit(record(0, 1))  # it was in flight when fold 0 failed
    assert set(ledger.trials[0].records) == set(reopened().trials[0].records) == {0}


def test_scores_keep_every_bit(reopened):
    ledger = reopened()
    ledger.add(proposal())
    for fold, score in enumerate((1 / 3, -1e-17, 0.1 + 0.2)):
        ledger.commit(record(0, fold, score, test_score=-score))
    assert list(reopened().trials[0].scores.values()) == [1 / 3, -1e-17, 0.1 + 0.2]
    assert reopened().trials[0].records[0].test_score == -1 / 3


def test_a_record_with_numbers_that_are_not_finite_is_read_again(reopened):
    ledger = reopened()
    ledger.add(proposal())
    ledger.commit(record(loss=(1.0, math.inf), trace={"prediction": [math.nan]}))
    again = reopened().trials[0].records[0]
    assert again.loss[1] == math.inf and math.isnan(again.trace["prediction"][0])


def test_studies_in_one_storage_do_not_see_each_other(sqlite_path):
    one, other = (open_ledger(f"sqlite:///{sqlite_path}", name, TERMS) for name in ("one", "other"))
    filled(one, 0, [0.1])
    assert other.trials == []


def test_notes_are_kept(reopened):
    ledger = reopened()
    assert ledger.noted("uid") is None
    ledger.note("uid", {"run": "abc"})
    assert reopened().noted("uid") == {"run": "abc"}


# Whole or not at all


def test_a_trial_that_cannot_be_written_whole_is_not_added(reopened):
    ledger = reopened()
    broken = replace(proposal(), configuration={"dropout": object()})  # found out after the parameters are written
    with pytest.raises(TypeError, match="not JSON serializable"):
        ledger.add(broken)
    assert reopened().trials == []
    assert ledger.add(proposal()).number == 0


def test_a_record_that_cannot_be_written_whole_is_not_committed(reopened):
    ledger = reopened()
    ledger.add(proposal())
    with pytest.raises(TypeError, match="not JSON serializable"):
        ledger.commit(record(trace={"target": object()}))
    assert ledger.trials[0].records == reopened().trials[0].records == {}


COMMITTING = """
import sys
from test_ledger import proposal, record, open_ledger, TERMS
ledger = open_ledger(sys.argv[1], "study", TERMS)
print("ready", flush=True)
while True:
    number = ledger.add(proposal(0.5)).number
    print("trial", number, flush=True)
    for fold in range(3):
        ledger.commit(record(number, fold, number + fold / 10))
        print("record", number, fold, flush=True)
    ledger.tell(number, 3)
    print("told", number, flush=True)
"""


def committed_before_kill(url: str, folder: Path, seconds: float) -> list[list[str]]:
    """Let a process commit for so long, kill it, and return what it said to have committed."""
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    with (folder / "said").open("w+") as said, (folder / "errors").open("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMITTING, url], stdout=said, stderr=errors, cwd=folder, env=environment
        )
        try:
            deadline = time.monotonic() + 60
            while not (folder / "said").stat().st_size and time.monotonic() < deadline:
                assert process.poll() is None, (folder / "errors").read_text()
                time.sleep(0.01)
            time.sleep(seconds)
            assert process.poll() is None, (folder / "errors").read_text()
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        said.seek(0)
        return [line.split() for line in said.read().splitlines()]


def check_all_is_there(ledger: Ledger, said: Sequence[Sequence[str]]) -> None:
    for what, *numbers in (line for line in said if line != ["ready"]):
        trial, *fold = map(int, numbers)
        if what == "record":
            assert ledger.trials[trial].scores[fold[0]] == trial + fold[0] / 10
        if what == "told":
            assert ledger.trials[trial].state == "COMPLETE"
    for trial in ledger.trials:
        assert (trial.params, trial.configuration) == (proposal().params, proposal().configuration)
        assert [as_json(each) for each in trial.records.values()] == [
            as_json(record(trial.number, fold, trial.number + fold / 10)) for fold in trial.records
        ]
    assert [trial.number for trial in ledger.trials] == list(range(len(ledger.trials)))


@pytest.mark.parametrize("storage", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_a_process_that_is_killed_again_and_again_loses_nothing_that_it_committed(storage, request, tmp_path):
    if storage == "sqlite":
        url = f"sqlite:///{request.getfixturevalue('sqlite_path')}"
    else:
        url = request.getfixturevalue("postgresql")
    said: list[list[str]] = []
    for seconds in (0.05, 0.31, 0.173, 0.4, 0.8, 1.6):  # a busy machine needs the longer ones
        if len(said) > 30:
            break
        said += committed_before_kill(url, tmp_path, seconds)
        check_all_is_there(open_ledger(url, "study", TERMS), said)
    assert sum(what == "record" for what, *_ in said) > 3


@pytest.mark.slow
def test_ten_more_kills_lose_nothing_either(sqlite_path, tmp_path):
    url, said = f"sqlite:///{sqlite_path}", []
    for number in range(10):
        said += committed_before_kill(url, tmp_path, 0.03 * (number * 7 % 10))
        check_all_is_there(open_ledger(url, "study", TERMS), said)
    with sqlite3.connect(sqlite_path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


# How trials end


def test_a_trial_with_all_folds_is_complete_at_their_mean(reopened):
    assert filled(reopened(), 0, [0.1, 0.2, 0.6]).tell(0, NUM_FOLDS) == "COMPLETE"
    told = reopened().history(0)[0]
    assert told.value == pytest.approx(0.3)
    assert told.intermediate_values == {3: pytest.approx(0.3)}


def test_a_trial_with_fewer_folds_is_pruned_at_their_mean(reopened):
    assert filled(reopened(), 0, [0.1, 0.3]).tell(0, NUM_FOLDS) == "PRUNED"
    told = reopened().history(0)[0]
    assert told.state == optuna.trial.TrialState.PRUNED
    assert told.intermediate_values == {2: pytest.approx(0.2)}


@pytest.mark.parametrize("scores", [[None], [0.1, None], [0.1, None, 0.9]], ids=str)
def test_a_trial_with_a_failed_fold_has_failed_and_says_why(reopened, scores):
    assert filled(reopened(), 0, scores).tell(0, NUM_FOLDS) == "FAIL"
    trial = reopened().trials[0]
    assert trial.failure == f"the loss is nan on fold {scores.index(None)}"
    assert trial.progress.is_failed and trial.progress.is_told
    assert reopened().history(0)[0].user_attrs["failure"] == trial.failure


def test_the_best_trial_is_the_complete_one_with_the_highest_mean_and_the_earliest_of_equals(ledger):
    scores = [[0.1, 0.1, 0.1], [0.3, 0.3, 0.0], [0.9, 0.9], [0.2, 0.2, 0.2], [None, 0.9, 0.9]]
    for number, folds in enumerate(scores):
        filled(ledger, number, folds).tell(number, NUM_FOLDS)
    assert best_trial(ledger.trials).number in (1, 3)
    assert best_trial(ledger.trials[:1]).number == 0
    assert best_trial([ledger.trials[3], replace(ledger.trials[3], number=9)]).number == 3


def test_without_a_complete_trial_there_is_no_best_one(ledger):
    filled(ledger, 0, [0.5])
    assert best_trial(ledger.trials) is None
    assert math.isnan(mean({}))


# The seal


def test_test_scores_cannot_be_read_before_the_study_is_closed(reopened):
    ledger = filled(reopened(), 0, [0.1, 0.2])
    ledger.commit_baselines(0, {"zero": (0.0, 0.4375)})
    with pytest.raises(BadInput, match="stay sealed until its search is over"):
        ledger.test_scores(0)
    assert ledger.baselines()["zero"].test == {}
    ledger.close()
    again = reopened()
    assert again.is_closed
    assert again.test_scores(0) == {0: 0.1, 1: 0.2}
    assert again.baselines()["zero"].test == {0: 0.4375}


def test_no_test_score_stands_in_clear_in_the_file(ledger, sqlite_path):
    ledger.add(proposal())
    ledger.commit(record(score=0.1928374655, test_score=0.6471829384))
    ledger.commit_baselines(0, {"events": (0.5647382919, 0.8273645546)})
    ledger.tell(0, 1)
    ledger.close()
    content = b"".join(path.read_bytes() for path in sqlite_path.parent.glob("studies.db*"))
    assert b"1928374655" in content and b"5647382919" in content
    assert b"6471829384" not in content and b"8273645546" not in content


def test_a_study_closed_twice_is_closed_once_for_each_number_of_trials(ledger):
    ledger.close()
    ledger.close()
    filled(ledger, 0, [0.1])
    ledger.close()
    closings = ledger._study.user_attrs["closed"]
    assert [closing["trials"] for closing in closings] == [0, 1]


def test_baselines_are_kept_by_fold(reopened):
    ledger = reopened()
    for fold in (2, 0):
        ledger.commit_baselines(fold, {"zero": (0.0, 0.0), "events": (fold / 10, -fold / 10)})
    again = reopened()
    assert again.baseline_folds() == {0, 2}
    again.close()
    assert again.baselines()["events"].validation == {0: 0.0, 2: 0.2}
    assert again.baselines()["events"].test == {0: 0.0, 2: -0.2}


def test_a_fold_lacks_baselines_until_all_that_are_asked_for_are_there(ledger):
    ledger.commit_baselines(0, {"zero": (0.0, 0.0)})
    ledger.commit_baselines(1, {"zero": (0.0, 0.0), "pulse": (0.1, 0.1)})
    assert ledger.baseline_folds(["zero"]) == {0, 1}
    assert ledger.baseline_folds(["zero", "pulse"]) == {1}


# Further scores


def test_further_scores_are_kept_by_whose_they_are_and_by_fold_and_the_first_ones_stay(reopened):
    ledger = reopened()
    for fold, value in ((1, 0.25), (0, 0.5), (1, 0.75)):
        ledger.commit_further("trial-0003", fold, {"test": {"r2": value}, "validation": {"r2": -value}})
    ledger.commit_further("references", 0, {"zero": {"r2": 0.0}})
    again = reopened()
    assert again.further_folds("trial-0003") == {0, 1}
    assert again.further_folds("references") == {0}
    assert again.further_folds("trial-0000") == set()
    again.close()
    assert again.further_scores("trial-0003") == {
        0: {"test": {"r2": 0.5}, "validation": {"r2": -0.5}},
        1: {"test": {"r2": 0.25}, "validation": {"r2": -0.25}},
    }


def test_further_scores_stay_sealed_until_the_study_is_closed(ledger, sqlite_path):
    ledger.commit_further("trial-0000", 0, {"test": {"r2": 0.4375}})
    with pytest.raises(BadInput, match="stay sealed until its search is over"):
        ledger.further_scores("trial-0000")
    assert b"0.4375" not in sqlite_path.read_bytes()
    ledger.close()
    assert ledger.further_scores("trial-0000") == {0: {"test": {"r2": 0.4375}}}


# Terms


def test_the_same_terms_go_on(reopened):
    filled(reopened(), 0, [0.1])
    assert len(reopened(dict(reversed(TERMS.items()))).trials) == 1


@pytest.mark.parametrize(
    ("terms", "difference"),
    [
        ({**TERMS, "seed": 1}, "seed was 0 and is now 1"),
        ({"protocol": 1, "seed": 0}, "racing was 'halving' and is now None"),
        ({**TERMS, "rate_hz": 250}, "rate_hz was None and is now 250"),
        ({**TERMS, "seed": 1, "protocol": 2}, "protocol was 1 and is now 2; seed was 0 and is now 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_terms_are_refused_and_the_difference_is_named(reopened, terms, difference):
    reopened()
    with pytest.raises(BadInput, match=f"begun under other terms: {difference}.*--study"):
        reopened(terms)


# Storage that cannot be used


@pytest.mark.parametrize("url", ["sqlite:///studies.db", "sqlite:///a/b.db", "sqlite://", "sqlite:///:memory:"])
def test_a_relative_sqlite_path_is_refused(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="needs an absolute path") as refusal:
        open_ledger(url, "study", TERMS)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "https://me:hunter2@host/database",
        "postgres-typo://me:hunter2@host/database",
        "postgresql+nodriver://me:hunter2@host/database",
        "postgresql://me:hunter2@host:port/database",
        "postgresql://me:hunter2@[::1/database",
        "postgresql:me:hunter2@host/database",
        "sqlite:///{folder}",
        "sqlite:///{folder}/file",
        "sqlite:///{folder}/file/studies.db",
        "{server}://me:hunter2@127.0.0.1:1/database",
    ],
)
def test_storage_that_cannot_be_used_is_refused_in_one_line_without_its_password(url, tmp_path):
    if "{server}" in url:
        pytest.importorskip("psycopg2", reason="needs a driver for PostgreSQL: pip install psycopg2-binary")
    (tmp_path / "file").write_text("this is no database, whatever its name says " * 20)
    with pytest.raises(BadInput, match="cannot use the study storage .*--study-storage") as refusal:
        open_ledger(url.format(folder=tmp_path, server="postgresql+psycopg2"), "study", TERMS)
    assert "\n" not in str(refusal.value)
    assert "hunter2" not in str(refusal.value)


def test_the_folder_of_a_sqlite_file_is_made(sqlite_template, tmp_path):
    open_ledger(f"sqlite:///{tmp_path}/not/yet/studies.db", "study", TERMS)
    assert (tmp_path / "not/yet/studies.db").exists()


# Proposals


@pytest.fixture
def quick() -> Ledger:
    """Return a ledger that lasts no longer than this process."""
    return Ledger(optuna.create_study(direction="maximize"))


def proposed(ledger: Ledger, sampler: str, number: int, told_up_to: int) -> Proposal:
    return propose(ledger.history(told_up_to), sampler, SPACE, seed=5, number=number)


def study_with(ledger: Ledger, sampler: str, num_trials: int, lag: int = 2, *, until: int | None = None) -> Ledger:
    """Play a study in which a lower dropout is better, from wherever the ledger stands."""
    for number in range(len(ledger.trials), until or num_trials):
        if number >= lag and ledger.trials[number - lag].state == "RUNNING":
            ledger.tell(number - lag, NUM_FOLDS)
        trial = ledger.add(proposed(ledger, sampler, number, number - lag))
        folds = NUM_FOLDS if number % 3 else 1
        for fold in range(folds):
            failed = number % 5 == 4
            ledger.commit(record(number, fold, None if failed else -trial.configuration["dropout"] + fold / 100))
    return ledger


EACH_SAMPLER = [pytest.param(name, marks=[pytest.mark.slow] if name == "gp" else []) for name in SAMPLERS]


@pytest.mark.parametrize("sampler", EACH_SAMPLER)
def test_an_interrupted_study_proposes_what_an_undisturbed_one_does(sampler, quick, sqlite_path):
    def opened() -> Ledger:
        return open_ledger(f"sqlite:///{sqlite_path}", "interrupted", TERMS)

    expected = [trial.configuration for trial in study_with(quick, sampler, 12).trials]
    for until in (1, 3, 4, 10, 12):
        study_with(opened(), sampler, 12, until=until)
    assert [trial.configuration for trial in opened().trials] == expected
    assert len({json.dumps(each, sort_keys=True) for each in expected}) == 12


@pytest.mark.parametrize("sampler", EACH_SAMPLER)
def test_a_proposal_ignores_what_happened_after_the_trials_that_it_is_told_of(sampler, quick):
    study_with(quick, sampler, 10)
    early = proposed(quick, sampler, 10, 7)
    quick.tell(8, NUM_FOLDS)
    quick.tell(9, NUM_FOLDS)
    assert proposed(quick, sampler, 10, 7) == early


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_numbers_and_seeds_give_different_proposals(sampler, quick):
    history = study_with(quick, sampler, 3).history(1)
    rates = {
        propose(history, sampler, SPACE, seed, number).configuration["learning_rate"]
        for seed in range(3)
        for number in range(1, 4)
    }
    assert len(rates) == 9


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_first_trial_is_the_search_spaces_default(sampler, seed):
    assert propose([], sampler, SPACE, seed, 0).params == SPACE.default


def test_a_proposal_changes_neither_the_history_nor_the_ledger(quick):
    study_with(quick, "tpe", 10)
    before = as_json(quick.trials)
    assert proposed(quick, "tpe", 10, 7) == proposed(quick, "tpe", 10, 7)
    assert as_json(quick.trials) == before and len(quick.history(9)) == 10


def test_tpe_learns_from_what_it_is_told(quick):
    dropouts = [trial.configuration["dropout"] for trial in study_with(quick, "tpe", 40, lag=1).trials]
    assert sum(dropouts[-15:]) / 15 < sum(dropouts[:10]) / 10 - 0.05


PROPOSING = """
import sys
from test_ledger import open_ledger, proposed, space_digest, SPACE, TERMS
ledger = open_ledger(sys.argv[1], "study", TERMS)
print(sorted(proposed(ledger, "tpe", 12, 9).configuration.items()), space_digest(SPACE))
"""


def test_another_process_with_other_hashes_proposes_the_same(ledger, sqlite_path):
    study_with(ledger, "tpe", 12)
    expected = f"{sorted(proposed(ledger, 'tpe', 12, 9).configuration.items())} {space_digest(SPACE)}"
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": PYTHONPATH}
        said = subprocess.run(
            [sys.executable, "-c", PROPOSING, f"sqlite:///{sqlite_path}"],
            env=environment, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert said.strip() == expected


def test_a_digest_names_a_search_space():
    def wider(trial: optuna.Trial) -> dict:
        return {**SPACE.suggest(trial), "extra": trial.suggest_float("extra", 0, 1)}

    def conditional(trial: optuna.Trial) -> dict:
        chosen = SPACE.suggest(trial)
        return {**chosen, "momentum": trial.suggest_float("momentum", 0, 1) if chosen["loss"] == "mae" else 0}

    spaces = [
        SPACE,
        SearchSpace(suggest=wider, default=SPACE.default),
        SearchSpace(suggest=conditional, default=SPACE.default),
        SearchSpace(suggest=SPACE.suggest, default={**SPACE.default, "dropout": 0.3}),
    ]
    assert len({space_digest(space) for space in spaces}) == 4
    assert space_digest(SPACE) == space_digest(SearchSpace(suggest=SPACE.suggest, default=dict(SPACE.default)))


# Schema versions


def begun_as(ledger: Ledger, version: int) -> None:
    """Let a study say that it was begun under another schema version."""
    study = ledger._study
    study.set_user_attr("terms", {**study.user_attrs["terms"], "schema": version})


def test_a_study_of_an_older_schema_is_looked_at_as_it_is_and_migrated_when_it_goes_on(reopened, monkeypatch):
    begun_as(reopened(), 1)
    called = []
    monkeypatch.setattr("platform.ledger.studies.SCHEMA_VERSION", 3)
    monkeypatch.setattr(
        "platform.ledger.studies.MIGRATIONS",
        {number: lambda _, number=number: called.append(number) for number in (1, 2)},
    )
    assert reopened()._study.user_attrs["terms"] == {**TERMS, "schema": 3}
    assert called == [1, 2]
    reopened()
    assert called == [1, 2]


def test_every_older_schema_has_a_migration():
    assert sorted(MIGRATIONS) == list(range(1, SCHEMA_VERSION))


def test_other_terms_are_refused_before_anything_is_migrated(reopened):
    begun_as(reopened(), 1)
    with pytest.raises(BadInput, match="begun under other terms"):
        reopened({**TERMS, "seed": 1})
    assert reopened({**TERMS})._study.user_attrs["terms"]["schema"] == SCHEMA_VERSION


def test_a_study_of_a_newer_schema_is_refused_in_one_line(sqlite_path):
    url = f"sqlite:///{sqlite_path}"
    begun_as(open_ledger(url, "study", TERMS), SCHEMA_VERSION + 1)
    for attempt in (lambda: open_ledger(url, "study", TERMS), lambda: read_ledger(url, "study")):
        with pytest.raises(BadInput, match="written by a newer program") as refusal:
            attempt()
        assert "\n" not in str(refusal.value)
