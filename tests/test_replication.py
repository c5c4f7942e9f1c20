"""Replication: a winner, frozen, in a second data set; both studies' verdicts, and what is shown of them."""

import dataclasses
import math

import pytest
import torch
from small_study import write_small_study
from test_findings import study, with_further

from datasets.cluster import in_this_process
from datasets.errors import BadInput
from platform.data.products import DataSettings
from platform.evidence import finalists
from platform.evidence.findings import REPLICATIONS, evidence, findings
from platform.evidence.verdict import CONFOUND, EEG_SPECIFIC, NOTHING, REPLICATED
from platform.ledger.studies import open_ledger, read_ledger
from platform.proposals.samplers import Proposal
from platform.report import report_page
from platform.search import with_starts
from platform.study.replication import Frozen, frozen_winner, note_earlier, note_there, refuse_unlike
from platform.study.run import check_data, search_untracked
from platform.study.settings import StudySettings
from platform.study.summary import _verdict as summed_up
from platform.tracking.runs import TrackingSettings
from platform.tracking.study_note import Origin, study_note
from platform.training.config import Epochs

BEYOND = {"unique_r": 0.2, "unique_r_beyond_events": 0.2}
NOT_BEYOND = {"unique_r": -0.1, "unique_r_beyond_events": -0.1}


def two_studies(folder, first, second):
    """Two closed studies in storages of their own, the second of which ran the winner of the first."""
    for name in ("first", "second"):
        (folder / name).mkdir()
    earlier = with_further(study(folder / "first", level=first[0]), **first[1])
    later = with_further(study(folder / "second", trials=1, level=second[0]), **second[1])
    earlier.note("uid", "one")
    later.note("uid", "two")
    reference = f"sqlite:///{folder}/first/studies.db#small"
    frozen = frozen_winner(reference, f"sqlite:///{folder}/second/studies.db", "small")
    note_earlier(later, frozen)
    note_there(later, frozen, reference, "")
    return read_ledger(f"sqlite:///{folder}/first/studies.db", "small"), later


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ((0.3, BEYOND), (0.3, BEYOND), (REPLICATED, REPLICATED)),
        ((0.3, BEYOND), (0.0, BEYOND), (EEG_SPECIFIC, NOTHING)),
        ((0.3, BEYOND), (0.3, NOT_BEYOND), (EEG_SPECIFIC, CONFOUND)),
        ((0.3, BEYOND), (0.3, {}), (EEG_SPECIFIC, CONFOUND)),
        ((0.3, NOT_BEYOND), (0.3, BEYOND), (CONFOUND, EEG_SPECIFIC)),
        ((0.0, {}), (0.3, BEYOND), (NOTHING, EEG_SPECIFIC)),
    ],
)
def test_both_studies_say_replicated_where_each_shows_every_step_and_not_otherwise(tmp_path, first, second, words):
    ledgers = two_studies(tmp_path, first, second)
    found = [findings(ledger) for ledger in ledgers]
    assert tuple(each.verdict.word for each in found) == words
    for ledger, each in zip(ledgers, found, strict=True):
        note = study_note(each.winner, ledger.baselines(), ledger.test_scores(each.winner.number), each, Origin())
        assert note.tags["verdict"] == each.verdict.word and note.text.startswith(f"## {each.verdict.word}\n")
        assert f'<p class="word">{each.verdict.word}</p>' in report_page(ledger)
        assert any(line.startswith(f"VERDICT: {each.verdict.word} (") for line in summed_up(each))


def test_the_same_study_is_noted_once_and_each_other_one_beside_it(tmp_path):
    earlier, later = two_studies(tmp_path, (0.3, BEYOND), (0.3, BEYOND))
    reference = f"sqlite:///{tmp_path}/first/studies.db#small"
    frozen = frozen_winner(reference, "sqlite:///nowhere", "other")
    note_there(later, frozen, reference, "")
    assert [each["uid"] for each in earlier.noted("replications")] == ["two"]
    later.note("uid", "three")
    note_there(later, frozen, reference, "")
    assert [each["uid"] for each in earlier.noted("replications")] == ["two", "three"]


def test_of_another_winner_a_replication_says_nothing(tmp_path):
    earlier, _ = two_studies(tmp_path, (0.3, BEYOND), (0.3, BEYOND))
    [noted] = earlier.noted("replications")
    earlier.note("replications", [{**noted, "own_trial": noted["own_trial"] + 1}])
    assert findings(earlier).verdict.word == EEG_SPECIFIC


