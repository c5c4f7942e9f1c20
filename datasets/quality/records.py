"""Read back what preparation stored of each run's quality, and flag what looks bad.

Takes a storage and its manifest; gives one record per subject and run.  Every file is compared with the manifest's
hash; what an older preparation did not store is nan, None or empty.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.quality.markup import MINUS
from datasets.shards import VOXELS, FileEntry, Layout, Manifest, ShardEntry, read_file, read_table
from datasets.storage import Storage

Floats = NDArray[np.float64]

FD_MM = 0.5
MEAN_FD_MM = 0.5
LARGEST_FD_MM = 3.0
MOVED_SHARE = 0.2
SMALLEST_TSNR = 30.0
SMALLEST_COVERAGE = 0.9
BAD_CHANNEL_SHARE = 0.15
PULSE_BPM = (40.0, 120.0)
SHIFT_S = 0.05
CLIPPED_SHARE = 1e-5
THRESHOLDS = (
    "volumes: other than in most runs of the study",
    f"motion: mean framewise displacement (FD) above {MEAN_FD_MM:g} mm, largest above {LARGEST_FD_MM:g} mm, "
    f"or more than {MOVED_SHARE:.0%} of the volumes above {FD_MM:g} mm",
    f"temporal signal-to-noise ratio (tSNR) below {SMALLEST_TSNR:g}",
    f"coverage: less than {SMALLEST_COVERAGE:.0%} of the mask within the images",
    f"bad channels: more than {BAD_CHANNEL_SHARE:.0%} of them",
    f"beats: none found although an ECG was recorded, or fewer than {PULSE_BPM[0]:g} or more than {PULSE_BPM[1]:g} "
    "a minute",
    f"marker shift: the EEG's stimulus markers more than {1000 * SHIFT_S:g} ms off the events",
    f"clipped: more than one in {1 / CLIPPED_SHARE:,.0f} stored values",
)


@dataclass(frozen=True, kw_only=True)
class Flag:
    """Something that looks bad: the column of the verdict table that shows it, and a few words."""

    column: str
    text: str


@dataclass(frozen=True, kw_only=True, eq=False)
class RunQuality:
    """One run as the report shows it; nan or None where a figure is not known.

    ``confounds`` holds the columns of the run's confounds table, ``spectrum`` and ``slice_latency`` are as stored.
    """

    subject: str
    task: str
    run: int
    volumes: int
    clipped: int
    confounds: Mapping[str, Floats]
    tsnr: float = math.nan
    coverage: float = math.nan
    marker_shift_s: float = math.nan
    num_beats: int | None = None
    bad_channels: Mapping[str, str] = field(default_factory=dict)
    spectrum: Mapping[str, Any] | None = None
    slice_latency: Mapping[str, Any] | None = None
    slice_times_s: tuple[float, ...] | None = None
    num_slices: int | None = None
    flags: tuple[Flag, ...] = ()

    @property
    def displacement_mm(self) -> Floats:
        """Framewise displacement of the volumes where it is known."""
        values = self.confounds.get("framewise_displacement", np.empty(0))
        return values[np.isfinite(values)]

    @property
    def mean_fd_mm(self) -> float:
        """The mean framewise displacement; nan where there is none."""
        return float(self.displacement_mm.mean()) if len(self.displacement_mm) else math.nan

    @property
    def max_fd_mm(self) -> float:
        """The largest framewise displacement; nan where there is none."""
        return float(self.displacement_mm.max()) if len(self.displacement_mm) else math.nan

    @property
    def moved_share(self) -> float:
        """The share of volumes with a framewise displacement above 0.5 mm; nan where there is none."""
        return float((self.displacement_mm > FD_MM).mean()) if len(self.displacement_mm) else math.nan

    @property
    def has_ecg(self) -> bool:
        """Whether an ECG was recorded."""
        return bool(np.isfinite(self.confounds.get("ecg_power", np.empty(0))).any())


@dataclass(frozen=True, kw_only=True, eq=False)
class SubjectQuality:
    """One subject: its runs, and its record as stored (empty where there is none)."""

    subject: str
    runs: tuple[RunQuality, ...]
    record: Mapping[str, Any]

    @property
    def is_flagged(self) -> bool:
        """Whether anything about a run looks bad."""
        return any(run.flags for run in self.runs)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What preparation warned of."""
        return tuple(str(line) for line in self.record.get("warnings", ()))


