"""What is computed once a search is over: locked-away subjects are opened once, nulls and nested scores are noted."""

import dataclasses

import pytest
import torch
from small_study import write_small_study

from platform.data.products import DataSettings
from platform.evidence import after_search
from platform.evidence.after_search import LOCKED_AWAY, NESTED, NULLS, Afterwards
from platform.evidence.locked_away import fold_of, score_locked_away_baselines
from platform.evidence.protocols import divided, nested_scores
from platform.ledger.records import FoldRecord
from platform.ledger.studies import open_ledger
from platform.proposals.samplers import Proposal
from platform.scores.baselines import BASELINES
from platform.training.config import Epochs
from platform.training.fold_job import run_fold_job, score_trained
from platform.training.job import Job, Workers, job_seed

SUBJECTS = [f"sub-{number:02d}" for number in range(1, 7)]
CONFIGURATIONS = ({"output_rank": 4}, {"output_rank": 8})
HERE = Workers()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DataSettings:
    folder = tmp_path_factory.mktemp("study")
    study = write_small_study(folder / "shards", subjects=6, volumes=60, coupling=3.0)
    return DataSettings(shards=str(study), cache_folder=str(folder / "cache"))


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Run what a cluster would run in this process."""
    monkeypatch.setattr(after_search, "run_tasks", lambda task, arguments, **_: (task(*each) for each in arguments))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def finished(data: DataSettings, url: str, protocol: str, num_locked_away: int) -> Afterwards:
    """Return what follows a search of one trial that has run on all folds."""
    ledger = open_ledger(url, "one", {})
    after = Afterwards(
        ledger=ledger,
        data=data,
        division=divided(SUBJECTS, 0, protocol, num_locked_away),
        seed=0,
        workers=HERE,
        at_once=1,
        job=lambda trial, fold: Job(
            data=data,
            architecture="band_power",
            configuration=trial.configuration,
            epochs=Epochs(maximum=2),
            seed=job_seed(0, trial.number, fold.number),
            trial=trial.number,
            fold=fold,
        ),
    )
    return with_trial(after, 0)


def with_trial(after: Afterwards, number: int) -> Afterwards:
    """Give another trial, better than those before it, records on all folds, and close the study."""
    ledger = after.ledger
    ledger.add(Proposal(params={}, distributions={}, configuration=CONFIGURATIONS[number]))
    for fold in after.division.folds:
        curves = (0.2 + fold.number / 100, 0.1), (0.3, 0.4)
        scores = {"score": 0.3 + number, "test_score": 0.9, "validation": curves}
        ledger.commit(FoldRecord(trial=number, fold=fold.number, best_epochs=1, **scores))
    ledger.tell(number, len(after.division.folds))
    ledger.close()
    return after


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path / 'studies.db'}"


def test_locked_away_subjects_are_scored_once_by_what_the_others_trained(data, url, caplog):
    after = finished(data, url, "loso", 2)
    after.open_locked_away()
    opened = after.ledger.noted(LOCKED_AWAY)
    assert set(opened["subjects"]) == set(after.division.locked_away)
    assert (opened["trial"], opened["num_trials"]) == (0, 1) and opened["at"]
    assert set(opened["baselines"]) == set(BASELINES)
    assert all(set(scores) == set(opened["subjects"]) for scores in opened["baselines"].values())

    with_trial(after, 1)
    after.open_locked_away()
    assert after.ledger.noted(LOCKED_AWAY) == opened
    assert "trial 1, now the best, is not scored on them: they are opened once" in caplog.text


def test_an_interrupted_opening_goes_on_with_the_trial_that_it_began_with(data, url, monkeypatch):
    after = finished(data, url, "loso", 2)
    with monkeypatch.context() as broken:
        broken.setattr(after_search, "score_locked_away", interrupted)
        with pytest.raises(KeyboardInterrupt):
            after.open_locked_away()
    assert "subjects" not in after.ledger.noted(LOCKED_AWAY)
    with_trial(after, 1)
    after.open_locked_away()
    assert after.ledger.noted(LOCKED_AWAY)["trial"] == 0 and after.ledger.noted(LOCKED_AWAY)["subjects"]


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def without_coupling(job: Job, _: Workers) -> FoldRecord:
    return FoldRecord(trial=job.trial, fold=job.fold.number, score=0.0, test_score=0.0, repeat=job.repeat)


def test_a_training_that_nobody_scores_on_the_way_ends_as_the_fold_job_of_as_many_epochs(data):
    division = divided(SUBJECTS, 0, "loso", 1)
    job = Job(
        data=data,
        architecture="band_power",
        configuration=CONFIGURATIONS[0],
        epochs=Epochs(maximum=3),
        seed=3,
        trial=0,
        fold=fold_of(division.locked_away[0], 5, division.in_folds),
    )
    curve = run_fold_job(job, HERE).validation[0]
    assert [score_trained(dataclasses.replace(job, stop_after=each), HERE)[-1] for each in (1, 3)] == [
        curve[0],
        curve[2],
    ]


def test_ridge_knows_of_locked_away_subjects_what_it_knows_of_any(data):
    division = divided(SUBJECTS, 0, "loso", 2)
    scores = score_locked_away_baselines(data, division.folds[0], division.locked_away)
    assert min(scores["ridge_band_power"].values()) > 0.3 > 0.1 > max(scores["head_motion"].values())
    assert set(scores["zero"].values()) == {0.0}


def test_nulls_are_noted_and_computed_once(data, url, monkeypatch):
    after = finished(data, url, "loso", 2)
    after.note_nulls(199, 2)
    ridge, winner = after.ledger.noted(NULLS)
    assert (ridge["name"], winner["name"]) == ("ridge_sign_flip", "winner_sign_flip")
    assert len(ridge["values"]) == 2**3 - 1
    assert ridge["p"] == (1 + sum(value >= ridge["observed"] for value in ridge["values"])) / 2**3
    assert winner["observed"] == pytest.approx(0.9)
    assert len(winner["values"]) == 2 and max(winner["values"]) < winner["observed"]

    monkeypatch.setattr(after_search, "ridge_flip_scores", interrupted)
    monkeypatch.setattr(after_search, "run_fold_job", interrupted)
    after.note_nulls(199, 2)
    assert after.ledger.noted(NULLS) == [ridge, winner]


def test_another_winner_has_no_null_of_the_earlier_one(data, url, monkeypatch):
    after = finished(data, url, "loso", 0)
    monkeypatch.setattr(after_search, "run_fold_job", without_coupling)
    after.note_nulls(0, 1)
    assert [null["trial"] for null in after.ledger.noted(NULLS)] == [0]
    with_trial(after, 1)
    after.note_nulls(0, 0)
    assert after.ledger.noted(NULLS) == []


def test_a_nested_study_notes_what_its_records_say(data, url):
    after = finished(data, url, "nested", 0)
    after.note_nested()
    noted = after.ledger.noted(NESTED)
    expected = nested_scores(after.ledger.trials, after.division.folds, 0)
    assert noted["subjects"] == dict(expected.subjects) and set(noted["subjects"]) == set(SUBJECTS)
    assert set(noted["chosen"].values()) == {0} and noted["num_trials"] == 1
