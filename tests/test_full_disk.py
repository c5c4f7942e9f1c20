"""The study's database on a real file system that fills up during a search: one line, and nothing committed is lost."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from searching import QUICK, finish_search, search, start_search, table
from small_study import write_small_study

TRIALS = ("--trials", "3", "--commit-lag", "1", "--seed", "3")
DISK_BYTES = 4 * 1024**2
ROOM_FOR_SOME_RECORDS = 16 * 1024

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a file system of its own"),
]


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """Mount a file system of a few MB and unmount it again."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"needs to mount a file system: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill_up(disk: Path, room_bytes: int) -> Path:
    """Write a file that leaves this much room on the disk, and return it."""
    filler = disk / "filler"
    status = os.statvfs(disk)
    filler.write_bytes(bytes(status.f_bavail * status.f_frsize - room_bytes))
    return filler


def test_a_database_whose_disk_fills_up_ends_the_search_in_one_line_and_goes_on(small_disk, tmp_path):
    shards = str(write_small_study(tmp_path / "shards", volumes=40))
    command = ("transformer", "--shards", shards, *TRIALS, *QUICK)
    search(tmp_path / "undisturbed", *command)
    storage = ("--study-storage", f"sqlite:///{small_disk}/studies.db")
    process = start_search(tmp_path / "home", *command, *storage)
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        printed.append(line)
        if "fold job 1:" in line:
            filler = fill_up(small_disk, ROOM_FOR_SOME_RECORDS)
            break
    printed = "".join([*printed, finish_search(process, minutes=2)])
    assert process.returncode == 2, printed[-3000:]
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "disk" in errors[0]
    assert "Traceback" not in printed
    filler.unlink()
    search(tmp_path / "home", *command, *storage)
    assert table(small_disk) == table(tmp_path / "undisturbed")
