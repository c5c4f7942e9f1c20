"""A prepared study with everything that the quality report shows, written directly, on the real grid.

Takes numbers of subjects and runs; gives a folder of tables with a real manifest.  Shards themselves are small tables:
the report never opens them.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import ndimage

from datasets.grid import GRID_AFFINE, GRID_SHAPE, TEMPLATE, tissue_mask, tissue_probabilities
from datasets.shards import (
    VOXELS,
    FileEntry,
    Layout,
    Manifest,
    ShardEntry,
    Skipped,
    shard_names,
    write_manifest,
    write_table,
)
from datasets.storage import Storage, open_storage

NUM_CHANNELS = 34
NUM_SLICES = 32
MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")


def write_quality_study(
    folder: Path,
    *,
    subjects: int = 2,
    runs: int = 2,
    volumes: int = 40,
    bad: tuple[str, ...] = (),
    skipped: tuple[Skipped, ...] = (),
    warnings: tuple[str, ...] = (),
    quality: dict[str, Any] | None = None,
    has_t1: bool = True,
    has_images: bool = True,
    labels: tuple[str, ...] | None = None,
) -> Path:
    """Write a study and return its folder; ``bad`` subjects move, ``quality`` overrides figures of every run."""
    storage = open_storage(folder)
    shards: list[ShardEntry] = []
    files = [_write_voxels(storage)]
    for number, subject in enumerate(labels or [f"sub-{number:02d}" for number in range(1, subjects + 1)]):
        rng = np.random.default_rng(number)
        own = [_write_run(storage, subject, run, volumes, subject in bad, rng) for run in range(1, runs + 1)]
        shards += own
        if has_images:
            files += _write_images(storage, subject, has_t1, rng)
        files.append(_write_record(storage, subject, own, warnings, quality or {}, rng))
    pipeline = {
        "version": 2,
        "eeg": {"reference": "average", "notch_hz": None},
        "bold": {"fwhm_mm": 6.0},
        "alignment": {},
    }
    manifest = Manifest(
        layout=_layout(), pipeline=pipeline, shards=tuple(shards), files=tuple(files), skipped=tuple(skipped)
    )
    write_manifest(storage, manifest)
    return folder


def _layout() -> Layout:
    return Layout(
        channel_names=tuple(f"C{number}" for number in range(NUM_CHANNELS)),
        channel_locations_m=((0.0, 0.0, 0.1),) * NUM_CHANNELS,
        eeg_rate_hz=1000,
        repetition_time_s=2.0,
        reference_time_s=1.0,
        grid_shape=GRID_SHAPE,
        grid_affine=tuple(tuple(row) for row in GRID_AFFINE.tolist()),
        template=TEMPLATE,
        mask_sha256="test",
        num_voxels=int(tissue_mask().sum()),
    )


def _write_run(
    storage: Storage, subject: str, run: int, volumes: int, moves: bool, rng: np.random.Generator
) -> ShardEntry:
    names = shard_names(subject, "auditory", run)
    shard = write_table(storage, names["shard"], pa.table({"volume": np.arange(volumes)}))
    walk = np.cumsum(rng.normal(0, 0.4 if moves else 0.02, (volumes, 6)), axis=0)
    walk[:, 3:] /= 50
    steps = np.abs(np.diff(walk, axis=0, prepend=walk[:1]))
    columns = {
        "volume": np.arange(volumes),
        "pulse_rate_bpm": 65 + np.cumsum(rng.normal(0, 0.5, volumes)),
        "ecg_power": rng.normal(0, 1, volumes),
        **dict(zip(MOTION, walk.T, strict=True)),
        "framewise_displacement": steps[:, :3].sum(axis=1) + 50 * steps[:, 3:].sum(axis=1),
    }
    return ShardEntry(
        name=shard.name,
        bytes=shard.bytes,
        sha256=shard.sha256,
        subject=subject,
        task="auditory",
        run=run,
        rows=volumes,
        clipped=0,
        events=write_table(storage, names["events"], pa.table({"onset_s": [1.0]})),
        confounds=write_table(storage, names["confounds"], pa.table(columns)),
    )


def _write_record(
    storage: Storage,
    subject: str,
    shards: list[ShardEntry],
    warnings: tuple[str, ...],
    quality: dict[str, Any],
    rng: np.random.Generator,
) -> FileEntry:
    names = [f"{each.subject}_task-{each.task}_run-{each.run}" for each in shards]
    record = {
        "subject": subject,
        "warnings": list(warnings),
        "alignment": {"method": "syn", "epi_to_t1": np.eye(4).tolist()},
        "inputs": {name: {"bold.nii.gz": 28_000_000, "EEG_rereferenced.mat": 98_000_000} for name in names},
        "quality": {name: {**_quality(each.rows, rng), **quality} for name, each in zip(names, shards, strict=True)},
    }
    content = (json.dumps(record) + "\n").encode()
    return _write_bytes(storage, f"{subject}/subject.json", content)


def _write_bytes(storage: Storage, name: str, content: bytes) -> FileEntry:
    storage.write(name, content)
    return FileEntry(name=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _quality(volumes: int, rng: np.random.Generator) -> dict[str, Any]:
    frequency_hz = np.arange(0.5, 120.5, 0.5)
    before = 20 - 15 * np.log10(frequency_hz) + 8 * np.exp(-0.5 * (frequency_hz - 10) ** 2) + 9 * (frequency_hz == 16)
    slices = np.arange(3, 29)
    return {
        "volumes": volumes,
        "tsnr": 60.0 + rng.normal(0, 5),
        "coverage": 0.985,
        "marker_shift_s": 0.002,
        "bad_channels": {"T7": "flat"},
        "num_beats": round(volumes * 2 * 65 / 60),
        "spectrum": {
            "frequency_hz": frequency_hz.tolist(),
            "before_db": before.round(2).tolist(),
            "after_db": (before - 9 * (frequency_hz == 16) - 3 * (frequency_hz < 5)).round(2).tolist(),
        },
        "slice_latency": {
            "slice": slices.tolist(),
            "latency_s": (1.0 - 2.0 / NUM_SLICES * slices + rng.normal(0, 0.4, len(slices))).round(3).tolist(),
            "weight": np.ones(len(slices)).tolist(),
        },
        "slice_times_s": (np.arange(NUM_SLICES) * 2.0 / NUM_SLICES).tolist(),
        "num_slices": NUM_SLICES,
        "clipped": 0,
    }


def _write_images(storage: Storage, subject: str, has_t1: bool, rng: np.random.Generator) -> list[FileEntry]:
    grey, white = tissue_probabilities()
    brain = ndimage.binary_closing(grey + white > 0.3, iterations=2)
    t1 = np.where(brain, 300 + 400 * white + 150 * grey, np.nan).astype(np.float32)
    noise = ndimage.gaussian_filter(rng.normal(0, 1, GRID_SHAPE), 2)
    epi = np.where(ndimage.shift(brain, (0, 1, 1), order=0), 900 - 300 * white + 200 * noise, np.nan).astype(np.float32)
    epi[..., :8] = np.nan
    if not has_t1:
        t1[:] = np.nan
    images = pa.table({"epi": epi.ravel(), "t1": t1.ravel()})
    coverage = np.isfinite(epi)[tissue_mask()]
    return [
        write_table(storage, f"{subject}/{subject}_anatomy.parquet", images),
        write_table(storage, f"{subject}/{subject}_maps.parquet", pa.table({"coverage": coverage})),
    ]


def _write_voxels(storage: Storage) -> FileEntry:
    mask, grey = tissue_mask(), tissue_probabilities()[0]
    indices = np.argwhere(mask)
    columns = {axis: indices[:, number].astype(np.int16) for number, axis in enumerate("ijk")}
    return write_table(storage, VOXELS, pa.table({**columns, "grey": grey[mask]}))
