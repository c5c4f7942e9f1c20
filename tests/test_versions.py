"""Versions of packages are written down with what they made, shown where they differ, and never a reason to refuse."""

import json
import logging
from pathlib import Path

import pytest
from small_recordings import write_small_recordings
from test_bad_recordings import without_ray

from datasets import preparation
from datasets.shards import check_files, read_manifest
from datasets.storage import open_storage
from datasets.versions import COMPUTING, package_versions, united


def test_every_package_that_computes_has_a_version():
    versions = package_versions()
    assert tuple(versions) == COMPUTING
    assert all(version[0].isdigit() for version in versions.values())


@pytest.mark.parametrize(("versions", "shown"), [
    ([], {}),
    ([{"numpy": "2.3"}, {"numpy": "2.3"}], {"numpy": "2.3"}),
    ([{"numpy": "2.3"}, {}, {"numpy": "2.2", "mne": "1"}], {"mne": "1", "numpy": "2.2, 2.3"}),
])  # fmt: skip
def test_versions_that_differ_are_all_shown(versions, shown):
    assert united(versions) == shown


def test_another_version_is_written_down_and_warned_of_but_not_refused(tmp_path: Path, monkeypatch, caplog):
    raw, shards = tmp_path / "raw", tmp_path / "shards"
    write_small_recordings(raw)
    with without_ray() as prepared:
        assert prepared(raw, shards)[0] == 0
        ours = read_manifest(open_storage(shards)).pipeline["packages"]
        assert ours == package_versions()
        monkeypatch.setattr(preparation, "package_versions", lambda: {**ours, "scipy": "99.0"})
        assert "nothing was done" in prepared(raw, shards)[1]
        write_small_recordings(raw, subjects=2)
        with caplog.at_level(logging.WARNING, logger="datasets"):
            assert prepared(raw, shards)[0] == 0
    manifest = read_manifest(open_storage(shards))
    assert manifest.pipeline["packages"] == {**ours, "scipy": f"{ours['scipy']}, 99.0"}
    assert "several versions of scipy" in caplog.text
    assert json.loads((shards / "sub-02" / "subject.json").read_text())["packages"]["scipy"] == "99.0"
    assert check_files(open_storage(shards), manifest) == []
    assert "scipy" in (shards / "report.html").read_text()


def test_a_record_from_before_versions_were_written_down_still_serves(tmp_path: Path):
    raw, shards = tmp_path / "raw", tmp_path / "shards"
    write_small_recordings(raw)
    with without_ray() as prepared:
        assert prepared(raw, shards)[0] == 0
        record = json.loads((shards / "sub-01" / "subject.json").read_text())
        del record["packages"]
        (shards / "sub-01" / "subject.json").write_text(json.dumps(record, sort_keys=True, indent=1) + "\n")
        (shards / "manifest.json").unlink()
        assert prepared(raw, shards)[0] == 0
    manifest = read_manifest(open_storage(shards))
    assert manifest.pipeline["packages"] == {}
    assert check_files(open_storage(shards), manifest) == []
