"""Windows per CPU second on the way to a batch of 32 x 34 x 30000 float32, beside the loaders that others use.

Takes nothing; gives rows: the platform's batches from its cache, and the same windows, float16 too, as row-per-window
Parquet, in a WebDataset's tar and as MosaicML shards, each read in its own order on one core, and what each takes on
disk.  A loader that is not installed is left out, and the row says so.
"""

import importlib.util
import io
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.batches import BATCH_SIZE, SIZES
from benchmarks.study import write_study
from benchmarks.table import Row, best_cpu_of, print_table, times
from datasets.storage import open_storage
from platform.data.windows import CachedRun, RunCache, eeg_batch, window_index

NUM_WINDOWS = 4 * BATCH_SIZE
ROW_GROUP = 8
"""Windows of a row group of Parquet, 16 MB."""
RATE_HZ = 1000

Halves = NDArray[np.float16]


def measure() -> list[Row]:
    """Read all windows once in every way, the fastest of several times."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            manifest = write_study(place / "shards", replace(SIZES, runs=1))
            storage = open_storage(place / "shards")
            cache = RunCache(folder=place / "cache", storage=storage, manifest=manifest, rate_hz=RATE_HZ)
            return _rows(cache.open_subject("sub-01"), place)
    finally:
        torch.set_num_threads(threads)


def _rows(runs: list[CachedRun], place: Path) -> list[Row]:
    index_N2 = np.random.default_rng(0).permutation(window_index(runs))[:NUM_WINDOWS]
    size = sum(path.stat().st_size for path in (place / "cache").glob("*-eeg-*"))
    ours = _pace(lambda: (eeg_batch(runs, index_N2[at : at + BATCH_SIZE]) for at in range(0, NUM_WINDOWS, BATCH_SIZE)))
    rows = [
        _row("eeg_batch from the cache (a whole run), windows per CPU s", f"{ours:.0f}", "1 x"),
        _size("cache", size, size),
    ]
    for name, (package, write, read) in LOADERS.items():
        if importlib.util.find_spec(package) is None:
            rows.append(_row(f"{name}: left out, pip install {PACKAGES[package]} first", ""))
            continue
        folder = place / package
        folder.mkdir()
        write(folder, (runs[which].window(number) for which, number in index_N2.tolist()))
        pace = _pace(lambda: read(folder))  # noqa: B023 - called at once
        rows += [
            _row(f"{name}, windows per CPU s", f"{pace:.0f}", times(pace, ours)),
            _size(f"{name}, {NUM_WINDOWS} windows", sum(path.stat().st_size for path in folder.rglob("*")), size),
        ]
    return rows


def _pace(read: Callable[[], Iterator[Tensor]]) -> float:
    def read_all() -> None:
        for batch in read():
            assert batch.shape == (BATCH_SIZE, SIZES.channels, 30 * RATE_HZ) and batch.dtype == torch.float32

    return NUM_WINDOWS / best_cpu_of(read_all, repeats=4)


def write_parquet(folder: Path, windows: Iterator[Halves]) -> None:
    """Write one row per window, not compressed."""
    flat = np.stack([window.reshape(-1) for window in windows])
    column = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
    pq.write_table(
        pa.table({"eeg": column}), folder / "windows.parquet", row_group_size=ROW_GROUP, compression="none",
        use_dictionary=False, write_statistics=False,
    )  # fmt: skip


def read_parquet(folder: Path) -> Iterator[Tensor]:
    """Yield batches, a few row groups each."""
    with pq.ParquetFile(folder / "windows.parquet") as file:
        for at in range(0, file.num_row_groups, BATCH_SIZE // ROW_GROUP):
            table = file.read_row_groups(list(range(at, at + BATCH_SIZE // ROW_GROUP)), use_threads=False)
            values = table["eeg"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            yield torch.from_numpy(values).view(BATCH_SIZE, SIZES.channels, -1).float()


def write_webdataset(folder: Path, windows: Iterator[Halves]) -> None:
    """Write a tar of npy files."""
    import webdataset

    with webdataset.TarWriter(str(folder / "windows.tar")) as writer:
        for number, window in enumerate(windows):
            content = io.BytesIO()
            np.save(content, window)
            writer.write({"__key__": f"{number:06d}", "npy": content.getvalue()})


def read_webdataset(folder: Path) -> Iterator[Tensor]:
    """Yield batches as its own collation makes them."""
    import webdataset

    samples = webdataset.WebDataset(str(folder / "windows.tar"), shardshuffle=False, empty_check=False)
    batches = samples.decode().to_tuple("npy").batched(BATCH_SIZE, collation_fn=list, partial=False)
    for batch in batches:
        yield _together([window for (window,) in batch])


def write_mosaic(folder: Path, windows: Iterator[Halves]) -> None:
    """Write MDS shards, not compressed."""
    import streaming

    with streaming.MDSWriter(
        out=str(folder / "mds"), columns={"eeg": f"ndarray:float16:{SIZES.channels},{30 * RATE_HZ}"}
    ) as writer:
        for window in windows:
            writer.write({"eeg": np.array(window)})


def read_mosaic(folder: Path) -> Iterator[Tensor]:
    """Yield batches in the order of the shards."""
    import streaming

    samples: Any = streaming.LocalDataset(str(folder / "mds"))
    for at in range(0, len(samples), BATCH_SIZE):
        yield _together([samples[number]["eeg"] for number in range(at, at + BATCH_SIZE)])


def _together(windows: list[Halves]) -> Tensor:
    """Return windows as a float32 batch; torch converts several times faster than numpy."""
    return torch.stack([torch.from_numpy(np.asarray(window)) for window in windows]).float()


LOADERS: dict[str, tuple[str, Callable[[Path, Iterator[Halves]], None], Callable[[Path], Iterator[Tensor]]]] = {
    "row-per-window Parquet": ("pyarrow", write_parquet, read_parquet),
    "WebDataset": ("webdataset", write_webdataset, read_webdataset),
    "MosaicML streaming": ("streaming", write_mosaic, read_mosaic),
}
PACKAGES = {"pyarrow": "pyarrow", "webdataset": "webdataset", "streaming": "mosaicml-streaming"}


def _size(what: str, size: float, reference: float) -> Row:
    return _row(f"{what}: size of the EEG, MB", f"{size / 1e6:.0f}", times(size, reference))


def _row(what: str, value: str, ratio: str = "") -> Row:
    return Row(benchmark="other_loaders", what=what, value=value, ratio=ratio)


if __name__ == "__main__":
    print_table(measure())