def test_a_control_is_not_noted_in_the_earlier_study(tmp_path):
    earlier, _ = two_studies(tmp_path, (0.3, BEYOND), (0.3, BEYOND))
    url = f"sqlite:///{tmp_path}/first/studies.db"
    control = open_ledger(f"sqlite:///{tmp_path}/control.db", "control", {"pairing": "run-swapped"})
    for record in read_ledger(f"sqlite:///{tmp_path}/second/studies.db", "small").trials[0].records.values():
        if not control.trials:
            control.add(_nothing_varied())
        control.commit(record)
    control.tell(0, 8)
    control.close()
    note_there(control, frozen_winner("small", url, "control"), "small", url)
    assert evidence(control).is_control
    assert [each["uid"] for each in earlier.noted("replications")] == ["two"]


def _nothing_varied():
    return Proposal(params={}, distributions={}, configuration={})


def test_an_open_study_is_not_frozen(tmp_path):
    study(tmp_path, closed=False)
    with pytest.raises(BadInput, match="the search of study small is not over"):
        frozen_winner("small", f"sqlite:///{tmp_path}/studies.db", "second")


TERMS = {"data": "here", "architecture": "band_power", "rate_hz": 125, "max_epochs": 20, "patience": 5}


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({}, "needs a second data set"),
        ({"data": "there"}, None),
        ({"data": "there", "seed": 9, "racing": "none"}, None),
        ({"data": "there", "rate_hz": 250}, "--rate 125 and not 250"),
        ({"data": "there", "architecture": "transformer"}, "ARCHITECTURE band_power and not transformer"),
        ({"data": "there", "calibration": "eeg"}, "--calibration none and not eeg"),
    ],
)
def test_a_second_data_set_is_trained_on_as_the_first_was(changes, refusal):
    frozen = Frozen(study="first", uid="one", trial=3, configuration={}, terms=TERMS)
    if refusal is None:
        refuse_unlike(frozen, {**TERMS, **changes})
        return
    with pytest.raises(BadInput, match=refusal):
        refuse_unlike(frozen, {**TERMS, **changes})


# Whole studies


def told(folder, name: str, shards: str, **changes) -> StudySettings:
    return StudySettings(
        **{
            "name": name,
            "architecture": "band_power",
            "data": DataSettings(shards=str(folder / shards), cache_folder=str(folder / f"cache-{shards}")),
            "storage_url": f"sqlite:///{folder / 'studies.db'}",
            "tracking": TrackingSettings(uri="sqlite:////nowhere"),
            "num_trials": 1,
            "epochs": Epochs(maximum=1),
            "null_flips": 0,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def quick():
    """Leave out the further scores that no verdict is made of."""
    with pytest.MonkeyPatch.context() as patched:
        scores = {name: finalists.FINALIST_SCORES[name] for name in ("objective", "unique_r")}
        patched.setattr(finalists, "FINALIST_SCORES", scores)
        patched.setattr(finalists, "scores_over_all_voxels", lambda *_: {})
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def searched(tmp_path_factory, quick):
    """Two data sets, and a study of the first one."""
    folder = tmp_path_factory.mktemp("replicated")
    for number, name in enumerate(("first", "second")):
        write_small_study(folder / name, subjects=4, volumes=40, coupling=3.0, seed=number, pulse=0.3)
    with in_this_process():
        search_untracked(told(folder, "earlier", "first", num_trials=2, racing="none"))
    return folder


@pytest.mark.slow
def test_a_whole_study_trains_the_frozen_winner_and_each_ledger_keeps_what_the_other_showed(searched):
    url = f"sqlite:///{searched / 'studies.db'}"
    settings = with_starts(told(searched, "later", "second", replicate="earlier"))
    check_data(settings)
    with in_this_process():
        search_untracked(settings)
        search_untracked(with_starts(dataclasses.replace(settings, frozen=None)))  # the same command goes on
    earlier, later = read_ledger(url, "earlier"), read_ledger(url, "later")
    winner = findings(earlier).winner
    assert [trial.configuration for trial in later.trials] == [winner.configuration]
    assert earlier.noted(REPLICATIONS) == [
        {
            "study": "later",
            "uid": later.noted("uid"),
            "data": later.terms["data"],
            "own_trial": winner.number,
            "evidence": evidence(later).noted,
        }
    ]
    [noted] = later.noted(REPLICATIONS)
    assert (noted["study"], noted["own_trial"], noted["evidence"]) == ("earlier", 0, evidence(earlier).noted)
    assert math.isfinite(evidence(later).beyond_events.mean)
    assert findings(later).corrected.mean == findings(later).raw.mean  # nothing was chosen here


@pytest.mark.slow
def test_the_same_data_set_is_refused_before_anything_runs(searched):
    with pytest.raises(BadInput, match="was searched on these very shards"):
        check_data(with_starts(told(searched, "again", "first", replicate="earlier")))


@pytest.mark.parametrize("changes", [{"num_trials": 2}, {"preset": "published"}, {"start_from": "earlier"}], ids=str)
def test_a_replication_searches_nothing(tmp_path, changes):
    with pytest.raises(BadInput, match="no other trial"):
        told(tmp_path, "again", "first", replicate="earlier", **changes)
