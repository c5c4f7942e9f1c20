"""``python -m benchmarks``: run every benchmark and print one table, for ``make bench``."""

import sys

from benchmarks import (
    batches,
    fold_jobs,
    motion,
    other_loaders,
    predict,
    preparation,
    published_contrast,
    scale,
    search_overhead,
    shard_formats,
    tracking,
    training,
    truth,
)
from benchmarks.arena import __main__ as arena
from benchmarks.table import print_table

BENCHMARKS = {
    "shard_formats": shard_formats,
    "batches": batches,
    "other_loaders": other_loaders,
    "training": training,
    "published_contrast": published_contrast,
    "fold_jobs": fold_jobs,
    "search_overhead": search_overhead,
    "tracking": tracking,
    "predict": predict,
    "truth": truth,
    "scale": scale,
    "motion": motion,
    "preparation": preparation,
    "arena": arena,
}


def main() -> None:
    """Measure everything, one benchmark after the other."""
    rows = []
    for name, benchmark in BENCHMARKS.items():
        print(f"measuring {name}", file=sys.stderr)
        rows += benchmark.measure()
    print_table(rows)


if __name__ == "__main__":
    main()
