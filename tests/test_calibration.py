"""Calibration: known answers, nothing leaks either way, and a fold job that is scored with it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from altered_study import with_other_bold
from model_shapes import build
from small_study import write_small_study
from torch import nn

from datasets.command_line import run_command
from datasets.errors import BadInput
from platform.data import products
from platform.data.folds import leave_one_subject_out
from platform.data.products import DataSettings, StudyData
from platform.data.windows import CachedRun, eeg_batch
from platform.models import ARCHITECTURES
from platform.models.ensemble import Ensemble
from platform.scores.metrics import high_passed, temporal_r
from platform.search import main, parse_arguments, study_settings
from platform.training.calibration import (
    CALIBRATIONS,
    CURVE_MINUTES,
    GAP_SECONDS,
    MIN_SCORED_WINDOWS,
    PENALTIES,
    Calibration,
    Moments,
    SubjectArrays,
    Timing,
    calibrated_scores,
    calibration_curve,
    candidate_scores,
    moments,
    parts_of,
    restandardised,
    ridge_changes,
)
from platform.training.config import Epochs
from platform.training.data_jobs import score_baselines
from platform.training.fold_job import run_fold_job, train_fold
from platform.training.job import Job, Workers
from platform.training.loop import Worker, predict
from platform.training.subject_arrays import EncoderAndHead

TIMING = Timing(repetition_time_s=2.0, window_volumes=15)
FEATURES, VOXELS = 12, 9
WEIGHTS = np.linspace(0.5, 1.5, VOXELS).astype(np.float32)
RUNS = (170, 170, 170, 170)


# Which windows calibrate, and which are scored


def volumes_of(window: int, run_start: int) -> set[int]:
    """Return the volumes, counted from the subject's first, whose time a window lies in."""
    return set(range(run_start + window, run_start + window + TIMING.window_volumes + 1))


@pytest.mark.parametrize("minutes", [0.0, 0.4, 1.0, 2.0, 5.0, 10.0])
@pytest.mark.parametrize("scored_after", [10.0, 13.5])
@pytest.mark.parametrize("runs", [RUNS, (60, 170, 170, 170), (200, 20, 300), (16, 500)])
def test_no_volume_of_a_calibrating_window_is_within_a_gap_of_a_scored_one(minutes, scored_after, runs):
    parts = parts_of(runs, TIMING, minutes, scored_after)
    calibrating, scored, latest = set(), set(), int(minutes * 30)
    for number, (length, part) in enumerate(zip(runs, parts, strict=True)):
        start = sum(runs[:number])
        for window in range(length - TIMING.window_volumes)[part.calibrating]:
            calibrating |= volumes_of(window, start)
        for window in range(length - TIMING.window_volumes)[part.scored]:
            scored |= {(number, volume) for volume in volumes_of(window, start)}
    assert not calibrating or max(calibrating) == min(latest, max(calibrating) + 1) - 1 <= latest - 1
    first_scored = min(volume for _, volume in scored)
    held_back = int(scored_after * 30)
    assert first_scored >= held_back
    for number, volume in scored:  # within the run in which calibration ends
        if sum(runs[:number]) < held_back:
            assert (volume - held_back) * TIMING.repetition_time_s >= GAP_SECONDS


@pytest.mark.parametrize("scored_after", [0.0, 1.0, 5.0, 5.6, 9.0])
def test_all_windows_are_scored_that_may_be(scored_after):
    parts, held_back = parts_of(RUNS, TIMING, 0.0, scored_after), int(scored_after * 30)
    for number, (length, part) in enumerate(zip(RUNS, parts, strict=True)):
        start = sum(RUNS[:number])
        windows = range(length - TIMING.window_volumes)
        free = [window for window in windows if start >= held_back or start + window >= held_back + GAP_SECONDS / 2]
        is_cut = len(free) < len(windows)
        assert list(windows[part.scored]) == ([] if is_cut and len(free) < MIN_SCORED_WINDOWS else free)


def test_the_minutes_do_not_change_what_is_scored():
    scored = {tuple(part.scored.start for part in parts_of(RUNS, TIMING, each, 10.0)) for each in CURVE_MINUTES}
    assert len(scored) == 1


def test_a_subject_with_too_little_data_is_refused_in_one_line():
    with pytest.raises(BadInput) as refused:
        parts_of((170, 170), TIMING, 5.0, 11.0, "sub-03")
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(
        "sub-03 has 11.3 minutes: after 11 minutes of calibration too little is left to score"
    )


def test_a_short_rest_of_a_run_is_left_out_where_another_run_is_scored():
    parts = parts_of((170, 170), TIMING, 4.5, 4.5)
    assert parts[0].scored == slice(155, 155)
    assert parts[1].scored == slice(0, 155)


