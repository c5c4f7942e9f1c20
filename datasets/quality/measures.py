"""Measure how good one run's BOLD is, and in which order its slices were taken.

Takes raw volumes (x, y, z, volumes), a brain mask (x, y, z) and the run's events; gives numbers that JSON holds, for
the subject's record.  What a slice's latency means: every slice is read as if it were taken when its volume starts, so
a slice that is taken s seconds later seems to respond s seconds earlier.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

from datasets.recording import Events

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]

SHIFTS_S: Floats = np.arange(-40, 41) / 10
"""The latencies that are tried, relative to the canonical response (which peaks 5 s after a stimulus)."""
RESPONSE_SECONDS = 32.0
DRIFT_PERIOD_S = 100.0
SMOOTHING_VOXELS = 1.0
"""Standard deviation of the smoothing within a slice; slices are never mixed."""
FEWEST_VOLUMES = 4
FEWEST_STIMULI = 8
FEWEST_VOXELS = 60
FEWEST_SLICES = 6
FEWEST_UNITS = 3
CONFIDENCE = 0.99
SMALLEST_SHARE = 0.5
"""A slope below this share of one sweep of the slices in a repetition time decides nothing."""
LARGEST_SHARE = 2.0
"""Nor does one above this share: slices are taken within a repetition time, so regions or noise made it."""


@dataclass(frozen=True, kw_only=True)
class SliceDirection:
    """In which direction along the image's third axis the slices were taken, as far as the responses tell.

    Attributes:
        verdict: "ascending" (slices of a higher index are taken later), "descending" or "undecided".
        reason: why, in words.
        slope_s, standard_error_s: how much later each slice is taken than the one before it, s; nan where unknown.
        reach_s: half the slope's 99 % interval, s.
    """

    verdict: str
    reason: str
    slope_s: float
    standard_error_s: float
    reach_s: float


def temporal_snr(volumes: Floats32, brain: NDArray[np.bool_]) -> float:
    """Return the median over the brain of a voxel's mean divided by its standard deviation about a quadratic trend.

    nan where no voxel of the brain varies.
    """
    if volumes.shape[3] < FEWEST_VOLUMES:
        return float("nan")
    trend = _orthonormal(np.vander(np.linspace(-1.0, 1.0, volumes.shape[3]), 3))
    ratios = [_ratios(_series(volumes[:, :, index], brain[:, :, index]), trend) for index in range(volumes.shape[2])]
    found = np.concatenate(ratios) if ratios else np.empty(0)
    return float(np.median(found)) if found.size else float("nan")


def _ratios(series: Floats32, trend: Floats) -> Floats32:
    """Return mean over standard deviation about a trend of those series (volumes, voxels) that vary."""
    deviation = _without(trend, series).std(axis=0)
    mean = series.mean(axis=0)
    varies = deviation > np.finfo(np.float32).eps * np.abs(mean)
    return np.asarray(mean[varies] / deviation[varies], dtype=np.float32)


def slice_latency(
    volumes: Floats32, brain: NDArray[np.bool_], events: Events, repetition_time_s: float
) -> dict[str, list[float]] | None:
    """Return when each slice responds to the stimuli: ``slice`` (third axis), ``latency_s``, ``weight``.

    Each slice's latency is that shift of the canonical response which explains most of the slice's series, with an
    amplitude for each voxel and kind of stimulus; ``weight`` is what it explains there beyond an average shift.  Slices
    with few voxels, or whose best shift is the largest tried, are left out.  None where stimuli or slices are too few.
    """
    onsets_s = [events.onsets_of(kind) for kind in sorted(set(events.kind))]
    onsets_s = [each for each in onsets_s if len(each) >= FEWEST_STIMULI]
    num_volumes = volumes.shape[3]
    drift = _drift(num_volumes, repetition_time_s)
    if not onsets_s or num_volumes < 4 * (drift.shape[1] + len(onsets_s)):
        return None
    responses = _responses(onsets_s, num_volumes, repetition_time_s, drift)
    found: dict[str, list[float]] = {"slice": [], "latency_s": [], "weight": []}
    for index in np.flatnonzero(brain.sum(axis=(0, 1)) >= FEWEST_VOXELS):
        explained = _explained(volumes[:, :, index], brain[:, :, index], responses, drift)
        best = int(np.argmax(explained))
        if 0 < best < len(SHIFTS_S) - 1:
            found["slice"].append(int(index))
            found["latency_s"].append(round(_peak(explained, best), 4))
            found["weight"].append(round(float(explained[best] - explained.mean()), 4))
    return found if len(found["slice"]) >= FEWEST_SLICES else None


def slice_direction(
    latencies: Mapping[str, Sequence[Mapping[str, Sequence[float]]]], sweep_s: float | None = None
) -> SliceDirection:
    """Return in which direction slices were taken, from the latencies of all runs by subject.

    The slope is the mean over subjects, or over runs where there are fewer than three subjects.  It decides where its
    99 % interval leaves out zero and where it is half to twice ``sweep_s``: the repetition time divided by the number
    of slices, where that is known.  Regions respond at different times, and slices hold different regions: that part
    of the slope is much the same in every subject, so no number of subjects removes it.
    """
    slopes = {subject: [slope_s(each) for each in runs] for subject, runs in latencies.items() if runs}
    unit, values = "subjects", [float(np.mean(each)) for each in slopes.values()]
    if len(values) < FEWEST_UNITS:
        unit, values = "runs", [slope for each in slopes.values() for slope in each]
    if len(values) < FEWEST_UNITS:
        nan = float("nan")
        reason = f"only {len(values)} {'run shows' if len(values) == 1 else 'runs show'} responses to the stimuli"
        return SliceDirection(verdict="undecided", reason=reason, slope_s=nan, standard_error_s=nan, reach_s=nan)
    slope, error = float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))
    reach = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1)) * error
    verdict, reason = _decided(slope, reach, sweep_s)
    reason = f"{reason} ({len(values)} {unit})"
    return SliceDirection(verdict=verdict, reason=reason, slope_s=slope, standard_error_s=error, reach_s=reach)


def slope_s(latency: Mapping[str, Sequence[float]]) -> float:
    """Return how much later (s) each slice of a run seems to be taken than the one before it."""
    index, late = np.array(latency["slice"], float), np.array(latency["latency_s"], float)
    weight = np.array(latency.get("weight", np.ones(len(index))), float)
    centred = index - np.average(index, weights=weight)
    return float(-np.sum(weight * centred * late) / np.sum(weight * centred**2))


def stated_direction(slice_times_s: Sequence[float] | None) -> str | None:
    """Return "ascending", "descending", "simultaneous" or "interleaved" for the times of slices; None for no times."""
    if slice_times_s is None or len(slice_times_s) < 2:
        return None
    steps = np.diff(np.asarray(slice_times_s, dtype=np.float64))
    if not steps.any():
        return "simultaneous"
    if (steps >= 0).all():
        return "ascending"
    return "descending" if (steps <= 0).all() else "interleaved"


def _decided(slope: float, reach: float, sweep_s: float | None) -> tuple[str, str]:
    if not abs(slope) > reach:
        return "undecided", "the 99 % interval of the slope holds zero"
    if sweep_s is not None and abs(slope) < SMALLEST_SHARE * sweep_s:
        return "undecided", "the slope is less than half of one sweep in a repetition time"
    if sweep_s is not None and abs(slope) > LARGEST_SHARE * sweep_s:
        return "undecided", "the slope is more than two sweeps in a repetition time, which no order of slices gives"
    return ("ascending" if slope > 0 else "descending"), "the 99 % interval of the slope leaves out zero"


def _series(volumes: Floats32, where: NDArray[np.bool_]) -> Floats32:
    """Return the finite series (volumes, voxels) of a mask."""
    series = np.asarray(volumes[where], dtype=np.float32).T
    return series[:, np.isfinite(series).all(axis=0)]


def _orthonormal(columns: Floats) -> Floats:
    return np.asarray(np.linalg.qr(columns)[0], dtype=np.float64)


def _without(basis: Floats, series: Floats32) -> Floats32:
    narrow = basis.astype(np.float32)
    return series - narrow @ (narrow.T @ series)


def _drift(num_volumes: int, repetition_time_s: float) -> Floats:
    """Return an orthonormal basis (volumes, functions) of the constant and all cosines of a period above 100 s."""
    number = np.arange(1 + int(2 * num_volumes * repetition_time_s / DRIFT_PERIOD_S))
    return _orthonormal(np.cos(np.pi * (np.arange(num_volumes) + 0.5)[:, None] * number / num_volumes))


def _responses(onsets_s: Sequence[Floats], num_volumes: int, repetition_time_s: float, drift: Floats) -> Floats32:
    """Return the responses to each kind's stimuli at each shift, orthonormal: (shifts, volumes, kinds)."""
    step_s = SHIFTS_S[1] - SHIFTS_S[0]
    fine_s = np.arange(SHIFTS_S[0], num_volumes * repetition_time_s - SHIFTS_S[0] + step_s, step_s)
    courses = [sum(_canonical(fine_s - onset) for onset in each) for each in onsets_s]
    time_s = np.arange(num_volumes) * repetition_time_s
    found = []
    for shift_s in SHIFTS_S:
        responses = np.stack([np.interp(time_s - shift_s, fine_s, course) for course in courses], axis=1)
        found.append(_orthonormal(responses - drift @ (drift.T @ responses)))
    return np.asarray(found, dtype=np.float32)


