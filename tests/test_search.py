"""The whole search as a user runs it: real Ray, Optuna and MLflow, on a small prepared study."""

import base64
import csv
import io
import json
import re
import signal
import sqlite3
import statistics
from pathlib import Path

import pytest
from searching import QUICK, finish_search, search, start_search, stop_after_fold_jobs, table
from small_study import write_small_study

from datasets.command_line import run_command
from platform.search import main

pytestmark = pytest.mark.timeout(1200)  # seconds; each test starts Ray several times

TRIALS = ("--trials", "3", "--commit-lag", "1", "--seed", "3", "--finalists", "1")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return str(write_small_study(tmp_path_factory.mktemp("study") / "shards", volumes=40))


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory):
    """A study that nobody disturbed, at concurrency 2: its folder and what it printed."""
    home = tmp_path_factory.mktemp("undisturbed")
    return home, search(home, "transformer", "--shards", shards, *TRIALS, *QUICK)


def mlflow_rows(home: Path, query: str) -> list[tuple]:
    with sqlite3.connect(home / "mlflow.db") as database:
        return database.execute(query).fetchall()


def test_a_search_ends_with_the_best_configuration_beside_every_baseline(undisturbed):
    home, printed = undisturbed
    for expected in ("best configuration (trial", "baseline zero", "baseline events", "baseline ridge_band_power"):
        assert expected in printed
    assert f"mlflow ui --backend-store-uri sqlite:///{home}/mlflow.db" in printed
    assert f"python -m platform.report transformer --study-storage sqlite:///{home}/studies.db" in printed


def test_every_trial_is_a_child_run_with_one_validation_score_per_fold(undisturbed):
    home, _ = undisturbed
    parents = mlflow_rows(home, "SELECT run_uuid, status FROM runs WHERE name = 'transformer'")
    assert [status for _, status in parents] == ["FINISHED"]
    children = mlflow_rows(
        home,
        "SELECT r.name, r.status FROM runs r JOIN tags t USING (run_uuid) "
        f"WHERE t.key = 'mlflow.parentRunId' AND t.value = '{parents[0][0]}' ORDER BY 1",
    )
    assert [name for name, _ in children] == ["trial-0000", "trial-0001", "trial-0002"]
    scores = mlflow_rows(
        home,
        "SELECT m.step, m.value FROM metrics m JOIN runs r USING (run_uuid) "
        "WHERE r.name = 'trial-0000' AND m.key = 'cv/validation' ORDER BY 1",
    )
    assert [step for step, _ in scores] == [0, 1, 2, 3, 4]
    records = table(home)["records"]
    committed = [records[f"transformer/0/COMPLETE/fold/{fold:04d}"]["score"] for fold in range(5)]
    assert [value for _, value in scores] == committed


def test_the_winners_model_and_figure_are_artifacts_of_the_studys_run(undisturbed):
    home, _ = undisturbed
    artifacts = {path.name for path in (home / "mlartifacts").rglob("*") if path.is_file()}
    assert {"target_and_prediction.png", "MLmodel", "comparison.json"} <= artifacts


def test_of_all_childs_only_the_winner_has_a_test_score(undisturbed):
    home, printed = undisturbed
    number = int(re.search(r"best configuration \(trial (\d+)", printed)[1])
    keys = mlflow_rows(
        home, "SELECT DISTINCT r.name, m.key FROM metrics m JOIN runs r USING (run_uuid) WHERE r.name LIKE 'trial-%'"
    )
    assert {name for name, _ in keys} == {"trial-0000", "trial-0001", "trial-0002"}
    assert [each for each in keys if "test" in each[1]] == [(f"trial-{number:04d}", "test/temporal_r_responsive")]


def further_scores(home: Path) -> dict[str, dict]:
    """Return what the ledger holds of further scores, unsealed, by whose and fold."""
    with sqlite3.connect(home / "studies.db") as database:
        rows = database.execute(
            "SELECT key, value_json FROM study_user_attributes WHERE key LIKE 'further/%'"
        ).fetchall()
    return {key: json.loads(base64.b64decode(json.loads(value))) for key, value in rows}


def test_the_winner_is_trained_again_to_the_very_scores_that_were_sealed(undisturbed):
    home, printed = undisturbed
    further = further_scores(home)
    number = int(re.search(r"best configuration \(trial (\d+)", printed)[1])
    assert set(further) == {
        f"{whose}/000{fold}" for whose in (f"further/trial-{number:04d}", "further/references") for fold in range(5)
    }
    records = table(home)["records"]
    for fold in range(5):
        sealed = records[f"transformer/{number}/COMPLETE/fold/{fold:04d}"]["test_score"]
        again = further[f"further/trial-{number:04d}/{fold:04d}"]["test"]["temporal_r_responsive"]
        assert again == json.loads(base64.b64decode(sealed))


