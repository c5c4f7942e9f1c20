"""Adapt a trained model to a new subject by its first minutes, and score it on the rest of that subject.

Takes what the encoder gives for a subject's windows, what the trained head predicts of it, and the volumes; gives
predictions after calibration and scores on windows that share nothing with it.  Pure functions of arrays.

``eeg`` needs no volumes: each of the encoder's features gets the training subjects' mean and deviation.  ``paired``
needs volumes of the first minutes, too: the head moves from where training left it, in closed form, as far as a ridge
penalty allows.  The penalty is chosen on the validation subjects, each of them by the other's.

Legend of shapes: T windows of a run or of all calibration, D features, V voxels that weigh, R windows scored.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from datasets.errors import BadInput
from platform.scores.metrics import high_passed, temporal_r
from platform.scores.selection import best_position

CURVE_MINUTES = (0.0, 1.0, 2.0, 5.0, 10.0)
MIN_CALIBRATION_MINUTES = 1.0
GAP_SECONDS = 4.0
"""Between the last sample of calibration and the first that is scored: the EEG's high-pass reaches over 3.3 s."""
MIN_SCORED_WINDOWS = 30
"""Fewer are left out where a run is cut: a correlation of one minute says nothing."""
PENALTIES = (1e0, 1e1, 1e2, 1e3)
"""Ridge penalties to choose from, as multiples of a calibration window's mean square; before them, no change at all."""
PRIOR_WINDOWS = 2.0
"""How many windows the training subjects' deviation counts for beside the subject's own."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How a subject's first minutes are used.

    Attributes:
        how: a key of ``CALIBRATIONS``.
        minutes: of recording from the subject's first run on.
        scored_after: minutes after which scoring begins, ``minutes`` or more; None for ``minutes``.
    """

    how: str
    minutes: float
    scored_after: float | None = None

    def __post_init__(self) -> None:
        if self.how not in CALIBRATIONS:
            raise ValueError(f"how must be one of {sorted(CALIBRATIONS)}, but got {self.how!r}")
        if not 0 <= self.minutes <= self.held_back:
            raise ValueError(f"scoring must begin after the {self.minutes:g} minutes of calibration, but got {self}")

    @property
    def held_back(self) -> float:
        """Minutes that are not scored."""
        return self.minutes if self.scored_after is None else self.scored_after

    def __str__(self) -> str:
        return f"{self.how} {self.minutes:g} min"


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds between volumes, and how many volumes a window's EEG spans."""

    repetition_time_s: float
    window_volumes: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """Which of a run's windows calibrate, and which are scored."""

    calibrating: slice
    scored: slice


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Mean and standard deviation of every feature, each (D,)."""

    mean_D: Floats
    deviation_D: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class SubjectArrays:
    """All that calibration and scores need to know of a subject, run by run.

    Attributes:
        features: what the encoder gives for every window, each (T, D).
        volumes: the windows' volumes at the voxels that weigh, not high-passed, each (T, V).
        head: the trained head, from features (T, D) to voxels (T, V).
        training: the features' moments in a training subject; None where only ``eeg`` would need them.
        name: of the subject, for errors.
        predictions: what the trained head makes of the features, each (T, V).
    """

    features: Sequence[Floats]
    volumes: Sequence[Floats]
    head: Callable[[Floats], Floats]
    training: Moments | None = None
    name: str = ""
    predictions: list[Floats] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "predictions", [self.head(features_TD) for features_TD in self.features])


def parts_of(
    num_volumes: Sequence[int], timing: Timing, minutes: float, scored_after: float, subject: str = ""
) -> list[Part]:
    """Return the windows of each run that lie within the first minutes, and those that lie wholly after the others.

    A window lies in the time of the volumes from its first sample to the volume that it predicts.

    Args:
        num_volumes: of each of the subject's runs, in order.
        timing: of volumes and windows.
        minutes: of recording that calibrate.
        scored_after: minutes that are not scored, ``minutes`` or more.
        subject: for errors.

    Raises:
        BadInput: where nothing is left to score.
    """
    calibrating, held_back = (int(60 * each / timing.repetition_time_s + 1e-6) for each in (minutes, scored_after))
    gap, parts, before = math.ceil(GAP_SECONDS / timing.repetition_time_s), [], 0
    for length in num_volumes:
        windows = length - timing.window_volumes
        num_calibrating = max(0, min(calibrating - before, length) - timing.window_volumes)
        first = 0 if held_back <= before else min(windows, held_back - before + gap)
        if first and windows - first < MIN_SCORED_WINDOWS:
            first = windows
        parts.append(Part(calibrating=slice(0, num_calibrating), scored=slice(first, windows)))
        before += length
    if all(part.scored.start == part.scored.stop for part in parts):
        has_minutes = sum(num_volumes) * timing.repetition_time_s / 60
        raise BadInput(
            f"{subject or 'a subject'} has {has_minutes:.1f} minutes: after {scored_after:g} minutes of calibration "
            f"too little is left to score ({MIN_SCORED_WINDOWS} windows of a run, or a whole run); calibrate on fewer "
            "minutes, or prepare more runs"
        )
    return parts


def moments(subjects: Sequence[Sequence[Floats]]) -> Moments:
    """Return the features' moments in a training subject: the mean over subjects of means, and of variances.

    Args:
        subjects: the runs of each subject, each (T, D).
    """
    whole = [np.concatenate(list(runs)) for runs in subjects]
    mean_D = np.mean([features_TD.mean(axis=0) for features_TD in whole], axis=0)
    variance_D = np.mean([features_TD.var(axis=0) for features_TD in whole], axis=0)
    return Moments(mean_D=np.asarray(mean_D, np.float32), deviation_D=np.sqrt(variance_D).astype(np.float32))


def restandardised(
    features_TD: Floats, own: Moments, training: Moments, num_windows: float, prior_windows: float = PRIOR_WINDOWS
) -> Floats:
    """Return features with the training subjects' mean and deviation in place of the subject's own.

    The fewer windows the subject's own moments rest on, the more its variance is drawn to the training subjects'.
    """
    own_variance_D, variance_D = np.square(own.deviation_D), np.square(training.deviation_D)
    variance_of_own_D = (num_windows * own_variance_D + prior_windows * variance_D) / (num_windows + prior_windows)
    scale_D = np.sqrt(np.divide(variance_D, variance_of_own_D, out=np.ones_like(variance_D), where=variance_D > 0))
    return np.asarray((features_TD - own.mean_D) * scale_D + training.mean_D, np.float32)


def ridge_changes(
    features_TD: Floats, residual_TV: Floats, scored_RD: Floats, penalties: Sequence[float]
) -> list[Floats]:
    """Return what each penalty's change of the head adds to predictions, each (R, V).

    The change dW, (D, V), makes |residual - features dW|^2 + penalty |dW|^2 least, the penalty in units of a window's
    mean square; it is never formed, because there are fewer windows than features or voxels.
    """
    gram_TT = features_TD.astype(np.float64) @ features_TD.T
    unit = float(np.trace(gram_TT)) / len(gram_TT) or 1.0
    eigenvalues_T, rotation_TT = np.linalg.eigh(gram_TT)
    rotated_TV = rotation_TT.T.astype(np.float32) @ residual_TV
    cross_RT = (scored_RD.astype(np.float64) @ features_TD.T) @ rotation_TT
    return [
        (cross_RT / (np.maximum(eigenvalues_T, 0) + penalty * unit)).astype(np.float32) @ rotated_TV
        for penalty in penalties
    ]


def candidate_scores(
    subject: SubjectArrays, calibration: Calibration, weights_V: Floats, timing: Timing
) -> list[float]:
    """Return a subject's score after calibration, one for each candidate that validation may choose from.

    Nothing of the scored windows is known to the calibration, nor anything of its windows to the scores.
    """
    num_volumes = [len(volumes_TV) + timing.window_volumes for volumes_TV in subject.volumes]
    parts = parts_of(num_volumes, timing, calibration.minutes, calibration.held_back, subject.name)
    targets = [
        _high_passed(volumes_TV[part.scored], timing) for volumes_TV, part in zip(subject.volumes, parts, strict=True)
    ]
    is_scored = [bool(len(target_RV)) for target_RV in targets]

    def score(predictions: Sequence[Floats]) -> float:
        kept = [each for each, is_kept in zip(predictions, is_scored, strict=True) if is_kept]
        return temporal_r(kept, [each for each in targets if len(each)], weights_V, timing.repetition_time_s)

    return [score(predictions) for predictions in CALIBRATIONS[calibration.how](subject, parts, timing)]


def uncalibrated(subject: SubjectArrays, parts: Sequence[Part], timing: Timing) -> list[list[Floats]]:
    """Predict the scored windows as the trained model does."""
    del timing
    return [[predicted[part.scored] for predicted, part in zip(subject.predictions, parts, strict=True)]]


def by_eeg(subject: SubjectArrays, parts: Sequence[Part], timing: Timing) -> list[list[Floats]]:
    """Predict the scored windows from features re-standardised by those of the first minutes."""
    of_runs = zip(subject.features, parts, strict=True)
    known = [features_TD[part.calibrating] for features_TD, part in of_runs if part.calibrating.stop]
    if not known:
        return uncalibrated(subject, parts, timing)
    # Windows overlap: what they say of a feature's spread is what that many windows side by side would say.
    assert subject.training is not None, "the moments of training subjects are missing"
    num_windows = sum(1 + len(each) / timing.window_volumes for each in known)
    own = moments([known])
    return [
        [
            subject.head(restandardised(features[part.scored], own, subject.training, num_windows))
            if part.scored.stop > part.scored.start
            else predicted[part.scored]
            for features, predicted, part in zip(subject.features, subject.predictions, parts, strict=True)
        ]
    ]


def by_pairs(subject: SubjectArrays, parts: Sequence[Part], timing: Timing) -> list[list[Floats]]:
    """Predict the scored windows without any change of the head, then with the change that each penalty allows."""
    features: list[Floats] = []
    residuals: list[Floats] = []
    for part, features_TD, predicted_TV, volumes_TV in zip(
        parts, subject.features, subject.predictions, subject.volumes, strict=True
    ):
        if part.calibrating.stop:
            features.append(_high_passed(features_TD[part.calibrating], timing))
            residuals.append(_high_passed((volumes_TV - predicted_TV)[part.calibrating], timing))
    (unchanged,) = uncalibrated(subject, parts, timing)
    if not features:
        return [unchanged] * (1 + len(PENALTIES))
    scored_RD = np.concatenate([each[part.scored] for each, part in zip(subject.features, parts, strict=True)])
    changes = ridge_changes(np.concatenate(features), np.concatenate(residuals), scored_RD, PENALTIES)
    ends = np.cumsum([len(each) for each in unchanged])[:-1]
    changed = [
        [each + change for each, change in zip(unchanged, np.split(change_RV, ends), strict=True)]
        for change_RV in changes
    ]
    return [unchanged, *changed]


CALIBRATIONS: dict[str, Callable[[SubjectArrays, Sequence[Part], Timing], list[list[Floats]]]] = {
    "none": uncalibrated,
    "eeg": by_eeg,
    "paired": by_pairs,
}
"""From a subject to predictions of each run's scored windows, one list for each candidate."""


