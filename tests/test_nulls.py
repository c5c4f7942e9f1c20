"""Nulls: BOLD upside down by subject, with ridge and with any configuration."""

import dataclasses

import numpy as np
import pytest
from altered_study import with_other_bold
from small_study import write_small_study

from platform.data.basis import gram_matrix
from platform.data.flipped_data import FlippedData
from platform.data.products import DataSettings, StudyData
from platform.evidence.nulls import NUM_SHIFTS, circular_shift_p, null_scores, ridge_flip_scores, ridge_null, sign_flips
from platform.evidence.protocols import divided
from platform.scores.baselines import score_baseline
from platform.training.data_jobs import baseline_runs, score_baselines
from platform.training.job_model import open_data

SUBJECTS = [f"sub-{number:02d}" for number in range(1, 6)]
FOLDS = divided(SUBJECTS, 0, "loso", 0).folds


@pytest.fixture(scope="module")
def coupled(tmp_path_factory) -> DataSettings:
    folder = tmp_path_factory.mktemp("coupled")
    study = write_small_study(folder / "shards", volumes=70, coupling=3.0)
    return DataSettings(shards=str(study), cache_folder=str(folder / "cache"))


def slow_scores(settings: DataSettings, fold, signs) -> float:
    """Return ridge's test score on BOLD that is turned upside down, fitted anew."""
    flipped = tuple(subject for subject, sign in zip(SUBJECTS, signs, strict=True) if sign < 0)
    data = FlippedData(dataclasses.replace(settings, flipped=flipped))
    weights_V = data.training_weights(fold.training)
    voxels = np.flatnonzero(weights_V)
    training = [run for subject in fold.training for run in baseline_runs(data, subject, voxels)]
    scored = [baseline_runs(data, subject, voxels) for subject in (*fold.validation, fold.test)]
    return score_baseline("ridge_band_power", training, scored, weights_V[voxels], 2.0).test


def test_ridge_under_flips_is_ridge_fitted_anew_on_flipped_volumes(coupled):
    signs_FK = sign_flips(5, 4, 0)
    _, scores = ridge_flip_scores(coupled, FOLDS[1], SUBJECTS, signs_FK)
    assert scores[0] == pytest.approx(score_baselines(coupled, FOLDS[1])[1]["ridge_band_power"].test, abs=1e-5)
    assert scores[1:] == pytest.approx([slow_scores(coupled, FOLDS[1], signs) for signs in signs_FK], abs=1e-5)


def test_a_coupled_study_stands_above_all_its_flips_and_p_is_one_of_their_number(coupled):
    signs_FK = sign_flips(5, 199, 0)
    null = ridge_null(dict(ridge_flip_scores(coupled, fold, SUBJECTS, signs_FK) for fold in FOLDS))
    assert null.observed > max(null.values) and null.p == 1 / 16
    assert len(null.values) == 15


def test_flips_are_distinct_and_none_is_the_recorded_one_or_its_mirror():
    for num_subjects, number in ((5, 199), (9, 199), (16, 199)):
        signs_FK = sign_flips(num_subjects, number, 1)
        assert len(signs_FK) == min(number, 2 ** (num_subjects - 1) - 1)
        assert len({row.tobytes() for row in signs_FK}) == len(signs_FK)
        assert (signs_FK[:, 0] == 1).all() and (signs_FK < 0).any(axis=1).all()


def test_p_counts_the_recorded_signs_and_ties():
    assert null_scores("any", 0.5, [0.1, 0.5, 0.7, 0.2]).p == 3 / 5
    assert null_scores("any", 0.5, [0.1] * 199).p == 1 / 200


def test_under_no_coupling_p_is_as_often_small_as_it_says():
    """Simulated scores: what is observed is drawn as its flips are."""
    rng = np.random.default_rng(0)
    p = [null_scores("any", *np.split(rng.standard_normal(20), [1])).p for _ in range(2000)]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.02)


def test_a_prediction_in_time_stands_above_all_its_shifts_and_one_of_nothing_does_not():
    rng = np.random.default_rng(0)
    targets = [rng.standard_normal((80, 3)) for _ in range(2)]
    weights_V = np.ones(3)
    follows = [target + rng.standard_normal(target.shape) for target in targets]
    assert circular_shift_p(follows, targets, weights_V, 2.0) == 1 / (NUM_SHIFTS + 1)
    assert circular_shift_p([np.zeros((80, 3))] * 2, targets, weights_V, 2.0) == 1.0
    of_nothing = [circular_shift_p(list(rng.standard_normal((2, 80, 3))), targets, weights_V, 2.0) for _ in range(60)]
    assert 0.3 < np.mean(of_nothing) < 0.7


def test_flipped_data_is_the_same_as_shards_written_upside_down(coupled, tmp_path):
    """Volumes, their inner products and patterns; voxel weights and what is read of EEG stay."""
    other = with_other_bold(StudyData(coupled).folder.parent / "shards", tmp_path / "other", SUBJECTS[2])
    flipped = open_data(dataclasses.replace(coupled, flipped=(SUBJECTS[2],)))
    written = StudyData(DataSettings(shards=str(other), cache_folder=str(tmp_path / "cache")))
    assert isinstance(flipped, FlippedData)
    for ours, theirs in zip(flipped.runs_of(SUBJECTS), written.runs_of(SUBJECTS), strict=True):
        np.testing.assert_array_equal(ours.bold_RV, theirs.bold_RV)
        np.testing.assert_array_equal(ours.eeg_CS, theirs.eeg_CS)
    some = SUBJECTS[1:4]
    expected = gram_matrix([run.targets for run in written.runs_of(some)])
    np.testing.assert_allclose(flipped.gram_of(some), expected, atol=1e-2)
    recorded = StudyData(coupled)
    np.testing.assert_array_equal(flipped.training_weights(some), recorded.training_weights(some))
    ours, theirs = (each.training_products(some, "variance") for each in (flipped, written))
    ours, theirs = (np.abs(each.patterns_KV[:3]) for each in (ours, theirs))
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_a_run_too_short_to_be_shifted_has_a_p_that_says_nothing():
    short = [np.random.default_rng(0).standard_normal((25, 3))]
    assert circular_shift_p(short, short, np.ones(3), 2.0) == 1.0