@dataclass(frozen=True, kw_only=True, eq=False)
class Template:
    """What all subjects share: the mask and the template's grey matter on the grid, and the grid's affine."""

    mask: NDArray[np.bool_]
    grey: Floats
    affine: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Anatomy:
    """A subject's mean EPI and T1 on the grid, 0 outside the brain, and the mask's voxels that some run lacks."""

    epi: Floats | None
    t1: Floats | None
    missing: NDArray[np.bool_] | None


def subjects_of(manifest: Manifest) -> list[str]:
    """Return every subject that has a shard or a record, sorted."""
    recorded = {entry.name.split("/")[0] for entry in manifest.files if entry.name.endswith("/subject.json")}
    return sorted(recorded | set(manifest.subjects))


def read_subject(storage: Storage, manifest: Manifest, subject: str) -> SubjectQuality:
    """Return what is stored of a subject's quality."""
    entry = _entry(manifest, f"{subject}/subject.json")
    record = {} if entry is None else json.loads(read_file(storage, entry))
    most = _usual_volumes(manifest)
    runs = (_read_run(storage, shard, record, manifest.layout, most) for shard in manifest.of_subject(subject))
    return SubjectQuality(subject=subject, runs=tuple(runs), record=record)


def read_template(storage: Storage, manifest: Manifest) -> Template:
    """Return the mask and grey matter of a prepared data set."""
    layout = manifest.layout
    mask, grey = np.zeros(layout.grid_shape, bool), np.zeros(layout.grid_shape)
    entry = _entry(manifest, VOXELS)
    if entry is not None:
        voxels = read_table(storage, entry)
        index = tuple(voxels[axis].to_numpy() for axis in "ijk")
        mask[index], grey[index] = True, voxels["grey"].to_numpy()
    return Template(mask=mask, grey=grey, affine=np.array(layout.grid_affine))


def read_anatomy(storage: Storage, manifest: Manifest, subject: str, template: Template) -> Anatomy:
    """Return a subject's images on the grid; None for what is not stored."""
    anatomy, maps = (_entry(manifest, f"{subject}/{subject}_{name}.parquet") for name in ("anatomy", "maps"))
    images: dict[str, Floats | None] = {"epi": None, "t1": None}
    if anatomy is not None:
        stored = read_table(storage, anatomy)
        images = {name: _image(stored[name].to_numpy(), manifest.layout) for name in images}
    missing = None
    if maps is not None:
        covered = read_table(storage, maps)["coverage"].to_numpy()
        missing = np.zeros(template.mask.shape, bool)
        missing[template.mask] = ~covered
    return Anatomy(epi=images["epi"], t1=images["t1"], missing=missing)


def flags(run: RunQuality, layout: Layout, usual_volumes: int) -> tuple[Flag, ...]:
    """Return what looks bad about a run, by THRESHOLDS."""
    return (
        *_volume_flags(run, usual_volumes),
        *_motion_flags(run),
        *_image_flags(run),
        *_channel_flags(run, len(layout.channel_names)),
        *_pulse_flags(run, layout.repetition_time_s),
        *_clock_flags(run),
        *_clipped_flags(run, layout),
    )