def calibrated_scores(
    subjects: Sequence[SubjectArrays], calibration: Calibration, weights_V: Floats, timing: Timing
) -> tuple[float, float, float]:
    """Return the scores of two validation subjects and of the test subject after calibration.

    Each validation subject's candidate is the one that is best for the other, the test subject's the one that is best
    for both together.
    """
    first, second, test = (candidate_scores(subject, calibration, weights_V, timing) for subject in subjects)
    together = [one + other for one, other in zip(first, second, strict=True)]
    return first[best_position(second)], second[best_position(first)], test[best_position(together)]


def calibration_curve(
    subjects: Sequence[SubjectArrays],
    how: str,
    weights_V: Floats,
    timing: Timing,
    minutes: Sequence[float] = CURVE_MINUTES,
) -> dict[float, tuple[float, float, float]]:
    """Return, by minutes of calibration, the scores of two validation subjects and of the test subject.

    All are scored on the same windows, those after the longest calibration.
    """
    return {
        each: calibrated_scores(
            subjects, Calibration(how=how, minutes=each, scored_after=max(minutes)), weights_V, timing
        )
        for each in minutes
    }


def _high_passed(series: Floats, timing: Timing) -> Floats:
    if not len(series):
        return series
    return np.asarray(high_passed(series, timing.repetition_time_s), np.float32)
