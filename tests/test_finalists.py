"""A finalist's further scores on a small prepared study: the same weights again, and every score where it belongs."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from altered_study import with_other_bold
from small_study import write_small_study

from platform.data.folds import leave_one_subject_out
from platform.data.products import DataSettings, StudyData
from platform.evidence.finalists import (
    OBJECTIVE,
    REFERENCES,
    TEST,
    VALIDATION,
    grey_matter,
    score_finalist,
    score_references,
    scores_over_all_voxels,
    tissues_of,
)
from platform.scores.image_scores import IMAGE_SCORES
from platform.scores.volume_scores import VOLUME_SCORES
from platform.training.config import Epochs
from platform.training.fold_job import run_fold_job
from platform.training.job import Job, Workers

HERE = Workers()
SUBJECTS = [f"sub-{number:02d}" for number in range(1, 6)]
FOLDS = leave_one_subject_out(SUBJECTS, 0)
FOLD, EVERYWHERE = FOLDS[0], FOLDS[4]
"""In the second one all voxels weigh the same."""
EPOCHS = Epochs(maximum=4, patience=2)


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> DataSettings:
    """A study without confounds and maps."""
    folder = tmp_path_factory.mktemp("bare")
    study = write_small_study(folder / "shards", volumes=70, coupling=3.0)
    return DataSettings(shards=str(study), cache_folder=str(folder / "cache"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> DataSettings:
    """A study with both, in which heart rate drives all voxels."""
    folder = tmp_path_factory.mktemp("whole")
    study = write_small_study(folder / "shards", volumes=70, coupling=2.0, pulse=0.8)
    return DataSettings(shards=str(study), cache_folder=str(folder / "cache"))


def job_of(data: DataSettings, architecture: str = "band_power", **configuration: object) -> Job:
    return Job(
        data=data,
        architecture=architecture,
        configuration={"output_rank": 4, **configuration},
        epochs=EPOCHS,
        seed=3,
        trial=0,
        fold=FOLD,
    )


def scored(job: Job) -> tuple[float, float, dict[str, dict[str, float]]]:
    """Return the fold job's validation and test score, and the finalist's scores."""
    record = run_fold_job(job, HERE)
    assert record.score is not None and record.test_score is not None
    number, scores = score_finalist(dataclasses.replace(job, stop_after=record.best_epochs), HERE)
    assert number == FOLD.number
    return record.score, record.test_score, scores


@pytest.fixture(scope="module")
def of_whole(whole) -> dict[str, dict[str, float]]:
    return scored(job_of(whole))[2]


@pytest.fixture(scope="module")
def references(whole) -> dict[str, dict[str, float]]:
    return score_references(whole, EVERYWHERE)[1]


@pytest.mark.parametrize(
    ("architecture", "configuration"),
    [
        ("band_power", {}),
        ("band_power", {"output_rank": 0, "schedule": "plateau", "weight_average": 0.9}),
        ("transformer", {"optimizer": "schedule_free", "dropout": 0.2, "width": 16, "num_heads": 2}),
    ],
    ids=["band_power", "all voxels, plateau, average", "transformer, schedule_free"],
)
def test_the_objective_scored_again_is_exactly_the_sealed_test_score(bare, architecture, configuration):
    _, test_score, scores = scored(job_of(bare, architecture, **configuration))
    assert scores[TEST][OBJECTIVE] == test_score


def test_what_the_shards_do_not_hold_has_no_score(bare):
    _, _, scores = scored(job_of(bare))
    assert set(VOLUME_SCORES) | {"unique_r_beyond_events"} <= set(scores[TEST])
    assert not {"unique_r", *IMAGE_SCORES} & set(scores[TEST])


def test_with_confounds_and_maps_every_score_is_there_and_finite(of_whole):
    for part in (TEST, VALIDATION):
        assert {OBJECTIVE, "unique_r", "unique_r_beyond_events", *VOLUME_SCORES, *IMAGE_SCORES} <= set(of_whole[part])
        assert np.isfinite(list(of_whole[part].values())).all()


def test_scores_after_calibration_stand_by_minutes_and_kind(of_whole):
    curve = {name: value for name, value in of_whole[TEST].items() if name.startswith(f"{OBJECTIVE}_after_")}
    assert {f"{OBJECTIVE}_after_{minutes}_min_{how}" for minutes in (0, 1) for how in ("eeg", "paired")} <= set(curve)
    assert curve[f"{OBJECTIVE}_after_0_min_eeg"] == curve[f"{OBJECTIVE}_after_0_min_paired"]


def test_the_baselines_beside_it_have_the_same_scores(references):
    assert tuple(references) == REFERENCES
    for scores in references.values():
        assert {*VOLUME_SCORES, *IMAGE_SCORES} <= set(scores)
    assert [name for name, scores in references.items() if "unique_r" in scores] == ["ridge_band_power"]


def test_zero_scores_what_the_rules_say_and_is_the_row_of_the_mean_image(references):
    zero = references["zero"]
    assert zero["identification"] == 0.5
    assert {zero[name] for name in VOLUME_SCORES if name != "identification"} == {0.0}
    assert 0.8 < zero["ssim_given_own_mean"] < 1


def test_confounds_find_what_the_heart_drives_and_eeg_adds_to_them(references):
    assert references["confounds"]["temporal_r_grey"] > 0.3
    assert references["confounds"]["temporal_r_grey"] > references["events"]["temporal_r_grey"] + 0.2
    assert references["ridge_band_power"]["unique_r"] > 0.05


def test_another_test_subjects_bold_changes_its_scores_and_no_other(whole, of_whole, tmp_path):
    altered = with_other_bold(Path(whole.shards), tmp_path / "shards", FOLD.test)
    settings = DataSettings(shards=str(altered), cache_folder=str(tmp_path / "cache"))
    _, _, flipped = scored(job_of(settings))
    assert flipped[VALIDATION] == of_whole[VALIDATION]
    for name in (OBJECTIVE, "temporal_r_grey", "temporal_r_parcels"):
        assert flipped[TEST][name] == pytest.approx(-of_whole[TEST][name], abs=1e-6)


@pytest.mark.parametrize("subject", SUBJECTS[:2])
def test_the_truth_itself_scores_perfectly(whole, subject):
    data = StudyData(whole)
    truth = (run.targets.astype(np.float32) for run in data.runs(subject))
    scores = scores_over_all_voxels(data, subject, truth)
    for name in ("temporal_r_grey", "temporal_r_parcels", "r2_subject_mean", "identification", "ssim_given_own_mean"):
        assert scores[name] == pytest.approx(1, abs=1e-4)
    assert scores["mse_given_own_mean"] == 0


def test_a_study_without_grey_matter_counts_all_voxels(whole, monkeypatch):
    data = StudyData(whole)
    monkeypatch.setitem(data.__dict__, "grey_matter", np.zeros(len(data.voxel_indices), bool))
    assert grey_matter(data).is_grey_V.all()


def test_the_tissue_profile_has_what_the_study_knows_of(whole, bare, monkeypatch):
    data = StudyData(whole)
    found = tissues_of(data, FOLD.test)
    assert set(found) == {"vessels"}  # the small study is grey matter alone
    share_V = data.subject_maps(FOLD.test)["standard_deviation"] / data.subject_maps(FOLD.test)["mean"]
    assert share_V[found["vessels"]].min() >= share_V[~found["vessels"]].max()
    assert tissues_of(StudyData(bare), FOLD.test) == {}


def test_every_fold_of_a_study_names_its_own_number(bare):
    assert score_references(bare, FOLDS[3])[0] == 3
