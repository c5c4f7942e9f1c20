"""Where in the brain a finalist predicts its test subject: r per voxel, and one volume beside what was predicted of it.

Takes a subject's runs and predictions; gives maps, and keeps them on a study's storage for its report.

Legend of shapes: T windows of one run, V voxels of the mask.
"""

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.storage import open_storage
from platform.data.products import StudyData
from platform.scores.metrics import correlation_over_time, high_passed

FOLDER = "brain_maps"
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class BrainMaps:
    """What a finalist predicts of one test subject, on the grid.

    Attributes:
        r_V: Pearson r over time, both high-passed, mean over runs.
        target_V, prediction_V: the volume in the middle of the first run, in standard deviations of its voxel.
        is_grey_V: which voxels are grey matter; of a mask of grey and white matter, the others are white.
        indices_V3: each voxel's place on the grid.
        grid_shape, affine: of the grid.
    """

    r_V: Floats
    target_V: Floats
    prediction_V: Floats
    is_grey_V: NDArray[np.bool_]
    indices_V3: NDArray[np.int16]
    grid_shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    def on_grid(self, values_V: Floats, outside: float = math.nan) -> Floats:
        """Return values as a volume of the grid."""
        volume = np.full(self.grid_shape, outside, np.float32)
        volume[tuple(self.indices_V3.T)] = values_V
        return volume


def brain_maps(data: StudyData, subject: str, predictions: Iterable[Floats]) -> BrainMaps:
    """Return the maps of a subject from predictions of its runs, (T, V) each, made one after the other."""
    repetition_time_s = data.manifest.layout.repetition_time_s
    of_runs: list[NDArray[np.float64]] = []
    shown: list[Floats] = []
    for run, prediction_TV in zip(data.runs(subject), predictions, strict=True):
        target_TV = high_passed(run.targets.astype(np.float32), repetition_time_s)
        of_runs.append(correlation_over_time(prediction_TV, target_TV, repetition_time_s))
        if not shown:
            shown = [target_TV[len(target_TV) // 2], prediction_TV[len(prediction_TV) // 2]]
    return BrainMaps(
        r_V=np.mean(of_runs, axis=0).astype(np.float32),
        target_V=shown[0].astype(np.float32),
        prediction_V=shown[1].astype(np.float32),
        is_grey_V=data.grey_matter,
        indices_V3=data.voxel_indices.astype(np.int16),
        grid_shape=data.manifest.layout.grid_shape,
        affine=np.array(data.manifest.layout.grid_affine, np.float64),
    )


def maps_name(digest: str) -> str:
    """Return where a fold job's maps lie on its storage."""
    return f"{FOLDER}/{digest}.npz"


def keep_brain_maps(storage_uri: str, name: str, maps: BrainMaps) -> None:
    """Write maps to a storage."""
    content = io.BytesIO()
    fields: dict[str, Any] = {key: np.asarray(value) for key, value in vars(maps).items()}
    np.savez_compressed(content, **fields)
    open_storage(storage_uri).write(name, content.getvalue())


def kept_brain_maps(storage_uri: str, name: str) -> BrainMaps | None:
    """Return maps that were kept; None where there are none."""
    storage = open_storage(storage_uri)
    if not storage.exists(name):
        return None
    with np.load(io.BytesIO(storage.read(name)), allow_pickle=False) as kept:
        fields = {key: kept[key] for key in kept.files}
    fields.setdefault("is_grey_V", np.ones(len(fields["r_V"]), bool))  # kept before tissues were
    shape = tuple(int(length) for length in fields.pop("grid_shape"))
    return BrainMaps(**fields, grid_shape=(shape[0], shape[1], shape[2]))
