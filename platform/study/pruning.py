"""What lasts longer than it is of use: files of jobs that are over, caches that nobody reads.

Takes the jobs' storage, or a cache folder, and a time; deletes what was not touched since.  Ledgers, MLflow's files,
models of folds that are not logged yet and the maps of reports stay.
"""

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import ray
from pyarrow import fs
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from datasets.storage import Storage

OF_A_RUN = re.compile(r".*-\d{19}")
"""What Ray Tune and Ray Train keep of one run lies in a folder whose name ends with when it began, in ns."""
SNAPSHOTS = "snapshots"


def prune_jobs(storage: Storage, before_s: float) -> tuple[int, int]:
    """Delete what jobs left that wrote nothing since then; return how many files and bytes."""
    selector = fs.FileSelector(storage.root, recursive=True, allow_not_found=True)
    folders: dict[str, list[fs.FileInfo]] = {}
    for file in storage.filesystem.get_file_info(selector):
        folder, _, rest = file.path[len(storage.root) + 1 :].partition("/")
        if rest and file.type == fs.FileType.File:
            # A snapshot is a job's own; of a run's files all or none are of use.
            key = f"{folder}/{rest}" if folder == SNAPSHOTS else folder
            folders.setdefault(key, []).append(file)
    over = [
        file
        for name, found in folders.items()
        if _is_of_a_job(name) and max(_written_s(each) for each in found) < before_s
        for file in found
    ]
    for file in over:
        storage.remove(file.path[len(storage.root) + 1 :])
    if storage.is_local:  # elsewhere folders are but names
        for folder in {file.path[len(storage.root) + 1 :].partition("/")[0] for file in over} - {SNAPSHOTS}:
            shutil.rmtree(storage.path(folder))
    return len(over), sum(file.size for file in over)


def prune_caches(folder: str, before_s: float) -> Iterator[tuple[str, tuple[int, int]]]:
    """Prune the cache folder of each node of the connected cluster; yield the node's address and files and bytes."""
    prune = ray.remote(prune_cache)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    running = [
        prune.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(folder, before_s)
        for node in nodes
    ]
    for node, pruned in zip(nodes, running, strict=True):
        yield node["NodeManagerAddress"], ray.get(pruned)


def prune_cache(folder: str, before_s: float) -> tuple[int, int]:
    """Delete files of this node's cache that nobody read or wrote since then; return how many files and bytes.

    A process that maps such a file keeps it; the next one that needs it makes it anew.
    """
    num_files = num_bytes = 0
    for path in Path(folder).rglob("*"):
        try:
            found = path.stat()
            if not path.is_file() or max(found.st_atime, found.st_mtime) >= before_s:
                continue
            path.unlink()
        except FileNotFoundError:  # another command prunes, too
            continue
        num_files, num_bytes = num_files + 1, num_bytes + found.st_size
    return num_files, num_bytes


def _is_of_a_job(name: str) -> bool:
    return name.startswith(f"{SNAPSHOTS}/") or OF_A_RUN.fullmatch(name) is not None


def _written_s(file: fs.FileInfo) -> float:
    """Return when a file was written; a store that does not say so has it written just now."""
    return time.time() if file.mtime is None else float(file.mtime_ns) / 1e9