def test_the_numbers_of_the_report_are_those_of_the_ledgers_database(undisturbed):
    """The page that MLflow got, against records read from SQLite and averaged here."""
    home, printed = undisturbed
    (page,) = [path.read_text() for path in (home / "mlartifacts").rglob("report.html")]
    number = int(re.search(r"best configuration \(trial (\d+)", printed)[1])
    records = table(home)["records"]
    of_winner = [records[f"transformer/{number}/COMPLETE/fold/{fold:04d}"] for fold in range(5)]
    validation = [record["score"] for record in of_winner]
    test = [json.loads(base64.b64decode(record["test_score"])) for record in of_winner]
    means = page[page.index("Mean and SD over subjects") :]
    cells = re.search(r'<th scope="row">the winner</th><td>(.*?)</td><td>(.*?)</td>', means)
    assert [cells[1], cells[2]] == [shown(validation), shown(test)]
    content = re.search(r'href="data:text/csv;base64,([^"]*)"', page)[1]
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(content).decode())))
    assert sorted(float(row["winner_test"]) for row in rows) == sorted(test)
    further = further_scores(home)
    grey = [further[f"further/trial-{number:04d}/{fold:04d}"]["test"]["temporal_r_grey"] for fold in range(5)]
    assert [float(row["winner_temporal_r_grey"]) for row in sorted(rows, key=lambda row: int(row["fold"]))] == grey


def shown(scores: list[float]) -> str:
    text = f"{statistics.fmean(scores):+.3f} (SD {statistics.stdev(scores):.3f})"
    return text.replace("-", "\N{MINUS SIGN}")


def test_further_scores_stand_in_the_summary_and_at_the_studys_run(undisturbed):
    home, printed = undisturbed
    for expected in ("further test scores, mean", "identification (chance 0.5)", "temporal r, parcels"):
        assert expected in printed
    found = dict(
        mlflow_rows(
            home,
            "SELECT m.key, m.value FROM metrics m JOIN runs r USING (run_uuid) "
            "WHERE r.name = 'transformer' AND m.key LIKE 'test/%'",
        )
    )
    of_folds = [scores for key, scores in further_scores(home).items() if key.startswith("further/trial-")]
    for name in ("identification", "temporal_r_grey", "temporal_r_responsive"):
        assert found[f"test/{name}"] == pytest.approx(sum(scores["test"][name] for scores in of_folds) / 5)
    assert found["test/baseline_zero/identification"] == 0.5
    assert "further_scores.json" in {path.name for path in (home / "mlartifacts").rglob("*")}


def test_no_trial_is_left_running(undisturbed):
    home, _ = undisturbed
    assert {key.split("/")[2] for key in table(home)["records"]} <= {"COMPLETE", "PRUNED"}


def test_the_same_command_again_runs_no_job_and_prints_the_same_result(undisturbed, shards):
    home, printed = undisturbed
    before, further = table(home), further_scores(home)
    runs = mlflow_rows(home, "SELECT run_uuid FROM runs ORDER BY 1")
    metrics = mlflow_rows(home, "SELECT key, value, timestamp FROM metrics WHERE key LIKE 'test/%' ORDER BY 1, 3")
    again = search(home, "transformer", "--shards", shards, *TRIALS, *QUICK)
    assert "fold job" not in again and "further scores of" not in again
    assert further_scores(home) == further
    rows = mlflow_rows(home, "SELECT key, value, timestamp FROM metrics WHERE key LIKE 'test/%' ORDER BY 1, 3")
    assert rows == metrics
    assert again[again.index("=====") :] == printed[printed.index("=====") :]
    assert table(home) == before
    assert mlflow_rows(home, "SELECT run_uuid FROM runs ORDER BY 1") == runs


def test_a_search_interrupted_and_killed_gives_the_same_study_with_one_job_at_a_time(undisturbed, shards, tmp_path):
    command = ("transformer", "--shards", shards, *TRIALS, *QUICK, "--concurrency", "1")
    process = start_search(tmp_path, *command)
    printed = stop_after_fold_jobs(process, 2, signal.SIGINT, group=True)
    assert process.returncode == 130, printed[-3000:]
    assert "interrupted; the same command goes on from here" in printed
    assert "Traceback" not in printed
    assert {"fold/0000", "fold/0001"} <= {key.split("/", 3)[3] for key in table(tmp_path)["records"]}
    stop_after_fold_jobs(start_search(tmp_path, *command), 6, signal.SIGKILL, group=False)
    search(tmp_path, *command)
    assert table(tmp_path) == table(undisturbed[0])