# Known answers


def smooth(rng: np.random.Generator, length: int, width: int) -> np.ndarray:
    """Return noise that changes over about 10 windows, as overlapping windows do."""
    noise = rng.standard_normal((length + 9, width))
    return np.stack([noise[at : at + 10].sum(axis=0) for at in range(length)]).astype(np.float32) / 3


def subject(
    seed: int,
    *,
    head: np.ndarray,
    truth: np.ndarray,
    scale: np.ndarray | float = 1.0,
    shift: np.ndarray | float = 0.0,
    noise: float = 0.5,
) -> SubjectArrays:
    """Return a subject whose volumes follow its features by ``truth``, which its encoder gives scaled and shifted."""
    rng = np.random.default_rng(seed)
    features = [smooth(rng, length - 15, FEATURES) for length in RUNS]
    volumes = [
        (each @ truth + noise * rng.standard_normal((len(each), VOXELS))).astype(np.float32) for each in features
    ]
    return SubjectArrays(
        features=[(each * scale + shift).astype(np.float32) for each in features],
        volumes=volumes,
        head=lambda features_TD: (features_TD @ head).astype(np.float32),
        training=Moments(
            mean_D=np.zeros(FEATURES, np.float32), deviation_D=np.full(FEATURES, np.sqrt(10) / 3, np.float32)
        ),
        name=f"sub-{seed:02d}",
    )


def random_head(seed: int) -> np.ndarray:
    return np.random.default_rng([7, seed]).standard_normal((FEATURES, VOXELS)).astype(np.float32)


HEAD = random_head(0)


def ceiling(wanted: SubjectArrays, truth: np.ndarray, scale: np.ndarray | float = 1.0) -> float:
    """Return the score of the subject's own true head, over the windows that the curve scores."""
    told = dataclasses.replace(wanted, head=lambda features_TD: (features_TD / scale @ truth).astype(np.float32))
    return candidate_scores(told, Calibration(how="none", minutes=0, scored_after=10), WEIGHTS, TIMING)[0]


def test_paired_calibration_finds_a_head_that_differs_by_a_linear_map():
    truth = HEAD @ (0.2 * np.eye(VOXELS) + random_head(1)[:VOXELS, :VOXELS]).astype(np.float32)
    subjects = [subject(seed, head=HEAD, truth=truth) for seed in range(3)]
    curve = {minutes: scores[2] for minutes, scores in calibration_curve(subjects, "paired", WEIGHTS, TIMING).items()}
    best = ceiling(subjects[2], truth)
    assert list(curve) == list(CURVE_MINUTES)
    assert curve[0] < 0.5 * best
    assert curve[0] < curve[1] < curve[5] < curve[10]
    assert curve[10] > 0.95 * best


def test_paired_calibration_leaves_a_head_alone_that_is_right():
    subjects = [subject(seed, head=HEAD, truth=HEAD, noise=8.0) for seed in range(3)]
    curve = {minutes: scores[2] for minutes, scores in calibration_curve(subjects, "paired", WEIGHTS, TIMING).items()}
    assert all(abs(curve[minutes] - curve[0]) < 0.02 for minutes in CURVE_MINUTES)
    assert curve[0] > 0.25


def test_eeg_calibration_undoes_a_known_shift_and_scale():
    scale = np.exp(np.linspace(-2, 2, FEATURES)).astype(np.float32)
    subjects = [subject(seed, head=HEAD, truth=HEAD, scale=scale, shift=5.0) for seed in range(3)]
    curve = {minutes: scores[2] for minutes, scores in calibration_curve(subjects, "eeg", WEIGHTS, TIMING).items()}
    best = ceiling(subjects[2], HEAD, scale)
    assert curve[0] < 0.7 * best
    assert curve[10] > 0.95 * best
    assert curve[1] > curve[0]


def test_restandardised_features_have_the_training_moments_where_nothing_else_is_known():
    rng = np.random.default_rng(0)
    features = (3 * rng.standard_normal((500, 4)) + 7).astype(np.float32)
    training = Moments(mean_D=np.arange(4, dtype=np.float32), deviation_D=np.array([0.5, 1, 2, 0], np.float32))
    found = restandardised(features, moments([[features]]), training, num_windows=500, prior_windows=0)
    np.testing.assert_allclose(found.mean(axis=0), training.mean_D, atol=1e-3)
    np.testing.assert_allclose(found.std(axis=0)[:3], training.deviation_D[:3], rtol=1e-3)
    unchanged = restandardised(features, moments([[features]]), training, num_windows=1, prior_windows=1e9)
    np.testing.assert_allclose(unchanged.std(axis=0)[:3], features.std(axis=0)[:3], rtol=1e-3)


