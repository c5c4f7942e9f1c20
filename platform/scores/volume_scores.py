"""How well predicted volumes follow the true ones, beyond the objective: grey matter, parcels, R2, identification.

Takes predictions and volumes of one run over the whole mask; gives one number per score.  Pure functions of arrays; a
subject's score is the mean over its runs.  A constant prediction scores 0, in identification 0.5, by rule.

Legend of shapes: T volumes of one run, V voxels of the mask, G of them in grey matter, P parcels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from platform.scores.metrics import FloatArray, correlation_from_products, fluctuations, high_passed

NUM_PARCELS = 200
APART_SECONDS = 20.0
CHANCE = 0.5
_ROUNDING = 1e-6
"""Share of a volume's power that rounding may leave of one that is the same everywhere."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class GreyMatter:
    """Where a study's grey matter lies.

    Attributes:
        is_grey_V: which voxels of the mask are grey matter.
        parcels_G: the parcel of each of those, numbered from 0.
    """

    is_grey_V: NDArray[np.bool_]
    parcels_G: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class GreyRun:
    """One run in grey matter: prediction and truth, both high-passed, and the truth's mean over the mask."""

    prediction_TG: FloatArray
    target_TG: FloatArray
    global_T: FloatArray
    parcels_G: NDArray[np.int64]
    repetition_time_s: float


def volume_scores(
    prediction_TV: FloatArray, target_TV: FloatArray, grey: GreyMatter, repetition_time_s: float
) -> dict[str, float]:
    """Return every score of one run; nan where a prediction is no number.

    Neither array need be high-passed: both are here, alike.
    """
    target_TV = high_passed(target_TV, repetition_time_s)
    run = GreyRun(
        prediction_TG=fluctuations(prediction_TV[:, grey.is_grey_V], repetition_time_s),
        target_TG=target_TV[:, grey.is_grey_V],
        global_T=target_TV.mean(axis=1),
        parcels_G=grey.parcels_G,
        repetition_time_s=repetition_time_s,
    )
    if not np.isfinite(run.prediction_TG).all():
        return dict.fromkeys(VOLUME_SCORES, float("nan"))
    return {name: score(run) for name, score in VOLUME_SCORES.items()}


def tissue_scores(
    prediction_TV: FloatArray,
    target_TV: FloatArray,
    tissues: Mapping[str, NDArray[np.bool_]],
    repetition_time_s: float,
) -> dict[str, float]:
    """Return r over time of one run, averaged over each tissue's voxels; nan where a prediction is no number.

    The brain's doing shows in grey matter.  A prediction as good in white matter, beside fluid or in large vessels
    follows breath, heart or head.
    """
    found = {}
    for name, is_in_V in tissues.items():
        predicted = fluctuations(prediction_TV[:, is_in_V], repetition_time_s)
        r_V = _r(predicted, high_passed(target_TV[:, is_in_V], repetition_time_s))
        found[f"temporal_r_{name}"] = float(r_V.mean()) if np.isfinite(predicted).all() else float("nan")
    return found


def temporal_r_grey(run: GreyRun) -> float:
    """Return r over time, averaged over all grey matter."""
    return float(_r(run.prediction_TG, run.target_TG).mean())


def temporal_r_without_global(run: GreyRun) -> float:
    """Return r over time with the global signal removed from the truth, averaged over all grey matter.

    The global signal is the truth's mean over the mask; it is regressed out of every voxel of the truth.  The
    prediction is left alone: cleaning it by the truth's own signal would tell it of the volumes that it must predict.
    So a prediction that holds a global component is the worse for it, and one that holds nothing else scores about 0.
    """
    return float(_r(run.prediction_TG, without(run.target_TG, run.global_T)).mean())


def temporal_r_parcels(run: GreyRun) -> float:
    """Return r over time of the parcels' mean courses, averaged over parcels."""
    return float(
        _r(_parcel_means(run.prediction_TG, run.parcels_G), _parcel_means(run.target_TG, run.parcels_G)).mean()
    )


def r2_subject_mean(run: GreyRun) -> float:
    """Return the share of the grey matter's variance over time that is explained; 0 for the subject's own mean.

    1 - squared error / variance, both summed over voxels: a prediction of the wrong size may well score below 0.
    """
    variance = float(np.square(run.target_TG, dtype=np.float64).sum())
    explained_TG = run.prediction_TG * (2 * run.target_TG - run.prediction_TG)  # what the error is smaller by
    return float(explained_TG.sum(dtype=np.float64)) / variance if variance > 0 else 0.0


