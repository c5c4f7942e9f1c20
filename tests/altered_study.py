"""A copy of a small study in which one subject's BOLD is another: what does not read it must not change."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from datasets.shards import ShardEntry, read_manifest, read_shard, shard_table, write_manifest, write_shard
from datasets.storage import Storage, open_storage

Change = Callable[[np.ndarray], np.ndarray]


def with_other_bold(study: Path, copy: Path, subject: str, change: Change = np.negative) -> Path:
    """Copy a study, the stored BOLD of one subject's runs changed (its sign, unless told otherwise)."""
    shutil.copytree(study, copy)
    storage = open_storage(copy)
    manifest = read_manifest(storage)
    shards = tuple(
        _rewritten(storage, entry, manifest.layout, change) if entry.subject == subject else entry
        for entry in manifest.shards
    )
    assert shards != manifest.shards
    write_manifest(storage, dataclasses.replace(manifest, shards=shards))
    return copy


def _rewritten(storage: Storage, entry: ShardEntry, layout: object, change: Change) -> ShardEntry:
    shard = read_shard(storage, entry, layout)
    table = shard_table(entry.subject, entry.task, entry.run, shard.eeg_RCS, change(shard.bold_RV), layout)
    return dataclasses.replace(entry, **dataclasses.asdict(write_shard(storage, entry.name, table)))
