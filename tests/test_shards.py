"""Shards: any Parquet reader finds what was written, and no byte can change without being noticed."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from small_study import NUM_CHANNELS, NUM_VOXELS, SAMPLES_PER_VOLUME, small_layout, write_small_study

from datasets.errors import BadInput
from datasets.shards import (
    MANIFEST,
    SCALE,
    VOXELS,
    Manifest,
    Skipped,
    all_files,
    check_files,
    parse_manifest,
    quantise,
    read_manifest,
    read_shard,
    shard_table,
    write_manifest,
    write_shard,
)
from datasets.storage import open_storage

ROOT = Path(__file__).resolve().parent.parent
ROWS = 70
SHARD = "sub-01/sub-01_task-auditory_run-1.parquet"
EVENTS = "sub-01/sub-01_task-auditory_run-1_events.parquet"
CONFOUNDS = "sub-02/sub-02_task-auditory_run-1_confounds.parquet"


@dataclasses.dataclass(frozen=True)
class Written:
    """A shard's file and the arrays that went into it, one row per volume."""

    path: Path
    eeg_RN: np.ndarray
    bold_RV: np.ndarray


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Written:
    folder = tmp_path_factory.mktemp("shard")
    rng = np.random.default_rng(0)
    eeg_RCS = (rng.standard_normal((ROWS, NUM_CHANNELS, SAMPLES_PER_VOLUME)) * 1000).astype(np.int16)
    bold_RV = (rng.standard_normal((ROWS, NUM_VOXELS)) * 1000).astype(np.int16)
    eeg_RCS[0, 0, :4] = bold_RV[0, :4] = -32768, 32767, 32767, -32768
    table = shard_table("sub-01", "visual", 3, eeg_RCS, bold_RV, small_layout())
    write_shard(open_storage(folder), "shard.parquet", table)
    return Written(folder / "shard.parquet", eeg_RCS.reshape(ROWS, -1), bold_RV)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    return write_small_study(tmp_path_factory.mktemp("pristine"), subjects=2, runs=1, volumes=20)


@pytest.fixture
def study(tmp_path) -> Path:
    return write_small_study(tmp_path / "study", subjects=2, runs=1, volumes=20)


def columns_by_duckdb(path: Path) -> dict[str, list]:
    with duckdb.connect() as connection:
        answer = connection.execute("SELECT * FROM read_parquet(?) ORDER BY volume", [str(path)])
        names = [column[0] for column in answer.description]
        return dict(zip(names, map(list, zip(*answer.fetchall(), strict=True)), strict=True))


def columns_by_polars(path: Path) -> dict[str, list]:
    return pl.read_parquet(path).to_dict(as_series=False)


def columns_by_pandas(path: Path) -> dict[str, list]:
    return pd.read_parquet(path).to_dict(orient="list")


def signal_columns(path: Path) -> dict[str, list]:
    """Return Parquet's own record of the two signals' columns, one of each row group."""
    groups = pq.ParquetFile(path).metadata
    columns = [
        groups.row_group(group).column(column)
        for group in range(groups.num_row_groups)
        for column in range(groups.num_columns)
    ]
    return {
        signal: [column for column in columns if column.path_in_schema.startswith(f"{signal}.")]
        for signal in ("eeg", "bold")
    }


