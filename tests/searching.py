"""Run ``python -m platform.search`` as a user does, and read what it leaves behind.

Takes a small prepared study and a folder; gives processes, and the ledger's table of scores.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MINUTES = 60.0
QUICK = ("--max-epochs", "2", "--cpus", "2")


def environment(home: Path) -> dict[str, str]:
    """Return an environment in which nothing of the user's own configures a search."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("EEG2FMRI_", "RAY_", "MLFLOW_"))}
    return {**kept, "EEG2FMRI_HOME": str(home), "RAY_AUTH_MODE": "disabled", "PYTHONUNBUFFERED": "1"}


def start_search(home: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start a search in a process group of its own, stdout and stderr in one pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", "platform.search", *arguments],
        cwd=ROOT,
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish_search(process: "subprocess.Popen[str]", minutes: float = 8.0) -> str:
    """Wait for a search to end and return what it printed."""
    output, _ = process.communicate(timeout=minutes * MINUTES)
    return output


def search(home: Path, *arguments: str) -> str:
    """Run a search to its end, which must be a good one, and return what it printed."""
    process = start_search(home, *arguments)
    output = finish_search(process)
    assert process.returncode == 0, output[-3000:]
    return output


def stop_after_fold_jobs(process: "subprocess.Popen[str]", number: int, how: signal.Signals, *, group: bool) -> str:
    """Send a signal once this many fold jobs are recorded; return all that was printed."""
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        printed.append(line)
        if f"fold job {number}:" in line:
            break
    if group:
        os.killpg(process.pid, how)
    else:
        process.send_signal(how)
    rest, _ = process.communicate(timeout=4 * MINUTES)
    printed.append(rest)
    return "".join(printed)


def table(home: Path) -> dict[str, object]:
    """Return every study's trials with state, parameters and fold scores: all that must repeat, bit for bit."""
    with sqlite3.connect(home / "studies.db") as database:
        rows = database.execute(
            "SELECT s.study_name, t.number, t.state, u.key, u.value_json FROM trials t JOIN studies s USING (study_id) "
            "JOIN trial_user_attributes u USING (trial_id) ORDER BY 1, 2, 4"
        ).fetchall()
        params = database.execute(
            "SELECT t.number, p.param_name, p.param_value FROM trials t JOIN trial_params p USING (trial_id) "
            "ORDER BY 1, 2"
        ).fetchall()
    records = {}
    for study, number, state, key, value in rows:
        record = json.loads(value)
        if isinstance(record, dict):
            record.pop("seconds", None)
        records[f"{study}/{number}/{state}/{key}"] = record
    return {"params": params, "records": records}
