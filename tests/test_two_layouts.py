"""One simulated study in both layouts: prepared by the real commands, the same events, BOLD and EEG come out."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from datasets.shards import Manifest, Shard, ShardEntry, check_files, read_manifest, read_shard
from datasets.storage import open_storage

ROOT = Path(__file__).resolve().parent.parent
VOLUMES = 40
PREPARED = ("--registration", "affine", "--eeg-rate", "250")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Iterator[dict[str, Path]]:
    """The shards of one subject's one run by the layout that it was simulated in."""
    folder = tmp_path_factory.mktemp("layouts")
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as short:
        for layout in ("bids", "legacy"):
            study = folder / layout
            size = ("--subjects", "1", "--runs", "1", "--volumes", str(VOLUMES))
            command("datasets.simulate", str(study), "--layout", layout, *size, home=short)
            command("datasets.prepare", str(study), str(folder / f"{layout}_shards"), *PREPARED, home=short)
    yield {layout: folder / f"{layout}_shards" for layout in ("bids", "legacy")}


def command(module: str, *options: str, home: str) -> None:
    environment = {"PATH": "/usr/bin:/bin", "HOME": home, "RAY_TMPDIR": home}
    done = subprocess.run(
        [sys.executable, "-m", module, *options], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr


def manifest_of(folder: Path) -> Manifest:
    return read_manifest(open_storage(folder))


def only_run(folder: Path) -> tuple[ShardEntry, Shard]:
    manifest = manifest_of(folder)
    (entry,) = manifest.shards
    return entry, read_shard(open_storage(folder), entry, manifest.layout)


def test_both_layouts_are_prepared_whole(shards):
    for folder in shards.values():
        manifest = manifest_of(folder)
        assert (manifest.skipped, check_files(open_storage(folder), manifest)) == ((), [])
        assert [(shard.subject, shard.task, shard.run, shard.rows) for shard in manifest.shards] == [
            ("sub-01", "auditory", 1, VOLUMES)
        ]


def test_what_the_shards_share_is_the_same(shards):
    layouts = {name: manifest_of(folder).layout for name, folder in shards.items()}
    for shared in ("channel_names", "eeg_rate_hz", "repetition_time_s", "template", "mask_sha256", "scale"):
        assert getattr(layouts["bids"], shared) == getattr(layouts["legacy"], shared), shared
    places = [np.array(layouts[name].channel_locations_m) for name in ("bids", "legacy")]
    assert np.linalg.norm(places[0] - places[1], axis=1).max() < 1e-4


def test_the_events_are_the_same(shards):
    tables = {name: pq.read_table(folder / only_run(folder)[0].events.name) for name, folder in shards.items()}
    assert tables["bids"]["kind"].to_pylist() == tables["legacy"]["kind"].to_pylist()
    for column in ("onset_s", "duration_s"):
        np.testing.assert_allclose(tables["bids"][column], tables["legacy"][column], atol=1e-3)


def test_the_volumes_are_the_same_but_for_rounding(shards):
    bids, legacy = (only_run(shards[name])[1].bold_RV.astype(np.int32) for name in ("bids", "legacy"))
    assert np.abs(legacy).max() > 1000
    assert np.abs(bids - legacy).max() <= 1


def test_the_eeg_is_the_same_but_for_its_own_rate_and_steps(shards):
    eeg = [only_run(shards[name])[1].eeg_RCS.transpose(1, 0, 2).astype(float) for name in ("bids", "legacy")]
    bids_CN, legacy_CN = (each.reshape(len(each), -1) for each in eeg)
    together = [np.corrcoef(one, other)[0, 1] for one, other in zip(bids_CN, legacy_CN, strict=True)]
    assert min(together) > 0.99


def test_confounds_are_the_same_where_both_know_them(shards):
    tables = [pq.read_table(shards[name] / only_run(shards[name])[0].confounds.name) for name in ("bids", "legacy")]
    for name in ("trans_x", "rot_z", "framewise_displacement", "global_signal", "csf_signal"):
        np.testing.assert_allclose(tables[0][name], tables[1][name], atol=1e-5, err_msg=name)
    beats = [table["pulse_rate_bpm"].to_numpy() for table in tables]
    assert np.nanmedian(np.abs(beats[0] - beats[1])) < 1
