"""What a job trains: its model with fresh weights, what that sees of windows, and what it is to predict.

Takes a job and the study's data; the data of a study is opened once in a process.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from platform.data.flipped_data import FlippedData
from platform.data.products import DataSettings, StudyData, TrainingProducts, rank_limited
from platform.data.training_set import Inputs, cached_features
from platform.models import ARCHITECTURES
from platform.models.blocks import EncodedModel
from platform.models.ensemble import Ensemble, learned_from
from platform.models.subject_layers import SubjectMixing, SubjectScale, WithSubjectLayer
from platform.models.subjects import remember_subjects
from platform.prediction.alignment import log_covariance, similarity_weights
from platform.training.job import Job, split_configuration, training_config

MOST_READ_BYTES = 256 * 2**20
"""Of all runs' reading in memory; where there is more, every batch is read anew from its EEG."""


@functools.lru_cache(maxsize=1)
def open_data(settings: DataSettings) -> StudyData:
    """Open a study's data once in this process: an actor that is reused for many jobs keeps it."""
    return FlippedData(settings) if settings.flipped else StudyData(settings)


def build_model(job: Job, data: StudyData, products: TrainingProducts) -> tuple[nn.Module, Tensor | None]:
    """Return the job's model with fresh weights, and the basis of its output, (K, V), where it has one."""
    model_config, training_config = split_configuration(job.architecture, job.configuration)
    shape = data.model_shape(products.patterns_KV if training_config.output_rank else None)
    trained_on = subjects_trained_on(job, data)
    num_members = min(training_config.num_members, len(trained_on))

    def build() -> nn.Module:
        model = ARCHITECTURES[job.architecture].build(model_config, shape)
        remember_subjects(model, len(trained_on))
        return _with_subject_layer(model, job, data) if training_config.subject_layers else model

    torch.manual_seed(job.seed)
    if num_members == 1:
        return build(), shape.basis
    members = [build() for _ in range(num_members)]
    return Ensemble(members, _member_weights(job, data, num_members)), shape.basis


def _with_subject_layer(model: nn.Module, job: Job, data: StudyData) -> WithSubjectLayer:
    assert isinstance(model, EncodedModel)
    num_subjects = len(subjects_trained_on(job, data))
    if (features := job_features(job, data)) is None:
        return WithSubjectLayer(SubjectMixing(num_subjects, len(data.manifest.layout.channel_names)), model)
    shape = data.model_shape(None)
    with torch.inference_mode():
        num_features = features(torch.zeros(1, shape.num_channels, shape.num_samples)).shape[1]
    return WithSubjectLayer(SubjectScale(num_subjects, num_features), model)


def subjects_trained_on(job: Job, data: StudyData) -> list[str]:
    """Return the training subjects that have windows, as a training set numbers them."""
    return [subject for subject in job.training_subjects if data.runs(subject)]


def _member_weights(job: Job, data: StudyData, num_members: int) -> dict[str, Tensor]:
    """Return how much each member counts for the subjects that a fold is scored on, by how their EEG covaries."""
    if job.fold is None:
        return {}
    trained_on = subjects_trained_on(job, data)
    known, scored = (
        {subject: log_covariance(data.mean_covariance(subject, "euclidean")) for subject in subjects}
        for subjects in (trained_on, (*job.fold.validation, job.fold.test))
    )
    learned_from_MP = learned_from(num_members, len(trained_on)).numpy()
    return {
        subject: torch.from_numpy(similarity_weights(own_CC, np.stack(list(known.values())), learned_from_MP))
        for subject, own_CC in scored.items()
    }


def job_inputs(job: Job, data: StudyData) -> Inputs:
    """Return what the job's model sees of windows: their EEG, or what this node keeps of it: features or a reading."""
    alignment = training_config(job).alignment
    seen = job.training_subjects if job.fold is None else (*job.fold.training, *job.fold.validation, job.fold.test)
    trained_on = subjects_trained_on(job, data)
    if (computed := _computed_before(job, data)) is None:
        return data.eeg_inputs(seen, alignment, trained_on)
    name, compute = computed
    return cached_features(
        pair
        for subject in seen
        for pair in zip(
            data.runs(subject), data.window_features(subject, name, compute, alignment, trained_on), strict=True
        )
    )


def _computed_before(job: Job, data: StudyData) -> tuple[str, Callable[[torch.Tensor], torch.Tensor]] | None:
    """Return the name of what can be computed of windows before training, and what computes it; None where EEG is seen.

    A reading does for EEG where nothing changes the EEG before it is read, and where all runs' fits into memory.
    """
    if (features := job_features(job, data)) is not None:
        return job.architecture, features
    model_config, training_config = split_configuration(job.architecture, job.configuration)
    shape = data.model_shape(None)
    reading = ARCHITECTURES[job.architecture].reading(model_config, shape)
    if reading is None or training_config.augmentation != "none" or training_config.subject_layers:
        return None
    with torch.inference_mode():
        read_of_one = reading.read(torch.zeros(1, shape.num_channels, shape.num_samples))
    num_windows = sum(run.num_windows for run in data.runs_of(data.manifest.subjects))
    return (reading.name, reading.read) if read_of_one.nbytes * num_windows <= MOST_READ_BYTES else None


def job_features(job: Job, data: StudyData) -> nn.Module | None:
    """Return what makes features of windows, where the architecture takes features in place of EEG."""
    make = ARCHITECTURES[job.architecture].features
    return None if make is None else make(data.model_shape(None))


def job_products(job: Job, data: StudyData) -> TrainingProducts:
    """Return what the training subjects give: voxel weights, patterns and targets, as many patterns as are wanted."""
    config = training_config(job)
    return rank_limited(data.training_products(job.training_subjects, config.output), config.output_rank)
