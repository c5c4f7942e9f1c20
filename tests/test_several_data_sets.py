"""Several prepared data sets as one: nobody is confused, what does not fit is refused, one is left out as a whole."""

import dataclasses
import sys

import numpy as np
import pytest
from small_study import write_small_study
from test_protocols import settings

from datasets.cluster import in_this_process
from datasets.errors import BadInput
from datasets.shards import Manifest, read_file, read_manifest, write_manifest
from datasets.simulator.shards import simulate_shards
from datasets.simulator.study import SimulationSettings
from datasets.storage import open_storage, without_secrets
from platform.data.folds import leave_one_data_set_out
from platform.data.products import DataSettings, StudyData
from platform.data.several_data_sets import data_set_of, open_shards, places_of
from platform.evidence.findings import FOLD_PLAN, findings, validation_by_subject
from platform.evidence.protocols import divided
from platform.ledger.records import FoldRecord, LedgerTrial
from platform.ledger.studies import read_ledger
from platform.report import report_page
from platform.report_pages.studied import FOLD_SUBJECTS
from platform.search import parse_arguments, study_settings, take_keys_out
from platform.study.run import check_data, search_untracked

SUBJECTS = [f"{name} sub-{number:02d}" for name, count in (("a", 3), ("b", 5)) for number in range(1, count + 1)]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two studies whose subjects bear the same names, in folders that do."""
    folder = tmp_path_factory.mktemp("several")
    for seed, name in enumerate(("one", "other")):
        write_small_study(folder / name / "shards", subjects=3, volumes=40, seed=seed, pulse=0.3)
    return folder


def both(folder) -> str:
    return f"{folder / 'one' / 'shards'},{folder / 'other' / 'shards'}"


def test_subjects_of_the_same_name_are_told_apart_down_to_every_byte(two):
    data = StudyData(DataSettings(shards=both(two), cache_folder=str(two / "cache")))
    assert data.manifest.subjects == tuple(
        f"{name} sub-{number:02d}" for name in ("one-shards", "other-shards") for number in (1, 2, 3)
    )
    for name in ("one", "other"):
        alone = StudyData(DataSettings(shards=str(two / name / "shards"), cache_folder=str(two / f"cache-{name}")))
        subject = f"{name}-shards sub-02"
        for run, own in zip(data.runs(subject), alone.runs("sub-02"), strict=True):
            np.testing.assert_array_equal(run.bold_RV, own.bold_RV)
            np.testing.assert_array_equal(run.eeg_CS, own.eeg_CS)
            np.testing.assert_array_equal(data.events(run).onset_s, alone.events(own).onset_s)
            assert {key: each.tolist() for key, each in data.confounds(run).items() if "power" not in key} == {
                key: each.tolist() for key, each in alone.confounds(own).items() if "power" not in key
            }
        maps, own_maps = data.subject_maps(subject), alone.subject_maps("sub-02")
        assert maps is not None and own_maps is not None
        np.testing.assert_array_equal(maps["mean"], own_maps["mean"])
    first, second = (data.runs(f"{name}-shards sub-01")[0].bold_RV for name in ("one", "other"))
    assert not np.array_equal(first, second)


def test_every_file_of_the_whole_manifest_is_found_and_checked(two):
    storage, manifest = open_shards(both(two))
    for entry in (*manifest.files, *(file for shard in manifest.shards for file in shard.files)):
        assert len(read_file(storage, entry)) == entry.bytes
    with pytest.raises(FileNotFoundError, match="no file nobody"):
        storage.read("nobody")


def test_the_order_in_which_data_sets_are_given_changes_nothing(two):
    one, other = both(two).split(",")
    assert open_shards(f"{other},{one}")[1].digest == open_shards(f"{one}, {other}")[1].digest
    assert open_shards(one)[1] == read_manifest(open_storage(one))


def test_a_folder_with_a_comma_in_its_name_is_one_place(tmp_path):
    (tmp_path / "a,b").mkdir()
    assert places_of(str(tmp_path / "a,b")) == (str(tmp_path / "a,b"),)
    assert places_of("/x/a,/x/b") == ("/x/a", "/x/b") and places_of("") == ()


def test_of_several_places_no_credentials_are_shown():
    several = "s3://key:secret@one/a,/local,s3://other:hidden@two/b?endpoint_override=http://x:9"
    assert without_secrets(several) == "s3://one/a,/local,s3://two/b?endpoint_override=http://x:9"


def changed(folder, target, **changes) -> str:
    """Return a place with the other study's files and its manifest, changed."""
    storage = open_storage(target)
    manifest = read_manifest(open_storage(folder / "other" / "shards"))
    layout = dataclasses.replace(manifest.layout, **{k: v for k, v in changes.items() if hasattr(manifest.layout, k)})
    pipeline = changes.get("pipeline", manifest.pipeline)
    fields = {field.name: getattr(manifest, field.name) for field in dataclasses.fields(Manifest)}
    write_manifest(storage, Manifest(**{**fields, "layout": layout, "pipeline": pipeline}))
    return f"{folder / 'one' / 'shards'},{target}"


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"eeg_rate_hz": 500}, r"differ in eeg_rate_hz \(250, 500\); prepare both with the same"),
        ({"repetition_time_s": 1.0}, r"differ in repetition_time_s \(2.0, 1.0\)"),
        ({"channel_names": ("C0", "C1", "C2", "X")}, "differ in channel_names"),
        ({"mask_sha256": "other"}, "differ in mask_sha256"),
        ({"grid_shape": (6, 5, 5)}, "differ in grid_shape"),
        ({"channel_locations_m": ((0.0, 0.05, 0.1),) * 4}, "differ in channel_locations_m"),
        ({"pipeline": {"eeg": {"reference": "average"}}}, "prepared with other settings of eeg"),
        ({"channel_locations_m": ((0.0, 0.005, 0.1),) * 4}, None),
        ({}, None),
    ],
)
def test_data_sets_that_do_not_fit_are_refused_in_one_line(two, tmp_path, changes, refusal):
    shards = changed(two, tmp_path / "with-changes", **changes)
    if refusal is None:
        assert len(open_shards(shards)[1].subjects) == 6
        return
    with pytest.raises(BadInput, match=refusal) as told:
        open_shards(shards)
    assert "\n" not in str(told.value)


