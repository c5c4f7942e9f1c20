"""What the timing of stimuli alone tells about BOLD: finite impulse responses, fitted across subjects.

Takes event tables and high-passed volumes; gives design matrices, their products with the volumes, and the voxels
in which one subject's responses predict another's.  Method: FIR regression (Dale 1999).

Legend of shapes: T volumes of one run, P columns of the design, V voxels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from platform.scores.metrics import correlation_from_products

NUM_LAGS = 10
MOST_KINDS = 16
"""With more kinds (a data set whose every picture is one) all stimuli count as of one kind, ``ANY_KIND``."""
ANY_KIND = "stimulus"
THRESHOLD_ERRORS = 3.0
FEWEST_RESPONSIVE = 0.005
"""Share of grey matter; where events tell nothing, chance alone lets about 0.0013 of it pass the threshold."""
_RIDGE = 1.0
"""A little shrinkage, in events: some runs hold only four targets."""


@dataclass(frozen=True, kw_only=True)
class Events:
    """Stimuli of one run: onsets in seconds from the run's start, and their kinds."""

    onset_s: NDArray[np.float64]
    kind: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class EventProducts:
    """Inner products of one subject's design and volumes, summed over runs: all that FIR regression needs."""

    design_PP: NDArray[np.float32]
    cross_PV: NDArray[np.float32]
    power_V: NDArray[np.float32]


def kinds_in(runs: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Return the kinds of stimuli that the runs of a whole study hold, sorted: every design has these columns."""
    kinds = tuple(sorted({kind for run in runs for kind in run}))
    return kinds if len(kinds) <= MOST_KINDS else (ANY_KIND,)


def fir_design(
    events: Events, kinds: Sequence[str], num_volumes: int, repetition_time_s: float, reference_time_s: float
) -> NDArray[np.float32]:
    """Return one column per kind of stimulus and lag, shape (T, P): stimuli that came that many volumes before.

    The kinds are the whole study's (``kinds_in``), so that the designs of all subjects have the same columns.
    """
    column = {kind: number for number, kind in enumerate(kinds)}
    volume_s = np.arange(num_volumes) * repetition_time_s + reference_time_s
    design_TKL = np.zeros((num_volumes, len(column), NUM_LAGS), np.float32)
    for onset_s, kind in zip(events.onset_s, events.kind, strict=True):
        lag_T = np.floor((volume_s - onset_s) / repetition_time_s).astype(int)
        rows = np.flatnonzero((lag_T >= 0) & (lag_T < NUM_LAGS))
        design_TKL[rows, column[ANY_KIND if tuple(kinds) == (ANY_KIND,) else kind], lag_T[rows]] += 1
    return design_TKL.reshape(num_volumes, -1)


def event_products(designs: Sequence[NDArray[np.float32]], volumes: Sequence[NDArray[np.float32]]) -> EventProducts:
    """Return a subject's products from the high-passed designs (T, P) and volumes (T, V) of its runs."""
    pairs = list(zip(designs, volumes, strict=True))
    return EventProducts(
        design_PP=sum_arrays(design.T @ design for design, _ in pairs),
        cross_PV=sum_arrays(design.T @ volume for design, volume in pairs),
        power_V=sum_arrays(np.einsum("tv,tv->v", volume, volume) for _, volume in pairs),
    )


def fir_responses(subjects: Sequence[EventProducts]) -> NDArray[np.float32]:
    """Return the responses that fit these subjects best, shape (P, V)."""
    design_PP = sum_arrays(subject.design_PP for subject in subjects)
    cross_PV = sum_arrays(subject.cross_PV for subject in subjects)
    return responses_from(design_PP, cross_PV)


def responses_from(design_PP: NDArray[np.float32], cross_PV: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the responses that fit best where the inner products of designs, and with volumes, are these, (P, V)."""
    responses: NDArray[np.float32] = np.linalg.solve(
        design_PP + _RIDGE * np.eye(len(design_PP), dtype=np.float32), cross_PV
    )
    return responses


def predicted_r(responses_PV: NDArray[np.float32], subject: EventProducts) -> NDArray[np.float64]:
    """Return r over time between what the responses predict and a subject's volumes, shape (V,)."""
    product_V = np.einsum("pv,pv->v", responses_PV, subject.cross_PV, dtype=np.float64)
    power_V = np.einsum("pv,pv->v", responses_PV, subject.design_PP @ responses_PV, dtype=np.float64)
    return correlation_from_products(product_V, power_V, subject.power_V.astype(np.float64))


def responsive_weights(subjects: Sequence[EventProducts], grey_matter_V: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return one weight per voxel: how well these subjects' event responses predict each other there.

    The weight is the square of what the mean r over subjects exceeds THRESHOLD_ERRORS standard errors by: most voxels
    respond to nothing, and many small weights would drown the few that do.  The standard error is one for the whole
    map, its squares averaged over voxels: that of two or three subjects at one voxel is itself noise.  Where fewer
    voxels than FEWEST_RESPONSIVE of grey matter are left (a data set without events, a single subject), every
    grey-matter voxel weighs the same.
    """
    everywhere = grey_matter_V.astype(np.float32)
    if len(subjects) < 2 or not grey_matter_V.any():  # noqa: PLR2004
        return everywhere
    r_NV = np.array(
        [
            predicted_r(fir_responses([*subjects[:left_out], *subjects[left_out + 1 :]]), subjects[left_out])
            for left_out in range(len(subjects))
        ]
    )
    error = np.sqrt(r_NV[:, grey_matter_V].var(axis=0, ddof=1).mean() / len(subjects))
    excess_V = np.maximum(r_NV.mean(axis=0) - THRESHOLD_ERRORS * error, 0)
    weights_V = np.square(excess_V).astype(np.float32) * everywhere
    return weights_V if np.count_nonzero(weights_V) >= FEWEST_RESPONSIVE * everywhere.sum() else everywhere


def sum_arrays(arrays: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the sum of arrays of one shape, which an iterator may make one by one: only the sum is kept."""
    remaining = iter(arrays)
    total = next(remaining).copy()
    for array in remaining:
        total += array
    return total