def identification(run: GreyRun) -> float:
    """Return how often two volumes more than 20 s apart are told from each other by their predictions; chance is 0.5.

    A pair counts where the right pairing has the higher sum of spatial r, half where both have the same; 0.5 where no
    two volumes are that far apart.
    """
    predicted_TG, true_TG = _spatial_unit(run.prediction_TG), _spatial_unit(run.target_TG)
    similarity_TT = np.asarray(predicted_TG @ true_TG.T, np.float64)
    right_T = np.diag(similarity_TT)
    margin_TT = right_T[:, np.newaxis] + right_T - similarity_TT - similarity_TT.T
    volumes = np.arange(len(margin_TT))
    apart_TT = (volumes - volumes[:, np.newaxis]) * run.repetition_time_s > APART_SECONDS
    margins = margin_TT[apart_TT]
    return float(((margins > 0) + CHANCE * (margins == 0)).mean()) if margins.size else CHANCE


VOLUME_SCORES: dict[str, Callable[[GreyRun], float]] = {
    "temporal_r_grey": temporal_r_grey,
    "temporal_r_grey_without_global": temporal_r_without_global,
    "temporal_r_parcels": temporal_r_parcels,
    "r2_subject_mean": r2_subject_mean,
    "identification": identification,
}


def without(series_TV: FloatArray, course_T: FloatArray) -> FloatArray:
    """Return centred series with a centred course regressed out of each; the series where the course is constant."""
    power = float(course_T @ course_T)
    return (
        series_TV - np.outer(course_T, course_T @ series_TV / power).astype(series_TV.dtype) if power > 0 else series_TV
    )


def parcels(indices_V3: NDArray[np.int64], num_parcels: int = NUM_PARCELS) -> NDArray[np.int64]:
    """Return the parcel of every voxel, numbered from 0, shape (V,): compact boxes of as many voxels each.

    The voxels are cut again and again across the longest side of where they lie; no atlas is needed, and the same
    voxels always give the same parcels.  With fewer voxels than parcels, each voxel is one.
    """
    labels_V = np.zeros(len(indices_V3), np.int64)
    pieces = [(np.arange(len(indices_V3)), min(num_parcels, len(indices_V3)))]
    finished = 0
    while pieces:
        voxels, number = pieces.pop()
        if number <= 1:
            labels_V[voxels] = finished
            finished += 1
            continue
        first, second = _halves(indices_V3, voxels, number)
        pieces += [(second, number - number // 2), (first, number // 2)]
    return labels_V


def _halves(
    indices_V3: NDArray[np.int64], voxels: NDArray[np.int64], number: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut voxels across the longest side of their box, in proportion to the parcels that each part must give."""
    within = indices_V3[voxels]
    sides = np.ptp(within, axis=0)
    longest_first = np.argsort(-sides, kind="stable")
    order = voxels[np.lexsort(within[:, longest_first[::-1]].T)]
    cut = len(voxels) * (number // 2) // number
    return order[:cut], order[cut:]


def _parcel_means(series_TG: FloatArray, parcels_G: NDArray[np.int64]) -> Floats:
    """Return the mean course of each parcel, (T, P)."""
    order = np.argsort(parcels_G, kind="stable")
    starts = np.searchsorted(parcels_G[order], np.arange(parcels_G.max() + 1))
    sums_TP = np.add.reduceat(series_TG[:, order].astype(np.float64), starts, axis=1)
    return np.asarray(sums_TP / np.bincount(parcels_G))


def _r(prediction_TV: FloatArray, target_TV: FloatArray) -> Floats:
    """Return Pearson r over time of centred series, (V,); 0 where one of them is constant."""
    pairs = ((prediction_TV, target_TV), (prediction_TV, prediction_TV), (target_TV, target_TV))
    return correlation_from_products(*(np.einsum("tv,tv->v", one, other, dtype=np.float64) for one, other in pairs))


def _spatial_unit(volumes_TG: FloatArray) -> FloatArray:
    """Return volumes about their mean over space, of length 1; 0 where a volume is the same everywhere."""
    centred_TG = volumes_TG - volumes_TG.mean(axis=1, keepdims=True)
    power_T, whole_T = (np.square(each, dtype=np.float64).sum(axis=1) for each in (centred_TG, volumes_TG))
    length_T = np.where(power_T > _ROUNDING * whole_T, np.sqrt(power_T), np.inf)
    return centred_TG / length_T[:, np.newaxis].astype(volumes_TG.dtype)
