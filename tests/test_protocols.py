"""Protocols: pairs of subjects, subjects locked away, and scores that nothing was chosen by."""

import dataclasses
import itertools
import statistics
from collections import Counter

import numpy as np
import pytest
from small_study import write_small_study

from datasets.cluster import in_this_process
from datasets.errors import BadInput
from platform.data.folds import leave_one_subject_out, leave_two_subjects_out, lock_away
from platform.data.products import DataSettings, StudyData
from platform.evidence.findings import findings
from platform.evidence.protocols import divided, nested_scores
from platform.evidence.verdict import NOTHING
from platform.ledger.records import FoldRecord, LedgerTrial
from platform.study.run import search_untracked
from platform.study.settings import StudySettings
from platform.tracking.runs import TrackingSettings
from platform.training.loop import Epochs

SUBJECTS = [f"sub-{number:02d}" for number in range(1, 17)]


def settings(**changes):
    data = DataSettings(shards="/nowhere", cache_folder="/nowhere")
    tracking = TrackingSettings(uri="sqlite:////nowhere")
    fixed = {"name": "one", "architecture": "band_power", "data": data, "storage_url": "", "tracking": tracking}
    return StudySettings(**{**fixed, "num_trials": 4, **changes})


def nested_settings(**changes):
    return settings(**{"protocol": "nested", "sampler": "random", "racing": "none", **changes})


@pytest.mark.parametrize("number", [4, 5, 16])
def test_every_pair_is_left_out_once_and_trains_nothing(number):
    folds = leave_two_subjects_out(SUBJECTS[:number], seed=3)
    pairs = {frozenset(fold.validation) for fold in folds}
    assert pairs == {frozenset(pair) for pair in itertools.combinations(SUBJECTS[:number], 2)}
    assert len(folds) == len(pairs) and [fold.number for fold in folds] == list(range(len(folds)))
    for fold in folds:
        assert fold.test in fold.validation
        assert sorted([*fold.validation, *fold.training]) == SUBJECTS[:number]


def test_who_of_a_pair_is_called_the_test_goes_round():
    tests = Counter(fold.test for fold in leave_two_subjects_out(SUBJECTS[:7], seed=0))
    assert set(tests.values()) == {3}


def test_locked_away_subjects_are_in_no_fold():
    division = divided(SUBJECTS, 5, "loso", 3)
    seen = {subject for fold in division.folds for subject in (fold.test, *fold.validation, *fold.training)}
    assert len(division.locked_away) == 3 and not seen & set(division.locked_away)
    assert sorted([*division.in_folds, *division.locked_away]) == SUBJECTS and seen == set(division.in_folds)


def test_seeds_lock_others_away_and_every_subject_may_be():
    drawn = Counter(subject for seed in range(400) for subject in lock_away(SUBJECTS, 2, seed)[1])
    assert set(drawn) == set(SUBJECTS) and max(drawn.values()) < 80  # 50 are expected of each


def test_without_locked_away_subjects_folds_are_what_they_were():
    assert divided(SUBJECTS, 5, "loso", 0).folds == tuple(leave_one_subject_out(SUBJECTS, 5))


def test_locking_too_many_away_is_refused():
    with pytest.raises(BadInput, match="leaves 3 of 6 subjects"):
        lock_away(SUBJECTS[:6], 3, 0)


@pytest.mark.parametrize(
    "changes",
    [{"sampler": "tpe"}, {"racing": "halving"}, {"start_from": "earlier"}, {"median_stopping": True}],
    ids=str,
)
def test_a_nested_study_refuses_what_lets_scores_choose_trials(changes):
    with pytest.raises(BadInput, match="no score has chosen"):
        nested_settings(**changes)


def test_only_protocols_that_change_scores_are_terms():
    assert set(settings(null_flips=9, null_repeats=2).terms("x")) == set(settings().terms("x"))
    assert nested_settings().terms("x")["folds"] == "nested"
    assert settings(lock_away=2).terms("x")["lock_away"] == "2"


# Nested scores

PAIRS = leave_two_subjects_out(SUBJECTS[:5], 0)


def trial_of(number, curve):
    """Return a trial whose curve of a subject, left out with another, ``curve`` gives."""
    records = {
        fold.number: FoldRecord(
            trial=number,
            fold=fold.number,
            score=0.0,
            validation=(curve(*fold.validation), curve(*fold.validation[::-1])),
        )
        for fold in PAIRS
    }
    return LedgerTrial(number=number, state="COMPLETE", params={}, configuration={}, records=records)


def noise_trials(num_trials, rng):
    noise = {}
    for number, pair in itertools.product(range(num_trials), itertools.combinations(SUBJECTS[:5], 2)):
        curves = rng.standard_normal((2, rng.integers(2, 5)))  # a pair's training ends for both at once
        noise |= {(number, *pair): tuple(curves[0]), (number, *pair[::-1]): tuple(curves[1])}
    return [trial_of(number, lambda *pair, number=number: noise[number, *pair]) for number in range(num_trials)], noise


