"""The models that a finalist's folds train, as programs, on storage that every node sees until they are logged.

Takes a trained model, or a fold job; gives a program's bytes, and what a job left.

Legend of shapes: B windows, C channels, S EEG samples of a window, V voxels.
"""

import io
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from datasets.storage import open_storage
from platform.models.ensemble import of_recording
from platform.training.job import Job

FOLDER = "fold_models"
_EXAMPLE_WINDOWS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldModel:
    """A model as one fold trained it.

    Attributes:
        program: from EEG, (B, C, S), to voxels, (B, V).
        test_error_V, validation_error_V: each voxel's mean squared error on subjects that it was not trained on.
    """

    program: bytes
    test_error_V: NDArray[np.float32]
    validation_error_V: NDArray[np.float32]


def exported(model: nn.Module, num_channels: int, num_samples: int, *, subject: str = "") -> bytes:
    """Return a model from EEG, (B, C, S), to voxels, (B, V), as a program for any number of windows.

    An ensemble that knows the subject weighs its members for it.
    """
    model = model.cpu().eval()
    example_BCS = torch.zeros(_EXAMPLE_WINDOWS, num_channels, num_samples)
    with warnings.catch_warnings(), of_recording(model, subject):
        warnings.simplefilter("ignore")  # torch's own, about what it traces
        shapes = ({0: torch.export.Dim.AUTO},)
        program = torch.export.export(model, (example_BCS,), dynamic_shapes=shapes, strict=False)
    content = io.BytesIO()
    torch.export.save(program, content)
    return content.getvalue()


def keep_fold_model(job: Job, model: FoldModel) -> None:
    """Write what a fold trained to the job's storage."""
    errors = io.BytesIO()
    np.savez(errors, test=model.test_error_V, validation=model.validation_error_V)
    storage = open_storage(job.storage)
    storage.write(f"{FOLDER}/{job.digest}.pt2", model.program)
    storage.write(f"{FOLDER}/{job.digest}.npz", errors.getvalue())


def kept_fold_model(job: Job) -> FoldModel | None:
    """Return what a fold trained; None where the job's storage has nothing of it, or there is no storage."""
    if not job.storage or not open_storage(job.storage).exists(f"{FOLDER}/{job.digest}.npz"):
        return None
    storage = open_storage(job.storage)
    with np.load(io.BytesIO(storage.read(f"{FOLDER}/{job.digest}.npz")), allow_pickle=False) as errors:
        return FoldModel(
            program=storage.read(f"{FOLDER}/{job.digest}.pt2"),
            test_error_V=errors["test"],
            validation_error_V=errors["validation"],
        )


def forget_fold_model(job: Job) -> None:
    """Delete what a fold trained, once it is logged."""
    for ending in ("npz", "pt2"):
        open_storage(job.storage).remove(f"{FOLDER}/{job.digest}.{ending}")
