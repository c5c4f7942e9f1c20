"""``python -m platform.prune``: give back the room of jobs that are over and of caches that nobody reads any more.

Arguments only; what is deleted and what is not, platform/study/pruning.py tells.
"""

import argparse
import time
from pathlib import Path

from datasets.cluster import LOCAL, address_from_environment, connected
from datasets.command_line import CommandParser, positive_number, run_command
from datasets.storage import home_folder, open_storage
from platform.study.pruning import prune_cache, prune_caches, prune_jobs

SECONDS_PER_DAY = 86_400.0


def main() -> None:
    """Prune, and print what was given back."""
    chosen = parse_arguments()
    home = home_folder()
    before_s = time.time() - chosen.older_than * SECONDS_PER_DAY
    print(f"jobs: {shown(*prune_jobs(open_storage(chosen.job_storage or str(home / 'jobs')), before_s))}")
    folder = str(Path(chosen.cache or home / "cache").absolute())
    if chosen.ray_address == LOCAL:
        print(f"cache: {shown(*prune_cache(folder, before_s))}")
        return
    with connected(chosen.ray_address, cpus=None):
        for node, pruned in prune_caches(folder, before_s):
            print(f"cache of node {node}: {shown(*pruned)}")


def parse_arguments() -> argparse.Namespace:
    """Parse the command line and the environment."""
    parser = CommandParser(
        prog="python -m platform.prune",
        description="Delete files of jobs that are over, and caches that nobody reads; no study loses anything.",
    )
    parser.add_option(
        "--older-than", metavar="DAYS", type=positive_number, default=14.0, help="days without being written or read"
    )
    parser.add_option("--job-storage", metavar="URI", help="where Ray keeps jobs' files (else in EEG2FMRI_HOME)")
    parser.add_option("--cache", metavar="FOLDER", help="each node's cache (else in EEG2FMRI_HOME)")
    parser.add_option(
        "--ray-address",
        metavar="ADDRESS",
        default=address_from_environment(),
        help="local, or the cluster whose nodes' caches are meant",
    )
    return parser.parse_args()


def shown(num_files: int, num_bytes: int) -> str:
    """Return what was deleted, for a terminal."""
    return f"{num_files} files, {num_bytes / 1e6:.1f} MB"


if __name__ == "__main__":
    raise SystemExit(run_command(main))
