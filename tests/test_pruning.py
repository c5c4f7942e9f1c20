"""What pruning deletes: files of jobs that are over and caches that nobody reads; what anyone needs stays."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.fs
import pytest
from searching import ROOT, environment

from datasets.cluster import cluster_size
from datasets.errors import BadInput
from datasets.storage import open_storage
from platform.study.pruning import prune_cache, prune_jobs

NOW = time.time()
LONG_AGO = NOW - 30 * 86_400
OLD_RUN, LIVE_RUN = "transformer-1780000000000000000", "trial-0001-fold-0002-1780000000000000001"
JOBS = {
    f"{OLD_RUN}/tuner.pkl": LONG_AGO,
    f"{OLD_RUN}/trial/result.json": LONG_AGO,
    f"{LIVE_RUN}/begun.json": LONG_AGO,
    f"{LIVE_RUN}/checkpoint/weights.pt": NOW,
    "snapshots/lost.pt": LONG_AGO,
    "snapshots/written.pt": NOW,
    "fold_models/not-yet-logged.pt2": LONG_AGO,
    "brain_maps/of-a-report.npz": LONG_AGO,
    "someone-elses.txt": LONG_AGO,
    "my-study-2024/notes.txt": LONG_AGO,
}
OVER = {f"{OLD_RUN}/tuner.pkl", f"{OLD_RUN}/trial/result.json", "snapshots/lost.pt"}


def written(folder: Path, files: dict[str, float]) -> Path:
    for name, when in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")
        os.utime(path, (when, when))
    return folder


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_only_files_of_jobs_that_wrote_nothing_for_long_are_deleted(tmp_path):
    folder = written(tmp_path, JOBS)
    begun = folder / "trial-0002-fold-0000-1780000000000000002"  # so far without a file
    begun.mkdir()
    assert prune_jobs(open_storage(str(folder)), NOW - 86_400) == (3, 15)
    assert files_in(folder) == JOBS.keys() - OVER
    assert not (folder / OLD_RUN).exists()
    assert begun.exists()


def test_a_storage_that_is_not_there_yet_has_nothing_to_prune(tmp_path):
    assert prune_jobs(open_storage(str(tmp_path / "none")), NOW) == (0, 0)
    assert prune_cache(str(tmp_path / "none"), NOW) == (0, 0)


@pytest.mark.slow
def test_object_storage_is_pruned_alike(object_store):
    storage = open_storage(object_store.uri("pruned"))
    for name in JOBS:
        storage.write(name, b"12345")
    assert prune_jobs(storage, time.time() - 60) == (0, 0)
    left_by_jobs = {name for name in JOBS if name.startswith((OLD_RUN, LIVE_RUN, "snapshots"))}
    assert prune_jobs(storage, time.time() + 60)[0] == len(left_by_jobs)
    left = storage.filesystem.get_file_info(pyarrow.fs.FileSelector(storage.root, recursive=True))
    kept = {file.path[len(storage.root) + 1 :] for file in left if file.is_file}
    assert kept == JOBS.keys() - left_by_jobs


def test_a_cache_that_was_read_lately_stays(tmp_path):
    folder = written(tmp_path, {"old.arrow": LONG_AGO, "products/old.npz": LONG_AGO, "read.arrow": LONG_AGO})
    os.utime(folder / "read.arrow", (NOW, LONG_AGO))
    assert prune_cache(str(folder), NOW - 86_400) == (2, 10)
    assert files_in(folder) == {"read.arrow"}


def test_the_command_prunes_the_home_folder_and_says_how_much(tmp_path):
    written(tmp_path / "jobs", JOBS)
    written(tmp_path / "cache", {"old.arrow": LONG_AGO, "new.arrow": NOW})
    done = subprocess.run(
        [sys.executable, "-m", "platform.prune", "--older-than", "7"],
        cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["jobs: 3 files, 0.0 MB", "cache: 1 files, 0.0 MB"]


# How large a cluster is that grows with its work


@pytest.mark.parametrize(
    ("told", "expected"), [({}, (2, 1.0)), ({"CPUS": "64", "GPUS": "0"}, (64, 1.0)), ({"GPUS": "8"}, (2, 8.0))]
)
def test_a_cluster_counts_as_large_as_its_autoscaler_may_make_it(monkeypatch, told, expected):
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0, "GPU": 1.0})
    for name in ("CPUS", "GPUS"):
        monkeypatch.setenv(f"EEG2FMRI_CLUSTER_{name}", told.get(name, ""))
    assert cluster_size() == expected


def test_a_cluster_that_has_no_node_for_work_yet_is_as_large_as_it_may_grow(monkeypatch):
    monkeypatch.setattr("ray.cluster_resources", lambda: {"memory": 1e9})
    monkeypatch.delenv("EEG2FMRI_CLUSTER_GPUS", raising=False)
    monkeypatch.setenv("EEG2FMRI_CLUSTER_CPUS", "16")
    assert cluster_size() == (16, 0.0)


def test_a_size_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setattr("ray.cluster_resources", dict)
    monkeypatch.setenv("EEG2FMRI_CLUSTER_CPUS", "many")
    with pytest.raises(BadInput, match="EEG2FMRI_CLUSTER_CPUS must be an integer of at least 0, but is 'many'"):
        cluster_size()
