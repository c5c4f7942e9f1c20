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
    (_, first_storage, first), *others = named
    for name, _, manifest in others:
        _refuse_other_layout(names[0], first, name, manifest)
    own = [_without_grid(manifest) for _, _, manifest in named]
    renamed = [_renamed(manifest, name) for name, manifest in zip(names, own, strict=True)]
    whole = Manifest(
        layout=first.layout,
        pipeline={"data_sets": {name: manifest.pipeline for name, _, manifest in named}, **_shared(first)},
        shards=tuple(shard for each in renamed for shard in each.shards),
        files=(*_grid(first), *(file for each in renamed for file in each.files)),
        skipped=tuple(skipped for each in renamed for skipped in each.skipped),
    )
    places = {VOXELS: (first_storage, VOXELS)}
    for (_, storage, _), old, new in zip(named, own, renamed, strict=True):
        places |= {name: (storage, at) for name, at in zip(_file_names(new), _file_names(old), strict=True)}
    fields = {field.name: getattr(first_storage, field.name) for field in dataclasses.fields(Storage)}
    uri = ",".join(storage.uri for _, storage, _ in named)
    return TogetherStorage(**{**fields, "uri": uri}, places=places), whole


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


def _grid(manifest: Manifest) -> list[FileEntry]:
    """Return the files that all data sets of one layout share."""
    return [file for file in manifest.files if file.name == VOXELS]


def _without_grid(manifest: Manifest) -> Manifest:
    """Return a manifest of subjects' files alone."""
    files = tuple(file for file in manifest.files if file.name.partition("/")[0] in manifest.subjects)
    return dataclasses.replace(manifest, files=files)


def _file_names(manifest: Manifest) -> list[str]:
    """Return the names of all files: those of every shard, then those beside shards."""
    of_shards = [file.name for shard in manifest.shards for file in shard.files]
    return [*of_shards, *(file.name for file in manifest.files)]


def _renamed(manifest: Manifest, data_set: str) -> Manifest:
    """Return a manifest of a data set's subjects, each called after it, too."""
    return dataclasses.replace(
        manifest,
        shards=tuple(_renamed_shard(shard, data_set) for shard in manifest.shards),
        files=tuple(_renamed_file(file, data_set) for file in manifest.files),
        skipped=tuple(
            Skipped(recording=f"{data_set} {each.recording}", reason=each.reason) for each in manifest.skipped
        ),
    )


def _renamed_file(file: FileEntry, data_set: str) -> FileEntry:
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