def flip_byte(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x20
    path.write_bytes(content)


def verify(folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EEG2FMRI_")}
    return subprocess.run(
        [sys.executable, "-m", "datasets.verify", str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def assert_refused(answer: "subprocess.CompletedProcess[str]", *words: str) -> None:
    assert answer.returncode == 2, answer.stderr
    assert answer.stdout == ""
    assert len(answer.stderr.splitlines()) == 1, answer.stderr
    assert "Traceback" not in answer.stderr
    for word in words:
        assert word in answer.stderr


# A shard, read by others


@pytest.mark.parametrize("columns_of", [columns_by_duckdb, columns_by_polars, columns_by_pandas])
def test_every_reader_finds_the_values_that_were_written(written, columns_of):
    columns = columns_of(written.path)
    assert list(columns) == ["subject", "task", "run", "volume", "time_s", "eeg", "bold"]
    assert columns["subject"] == ["sub-01"] * ROWS
    assert columns["task"] == ["visual"] * ROWS
    assert [int(run) for run in columns["run"]] == [3] * ROWS
    assert [int(volume) for volume in columns["volume"]] == list(range(ROWS))
    assert columns["time_s"] == [2.0 * volume + 1.0 for volume in range(ROWS)]
    np.testing.assert_array_equal(np.array([list(row) for row in columns["eeg"]]), written.eeg_RN)
    np.testing.assert_array_equal(np.array([list(row) for row in columns["bold"]]), written.bold_RV)


def test_every_reader_sees_int16(written):
    with duckdb.connect() as connection:
        described = connection.execute("DESCRIBE SELECT eeg, bold FROM read_parquet(?)", [str(written.path)]).fetchall()
    assert [column[1] for column in described] == ["SMALLINT[]", "SMALLINT[]"]
    assert {pl.read_parquet(written.path)[signal].dtype.inner for signal in ("eeg", "bold")} == {pl.Int16}
    assert {values.dtype for values in pd.read_parquet(written.path, columns=["bold"])["bold"]} == {np.dtype(np.int16)}


def test_signals_are_delta_packed_and_compressed_by_zstd(written):
    for columns in signal_columns(written.path).values():
        assert len(columns) == 3
        assert {column.compression for column in columns} == {"ZSTD"}
        assert all("DELTA_BINARY_PACKED" in column.encodings for column in columns)


def test_signals_have_neither_statistics_nor_dictionaries(written):
    for columns in signal_columns(written.path).values():
        assert not any(column.is_stats_set for column in columns)
        assert not any(column.has_dictionary_page for column in columns)
        assert not any("DICTIONARY" in encoding for column in columns for encoding in column.encodings)


def test_a_row_group_holds_34_volumes(written):
    groups = pq.ParquetFile(written.path).metadata
    assert [groups.row_group(number).num_rows for number in range(groups.num_row_groups)] == [34, 34, 2]


def test_the_layout_travels_in_the_schema(written):
    metadata = pq.read_schema(written.path).metadata
    assert metadata[b"format"] == b"eeg2fmri-shards"
    assert metadata[b"schema_version"] == b"2"
    assert json.loads(metadata[b"layout"]) == json.loads(json.dumps(dataclasses.asdict(small_layout())))


def test_eeg_and_bold_of_different_length_make_no_shard():
    eeg_RCS = np.zeros((3, NUM_CHANNELS, SAMPLES_PER_VOLUME), np.int16)
    with pytest.raises(ValueError, match="got 3 and 4 rows"):
        shard_table("sub-01", "visual", 1, eeg_RCS, np.zeros((4, NUM_VOXELS), np.int16), small_layout())


# Quantisation


def test_quantising_rounds_to_the_nearest_step():
    steps, num_clipped = quantise(np.array([[0.0, 0.0004, 0.0006], [-0.0006, 1.0, -32.767]], np.float32), 0.001)
    np.testing.assert_array_equal(steps, [[0, 0, 1], [-1, 1000, -32767]])
    assert (steps.dtype, num_clipped) == (np.int16, 0)


def test_quantising_loses_half_a_step_at_most():
    values = np.random.default_rng(0).standard_normal((50, 40)).astype(np.float32) * 5
    steps, _ = quantise(values)
    assert np.abs(steps * np.float32(SCALE) - values).max() <= SCALE / 2 * 1.01


def test_what_does_not_fit_is_clipped_and_counted():
    steps, num_clipped = quantise(np.array([32.767, 32.768, 1e6, -32.767, -32.768, -1e6, np.inf], np.float32), 0.001)
    np.testing.assert_array_equal(steps, [32767, 32767, 32767, -32767, -32767, -32767, 32767])
    assert num_clipped == 5


# The manifest


def test_a_manifest_is_read_as_it_was_written(pristine, tmp_path):
    manifest = read_manifest(open_storage(pristine))
    write_manifest(open_storage(tmp_path), manifest)
    assert read_manifest(open_storage(tmp_path)) == manifest
    assert read_manifest(open_storage(tmp_path)).digest == manifest.digest
    assert (tmp_path / MANIFEST).read_bytes() == (pristine / MANIFEST).read_bytes()
    assert manifest.layout == small_layout()
    assert manifest.subjects == ("sub-01", "sub-02")
    assert [shard.name for shard in manifest.of_subject("sub-01")] == [SHARD]


def changed_manifests(manifest: Manifest) -> dict[str, Manifest]:
    """Return copies of a manifest, each with one thing changed."""
    first, *others = manifest.shards
    of_shard = {
        "sha256": "0" * 64,
        "bytes": first.bytes + 1,
        "rows": first.rows + 1,
        "clipped": first.clipped + 1,
        "run": first.run + 1,
        "task": "visual",
        "events": dataclasses.replace(first.events, sha256="0" * 64),
    }
    of_layout = {"scale": 0.003, "eeg_rate_hz": 125, "template": "another", "channel_names": ("A", "B", "C", "D")}
    changed = {
        f"shard's {name}": {"shards": (dataclasses.replace(first, **{name: value}), *others)}
        for name, value in of_shard.items()
    }
    changed |= {
        f"layout's {name}": {"layout": dataclasses.replace(manifest.layout, **{name: value})}
        for name, value in of_layout.items()
    }
    changed |= {
        "pipeline": {"pipeline": {"test": False}},
        "order of shards": {"shards": manifest.shards[::-1]},
        "a shard less": {"shards": manifest.shards[1:]},
        "files": {"files": ()},
        "skipped": {"skipped": (Skipped(recording="sub-03_task-visual_run-1", reason="it has no EEG"),)},
    }
    return {what: dataclasses.replace(manifest, **fields) for what, fields in changed.items()}


def test_the_digest_changes_with_anything(pristine):
    manifest = read_manifest(open_storage(pristine))
    changed = changed_manifests(manifest)
    digests = {manifest.digest, *(each.digest for each in changed.values())}
    assert len(digests) == len(changed) + 1


def test_the_digest_does_not_depend_on_the_order_of_settings(pristine):
    manifest = read_manifest(open_storage(pristine))
    orders = [{"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}]
    assert len({dataclasses.replace(manifest, pipeline=pipeline).digest for pipeline in orders}) == 1


def test_a_manifest_changed_in_any_byte_is_refused(pristine):
    """Every byte is changed once: in its case bit, in its lowest bit, or to something that is not even text."""
    original = (pristine / MANIFEST).read_bytes()
    for position in range(len(original)):
        content = bytearray(original)
        content[position] ^= (0x20, 0x01, 0x80)[position % 3]
        with pytest.raises(BadInput, match=" at here |^here "):
            parse_manifest(bytes(content), "here")
    assert parse_manifest(original, "here").subjects == ("sub-01", "sub-02")


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content + b"\n",
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: content.replace(b"\n", b"\r\n"),
        lambda content: json.dumps(json.loads(content)).encode(),
    ],
    ids=["emptied", "a byte less", "cut in half", "a line more", "byte order mark", "line ends", "written anew"],
)
def test_a_manifest_that_is_not_to_the_byte_what_was_written_is_refused(study, change):
    path = study / MANIFEST
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BadInput, match="prepare the shards again"):
        read_manifest(open_storage(study))


def test_a_missing_manifest_tells_how_to_make_one(tmp_path):
    with pytest.raises(BadInput, match=f"python -m datasets.prepare RAW {tmp_path}.*python -m datasets.simulate"):
        read_manifest(open_storage(tmp_path))


@pytest.mark.parametrize("content", ["{}", "[]", "3", '{"format": "another"}', '{"schema_version": 1}'])
def test_foreign_json_is_called_foreign(tmp_path, content):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(BadInput, match="holds no shards of this project"):
        read_manifest(open_storage(tmp_path))


def test_another_schema_version_asks_for_new_shards(study):
    path = study / MANIFEST
    path.write_text(path.read_text().replace('"schema_version": 2', '"schema_version": 3'))
    with pytest.raises(BadInput, match="have schema version 3, this program reads 2; prepare them again"):
        read_manifest(open_storage(study))


# Reading shards


def test_a_shard_is_read_as_it_was_written(tmp_path):
    folder = write_small_study(tmp_path, subjects=1, runs=1, volumes=40)
    storage = open_storage(folder)
    manifest = read_manifest(storage)
    shard = read_shard(storage, manifest.shards[0], manifest.layout)
    columns = columns_by_polars(folder / SHARD)
    assert shard.eeg_RCS.shape == (40, NUM_CHANNELS, SAMPLES_PER_VOLUME)
    assert (shard.eeg_RCS.dtype, shard.bold_RV.dtype) == (np.int16, np.int16)
    np.testing.assert_array_equal(shard.eeg_RCS.reshape(40, -1), columns["eeg"])
    np.testing.assert_array_equal(shard.bold_RV, columns["bold"])


def test_a_shard_with_one_changed_byte_is_refused(study):
    storage = open_storage(study)
    manifest = read_manifest(storage)
    size = manifest.shards[0].bytes
    for position in [0, 4, *range(5, size - 1, size // 20), size - 1]:
        flip_byte(study / SHARD, position)
        with pytest.raises(BadInput, match=r"SHA-256 differs.*python -m datasets\.verify"):
            read_shard(storage, manifest.shards[0], manifest.layout)
        flip_byte(study / SHARD, position)
    assert len(read_shard(storage, manifest.shards[0], manifest.layout).bold_RV) == 20


def test_a_missing_shard_is_called_missing(study):
    storage = open_storage(study)
    manifest = read_manifest(storage)
    (study / SHARD).unlink()
    with pytest.raises(BadInput, match=f"{SHARD} is missing at .*prepare the shards again"):
        read_shard(storage, manifest.shards[0], manifest.layout)


# The command that compares every byte


def test_verify_accepts_what_is_as_prepared(pristine):
    answer = verify(pristine)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "2 shards of 2 subjects" in answer.stdout
    assert f"digest {read_manifest(open_storage(pristine)).digest}" in answer.stdout


@pytest.mark.parametrize("name", [SHARD, EVENTS, CONFOUNDS, VOXELS])
def test_verify_refuses_a_changed_file(study, name):
    flip_byte(study / name, (study / name).stat().st_size // 2)
    assert_refused(verify(study), "1 of the files differ", name, "SHA-256 differs")


@pytest.mark.parametrize("name", [SHARD, EVENTS, CONFOUNDS, VOXELS])
def test_verify_refuses_a_missing_file(study, name):
    (study / name).unlink()
    assert_refused(verify(study), "1 of the files differ", f"{name} is missing")


def test_verify_refuses_a_foreign_file(study):
    (study / "sub-01" / "notes.txt").write_text("mine")
    assert_refused(verify(study), "sub-01/notes.txt", "not named by the manifest")


def test_verify_names_every_file_that_differs(study):
    flip_byte(study / SHARD, 1000)
    (study / EVENTS).unlink()
    (study / "foreign").write_bytes(b"")
    assert_refused(verify(study), "3 of the files differ", SHARD, EVENTS, "foreign")


def test_verify_refuses_a_changed_manifest(study):
    flip_byte(study / MANIFEST, 500)
    assert_refused(verify(study), "manifest")


def test_verify_refuses_a_folder_without_a_manifest(tmp_path):
    assert_refused(verify(tmp_path / "nowhere"), "no manifest", "python -m datasets.prepare")


def test_any_changed_byte_of_any_file_is_found(study):
    storage = open_storage(study)
    manifest = read_manifest(storage)
    for number, entry in enumerate(all_files(manifest)):
        for position in (0, (number * 7919) % entry.bytes, entry.bytes - 1):
            flip_byte(study / entry.name, position)
            assert [entry.name in fault for fault in check_files(storage, manifest)] == [True]
            flip_byte(study / entry.name, position)
    assert check_files(storage, manifest) == []


def test_what_a_killed_write_left_behind_is_not_foreign(study):
    (study / "sub-01" / ".subject.json.1a2b3c4d").write_bytes(b"half")
    storage = open_storage(study)
    assert check_files(storage, read_manifest(storage)) == []