@pytest.mark.slow
def test_a_search_killed_with_all_its_processes_goes_on_to_the_same_study(undisturbed, shards, tmp_path):
    command = ("transformer", "--shards", shards, *TRIALS, *QUICK)
    for jobs in (1, 4, 9):
        stop_after_fold_jobs(start_search(tmp_path, *command), jobs, signal.SIGKILL, group=True)
    search(tmp_path, *command)
    assert table(tmp_path) == table(undisturbed[0])


@pytest.mark.slow
def test_a_time_budget_ends_the_search_and_the_same_command_goes_on(shards, tmp_path):
    command = ("transformer", "--shards", shards, "--trials", "2", *QUICK)
    first = search(tmp_path, *command, "--time-budget", "0.0001")
    assert "no trial has run on all 5 folds yet" in first
    assert "best configuration (trial" in search(tmp_path, *command)


@pytest.mark.slow
def test_other_terms_under_the_same_name_are_refused_with_the_difference(undisturbed, shards):
    home, _ = undisturbed
    before = table(home)
    process = start_search(home, "transformer", "--shards", shards, *TRIALS, *QUICK, "--sampler", "random")
    printed = finish_search(process)
    assert process.returncode == 2
    assert "sampler was 'tpe' and is now 'random'" in printed
    assert "Traceback" not in printed
    assert table(home) == before


@pytest.mark.slow
def test_a_search_goes_on_without_mlflow_and_sends_what_is_missing_later(undisturbed, shards, tmp_path):
    command = ("transformer", "--shards", shards, "--trials", "1", *QUICK)
    printed = search(tmp_path, *command, "--tracking", "http://127.0.0.1:9")
    assert "MLflow could not be reached" in printed
    assert "best configuration (trial 0)" in printed
    search(tmp_path, *command)
    runs = mlflow_rows(tmp_path, "SELECT name, status FROM runs ORDER BY name")
    assert runs == [("transformer", "FINISHED"), ("trial-0000", "FINISHED")]
    assert list((tmp_path / "mlartifacts").rglob("target_and_prediction.png"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("perceptron", "--shards", "{shards}"),
            "ARCHITECTURE must be one of fully_connected, convolutional, transformer, band_power",
        ),
        (("transformer",), "no shards are configured"),
        (("transformer", "--shards", "{tmp}/nothing"), "python -m datasets.prepare"),
        (("transformer", "--shards", "{foreign}"), "holds no shards of this project"),
        (("transformer", "--shards", "{changed}"), "was changed after it was written"),
        (("transformer", "--shards", "{three}"), "a fold needs 4 or more subjects"),
        (("transformer", "--shards", "{shards}", "--tracking", "./mlruns"), "--tracking must be a database or server"),
        (("transformer", "--shards", "gopher://host/shards"), "must be a local folder or start with s3://"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_input_is_refused_in_one_line_before_ray_is_started(
    arguments, expected, shards, bad_shards, tmp_path, monkeypatch, capsys
):
    filled = [each.format(shards=shards, tmp=tmp_path, **bad_shards) for each in arguments]
    monkeypatch.setattr("sys.argv", ["search", *filled])
    monkeypatch.setenv("EEG2FMRI_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("EEG2FMRI_SHARDS", raising=False)
    monkeypatch.setattr("platform.search.connected", None)
    assert run_command(main) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert expected in errors[0]
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--shards", "{damaged}"), "is not the file that the manifest names"),
        pytest.param(
            ("--shards", "{shards}", "--study-storage", "oracel://host/db"),
            "cannot use the study storage",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("--shards", "{shards}", "--workers-per-trial", "64", "--cpus", "2"),
            "the cluster has 2 CPUs",
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_input_that_only_shows_on_the_cluster_is_one_line_and_exit_status_2(
    arguments, expected, shards, bad_shards, tmp_path
):
    filled = [each.format(shards=shards, **bad_shards) for each in arguments]
    process = start_search(tmp_path / "home", "transformer", *filled)
    printed = finish_search(process)
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert process.returncode == 2, printed
    assert len(errors) == 1
    assert expected in errors[0]
    assert "Traceback" not in printed


@pytest.fixture(scope="module")
def bad_shards(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    foreign = folder / "foreign"
    foreign.mkdir()
    (foreign / "manifest.json").write_text('{"format": "something else"}')
    changed = write_small_study(folder / "changed", volumes=20)
    manifest = changed / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"task": "auditory"', '"task": "visual"', 1))
    damaged = write_small_study(folder / "damaged", volumes=20)
    shard = sorted(damaged.rglob("*run-1.parquet"))[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    three = write_small_study(folder / "three", subjects=3, volumes=20)
    return {"foreign": foreign, "changed": changed, "damaged": damaged, "three": three}