def test_moments_are_means_over_subjects_of_means_and_of_variances():
    one, other = np.array([[0.0], [2.0]], np.float32), np.array([[10.0], [16.0], [13.0]], np.float32)
    found = moments([[one], [other[:1], other[1:]]])
    assert found.mean_D == pytest.approx([7.0])
    assert found.deviation_D == pytest.approx([np.sqrt((1 + 6) / 2)])


@pytest.mark.parametrize("penalty", [0.5, 1.0, 30.0])
def test_a_change_of_the_head_is_ridge_regression_of_the_residual_in_closed_form(penalty):
    rng = np.random.default_rng(0)
    features, scored = rng.standard_normal((40, FEATURES)), rng.standard_normal((25, FEATURES))
    residual = rng.standard_normal((40, VOXELS))
    (found,) = ridge_changes(*(each.astype(np.float32) for each in (features, residual, scored)), (penalty,))
    unit = np.square(features).sum() / len(features)
    change = np.linalg.solve(features.T @ features + penalty * unit * np.eye(FEATURES), features.T @ residual)
    np.testing.assert_allclose(found, scored @ change, rtol=1e-3, atol=1e-4)


# Nothing leaks


def with_garbage(wanted: SubjectArrays, minutes: float, *, before: bool, of: str) -> SubjectArrays:
    """Return a subject whose features or volumes are garbage in the calibrating or in the scored part."""
    rng = np.random.default_rng(99)
    parts = parts_of(RUNS, TIMING, minutes, minutes)
    arrays = [each.copy() for each in getattr(wanted, of)]
    for array, part in zip(arrays, parts, strict=True):
        array[part.calibrating if before else part.scored] = 50 * rng.standard_normal(1)
        chosen = array[part.calibrating if before else part.scored]
        chosen += rng.standard_normal(chosen.shape).astype(np.float32)
    return dataclasses.replace(wanted, **{of: arrays})


@pytest.mark.parametrize("minutes", [2.0, 7.0])
@pytest.mark.parametrize("how", ["none", "eeg"])
def test_garbage_in_the_volumes_of_calibration_changes_no_score_where_volumes_are_not_asked_for(how, minutes):
    wanted = subject(1, head=HEAD, truth=HEAD)
    garbage = with_garbage(wanted, minutes, before=True, of="volumes")
    calibration = Calibration(how=how, minutes=minutes)
    expected = candidate_scores(wanted, calibration, WEIGHTS, TIMING)
    assert candidate_scores(garbage, calibration, WEIGHTS, TIMING) == expected


@pytest.mark.parametrize("minutes", [2.0, 7.0])
@pytest.mark.parametrize("how", ["eeg", "paired"])
@pytest.mark.parametrize("of", ["volumes", "features"])
def test_garbage_in_the_scored_part_does_not_change_what_calibration_makes_of_the_model(how, minutes, of):
    wanted = subject(1, head=HEAD, truth=random_head(3))
    garbage = with_garbage(wanted, minutes, before=False, of=of)
    parts = parts_of(RUNS, TIMING, minutes, minutes)
    probe = smooth(np.random.default_rng(5), 40, FEATURES)  # the calibrated model shown by what it makes of these

    def predictions(one: SubjectArrays) -> list[np.ndarray]:
        last = parts[-1].scored
        features = [*one.features[:-1], np.concatenate([probe, one.features[-1][40:]])]
        shown = dataclasses.replace(one, features=features)
        assert last == slice(0, 155)
        return [candidate[-1][:40] for candidate in CALIBRATIONS[how](shown, parts, TIMING)]

    for found, expected in zip(predictions(garbage), predictions(wanted), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert not np.allclose(predictions(wanted)[-1], wanted.head(probe))


def test_garbage_in_the_volumes_of_calibration_changes_paired_calibration():
    wanted = subject(1, head=HEAD, truth=random_head(3))
    garbage = with_garbage(wanted, 5.0, before=True, of="volumes")
    calibration = Calibration(how="paired", minutes=5.0)
    clean, dirty = (candidate_scores(each, calibration, WEIGHTS, TIMING) for each in (wanted, garbage))
    assert dirty[0] == clean[0]  # the first candidate changes nothing
    assert not np.allclose(dirty[1:], clean[1:])


def test_the_test_subject_chooses_no_penalty():
    first, second = (subject(seed, head=HEAD, truth=HEAD, noise=8.0) for seed in (1, 2))
    tests = [subject(3, head=HEAD, truth=truth) for truth in (random_head(3), -random_head(3))]
    calibration = Calibration(how="paired", minutes=5.0)
    together = np.add(*(candidate_scores(each, calibration, WEIGHTS, TIMING) for each in (first, second)))
    for test in tests:
        scores = calibrated_scores([first, second, test], calibration, WEIGHTS, TIMING)
        own = candidate_scores(test, calibration, WEIGHTS, TIMING)
        assert len(own) == 1 + len(PENALTIES)
        assert scores[2] == own[int(np.argmax(together))] < max(own)


# No calibration


@pytest.mark.parametrize("how", ["eeg", "paired"])
def test_no_minutes_are_no_calibration_on_the_same_windows(how):
    subjects = [subject(seed, head=HEAD, truth=random_head(3)) for seed in range(3)]
    curve = calibration_curve(subjects, how, WEIGHTS, TIMING)
    parts = parts_of(RUNS, TIMING, 0.0, max(CURVE_MINUTES))
    for one, found in zip(subjects, curve[0.0], strict=True):
        predicted, volumes = (
            [
                each[part.scored]
                for each, part in zip(arrays, parts, strict=True)
                if part.scored.stop > part.scored.start
            ]
            for arrays in (one.predictions, one.volumes)
        )
        targets = [high_passed(each, TIMING.repetition_time_s) for each in volumes]
        assert found == pytest.approx(temporal_r(predicted, targets, WEIGHTS, TIMING.repetition_time_s), abs=1e-6)


def test_calibration_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match=r"how must be one of \['eeg', 'none', 'paired'\], but got 'magic'"):
        Calibration(how="magic", minutes=1)
    with pytest.raises(ValueError, match="scoring must begin after the 5 minutes of calibration"):
        Calibration(how="eeg", minutes=5, scored_after=2)


