"""What a cluster does with a study's data before the first fold job: decode its shards, score its baselines.

Takes a study's data and a subject or a fold; fills this node's cache, or gives the baselines' scores on the same
windows, voxels and subjects as every configuration.  No tracking and no sampler is imported here: each process of a
cluster would wait for them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platform.data.confound_regressors import confound_designs
from platform.data.folds import Fold
from platform.data.products import SHARE, DataSettings, StudyData
from platform.scores.baselines import BASELINES, BaselineRun, BaselineScore, leave_one_run_out_operators, score_baseline
from platform.training.calibration import Calibration, Timing, parts_of

Floats = NDArray[np.float32]

CONFOUNDS_VERSION = 1
MOST_TRAINING_BYTES = 4 * 2**30
"""Of a fold's training volumes in memory; where there are more, every baseline reads them anew."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingRuns:
    """A fold's training runs, made anew, one subject at a time, each time that they are gone through."""

    data: StudyData
    fold: Fold
    voxels: NDArray[np.int64]

    def __iter__(self) -> Iterator[BaselineRun]:
        """Yield the runs in order."""
        for subject in self.fold.training:
            yield from baseline_runs(self.data, subject, self.voxels)

    @property
    def num_bytes(self) -> int:
        """How much memory all of their volumes would take."""
        windows = sum(run.num_windows for run in self.data.runs_of(self.fold.training))
        return windows * len(self.voxels) * np.dtype(np.float32).itemsize

    def kept_if_they_fit(self) -> Iterable[BaselineRun]:
        """Return them all in memory, where that is not too much."""
        return list(self) if self.num_bytes <= MOST_TRAINING_BYTES else self


def decode_subject(settings: DataSettings, subject: str) -> None:
    """Decode a subject's shards into the cache, each compared with the manifest."""
    StudyData(settings).runs(subject)


def score_baselines(
    settings: DataSettings, fold: Fold, calibration: Calibration | None = None
) -> tuple[int, dict[str, BaselineScore]]:
    """Fit every baseline on the fold's training subjects and score it; return the fold's number and the scores.

    With a calibration baselines are scored on the same windows as configurations, and adapt to nothing.
    """
    data = StudyData(settings)
    weights_V = data.training_weights(fold.training)
    voxels = np.flatnonzero(weights_V)
    scored_subjects = (*fold.validation, fold.test)
    training = TrainingRuns(data=data, fold=fold, voxels=voxels).kept_if_they_fit()
    scored = [
        baseline_runs(data, subject, voxels, within_subject=True, calibration=calibration)
        for subject in scored_subjects
    ]
    repetition_time_s = data.manifest.layout.repetition_time_s
    return fold.number, {
        name: score_baseline(name, training, scored, weights_V[voxels], repetition_time_s) for name in BASELINES
    }


def baseline_runs(
    data: StudyData,
    subject: str,
    voxels: NDArray[np.int64],
    *,
    within_subject: bool = False,
    calibration: Calibration | None = None,
) -> list[BaselineRun]:
    """Return a subject's runs as baselines see them; what its other runs tell of each only where that is asked."""
    runs = data.runs(subject)
    volumes = [data.high_passed(run.targets[:, voxels].astype(np.float32), run.at_T) for run in runs]
    within_subject = within_subject and data.settings.unit != SHARE  # a share's other recordings are no one's own
    features, designs = data.band_power(subject), _confound_designs(data, subject)
    nothing = [np.zeros((1, run.num_windows, 0), np.float32) for run in runs]
    operators = _within_subject_operators(data, subject) if within_subject else nothing
    rest = _rest(data, subject, voxels, calibration)

    def of_others(number: int) -> Floats:
        others = [*volumes[:number], *volumes[number + 1 :]] if within_subject else []
        return np.concatenate([volumes[number][:0], *others])

    return [
        BaselineRun(
            volumes_TV=volumes[number],
            events_TP=data.high_passed(data.event_design(run), run.at_T),
            features_TP=features[number],
            confounds=designs[number],
            operators_ATN=operators[number],
            other_volumes_NV=of_others(number),
            at_T=run.at_T,
            **rest[number],
        )
        for number, run in enumerate(runs)
    ]


def _rest(
    data: StudyData, subject: str, voxels: NDArray[np.int64], calibration: Calibration | None
) -> list[dict[str, Any]]:
    """Return, per run of a subject, the windows that calibration leaves to be scored, and their volumes."""
    runs = data.runs(subject)
    if calibration is None:
        return [{} for _ in runs]
    timing = Timing(repetition_time_s=data.manifest.layout.repetition_time_s, window_volumes=data.window_volumes)
    parts = parts_of([len(run.bold_RV) for run in runs], timing, calibration.minutes, calibration.held_back, subject)
    volumes = [run.targets[part.scored][:, voxels].astype(np.float32) for run, part in zip(runs, parts, strict=True)]
    return [
        {"scored": part.scored, "rest_TV": data.high_passed(rest_TV) if len(rest_TV) else rest_TV}
        for part, rest_TV in zip(parts, volumes, strict=True)
    ]


def _confound_designs(data: StudyData, subject: str) -> list[dict[str, Floats]]:
    """Return, per run of a subject, the designs of its windows by group of confounds, high-passed."""
    repetition_time_s = data.manifest.layout.repetition_time_s

    def compute() -> dict[str, Any]:
        found = {}
        for number, run in enumerate(data.runs(subject)):
            designs = confound_designs(data.confounds(run), len(run.bold_RV), repetition_time_s)
            for group, design_RP in designs.items():
                found[f"{number:04d} {group}"] = data.high_passed(run.of_windows(design_RP), run.at_T)
        return found

    designs = data.product("confounds", {"subject": subject, "version": CONFOUNDS_VERSION}, compute)
    of_runs: dict[str, dict[str, Floats]] = {}
    for key in sorted(designs):
        number, group = key.split(" ")
        of_runs.setdefault(number, {})[group] = designs[key]
    return list(of_runs.values())


def _within_subject_operators(data: StudyData, subject: str) -> list[Floats]:
    """Return what turns the volumes of a subject's other runs into a prediction of each run."""

    def compute() -> dict[str, Any]:
        operators = leave_one_run_out_operators(data.band_power(subject))
        return {f"{number:04d}": operator_ATN for number, operator_ATN in enumerate(operators)}

    depends_on = {"subject": subject, "rate_hz": data.settings.rate_hz}
    operators = data.product("within-subject", depends_on, compute)
    return [operators[key] for key in sorted(operators)]