def _canonical(seconds: Floats) -> Floats:
    """Return SPM's canonical response to a stimulus at 0: a gamma density that peaks at 5 s and an undershoot."""
    table_s = np.arange(0, RESPONSE_SECONDS, 0.05)
    return np.interp(seconds, table_s, stats.gamma.pdf(table_s, 6) - stats.gamma.pdf(table_s, 16) / 6, 0.0, 0.0)


def _explained(slice_volumes: Floats32, brain: NDArray[np.bool_], responses: Floats32, drift: Floats) -> Floats:
    """Return the variance explained by the responses (shifts, volumes, kinds) at each shift, summed over a slice.

    Each voxel of the slice counts with a variance of 1.
    """
    finite = np.nan_to_num(slice_volumes, posinf=0.0, neginf=0.0)
    smooth = ndimage.gaussian_filter(finite, (SMOOTHING_VOXELS, SMOOTHING_VOXELS, 0.0), output=np.float32)
    series = _without(drift, _series(smooth, brain))
    norm = np.linalg.norm(series, axis=0)
    series = series[:, norm > 0] / norm[norm > 0]
    num_shifts, num_volumes, _ = responses.shape
    amplitudes = responses.transpose(0, 2, 1).reshape(-1, num_volumes) @ series
    squares = np.einsum("rv,rv->r", amplitudes, amplitudes, dtype=np.float64)
    return np.asarray(squares.reshape(num_shifts, -1).sum(axis=1))


def _peak(explained: Floats, best: int) -> float:
    """Return the shift in s at which a parabola through the best of the shifts and its neighbours is highest."""
    before, at, after = explained[best - 1 : best + 2]
    bend = before - 2 * at + after
    step = SHIFTS_S[1] - SHIFTS_S[0]
    return float(SHIFTS_S[best] + (0.0 if bend == 0 else step * 0.5 * (before - after) / bend))
