"""Baselines: one contract for all, on arrays and on a small prepared study."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from altered_study import with_other_bold
from sklearn.linear_model import Ridge
from small_study import write_small_study

from platform.data import products
from platform.data.folds import leave_one_subject_out
from platform.data.products import DataSettings
from platform.scores.baselines import (
    BASELINES,
    CONFOUND_SHRINKAGES,
    CONFOUNDS,
    FITTED_IN_SUBJECT,
    KNOWS_EEG,
    SHRINKAGES,
    BaselineRun,
    leave_one_run_out_operators,
    score_baseline,
)
from platform.scores.metrics import high_passed
from platform.training.data_jobs import TrainingRuns, score_baselines

TR_S, P, V = 2.0, 6, 5
NO_EEG = sorted(set(BASELINES) - KNOWS_EEG)
NO_CHOICE = sorted(set(NO_EEG) - CONFOUNDS)
WITHIN = "ridge_within_subject"


def baseline_run(
    seed: int,
    num_volumes: int = 60,
    *,
    from_events: float = 0,
    from_eeg: float = 0,
    from_confounds: float = 0,
    unit: float = 1e-3,
) -> BaselineRun:
    """Return a run that is its subject's only one; its confounds are counted in a unit of their own."""
    rng = np.random.default_rng(seed)
    events_TP, features_TP, confounds_TP = rng.standard_normal((3, num_volumes, P)).astype(np.float32)
    onset_T = 3 * np.exp(-np.arange(num_volumes) / 3)
    drive_T = from_events * events_TP[:, 0] + from_eeg * features_TP[:, 0] + from_confounds * confounds_TP[:, 0]
    volumes_TV = ((drive_T + onset_T)[:, None] * np.ones(V) + rng.standard_normal((num_volumes, V))).astype(np.float32)
    return BaselineRun(
        volumes_TV=high_passed(volumes_TV, TR_S),
        events_TP=high_passed(events_TP, TR_S),
        features_TP=high_passed(features_TP, TR_S),
        confounds=dict.fromkeys(CONFOUNDS, high_passed(confounds_TP * np.float32(unit), TR_S)),
        operators_ATN=np.zeros((len(SHRINKAGES), num_volumes, 0), np.float32),
        other_volumes_NV=np.zeros((0, V), np.float32),
    )


def runs(first_seed: int, number: int = 4, **strength: float) -> list[BaselineRun]:
    return [baseline_run(seed, **strength) for seed in range(first_seed, first_seed + number)]


def of_one_subject(alone: list[BaselineRun]) -> list[BaselineRun]:
    """Return runs, each with what the others tell of it."""
    operators = leave_one_run_out_operators([run.features_TP for run in alone])
    return [
        dataclasses.replace(
            run,
            operators_ATN=operators[number],
            other_volumes_NV=np.concatenate([other.volumes_TV for other in alone if other is not run]),
        )
        for number, run in enumerate(alone)
    ]


def num_candidates(name: str) -> int:
    return len(SHRINKAGES) if name in KNOWS_EEG else len(CONFOUND_SHRINKAGES) if name in CONFOUNDS else 1


def score(name: str, training: list[BaselineRun], **strength: float) -> tuple[float, float]:
    subjects = [of_one_subject(runs(seed, 2, **strength)) for seed in (100, 200, 300)]
    found = score_baseline(name, training, subjects, np.ones(V, np.float32), TR_S)
    return found.validation, found.test


# The contract of every baseline


@pytest.mark.parametrize("name", BASELINES)
def test_every_candidate_is_a_finite_prediction_of_all_volumes_and_voxels(name):
    predict = BASELINES[name](runs(0))
    for num_volumes in (40, 60, 90):  # shorter, as long as and longer than the training runs
        candidates = list(predict(baseline_run(50, num_volumes)))
        assert len(candidates) == num_candidates(name)
        for prediction_TV in candidates:
            assert prediction_TV.shape == (num_volumes, V)
            assert np.isfinite(prediction_TV).all()


@pytest.mark.parametrize("name", BASELINES)
def test_a_prediction_never_reads_the_volumes_that_it_predicts(name):
    run = of_one_subject(runs(50))[0]
    blind = dataclasses.replace(run, volumes_TV=np.full_like(run.volumes_TV, 1e3))
    predict = BASELINES[name](runs(0))
    for seeing, not_seeing in zip(predict(run), predict(blind), strict=True):
        np.testing.assert_array_equal(seeing, not_seeing)


@pytest.mark.parametrize("name", NO_EEG)
def test_what_claims_to_know_no_eeg_predicts_the_same_from_any(name):
    run = baseline_run(50)
    other = dataclasses.replace(run, features_TP=baseline_run(51).features_TP)
    predict = BASELINES[name](runs(0))
    np.testing.assert_array_equal(next(predict(run)), next(predict(other)))


@pytest.mark.parametrize("name", BASELINES)
def test_fitting_and_predicting_leave_the_runs_as_they_were(name):
    training, fresh = runs(0), runs(0)
    list(BASELINES[name](training)(training[0]))
    for run, untouched in zip(training, fresh, strict=True):
        for field, value in vars(untouched).items():
            np.testing.assert_equal(getattr(run, field), value)