def mean_of(trial):
    return np.mean([curve[0] for record in trial.records.values() for curve in record.validation])


def slow_nested(noise, num_trials):
    """Return the same by loops that are written for one subject at a time."""
    found = {}
    for outer in SUBJECTS[:5]:
        others = [subject for subject in SUBJECTS[:5] if subject != outer]
        inner = []
        for number in range(num_trials):
            peaks = {each: int(np.argmax(noise[number, each, outer])) for each in others}
            scores = []
            for each in others:
                curve = noise[number, each, outer]
                at = round(statistics.median(peaks[other] for other in others if other != each))
                scores.append(curve[min(at, len(curve) - 1)])
            inner.append(np.mean(scores))
        best = int(np.argmax(inner))
        own = []
        for each in others:
            own.append(noise[best, outer, each][int(np.argmax(noise[best, each, outer]))])
        found[outer] = best, np.mean(own)
    return found


def test_nested_scores_are_those_of_a_slow_implementation():
    trials, noise = noise_trials(6, np.random.default_rng(1))
    nested = nested_scores(trials, PAIRS, 0)
    for subject, (best, score) in slow_nested(noise, 6).items():
        assert nested.chosen[subject] == best
        assert nested.subjects[subject] == pytest.approx(score, abs=1e-12)


def test_where_trials_differ_by_noise_alone_the_winner_is_flattered_and_nested_scores_are_not():
    rng, flattered, nested = np.random.default_rng(0), [], []
    for _ in range(150):
        trials, _ = noise_trials(12, rng)
        means = [mean_of(trial) for trial in trials]
        found = nested_scores(trials, PAIRS, int(np.argmax(means)))
        nested.append(np.mean(list(found.subjects.values())))
        flattered.append(max(means))
    error = np.std(nested) / np.sqrt(len(nested))
    assert abs(np.mean(nested)) < 3 * error
    assert np.mean(flattered) > 10 * error


def test_a_subjects_own_scores_choose_nothing_that_it_is_scored_by():
    """Make one trial far better on one subject alone: that subject is not scored by it."""
    loved = SUBJECTS[0]
    plain = trial_of(0, lambda subject, _: (0.2, 0.1))
    trial = trial_of(1, lambda subject, _: (9.0, 9.0) if subject == loved else (0.1, 0.1))
    nested = nested_scores([plain, trial], PAIRS, 1)
    assert nested.chosen[loved] == 0 and nested.subjects[loved] == 0.2
    assert nested.winner[loved] == 9.0


def test_nested_scores_need_a_trial_on_all_pairs():
    with pytest.raises(BadInput, match="no trial has run on all pairs"):
        nested_scores([], PAIRS, 0)


def test_within_leaves_out_recordings_and_trains_on_others_of_their_subjects(tmp_path):
    study = write_small_study(tmp_path / "shards", subjects=2, runs=3, volumes=40)
    whole = DataSettings(shards=str(study), cache_folder=str(tmp_path / "cache"))
    by_subject, by_recording = StudyData(whole), StudyData(dataclasses.replace(whole, unit="recording"))
    names = by_recording.manifest.subjects
    assert len(names) == 6 and {name.split(" ")[0] for name in names} == set(by_subject.manifest.subjects)
    assert by_recording.manifest.digest != by_subject.manifest.digest
    folds = divided(names, 0, "within", 0).folds
    assert sorted(fold.test for fold in folds) == sorted(names)
    assert any(fold.test.split(" ")[0] in {name.split(" ")[0] for name in fold.training} for fold in folds)
    [run] = by_recording.runs(names[1])
    np.testing.assert_array_equal(run.bold_RV, by_subject.runs(names[1].split(" ")[0])[1].bold_RV)
    assert by_recording.confounds(run).keys() == by_subject.confounds(by_subject.runs("sub-01")[1]).keys()


def test_a_study_within_runs_to_its_end_and_never_speaks_of_new_subjects(tmp_path):
    study = write_small_study(tmp_path / "shards", subjects=2, runs=2, volumes=60, coupling=3.0)
    recordings = DataSettings(shards=str(study), cache_folder=str(tmp_path / "cache"), unit="recording")
    told = settings(
        protocol="within",
        data=recordings,
        storage_url=f"sqlite:///{tmp_path / 'studies.db'}",
        num_trials=1,
        epochs=Epochs(maximum=2),
    )
    with in_this_process():
        found = findings(search_untracked(told))
    assert found.corrected.num_subjects == 4 and found.corrected.mean > 0.1
    assert found.verdict.word == NOTHING and "--protocol within" in found.verdict.reasons[0]


def test_within_knows_recordings_alone():
    recordings = DataSettings(shards="/nowhere", cache_folder="/nowhere", unit="recording")
    assert settings(protocol="within", data=recordings).terms("")["folds"] == "within"
    with pytest.raises(BadInput, match="leaves out a recording, but the data's unit is subject"):
        settings(protocol="within")
    with pytest.raises(BadInput, match="leave out --lock-away"):
        settings(protocol="within", data=recordings, lock_away=2)
