"""Models in MLflow: logged so that they load anywhere, registered, and fetched again.

Takes packaged models and a run; gives versions in MLflow's registry, and folders that ``portable`` reads.
"""

import os
import re
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import requests
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec
from numpy.typing import NDArray
from sqlalchemy.exc import SQLAlchemyError

from datasets.errors import BadInput
from datasets.storage import without_secrets
from platform.data.products import StudyData
from platform.tracking.packaging import LOADER, Package, requirements, write_code, write_package

CHAMPION, CHALLENGER = "champion", "challenger"
"""Aliases in MLflow's registry: the best model of its data, and the last one that did not replace it."""
DOWN = (MlflowException, requests.RequestException, SQLAlchemyError, OSError)
"""What MLflow's client raises where the server or the database cannot be reached."""
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it asks the server for the run first
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""Environment variables that keep MLflow's client brief: no telemetry, no minutes of retries, no progress bars."""
SCORE, DATA, STUDY, TRIAL = "eeg2fmri.corrected_score", "eeg2fmri.data", "eeg2fmri.study", "eeg2fmri.trial"
_FOLD = "eeg2fmri.fold."
_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))")
_EXAMPLE_SECONDS, _EXAMPLE_HZ = 40, 125.0


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What decides which of two models is the champion.

    Attributes:
        score: corrected for having been chosen; None where it could not be estimated.
        data: digest of the data that it was made on.
        is_control: whether its score says nothing of EEG and BOLD in new subjects, as on swapped runs, or where
            training had windows of the scored subjects.
    """

    score: float | None
    data: str
    is_control: bool = False


@dataclass(frozen=True, kw_only=True)
class Winner:
    """Which study's which trial a registered model is, and where it is logged."""

    architecture: str
    study: str
    trial: int
    run_id: str

    @property
    def tags(self) -> dict[str, str]:
        """By these its version in the registry is found again."""
        return {STUDY: self.study, TRIAL: str(self.trial)}


def registered_name(architecture: str) -> str:
    """Return the name under which models of an architecture are registered."""
    return f"eeg2fmri-{architecture}"


def alias_of(new: Standing, champion: Standing | None) -> str:
    """Return a new model's alias: champion where there is none, or where it is better on the same data; "" for none."""
    if new.is_control:
        return ""
    if champion is None:
        return CHAMPION
    if new.data != champion.data or new.score is None:
        return CHALLENGER
    return CHAMPION if champion.score is None or new.score > champion.score else CHALLENGER


def log_packaged(run_id: str, name: str, package: Package, data: StudyData) -> tuple[str, str]:
    """Log a model to a run and return its URI and its id; MLflow's tracking URI must be set."""
    num_channels, num_voxels = len(data.manifest.layout.channel_names), len(data.voxel_indices)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own, about what the signature cannot tell
        write_package(Path(folder) / "model", package, data)
        with mlflow.start_run(run_id=run_id):
            logged = mlflow.pyfunc.log_model(
                name=name,
                loader_module=LOADER,
                data_path=str(Path(folder) / "model"),
                code_paths=[str(write_code(Path(folder) / "code"))],
                signature=signature(num_channels, num_voxels, data.manifest.layout.eeg_rate_hz),
                input_example=(example(num_channels), {"rate_hz": _EXAMPLE_HZ, "is_prepared": False}),
                pip_requirements=requirements(package),
            )
    return str(logged.model_uri), str(logged.model_id)


def signature(num_channels: int, num_voxels: int, rate_hz: float) -> ModelSignature:
    """Return a model's signature: EEG (channels, samples) to volumes (volumes, voxels)."""
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (num_channels, -1))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, num_voxels))]),
        params=ParamSchema([ParamSpec("rate_hz", "double", rate_hz), ParamSpec("is_prepared", "boolean", False)]),
    )


def example(num_channels: int) -> NDArray[np.float32]:
    """Return an example of EEG, whole microvolts of noise: small once it is written as JSON."""
    noise = np.random.default_rng(0).standard_normal((num_channels, round(_EXAMPLE_SECONDS * _EXAMPLE_HZ)))
    return np.rint(10 * noise).astype(np.float32)


