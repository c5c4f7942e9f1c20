"""Predicted volumes as images that neuroimaging programs read.

Takes a portable model and EEG as it sees it; gives NIfTI files on the model's grid, and what BIDS wants to know.
"""

import gzip
import json
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from platform.prediction.portable import PortableModel

ENDING = ".nii.gz"
_GZIP_LEVEL = 1


def write_series(path: Path, model: PortableModel, eeg_CS: NDArray[np.float16]) -> int:
    """Write all predicted volumes as a 4-D image, some at a time, and return how many there are."""
    num_volumes = eeg_CS.shape[1] // model.samples_per_volume - model.window_volumes
    shape = (*model.description["grid_shape"], num_volumes)
    header = _header(model, shape)
    header["pixdim"][4] = model.description["repetition_time_s"]
    header["toffset"] = first_volume_s(model)
    header.set_xyzt_units("mm", "sec")
    x, y, z = model.voxel_indices.T
    with gzip.GzipFile(path, "wb", compresslevel=_GZIP_LEVEL, mtime=0) as stream:
        stream.write(header.binaryblock + bytes(4))
        for volumes_BV in model.volumes(eeg_CS, model.alignment([eeg_CS])):
            for volume_V in volumes_BV:
                volume = np.zeros(shape[:3], np.float32)
                volume[x, y, z] = volume_V
                stream.write(volume.tobytes(order="F"))
    return num_volumes


def write_half_width(path: Path, model: PortableModel, half_width_V: NDArray[np.float32]) -> None:
    """Write half of the 95 % interval of every predicted voxel as a 3-D image."""
    volume = np.zeros(model.description["grid_shape"], np.float32)
    x, y, z = model.voxel_indices.T
    volume[x, y, z] = half_width_V
    header = _header(model, volume.shape)
    header.set_xyzt_units("mm")
    with gzip.GzipFile(path, "wb", compresslevel=_GZIP_LEVEL, mtime=0) as stream:
        stream.write(header.binaryblock + bytes(4) + volume.tobytes(order="F"))


def sidecar(model: PortableModel, name: str, eeg: Path, num_volumes: int) -> str:
    """Return the JSON that BIDS derivatives want beside an image."""
    told = model.description
    fields = {
        "Description": "BOLD predicted from EEG: a prediction, not a measurement",
        "RepetitionTime": told["repetition_time_s"],
        "FirstVolumeSeconds": first_volume_s(model),
        "NumberOfVolumes": num_volumes,
        "Units": "standard deviations of the voxel's BOLD over a run",
        "SkullStripped": True,
        "SpatialReference": told["template"],
        "RawSources": [eeg.name],
        "Model": name,
        "Study": told.get("study", ""),
        "Trial": told.get("trial"),
        "TestSubject": told.get("test_subject", ""),
        "DataDigest": told["data"],
    }
    return json.dumps(fields, indent=1) + "\n"


def first_volume_s(model: PortableModel) -> float:
    """Return the seconds from the EEG's first sample to the middle of the first predicted volume."""
    told = model.description
    return float(model.window_volumes * told["repetition_time_s"] + told["reference_time_s"])


def _header(model: PortableModel, shape: tuple[int, ...]) -> nibabel.Nifti1Header:
    affine = np.array(model.description["grid_affine"])
    image = nibabel.Nifti1Image(np.zeros((1,) * len(shape), np.float32), affine)
    header = image.header
    header.set_data_shape(shape)
    header.set_sform(affine, code="mni")
    header.set_qform(affine, code="mni")
    header.set_slope_inter(1, 0)
    header["vox_offset"] = header.sizeof_hdr + 4
    header["magic"] = b"n+1"
    return header
