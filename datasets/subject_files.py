"""What lies beside a subject's shards, and beside all: maps of the volumes, anatomy on the grid, the voxels' table.

Takes a subject's prepared series and its reference; gives Parquet tables in a storage.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from datasets.bold import BoldSeries
from datasets.grid import grid_points_mm, mask_points_mm, tissue_mask, tissue_probabilities
from datasets.registration import epi_brain
from datasets.run_preparation import Reference
from datasets.shards import FileEntry, write_table
from datasets.storage import Storage

BRAIN_ABOVE = 0.5


def write_subject_files(
    storage: Storage, subject: str, series: Sequence[BoldSeries], reference: Reference | None
) -> tuple[FileEntry, ...]:
    """Write the subject's maps and anatomy; nothing where no run was prepared."""
    if not series or reference is None:
        return ()
    return (
        write_table(storage, f"{subject}/{subject}_maps.parquet", maps_table(series)),
        write_table(storage, f"{subject}/{subject}_anatomy.parquet", anatomy_table(reference)),
    )


def maps_table(series: Sequence[BoldSeries]) -> pa.Table:
    """Return the mean and standard deviation over runs and the coverage by all, one row per voxel of the mask."""
    return pa.table(
        {
            "mean": np.mean([run.mean for run in series], axis=0),
            "standard_deviation": np.sqrt(np.mean([run.standard_deviation**2 for run in series], axis=0)),
            "coverage": np.all([run.coverage for run in series], axis=0),
        }
    )


def anatomy_table(reference: Reference) -> pa.Table:
    """Return the mean EPI and the T1 on the grid, one row per voxel of the whole grid in C order, in their own units.

    Nothing is shown but the brain that the EPI holds: 0 elsewhere, and no face can be seen.  ``t1`` is nan without one.
    """
    epi_mm = reference.alignment.epi_points(grid_points_mm())
    brain = epi_brain(reference.mean).astype(np.float32)
    is_brain = sampled(brain, reference.mean.affine, epi_mm) > BRAIN_ABOVE
    epi = sampled(reference.mean.get_fdata(dtype=np.float32), reference.mean.affine, epi_mm)
    t1 = np.full(len(epi), np.nan, dtype=np.float32)
    if reference.t1 is not None:
        t1_mm = reference.alignment.t1_points(grid_points_mm())
        t1 = sampled(reference.t1.get_fdata(dtype=np.float32), reference.t1.affine, t1_mm) * is_brain
    return pa.table({"epi": epi * is_brain, "t1": t1})


def sampled(
    volume: NDArray[np.float32], affine: NDArray[np.float64], points_mm: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return a volume's values at points (n, 3) in its own mm, linearly between voxels, 0 outside, (n,)."""
    voxels = apply_affine(np.linalg.inv(affine), points_mm)
    return np.asarray(map_coordinates(volume, voxels.T, order=1, output=np.float32))


def voxel_table(mask: NDArray[np.bool_] | None = None) -> pa.Table:
    """Return where each voxel of the mask lies, on the grid and in mm, and which tissue it is.

    Args:
        mask: on the grid; None for the tissue mask.
    """
    mask = tissue_mask() if mask is None else mask
    grey, white = tissue_probabilities()
    indices_V3, points_V3 = np.argwhere(mask), mask_points_mm(mask)
    return pa.table(
        {
            **{axis: indices_V3[:, number].astype(np.int16) for number, axis in enumerate("ijk")},
            **{f"{axis}_mm": points_V3[:, number].astype(np.float32) for number, axis in enumerate("xyz")},
            "grey": grey[mask],
            "white": white[mask],
        }
    )
