"""A trained model as files that predict anywhere: what ``portable`` reads.

Takes the model, the data that it was trained on, and what is said of it; gives a folder.  The network is an exported
program and all else are arrays and JSON, so nothing is unpickled where it is loaded.

Legend of shapes: K samples of a filter, V voxels.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.eeg import EegSettings, filtered, future_seconds
from platform.data.products import StudyData
from platform.prediction import alignment, portable
from platform.prediction.alignment import barycentre
from platform.prediction.portable import BARYCENTRE, DESCRIPTION, HALF_WIDTH, KERNEL, PROGRAM, VOXELS

PACKAGE = "eeg2fmri_model"
"""The name of the package that a logged model carries."""
LOADER = f"{PACKAGE}.portable"
FORMAT = 1
REQUIRED = ("mlflow", "numpy", "scipy", "torch")
_ALSO_FOR = {"riemannian": ("pyriemann",)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Package:
    """A model to be packaged.

    Attributes:
        program: the exported network.
        configuration: what was trained, flat.
        trained_on: the subjects that it was trained on.
        origin: study, architecture, trial and the like, as JSON keeps them.
        half_width_V: half of the 95 % interval of a predicted voxel; None where it was never estimated.
    """

    program: bytes
    configuration: Mapping[str, Any]
    trained_on: Sequence[str]
    origin: Mapping[str, Any] = field(default_factory=dict)
    half_width_V: NDArray[np.float32] | None = None

    @property
    def alignment(self) -> str:
        """How each subject's EEG is aligned before the model sees it."""
        return str(self.configuration.get("alignment", "none"))


def write_package(folder: Path, package: Package, data: StudyData) -> None:
    """Write a model's files into a folder that is not there yet."""
    folder.mkdir(parents=True)
    layout, settings = data.manifest.layout, eeg_settings(data.manifest.pipeline)
    (folder / PROGRAM).write_bytes(package.program)
    np.save(folder / VOXELS, data.voxel_indices.astype(np.int16))
    np.save(folder / KERNEL, filter_kernel(settings, layout.eeg_rate_hz))
    if package.alignment == "monge":
        covariances = [data.mean_covariance(subject, "euclidean") for subject in package.trained_on]
        np.save(folder / BARYCENTRE, barycentre(np.stack(covariances)))
    if package.half_width_V is not None:
        np.save(folder / HALF_WIDTH, package.half_width_V.astype(np.float32))
    description = {
        "format": FORMAT,
        "channel_names": layout.channel_names,
        "channel_locations_m": layout.channel_locations_m,
        "eeg": dataclasses.asdict(settings),
        "eeg_rate_hz": layout.eeg_rate_hz,
        "eeg_scale": layout.eeg_scale,
        "rate_hz": data.settings.rate_hz,
        "repetition_time_s": layout.repetition_time_s,
        "reference_time_s": layout.reference_time_s,
        "window_volumes": data.window_volumes,
        "alignment": package.alignment,
        "grid_shape": layout.grid_shape,
        "grid_affine": layout.grid_affine,
        "template": layout.template,
        "mask_sha256": layout.mask_sha256,
        "data": data.manifest.digest,
        "trained_on": list(package.trained_on),
        "configuration": dict(package.configuration),
        **package.origin,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def write_code(folder: Path) -> Path:
    """Write, below a folder, the package that loads such files without this project, and return where it lies."""
    package = folder / PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""What a logged model needs to predict."""\n', encoding="utf-8")
    for module in (portable, alignment):
        source = Path(str(module.__file__))
        shutil.copyfile(source, package / source.name)
    return package


def requirements(package: Package) -> list[str]:
    """Return the libraries, with their versions here, that predicting needs."""
    names = (*REQUIRED, *_ALSO_FOR.get(package.alignment, ()))
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in names]


def eeg_settings(pipeline: Mapping[str, Any]) -> EegSettings:
    """Return how preparation treated EEG; the defaults where the shards do not say, as simulated ones."""
    return EegSettings(**pipeline.get("eeg", {}))


def filter_kernel(settings: EegSettings, rate_hz: float) -> NDArray[np.float64]:
    """Return what all filters together make of a single sample, (K,): their kernel, symmetric about its middle."""
    half = round(future_seconds(rate_hz, settings) * rate_hz)
    if not half:
        return np.ones(1)
    impulse = np.zeros((1, 4 * half + 1), np.float32)
    impulse[0, 2 * half] = 1.0
    return filtered(impulse, rate_hz, settings)[0, half : 3 * half + 1].astype(np.float64)


def half_width(mean_squares: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return half of a 95 % interval of each voxel, (V,), from its mean squared errors on unseen subjects."""
    return np.asarray(1.96 * np.sqrt(np.mean(mean_squares, axis=0)), np.float32)
