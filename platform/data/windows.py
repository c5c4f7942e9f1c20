"""Shards to windows: a local cache that workers memory-map, and batches of 30 s of EEG with the volume that follows.

Takes a manifest and the storage that holds its shards; gives runs whose arrays lie in memory-mapped Arrow files,
and batches as tensors.  A fold is a list of indices into these runs, never a copy of them.

Legend of shapes: B windows of a batch, C channels, S EEG samples, R volumes of a run, T windows of a run, V voxels.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from scipy.signal import resample_poly
from torch import Tensor

from datasets.errors import BadInput
from datasets.shards import Layout, Manifest, ShardEntry, read_shard
from datasets.storage import Storage, write_whole
from platform.data.buffers import shared_buffers
from platform.data.once import made_once

WINDOW_SECONDS = 30.0
WINDOW_VOLUMES = 15
"""Volumes of EEG in a window at ds000116's repetition time of 2 s; ``window_volumes`` tells it for any other."""
RATES_HZ = (1000, 500, 250, 125)
CACHE_VERSION = 1
_WHOLE = 1e-6


@dataclass(frozen=True, kw_only=True)
class CachedRun:
    """One recording, decoded and decimated; its arrays are memory-mapped and read-only.

    ``at_T`` says which of the recording's windows are in the run, ascending; None for all of them.  Where it is given,
    windows are numbered among these alone.
    """

    subject: str
    task: str
    run: int
    eeg_CS: NDArray[np.float16]
    bold_RV: NDArray[np.float16]
    samples_per_volume: int
    window_volumes: int = WINDOW_VOLUMES
    at_T: NDArray[np.int64] | None = None

    @property
    def num_windows(self) -> int:
        """Windows in this run: one per volume that has 30 s of EEG before it, or as many of them as there are."""
        return len(self.bold_RV) - self.window_volumes if self.at_T is None else len(self.at_T)

    @cached_property
    def eeg(self) -> Tensor:
        """The EEG as a tensor, which must not be written, shape (C, S)."""
        return _as_tensor(self.eeg_CS)

    @cached_property
    def volumes(self) -> Tensor:
        """The volumes as a tensor, which must not be written, shape (R, V)."""
        return _as_tensor(self.bold_RV)

    @property
    def targets(self) -> NDArray[np.float16]:
        """The volumes that the run's windows must predict."""
        return np.asarray(self.of_windows(self.bold_RV))

    def of_windows(self, series_RN: NDArray[Any]) -> NDArray[Any]:
        """Return what a series over the recording's volumes holds for the run's windows."""
        return self.in_run(series_RN[self.window_volumes :])

    def in_run(self, series_TN: NDArray[Any]) -> NDArray[Any]:
        """Return what a series over all windows of the recording holds for those that are in the run."""
        return series_TN if self.at_T is None else series_TN[self.at_T]

    @property
    def places(self) -> NDArray[np.int64]:
        """Where the run's windows stand among all of the recording."""
        return np.arange(self.num_windows) if self.at_T is None else self.at_T

    def place(self, number: int) -> int:
        """Return where a window of the run stands among all of the recording."""
        return number if self.at_T is None else int(self.at_T[number])

    def window(self, number: int) -> NDArray[np.float16]:
        """Return the EEG of one window, shape (C, S): it ends where the volume that it must predict begins."""
        start = self.place(number) * self.samples_per_volume
        return self.eeg_CS[:, start : start + self.window_volumes * self.samples_per_volume]


