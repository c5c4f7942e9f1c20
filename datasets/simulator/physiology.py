"""Draw what a simulated body does during one run: heartbeats, breath, blinks, muscle bursts and arousal.

Takes a subject's traits, the level's nuisance and a seed; gives traces at ACTIVITY_RATE_HZ, and what they do to blood.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from datasets.simulator.levels import Nuisance
from datasets.simulator.sources import (
    ACTIVITY_RATE_HZ,
    BURN_IN_S,
    Floats,
    SubjectTraits,
    haemodynamic_response,
    standardised,
    wandering,
)

SECONDS_AFTER_SCAN = 2.0
BLINKS_PER_S = 0.2
MUSCLE_BURSTS_PER_S = 1 / 45
TRANSIENT_S = 4.0
PHASE_COURSES = ("cardiac cosine", "cardiac sine", "breath cosine", "breath sine")
SLOW_COURSES = ("heart rate", "breath depth", "arousal", "transient")
BODY_COURSES = (*PHASE_COURSES, *SLOW_COURSES)
"""What the body adds to BOLD, in the order of ``body_courses``."""
_AROUSAL_DECAY_S = 8.0
_AROUSAL_PEAK_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Physiology:
    """One run's body at ``time_s`` (from BURN_IN_S before the scan); the traces are (times,).

    ``respiration`` is the chest's position, ``breath_depth`` its envelope, both about 1 in size; ``arousal`` moves the
    EEG and the body, ``blood_arousal`` the BOLD, both of unit variance.  ``beats_s`` are R peaks, ``blinks_s`` onsets,
    ``muscle_s`` (bursts, 2) onsets and durations, all in s from the scan's start.
    """

    time_s: Floats
    heart_rate_bpm: Floats
    respiration: Floats
    breath_phase: Floats
    breath_depth: Floats
    arousal: Floats
    blood_arousal: Floats
    transient_percent: float
    beats_s: Floats
    blinks_s: Floats
    muscle_s: Floats


def draw_physiology(
    traits: SubjectTraits, nuisance: Nuisance, duration_s: float, rng: np.random.Generator
) -> Physiology:
    """Draw the body of one run."""
    time_s = np.arange(-BURN_IN_S, duration_s + SECONDS_AFTER_SCAN, 1 / ACTIVITY_RATE_HZ)
    size = len(time_s)
    arousal, own = wandering(size, _AROUSAL_DECAY_S, rng), wandering(size, _AROUSAL_DECAY_S, rng)
    driven = nuisance.arousal_on_body * arousal
    breathing_hz = traits.breathing_hz * np.exp(0.08 * wandering(size, 20, rng) + 0.08 * driven)
    breath_phase = 2 * np.pi * (rng.uniform() + np.cumsum(breathing_hz) / ACTIVITY_RATE_HZ)
    breath_depth = np.exp(0.25 * wandering(size, 10, rng) + 0.3 * driven)
    respiration = breath_depth * np.cos(breath_phase)
    heart_rate_bpm = traits.heart_rate_bpm + 2.5 * wandering(size, 6, rng) + 6 * driven + 2 * respiration
    return Physiology(
        time_s=time_s,
        heart_rate_bpm=heart_rate_bpm,
        respiration=respiration,
        breath_phase=breath_phase,
        breath_depth=breath_depth,
        arousal=arousal,
        blood_arousal=nuisance.arousal_r * arousal + np.sqrt(1 - nuisance.arousal_r**2) * own,
        transient_percent=float(rng.uniform(*nuisance.transient_percent)),
        beats_s=_beats(time_s, heart_rate_bpm, rng),
        blinks_s=_times_at_rate(time_s, BLINKS_PER_S * np.exp(driven), 0.8, rng),
        muscle_s=_muscle_bursts(time_s, driven, rng),
    )


def cardiac_phase(beats_s: Floats, times_s: Floats) -> Floats:
    """Return how far the heart is within its beat at any times, 0 to 2 pi: linear from one R peak to the next."""
    beats = np.interp(times_s, beats_s, np.arange(len(beats_s)))
    result: Floats = 2 * np.pi * np.mod(beats, 1)
    return result


def slow_courses(physiology: Physiology) -> Floats:
    """Return what slow changes do to blood, (SLOW_COURSES, times) of unit variance, the transient 1 at its start.

    Sources: the cardiac response of Chang et al. (2009), the respiratory response of Birn et al. (2008).
    """
    kernel_s = np.arange(0, 40, 1 / ACTIVITY_RATE_HZ)
    cardiac = 0.6 * kernel_s**2.7 * np.exp(-kernel_s / 1.6)
    cardiac -= 16 / np.sqrt(2 * np.pi * 9) * np.exp(-0.5 * (kernel_s - 12) ** 2 / 9)
    breath = 0.6 * kernel_s**2.1 * np.exp(-kernel_s / 1.6) - 0.0023 * kernel_s**3.54 * np.exp(-kernel_s / 4.25)
    driven = (
        (physiology.heart_rate_bpm, cardiac),
        (physiology.breath_depth, breath),
        (physiology.blood_arousal, haemodynamic_response(_AROUSAL_PEAK_S)),
    )
    in_scan = physiology.time_s >= 0
    rows = [fftconvolve(row - row.mean(), kernel)[: len(row)][in_scan] for row, kernel in driven]
    transient = np.exp(-physiology.time_s[in_scan] / TRANSIENT_S)
    return np.vstack([standardised(np.array(rows)), transient])


def body_courses(physiology: Physiology, times_s: Floats) -> Floats:
    """Return BODY_COURSES at any times of the scan, (courses, times), each of unit variance but the transient."""
    heart = cardiac_phase(physiology.beats_s, times_s)
    breath = np.interp(times_s, physiology.time_s, physiology.breath_phase)
    phases = np.sqrt(2) * np.array([np.cos(heart), np.sin(heart), np.cos(breath), np.sin(breath)])
    seconds = physiology.time_s[physiology.time_s >= 0]
    slow = [np.interp(times_s, seconds, course) for course in slow_courses(physiology)]
    return np.vstack([phases, slow])


def _beats(time_s: Floats, heart_rate_bpm: Floats, rng: np.random.Generator) -> Floats:
    """Return when the heart beats: each time that the summed rate passes a whole number, give or take 10 ms."""
    beats = rng.uniform() + np.cumsum(np.clip(heart_rate_bpm, 40, 120)) / 60 / ACTIVITY_RATE_HZ
    numbers = np.arange(np.ceil(beats[0]), np.floor(beats[-1]) + 1)
    times: Floats = np.interp(numbers, beats, time_s) + 0.01 * rng.standard_normal(len(numbers)).clip(-2, 2)
    return times


def _times_at_rate(time_s: Floats, rate_hz: Floats, apart_s: float, rng: np.random.Generator) -> Floats:
    """Return the times of events that come at random at a rate, none sooner after another than ``apart_s``."""
    count = rng.poisson(rate_hz / ACTIVITY_RATE_HZ)
    drawn = np.sort(np.repeat(time_s, count) + rng.uniform(0, 1 / ACTIVITY_RATE_HZ, int(count.sum())))
    kept: list[float] = []
    for time in drawn:
        if not kept or time - kept[-1] >= apart_s:
            kept.append(float(time))
    return np.array(kept)


def _muscle_bursts(time_s: Floats, driven: Floats, rng: np.random.Generator) -> Floats:
    onsets = _times_at_rate(time_s, MUSCLE_BURSTS_PER_S * np.exp(driven), 3.0, rng)
    return np.stack([onsets, rng.uniform(0.4, 2.0, len(onsets))], axis=1)


def samples_in_scan(times_s: Floats, num_samples: int, rate_hz: float) -> NDArray[np.int64]:
    """Return the samples nearest to those times that lie within a run."""
    samples: NDArray[np.int64] = np.rint(times_s * rate_hz).astype(np.int64)
    return samples[(samples >= 0) & (samples < num_samples)]
