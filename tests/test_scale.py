"""What docs/scale.md works out: each term grows as it should, and stands for what the code does."""

import dataclasses
import re
from pathlib import Path

import pytest
from faulty_server import FaultyServer
from searching import ROOT
from small_study import write_small_study

from benchmarks import scale
from benchmarks.scale import SUBJECTS, Plan, Units, fold_jobs, needs, table
from datasets.shards import read_manifest
from datasets.storage import open_storage
from platform.data.products import DataSettings, StudyData

UNITS = Units(manifest_bytes=3787, record_bytes=3544, read_s=48e-6, flops_per_window=28e6)
QUADRATIC = {"Gram matrix of all windows, GB": 1e8}


def test_every_term_of_the_data_grows_with_the_subjects_and_those_that_are_quadratic_are_known():
    small, large = (needs(subjects, UNITS, Plan()) for subjects in (1_000, 10_000_000))
    ratios = {name: large[name] / small[name] for name in small if small[name]}
    of_data = [name for name in ratios if name.endswith("GB") or name in ("manifest, MB", "object storage: files")]
    assert len(of_data) == 8
    for name in of_data:
        assert ratios[name] == pytest.approx(QUADRATIC.get(name, 1e4), rel=0.25)
    assert ratios["further scores: reads of the ledger, hours"] == pytest.approx(1e8)


def test_the_data_set_of_16_subjects_has_the_windows_that_are_known():
    assert scale.windows_of(16) == 14_880
    assert scale.largest_with_gram() >= 16


@pytest.mark.parametrize(("num_folds", "trials", "jobs"), [(4, 1, 4 + 24), (16, 64, 64 * 8 + 96), (3, 10, 30 + 18)])
def test_fold_jobs_are_those_of_halving_and_its_finalists(num_folds, trials, jobs):
    assert fold_jobs(num_folds, trials) == jobs


def test_a_trial_never_has_more_jobs_than_folds_but_for_repeats():
    assert all(fold_jobs(folds, trials) <= (trials + 1 + 6) * folds for folds in (3, 17, 1000) for trials in (1, 9, 64))


def test_fixed_folds_make_the_jobs_of_a_large_study_those_of_a_small_one():
    grouped = dataclasses.replace(Plan(), num_folds=16)
    assert needs(100_000, UNITS, grouped)["fold jobs"] == needs(16, UNITS, Plan())["fold jobs"]


def test_a_run_in_the_cache_takes_the_bytes_that_are_counted(tmp_path, monkeypatch):
    data = StudyData(
        DataSettings(shards=str(write_small_study(tmp_path / "shards", subjects=1)), cache_folder=str(tmp_path))
    )
    runs = data.runs("sub-01")
    for name, value in {"CHANNELS": 4, "VOLUMES": 60, "VOXELS": 60}.items():
        monkeypatch.setattr(scale, name, value)
    assert scale.cache_bytes_per_run() == runs[0].eeg_CS.nbytes + runs[0].bold_RV.nbytes


def test_a_file_is_read_in_as_many_requests_as_are_counted(object_store, tmp_path):
    write_small_study(object_store.uri("scale"), subjects=1, runs=1, volumes=20)
    with FaultyServer(object_store.endpoint) as proxy:
        storage = open_storage(object_store.uri("scale", endpoint=proxy.endpoint))
        name = read_manifest(storage).shards[0].name
        before = len(proxy.requests)
        storage.read(name)
        assert len(proxy.requests) - before == UNITS.requests_per_file


def test_the_document_shows_the_table_of_its_own_units():
    text = (ROOT / "docs" / "scale.md").read_text()
    numbers = {
        field: float(re.search(rf"\| {what} \| ([\d.]+)", text)[1])
        for field, what in {
            "manifest_bytes": "a subject's part of a manifest, bytes",
            "record_bytes": "a fold job's record in the ledger, bytes",
            "read_s": "reading an attribute of a study, CPU microseconds",
            "flops_per_window": "a window through the transformer, MFLOP",
        }.items()
    }
    units = Units(
        **{**numbers, "read_s": numbers["read_s"] / 1e6, "flops_per_window": numbers["flops_per_window"] * 1e6}
    )
    assert table(units, Plan(), SUBJECTS) in text
    assert scale.gpu_table(units, Plan(), SUBJECTS) in text
    assert f"up to {scale.largest_with_gram()} subjects" in text


def test_units_are_measured(tmp_path: Path):
    units = scale.measured_units()
    assert units.manifest_bytes == pytest.approx(UNITS.manifest_bytes, rel=0.2)
    assert units.record_bytes == pytest.approx(UNITS.record_bytes, rel=0.2)
    assert units.flops_per_window == pytest.approx(UNITS.flops_per_window, rel=0.1)
    assert units.read_s > 0
