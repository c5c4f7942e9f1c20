"""``python -m benchmarks.generalisation``: what a search of each architecture finds for subjects it has never seen.

Takes a simulated level; makes the named study (8 subjects, 2 runs of 170 volumes, EEG at 125 Hz), searches every
architecture on it, and gives a table: scores over leave-one-subject-out folds beside ridge regression, paired over
subjects, and as a share of what the truth says could be had.

The ceiling decodes the simulator's own sources from band power, fitted on the training subjects' true courses, which no
search ever sees, and spreads them over voxels by the group's true maps.  Its penalty is the best of several for each
fold, so that it is, if anything, too high.

Legend of shapes: T windows of a run, P features, S sources, V voxels that weigh in the score.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.table import Row, print_table
from datasets.cluster import connected
from datasets.oddball import TASKS
from datasets.simulator.shards import DEFAULT_EEG_RATE_HZ, group_maps, simulate_shards
from datasets.simulator.study import SimulationSettings, subject_truth_folder
from datasets.simulator.truth import read_run, run_name
from platform.data.folds import Fold, leave_one_subject_out
from platform.data.products import DataSettings, StudyData
from platform.ledger.records import BaselineFolds
from platform.scores.metrics import high_passed, temporal_r
from platform.study.result import StudyResult
from platform.study.run import search
from platform.study.settings import StudySettings
from platform.tracking.runs import TrackingSettings
from platform.training.config import Epochs
from platform.training.job import Workers

ARCHITECTURES = ("band_power", "fully_connected", "convolutional", "transformer")
RIDGE = "ridge_band_power"
SUBJECTS, RUNS, VOLUMES, RATE_HZ = 8, 2, 170, 125
PENALTIES = (1e1, 3e1, 1e2, 3e2, 1e3, 3e3)

Floats = NDArray[np.float32]
Series = dict[str, list[Floats]]


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """What could be had on one fold: on the validation subjects, averaged, and on the test subject."""

    validation: float
    test: float


def main() -> None:
    """Search, and print the table."""
    chosen = _arguments()
    with ExitStack() as stack:
        folder = chosen.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        print_table(measure(folder, chosen))


def measure(folder: Path, chosen: argparse.Namespace) -> list[Row]:
    """Make the study in a folder, where it is not there yet, search it, and return the table's rows."""
    shards = folder / f"{chosen.signal}-{chosen.study_seed}"
    settings = SimulationSettings(
        signal=chosen.signal, subjects=SUBJECTS, runs=RUNS, volumes=VOLUMES, seed=chosen.study_seed
    )
    simulate_shards(shards, settings, 2, DEFAULT_EEG_RATE_HZ)
    data = DataSettings(shards=str(shards), cache_folder=str(folder / "cache"), rate_hz=RATE_HZ)
    rows: list[Row] = []
    with connected("local", chosen.cpus):
        ceilings = _ceilings(StudyData(data), shards)
        for architecture in chosen.architectures:
            result = search(_study(folder, data, architecture, chosen))
            rows += [] if rows else _reference_rows(result.baselines, ceilings, chosen.signal)
            rows += _architecture_rows(architecture, result, ceilings, chosen.signal)
            print_table(rows[-2:])
            sys.stdout.flush()
    return rows


def ceiling(data: StudyData, fold: Fold, truth: Series, maps_SV: Floats) -> Ceiling:
    """Return what decoding the true sources across subjects gives on a fold."""
    weights_V = data.training_weights(fold.training)
    voxels = np.flatnonzero(weights_V)
    features = {subject: data.band_power(subject) for subject in (*fold.training, *fold.validation, fold.test)}
    pairs = [pair for subject in fold.training for pair in zip(features[subject], truth[subject], strict=True)]
    gram_PP = np.sum([features_TP.T @ features_TP for features_TP, _ in pairs], axis=0)
    cross_PS = np.sum([features_TP.T @ courses_TS for features_TP, courses_TS in pairs], axis=0)

    def score(subject: str, decoder_PS: Floats) -> float:
        targets = [data.high_passed(run.targets[:, voxels].astype(np.float32)) for run in data.runs(subject)]
        predictions = [features_TP @ decoder_PS @ maps_SV[:, voxels] for features_TP in features[subject]]
        return temporal_r(predictions, targets, weights_V[voxels], data.manifest.layout.repetition_time_s)

    decoders = [
        np.linalg.solve(gram_PP + penalty * np.eye(len(gram_PP)), cross_PS).astype(np.float32) for penalty in PENALTIES
    ]
    return Ceiling(
        validation=max(statistics.fmean(score(each, decoder) for each in fold.validation) for decoder in decoders),
        test=max(score(fold.test, decoder) for decoder in decoders),
    )


