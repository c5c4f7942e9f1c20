"""A simulated BOLD run is the head where it lies, each slice at its own time, with the shares of variance asked for."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from datasets.simulator.anatomy import EPI_SHAPE, Head, draw_head, grid_points
from datasets.simulator.bold import (
    TAYLOR_MM,
    NeuralBold,
    SmoothNoise,
    blobs,
    neural_bold,
    noise_percents,
    noise_variance,
    simulate_bold,
    slice_times_s,
)
from datasets.simulator.levels import LEVELS, SignalLevel
from datasets.simulator.motion import Motion, draw_motion, mean_displacement_mm, poses
from datasets.simulator.physiology import Physiology, draw_physiology
from datasets.simulator.sources import (
    SOURCES,
    draw_activity,
    draw_events,
    draw_traits,
    haemodynamic_response,
)

VOLUMES = 40


@cache
def head_of() -> Head:
    return draw_head(LEVELS["realistic"].nuisance, np.random.default_rng(2))


def body_of(level: SignalLevel, seconds: float, seed: int = 0) -> Physiology:
    rng = np.random.default_rng(seed)
    return draw_physiology(draw_traits(level, rng), level.nuisance, seconds, rng)


def motion_of(level: SignalLevel, seconds: float, seed: int = 0) -> Motion:
    rng = np.random.default_rng(seed)
    return draw_motion(level.nuisance, draw_events(seconds, rng), body_of(level, seconds), seconds, rng)


def still(seconds: float) -> Motion:
    time_s = np.arange(0, seconds + 1, 1.0)
    return Motion(time_s=time_s, parameters=np.zeros((len(time_s), 6)))


def silent(seconds: float) -> NeuralBold:
    time_s = np.arange(0, seconds + 1, 0.1)
    nothing = np.zeros((len(SOURCES), len(time_s)))
    return NeuralBold(time_s=time_s, visible=nothing, hidden=nothing, percent=nothing)


def clean(level: SignalLevel) -> SignalLevel:
    """Return a level nearly without noise."""
    return replace(level, visible_share=level.visible_part * 0.99999)


def series(bold: np.ndarray) -> np.ndarray:
    """Return the head's voxels, (volumes, voxels), in the order of ``EpiVoxels``."""
    return bold.transpose(3, 2, 1, 0).reshape(bold.shape[3], -1)[:, head_of().epi.index].astype(np.float64)


def without_drift(rows: np.ndarray) -> np.ndarray:
    time = np.linspace(-1, 1, len(rows))
    basis = np.linalg.qr(np.stack([np.ones_like(time), time, np.cos(np.pi * time)], axis=1))[0]
    return rows - basis @ (basis.T @ rows)


@pytest.mark.parametrize("name", ["easy", "realistic", "hard"])
def test_the_visible_share_in_responsive_voxels_is_the_levels(name: str) -> None:
    level, volumes = LEVELS[name], 100
    rng = np.random.default_rng(4)
    traits = replace(draw_traits(level, rng), gain=np.ones(len(SOURCES)))
    neural = neural_bold(draw_activity("visual", 2 * volumes, rng), traits, level)
    voxels, body = head_of().epi, body_of(level, 2 * volumes)
    bold = series(simulate_bold(neural, head_of(), still(2 * volumes), body, level, volumes, rng))
    responsive = voxels.is_brain & (blobs(voxels.mni_mm) >= 0.5).any(axis=1)
    percent = without_drift(100 * bold[:, responsive] / bold[:, responsive].mean(axis=0))
    at = 2.0 * np.arange(volumes) + 1
    visible = np.sqrt(level.visible_part) * level.neural_percent * neural.visible
    courses = np.stack([np.interp(at, neural.time_s, course) for course in visible])
    planted = without_drift(courses.T @ blobs(voxels.mni_mm[responsive]).T)
    share = planted.var(axis=0).mean() / percent.var(axis=0).mean()
    assert share == pytest.approx(level.visible_share, rel=0.25)


@pytest.mark.parametrize("name", list(LEVELS))
def test_from_half_to_four_fifths_of_the_neural_signal_is_hidden_and_half_of_the_link_is_no_amplitude(
    name: str,
) -> None:
    level = LEVELS[name]
    assert 0.5 <= 1 - level.visible_part <= 0.8
    assert 0.3 - 1e-9 <= level.amplitude_part <= 0.5


def test_what_is_not_neural_adds_up_to_the_noise_s_budget() -> None:
    for level in LEVELS.values():
        body = level.nuisance.body_share + level.nuisance.arousal_share
        budget = level.neural_percent**2 * noise_variance(level)
        assert sum(np.square(noise_percents(level))) + body * budget == pytest.approx(budget)


