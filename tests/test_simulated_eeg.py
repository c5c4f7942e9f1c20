"""Simulated EEG shows what sources do, in the ways promised, and what heart, eyes and scanner add."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.signal import butter, hilbert, sosfiltfilt

from datasets.oddball import CHANNELS, TASKS
from datasets.simulator.eeg import FAST_HZ, SLOW_HZ, SimulatedEeg, simulate_eeg
from datasets.simulator.levels import LEVELS
from datasets.simulator.runs import DrawnRun, draw_run
from datasets.simulator.sources import SOURCES, SubjectTraits, draw_events, draw_traits
from datasets.simulator.study import STREAMS

SECONDS = 300


@cache
def drawn_run(
    name: str, task: str = "visual", seconds: float = SECONDS, seed: int = 0
) -> tuple[SubjectTraits, DrawnRun]:
    level = LEVELS[name]
    traits = draw_traits(level, np.random.default_rng([seed, 99]))
    streams = {stream: np.random.default_rng([seed, number]) for number, stream in enumerate(STREAMS)}
    return traits, draw_run(level, traits, task, seconds, streams.__getitem__)


@cache
def simulated(name: str, task: str = "visual", rate_hz: float = 1000.0) -> SimulatedEeg:
    traits, drawn = drawn_run(name, task)
    rng = np.random.default_rng(5)
    return simulate_eeg(
        drawn.activity, traits, LEVELS[name], drawn.body, drawn.motion, int(SECONDS * rate_hz), rng, rate_hz=rate_hz
    )


def mean_wave(eeg: np.ndarray, times_s: np.ndarray, before: int, after: int) -> np.ndarray:
    samples = np.round(times_s * 1000).astype(int)
    inside = samples[(samples > before) & (samples < eeg.shape[1] - after)]
    return np.mean([eeg[:, sample - before : sample + after] for sample in inside], axis=0)


def test_a_target_evokes_a_larger_wave_at_300_ms_than_a_standard() -> None:
    eeg, (_, drawn) = simulated("easy").eeg, drawn_run("easy")
    eeg = eeg - eeg.mean(axis=0)
    size = {}
    for kind in ("target", "standard"):
        wave = mean_wave(eeg, drawn.activity.events.onsets_of(kind), 100, 600)
        size[kind] = np.abs(wave[:, 350:500].mean(axis=1) - wave[:, :100].mean(axis=1)).max()
    assert size["target"] > 2 * size["standard"]


def test_alpha_falls_where_its_source_is_active() -> None:
    traits, drawn = drawn_run("easy", "auditory")
    visual = [source.name for source in SOURCES].index("visual medial")
    oz = simulated("easy", "auditory").eeg[CHANNELS.index("Oz")].reshape(150, 2000)
    spectrum = np.abs(np.fft.rfft(oz * np.hanning(2000), axis=1)) ** 2
    around = round(traits.alpha_hz * 2)
    power = np.log(spectrum[:, around - 3 : around + 4].mean(axis=1))
    seconds = np.interp(np.arange(150) * 2 + 1, drawn.activity.time_s, drawn.activity.amplitude[visual])
    assert np.corrcoef(power, seconds)[0, 1] < -0.3


def test_a_fast_rhythm_s_size_follows_a_slow_one_s_phase_more_when_activity_rises() -> None:
    traits, drawn = drawn_run("easy")
    level = replace(LEVELS["easy"], background_uv=0.01, oscillation_uv=100.0)
    rng = np.random.default_rng(5)
    only = replace(drawn.activity, phase=np.tile(drawn.activity.phase[2], (len(SOURCES), 1)))
    eeg = simulate_eeg(only, traits, level, drawn.body, drawn.motion, SECONDS * 250, rng, rate_hz=250.0)
    oz = eeg.eeg[CHANNELS.index("Oz")]
    slow, fast = (sosfiltfilt(butter(3, band, "bandpass", fs=250, output="sos"), oz) for band in (SLOW_HZ, FAST_HZ))
    power = np.abs(hilbert(fast)) ** 2
    coupling = (power * slow).reshape(60, -1).sum(axis=1) / power.reshape(60, -1).sum(axis=1)
    activity = np.interp(np.arange(60) * 5 + 2.5, only.time_s, only.phase[2])
    high, low = activity > np.median(activity), activity <= np.median(activity)
    assert abs(coupling[high].mean()) > abs(coupling[low].mean())


def test_the_ballistocardiogram_comes_200_ms_after_each_beat_and_is_as_large_as_asked() -> None:
    traits, drawn = drawn_run("realistic")
    eeg = simulated("realistic").eeg
    wave = mean_wave(eeg - eeg.mean(axis=1, keepdims=True), drawn.body.beats_s, 100, 700)
    size = np.abs(wave[:, 100:]).max(axis=1)
    assert 150 <= 100 + np.abs(wave[size.argmax()]).argmax() - 200 <= 300
    assert size.max() == pytest.approx(traits.pulse_uv, rel=0.5)
    assert 30 <= traits.pulse_uv <= 80
    elsewhere = mean_wave(eeg, drawn.body.beats_s[:-1] + np.random.default_rng(0).uniform(0, 1), 100, 700)
    assert np.corrcoef(wave[:, 200:500].ravel(), elsewhere[:, 200:500].ravel())[0, 1] < 0.8


def test_the_ecg_has_its_r_peaks_at_the_beats() -> None:
    _, drawn = drawn_run("realistic")
    ecg = simulated("realistic").ecg
    beats = drawn.body.beats_s[(drawn.body.beats_s > 1) & (drawn.body.beats_s < SECONDS - 1)]
    peaks = [sample - 100 + ecg[sample - 100 : sample + 100].argmax() for sample in (beats * 1000).astype(int)]
    assert np.abs(np.array(peaks) / 1000 - beats).max() < 0.01
    assert 40 < 60 / np.median(np.diff(beats)) < 100
    assert np.std(np.diff(beats)) > 0.02, "the rate varies"


@pytest.mark.parametrize("name", ["easy", "realistic"])
def test_the_gradients_leave_lines_at_16_hz_and_its_harmonics(name: str) -> None:
    eeg = simulated(name).eeg
    power = (np.abs(np.fft.rfft(eeg * np.hanning(eeg.shape[1]), axis=1)) ** 2).mean(axis=0)
    for harmonic in (16, 32, 48):
        line = harmonic * SECONDS
        around = np.r_[power[line - 600 : line - 60], power[line + 60 : line + 600]]
        assert power[line - 2 : line + 3].max() > 5 * np.median(around)


def test_blinks_reach_the_forehead_and_the_vertical_eog() -> None:
    _, drawn = drawn_run("realistic")
    signals = simulated("realistic")
    frontal = mean_wave(signals.eeg, drawn.body.blinks_s, 0, 400)[:, 100:200].mean(axis=1)
    assert frontal[CHANNELS.index("Fp1")] > 5 * abs(frontal[CHANNELS.index("Oz")])
    eog = mean_wave(signals.eog, drawn.body.blinks_s, 0, 400)[:, 100:200].mean(axis=1)
    assert eog[1] > 5 * abs(eog[0])


def test_a_moving_head_induces_what_its_velocity_says() -> None:
    _, drawn = drawn_run("realistic")
    slow = sosfiltfilt(butter(2, 2.0, "lowpass", fs=250, output="sos"), simulated("realistic", rate_hz=250.0).eeg)
    velocity = np.gradient(drawn.motion.parameters, drawn.motion.time_s, axis=0)
    course = np.stack([np.interp(np.arange(slow.shape[1]) / 250, drawn.motion.time_s, one) for one in velocity.T])
    explained = [np.linalg.lstsq(course.T, row, rcond=None)[0] @ course for row in slow]
    assert max(part.var() / row.var() for part, row in zip(explained, slow, strict=True)) > 0.1


@pytest.mark.parametrize("task", TASKS.values())
def test_none_shares_nothing_and_events_shares_the_stimuli_alone(task: str) -> None:
    _, none = drawn_run("none", task)
    _, events = drawn_run("events", task)
    for drawn in (none, events):
        assert drawn.blood_body is not drawn.body
        assert drawn.blood_motion is not drawn.motion
        in_scan = drawn.activity.time_s >= 0
        related = [
            np.corrcoef(one[in_scan][:-60], other[60:])[0, 1]
            for one, other in zip(drawn.activity.amplitude, drawn.neural.visible, strict=True)
        ]
        assert abs(np.mean(related)) < 0.25
    assert evoked_link(events, task) > 0.1 > abs(evoked_link(none, task))


def evoked_link(drawn: DrawnRun, task: str) -> float:
    """Return how the answers to the EEG's stimuli, delayed by 6 s, go with the BOLD, the mean over what answers."""
    in_scan = drawn.activity.time_s >= 0
    related = [
        np.corrcoef(evoked[in_scan][:-60], visible[60:])[0, 1]
        for source, evoked, visible in zip(SOURCES, drawn.activity.evoked, drawn.neural.visible, strict=True)
        if source.task in (task, "both")
    ]
    return float(np.mean(related))