@dataclass(frozen=True, kw_only=True)
class RunCache:
    """Decoded runs on this node's disk, each made once from its shard."""

    folder: Path
    storage: Storage
    manifest: Manifest
    rate_hz: int

    def __post_init__(self) -> None:
        if self.rate_hz not in RATES_HZ:
            raise BadInput(f"the EEG rate must be one of {RATES_HZ} Hz, but got {self.rate_hz}")
        _refuse_unfit_rate(self.manifest.layout, self.rate_hz)

    def open(self, entry: ShardEntry) -> CachedRun:
        """Return a run, decoding its shard first where this node has not done so yet."""
        paths = self._paths(entry)
        for path in paths:
            made_once(path, lambda: self._decode(entry, paths))
        eeg_CS, bold_RV = (_map_rows(path) for path in paths)
        return CachedRun(
            subject=entry.subject,
            task=entry.task,
            run=entry.run,
            eeg_CS=eeg_CS,
            bold_RV=bold_RV,
            samples_per_volume=eeg_CS.shape[1] // len(bold_RV),
            window_volumes=window_volumes(self.manifest.layout.repetition_time_s),
        )

    def open_subject(self, subject: str) -> list[CachedRun]:
        """Return all runs of a subject that are long enough to hold a window."""
        runs = [self.open(entry) for entry in self.manifest.of_subject(subject)]
        return [run for run in runs if run.num_windows > 0]

    def _paths(self, entry: ShardEntry) -> tuple[Path, Path]:
        stem = f"{entry.sha256[:32]}-v{CACHE_VERSION}"
        return self.folder / f"{stem}-eeg-{self.rate_hz}hz.arrow", self.folder / f"{stem}-bold.arrow"

    def _decode(self, entry: ShardEntry, paths: tuple[Path, Path]) -> None:
        layout = self.manifest.layout
        shard = read_shard(self.storage, entry, layout)
        eeg_CS = shard.eeg_RCS.transpose(1, 0, 2).reshape(len(layout.channel_names), -1) * np.float32(layout.eeg_scale)
        _write_rows(paths[0], decimate(eeg_CS, int(layout.eeg_rate_hz) // self.rate_hz).astype(np.float16))
        _write_rows(paths[1], (shard.bold_RV * np.float32(layout.scale)).astype(np.float16))


def window_volumes(repetition_time_s: float) -> int:
    """Return how many volumes a window's EEG spans: 30 s, to the nearest whole volume."""
    return max(1, round(WINDOW_SECONDS / repetition_time_s))


def fitting_rates(layout: Layout) -> tuple[int, ...]:
    """Return the rates to which the EEG can be decimated such that every volume spans whole samples."""
    return tuple(
        rate_hz
        for rate_hz in RATES_HZ
        if layout.eeg_rate_hz % rate_hz == 0 and _is_whole(rate_hz * layout.repetition_time_s)
    )


def _refuse_unfit_rate(layout: Layout, rate_hz: int) -> None:
    fitting = fitting_rates(layout)
    if rate_hz in fitting:
        return
    if layout.eeg_rate_hz % rate_hz:
        problem = f"EEG at {layout.eeg_rate_hz:g} Hz cannot be decimated to {rate_hz} Hz"
    else:
        problem = (
            f"at {rate_hz} Hz a volume of {layout.repetition_time_s:g} s spans "
            f"{rate_hz * layout.repetition_time_s:g} EEG samples, which is not a whole number"
        )
    raise BadInput(f"{problem}; {_advice(layout, fitting)}")


def _advice(layout: Layout, fitting: tuple[int, ...]) -> str:
    """Say which rate works with these shards, else with which they must be prepared."""
    if fitting:
        return f"a rate that works: {' or '.join(f'{rate} Hz' for rate in fitting)}"
    whole = [rate for rate in RATES_HZ if _is_whole(rate * layout.repetition_time_s)]
    if not whole:
        return f"none of {RATES_HZ} Hz works with a repetition time of {layout.repetition_time_s:g} s"
    return f"prepare the shards again with --eeg-rate {' or '.join(map(str, whole))}"


def _is_whole(value: float) -> bool:
    return abs(value - round(value)) < _WHOLE


def decimate(eeg_CS: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Return every ``factor``-th sample after an anti-aliasing low-pass (zero-phase FIR, 10 output samples a side)."""
    return eeg_CS if factor == 1 else resample_poly(eeg_CS, 1, factor, axis=1).astype(np.float32)


def swap_runs(runs: Sequence[CachedRun]) -> list[CachedRun]:
    """Return one subject's runs with the EEG of each replaced by that of the next: no coupling is left, all else is.

    Runs of different lengths are cut to the shorter.  BadInput where a subject has a single run.
    """
    if len(runs) < 2:  # noqa: PLR2004
        raise BadInput("swapping EEG between runs needs 2 or more runs of every subject; prepare more runs")
    return [_with_eeg_of(run, other) for run, other in zip(runs, [*runs[1:], runs[0]], strict=True)]


def _with_eeg_of(run: CachedRun, other: CachedRun) -> CachedRun:
    rows = min(len(run.bold_RV), len(other.bold_RV))
    return replace(run, eeg_CS=other.eeg_CS[:, : rows * other.samples_per_volume], bold_RV=run.bold_RV[:rows])


PAIRINGS: dict[str, Callable[[Sequence[CachedRun]], list[CachedRun]]] = {"recorded": list, "run-swapped": swap_runs}
"""How EEG is paired with BOLD: as recorded, or, as a control, with another run of the same subject."""


def window_index(runs: Sequence[CachedRun]) -> NDArray[np.int64]:
    """Return every window of these runs as (number of run, number of window), shape (N, 2)."""
    return np.array([(which, window) for which, run in enumerate(runs) for window in range(run.num_windows)])


def eeg_batch(runs: Sequence[CachedRun], index_B2: NDArray[np.int64]) -> Tensor:
    """Return the EEG of the given windows as float32, shape (B, C, S), in memory that is used again."""
    windows = [_eeg_of(runs[which], number) for which, number in index_B2.tolist()]
    return _gathered(windows)


def target_batch(runs: Sequence[CachedRun], index_B2: NDArray[np.int64]) -> Tensor:
    """Return the volumes that the given windows must predict as float32, shape (B, V), in memory that is used again."""
    named = ((runs[which], number) for which, number in index_B2.tolist())
    rows = [run.volumes[run.window_volumes + run.place(number)] for run, number in named]
    return _gathered(rows)


def _eeg_of(run: CachedRun, number: int) -> Tensor:
    return run.eeg.narrow(1, run.place(number) * run.samples_per_volume, run.window_volumes * run.samples_per_volume)


def _gathered(rows: Sequence[Tensor]) -> Tensor:
    batch = shared_buffers().empty(len(rows), *rows[0].shape)
    for target, row in zip(batch, rows, strict=True):
        target.copy_(row)
    return batch


def _as_tensor(values: NDArray[np.float16]) -> Tensor:
    with torch.inference_mode(False), warnings.catch_warnings():  # the map is read-only, and we only read
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(values)


def _write_rows(path: Path, values_RN: NDArray[np.float16]) -> None:
    rows = pa.FixedSizeListArray.from_arrays(pa.array(values_RN.reshape(-1)), values_RN.shape[1])
    sink = pa.BufferOutputStream()
    batch = pa.record_batch({"values": rows})
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    write_whole(path, memoryview(sink.getvalue()))


def _map_rows(path: Path) -> NDArray[np.float16]:
    try:
        batch = pa.ipc.open_file(pa.memory_map(os.fspath(path))).get_batch(0)
    except (OSError, pa.ArrowInvalid) as error:
        path.unlink(missing_ok=True)
        raise BadInput(f"the cached run {path} was torn and is deleted; run the same command again") from error
    rows = batch.column(0)
    values: NDArray[np.float16] = rows.flatten().to_numpy(zero_copy_only=True)
    return values.reshape(len(rows), -1)
