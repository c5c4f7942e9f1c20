"""The figures of a run's quality: tSNR, each slice's latency, and the direction that slices were taken in."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from datasets.quality.measures import slice_direction, slice_latency, slope_s, stated_direction, temporal_snr
from datasets.recording import Events

TR_S = 2.0
SHAPE = (14, 14, 16)
SWEEP_S = TR_S / SHAPE[2]


def make_events(rng, kinds=("standard", "target"), seconds=300.0):
    onset_s = np.cumsum(rng.uniform(2, 3, int(seconds / 2.5)))
    kind = tuple(kinds[0] if rng.random() < 0.8 else kinds[-1] for _ in onset_s)
    return Events(
        onset_s=onset_s, duration_s=np.full(len(onset_s), 0.2), kind=kind, response_time_s=np.full(len(onset_s), np.nan)
    )


def make_volumes(events, slice_times_s, rng, *, num_volumes=160, response=8.0, noise=10.0, peak_s=5.0):
    """Return volumes whose every brain voxel answers targets, each slice at its own time, on drift and noise."""
    onsets_s = events.onsets_of("target")
    volumes = 1000 + noise * rng.standard_normal((*SHAPE, num_volumes))
    for index, taken_s in enumerate(slice_times_s):
        time_s = np.arange(num_volumes) * TR_S + taken_s
        late = time_s[:, None] - onsets_s
        course = stats.gamma.pdf(np.where(late > 0, late, 0), peak_s + 1).sum(axis=1)
        volumes[:, :, index] += response * 5 * course + 0.1 * time_s
    return volumes.astype(np.float32)


def brain_of(shape=SHAPE):
    brain = np.zeros(shape, bool)
    brain[2:-2, 2:-2, 1:-1] = True
    return brain


def latencies_of(slice_times_s, seeds, **settings):
    found = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        events = make_events(rng)
        found.append(slice_latency(make_volumes(events, slice_times_s, rng, **settings), brain_of(), events, TR_S))
    return found


ASCENDING = np.arange(SHAPE[2]) * SWEEP_S


# Temporal signal-to-noise ratio


def test_temporal_snr_is_mean_over_standard_deviation_whatever_the_trend():
    rng = np.random.default_rng(0)
    time = np.linspace(-1, 1, 400)
    volumes = 1000 + 300 * time + 100 * time**2 + 20 * rng.standard_normal((*SHAPE, 400))
    assert temporal_snr(volumes.astype(np.float32), brain_of()) == pytest.approx(1000 / 20, rel=0.05)


def test_temporal_snr_counts_the_brain_only():
    volumes = np.random.default_rng(0).normal(10, 10, (*SHAPE, 50))
    volumes[brain_of()] = volumes[brain_of()] / 10 + 100
    assert temporal_snr(volumes.astype(np.float32), brain_of()) > 50


def test_temporal_snr_leaves_out_voxels_that_are_constant_or_not_finite():
    volumes = np.random.default_rng(0).normal(100, 2, (*SHAPE, 50)).astype(np.float32)
    expected = temporal_snr(volumes, brain_of())
    volumes[5, 5, 5], volumes[6, 6, 6, 3] = 100, np.nan
    assert temporal_snr(volumes, brain_of()) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("brain", [np.zeros(SHAPE, bool), brain_of()])
def test_temporal_snr_is_nan_where_nothing_varies(brain):
    assert math.isnan(temporal_snr(np.ones((*SHAPE, 20), np.float32), brain))


# Latency of each slice


def test_slices_taken_later_seem_to_respond_earlier():
    (found,) = latencies_of(ASCENDING, [1])
    assert slope_s(found) == pytest.approx(SWEEP_S, abs=0.03)
    assert found["slice"] == list(range(1, SHAPE[2] - 1))


def test_the_latency_follows_any_order_of_slices():
    times_s = np.where(np.arange(16) % 2, 1.0, 0.0) + np.arange(16) // 2 * SWEEP_S  # interleaved
    (found,) = latencies_of(times_s, [1])
    shown = np.array(found["latency_s"])
    assert np.corrcoef(shown, times_s[found["slice"]])[0, 1] < -0.95


def test_a_late_response_moves_all_slices_alike():
    (early,), (late,) = latencies_of(ASCENDING, [1], peak_s=5.0), latencies_of(ASCENDING, [1], peak_s=6.0)
    assert np.mean(late["latency_s"]) - np.mean(early["latency_s"]) == pytest.approx(1.0, abs=0.25)
    assert slope_s(late) == pytest.approx(slope_s(early), abs=0.03)


def test_deactivation_has_the_same_latency():
    (found,) = latencies_of(ASCENDING, [1], response=-8.0)
    assert slope_s(found) == pytest.approx(SWEEP_S, abs=0.03)


def test_voxels_that_are_not_finite_do_no_harm():
    rng = np.random.default_rng(1)
    events = make_events(rng)
    volumes = make_volumes(events, ASCENDING, rng)
    volumes[4, 4] = np.nan
    found = slice_latency(volumes, brain_of(), events, TR_S)
    assert slope_s(found) == pytest.approx(SWEEP_S, abs=0.04)


def test_what_is_found_is_plain_enough_for_json():
    (found,) = latencies_of(ASCENDING, [1])
    assert json.loads(json.dumps(found)) == found


def test_too_few_stimuli_give_no_latency():
    rng = np.random.default_rng(1)
    events = make_events(rng, seconds=15)
    assert slice_latency(make_volumes(events, ASCENDING, rng), brain_of(), events, TR_S) is None


def test_too_few_slices_or_volumes_give_no_latency():
    rng = np.random.default_rng(1)
    events = make_events(rng)
    volumes = make_volumes(events, ASCENDING, rng)
    thin = brain_of()
    thin[:, :, 4:] = False
    assert slice_latency(volumes, thin, events, TR_S) is None
    assert slice_latency(volumes[..., :8], brain_of(), events, TR_S) is None


# The direction


def test_subjects_with_ascending_slices_are_found_ascending():
    direction = slice_direction({f"sub-{seed}": latencies_of(ASCENDING, [seed]) for seed in range(4)}, SWEEP_S)
    assert direction.verdict == "ascending"
    assert direction.slope_s == pytest.approx(SWEEP_S, abs=0.03)
    assert 0 < direction.standard_error_s < direction.reach_s < SWEEP_S
    assert "4 subjects" in direction.reason


def test_runs_of_one_subject_with_descending_slices_are_found_descending():
    direction = slice_direction({"sub-01": latencies_of(ASCENDING[::-1], range(4))}, SWEEP_S)
    assert direction.verdict == "descending"
    assert direction.slope_s == pytest.approx(-SWEEP_S, abs=0.03)
    assert "4 runs" in direction.reason


def test_slices_taken_at_once_decide_nothing():
    direction = slice_direction({"sub-01": latencies_of(0 * ASCENDING, range(4))}, SWEEP_S)
    assert direction.verdict == "undecided"


def test_a_response_too_weak_to_see_decides_nothing():
    direction = slice_direction({"sub-01": latencies_of(ASCENDING, range(4), response=0.0)}, SWEEP_S)
    assert direction.verdict == "undecided"


def test_noise_alone_seldom_decides():
    rng = np.random.default_rng(0)
    slices = np.arange(20)
    verdicts = [
        slice_direction({"sub": [{"slice": slices, "latency_s": rng.normal(0, 1, 20)} for _ in range(6)]}).verdict
        for _ in range(400)
    ]
    assert 1 - verdicts.count("undecided") / len(verdicts) < 0.03


def test_a_slope_far_from_one_sweep_decides_nothing():
    rng = np.random.default_rng(0)
    runs = [{"slice": np.arange(20), "latency_s": -0.01 * np.arange(20) + rng.normal(0, 0.001, 20)} for _ in range(6)]
    assert slice_direction({"sub-01": runs}, 0.0625).verdict == "undecided"
    assert slice_direction({"sub-01": runs}, 0.011).verdict == "ascending"
    assert slice_direction({"sub-01": runs}, 0.004).verdict == "undecided"


def test_too_few_runs_are_said_to_be_too_few():
    direction = slice_direction({"sub-01": latencies_of(ASCENDING, [1]), "sub-02": []}, SWEEP_S)
    assert direction.verdict == "undecided"
    assert direction.reason == "only 1 run shows responses to the stimuli"
    assert math.isnan(direction.slope_s)


@pytest.mark.parametrize(
    ("times_s", "stated"),
    [
        (None, None),
        ([0.0, 0.5, 1.0, 1.5], "ascending"),
        ([1.5, 1.0, 0.5, 0.0], "descending"),
        ([0.0, 1.0, 0.5, 1.5], "interleaved"),
        ([0.0, 0.0, 0.0], "simultaneous"),
    ],
)
def test_the_stated_order_is_named(times_s, stated):
    assert stated_direction(times_s) == stated