def test_the_bold_is_an_image_of_the_sources_at_their_places() -> None:
    level = LEVELS["easy"]
    rng = np.random.default_rng(0)
    neural = neural_bold(draw_activity("auditory", 2 * VOLUMES, rng), draw_traits(level, rng), level)
    body = body_of(level, 2 * VOLUMES)
    bold = simulate_bold(neural, head_of(), still(2 * VOLUMES), body, level, VOLUMES, rng)
    places = head_of().space.epi_points(np.array([source.position_mm for source in SOURCES]))
    inverse = np.linalg.inv(head_of().epi_affine)
    found = []
    for index, voxel in enumerate(np.rint(places @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)):
        planted = neural.at(2.0 * np.arange(VOLUMES) + slice_times_s()[voxel[2]])[index]
        measured = without_drift(bold[tuple(voxel)].astype(np.float64)[:, None])[:, 0]
        found.append(np.corrcoef(planted, measured)[0, 1])
    assert np.mean(found) > 0.5


def test_each_slice_is_taken_at_its_own_time() -> None:
    level = clean(LEVELS["easy"])
    neural = silent(2 * VOLUMES)
    wave = replace(neural, percent=np.tile(5 * np.sin(2 * np.pi * neural.time_s / 20), (len(SOURCES), 1)))
    rng = np.random.default_rng(0)
    bold = series(simulate_bold(wave, head_of(), still(2 * VOLUMES), body_of(level, 80), level, VOLUMES, rng))
    voxels = head_of().epi
    delays = []
    for number in range(10, 25):
        within = slice(voxels.starts[number], voxels.starts[number + 1])
        weight = blobs(voxels.mni_mm[within]).sum(axis=1) * voxels.is_brain[within]
        course = without_drift((bold[:, within] @ weight)[:, None])[:, 0]
        phase = np.angle(course @ np.exp(-2j * np.pi * 2 * np.arange(VOLUMES) / 20))
        delays.append(((phase + np.pi / 2) * 20 / (2 * np.pi) + 10) % 20 - 10)
    np.testing.assert_allclose(delays, slice_times_s()[10:25], atol=0.15)


def test_a_moved_head_shows_the_tissue_where_the_pose_says() -> None:
    level = clean(LEVELS["realistic"])
    motion = still(2 * VOLUMES)
    motion.parameters[:] = [1.5, -2.0, 1.0, 0.02, -0.01, 0.03]
    rng = np.random.default_rng(0)
    bold = simulate_bold(silent(80), head_of(), motion, body_of(level, 80), level, VOLUMES, rng)
    mean = bold.mean(axis=3).transpose(2, 1, 0).ravel()
    back = np.linalg.inv(poses(motion.parameters[0]))
    points = grid_points(EPI_SHAPE, head_of().epi_affine)[head_of().epi.index]
    expected = head_of().epi_at(points @ back[:3, :3].T + back[:3, 3])
    brain = head_of().epi.is_brain
    error = mean[head_of().epi.index][brain] - expected[brain]
    unmoved = mean[head_of().epi.index][brain] - head_of().epi.intensity[brain]
    assert np.sqrt(np.mean(error**2)) < 0.05 * np.sqrt(np.mean(unmoved**2))


def test_slices_of_one_volume_show_the_head_as_it_moves() -> None:
    level = clean(LEVELS["realistic"])
    jump = Motion(time_s=np.array([0.0, 20.99, 21.01, 60.0]), parameters=np.zeros((4, 6)))
    jump.parameters[2:, 1] = 3.0
    rng = np.random.default_rng(0)
    bold = simulate_bold(silent(80), head_of(), jump, body_of(level, 80), level, 24, rng).astype(np.float64)
    change = np.abs(bold[..., 10] - bold[..., 9]).mean(axis=(0, 1))
    assert change[17:28].min() > 5 * change[5:15].max(), "the head jumps in the middle of volume 10"


def test_the_taylor_series_is_as_good_as_the_spline_up_to_where_it_is_used() -> None:
    head, voxels = head_of(), head_of().epi
    step = TAYLOR_MM * np.array([0.5, 0.6, np.sqrt(1 - 0.61)])
    x, y, z = step
    squares = np.array([x * x / 2, y * y / 2, z * z / 2, x * y, x * z, y * z])
    series = voxels.intensity + step @ voxels.slope + squares @ voxels.curvature
    error = (series - head.epi_at(voxels.points_mm + step))[voxels.is_brain]
    assert np.sqrt(np.mean(error**2)) < 0.0005 * voxels.intensity[voxels.is_brain].mean()


@pytest.mark.parametrize("name", ["easy", "realistic", "trap"])
def test_the_head_moves_as_far_as_the_level_says(name: str) -> None:
    nuisance = LEVELS[name].nuisance
    parameters = motion_of(LEVELS[name], 340).parameters
    assert mean_displacement_mm(parameters - parameters.mean(axis=0)) == pytest.approx(nuisance.motion_mm, rel=0.1)


