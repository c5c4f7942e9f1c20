"""What a training is told: a configuration, its data, its fold, and where it runs.

Takes settings; gives a job, its seed, its digest, and its flat configuration as the model's and training's own.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets.storage import open_storage
from platform.data.folds import Fold
from platform.data.products import SHARE, DataSettings
from platform.models import ARCHITECTURES
from platform.training.calibration import Calibration
from platform.training.config import Epochs, TrainingConfig
from platform.training.median_stopping import MedianCurve
from platform.training.snapshots import JobSnapshots


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: a configuration on the training subjects of a fold, or, with no fold, on the subjects given.

    Attributes:
        data: which data, and how it is read.
        architecture, configuration: what is trained; the configuration is flat.
        epochs: how long.
        seed: of the weights, the order of batches and dropout.
        trial: the trial's number.
        fold: the fold to train and score on; None for a refit.
        repeat: how often the trial ran on this fold before, with other seeds.
        subjects: the subjects of a refit.
        calibration: how the scored subjects' first minutes adapt the model; None for not at all.
        stop_after: epochs after which a refit ends, on the schedule of ``epochs``; None for a fold job.
        median: ends the job once its validation scores fall below it; None for never.
        storage: where its snapshots lie, seen by every node; "" for none.
        seconds_between_snapshots: at the least; None for the usual.
    """

    data: DataSettings
    architecture: str
    configuration: Mapping[str, Any]
    epochs: Epochs
    seed: int
    trial: int
    fold: Fold | None = None
    repeat: int = 0
    subjects: tuple[str, ...] = ()
    calibration: Calibration | None = None
    stop_after: int | None = None
    median: MedianCurve | None = None
    storage: str = ""
    seconds_between_snapshots: float | None = None

    @property
    def digest(self) -> str:
        """Hexadecimal; the same for the same training of the same data, wherever its snapshots lie."""
        same = dataclasses.asdict(dataclasses.replace(self, storage="", seconds_between_snapshots=None))
        if self.data.unit != SHARE:
            del same["data"]["shuffle_seed"]  # nothing is shuffled; and earlier versions knew no such seed
        content = json.dumps(same, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    @property
    def training_subjects(self) -> tuple[str, ...]:
        """Who is trained on."""
        return self.fold.training if self.fold else tuple(sorted(self.subjects))


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Where a job runs: how many processes, and what each may use."""

    count: int = 1
    cpus: int = 1
    gpus: float = 0.0
    storage: str = ""


def job_seed(study_seed: int, trial: int, fold: int, repeat: int = 0) -> int:
    """Return the seed of one fold job: the same for the same job of the same study, different for all others."""
    mixed = [study_seed, trial, fold, *([repeat] if repeat else [])]
    return int(np.random.SeedSequence(mixed).generate_state(1)[0])


def split_configuration(architecture: str, configuration: Mapping[str, Any]) -> tuple[Any, TrainingConfig]:
    """Return a flat configuration as the model's and training's own; ValueError where it has a key of neither."""
    model_class = ARCHITECTURES[architecture].config
    names = [{field.name for field in dataclasses.fields(which)} for which in (model_class, TrainingConfig)]
    unknown = set(configuration) - names[0] - names[1]
    if unknown:
        raise ValueError(f"the {architecture} has no {sorted(unknown)}; it has {sorted(names[0] | names[1])}")
    model, training = ({key: configuration[key] for key in configuration if key in known} for known in names)
    return model_class(**model), TrainingConfig(**training)


def snapshots_of(job: Job) -> JobSnapshots | None:
    """Return where a job's snapshots lie; None where it has no storage."""
    if not job.storage:
        return None
    return JobSnapshots(open_storage(job.storage), job.digest, job.seconds_between_snapshots)


def training_config(job: Job) -> TrainingConfig:
    """Return what the job's configuration says of training."""
    return split_configuration(job.architecture, job.configuration)[1]