# Models and fold jobs


@pytest.fixture(scope="module", autouse=True)
def _few_patterns_and_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "MAX_RANK", 16)
        yield
    torch.set_num_threads(threads)


def small_run() -> CachedRun:
    rng = np.random.default_rng(0)
    return CachedRun(
        subject="sub-01",
        task="auditory",
        run=1,
        eeg_CS=rng.standard_normal((4, 40 * 250)).astype(np.float16),
        bold_RV=rng.standard_normal((40, 37)).astype(np.float16),
        samples_per_volume=250,
    )


@pytest.mark.parametrize("low_rank", [False, True])
@pytest.mark.parametrize("architecture", sorted(name for name in ARCHITECTURES if not ARCHITECTURES[name].features))
def test_encoder_and_head_together_are_the_model(architecture, low_rank):
    model, run = build(architecture, low_rank=low_rank), small_run()
    halves = EncoderAndHead(model)
    features = halves.encode(run, eeg_batch)
    assert features.ndim == 2 and len(features) == run.num_windows
    torch.testing.assert_close(halves.predict(features, "sub-01"), predict(model, run), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weights", [{}, {"sub-01": torch.tensor([0.8, 0.2])}], ids=str)
def test_encoders_and_heads_of_an_ensemble_together_are_the_ensemble(weights):
    members = [build("transformer", low_rank=True, seed=seed) for seed in (1, 2)]
    model, run = Ensemble(members, weights), small_run()
    halves = EncoderAndHead(model)
    predicted = halves.predict(halves.encode(run, eeg_batch), "sub-01")
    torch.testing.assert_close(predicted, predict(model, run), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("coupled") / "shards"
    return write_small_study(folder, subjects=5, volumes=90, coupling=2.0)


def job(shards: Path, calibration: Calibration | None, **changes: object) -> Job:
    data = DataSettings(shards=str(shards), cache_folder=str(shards.parent / "cache"))
    return Job(
        data=data,
        architecture="band_power",
        configuration={"output_rank": 8, "width": 16, "learning_rate": 3e-3, **changes},
        epochs=Epochs(maximum=2),
        seed=1,
        trial=0,
        fold=leave_one_subject_out(StudyData(data).manifest.subjects, 0)[0],
        calibration=calibration,
    )


@pytest.mark.parametrize("how", ["eeg", "paired"])
def test_a_fold_job_is_scored_after_calibration_and_trained_the_same(shards, how):
    plain = run_fold_job(job(shards, None), Workers())
    found = run_fold_job(job(shards, Calibration(how=how, minutes=2.0)), Workers())
    again = run_fold_job(job(shards, Calibration(how=how, minutes=2.0)), Workers())
    assert found.loss == plain.loss
    assert found.score != plain.score and np.isfinite(found.test_score)
    assert dataclasses.replace(found, seconds=0) == dataclasses.replace(again, seconds=0)
    assert found.trace["target"] == plain.trace["target"]


def test_a_subjects_first_minutes_of_bold_do_not_change_a_score_after_eeg_calibration(shards, tmp_path):
    wanted = job(shards, Calibration(how="eeg", minutes=2.0))

    def garbage_at_first(bold_RV: np.ndarray) -> np.ndarray:
        changed = bold_RV.copy()
        changed[:60] = np.random.default_rng(0).integers(-9000, 9000, changed[:60].shape)
        return changed

    # Of the second run, too: its first volumes are scored, so that this must change.
    other = with_other_bold(shards, tmp_path / "shards", wanted.fold.test, garbage_at_first)
    before, after = (
        train_fold(dataclasses.replace(wanted, data=dataclasses.replace(wanted.data, shards=str(which))), Worker())
        for which in (shards, other)
    )
    arrays = [trained.evaluator._arrays(trained.model, "eeg")[2] for trained in (before, after)]
    spliced = dataclasses.replace(arrays[1], volumes=[arrays[1].volumes[0], arrays[0].volumes[1]])
    weights = before.products.weights_V[before.products.weights_V > 0]
    timing = Timing(repetition_time_s=2.0, window_volumes=15)
    scores = [candidate_scores(each, wanted.calibration, weights, timing) for each in (arrays[0], spliced, arrays[1])]
    assert scores[0] == scores[1] != scores[2]


def test_a_trained_fold_has_a_curve(shards):
    trained = train_fold(job(shards, None), Worker())
    with pytest.raises(BadInput, match="too little is left to score"):
        trained.evaluator.calibration_curve(trained.model, "paired")
    curve = trained.evaluator.calibration_curve(trained.model, "paired", (0.0, 1.0, 2.0))
    assert list(curve) == [0.0, 1.0, 2.0]
    assert np.isfinite(list(curve.values())).all()
    assert nn.Module in type(trained.model).__mro__


# The command


@pytest.mark.parametrize(
    ("how", "minutes", "expected"),
    [
        ("", "2", "--calibration-minutes needs --calibration: eeg (EEG alone"),
        ("eeg", "", "--calibration eeg needs --calibration-minutes of 1 or more (a window spans 30 s), but got 0"),
        ("paired", "0.5", "needs --calibration-minutes of 1 or more (a window spans 30 s), but got 0.5"),
        ("paired", "6", "sub-01 has 6.0 minutes: after 6 minutes of calibration too little is left to score"),
    ],
)
def test_a_calibration_that_cannot_be_is_refused(how, minutes, expected, shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EEG2FMRI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EEG2FMRI_CALIBRATION", how)
    monkeypatch.setenv("EEG2FMRI_CALIBRATION_MINUTES", minutes)
    monkeypatch.setattr("sys.argv", ["search", "band_power", "--shards", str(shards)])
    assert run_command(main) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and expected in errors[0]


def test_a_calibration_is_a_term_of_the_study_and_none_is_not(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("EEG2FMRI_HOME", str(tmp_path))
    terms = []
    for arguments in ((), ("--calibration", "eeg", "--calibration-minutes", "2.5")):
        monkeypatch.setattr("sys.argv", ["search", "band_power", "--shards", str(shards), *arguments])
        terms.append(study_settings(parse_arguments()).terms("data"))
    assert "calibration" not in terms[0]
    assert terms[1] == {**terms[0], "calibration": "eeg 2.5 min"}


def test_baselines_are_scored_on_the_windows_that_calibration_leaves(shards, tmp_path):
    data = DataSettings(shards=str(shards), cache_folder=str(shards.parent / "cache"))
    fold = leave_one_subject_out(StudyData(data).manifest.subjects, 0)[0]
    calibration = Calibration(how="paired", minutes=2.0)

    def with_garbage_in(volumes: slice) -> Path:
        """Return the study with the sign of some volumes of the test subject's first run changed."""
        is_first = iter([True, False])

        def change(bold_RV: np.ndarray) -> np.ndarray:
            changed = bold_RV.copy()
            changed[volumes] *= -1 if next(is_first) else 1
            return changed

        return with_other_bold(shards, tmp_path / "shards", fold.test, change)

    studies = [shards, with_garbage_in(slice(20, 60))]
    whole, rest = (
        [
            score_baselines(dataclasses.replace(data, shards=str(study)), fold, told)[1]["ridge_band_power"].test
            for study in studies
        ]
        for told in (None, calibration)
    )
    assert whole[0] - whole[1] > 0.05  # without calibration these volumes are scored
    assert rest[0] == rest[1] != whole[0]