def test_the_same_recording_twice_is_refused(two, tmp_path):
    copy = tmp_path / "copy"
    write_small_study(copy, subjects=3, volumes=40, seed=0, pulse=0.3)
    with pytest.raises(BadInput, match="holds a recording that copy holds, too"):
        open_shards(f"{two / 'one' / 'shards'},{copy}")
    with pytest.raises(BadInput, match="must lie at a place of its own"):
        open_shards(f"{copy},{copy}")


# Folds


def test_no_subject_of_the_tested_data_set_trains_and_all_others_do():
    folds = leave_one_data_set_out(SUBJECTS, 3)
    assert sorted(fold.test for fold in folds) == SUBJECTS and [fold.number for fold in folds] == list(range(8))
    for fold in folds:
        own = data_set_of(fold.test)
        assert fold.training == tuple(subject for subject in SUBJECTS if data_set_of(subject) != own)
        assert {data_set_of(each) for each in fold.validation} == {own}
        assert len({fold.test, *fold.validation}) == 3
    assert [fold.test for fold in folds] != [fold.test for fold in leave_one_data_set_out(SUBJECTS, 4)]


@pytest.mark.parametrize(
    ("subjects", "refusal"),
    [
        (["sub-01", "sub-02", "sub-03", "sub-04"], "needs two or more"),
        (SUBJECTS[:3], "needs two or more"),
        (SUBJECTS[1:], r"fewer in a \(2\)"),
    ],
)
def test_too_few_data_sets_or_subjects_are_refused(subjects, refusal):
    with pytest.raises(BadInput, match=refusal):
        leave_one_data_set_out(subjects, 0)


def test_validation_scores_belong_to_who_validated_there():
    division = divided(SUBJECTS, 1, "data-sets", 0)
    numbers = {fold.test: fold.number for fold in division.folds}
    own = {fold.test: 0.1 * fold.number for fold in division.folds}
    records = {
        fold.number: FoldRecord(
            trial=0, fold=fold.number, score=0.0, validation=tuple((own[each],) for each in fold.validation)
        )
        for fold in division.folds
    }
    trial = LedgerTrial(number=0, state="COMPLETE", params={}, configuration={}, records=records)
    found = validation_by_subject(trial, len(SUBJECTS), division.validation)
    assert found == pytest.approx({numbers[subject]: score for subject, score in own.items()})
    assert validation_by_subject(trial, len(SUBJECTS)) != pytest.approx(found)


def test_a_term_of_the_study_and_no_subjects_locked_away():
    assert settings(protocol="data-sets").terms("")["folds"] == "data-sets"
    with pytest.raises(BadInput, match="leave out --lock-away"):
        settings(protocol="data-sets", lock_away=2)


# Whole


@pytest.mark.slow
def test_two_simulated_data_sets_are_searched_as_the_command_line_says(tmp_path, monkeypatch):
    for seed in (1, 2):
        simulated = SimulationSettings(signal="easy", subjects=3, runs=1, volumes=50, seed=seed)
        simulate_shards(tmp_path / f"set{seed}", simulated, 1, 250, every=6)
    monkeypatch.setenv("EEG2FMRI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EEG2FMRI_SHARDS", f"{tmp_path / 'set1'},{tmp_path / 'set2'}")
    given = "search band_power --protocol data-sets --trials 1 --finalists 0 --max-epochs 1 --null-flips 3"
    monkeypatch.setattr(sys, "argv", given.split())
    arguments = parse_arguments()
    take_keys_out(arguments)
    told = study_settings(arguments)
    check_data(told)
    with in_this_process():
        search_untracked(told)
    ledger = read_ledger(f"sqlite:///{tmp_path}/home/studies.db", "band_power")
    tested = ledger.noted(FOLD_SUBJECTS)
    assert sorted(tested) == [f"set{seed} sub-0{number}" for seed in (1, 2) for number in (1, 2, 3)]
    plan = ledger.noted(FOLD_PLAN)
    assert plan["num_training"] == 3
    for test, validation in zip(tested, plan["validation"], strict=True):
        assert {data_set_of(tested[each]) for each in validation} == {data_set_of(test)}
    assert ledger.terms["folds"] == "data-sets"
    assert findings(ledger).corrected.num_subjects == 6
    assert len(ledger.noted("nulls")[0]["values"]) == 3
    assert "set1 sub-01" in report_page(ledger)