def _ceilings(data: StudyData, shards: Path) -> list[Ceiling]:
    truth = {subject: _visible_courses(data, shards, subject) for subject in data.manifest.subjects}
    folds = leave_one_subject_out(data.manifest.subjects, 0)
    return [ceiling(data, fold, truth, group_maps()) for fold in folds]


def _visible_courses(data: StudyData, shards: Path, subject: str) -> list[Floats]:
    """Return what of each source's BOLD the EEG can see, at the windows' volumes, high-passed, (T, S) per run."""
    layout, folder = data.manifest.layout, subject_truth_folder(shards, int(subject.removeprefix("sub-")))
    task_numbers = {name: number for number, name in TASKS.items()}
    courses = []
    for run in data.runs(subject):
        truth = read_run(folder, run_name(task_numbers[run.task], run.run))
        at_s = layout.repetition_time_s * np.arange(len(run.bold_RV)) + layout.reference_time_s
        visible = np.stack([np.interp(at_s, truth.time_s, course) for course in truth.bold_visible], axis=1)
        fluctuation = high_passed(visible[data.window_volumes :], layout.repetition_time_s)
        courses.append(fluctuation.astype(np.float32))
    return courses


def _study(folder: Path, data: DataSettings, architecture: str, chosen: argparse.Namespace) -> StudySettings:
    databases = {name: f"sqlite:///{folder / name}.db" for name in ("studies", "mlflow")}
    return StudySettings(
        name=f"{architecture} {chosen.signal} {chosen.study_seed}",
        architecture=architecture,
        data=data,
        storage_url=databases["studies"],
        tracking=TrackingSettings(uri=databases["mlflow"], artifacts=(folder / "artifacts").as_uri()),
        workers=Workers(storage=str(folder / "jobs")),
        num_trials=chosen.trials,
        epochs=Epochs(maximum=chosen.max_epochs),
        time_budget_s=60 * chosen.minutes,
        finalist_scores=False,
    )


def _reference_rows(baselines: Mapping[str, BaselineFolds], ceilings: Sequence[Ceiling], signal: str) -> list[Row]:
    rows = [
        _row(signal, f"ceiling, {kind}", [getattr(each, kind) for each in ceilings]) for kind in ("validation", "test")
    ]
    for name in (RIDGE, "events"):
        found = baselines[name]
        rows += [
            _row(signal, f"{name}, validation", list(found.validation.values())),
            _row(signal, f"{name}, test", list(found.test.values())),
        ]
    return rows


def _architecture_rows(architecture: str, result: StudyResult, ceilings: Sequence[Ceiling], signal: str) -> list[Row]:
    if result.winner is None:
        return [Row(benchmark=f"generalisation, {signal}", what=architecture, value="no trial has all folds")]
    ridge, trials = result.baselines[RIDGE], len(result.trials)
    return [
        _compared(signal, f"{architecture}, best of {trials}, {kind}", scores, reference, top)
        for kind, scores, reference, top in (
            ("validation", result.winner.scores, ridge.validation, [each.validation for each in ceilings]),
            ("test", result.test, ridge.test, [each.test for each in ceilings]),
        )
    ]


def _compared(
    signal: str, what: str, scores: Mapping[int, float], ridge: Mapping[int, float], top: Sequence[float]
) -> Row:
    folds = sorted(scores)
    gain = np.array([scores[fold] - ridge[fold] for fold in folds])
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    share = statistics.fmean(scores.values()) / statistics.fmean(top)
    said = f"{share:.2f} of the ceiling; {gain.mean():+.3f} +- {error:.3f} on ridge, above on {(gain > 0).sum()} of"
    return _row(signal, what, [scores[fold] for fold in folds], f"{said} {len(folds)}")


def _row(signal: str, what: str, scores: Sequence[float], ratio: str = "") -> Row:
    return Row(benchmark=f"generalisation, {signal}", what=what, value=f"{statistics.fmean(scores):.3f}", ratio=ratio)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generalisation", description=(__doc__ or "")[:130])
    parser.add_argument("--signal", default="easy", help="level of the simulated study")
    parser.add_argument("--study-seed", type=int, default=1, help="seed of the simulated study")
    parser.add_argument("--folder", type=Path, help="where study and ledger lie; else nothing is kept")
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES, help="what is searched")
    parser.add_argument("--trials", type=int, default=24, help="configurations of each architecture")
    parser.add_argument("--minutes", type=float, default=120.0, help="after which a search starts no fold job")
    parser.add_argument("--max-epochs", type=int, default=10, help="of a fold job")
    parser.add_argument("--cpus", type=int, default=2, help="of the local Ray")
    return parser.parse_args()


if __name__ == "__main__":
    main()
