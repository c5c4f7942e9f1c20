"""What the heart, the eyes, the muscles and the head's motion may tell about BOLD: regressors by group.

Takes the confound series kept beside a shard, one value per volume; gives a design per group and volume.  A series that
was not recorded, or is no number at a volume, counts as its mean: zero.

Physiology is counted in standard deviations of the run (units and electrodes differ between subjects), motion in mm and
rad.  Slow series act over the 20 s after them, each lag by itself (finite impulse responses); the pulse's phase acts at
once, by its first two harmonics (RETROICOR: Glover et al. 2000), and so do position and movement of the head.

Legend of shapes: R volumes of a run, P columns of a design, L lags.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

LAG_SECONDS = 20.0
MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
_FEWEST_KNOWN = 3

Series = NDArray[np.float64]
Floats = NDArray[np.float32]


def confound_designs(series: Mapping[str, Series], num_volumes: int, repetition_time_s: float) -> dict[str, Floats]:
    """Return the design of every group of confounds, (R, P), in the same columns for every run of a study.

    The groups are ``pulse``, ``eyes_and_muscle``, ``head_motion``, and ``confounds``: all of them side by side.
    """
    num_lags = max(1, round(LAG_SECONDS / repetition_time_s))

    def lagged(name: str, *, in_deviations: bool = True) -> Floats:
        course_R = _centred(series, name, num_volumes)
        return _lagged(_in_deviations(course_R) if in_deviations else course_R, num_lags)

    motion_RP = np.stack([_centred(series, name, num_volumes) for name in MOTION], axis=1)
    designs: dict[str, list[NDArray[Any]]] = {
        "pulse": [lagged("pulse_rate_bpm"), lagged("ecg_power"), _phase_harmonics(series, num_volumes)],
        "eyes_and_muscle": [lagged("eog_power"), lagged("muscle_power")],
        "head_motion": [
            motion_RP,
            np.diff(motion_RP, axis=0, prepend=motion_RP[:1]),
            lagged("framewise_displacement", in_deviations=False),
        ],
    }
    groups = {name: np.concatenate(parts, axis=1).astype(np.float32) for name, parts in designs.items()}
    return {**groups, "confounds": np.concatenate(list(groups.values()), axis=1)}


def _phase_harmonics(series: Mapping[str, Series], num_volumes: int) -> Series:
    """Return cosine and sine of the pulse's phase and of twice it, (R, 4)."""
    cos_R, sin_R = (_known(series, f"pulse_phase_{part}", num_volumes) for part in ("cos", "sin"))
    harmonics_RP = np.stack([cos_R, sin_R, cos_R**2 - sin_R**2, 2 * cos_R * sin_R], axis=1)
    return np.stack([_without_gaps(column_R) for column_R in harmonics_RP.T], axis=1)


def _known(series: Mapping[str, Series], name: str, num_volumes: int) -> Series:
    """Return a series cut to the run's volumes; nan throughout where it was not recorded."""
    return np.asarray(series[name][:num_volumes] if name in series else np.full(num_volumes, np.nan), np.float64)


def _centred(series: Mapping[str, Series], name: str, num_volumes: int) -> Series:
    return _without_gaps(_known(series, name, num_volumes))


def _without_gaps(course_R: Series) -> Series:
    """Return a course about its mean, 0 where it is no number."""
    is_known = np.isfinite(course_R)
    if is_known.sum() < _FEWEST_KNOWN:
        return np.zeros(len(course_R))
    return np.where(is_known, course_R - course_R[is_known].mean(), 0.0)


def _in_deviations(course_R: Series) -> Series:
    deviation = course_R.std()
    return course_R / deviation if deviation > 0 else course_R


def _lagged(course_R: Series, num_lags: int) -> Floats:
    """Return the course 0, 1, ... volumes before, (R, L); 0 before the run's start."""
    padded = np.concatenate([np.zeros(num_lags - 1), course_R])
    return np.lib.stride_tricks.sliding_window_view(padded, num_lags)[:, ::-1].astype(np.float32)
