"""Draw what a simulated brain does: where its sources lie, what they do over time, and how subjects differ.

Takes a signal level and seeds; gives sources, a subject's traits, stimuli, and the neural activity of one run.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve, lfilter

from datasets.recording import Events

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
    _source("auditory left", (-54, -22, 10), "theta", "auditory", 5.0, 0.10, 0.3),
    _source("auditory right", (56, -20, 10), "gamma", "auditory", 5.2, 0.10, 0.3),
    _source("visual medial", (2, -86, 6), "alpha", "visual", 5.0, 0.15, 0.3),
    _source("visual left", (-38, -76, -2), "beta", "visual", 5.5, 0.17, 0.3),
    _source("visual right", (38, -74, -2), "gamma", "visual", 5.5, 0.17, 0.3),
    _source("motor left", (-40, -22, 56), "beta", "both", 5.0, 0.45, 0.0),
    _source("motor right", (40, -22, 56), "alpha", None, 5.8, 0.45, 0.0),
    _source("cingulate", (0, 20, 38), "theta", "both", 6.0, 0.30, 0.0),
    _source("insula right", (38, 18, 2), "beta", "both", 6.5, 0.35, 0.0),
    _source("precuneus", (0, -56, 34), "alpha", None, 6.2, 0.35, 0.0),
    _source("parietal left", (-46, -54, 46), "gamma", "both", 6.8, 0.38, 0.0),
    _source("thalamus", (8, -16, 8), "alpha", "both", 5.4, 0.30, 0.0),
)


@dataclass(frozen=True, kw_only=True)
class SignalLevel:
    """How strongly EEG and BOLD are linked, and how much subjects differ.

    ``visible_share`` is the share of the variance of responsive voxels (drift apart) that follows activity which EEG
    reflects; ``visible_part`` that share among the neural variance alone.  ``is_coupled`` False gives the BOLD an
    activity and stimuli of its own.  Later levels (realistic, hard) and controls (trap, events) are further entries
    of ``LEVELS``.
    """

    is_coupled: bool = True
    visible_share: float
    visible_part: float
    evoked_part: float
    amplitude_depth: float
    burst_depth: float
    oscillation_uv: float
    background_uv: float
    gain_sd: float
    electrode_shift_mm: float
    orientation_sd_deg: float

    def __post_init__(self) -> None:
        if not 0 < self.visible_share < self.visible_part < 1:
            raise ValueError(f"must hold: 0 < visible_share < visible_part < 1, but got {self}")


def _easy(*, is_coupled: bool) -> SignalLevel:
    return SignalLevel(
        is_coupled=is_coupled,
        visible_share=0.20,
        visible_part=0.40,
        evoked_part=0.15,
        amplitude_depth=0.45,
        burst_depth=0.7,
        oscillation_uv=11.0,
        background_uv=18.0,
        gain_sd=0.3,
        electrode_shift_mm=2.0,
        orientation_sd_deg=10.0,
    )


LEVELS = {"easy": _easy(is_coupled=True), "none": _easy(is_coupled=False)}


@dataclass(frozen=True, kw_only=True)
class SubjectTraits:
    """How one subject differs: per source the BOLD gain and haemodynamic peak; alpha peak, EEG scale, and the head.

    ``electrode_shift_mm`` is (3,), the cap's displacement; ``orientation`` is (sources, 3), unit vectors.
    """

    gain: Floats
    peak_s: Floats
    alpha_hz: float
    eeg_scale: float
    electrode_shift_mm: Floats
    orientation: Floats


def draw_traits(level: SignalLevel, rng: np.random.Generator) -> SubjectTraits:
    """Draw one subject's traits around the group's."""
    positions = np.array([source.position_mm for source in SOURCES])
    outward = positions - np.array([0.0, -18.0, 10.0])
    tilt = rng.normal(0, np.deg2rad(level.orientation_sd_deg), positions.shape)
    orientation = outward / np.linalg.norm(outward, axis=1, keepdims=True) + tilt
    direction = rng.normal(size=3)
    return SubjectTraits(
        gain=rng.normal(1, level.gain_sd, len(SOURCES)),
        peak_s=np.clip([source.peak_s + rng.normal(0, 0.5) for source in SOURCES], 4, 8),
        alpha_hz=float(np.clip(rng.normal(10, 0.7), 8.5, 11.5)),
        eeg_scale=float(np.exp(rng.normal(0, 0.15))),
        electrode_shift_mm=level.electrode_shift_mm * direction / np.linalg.norm(direction),
        orientation=orientation / np.linalg.norm(orientation, axis=1, keepdims=True),
    )


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

    ``amplitude`` moves the oscillations' amplitude, ``burst`` the rate of their bursts, both of unit variance;
    ``evoked`` are the responses to stimuli, ``hidden`` what EEG does not see.  ``response`` is (sources, stimuli), the
    size of each source's response to each stimulus, in the EEG as in the BOLD.
    """

    time_s: Floats
    amplitude: Floats
    burst: Floats
    evoked: Floats
    hidden: Floats
    response: Floats
    events: Events


def draw_activity(task: str, duration_s: float, rng: np.random.Generator) -> Activity:
    """Draw the activity of all sources in one run of a task, with stimuli of its own."""
    events = draw_events(duration_s, rng)
    time_s = np.arange(-BURN_IN_S, duration_s + 1, 1 / ACTIVITY_RATE_HZ)
    response = _responses(task, events, rng)
    return Activity(
        time_s=time_s,
        amplitude=_spontaneous(len(time_s), rng),
        burst=_spontaneous(len(time_s), rng),
        evoked=_evoked(time_s, events, response),
        hidden=_spontaneous(len(time_s), rng),
        response=response,
        events=events,
    )


def _spontaneous(num_times: int, rng: np.random.Generator) -> Floats:
    """Return (sources, times) of unit variance, noise with time constants of 5-20 s."""
    rows = []
    for _ in SOURCES:
        decay = np.exp(-1 / (ACTIVITY_RATE_HZ * rng.uniform(5, 20) / 2))
        start = [decay * rng.normal()]
        noise = rng.normal(0, np.sqrt(1 - decay**2), num_times)
        rows.append(lfilter([1.0], [1.0, -decay], noise, zi=start)[0])
    return np.array(rows)


def _responses(task: str, events: Events, rng: np.random.Generator) -> Floats:
    is_target = np.array([kind == "target" for kind in events.kind])
    rows = [np.where(is_target, 1.0, source.answers_standards) * (source.task in (task, "both")) for source in SOURCES]
    variation = np.clip(1 + 0.5 * rng.normal(size=(len(SOURCES), len(events))), 0, None)
    return np.array(rows) * variation


def _evoked(time_s: Floats, events: Events, response: Floats) -> Floats:
    """Return (sources, times): each stimulus is half a second of activity, as large as the response to it."""
    since_onset = time_s[:, None] - events.onset_s[None, :]
    is_on = (since_onset >= 0) & (since_onset < 0.5)
    result: Floats = response @ is_on.T.astype(np.float64)
    return result


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
