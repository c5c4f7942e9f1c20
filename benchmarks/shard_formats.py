"""How large one full-size run is, and how long it takes to write and to read, in three formats.

Takes nothing; gives rows: the shards' own format, float16 in byte streams, and float32 with one row per window.
Each goes through the shards' own door: zstd level 1, SHA-256, a local disk, read again from its cache.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.study import FULL, bold_noise, eeg_noise, layout_of
from benchmarks.table import Row, best_of, print_table, times
from datasets.shards import FileEntry, quantise, read_table, shard_table, write_shard, write_table
from datasets.storage import Storage, open_storage
from platform.data.windows import WINDOW_VOLUMES

FloatArray = NDArray[np.float32]
Write = Callable[[Storage, FloatArray, FloatArray], FileEntry]
STREAM_ROWS, WINDOW_ROWS = 34, 31  # rows of a row group


def measure() -> list[Row]:
    """Write and read one run of noise in every format."""
    rng = np.random.default_rng(0)
    eeg_RCS, bold_RV = eeg_noise(FULL, rng), bold_noise(FULL, rng)
    rows: list[Row] = []
    reference: tuple[float, float, float] | None = None
    with tempfile.TemporaryDirectory() as folder:
        for name, write in FORMATS.items():
            found = _measure_one(open_storage(Path(folder)), write, eeg_RCS, bold_RV)
            reference = reference or found
            rows += _rows(name, found, reference)
    return rows


def write_int16(storage: Storage, eeg_RCS: FloatArray, bold_RV: FloatArray) -> FileEntry:
    """Write int16 steps, delta-packed, one row per volume: what shards are."""
    eeg_steps_RCS, bold_steps_RV = quantise(eeg_RCS)[0], quantise(bold_RV)[0]
    table = shard_table("sub-01", "auditory", 1, eeg_steps_RCS, bold_steps_RV, layout_of(FULL))
    return write_shard(storage, "int16.parquet", table)


def write_float16(storage: Storage, eeg_RCS: FloatArray, bold_RV: FloatArray) -> FileEntry:
    """Write float16, the two bytes in streams of their own, one row per volume."""
    columns = {"eeg": _lists(eeg_RCS.astype(np.float16)), "bold": _lists(bold_RV.astype(np.float16))}
    encodings = dict.fromkeys(("eeg.list.element", "bold.list.element"), "BYTE_STREAM_SPLIT")
    return write_table(
        storage,
        "float16.parquet",
        pa.table(columns),
        row_group_size=STREAM_ROWS,
        use_dictionary=False,
        write_statistics=False,
        column_encoding=encodings,
    )


def write_windows(storage: Storage, eeg_RCS: FloatArray, bold_RV: FloatArray) -> FileEntry:
    """Write float32 with one row per window: each volume of EEG stands there 15 times."""
    eeg_CN = eeg_RCS.transpose(1, 0, 2).reshape(eeg_RCS.shape[1], -1)
    spans = np.lib.stride_tricks.sliding_window_view(eeg_CN, WINDOW_VOLUMES * eeg_RCS.shape[2], axis=1)
    windows = spans[:, :: eeg_RCS.shape[2]].transpose(1, 0, 2)[: len(bold_RV) - WINDOW_VOLUMES]
    columns = {"eeg": _lists(windows), "bold": _lists(bold_RV[WINDOW_VOLUMES:])}
    return write_table(
        storage,
        "windows.parquet",
        pa.table(columns),
        row_group_size=WINDOW_ROWS,
        use_dictionary=False,
        write_statistics=False,
    )


FORMATS: dict[str, Write] = {
    "shard: int16, DELTA_BINARY_PACKED": write_int16,
    "float16, BYTE_STREAM_SPLIT": write_float16,
    "float32, one row per window": write_windows,
}


def _measure_one(
    storage: Storage, write: Write, eeg_RCS: FloatArray, bold_RV: FloatArray
) -> tuple[float, float, float]:
    """Return megabytes, seconds to write and seconds to read."""
    entry = write(storage, eeg_RCS, bold_RV)
    write_s = best_of(lambda: write(storage, eeg_RCS, bold_RV), repeats=2)
    return entry.bytes / 1e6, write_s, best_of(lambda: _read(storage, entry))


def _read(storage: Storage, entry: FileEntry) -> list[NDArray[np.generic]]:
    table = read_table(storage, entry)
    return [table[name].combine_chunks().flatten().to_numpy(zero_copy_only=True) for name in ("eeg", "bold")]


def _lists(values: FloatArray) -> pa.FixedSizeListArray:
    flat = np.ascontiguousarray(values).reshape(len(values), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])


def _rows(name: str, found: tuple[float, float, float], reference: tuple[float, float, float]) -> list[Row]:
    shown = (("size, MB", "{:.1f}"), ("write, s", "{:.2f}"), ("read, s", "{:.2f}"))
    return [
        Row(benchmark="shard_formats", what=f"{name}: {what}", value=form.format(value), ratio=times(value, first))
        for (what, form), value, first in zip(shown, found, reference, strict=True)
    ]


if __name__ == "__main__":
    print_table(measure())
