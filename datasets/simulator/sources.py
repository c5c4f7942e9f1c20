"""Draw what a simulated brain does: where its sources lie, what they do over time, and how subjects differ.

Takes a signal level and seeds; gives sources, a subject's traits, stimuli, and the neural activity of one run.
How strong a level is says ``datasets.simulator.levels``.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve, lfilter

from datasets.recording import Events
from datasets.simulator.levels import SignalLevel
from datasets.simulator.same_bytes import product

Floats = NDArray[np.float64]

ACTIVITY_RATE_HZ = 10.0
BURN_IN_S = 40.0
"""Activity starts this long before the scan, so that the first volume has a haemodynamic past."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One active region: ``position_mm`` in MNI space, ``band`` of its oscillation, ``task`` whose stimuli it answers.

    ``coupling`` is the sign with which activity moves the oscillation's amplitude (alpha falls as BOLD rises);
    ``answers_standards`` is the size of its response to a standard where a target's is 1; ``peak_s`` is the group's
    haemodynamic peak; ``latency_s`` is that of its evoked potential.
    """

    name: str
    position_mm: tuple[float, float, float]
    band: str
    coupling: float
    task: str | None
    answers_standards: float
    peak_s: float
    latency_s: float


def _source(name: str, at: tuple[float, float, float], band: str, task: str | None, *times: float) -> Source:
    peak_s, latency_s, answers_standards = times
    sign = -1.0 if band in ("alpha", "beta") else 1.0
    return Source(
        name=name, position_mm=at, band=band, coupling=sign, task=task,
        answers_standards=answers_standards, peak_s=peak_s, latency_s=latency_s,
    )  # fmt: skip


SOURCES = (
    _source("auditory left", (-54, -22, 10), "theta", "auditory", 4.6, 0.10, 0.3),
    _source("auditory right", (56, -20, 10), "gamma", "auditory", 5.2, 0.10, 0.3),
    _source("visual medial", (2, -86, 6), "alpha", "visual", 5.0, 0.15, 0.3),
    _source("visual left", (-38, -76, -2), "beta", "visual", 5.5, 0.17, 0.3),
    _source("visual right", (38, -74, -2), "gamma", "visual", 5.5, 0.17, 0.3),
    _source("motor left", (-40, -22, 56), "beta", "both", 5.0, 0.45, 0.0),
    _source("motor right", (40, -22, 56), "alpha", None, 5.8, 0.45, 0.0),
    _source("cingulate", (0, 20, 38), "theta", "both", 6.0, 0.30, 0.0),
    _source("insula right", (38, 18, 2), "beta", "both", 7.0, 0.35, 0.0),
    _source("precuneus", (0, -56, 34), "alpha", None, 6.2, 0.35, 0.0),
    _source("parietal left", (-46, -54, 46), "gamma", "both", 7.4, 0.38, 0.0),
    _source("thalamus", (8, -16, 8), "alpha", "both", 4.6, 0.30, 0.0),
)


@dataclass(frozen=True, kw_only=True)
class SubjectTraits:
    """How one subject differs: per source the BOLD gain and haemodynamic peak; alpha peak, EEG scale, head and body.

    ``gain`` has a mean square of 1 over subjects.  ``electrode_shift_mm`` is (3,), the cap's displacement;
    ``orientation`` is (sources, 3), unit vectors.  ``pulse_uv`` is the ballistocardiogram's size and ``pulse_axes``
    (waves, 3) the direction over the head along which each of its waves grows; ``wire_loops`` (6, 3) is the same for
    what the six velocities of head motion induce.
    """

    gain: Floats
    peak_s: Floats
    alpha_hz: float
    eeg_scale: float
    electrode_shift_mm: Floats
    orientation: Floats
    heart_rate_bpm: float
    breathing_hz: float
    pulse_uv: float
    pulse_axes: Floats
    wire_loops: Floats


def draw_traits(level: SignalLevel, rng: np.random.Generator) -> SubjectTraits:
    """Draw one subject's traits around the group's."""
    positions = np.array([source.position_mm for source in SOURCES])
    outward = positions - np.array([0.0, -18.0, 10.0])
    tilt = rng.normal(0, np.deg2rad(level.orientation_sd_deg), positions.shape)
    orientation = outward / np.linalg.norm(outward, axis=1, keepdims=True) + tilt
    return SubjectTraits(
        gain=rng.normal(1, level.gain_sd, len(SOURCES)) / np.hypot(1, level.gain_sd),
        peak_s=np.clip([source.peak_s + rng.normal(0, level.peak_sd_s) for source in SOURCES], 4, 8),
        alpha_hz=float(np.clip(rng.normal(10, 0.7), 8.5, 11.5)),
        eeg_scale=float(np.exp(rng.normal(0, 0.15))),
        electrode_shift_mm=level.electrode_shift_mm * _unit(rng.normal(size=3)),
        orientation=_unit(orientation),
        heart_rate_bpm=float(np.clip(rng.normal(66, 7), 52, 85)),
        breathing_hz=float(np.clip(rng.normal(0.25, 0.03), 0.18, 0.33)),
        pulse_uv=float(rng.uniform(*level.nuisance.pulse_uv)),
        pulse_axes=_unit(np.array([[1.0, 0.2, 0.3], [0.2, 1.0, 0.3], [0.1, 0.3, 1.0]]) + rng.normal(0, 0.4, (3, 3))),
        wire_loops=_unit(rng.normal(size=(6, 3))),
    )


def _unit(vectors: Floats) -> Floats:
    result: Floats = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return result


def draw_events(duration_s: float, rng: np.random.Generator) -> Events:
    """Draw the oddball stimuli of one run: at most 125, every 2-3 s, a fifth targets, the first two standards."""
    onsets = np.round(rng.uniform(4.2, 8.0) + np.cumsum(np.r_[0, rng.uniform(2, 3, 124)]), 3)
    onsets = onsets[onsets < duration_s - 6]
    is_target = np.zeros(len(onsets), dtype=bool)
    is_target[2 + rng.permutation(len(onsets) - 2)[: round(len(onsets) / 5)]] = True
    response_times = np.round(np.clip(rng.normal(0.42, 0.08, len(onsets)), 0.2, 0.9), 3)
    return Events(
        onset_s=onsets,
        duration_s=np.full(len(onsets), 0.2),
        kind=tuple(np.where(is_target, "target", "standard").tolist()),
        response_time_s=np.where(is_target, response_times, np.nan),
    )


@dataclass(frozen=True, kw_only=True)
class Activity:
    """What the sources do in one run, at ACTIVITY_RATE_HZ from BURN_IN_S before the scan; arrays (sources, times).

    Of unit variance: ``amplitude`` moves the oscillations' amplitude, ``burst`` the rate of their bursts, ``phase`` how
    strongly a fast rhythm's amplitude follows a slow one's phase.  ``evoked`` are the responses to stimuli, ``hidden``
    what EEG does not see.  ``response`` is (sources, stimuli), the size of each source's response to each stimulus, in
    the EEG as in the BOLD.
    """

    time_s: Floats
    amplitude: Floats
    burst: Floats
    phase: Floats
    evoked: Floats
    hidden: Floats
    response: Floats
    events: Events


def draw_activity(task: str, duration_s: float, rng: np.random.Generator, *, events: Events | None = None) -> Activity:
    """Draw the activity of all sources in one run of a task; its stimuli, too, unless they are given."""
    stimuli = draw_events(duration_s, rng) if events is None else events
    time_s = np.arange(-BURN_IN_S, duration_s + 1, 1 / ACTIVITY_RATE_HZ)
    response = _responses(task, stimuli, rng)
    amplitude, burst, hidden, phase = (_spontaneous(len(time_s), rng) for _ in range(4))
    return Activity(
        time_s=time_s,
        amplitude=amplitude,
        burst=burst,
        phase=phase,
        evoked=_evoked(time_s, stimuli, response),
        hidden=hidden,
        response=response,
        events=stimuli,
    )


def _spontaneous(num_times: int, rng: np.random.Generator) -> Floats:
    """Return (sources, times) of unit variance, noise with time constants of 5-20 s."""
    return np.array([wandering(num_times, rng.uniform(5, 20) / 2, rng) for _ in SOURCES])


def wandering(num_times: int, decay_s: float, rng: np.random.Generator) -> Floats:
    """Return one course of unit variance at ACTIVITY_RATE_HZ that forgets itself within ``decay_s``."""
    decay = np.exp(-1 / (ACTIVITY_RATE_HZ * decay_s))
    start = [decay * rng.normal()]
    noise = rng.normal(0, np.sqrt(1 - decay**2), num_times)
    course: Floats = lfilter([1.0], [1.0, -decay], noise, zi=start)[0]
    return course


def _responses(task: str, events: Events, rng: np.random.Generator) -> Floats:
    is_target = np.array([kind == "target" for kind in events.kind])
    rows = [np.where(is_target, 1.0, source.answers_standards) * (source.task in (task, "both")) for source in SOURCES]
    variation = np.clip(1 + 0.5 * rng.normal(size=(len(SOURCES), len(events))), 0, None)
    return np.array(rows) * variation


def _evoked(time_s: Floats, events: Events, response: Floats) -> Floats:
    """Return (sources, times): each stimulus is half a second of activity, as large as the response to it."""
    since_onset = time_s[:, None] - events.onset_s[None, :]
    is_on = (since_onset >= 0) & (since_onset < 0.5)
    return product(response, is_on.T.astype(np.float64))


def haemodynamic_response(peak_s: float) -> Floats:
    """Return the response at ACTIVITY_RATE_HZ over 32 s: two gamma densities, the undershoot 10 s after the peak.

    Source: the shape of SPM's canonical response (Friston et al. 1998), its peak moved to ``peak_s``.
    """
    time_s = np.arange(0, 32, 1 / ACTIVITY_RATE_HZ)
    rise = (time_s / peak_s) ** peak_s * np.exp(peak_s - time_s)
    late_s = peak_s + 10
    undershoot = (time_s / late_s) ** late_s * np.exp(late_s - time_s)
    shape: Floats = rise - undershoot / 6
    return shape / shape.sum()


def haemodynamics(activity: Floats, peak_s: Floats) -> Floats:
    """Convolve each row of (sources, times) with the response that peaks at ``peak_s`` of that source."""
    rows = [
        fftconvolve(row, haemodynamic_response(float(peak)))[: activity.shape[1]]
        for row, peak in zip(activity, peak_s, strict=True)
    ]
    return np.array(rows)


def standardised(rows: Floats) -> Floats:
    """Return each row with mean 0 and standard deviation 1; a constant row becomes 0."""
    centred = rows - rows.mean(axis=-1, keepdims=True)
    deviation = centred.std(axis=-1, keepdims=True)
    result: Floats = centred / np.where(deviation > 1e-9, deviation, 1.0)
    return result
