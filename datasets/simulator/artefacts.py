"""What is no brain in the simulated EEG: pulse, eyes, muscle, head motion, gradient residue, line; ECG and EOG.

Takes a run's body and head motion; gives rows (terms, samples) in uV with the pattern (34, terms) of each over the
electrodes, so that one product adds them all.
"""

from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

from datasets.oddball import CHANNELS
from datasets.simulator.electrodes import topography_along, topography_towards
from datasets.simulator.levels import Nuisance
from datasets.simulator.motion import HEAD_RADIUS_MM, Motion
from datasets.simulator.physiology import TRANSIENT_S, Physiology, samples_in_scan
from datasets.simulator.sources import Floats, SubjectTraits
from datasets.simulator.waves import Floats32, impulse_response, narrow_noise

PULSE_DELAY_S = 0.2
"""The ballistocardiogram comes this long after the R peak."""
SLICE_HZ = 16.0
"""32 slices in 2 s: the gradients' residue and its harmonics."""
GRADIENT_HARMONICS = 5
RESIDUE_PER_MM = 0.6
LINE_UV, LINE_HZ = 0.8, 60.0
AROUSAL_UV = 15.0
MUSCLE_HZ = (25.0, 110.0)
_R_WAVE_UV, _T_WAVE_UV = 900.0, 200.0


@dataclass(frozen=True, kw_only=True)
class Artefacts:
    """Rows (terms, samples) and their ``patterns`` (34, terms); ``ecg`` (samples,), ``eog`` (2, samples); all in uV."""

    patterns: Floats32
    rows: Floats32
    ecg: Floats32
    eog: Floats32


def draw_artefacts(
    traits: SubjectTraits,
    nuisance: Nuisance,
    body: Physiology,
    motion: Motion,
    num_samples: int,
    rate_hz: float,
    rng: np.random.Generator,
) -> Artefacts:
    """Draw all artefacts of one run."""
    sample_s = np.arange(num_samples) / rate_hz
    blinks, gaze = _blinks(body, num_samples, rate_hz, rng), _gaze(num_samples, rate_hz, rng)
    terms = [
        _pulse(traits, body, num_samples, rate_hz, rng),
        (topography_towards((0, 1, 0.1), 0.45)[:, None], nuisance.blink_uv * blinks[None]),
        (_sideways(), 0.15 * nuisance.blink_uv * gaze[None]),
        _muscle(nuisance, body, num_samples, rate_hz, rng),
        _induced(traits, nuisance, motion, sample_s),
        _gradient_residue(nuisance, motion, sample_s, rng),
        _line(sample_s, rng),
    ]
    if nuisance.arousal_depth > 0:
        terms.append(_arousal(traits, nuisance, body, num_samples, rate_hz, rng))
    horizontal = 60 * gaze + 4 * rng.standard_normal(num_samples, dtype=np.float32)
    vertical = 1.6 * nuisance.blink_uv * blinks + 4 * rng.standard_normal(num_samples, dtype=np.float32)
    return Artefacts(
        patterns=np.hstack([pattern for pattern, _ in terms]).astype(np.float32),
        rows=np.vstack([rows for _, rows in terms]).astype(np.float32),
        ecg=_ecg(body, num_samples, rate_hz, rng),
        eog=np.stack([horizontal, vertical]).astype(np.float32),
    )


def _pulse(
    traits: SubjectTraits, body: Physiology, num_samples: int, rate_hz: float, rng: np.random.Generator
) -> tuple[Floats, Floats32]:
    """Three waves a beat about PULSE_DELAY_S after the R peak, each with its own pattern, growing and shrinking."""
    beats = samples_in_scan(body.beats_s, num_samples, rate_hz)
    breath = np.interp(beats / rate_hz, body.time_s, body.respiration)
    rows = []
    for delay_s, width_s, size in ((0.0, 0.045, 1.0), (0.06, 0.06, 0.7), (0.17, 0.09, 0.5)):
        sizes = size * (1 + 0.15 * breath + 0.12 * rng.standard_normal(len(beats)))
        since_s = np.arange(0, 0.75, 1 / rate_hz) - PULSE_DELAY_S - delay_s
        wave = np.exp(-0.5 * (since_s / width_s) ** 2) * np.cos(2 * np.pi * since_s / (5 * width_s))
        rows.append(traits.pulse_uv * impulse_response(beats, sizes, wave, num_samples))
    return topography_along(traits.pulse_axes), np.array(rows, dtype=np.float32)


def _blinks(body: Physiology, num_samples: int, rate_hz: float, rng: np.random.Generator) -> Floats32:
    onsets = samples_in_scan(body.blinks_s, num_samples, rate_hz)
    since_s = np.arange(0, 0.5, 1 / rate_hz)
    wave = np.exp(-0.5 * ((since_s - 0.15) / np.where(since_s < 0.15, 0.045, 0.075)) ** 2)
    return impulse_response(onsets, rng.uniform(0.7, 1.2, len(onsets)), wave, num_samples)


def _gaze(num_samples: int, rate_hz: float, rng: np.random.Generator) -> Floats32:
    """Return where the eyes look, left or right, about 1 in size: a jump every 2 s, sliding back."""
    jumps = np.where(rng.uniform(size=num_samples) < 0.5 / rate_hz, rng.normal(size=num_samples), 0.0)
    course: Floats32 = lfilter([1.0], [1.0, -np.exp(-1 / (1.5 * rate_hz))], jumps).astype(np.float32)
    return course


