"""The selftest: which verdicts on a control are right, when a search counts as fooled, and what it runs."""

import dataclasses

import pytest
from small_study import write_small_study

from datasets.cluster import in_this_process
from datasets.errors import BadInput
from datasets.simulator.study import SimulationSettings
from platform import selftest
from platform.data.products import DataSettings
from platform.evidence.verdict import CONFOUND, EEG_SPECIFIC, NOTHING, WORDS
from platform.selftest import RIGHT, Control, by_chance, is_fooled, table
from platform.study.settings import StudySettings
from platform.tracking.runs import TrackingSettings
from platform.training.loop import Epochs


def control(signal: str, verdict: str, seed: int = 0) -> Control:
    return Control(signal=signal, seed=seed, verdict=verdict, mean=0.1, low=-0.1, high=0.3)


@pytest.mark.parametrize("signal", ["none", "trap", "events"])
def test_a_claim_that_eeg_matters_where_it_does_not_is_being_fooled(signal):
    assert is_fooled([control(signal, EEG_SPECIFIC)], signal)
    assert not is_fooled([control(signal, NOTHING)], signal)
    assert f"FOOLED by {signal}" in table([control(signal, EEG_SPECIFIC), control("easy", EEG_SPECIFIC)])


def test_what_is_easy_to_find_fools_nobody_but_missing_it_is_said():
    found, missed = control("easy", EEG_SPECIFIC), control("easy", CONFOUND)
    assert not is_fooled([found], "easy")
    assert "not fooled by 1 simulated" in table([found])
    assert "blind" in table([missed]) and "missed" in table([missed])


def test_of_many_studies_as_many_may_claim_too_much_as_chance_explains():
    assert [by_chance(number) for number in (1, 20, 100)] == [0, 3, 9]
    studies = [control("none", EEG_SPECIFIC if seed < 3 else NOTHING, seed) for seed in range(20)]
    assert not is_fooled(studies, "none")
    assert is_fooled([*studies[:19], control("none", EEG_SPECIFIC, 19)], "none")


def test_the_table_has_a_row_for_each_study_by_control_and_seed():
    rows = table([control("easy", EEG_SPECIFIC, 1), control("none", CONFOUND), control("easy", EEG_SPECIFIC)])
    words = [line.split()[:2] for line in rows.splitlines()[1:4]]
    assert words == [["none", "0"], ["easy", "0"], ["easy", "1"]]
    assert "right (nothing) in 0 of 1" in rows


def test_naming_what_is_there_counts_apart_from_claiming_no_more():
    rows = table([control("trap", NOTHING), control("trap", CONFOUND, 1), control("trap", CONFOUND, 2)])
    assert "right (nothing or confound) in 3 of 3, confound in 2" in rows


def test_a_control_is_searched_once_without_mlflow_and_its_shards_are_deleted(tmp_path, monkeypatch):
    settings = StudySettings(
        name="mine",
        architecture="band_power",
        data=DataSettings(shards=selftest.PLACEHOLDER, cache_folder=""),
        storage_url="",
        tracking=TrackingSettings(uri=""),
        num_trials=1,
        epochs=Epochs(maximum=1),
        racing="none",
    )
    tiny = SimulationSettings(subjects=4, runs=1, volumes=60, signal="none")
    with in_this_process():
        found = selftest.control(settings, tiny, tmp_path, every=6)
    assert found.verdict.word in WORDS and found.verdict.reasons
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == ["studies.db"]
    monkeypatch.setattr(selftest, "simulate_shards", None)  # never called again
    assert selftest.control(settings, tiny, tmp_path, every=6) == found


def test_controls_are_as_large_as_the_shards_that_are_named(tmp_path, monkeypatch):
    study = write_small_study(tmp_path / "shards", subjects=5, runs=3, volumes=60)
    arguments = ["selftest", "band_power", "--shards", str(study), "--volumes", "90"]
    monkeypatch.setattr("sys.argv", arguments)
    sizes = selftest._sizes(selftest.parse_arguments())
    assert (sizes.subjects, sizes.runs, sizes.volumes) == (5, selftest.MOST_RUNS, 90)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--replicate", "mine"), "leave out --replicate"),
        (("--protocol", "within"), "is always 'nothing'"),
        (("--protocol", "within-shuffled"), "is always 'nothing'"),
    ],
)
def test_what_cannot_be_fooled_is_refused(monkeypatch, options, message):
    monkeypatch.setattr("sys.argv", ["selftest", "band_power", *options])
    with pytest.raises(BadInput, match=message):
        selftest.parse_arguments()


def test_a_control_keeps_apart_from_the_users_studies_and_runs_under_the_same_terms(tmp_path):
    settings = StudySettings(
        name="mine",
        architecture="band_power",
        data=DataSettings(shards="s3://mine", cache_folder="/mine"),
        storage_url="sqlite:////mine.db",
        tracking=TrackingSettings(uri="http://mine"),
        num_trials=7,
        seed=3,
        lock_away=2,
    )
    theirs = {signal: selftest._settings_of(settings, SimulationSettings(signal=signal), tmp_path) for signal in RIGHT}
    assert len({each.name for each in theirs.values()}) == len(RIGHT)
    for each in theirs.values():
        assert "mine" not in "".join([each.storage_url, each.tracking.uri, each.data.shards, each.data.cache_folder])
        assert each.terms("same") == settings.terms("same") and each.num_trials == 7
    longer = selftest._settings_of(dataclasses.replace(settings, lock_away=0), SimulationSettings(), tmp_path)
    assert longer.name not in {each.name for each in theirs.values()}
