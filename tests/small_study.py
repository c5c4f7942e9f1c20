"""A prepared study small enough for tests: shards written directly, without recordings.

Takes the strength of the coupling and a seed; gives a folder of real shards with a real manifest.  One EEG rhythm's
power, and the stimuli, drive half of the voxels through a delayed response.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa

from datasets.shards import (
    EEG_SCALE,
    VOXELS,
    FileEntry,
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

NUM_CHANNELS = 4
RATE_HZ = 250
GRID_SHAPE = (6, 5, 4)
NUM_VOXELS = 60
SAMPLES_PER_VOLUME = 2 * RATE_HZ
DELAY_VOLUMES = 3


def write_small_study(
    folder: Path,
    *,
    subjects: int = 5,
    runs: int = 2,
    volumes: int = 60,
    coupling: float = 1.0,
    seed: int = 0,
    pulse: float | None = None,
) -> Path:
    """Write a small prepared study and return its folder.

    Where ``pulse`` is given, heart rate drives all voxels that strongly, and stands beside the shards with motion and
    with each subject's maps; else there are neither confounds nor maps.
    """
    storage = open_storage(folder)
    names = [f"sub-{subject:02d}" for subject in range(1, subjects + 1)]
    entries = [
        _write_run(storage, name, run, volumes, coupling, np.random.default_rng([seed, subject, run]), pulse)
        for subject, name in enumerate(names, start=1)
        for run in range(1, runs + 1)
    ]
    maps = () if pulse is None else tuple(_write_maps(storage, name) for name in names)
    write_manifest(
        storage,
        Manifest(
            layout=small_layout(),
            pipeline={"test": True},
            shards=tuple(entries),
            files=(_write_voxels(storage), *maps),
            skipped=(),
        ),
    )
    return folder


def small_layout() -> Layout:
    """Return the layout of every small study."""
    return Layout(
        channel_names=tuple(f"C{number}" for number in range(NUM_CHANNELS)),
        channel_locations_m=((0.0, 0.0, 0.1),) * NUM_CHANNELS,
        eeg_rate_hz=RATE_HZ,
        repetition_time_s=2.0,
        reference_time_s=1.0,
        grid_shape=GRID_SHAPE,
        grid_affine=tuple(tuple(row) for row in np.diag([3.0, 3.0, 3.0, 1.0]).tolist()),
        template="test",
        mask_sha256="test",
        num_voxels=NUM_VOXELS,
    )


def _write_run(
    storage: Storage,
    subject: str,
    run: int,
    volumes: int,
    coupling: float,
    rng: np.random.Generator,
    pulse: float | None,
) -> ShardEntry:
    onset_s = np.arange(4.0, 2.0 * volumes - 10, 9.0) + rng.uniform(0, 3, len(np.arange(4.0, 2.0 * volumes - 10, 9.0)))
    kind = tuple(rng.choice(["standard", "target"], len(onset_s)))
    power_R = np.convolve(rng.standard_normal(volumes), np.ones(3) / 3, "same") * 2
    eeg_CN = _eeg(power_R, rng)
    bold_RV = _bold(power_R, onset_s, coupling, rng)
    confounds = {"volume": np.arange(volumes)}
    if pulse is not None:
        confounds |= _confounds(volumes, rng)
        bold_RV = _z_scored(bold_RV + pulse * np.roll(confounds["pulse_rate_bpm"] - 60, DELAY_VOLUMES)[:, None])
    eeg_RCS, clipped = quantise(eeg_CN.reshape(NUM_CHANNELS, volumes, -1).transpose(1, 0, 2), EEG_SCALE)
    bold_steps_RV, _ = quantise(bold_RV)
    names = shard_names(subject, "auditory", run)
    table = shard_table(subject, "auditory", run, eeg_RCS, bold_steps_RV, small_layout())
    entry = write_shard(storage, names["shard"], table)
    return ShardEntry(
        **dataclasses.asdict(entry),
        subject=subject,
        task="auditory",
        run=run,
        rows=volumes,
        clipped=clipped,
        events=write_table(storage, names["events"], events_table(onset_s, np.full(len(onset_s), 0.2), kind)),
        confounds=write_table(storage, names["confounds"], pa.table(confounds)),
    )


def _eeg(power_R: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise, and in every channel a 10 Hz rhythm whose log power follows the given course."""
    num_samples = len(power_R) * SAMPLES_PER_VOLUME
    amplitude = np.exp(0.5 * np.repeat(power_R, SAMPLES_PER_VOLUME))
    rhythm = amplitude * np.sin(2 * np.pi * 10 * np.arange(num_samples) / RATE_HZ)
    eeg_CN = rhythm + rng.standard_normal((NUM_CHANNELS, num_samples))
    return (eeg_CN / eeg_CN.std(axis=1, keepdims=True)).astype(np.float32)


def _bold(power_R: np.ndarray, onset_s: np.ndarray, coupling: float, rng: np.random.Generator) -> np.ndarray:
    """Noise, and in the first half of the voxels the rhythm's power and the stimuli, three volumes later."""
    volumes = len(power_R)
    stimuli_R = np.bincount((onset_s // 2).astype(int), minlength=volumes)[:volumes] - len(onset_s) / volumes
    drive_R = coupling * np.roll(power_R + stimuli_R, DELAY_VOLUMES)
    bold_RV = rng.standard_normal((volumes, NUM_VOXELS))
    bold_RV[:, : NUM_VOXELS // 2] += drive_R[:, None]
    return _z_scored(bold_RV)


def _z_scored(bold_RV: np.ndarray) -> np.ndarray:
    return ((bold_RV - bold_RV.mean(axis=0)) / bold_RV.std(axis=0)).astype(np.float32)


def _confounds(volumes: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Heart rate about 60 beats a minute, its phase, motion; nobody recorded eyes or muscles."""
    phase = rng.uniform(0, 2 * np.pi, volumes)
    nowhere = np.full(volumes, np.nan)
    return {
        "pulse_rate_bpm": 60 + rng.standard_normal(volumes),
        "pulse_phase_cos": np.cos(phase),
        "pulse_phase_sin": np.sin(phase),
        "eog_power": nowhere,
        "muscle_power": nowhere,
        "trans_x": 0.01 * rng.standard_normal(volumes),
        "framewise_displacement": 0.01 * rng.random(volumes),
    }


def _write_maps(storage: Storage, subject: str) -> FileEntry:
    rng = np.random.default_rng([len(subject), int(subject[-2:])])
    columns = {
        "mean": 500 + 300 * rng.random(NUM_VOXELS),
        "standard_deviation": 5 + 5 * rng.random(NUM_VOXELS),
        "coverage": np.ones(NUM_VOXELS, bool),
    }
    return write_table(storage, f"{subject}/{subject}_maps.parquet", pa.table(columns))


def _write_voxels(storage: Storage) -> FileEntry:
    indices = np.argwhere(np.ones(GRID_SHAPE, bool))[:NUM_VOXELS]
    columns = {axis: indices[:, number].astype(np.int16) for number, axis in enumerate("ijk")}
    tissues = {name: np.full(NUM_VOXELS, share, np.float32) for name, share in (("grey", 1.0), ("white", 0.0))}
    return write_table(storage, VOXELS, pa.table({**columns, **tissues}))