def _sideways() -> Floats:
    left, right = topography_towards((-0.6, 0.75, -0.2), 0.4), topography_towards((0.6, 0.75, -0.2), 0.4)
    return (right - left)[:, None]


def _muscle(
    nuisance: Nuisance, body: Physiology, num_samples: int, rate_hz: float, rng: np.random.Generator
) -> tuple[Floats, Floats32]:
    """Bursts of fast noise above the temples, left and right, louder while the run starts if there is a transient."""
    sample_s = np.arange(num_samples) / rate_hz
    envelope = np.full(num_samples, 0.08)
    for onset, lasting in body.muscle_s:
        envelope[(sample_s >= onset) & (sample_s < onset + lasting)] = 1
    envelope += 0.3 * body.transient_percent * np.exp(-sample_s / TRANSIENT_S)
    band = (MUSCLE_HZ[0], min(MUSCLE_HZ[1], 0.45 * rate_hz))
    rows = np.array([nuisance.muscle_uv * envelope * narrow_noise(band, num_samples, rate_hz, rng) for _ in range(2)])
    patterns = [topography_towards((side, 0.25, -0.2), 0.45) for side in (-1, 1)]
    return np.stack(patterns, axis=1), rows.astype(np.float32)


def _induced(traits: SubjectTraits, nuisance: Nuisance, motion: Motion, sample_s: Floats) -> tuple[Floats, Floats32]:
    """What the six velocities induce in the wires, a turn counting as mm at the head's surface."""
    units = np.array([1, 1, 1, HEAD_RADIUS_MM, HEAD_RADIUS_MM, HEAD_RADIUS_MM])
    velocity = np.gradient(motion.parameters * units, motion.time_s, axis=0)
    rows = np.array([np.interp(sample_s, motion.time_s, course) for course in velocity.T])
    return topography_along(traits.wire_loops), (nuisance.motion_uv * rows).astype(np.float32)


def _gradient_residue(
    nuisance: Nuisance, motion: Motion, sample_s: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats32]:
    """SLICE_HZ and its harmonics, larger the further the head has moved since the run began."""
    moved_mm = np.linalg.norm(motion.parameters[:, :3] - motion.parameters[0, :3], axis=1)
    moved_mm += HEAD_RADIUS_MM * np.linalg.norm(motion.parameters[:, 3:] - motion.parameters[0, 3:], axis=1)
    size = nuisance.gradient_uv * (1 + RESIDUE_PER_MM * np.interp(sample_s, motion.time_s, moved_mm))
    rows, patterns = [], []
    for harmonic in range(1, GRADIENT_HARMONICS + 1):
        angle = 2 * np.pi * SLICE_HZ * harmonic * sample_s
        rows += [size / harmonic * np.cos(angle), size / harmonic * np.sin(angle)]
        patterns += [rng.normal(0, 0.6, len(CHANNELS)), rng.normal(0, 0.6, len(CHANNELS))]
    return np.stack(patterns, axis=1), np.array(rows, dtype=np.float32)


def _line(sample_s: Floats, rng: np.random.Generator) -> tuple[Floats, Floats32]:
    line = np.sin(2 * np.pi * LINE_HZ * sample_s + rng.uniform(0, 2 * np.pi))
    return rng.uniform(0.5, 1.5, (len(CHANNELS), 1)), (LINE_UV * line[None]).astype(np.float32)


def _arousal(
    traits: SubjectTraits,
    nuisance: Nuisance,
    body: Physiology,
    num_samples: int,
    rate_hz: float,
    rng: np.random.Generator,
) -> tuple[Floats, Floats32]:
    """A posterior alpha rhythm that no source holds and that falls as arousal rises."""
    sample_s = np.arange(num_samples) / rate_hz
    size = np.exp(-nuisance.arousal_depth * np.interp(sample_s, body.time_s, body.arousal))
    band = (traits.alpha_hz - 1.5, traits.alpha_hz + 1.5)
    row = AROUSAL_UV * size * narrow_noise(band, num_samples, rate_hz, rng)
    return topography_towards((0, -0.8, 0.6), 0.8)[:, None], row[None].astype(np.float32)


def _ecg(body: Physiology, num_samples: int, rate_hz: float, rng: np.random.Generator) -> Floats32:
    """Return an electrocardiogram: P, QRS and T waves of each beat, on breath's slow wander, in noise."""
    before_s = 0.25
    beats = samples_in_scan(body.beats_s - before_s, num_samples, rate_hz)
    since_s = np.arange(0, 0.75, 1 / rate_hz) - before_s
    waves = ((0.12, -0.16, 0.025), (-0.12, -0.025, 0.008), (1.0, 0.0, 0.01), (-0.2, 0.03, 0.01))
    wave = _R_WAVE_UV * sum(size * np.exp(-0.5 * ((since_s - at) / width) ** 2) for size, at, width in waves)
    wave = wave + _T_WAVE_UV * np.exp(-0.5 * ((since_s - 0.26) / 0.045) ** 2)
    ecg = impulse_response(beats, 1 + 0.05 * rng.standard_normal(len(beats)), np.asarray(wave), num_samples)
    ecg += (60 * np.interp(np.arange(num_samples) / rate_hz, body.time_s, body.respiration)).astype(np.float32)
    ecg += 12 * rng.standard_normal(num_samples, dtype=np.float32)
    return ecg