def test_the_head_nods_when_the_button_is_pressed() -> None:
    level, found = LEVELS["realistic"], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        events = draw_events(340, rng)
        motion = draw_motion(replace(level.nuisance, spikes_per_minute=0.0), events, body_of(level, 340), 340, rng)
        pressed = (events.onset_s + events.response_time_s)[np.isfinite(events.response_time_s)]
        nod = motion.at(pressed + 0.3)[:, 3] - (motion.at(pressed - 1)[:, 3] + motion.at(pressed + 1.6)[:, 3]) / 2
        found.append(np.mean(nod))
    assert np.mean(found) > 3 * np.std(found) / np.sqrt(len(found))


def test_a_trap_starts_above_its_mean() -> None:
    level, volumes = LEVELS["trap"], 30
    rng = np.random.default_rng(0)
    body = body_of(level, 2 * volumes)
    bold = series(simulate_bold(silent(60), head_of(), still(60), body, level, volumes, rng))
    course = bold[:, head_of().epi.is_brain].mean(axis=1)
    rise = 100 * (course[0] / course[10:].mean() - 1)
    assert 2 <= body.transient_percent <= 5
    assert rise == pytest.approx(body.transient_percent, abs=1.5)


def test_the_t1_has_skull_and_scalp_around_the_brain() -> None:
    t1, affine = head_of().t1, head_of().t1_affine
    inverse = np.linalg.inv(affine)
    above = head_of().space.scanner_points(np.stack([np.zeros(40), np.full(40, -20.0), np.arange(60, 100)], axis=1))
    voxels = np.rint(above @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    profile = t1[tuple(voxels.T)]
    brain, rest = profile[:12].mean(), profile[12:]
    skull = int(rest[:20].argmin())
    assert brain > 400
    assert rest[skull] < 0.4 * brain
    assert rest[skull:].max() > 500, "the scalp is bright"
    assert rest[-3:].max() < 60, "air"


@pytest.mark.parametrize("peak_s", [4.0, 6.0, 8.0])
def test_the_haemodynamic_response_peaks_where_it_is_told(peak_s: float) -> None:
    assert haemodynamic_response(peak_s).argmax() / 10 == pytest.approx(peak_s, abs=0.2)


def test_responses_peak_from_4_to_8_s_over_regions_and_subjects() -> None:
    peaks = np.array([draw_traits(LEVELS["realistic"], np.random.default_rng(seed)).peak_s for seed in range(40)])
    assert (peaks.min(), peaks.max()) == (pytest.approx(4, abs=0.4), pytest.approx(8, abs=0.4))


@pytest.mark.parametrize(("name", "flips"), [("easy", False), ("hard", True)])
def test_gains_have_unit_mean_square_and_flip_only_where_it_is_hard(name: str, flips: bool) -> None:  # noqa: FBT001
    gains = np.array([draw_traits(LEVELS[name], np.random.default_rng(seed)).gain for seed in range(200)])
    assert np.mean(gains**2) == pytest.approx(1, rel=0.1)
    assert ((gains < 0).mean() > 0.1) == flips


def test_visible_and_hidden_courses_have_unit_variance_and_are_unrelated() -> None:
    rng = np.random.default_rng(0)
    neural = neural_bold(draw_activity("visual", 340, rng), draw_traits(LEVELS["easy"], rng), LEVELS["easy"])
    np.testing.assert_allclose(neural.hidden.std(axis=1), 1)
    np.testing.assert_allclose(neural.visible.std(axis=1), 1, atol=0.25)
    related = [np.corrcoef(one, other)[0, 1] for one, other in zip(neural.visible, neural.hidden, strict=True)]
    assert abs(np.mean(related)) < 0.15


def test_smooth_noise_has_unit_variance_its_width_and_its_memory() -> None:
    shape = (40, 36, 20)
    voxels = np.indices(shape).reshape(3, -1).T
    noise = SmoothNoise(voxels, shape, (3.0, 3.0, 4.0), 8.0, np.random.default_rng(0))
    volumes = np.array([noise.next().reshape(shape) for _ in range(60)])
    assert volumes.std() == pytest.approx(1, rel=0.03)
    assert (volumes[1:] * volumes[:-1]).mean() == pytest.approx(0.4, abs=0.03)
    for apart_mm, related in (
        (6.0, (volumes[:, 2:] * volumes[:, :-2]).mean()),
        (6.0, (volumes[:, :, 2:] * volumes[:, :, :-2]).mean()),
        (8.0, (volumes[..., 2:] * volumes[..., :-2]).mean()),
    ):
        assert related == pytest.approx(np.exp(-(apart_mm**2) / 4 / (8 / 2.355) ** 2), abs=0.06)
