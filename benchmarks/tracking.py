"""What MLflow costs a study: sending a trial, and opening the study's page with 500 of them.

Takes nothing; gives rows, measured against a real ``mlflow server`` on SQLite with trials of 16 folds.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient

from benchmarks.table import Row, best_of, print_table
from platform.ledger.records import FoldRecord, LedgerTrial
from platform.ledger.studies import open_ledger
from platform.proposals.samplers import propose
from platform.tracking.runs import TrackedData, Tracker, TrackingSettings
from search_spaces import SEARCH_SPACES

NAME = "tracking"
NUM_TRIALS, NUM_FOLDS = 500, 16
EXPERIMENT = "benchmark"
START_SECONDS = 120.0
UI_PAGE = 100
"""Runs that MLflow's page of an experiment asks for at first."""


def measure() -> list[Row]:
    """Send a study of 500 trials to a server, then ask for it as a client and as a browser do."""
    with tempfile.TemporaryDirectory() as folder, mlflow_server(Path(folder)) as url:
        ledger = open_ledger(f"sqlite:///{folder}/studies.db", EXPERIMENT, {})
        ledger.note("uid", NAME)
        settings = TrackingSettings(uri=url, experiment=EXPERIMENT)
        data = TrackedData(uri="/nowhere", digest="0" * 64, num_subjects=NUM_FOLDS)
        tracker, trials = Tracker(settings, ledger, data, {}), _made_trials()
        start = time.perf_counter()
        tracker.send_missing(trials)
        if not tracker.finish("FINISHED"):
            raise RuntimeError("MLflow did not take all trials")
        seconds = time.perf_counter() - start
        client = MlflowClient(tracking_uri=url)
        found = client.get_experiment_by_name(EXPERIMENT)
        assert found is not None
        experiment = str(found.experiment_id)
        all_runs = best_of(lambda: client.search_runs([experiment], max_results=1000))
        first_page = best_of(lambda: _ask_as_browser(url, experiment, UI_PAGE))
        whole_page = best_of(lambda: _ask_as_browser(url, experiment, NUM_TRIALS + 1))
        shown = _shown_in_a_browser(url, experiment)
    of_all = f"{NUM_TRIALS} trials of {NUM_FOLDS} folds"
    return [
        _row("sending a trial, three requests, ms", f"{1e3 * seconds / NUM_TRIALS:.0f}"),
        _row(f"{of_all}: MlflowClient.search_runs, s", f"{all_runs:.2f}"),
        _row(f"{of_all}: the page's request, best {UI_PAGE}, s", f"{first_page:.2f}"),
        _row(f"{of_all}: the page's request, all, s", f"{whole_page:.2f}"),
        *(_row(f"{of_all}: until a browser shows the best, {how}, s", f"{found:.2f}") for how, found in shown.items()),
    ]


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Run a server on loopback while the context lasts; yields its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", host.rpartition(":")[2],
        "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination", str(folder / "artifacts"), "--allowed-hosts", host,
    ]  # fmt: skip
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(f"http://{host}/health", process)
        yield f"http://{host}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2.0).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError("MLflow's server did not start")


def _ask_as_browser(url: str, experiment: str, most: int) -> None:
    """Ask for runs as MLflow's page of an experiment does, the best first."""
    asked = {
        "experiment_ids": [experiment],
        "max_results": most,
        "order_by": ["metrics.`cv/validation_mean` DESC"],
        "run_view_type": "ACTIVE_ONLY",
    }
    request = urllib.request.Request(
        f"{url}/ajax-api/2.0/mlflow/runs/search",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60.0) as answer:
        found = len(json.load(answer)["runs"])
    if found != most:
        raise RuntimeError(f"the page must show {most} runs, but got {found}")


def _shown_in_a_browser(url: str, experiment: str) -> dict[str, float]:
    """Return the seconds until the sorted page shows its first trial, at first and again; nothing without Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        return {}
    from playwright.sync_api import sync_playwright

    sorted_page = (
        f"{url}/#/experiments/{experiment}/runs?orderByKey=metrics.%60cv%2Fvalidation_mean%60&orderByAsc=false"
    )
    found = {}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_default_timeout(1e3 * START_SECONDS)
        for how in ("at first", "again"):
            page.goto("about:blank")
            start = time.perf_counter()
            page.goto(sorted_page, wait_until="commit")
            page.get_by_role("link", name="trial-").first.wait_for()
            found[how] = time.perf_counter() - start
        browser.close()
    return found


def _made_trials() -> list[LedgerTrial]:
    """Return trials that were proposed at random and scored by their numbers."""
    return [_made_trial(number) for number in range(NUM_TRIALS)]


def _made_trial(number: int) -> LedgerTrial:
    proposal = propose([], "random", SEARCH_SPACES["transformer"], 0, number)
    scores = [0.001 * ((7 * number + fold) % 97) for fold in range(NUM_FOLDS)]
    records = {
        fold: FoldRecord(trial=number, fold=fold, score=score, seconds=60.0) for fold, score in enumerate(scores)
    }
    return LedgerTrial(
        number=number,
        state="COMPLETE",
        params=proposal.params,
        configuration=proposal.configuration,
        records=records,
    )


def _row(what: str, value: str) -> Row:
    return Row(benchmark=NAME, what=what, value=value)


if __name__ == "__main__":
    print_table(measure())
