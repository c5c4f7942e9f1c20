"""The split that leaks: shuffled windows over all recordings, and that its scores are never taken for more."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from altered_study import with_other_bold
from mlflow import MlflowClient
from searching import QUICK, search, start_search
from small_study import write_small_study

from datasets.cluster import in_this_process
from datasets.errors import BadInput
from platform.data.folds import NUM_SHARES, shuffled_shares
from platform.data.products import SHARE_NAMES, DataSettings, StudyData
from platform.data.windows import eeg_batch, target_batch, window_index
from platform.evidence.findings import findings
from platform.evidence.protocols import LEAKS, SHUFFLED, divided
from platform.evidence.verdict import NOTHING, Evidence, Step, verdict
from platform.ledger.studies import read_ledger
from platform.report import report_page
from platform.scores.baselines import fit_ridge, fit_time_in_run
from platform.scores.metrics import high_passed
from platform.search import parse_arguments, study_settings, take_keys_out
from platform.study.run import check_data, search_untracked
from platform.study.settings import StudySettings
from platform.tracking.runs import TrackingSettings
from platform.training.data_jobs import TrainingRuns, baseline_runs, score_baselines
from platform.training.fold_evaluation import FoldEvaluator
from platform.training.fold_job import train_fold
from platform.training.job import Job
from platform.training.loop import Epochs, Worker

SUBJECTS, RUNS, VOLUMES, WINDOWS = 3, 2, 75, 60
SHOWN = Step(mean=0.5, low=0.4)


def data_of(study: Path, seed: int = 3) -> DataSettings:
    return DataSettings(shards=str(study), cache_folder=str(study.parent / "cache"), unit="share", shuffle_seed=seed)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_small_study(
        tmp_path_factory.mktemp("shuffled") / "shards", subjects=SUBJECTS, runs=RUNS, volumes=VOLUMES, coupling=2.0
    )


def settings(study: Path, **changes) -> StudySettings:
    fixed = {
        "name": "one",
        "architecture": "band_power",
        "data": data_of(study, 0),
        "storage_url": f"sqlite:///{study.parent / 'studies.db'}",
        "tracking": TrackingSettings(uri="sqlite:////nowhere"),
        "protocol": SHUFFLED,
        "num_trials": 1,
        "epochs": Epochs(maximum=2),
    }
    return StudySettings(**{**fixed, **changes})


# The split


@pytest.mark.parametrize("lengths", [(60,) * 6, (155, 31, 8, 0, 77), (3,)], ids=str)
def test_every_window_is_in_one_share_and_shares_are_as_large_as_each_other_in_every_recording(lengths):
    shares = shuffled_shares(lengths, seed=4)
    assert [len(share_T) for share_T in shares] == list(lengths)
    for share_T in [*shares, np.concatenate(shares)]:
        counts = np.bincount(share_T, minlength=NUM_SHARES)
        assert len(counts) == NUM_SHARES and counts.max() - counts.min() <= 1


def test_the_split_follows_from_lengths_and_seed_alone():
    again, other = (shuffled_shares((60, 61), seed) for seed in (4, 5))
    for one, same, different in zip(shuffled_shares((60, 61), 4), again, other, strict=True):
        np.testing.assert_array_equal(one, same)
        assert (one != different).any()


def test_neighbours_of_most_windows_are_in_other_shares():
    [share_T] = shuffled_shares((4000,), 0)
    assert np.mean(share_T[1:] == share_T[:-1]) == pytest.approx(1 / NUM_SHARES, abs=0.03)


def test_shares_hold_windows_of_all_subjects_and_together_all_of_them_once(study):
    whole = StudyData(DataSettings(shards=str(study), cache_folder=str(study.parent / "cache")))
    data = StudyData(data_of(study))
    assert data.manifest.subjects == SHARE_NAMES
    recorded = whole.runs_of(whole.manifest.subjects)
    seen = [np.zeros(WINDOWS, int) for _ in recorded]
    for share in SHARE_NAMES:
        runs = data.runs(share)
        assert [run.run for run in runs] == list(range(1, SUBJECTS * RUNS + 1))
        for run, recording, seen_T in zip(runs, recorded, seen, strict=True):
            seen_T[run.at_T] += 1
            assert run.num_windows == len(run.at_T) == len(run.targets)
            np.testing.assert_array_equal(run.targets, recording.targets[run.at_T])
    assert all((seen_T == 1).all() for seen_T in seen)


def test_a_batch_holds_the_shares_own_windows(study):
    whole = StudyData(DataSettings(shards=str(study), cache_folder=str(study.parent / "cache")))
    data = StudyData(data_of(study))
    run, recording = data.runs("share-2")[3], whole.runs("sub-02")[1]
    index, there = window_index([run]), np.stack([np.zeros(run.num_windows, int), run.at_T], axis=1)
    assert torch.equal(eeg_batch([run], index).clone(), eeg_batch([recording], there).clone())
    assert torch.equal(target_batch([run], index).clone(), target_batch([recording], there).clone())
    np.testing.assert_array_equal(run.window(1), recording.window(int(run.at_T[1])))


def test_features_belong_to_the_shares_windows(study):
    whole = StudyData(DataSettings(shards=str(study), cache_folder=str(study.parent / "cache")))
    data = StudyData(data_of(study))
    run, recording = data.runs("share-2")[3], whole.runs("sub-02")[1]
    design_TP = high_passed(whole.event_design(recording)[run.at_T], 2.0, at_T=run.at_T)
    np.testing.assert_array_equal(high_passed(data.event_design(run), 2.0, at_T=run.at_T), design_TP)
    ours = data.window_features("share-2", "test", lambda eeg: eeg.mean(dim=2))[3]
    theirs = whole.window_features("sub-02", "test", lambda eeg: eeg.mean(dim=2))[1]
    np.testing.assert_allclose(ours, theirs[run.at_T], atol=1e-6)


def test_inner_products_are_those_of_the_training_windows(study):
    data = StudyData(data_of(study))
    subjects = SHARE_NAMES[2:5]
    volumes_NV = np.concatenate([run.targets for run in data.runs_of(subjects)]).astype(np.float32)
    np.testing.assert_allclose(data.gram_of(subjects), volumes_NV @ volumes_NV.T, rtol=1e-3, atol=1e-2)


# The high-pass of volumes with gaps


def test_without_gaps_the_high_pass_is_the_same():
    series_TV = np.random.default_rng(0).standard_normal((90, 3))
    np.testing.assert_allclose(high_passed(series_TV, 2.0, at_T=np.arange(90)), high_passed(series_TV, 2.0), atol=1e-12)


def test_drifts_slower_than_the_cut_off_are_gone_between_gaps_too():
    at_T = np.sort(np.random.default_rng(1).choice(150, 20, replace=False))
    times = (at_T - at_T[0] + 0.5) / (at_T[-1] - at_T[0] + 1)
    drifts_TV = np.stack([np.cos(np.pi * order * times) for order in range(5)], axis=1)
    assert np.abs(high_passed(drifts_TV, 2.0, at_T=at_T)).max() < 1e-10
    fast_T1 = np.cos(np.pi * 30 * times)[:, None]
    assert high_passed(fast_T1, 2.0, at_T=at_T).std() > 0.3


# What training and scores see


def changed_at(study: Path, copy: Path, shares: set[int], seed: int = 3) -> Path:
    """Copy the study with garbage in the volumes that the windows of these shares must predict."""
    split = shuffled_shares([WINDOWS] * SUBJECTS * RUNS, seed)
    recordings = iter(split)

    def change(bold_RV: np.ndarray) -> np.ndarray:
        changed_RV, share_T = bold_RV.copy(), next(recordings)
        is_changed_T = np.isin(share_T, list(shares))
        changed_RV[VOLUMES - WINDOWS :][is_changed_T] = np.random.default_rng(9).integers(
            -20000, 20000, (int(is_changed_T.sum()), bold_RV.shape[1])
        )
        return changed_RV

    place = study
    for number in range(1, SUBJECTS + 1):  # the shards are rewritten in their order
        place = with_other_bold(place, copy.parent / f"{copy.name}-{number}", f"sub-{number:02d}", change)
    return place


def number_of(share: str) -> int:
    return SHARE_NAMES.index(share)


@pytest.mark.parametrize("output", ["variance", "responsive", "reduced_rank", "parcels"])
def test_what_is_in_held_out_volumes_changes_nothing_that_is_trained_to_the_last_bit(study, tmp_path, output):
    fold = divided(SHARE_NAMES, 3, SHUFFLED, 0).folds[0]
    other = changed_at(study, tmp_path / "other", {number_of(each) for each in (fold.test, *fold.validation)})
    trained = []
    for place in (study, other):
        job = Job(
            data=dataclasses.replace(data_of(place), cache_folder=str(tmp_path / f"cache-{place.name}")),
            architecture="band_power",
            configuration={"output_rank": 8, "output": output},
            epochs=Epochs(maximum=3),
            seed=1,
            trial=0,
            fold=fold,
        )
        trained.append(train_fold(job, Worker()))
    one, two = trained
    np.testing.assert_array_equal(one.products.weights_V, two.products.weights_V)
    np.testing.assert_array_equal(one.products.patterns_KV, two.products.patterns_KV)
    assert one.history.loss == two.history.loss and one.history.scores != two.history.scores
    for name, values in one.model.state_dict().items():
        assert torch.equal(values, two.model.state_dict()[name]), name


@pytest.mark.parametrize("fit", [fit_ridge, fit_time_in_run])
def test_baselines_are_fitted_on_training_windows_alone(study, tmp_path, fit):
    fold = divided(SHARE_NAMES, 3, SHUFFLED, 0).folds[0]
    other = changed_at(study, tmp_path / "other", {number_of(each) for each in (fold.test, *fold.validation)})
    predicted = []
    for place in (study, other):
        data = StudyData(dataclasses.replace(data_of(place), cache_folder=str(tmp_path / f"cache-{place.name}")))
        voxels = np.arange(10)
        predict = fit(TrainingRuns(data=data, fold=fold, voxels=voxels))
        predicted.append([np.stack(list(predict(run))) for run in baseline_runs(data, fold.test, voxels)])
    for one, two in zip(*predicted, strict=True):
        np.testing.assert_array_equal(one, two)
        assert np.abs(one).max() > 0


def test_scores_are_those_of_the_held_out_volumes_alone(study, tmp_path):
    fold = divided(SHARE_NAMES, 3, SHUFFLED, 0).folds[0]
    copies = {
        "training": changed_at(study, tmp_path / "training", {number_of(each) for each in fold.training}),
        "test": changed_at(study, tmp_path / "test", {number_of(fold.test)}),
    }
    job = Job(
        data=data_of(study), architecture="band_power", configuration={"output_rank": 8}, epochs=Epochs(maximum=1),
        seed=1, trial=0, fold=fold,
    )  # fmt: skip
    trained = train_fold(job, Worker())
    scores = {}
    for name, place in {"study": study, **copies}.items():
        data = StudyData(dataclasses.replace(data_of(place), cache_folder=str(tmp_path / f"cache-{name}")))
        evaluator = FoldEvaluator(data, fold, trained.products, has_basis=True, inputs=trained.inputs)
        scores[name] = evaluator(trained.model).scores
    assert scores["training"] == scores["study"]
    assert scores["test"][:2] == scores["study"][:2] and scores["test"][2] != scores["study"][2]


def test_time_in_run_is_told_where_a_shares_windows_stand(study):
    data = StudyData(data_of(study))
    fold = divided(SHARE_NAMES, 3, SHUFFLED, 0).folds[0]
    voxels = np.arange(4)
    training = list(TrainingRuns(data=data, fold=fold, voxels=voxels))
    [run, *_] = baseline_runs(data, fold.test, voxels)
    [predicted_TV] = fit_time_in_run(training)(run)
    for at, row_V in zip(run.at_T, predicted_TV, strict=True):
        same = [each.volumes_TV[each.at_T == at] for each in training]
        there_NV = np.concatenate(same)
        wanted_V = there_NV.mean(axis=0) if len(there_NV) else np.zeros(4)
        np.testing.assert_allclose(row_V, wanted_V, atol=1e-5)


def test_baselines_are_scored_with_slow_drifts_between_gaps_taken_out(study):
    data = StudyData(data_of(study))
    fold = divided(SHARE_NAMES, 3, SHUFFLED, 0).folds[0]
    weights_V = data.training_weights(fold.training)
    voxels = np.flatnonzero(weights_V)
    predict = fit_time_in_run(TrainingRuns(data=data, fold=fold, voxels=voxels))
    runs = baseline_runs(data, fold.test, voxels)
    predictions = [next(predict(run)) for run in runs]
    r_of_runs = []
    for run, predicted_TV in zip(runs, predictions, strict=True):
        left_TV = high_passed(predicted_TV, 2.0, at_T=run.at_T)
        products = [(one * other).sum(axis=0) for one, other in
                    ((left_TV, run.volumes_TV), (left_TV, left_TV), (run.volumes_TV, run.volumes_TV))]  # fmt: skip
        r_of_runs.append(np.average(products[0] / np.sqrt(products[1] * products[2]), weights=weights_V[voxels]))
    _, scores = score_baselines(data_of(study), fold)
    assert scores["time_in_run"].test == pytest.approx(np.mean(r_of_runs), abs=1e-5)


def test_ridge_within_subject_predicts_the_mean_since_a_share_is_no_subject(study):
    fold = divided(SHARE_NAMES, 3, SHUFFLED, 0).folds[0]
    _, scores = score_baselines(data_of(study), fold)
    assert scores["ridge_within_subject"].test == scores["zero"].test == 0.0
    assert scores["ridge_band_power"].test > 0.03


def test_with_the_eeg_of_another_run_windows_are_dealt_out_after_the_swap(study):
    plain = StudyData(DataSettings(shards=str(study), cache_folder=str(study.parent / "cache"), pairing="run-swapped"))
    data = StudyData(dataclasses.replace(data_of(study), pairing="run-swapped"))
    run, swapped = data.runs("share-1")[2], plain.runs("sub-02")[0]
    assert run.eeg_CS is not swapped.eeg_CS
    np.testing.assert_array_equal(run.eeg_CS, swapped.eeg_CS)
    np.testing.assert_array_equal(run.targets, swapped.targets[run.at_T])


# What is refused


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lock_away": 1}, "--lock-away"),
        ({"null_flips": 3}, "--null-flips"),
        ({"null_repeats": 1}, "--null-repeats"),
    ],
    ids=str,
)
def test_what_speaks_of_subjects_is_refused(study, changes, named):
    with pytest.raises(BadInput, match=f"leaves out windows, not subjects.*leave out {named}, or give"):
        settings(study, **changes)


def test_recordings_too_short_to_be_dealt_out_are_refused(tmp_path):
    short = write_small_study(tmp_path / "shards", subjects=2, runs=1, volumes=35)
    with pytest.raises(BadInput, match="deals every recording's windows to 8 shares"):
        check_data(settings(short))


def test_a_study_goes_on_under_no_other_protocol(study, tmp_path):
    told = settings(study, storage_url=f"sqlite:///{tmp_path / 'studies.db'}")
    by_subject = dataclasses.replace(told.data, unit="recording", shuffle_seed=0)
    with in_this_process():
        search_untracked(told)
        again = search_untracked(told)
        assert len(again.trials) == 1
        with pytest.raises(BadInput, match="folds"):
            search_untracked(dataclasses.replace(told, protocol="within", data=by_subject))


# What is said


def test_the_verdict_is_nothing_whatever_is_shown():
    found = verdict(Evidence(score=SHOWN, beyond_confounds=SHOWN, beyond_events=SHOWN, is_shuffled=True))
    assert found.word == NOTHING and found.reasons[0] == LEAKS[SHUFFLED]
    assert "it leaks" in found.reasons[0] and "nothing is said of new subjects" in found.reasons[0]


def test_the_search_is_run_as_the_command_line_says_and_its_report_says_that_it_leaks(study, tmp_path, monkeypatch):
    monkeypatch.setenv("EEG2FMRI_HOME", str(tmp_path / "home"))
    given = f"search band_power --shards {study} --protocol within-shuffled --trials 1 --finalists 0 --max-epochs 2"
    monkeypatch.setattr(sys, "argv", [*given.split(), "--seed", "5"])
    arguments = parse_arguments()
    take_keys_out(arguments)
    told = study_settings(arguments)
    assert told.null_flips == 0 and told.data.shuffle_seed == 5
    check_data(told)
    with in_this_process():
        search_untracked(told)
    ledger = read_ledger(f"sqlite:///{tmp_path}/home/studies.db", "band_power")
    assert ledger.terms["folds"] == SHUFFLED
    found = findings(ledger)
    assert found.verdict.word == NOTHING and found.unit == "share"
    assert found.corrected.num_subjects == NUM_SHARES and found.corrected.mean > 0.1
    page = report_page(ledger)
    assert page.count(LEAKS[SHUFFLED][1:]) >= 3 and "Expected on another share of these subjects" in page
    assert "Expected on a new subject" not in page and "what a new subject may be expected" not in page


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_end_of_a_search_and_mlflow_say_that_it_leaks(study, tmp_path):
    home = tmp_path / "home"
    told = ("band_power", "--shards", str(study), "--protocol", "within-shuffled", "--trials", "1", *QUICK)
    printed = search(home, *told, "--finalists", "0", "--racing", "none")
    assert f"CAUTION: {LEAKS[SHUFFLED]}." in printed and "a new subject may expect" not in printed
    assert "8 shares" in printed and "VERDICT: nothing" in printed
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("eeg2fmri").experiment_id])
    assert {run.data.tags["leaks"] for run in runs} == {LEAKS[SHUFFLED]}
    [of_study] = [run for run in runs if "verdict" in run.data.tags]
    assert of_study.data.tags["verdict"] == NOTHING
    assert of_study.data.tags["mlflow.note.content"].startswith("**It leaks")
    [version] = client.search_model_versions("name = 'eeg2fmri-band_power'")
    assert version.aliases == [] and "It leaks" in version.description
    refused = start_search(home, *told, "--lock-away", "1")
    output, _ = refused.communicate(timeout=120)
    assert refused.returncode == 2 and "leave out --lock-away" in output and "Traceback" not in output
