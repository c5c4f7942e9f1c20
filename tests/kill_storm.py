"""Kill one study's driver, workers and Ray head at random moments, again and again, until the study has ended.

Takes a stand-in study and numbers of kills; gives what happened.  ``python kill_storm.py FOLDER KILLS`` runs a storm
over one study, beside an undisturbed run, and prints the figures.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ray_head import RayHead
from standin_job import append
from standin_study import Standin, start_standin, table_of

WORKER, DRIVER, HEAD = "worker", "driver", "head"
LONGEST_DELAY_S = 1.0
STARTS_SECONDS = 240.0


@dataclass(kw_only=True)
class Storm:
    """One study under fire."""

    standin: Standin
    head: RayHead
    kills: list[str]
    rng: random.Random
    killed: Counter = field(default_factory=Counter)
    num_starts: int = 0
    ends: Counter = field(default_factory=Counter)
    """Exit status of each driver that was not killed itself, with its last line."""
    _driver: "subprocess.Popen[str] | None" = None

    def run(self) -> None:
        """Start the study, kill what the list says, start again what ended, until the study is done."""
        try:
            self.head.start()
            for kill in self.kills:
                if not self._wait_for_progress():
                    return
                time.sleep(self.rng.uniform(0, LONGEST_DELAY_S))
                self._kill(kill)
            while not self._is_done(wait=True):
                self._start()
        finally:
            if self._driver is not None:
                _kill(self._driver.pid)
                self._driver.communicate()
            self.head.kill()

    def _start(self) -> None:
        standin = self.standin.changed(address=self.head.address)
        self._driver = start_standin(standin, **self.head.environment)
        self.num_starts += 1

    def _wait_for_progress(self) -> bool:
        """Wait until a record is committed that was not there; False where the study is done before."""
        before = self._num_commits()
        deadline = time.monotonic() + STARTS_SECONDS
        while self._num_commits() == before:
            if self._driver is None or self._driver.poll() is not None:
                if self._is_done():
                    return False
                self._start()
            assert time.monotonic() < deadline, "no progress"
            time.sleep(0.02)
        return True

    def _is_done(self, *, wait: bool = False) -> bool:
        """Tell whether the driver ended well; note how it ended."""
        if self._driver is None or (not wait and self._driver.poll() is None):
            return False
        printed, _ = self._driver.communicate(timeout=30 * 60)
        status, self._driver = self._driver.returncode, None
        lines = [line for line in printed.splitlines() if line.strip()] or [""]
        if status != -signal.SIGKILL:
            self.ends[f"{status}: {lines[-1][:160]}"] += 1
        return status == 0

    def _kill(self, what: str) -> None:
        if what == WORKER:
            pid = self._running_worker()
            if pid is None:
                what = DRIVER
            else:
                _kill(pid)
        if what == DRIVER and self._driver is not None:
            _kill(self._driver.pid)
            self._is_done(wait=True)
        if what == HEAD:
            self.head.kill()
            self.head.start()
            if self._driver is not None:
                self._is_done(wait=True)
        self.killed[what] += 1
        append(f"{self.standin.log}.kills", what)

    def _num_commits(self) -> int:
        return sum(line[0] == "commit" for line in read_log(self.standin))

    def _running_worker(self) -> int | None:
        """Return the process of the last job that was started and is not committed."""
        lines = read_log(self.standin)
        committed = {tuple(line[1:4]) for line in lines if line[0] != "start"}
        pids = [int(line[4]) for line in reversed(lines) if line[0] == "start" and tuple(line[1:4]) not in committed]
        return next((pid for pid in pids[:2] if "ray::" in _name_of(pid)), None)


def read_log(standin: Standin) -> list[list[str]]:
    """Return the log's whole lines, in words."""
    path = Path(standin.log)
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def run_again_after_commit(standin: Standin) -> list[list[str]]:
    """Return the starts of jobs whose record was in the ledger before."""
    committed, again = set(), []
    for line in read_log(standin):
        job = tuple(line[1:4])
        if line[0] != "start":
            committed.add(job)
        elif job in committed:
            again.append(line)
    return again


def lost_after_commit(standin: Standin) -> set[tuple[str, ...]]:
    """Return the jobs that were committed and are not in the final table."""
    there = {
        (str(each["trial"]), str(each["fold"]), str(each.get("repeat", 0)))
        for each in json.loads(table_of(standin))["records"]
    }
    return {tuple(line[1:4]) for line in read_log(standin) if line[0] != "start"} - there


def planned(num_workers: int, num_drivers: int, num_heads: int, rng: random.Random) -> list[str]:
    """Return so many kills of each kind in random order."""
    kills = [WORKER] * num_workers + [DRIVER] * num_drivers + [HEAD] * num_heads
    rng.shuffle(kills)
    return kills


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def storm_over(folder: Path, kills: list[str], seed: int, **fields: object) -> Storm:
    """Run a storm over one study."""
    standin = Standin(
        storage_url=f"sqlite:///{folder / 'studies.db'}", log=str(folder / "log"), job_storage=str(folder / "jobs"),
        **fields,
    )  # fmt: skip
    return Storm(standin=standin, head=RayHead(folder / "head"), kills=kills, rng=random.Random(seed))


def undisturbed(folder: Path, **fields: object) -> Standin:
    """Run the same study with nobody killing anything; jobs need not last."""
    folder.mkdir(parents=True, exist_ok=True)
    standin = Standin(
        storage_url=f"sqlite:///{folder / 'studies.db'}", log=str(folder / "log"), job_storage=str(folder / "jobs"),
        **{**fields, "seconds": 0.0},
    )  # fmt: skip
    driver = start_standin(standin)
    printed, _ = driver.communicate(timeout=30 * 60)
    assert driver.returncode == 0, printed[-3000:]
    return standin


def main() -> None:
    """Run a storm and print what it did."""
    folder, num_kills, num_trials = Path(sys.argv[1]).absolute(), int(sys.argv[2]), int(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(num_kills)
    heads, drivers = num_kills // 20, num_kills * 3 // 20
    storm = storm_over(
        folder, planned(num_kills - heads - drivers, drivers, heads, rng), num_kills, num_trials=num_trials, seconds=0.4
    )
    start = time.monotonic()
    storm.run()
    seconds = time.monotonic() - start
    alone = undisturbed(folder / "undisturbed", num_trials=num_trials)
    lines = read_log(storm.standin)
    print(f"{dict(storm.killed)} killed, {storm.num_starts} starts of the driver, {seconds:.0f} s; ends {storm.ends}")
    print(f"jobs: {len(json.loads(table_of(alone))['records'])}, starts {sum(line[0] == 'start' for line in lines)}")
    print(f"lost: {lost_after_commit(storm.standin)}; run again: {run_again_after_commit(storm.standin)}")
    print(f"same table and winner: {table_of(storm.standin) == table_of(alone)}")


if __name__ == "__main__":
    main()