def test_a_trap_links_arousal_heart_and_motion_but_no_source() -> None:
    _, drawn = drawn_run("trap")
    assert drawn.blood_body is drawn.body
    assert drawn.blood_motion is drawn.motion
    assert not np.isin(np.diff(drawn.neural.visible[0])[:50], np.diff(drawn.activity.amplitude[0])).any()
    arousal = [
        np.corrcoef(run.body.arousal, run.body.blood_arousal)[0, 1]
        for run in (drawn_run("trap", seed=seed)[1] for seed in range(8))
    ]
    assert np.mean(arousal) == pytest.approx(LEVELS["trap"].nuisance.arousal_r, abs=0.12)


def test_half_of_the_coupling_is_readable_at_any_rate() -> None:
    slow = simulated("easy", rate_hz=250.0)
    assert slow.eeg.shape == (34, SECONDS * 250)
    assert slow.eeg.std() == pytest.approx(simulated("easy").eeg.std(), rel=0.1)


def test_stimuli_keep_the_study_s_rules() -> None:
    events = draw_events(340, np.random.default_rng(0))
    intervals = np.diff(events.onset_s)
    assert len(events) == 125
    assert events.kind.count("target") == 25
    assert events.kind[:2] == ("standard", "standard")
    assert intervals.min() >= 1.999
    assert intervals.max() <= 3.001
    assert 4.2 <= events.onset_s[0] <= 10.8
