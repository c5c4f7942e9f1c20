"""Where the simulated electrodes lie, and what they see of sources and of what is no brain.

Takes a subject's traits; gives gains (channels, sources) by mne's spherical head, and topographies of artefacts.
"""

from functools import lru_cache

import mne
import numpy as np

from datasets.oddball import CHANNELS, RATE_HZ
from datasets.simulator.sources import SOURCES, Floats

MONTAGE = "colin27_1005"
"""The electrode positions that mne called standard_1005 before its version 1.13."""
_MASTOIDS = ("M1", "M2")
_NUM_BACKGROUND_SOURCES = 120


@lru_cache(maxsize=1)
def electrode_directions() -> Floats:
    """Return the unit vectors (34, 3) from the head's centre to each electrode: right, ahead, up."""
    positions = mne.channels.make_standard_montage(MONTAGE).get_positions()["ch_pos"]
    towards = np.array([positions[name] for name in CHANNELS]) - np.array([0.0, -0.018, 0.01])
    directions: Floats = towards / np.linalg.norm(towards, axis=1, keepdims=True)
    return directions


def topography_towards(direction: tuple[float, float, float], width: float) -> Floats:
    """Return a pattern (34,) that is 1 at the electrode nearest to a direction and falls off with the angle."""
    aim = np.array(direction) / np.linalg.norm(direction)
    pattern = np.exp((electrode_directions() @ aim - 1) / width**2)
    result: Floats = pattern / pattern.max()
    return result


def topography_along(axes: Floats) -> Floats:
    """Return patterns (34, axes) that grow along each of some axes (axes, 3) over the head, 1 at their largest."""
    pattern = electrode_directions() @ axes.T
    result: Floats = pattern / np.abs(pattern).max(axis=0)
    return result


@lru_cache(maxsize=4)
def lead_fields(electrode_shift_mm: tuple[float, ...], orientation: bytes) -> tuple[Floats, Floats]:
    """Return what the electrodes see of the sources, (34, sources), and a mixing of background noise, (34, 34).

    A four-shell sphere (mne) around MNI's brain, reference average mastoids; each source's largest electrode is 1
    before its depth is put back as a mild factor, so that the thalamus is faint but not absent.
    """
    positions_mm = np.array([source.position_mm for source in SOURCES])
    orientations = np.frombuffer(orientation).reshape(-1, 3)
    fields = _forward(positions_mm, orientations, electrode_shift_mm)
    largest = np.abs(fields).max(axis=0)
    fields *= np.sqrt(largest / np.median(largest)) / largest
    noise_rng = np.random.default_rng(20)
    directions = noise_rng.normal(size=(_NUM_BACKGROUND_SOURCES, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    noise = _forward(np.array([0, -18, 10]) + 62 * directions, directions, electrode_shift_mm)
    covariance = noise @ noise.T
    covariance /= np.trace(covariance) / len(covariance)
    mixing: Floats = np.linalg.cholesky(covariance + 1e-3 * np.eye(len(covariance))).astype(np.float64)
    return fields, mixing


def _forward(positions_mm: Floats, orientations: Floats, electrode_shift_mm: tuple[float, ...]) -> Floats:
    """Return the potential at the 34 channels, average-mastoid reference, of unit dipoles (in MNI mm)."""
    names = [*CHANNELS, *_MASTOIDS]
    info = mne.create_info(names, RATE_HZ, "eeg", verbose="error")
    montage = mne.channels.make_standard_montage(MONTAGE).get_positions()["ch_pos"]
    with info._unlock():
        for channel, name in zip(info["chs"], names, strict=True):
            channel["loc"][:3] = montage[name] + np.array(electrode_shift_mm) / 1000
            channel["loc"][3:6] = 0
            channel["coord_frame"] = mne.io.constants.FIFF.FIFFV_COORD_HEAD
    sphere = mne.make_sphere_model((0.0, -0.018, 0.01), 0.095, verbose="error")
    places = {"rr": positions_mm / 1000, "nn": orientations}
    space = mne.setup_volume_source_space(pos=places, sphere_units="m", verbose="error")
    forward = mne.make_forward_solution(info, None, space, sphere, meg=False, mindist=0, verbose="error")
    free = forward["sol"]["data"].reshape(len(names), -1, 3)
    fields = np.einsum("csd,sd->cs", free, orientations)
    referenced: Floats = fields[:-2] - fields[-2:].mean(axis=0)
    return referenced