def register(client: MlflowClient, winner: Winner, packages: Mapping[str, Package], data: StudyData) -> None:
    """Log and register a winner's models, those that are not there yet; MLflow's tracking URI must be set.

    Args:
        client: MLflow's.
        winner: whose they are.
        packages: the one refitted on all subjects under "", those of its folds by test subject.
        data: what they were trained on.
    """
    name = registered_name(winner.architecture)
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    version = _version_of(client, winner)
    if version is None:
        uri, model_id = log_packaged(winner.run_id, "model", packages[""], data)
        tags = {**winner.tags, DATA: data.manifest.digest}
        version = client.create_model_version(name, uri, winner.run_id, tags=tags, model_id=model_id)
    for subject, package in packages.items():
        tag = f"{_FOLD}{subject}"
        if subject and tag not in version.tags:
            uri, _ = log_packaged(winner.run_id, f"fold-{subject}", package, data)
            client.set_model_version_tag(name, version.version, tag, uri)


def describe(client: MlflowClient, winner: Winner, standing: Standing, card: str) -> None:
    """Give a registered model its card, its score and its alias; nothing where it is not registered."""
    name, version = registered_name(winner.architecture), _version_of(client, winner)
    if version is None:
        return
    client.update_model_version(name, version.version, card)
    if standing.score is not None:
        client.set_model_version_tag(name, version.version, SCORE, repr(standing.score))
    before = _champion(client, name)
    if before is not None and before[0] == version.version:
        return
    alias = alias_of(standing, before and before[1])
    if alias == CHAMPION and before is not None:
        client.set_registered_model_alias(name, CHALLENGER, before[0])
    if alias:
        client.set_registered_model_alias(name, alias, version.version)


def _version_of(client: MlflowClient, winner: Winner) -> ModelVersion | None:
    """Return a winner's registered version, the first where a lost answer made two; None where there is none."""
    wanted = [f"name = '{registered_name(winner.architecture)}'"]
    wanted += [f"tags.`{tag}` = '{value}'" for tag, value in winner.tags.items()]
    found = client.search_model_versions(" and ".join(wanted))
    return min(found, key=lambda version: int(version.version), default=None)


def fetch(model: str, tracking_uri: str, folder: Path, fold: str = "") -> Path:
    """Download a model, or the one that never saw a subject, and return the folder that ``portable`` reads.

    Raises:
        BadInput: there is no such model, or MLflow cannot be reached.
    """
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    try:
        mlflow.set_tracking_uri(tracking_uri)
        uri = _fold_uri(MlflowClient(tracking_uri=tracking_uri), model, fold) if fold else model
        local = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
    except DOWN as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(
            f"cannot fetch {model} from {without_secrets(tracking_uri)}: {reason}; check --model (as "
            "models:/eeg2fmri-transformer@champion) and --tracking"
        ) from error
    found = local / "data" / "model"
    if not found.is_dir():
        raise BadInput(f"{model} is no model that a search of this project logged: give models:/eeg2fmri-...")
    return found


def _fold_uri(client: MlflowClient, model: str, fold: str) -> str:
    parts = _REGISTERED.fullmatch(model)
    if parts is None:
        raise BadInput(f"--fold needs a registered model, as models:/eeg2fmri-transformer@champion, but got {model}")
    if parts["alias"]:
        version = client.get_model_version_by_alias(parts["name"], parts["alias"])
    else:
        version = client.get_model_version(parts["name"], parts["version"])
    uris = {tag.removeprefix(_FOLD): uri for tag, uri in version.tags.items() if tag.startswith(_FOLD)}
    if fold not in uris:
        known = ", ".join(sorted(uris)) or "none: the study was run with --no-finalist-scores"
        raise BadInput(f"{model} has no fold model of {fold}; it has {known}")
    return str(uris[fold])


def _champion(client: MlflowClient, name: str) -> tuple[str, Standing] | None:
    try:
        version = client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    score = float(version.tags[SCORE]) if SCORE in version.tags else None
    return str(version.version), Standing(score=score, data=version.tags.get(DATA, ""))
