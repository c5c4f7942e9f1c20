"""Noise of a recording's shape and smoothness, as arrays or as prepared shards: what benchmarks measure on.

Takes sizes and a seed; gives EEG with a 1/f spectrum and spatially smooth volumes, and folders of real shards with a
real manifest.  Does nothing when run.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from datasets.shards import (
    VOXELS,
    Layout,
    Manifest,
    ShardEntry,
    events_table,
    quantise,
    shard_names,
    shard_table,
    write_manifest,
    write_shard,
    write_table,
)
from datasets.storage import Storage, open_storage

REPETITION_TIME_S = 2.0
SMOOTHNESS_VOXELS = 0.85  # 6 mm FWHM on a grid of 3 mm


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much there is of everything."""

    channels: int
    rate_hz: int
    grid: tuple[int, int, int]
    voxels: int
    subjects: int = 1
    runs: int = 1
    volumes: int = 170


FULL = Sizes(channels=34, rate_hz=1000, grid=(53, 63, 52), voxels=64_820)
"""One run of ds000116."""
TINY = Sizes(channels=4, rate_hz=250, grid=(6, 5, 4), voxels=60, subjects=6, runs=2, volumes=40)
"""A study on which a fold job has next to nothing to do."""


def layout_of(sizes: Sizes) -> Layout:
    """Return the layout of shards of these sizes."""
    return Layout(
        channel_names=tuple(f"C{number}" for number in range(sizes.channels)),
        channel_locations_m=((0.0, 0.0, 0.1),) * sizes.channels,
        eeg_rate_hz=sizes.rate_hz,
        repetition_time_s=REPETITION_TIME_S,
        reference_time_s=REPETITION_TIME_S / 2,
        grid_shape=sizes.grid,
        grid_affine=tuple(tuple(row) for row in np.diag([3.0, 3.0, 3.0, 1.0]).tolist()),
        template="noise",
        mask_sha256="noise",
        num_voxels=sizes.voxels,
    )


def eeg_noise(sizes: Sizes, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return EEG of unit variance with a 1/f spectrum, (volumes, channels, samples of a volume)."""
    num_samples = round(sizes.volumes * REPETITION_TIME_S * sizes.rate_hz)
    spectrum = np.fft.rfft(rng.standard_normal((sizes.channels, num_samples), dtype=np.float32), axis=1)
    spectrum /= np.sqrt(np.maximum(np.arange(spectrum.shape[1]), REPETITION_TIME_S * sizes.volumes / 2))
    signal = np.fft.irfft(spectrum, num_samples, axis=1)
    signal /= signal.std(axis=1, keepdims=True)
    return signal.reshape(sizes.channels, sizes.volumes, -1).transpose(1, 0, 2).astype(np.float32)


def bold_noise(sizes: Sizes, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return spatially smooth volumes, z-scored over time, (volumes, voxels)."""
    volumes = rng.standard_normal((sizes.volumes, *sizes.grid), dtype=np.float32)
    smooth = [gaussian_filter(volume, SMOOTHNESS_VOXELS).reshape(-1)[: sizes.voxels] for volume in volumes]
    series = np.stack(smooth)
    return (series - series.mean(axis=0)) / series.std(axis=0)


def write_study(folder: Path, sizes: Sizes, seed: int = 0) -> Manifest:
    """Write prepared shards of noise and return their manifest."""
    storage = open_storage(folder)
    shards = tuple(
        _write_run(storage, sizes, f"sub-{subject:02d}", run, np.random.default_rng([seed, subject, run]))
        for subject in range(1, sizes.subjects + 1)
        for run in range(1, sizes.runs + 1)
    )
    voxels = write_table(storage, VOXELS, _voxels(sizes))
    manifest = Manifest(
        layout=layout_of(sizes),
        pipeline={"noise": dataclasses.asdict(sizes)},
        shards=shards,
        files=(voxels,),
        skipped=(),
    )
    write_manifest(storage, manifest)
    return manifest


def _write_run(storage: Storage, sizes: Sizes, subject: str, run: int, rng: np.random.Generator) -> ShardEntry:
    eeg_RCS, _ = quantise(eeg_noise(sizes, rng))
    bold_RV, clipped = quantise(bold_noise(sizes, rng))
    names = shard_names(subject, "auditory", run)
    entry = write_shard(
        storage, names["shard"], shard_table(subject, "auditory", run, eeg_RCS, bold_RV, layout_of(sizes))
    )
    onset_s = np.arange(4.0, REPETITION_TIME_S * sizes.volumes - 10, 9.0) + rng.uniform(0, 3)
    kinds = [("standard", "target")[number % 2] for number in range(len(onset_s))]
    events = events_table(onset_s, np.full(len(onset_s), 0.2), kinds)
    return ShardEntry(
        **dataclasses.asdict(entry),
        subject=subject,
        task="auditory",
        run=run,
        rows=sizes.volumes,
        clipped=clipped,
        events=write_table(storage, names["events"], events),
        confounds=write_table(storage, names["confounds"], pa.table({"volume": np.arange(sizes.volumes)})),
    )


def _voxels(sizes: Sizes) -> pa.Table:
    indices = np.argwhere(np.ones(sizes.grid, bool))[: sizes.voxels].astype(np.int16)
    columns = {axis: indices[:, number] for number, axis in enumerate("ijk")}
    return pa.table({**columns, "grey": np.ones(sizes.voxels, np.float32)})