def _read_run(
    storage: Storage, shard: ShardEntry, record: Mapping[str, Any], layout: Layout, usual_volumes: int
) -> RunQuality:
    stored = record.get("quality", {}).get(f"{shard.subject}_task-{shard.task}_run-{shard.run}", {})
    columns = read_table(storage, shard.confounds)
    times_s = stored.get("slice_times_s")
    run = RunQuality(
        subject=shard.subject,
        task=shard.task,
        run=shard.run,
        volumes=shard.rows,
        clipped=shard.clipped,
        confounds={name: columns[name].to_numpy().astype(np.float64) for name in columns.column_names},
        tsnr=_number(stored.get("tsnr")),
        coverage=_number(stored.get("coverage")),
        marker_shift_s=_number(stored.get("marker_shift_s")),
        num_beats=stored.get("num_beats"),
        bad_channels=stored.get("bad_channels") or {},
        spectrum=stored.get("spectrum"),
        slice_latency=stored.get("slice_latency"),
        slice_times_s=None if times_s is None else tuple(times_s),
        num_slices=stored.get("num_slices"),
    )
    return dataclasses.replace(run, flags=flags(run, layout, usual_volumes))


def _volume_flags(run: RunQuality, usual: int) -> list[Flag]:
    if run.volumes == usual:
        return []
    return [Flag(column="volumes", text=f"{run.volumes} volumes, most runs have {usual}")]


def _motion_flags(run: RunQuality) -> list[Flag]:
    found = []
    if run.mean_fd_mm > MEAN_FD_MM:
        found.append(Flag(column="mean_fd", text=f"mean FD {run.mean_fd_mm:.2f} mm"))
    if run.max_fd_mm > LARGEST_FD_MM:
        found.append(Flag(column="max_fd", text=f"FD up to {run.max_fd_mm:.1f} mm"))
    if run.moved_share > MOVED_SHARE:
        found.append(Flag(column="moved", text=f"{run.moved_share:.0%} of volumes above {FD_MM:g} mm FD"))
    return found


def _image_flags(run: RunQuality) -> list[Flag]:
    found = []
    if run.tsnr < SMALLEST_TSNR:
        found.append(Flag(column="tsnr", text=f"tSNR {run.tsnr:.0f}"))
    if run.coverage < SMALLEST_COVERAGE:
        found.append(Flag(column="coverage", text=f"{1 - run.coverage:.0%} of the mask not covered"))
    return found


def _channel_flags(run: RunQuality, num_channels: int) -> list[Flag]:
    if len(run.bad_channels) <= BAD_CHANNEL_SHARE * num_channels:
        return []
    return [Flag(column="bad_channels", text=f"{len(run.bad_channels)} of {num_channels} channels bad")]


def _pulse_flags(run: RunQuality, repetition_time_s: float) -> list[Flag]:
    if run.num_beats is None or not run.has_ecg:
        return []
    if run.num_beats == 0:
        return [Flag(column="beats", text="no heartbeats found in the ECG")]
    bpm = 60 * run.num_beats / (run.volumes * repetition_time_s)
    if PULSE_BPM[0] <= bpm <= PULSE_BPM[1]:
        return []
    return [Flag(column="beats", text=f"{bpm:.0f} heartbeats a minute")]


def _clock_flags(run: RunQuality) -> list[Flag]:
    if not abs(run.marker_shift_s) > SHIFT_S:
        return []
    shift_ms = f"{1000 * run.marker_shift_s:+.0f}".replace("-", MINUS)
    return [Flag(column="marker_shift", text=f"markers {shift_ms} ms off the events")]


def _clipped_flags(run: RunQuality, layout: Layout) -> list[Flag]:
    values = run.volumes * (layout.samples_per_volume * len(layout.channel_names) + layout.num_voxels)
    if run.clipped <= CLIPPED_SHARE * values:
        return []
    return [Flag(column="clipped", text=f"{run.clipped:,} values clipped")]


def _usual_volumes(manifest: Manifest) -> int:
    rows, counts = np.unique([shard.rows for shard in manifest.shards], return_counts=True)
    return int(rows[np.argmax(counts)])


def _entry(manifest: Manifest, name: str) -> FileEntry | None:
    return next((entry for entry in manifest.files if entry.name == name), None)


def _image(values: NDArray[np.float32], layout: Layout) -> Floats | None:
    """Return an image on the grid, 0 where it is nan; None where it is nan, or nothing, throughout."""
    image = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0).reshape(layout.grid_shape)
    return image if image.any() else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