@pytest.mark.parametrize("name", BASELINES)
def test_the_order_of_the_training_runs_does_not_matter(name):
    forwards, backwards = BASELINES[name](runs(0)), BASELINES[name](runs(0)[::-1])
    for one, other in zip(forwards(baseline_run(9)), backwards(baseline_run(9)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


# Each finds what it is made for, and nothing else


def test_zero_scores_exactly_zero():
    assert score("zero", runs(0, from_eeg=1), from_eeg=1) == (0, 0)


def test_time_in_run_finds_what_all_runs_do_at_their_start():
    validation, test = score("time_in_run", runs(0, 12))
    assert validation > 0.15 and test > 0.15


def test_events_finds_the_response_to_events():
    assert min(score("events", runs(0, from_events=1), from_events=1)) > 0.4
    assert max(map(abs, score("events", runs(0, from_eeg=1), from_eeg=1))) < 0.15


def test_ridge_finds_what_follows_the_eeg():
    assert min(score("ridge_band_power", runs(0, from_eeg=1), from_eeg=1)) > 0.4
    assert max(map(abs, score("ridge_band_power", runs(0, from_events=1), from_events=1))) < 0.15


def test_ridge_within_a_subject_finds_what_follows_the_eeg_in_its_other_runs():
    assert min(score(WITHIN, [], from_eeg=2)) > 0.4
    assert max(map(abs, score(WITHIN, [], from_events=1))) < 0.2


@pytest.mark.parametrize("name", sorted(CONFOUNDS))
@pytest.mark.parametrize("unit", [1e-4, 1, 1e4])
def test_a_confound_is_found_whatever_its_unit(name, unit):
    strength = {"from_confounds": 1, "unit": unit}
    assert min(score(name, runs(0, **strength), **strength)) > 0.3
    assert max(map(abs, score(name, runs(0, from_eeg=1), from_eeg=1))) < 0.15


def test_confounds_that_nobody_recorded_predict_exactly_nothing():
    for name in CONFOUNDS:
        predict = BASELINES[name](runs(0, unit=0))
        assert not any(prediction_TV.any() for prediction_TV in predict(baseline_run(50)))


def test_the_other_runs_operator_is_ridge_regression_on_them():
    alone = runs(0, 3)
    seen = of_one_subject(alone)[1]
    features_NP = np.vstack([alone[0].features_TP, alone[2].features_TP]).astype(float)
    volumes_NV = np.vstack([alone[0].volumes_TV, alone[2].volumes_TV])
    for shrinkage, prediction_TV in zip(SHRINKAGES, BASELINES[WITHIN]([])(seen), strict=True):
        ridge = Ridge(alpha=shrinkage, fit_intercept=False).fit(features_NP, volumes_NV)
        np.testing.assert_allclose(prediction_TV, ridge.predict(alone[1].features_TP), atol=1e-4)


def test_a_subject_with_a_single_run_gets_no_prediction_from_its_other_runs():
    run = baseline_run(0)
    (operators_ATN,) = leave_one_run_out_operators([run.features_TP])
    assert operators_ATN.shape == (len(SHRINKAGES), 60, 0)
    alone = dataclasses.replace(run, operators_ATN=operators_ATN)
    assert not any(prediction_TV.any() for prediction_TV in BASELINES[WITHIN]([])(alone))


@pytest.mark.parametrize("name", BASELINES)
def test_training_runs_may_come_one_by_one(name):
    listed, streamed = BASELINES[name](runs(0)), BASELINES[name](run for run in runs(0))
    run = of_one_subject(runs(50))[0]
    for one, other in zip(listed(run), streamed(run), strict=True):
        np.testing.assert_array_equal(one, other)


def test_ridge_solves_the_normal_equations_at_every_shrinkage():
    training, run = runs(0), baseline_run(50)
    features_NP = np.vstack([each.features_TP for each in training]).astype(float)
    volumes_NV = np.vstack([each.volumes_TV for each in training]).astype(float)
    for shrinkage, prediction_TV in zip(SHRINKAGES, BASELINES["ridge_band_power"](training)(run), strict=True):
        gram_PP = features_NP.T @ features_NP + shrinkage * np.eye(P)
        expected_TV = run.features_TP @ np.linalg.solve(gram_PP, features_NP.T @ volumes_NV)
        np.testing.assert_allclose(prediction_TV, expected_TV, atol=1e-4)


def test_the_mean_over_time_counts_only_runs_that_are_long_enough():
    short, long = baseline_run(0, 30), baseline_run(1, 60)
    mean_TV = next(BASELINES["time_in_run"]([short, long])(baseline_run(2, 80)))
    np.testing.assert_allclose(mean_TV[:30], (short.volumes_TV + long.volumes_TV[:30]) / 2, atol=1e-6)
    np.testing.assert_array_equal(mean_TV[30:60], long.volumes_TV[30:])
    assert not mean_TV[60:].any()


# On a prepared study


Scores = list[dict[str, tuple[float, float]]]


def all_scores(study: Path, folder: Path, folds: slice = slice(None)) -> Scores:
    """Return every baseline's (validation, test) of each fold."""
    settings = DataSettings(shards=str(study), cache_folder=str(folder / "cache"))
    subjects = [f"sub-{number:02d}" for number in range(1, 7)]
    found = [score_baselines(settings, fold) for fold in leave_one_subject_out(subjects, 0)[folds]]
    assert [number for number, _ in found] == list(range(6))[folds]
    return [{name: (each.validation, each.test) for name, each in scores.items()} for _, scores in found]


@pytest.fixture(scope="module", autouse=True)
def _few_patterns():
    """Keep few patterns: baselines use none, and computing all would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "MAX_RANK", 4)
        yield


@pytest.fixture(scope="module")
def coupled(tmp_path_factory) -> Path:
    return write_small_study(tmp_path_factory.mktemp("coupled") / "shards", subjects=6, volumes=120, coupling=3.0)


@pytest.fixture(scope="module")
def coupled_scores(coupled) -> Scores:
    return all_scores(coupled, coupled.parent)


@pytest.fixture(scope="module")
def uncoupled_scores(tmp_path_factory) -> Scores:
    folder = tmp_path_factory.mktemp("uncoupled")
    return all_scores(write_small_study(folder / "shards", subjects=6, volumes=120, coupling=0.0), folder)


def mean_over_folds(scores: Scores, name: str) -> tuple[float, float]:
    validation, test = np.mean([fold[name] for fold in scores], axis=0)
    return validation, test


def test_every_fold_scores_every_baseline(coupled_scores):
    assert [set(fold) for fold in coupled_scores] == [set(BASELINES)] * 6
    assert np.isfinite([list(fold.values()) for fold in coupled_scores]).all()


def test_in_a_coupled_study_ridge_beats_events_and_events_beat_zero(coupled_scores):
    for part in (0, 1):
        ridge, events, zero = (
            mean_over_folds(coupled_scores, name)[part] for name in ("ridge_band_power", "events", "zero")
        )
        assert ridge > 0.5 > events > 0.08 > zero == 0
        assert mean_over_folds(coupled_scores, WITHIN)[part] > 0.3


def test_in_a_study_without_coupling_no_baseline_finds_anything(uncoupled_scores):
    for name in BASELINES:
        assert max(map(abs, mean_over_folds(uncoupled_scores, name))) < 0.05


def test_zero_scores_exactly_zero_on_every_fold(coupled_scores, uncoupled_scores):
    assert {fold["zero"] for fold in [*coupled_scores, *uncoupled_scores]} == {(0.0, 0.0)}


def test_another_test_subjects_bold_changes_test_scores_only(coupled, coupled_scores, tmp_path):
    fold = leave_one_subject_out([f"sub-{number:02d}" for number in range(1, 7)], 0)[0]
    flipped = all_scores(with_other_bold(coupled, tmp_path / "shards", fold.test), tmp_path, slice(1))[0]
    for name in BASELINES:
        sign = 1 if name in FITTED_IN_SUBJECT else -1  # its other runs are flipped, too
        assert flipped[name][0] == coupled_scores[0][name][0]
        assert flipped[name][1] == pytest.approx(sign * coupled_scores[0][name][1], abs=1e-6)


def test_another_validation_subjects_bold_does_not_change_what_is_fitted(coupled, coupled_scores, tmp_path):
    fold = leave_one_subject_out([f"sub-{number:02d}" for number in range(1, 7)], 0)[0]
    flipped = all_scores(with_other_bold(coupled, tmp_path / "shards", fold.validation[0]), tmp_path, slice(1))[0]
    for name in NO_CHOICE:  # ridge's shrinkage is chosen on it, these have a single candidate
        assert flipped[name][1] == coupled_scores[0][name][1]
    assert flipped["ridge_band_power"][0] < coupled_scores[0]["ridge_band_power"][0] - 0.3


def test_run_swapped_eeg_leaves_ridge_nothing_to_find(coupled, tmp_path):
    settings = DataSettings(shards=str(coupled), cache_folder=str(tmp_path), pairing="run-swapped")
    folds = leave_one_subject_out([f"sub-{number:02d}" for number in range(1, 7)], 0)
    scores = [score_baselines(settings, fold)[1] for fold in folds]
    assert abs(np.mean([fold["ridge_band_power"].test for fold in scores])) < 0.1
    assert np.mean([fold["events"].test for fold in scores]) > 0.08


def test_training_volumes_too_large_for_memory_are_read_anew_and_give_the_same_scores(
    coupled, coupled_scores, tmp_path, monkeypatch
):
    monkeypatch.setattr("platform.training.data_jobs.MOST_TRAINING_BYTES", 0)
    fitted = []
    kept = TrainingRuns.kept_if_they_fit
    monkeypatch.setattr(TrainingRuns, "kept_if_they_fit", lambda runs: fitted.append(kept(runs)) or fitted[-1])
    assert all_scores(coupled, tmp_path, slice(1)) == coupled_scores[:1]
    assert isinstance(fitted[0], TrainingRuns)
    assert fitted[0].num_bytes == sum(run.volumes_TV.nbytes for run in fitted[0])
