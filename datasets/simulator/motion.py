"""Draw how a simulated head moves during one run: slow drift, spikes, jerks, nods at each button press, and breath.

Takes the level's nuisance, the run's stimuli and its body; gives poses at any time.  A pose maps where tissue lies in
the subject's own T1 (mm) to where it lies at that time.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from datasets.recording import Events
from datasets.simulator.levels import Nuisance
from datasets.simulator.physiology import Physiology
from datasets.simulator.sources import Floats

MOTION_RATE_HZ = 16.0
HEAD_CENTRE_MM = (0.0, -18.0, 10.0)
"""The head turns about this point of the scanner."""
HEAD_RADIUS_MM = 65.0
_JERKS_PER_MINUTE = 0.3
_BREATH_MM = 0.02
_RADIANS_PER_MM = 1 / HEAD_RADIUS_MM


@dataclass(frozen=True, kw_only=True)
class Motion:
    """One run's head motion: ``parameters`` (times, 6), three shifts in mm and three turns in rad, at ``time_s``."""

    time_s: Floats
    parameters: Floats

    def at(self, times_s: Floats) -> Floats:
        """Return the parameters at any times of the run, (times, 6)."""
        return np.stack([np.interp(times_s, self.time_s, course) for course in self.parameters.T], axis=-1)


def draw_motion(
    nuisance: Nuisance, events: Events, body: Physiology, duration_s: float, rng: np.random.Generator
) -> Motion:
    """Draw one run's motion, scaled so that tissue lies ``motion_mm`` from its mean place on average.

    The run as a whole lies half as far from the T1 again.
    """
    time_s = np.arange(0, duration_s + 1, 1 / MOTION_RATE_HZ)
    arousal = nuisance.arousal_on_body * np.interp(time_s, body.time_s, body.arousal)
    moving = _drift(time_s, rng) + _jerks(time_s, rng) + _nods(time_s, events, rng)
    moving += _spikes(time_s, nuisance.spikes_per_minute * np.exp(arousal), rng)
    moving = gaussian_filter1d(moving, 0.12 * MOTION_RATE_HZ, axis=0, mode="nearest")
    moving -= moving.mean(axis=0)
    moving *= nuisance.motion_mm / mean_displacement_mm(moving)
    breath = np.interp(time_s, body.time_s, body.respiration)
    moving[:, 2] += _BREATH_MM * breath
    moving[:, 3] += _BREATH_MM * _RADIANS_PER_MM * breath
    offset = 0.5 * nuisance.motion_mm * rng.normal(0, 1, 6) / np.sqrt(6) * _UNITS
    return Motion(time_s=time_s, parameters=moving + offset)


def poses(parameters: Floats) -> Floats:
    """Return (..., 4, 4) for parameters (..., 6): turn about the head's centre, then shift."""
    flat = parameters.reshape(-1, 6)
    turns = Rotation.from_rotvec(flat[:, 3:]).as_matrix()
    centre = np.array(HEAD_CENTRE_MM)
    result = np.tile(np.eye(4), (len(flat), 1, 1))
    result[:, :3, :3] = turns
    result[:, :3, 3] = centre - turns @ centre + flat[:, :3]
    return result.reshape(*parameters.shape[:-1], 4, 4)


def mean_displacement_mm(parameters: Floats) -> float:
    """Return the mean distance that points of a ball of HEAD_RADIUS_MM's surface are moved by, for (times, 6)."""
    points = HEAD_RADIUS_MM * np.vstack([np.eye(3), -np.eye(3)]) + np.array(HEAD_CENTRE_MM)
    matrices = poses(parameters)
    moved = np.einsum("tij,pj->tpi", matrices[:, :3, :3], points) + matrices[:, None, :3, 3]
    return float(np.linalg.norm(moved - points, axis=2).mean())


_UNITS = np.array([1.0, 1.0, 1.0, _RADIANS_PER_MM, _RADIANS_PER_MM, _RADIANS_PER_MM])
_NODDING = np.array([0.1, 0.3, 1.0, 1.0, 0.2, 0.2])
"""Heads slide along the bore and nod more than they do anything else."""


def _drift(time_s: Floats, rng: np.random.Generator) -> Floats:
    """Return slow wandering of about 1 mm."""
    steps = np.cumsum(rng.normal(0, 1, (len(time_s), 6)), axis=0)
    smooth = gaussian_filter1d(steps, 8 * MOTION_RATE_HZ, axis=0, mode="nearest")
    return _UNITS * (0.4 + _NODDING) * smooth / smooth.std()


def _jerks(time_s: Floats, rng: np.random.Generator) -> Floats:
    """Return sudden changes of place that mostly last."""
    course = np.zeros((len(time_s), 6))
    for onset in _onsets(time_s, np.full(len(time_s), _JERKS_PER_MINUTE), rng):
        since = np.clip(time_s - onset, 0, None)
        step = (since > 0) * (0.6 + 0.4 * np.exp(-since / 10))
        course += step[:, None] * _UNITS * _NODDING * rng.normal(0, 1, 6)
    return course


def _spikes(time_s: Floats, per_minute: Floats, rng: np.random.Generator) -> Floats:
    """Return movements there and back within a second or so."""
    course = np.zeros((len(time_s), 6))
    for onset in _onsets(time_s, per_minute, rng):
        shape = np.exp(-0.5 * ((time_s - onset) / rng.uniform(0.2, 0.7)) ** 2)
        course += shape[:, None] * _UNITS * _NODDING * rng.normal(0, 2.0, 6)
    return course


def _nods(time_s: Floats, events: Events, rng: np.random.Generator) -> Floats:
    """Return a small nod at each button press."""
    course = np.zeros((len(time_s), 6))
    for pressed in (events.onset_s + events.response_time_s)[np.isfinite(events.response_time_s)]:
        shape = np.exp(-0.5 * ((time_s - pressed - 0.3) / 0.4) ** 2)
        course[:, 3] += 0.25 * _RADIANS_PER_MM * rng.uniform(0.5, 1.5) * shape
        course[:, 2] += 0.12 * rng.uniform(0.5, 1.5) * shape
    return course


def _onsets(time_s: Floats, per_minute: Floats, rng: np.random.Generator) -> Floats:
    return time_s[rng.uniform(size=len(time_s)) < per_minute / 60 / MOTION_RATE_HZ]
