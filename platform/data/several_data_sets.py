"""Several prepared data sets as one: a manifest of all subjects, and a storage that finds each file where it lies.

Takes places with a comma between; gives a storage and a manifest as of one data set.  Subjects are called
``DATA-SET SUBJECT``, so that nobody is confused with somebody else of the same label.  Nothing is written.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from datasets.errors import BadInput
from datasets.shards import VOXELS, FileEntry, Layout, Manifest, ShardEntry, Skipped, read_manifest
from datasets.storage import Storage, open_storage

MOST_APART_M = 0.01
"""How far an electrode may lie from that of the first data set and count as the same."""
_LOCATIONS = "channel_locations_m"


@dataclass(frozen=True, kw_only=True)
class TogetherStorage(Storage):
    """The files of several storages under the names that one manifest gives them; for reading alone."""

    places: Mapping[str, tuple[Storage, str]]

    def read(self, name: str) -> bytes:
        """Return a file's bytes; FileNotFoundError where there is none."""
        if name not in self.places:
            raise FileNotFoundError(f"no file {name} at {self.uri}")
        storage, own_name = self.places[name]
        return storage.read(own_name)


def places_of(shards: str) -> tuple[str, ...]:
    """Return the places that are named with commas between; a local folder with a comma in its name is one."""
    if shards and Path(shards.removeprefix("file://")).is_dir():
        return (shards,)
    return tuple(place.strip() for place in shards.split(",") if place.strip())


def open_shards(shards: str) -> tuple[Storage, Manifest]:
    """Return the storage and the manifest of one data set, or of several as if they were one.

    Raises:
        BadInput: where one has no manifest, where they do not fit together, or where one is given twice.
    """
    storages = [open_storage(place) for place in places_of(shards)]
    manifests = [read_manifest(storage) for storage in storages]
    if len(storages) == 1:
        return storages[0], manifests[0]
    return together(storages, manifests)


def together(storages: Sequence[Storage], manifests: Sequence[Manifest]) -> tuple[Storage, Manifest]:
    """Return several data sets as one; their order is that of their names, whatever order they came in."""
    named = sorted(zip(_names([storage.uri for storage in storages]), storages, manifests, strict=True))
    names = [name for name, _, _ in named]
    _refuse_twice(names, [manifest for _, _, manifest in named])
    first = named[0][2]
    for name, _, manifest in named[1:]:
        _refuse_other_layout(names[0], first, name, manifest)
    places: dict[str, tuple[Storage, str]] = {VOXELS: (named[0][1], VOXELS)}
    shards: list[ShardEntry] = []
    files = [file for file in first.files if file.name == VOXELS]
    for name, storage, manifest in named:
        renamed = [_renamed_shard(shard, name) for shard in manifest.shards]
        own = [file for file in manifest.files if file.name.partition("/")[0] in manifest.subjects]
        others = [_renamed(file, name) for file in own]
        for entry, old in zip(others, own, strict=True):
            places[entry.name] = (storage, old.name)
        for entry, old_shard in zip(renamed, manifest.shards, strict=True):
            places |= {new.name: (storage, old.name) for new, old in zip(entry.files, old_shard.files, strict=True)}
        shards += renamed
        files += others
    pipeline = {"data_sets": {name: manifest.pipeline for name, _, manifest in named}, **_shared(first)}
    skipped = tuple(
        Skipped(recording=f"{name} {each.recording}", reason=each.reason)
        for name, _, manifest in named
        for each in manifest.skipped
    )
    whole = Manifest(layout=first.layout, pipeline=pipeline, shards=tuple(shards), files=tuple(files), skipped=skipped)
    place = {field.name: getattr(named[0][1], field.name) for field in dataclasses.fields(Storage)}
    uri = ",".join(storage.uri for _, storage, _ in named)
    return TogetherStorage(**{**place, "uri": uri}, places=places), whole


def data_set_of(subject: str) -> str:
    """Return the name of the data set of a subject; "" where there is one data set only."""
    return subject.rpartition(" ")[0]


def _names(uris: Sequence[str]) -> list[str]:
    """Return a name for each place: the last of its folders, and as many before it as tell all places apart."""
    paths = [[part for part in PurePosixPath(uri.partition("?")[0]).parts if part.strip("/")] for uri in uris]
    for depth in range(1, max(map(len, paths)) + 1):
        names = [re.sub(r"[^A-Za-z0-9_-]", "_", "-".join(parts[-depth:])) for parts in paths]
        if len(set(names)) == len(names):
            return names
    raise BadInput(f"every data set must lie at a place of its own, but got {', '.join(uris)}")


def _refuse_twice(names: Sequence[str], manifests: Sequence[Manifest]) -> None:
    seen: dict[str, str] = {}
    for name, manifest in zip(names, manifests, strict=True):
        for shard in manifest.shards:
            other = seen.setdefault(shard.sha256, name)
            if other != name:
                raise BadInput(
                    f"{name} holds a recording that {other} holds, too ({shard.name}); a subject may not train in one "
                    "data set and test in another: give each data set once"
                )


def _refuse_other_layout(first: str, manifest: Manifest, name: str, other: Manifest) -> None:
    layout, others = dataclasses.asdict(manifest.layout), dataclasses.asdict(other.layout)
    unlike = [key for key in layout if key != _LOCATIONS and layout[key] != others[key]]
    if not unlike and _apart_m(manifest.layout, other.layout) > MOST_APART_M:
        unlike = [_LOCATIONS]
    if unlike:
        raise BadInput(
            f"{first} and {name} differ in {', '.join(unlike)} ({_shown(layout[unlike[0]])}, "
            f"{_shown(others[unlike[0]])}); prepare both with the same channels, rates, volumes and grid"
        )
    treated = [key for key in ("eeg", "bold") if manifest.pipeline.get(key) != other.pipeline.get(key)]
    if treated:
        raise BadInput(
            f"{first} and {name} were prepared with other settings of {' and '.join(treated)}; prepare both alike"
        )


def _apart_m(layout: Layout, other: Layout) -> float:
    """Return how far the same electrode lies apart at the most; infinite where only one of the two is known."""
    found = [0.0]
    for here, there in zip(layout.channel_locations_m, other.channel_locations_m, strict=True):
        if (here is None) != (there is None):
            return math.inf
        if here is not None and there is not None:
            found.append(math.dist(here, there))
    return max(found)


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."  # noqa: PLR2004 - a line's worth


def _shared(manifest: Manifest) -> dict[str, object]:
    return {key: manifest.pipeline[key] for key in ("eeg", "bold") if key in manifest.pipeline}


def _renamed(file: FileEntry, data_set: str) -> FileEntry:
    """Return the entry of a subject's file, called after the data set, too."""
    subject = file.name.partition("/")[0]
    return dataclasses.replace(file, name=file.name.replace(subject, f"{data_set} {subject}"))


def _renamed_shard(shard: ShardEntry, data_set: str) -> ShardEntry:
    return dataclasses.replace(
        shard,
        name=f"{data_set}/{shard.name}",
        subject=f"{data_set} {shard.subject}",
        events=_in(shard.events, data_set),
        confounds=_in(shard.confounds, data_set),
    )


def _in(file: FileEntry, data_set: str) -> FileEntry:
    return dataclasses.replace(file, name=f"{data_set}/{file.name}")
