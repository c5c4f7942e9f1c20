"""Small jobs for a long time: what a search's driver and its Ray hold grows by what each result takes and no more.

Takes a folder and minutes; gives samples of the driver's memory, handles and threads, of Ray's objects and processes,
and of rows, files and records.  ``PYTHONPATH=. python tests/soak.py FOLDER MINUTES`` prints what one more job costs.
"""

import dataclasses
import json
import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
from ray._private import internal_api, worker
from standin_study import Standin, run_standin

from deploy.stack.processes import identity_of, with_descendants

SCRIPT = Path(__file__).resolve()
ROOT = SCRIPT.parent.parent
SECONDS_BETWEEN = 5.0
NUM_TRIALS = 1_000_000
"""More than there is time for."""
KIB = 1024


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What there is at a moment.

    Attributes:
        records: results in the ledger.
        rss_kib, handles, threads: memory, open files and threads of the driver.
        processes: those below the driver, which are its Ray's.
        objects, references: what lies in Ray's object store, and what the driver refers to.
        rows, files: in the ledger's database, and in the job storage.
    """

    seconds: float
    records: int
    rss_kib: int
    handles: int
    threads: int
    processes: int
    objects: int
    references: int
    rows: int
    files: int


def main() -> None:
    """Soak, and print what there was and what a job costs."""
    folder, minutes = Path(sys.argv[1]).absolute(), float(sys.argv[2])
    samples = soak(folder, minutes)
    first, last = samples[len(samples) // 2], samples[-1]
    print(f"{len(samples)} samples, {last.records} jobs in {minutes:g} minutes")
    print(f"at half time: {first}\nin the end:   {last}\na job more: {each_job(first, last)}")


def soak(folder: Path, minutes: float) -> list[Sample]:
    """Run small jobs for some minutes in a process of its own and return the samples taken while they ran."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("EEG2FMRI_", "RAY_", "MLFLOW_"))}
    with (folder / "printed").open("wb") as printed:
        subprocess.run(
            [sys.executable, str(SCRIPT), "--inside", str(folder), str(minutes)],
            cwd=ROOT, stdout=printed, stderr=printed, check=True, timeout=minutes * 60 + 300,
            env={**kept, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": f"{ROOT}:{SCRIPT.parent}", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    samples = [Sample(**json.loads(line)) for line in (folder / "samples").read_text().splitlines()]
    return [each for each in samples if 0 < each.records < samples[-1].records]


def each_job(first: Sample, last: Sample) -> dict[str, float]:
    """Return by how much each figure grew from one sample to a later one, for each record between them."""
    jobs = last.records - first.records
    names = [each.name for each in dataclasses.fields(Sample) if each.name not in ("seconds", "records")]
    return {name: round((getattr(last, name) - getattr(first, name)) / jobs, 4) for name in names}


# In the driver


def run(folder: Path, minutes: float) -> None:
    """Run a stand-in study for some minutes, sampled all the while."""
    standin = Standin(
        storage_url=f"sqlite:///{folder / 'studies.db'}", log=str(folder / "log"), job_storage=str(folder / "jobs"),
        num_trials=NUM_TRIALS, racing="none", sampler="random", time_budget_s=minutes * 60,
    )  # fmt: skip
    with sampling(folder):
        run_standin(standin)


@contextmanager
def sampling(folder: Path) -> Iterator[None]:
    """Write a sample every few seconds for as long as a ``with`` lasts."""
    start, is_over = time.monotonic(), threading.Event()

    def go_on() -> None:
        with (folder / "samples").open("w") as file:
            while not is_over.wait(SECONDS_BETWEEN):
                if ray.is_initialized() and (folder / "studies.db").exists() and (folder / "jobs").exists():
                    file.write(json.dumps(dataclasses.asdict(sample(folder, time.monotonic() - start))) + "\n")
                    file.flush()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def sample(folder: Path, seconds: float) -> Sample:
    """Look at this process and all that it holds."""
    own = identity_of(os.getpid())
    assert own is not None
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    [node] = [each for each in ray.nodes() if each["Alive"]]
    stored = internal_api.node_stats(node["NodeManagerAddress"], node["NodeManagerPort"]).store_stats
    log = folder / "log"
    return Sample(
        seconds=round(seconds, 1),
        records=sum(line.startswith("commit") for line in log.read_text().splitlines()) if log.exists() else 0,
        rss_kib=int(status["VmRSS"].split()[0]),
        handles=len(list(Path("/proc/self/fd").iterdir())),
        threads=int(status["Threads"]),
        processes=len(with_descendants(own)) - 1,
        objects=stored.num_local_objects,
        references=len(worker.global_worker.core_worker.get_all_reference_counts()),
        rows=rows_in(folder / "studies.db"),
        files=sum(len(files) for _, _, files in os.walk(folder / "jobs")),
    )


def rows_in(database: Path) -> int:
    """Return how many rows all tables of a database hold."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return sum(connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables)


if __name__ == "__main__":
    if sys.argv[1] == "--inside":
        logging.basicConfig(level=logging.WARNING)
        run(Path(sys.argv[2]), float(sys.argv[3]))
    else:
        main()
