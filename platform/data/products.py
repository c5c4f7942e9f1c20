"""What all configurations share on one fold, computed once per node: voxel weights, output basis, event products.

Takes a study's data and a fold; gives arrays, kept in the cache folder under the digest of all that they depend on.

Legend of shapes: V voxels, K patterns, N training windows, T windows of one run, R volumes of a run.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from datasets.errors import BadInput
from datasets.shards import VOXELS, Manifest, ShardEntry, read_table
from datasets.storage import write_whole
from platform.data.band_power import lagged_band_power
from platform.data.basis import (
    MAX_RANK,
    gram_matrix,
    parcel_means,
    principal_components,
    principal_components_by_passes,
    reduced_rank,
    reduced_rank_by_passes,
)
from platform.data.folds import NUM_SHARES, shuffled_shares
from platform.data.once import made_once
from platform.data.several_data_sets import open_shards
from platform.data.training_set import AlignedEeg, Inputs
from platform.data.windows import PAIRINGS, CachedRun, RunCache, eeg_batch, window_index, window_volumes
from platform.models.shape import ModelShape
from platform.prediction.alignment import MEANS, aligning_matrix, barycentre, monge_matrix, piece_covariances
from platform.scores.events import (
    EventProducts,
    Events,
    event_products,
    fir_design,
    kinds_in,
    responsive_weights,
)
from platform.scores.metrics import high_passed
from platform.scores.volume_scores import parcels

GREY_MATTER_PROBABILITY = WHITE_MATTER_PROBABILITY = 0.5
FLUID_PROBABILITY = 0.4
"""Fluid alone is outside the mask; so much of it is in 2 343 of the grid's 64 820 voxels."""
OUTPUT_PARCELS = 512
"""Parcels of the whole mask, about 13 mm wide; those that weigh most are predicted."""
PRODUCTS_VERSION = 7
MOST_GRAM_BYTES = 4 * 2**30
"""Of a Gram matrix, which grows with the square of a study's windows: above, patterns are found without one."""


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which data a study reads, and how: all that its scores depend on besides configurations and seeds.

    ``shards`` is a place, or several with commas between (``several_data_sets``).

    ``flipped`` names subjects whose BOLD is read times -1, for a null (``flipped_data``).  ``unit``, a key of
    ``UNITS``, is what folds leave out: whole subjects, or single recordings, whose subjects train all the same, or
    shares of all recordings' windows, drawn at random by ``shuffle_seed``.
    """

    shards: str
    cache_folder: str
    rate_hz: int = 125
    pairing: str = "recorded"
    flipped: tuple[str, ...] = ()
    unit: str = "subject"
    shuffle_seed: int = 0


def _by_recording(manifest: Manifest) -> Manifest:
    """Return the manifest with every recording as a subject of its own: also another digest, so no product is mixed."""
    names = [f"{entry.subject} {entry.task} {entry.run:02d}" for entry in manifest.shards]
    shards = tuple(replace(entry, subject=name) for entry, name in zip(manifest.shards, names, strict=True))
    return replace(manifest, shards=shards)


def _by_share(manifest: Manifest) -> Manifest:
    """Return the manifest with shares of windows as its subjects: each has every recording, numbered as a run.

    Which windows a share has of them, ``StudyData.runs`` says.
    """
    shards = tuple(
        replace(entry, subject=share, run=number)
        for share in SHARE_NAMES
        for number, entry in enumerate(manifest.shards, start=1)
    )
    return replace(manifest, shards=shards)


SHARE = "share"
SHARE_NAMES = tuple(f"share-{number}" for number in range(1, NUM_SHARES + 1))
UNITS: dict[str, Callable[[Manifest], Manifest]] = {
    "subject": lambda manifest: manifest,
    "recording": _by_recording,
    SHARE: _by_share,
}
"""From a manifest to one whose subjects are what folds leave out."""


@dataclass(frozen=True, kw_only=True)
class TrainingProducts:
    """What a fold's training subjects say about every configuration's output and score.

    Attributes:
        weights_V: voxel weights of the objective, not negative.
        patterns_KV: leading spatial patterns of the training volumes, of a kind in ``OUTPUTS``.
        coefficients_NK: weights of every training window's volume on the patterns.
    """

    weights_V: NDArray[np.float32]
    patterns_KV: NDArray[np.float32]
    coefficients_NK: NDArray[np.float32]


class StudyData:
    """The runs of a study on this node, and what is derived from them; opened anew in every process."""

    def __init__(self, settings: DataSettings) -> None:
        self.settings = settings
        self.storage, recorded = open_shards(settings.shards)
        self.manifest = UNITS[settings.unit](recorded)
        self.folder = Path(settings.cache_folder)
        self._cache = RunCache(
            folder=self.folder / "runs",
            storage=self.storage,
            manifest=recorded if settings.unit == SHARE else self.manifest,
            rate_hz=settings.rate_hz,
        )
        self._runs: dict[str, list[CachedRun]] = {}

    def runs(self, subject: str) -> list[CachedRun]:
        """Return a subject's runs, their EEG paired with BOLD as the study's settings say."""
        if subject not in self._runs:
            self._runs |= self._of_shares() if self.settings.unit == SHARE else {subject: self._paired(subject)}
        return self._runs[subject]

    def _paired(self, subject: str) -> list[CachedRun]:
        return PAIRINGS[self.settings.pairing](self._cache.open_subject(subject))

    @cached_property
    def _recordings(self) -> list[CachedRun]:
        """Every recording, whole, numbered as a share's runs are."""
        recorded = self._cache.manifest
        numbers = {(entry.subject, entry.task, entry.run): at for at, entry in enumerate(recorded.shards, start=1)}
        runs = [run for subject in recorded.subjects for run in self._paired(subject)]
        return [replace(run, run=numbers[run.subject, run.task, run.run]) for run in runs]

    def _of_shares(self) -> dict[str, list[CachedRun]]:
        """Return what each share of the windows has of every recording."""
        shares = shuffled_shares([run.num_windows for run in self._recordings], self.settings.shuffle_seed)
        return {
            name: [
                replace(run, subject=name, at_T=np.flatnonzero(share_T == share))
                for run, share_T in zip(self._recordings, shares, strict=True)
            ]
            for share, name in enumerate(SHARE_NAMES)
        }

    def runs_of(self, subjects: Sequence[str]) -> list[CachedRun]:
        """Return the runs of several subjects, one subject after the other."""
        return [run for subject in subjects for run in self.runs(subject)]

    @cached_property
    def voxel_indices(self) -> NDArray[np.int64]:
        """Grid index of every voxel in the mask, shape (V, 3)."""
        table = self._voxels
        return np.stack([table[axis].to_numpy() for axis in "ijk"], axis=1).astype(np.int64)

    @cached_property
    def grey_matter(self) -> NDArray[np.bool_]:
        """Which voxels of the mask are grey matter, shape (V,)."""
        return np.asarray(pc.greater(self._voxels["grey"], GREY_MATTER_PROBABILITY))

    @cached_property
    def other_tissues(self) -> dict[str, NDArray[np.bool_]]:
        """Which voxels of the mask are white matter, and which touch fluid, each (V,)."""
        grey_V, white_V = (np.asarray(self._voxels[name], np.float64) for name in ("grey", "white"))
        are_known = grey_V + white_V > 0  # small studies may know no tissue
        fluid_V = (1 - grey_V - white_V > FLUID_PROBABILITY) & are_known
        return {"white": white_V > WHITE_MATTER_PROBABILITY, "beside_fluid": fluid_V}

    @cached_property
    def _voxels(self) -> Any:  # noqa: ANN401 - a pyarrow table
        entry = next(file for file in self.manifest.files if file.name == VOXELS)
        return read_table(self.storage, entry)

    @property
    def window_volumes(self) -> int:
        """Volumes that a window's EEG spans."""
        return window_volumes(self.manifest.layout.repetition_time_s)

    def events(self, run: CachedRun) -> Events:
        """Return the stimuli of a run."""
        return self._events_of(self._entry(run))

    def _events_of(self, entry: ShardEntry) -> Events:
        table = read_table(self.storage, entry.events).to_pydict()
        kind = tuple(f"{entry.task} {kind}" for kind in table["kind"])
        return Events(onset_s=np.array(table["onset_s"], float), kind=kind)

    @cached_property
    def event_kinds(self) -> tuple[str, ...]:
        """The kinds of stimuli in the whole study, sorted; none where it has no events."""

        def compute() -> dict[str, Any]:
            return {"kinds": np.array(kinds_in(self._events_of(entry).kind for entry in self.manifest.shards), str)}

        return tuple(self.product("event-kinds", {}, compute)["kinds"].tolist())

    def event_design(self, run: CachedRun) -> NDArray[np.float32]:
        """Return the FIR design of a run's windows, shape (T, P)."""
        layout = self.manifest.layout
        design_RP = fir_design(
            self.events(run), self.event_kinds, len(run.bold_RV), layout.repetition_time_s, layout.reference_time_s
        )
        return np.asarray(run.of_windows(design_RP))

    def confounds(self, run: CachedRun) -> dict[str, NDArray[np.float64]]:
        """Return the confound series of a run, one value per volume, by name."""
        table = read_table(self.storage, self._entry(run).confounds)
        return {name: np.asarray(table[name], np.float64) for name in table.column_names}

    def subject_maps(self, subject: str) -> dict[str, NDArray[np.float64]] | None:
        """Return a subject's mean, standard deviation and coverage by voxel; None where shards came without them."""
        entry = next((file for file in self.manifest.files if file.name == f"{subject}/{subject}_maps.parquet"), None)
        if entry is None:
            return None
        table = read_table(self.storage, entry)
        return {name: np.asarray(table[name], np.float64) for name in table.column_names}

    def high_passed(self, series: NDArray[np.float32], at_T: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Return series over a run's windows, all or those at ``at_T``, as scores see them."""
        return high_passed(series, self.manifest.layout.repetition_time_s, at_T=at_T).astype(np.float32)

    def band_power(self, subject: str) -> list[NDArray[np.float32]]:
        """Return lagged log band power of the windows of a subject's runs, high-passed, each (T, features)."""

        def compute() -> dict[str, Any]:
            return {
                f"{number:04d}": self.high_passed(
                    run.of_windows(
                        lagged_band_power(
                            run.eeg_CS,
                            self.settings.rate_hz,
                            len(run.bold_RV),
                            self.manifest.layout.repetition_time_s,
                        )
                    ),
                    run.at_T,
                )
                for number, run in enumerate(self.runs(subject))
            }

        features = self.product("band-power", {"subject": subject, "rate_hz": self.settings.rate_hz}, compute)
        return [features[key] for key in sorted(features)]

    def mean_covariance(self, subject: str, mean: str) -> NDArray[np.float64]:
        """Return the mean, of this kind, of the covariances of a subject's EEG over all its runs, (C, C)."""

        def compute() -> dict[str, Any]:
            pieces = [piece_covariances(run.eeg_CS, self.settings.rate_hz) for run in self.runs(subject)]
            return {"mean": MEANS[mean](np.concatenate(pieces))}

        depends_on = {"subject": subject, "rate_hz": self.settings.rate_hz, "mean": mean}
        return np.asarray(self.product("covariance", depends_on, compute)["mean"])

    def eeg_inputs(self, subjects: Sequence[str], alignment: str, training: Sequence[str]) -> Inputs:
        """Return what reads windows of these subjects' EEG, aligned as the training subjects' is."""
        if alignment == "none":
            return eeg_batch
        if alignment == "monge":
            shared_CC = barycentre(np.stack([self.mean_covariance(subject, "euclidean") for subject in training]))
            means = {subject: self.mean_covariance(subject, "euclidean") for subject in subjects}
            matrices = {subject: monge_matrix(mean_CC, shared_CC) for subject, mean_CC in means.items()}
        else:
            matrices = {subject: aligning_matrix(self.mean_covariance(subject, alignment)) for subject in subjects}
        return AlignedEeg(matrices={subject: torch.from_numpy(matrix) for subject, matrix in matrices.items()})

    def window_features(
        self,
        subject: str,
        name: str,
        compute_features: Callable[[torch.Tensor], torch.Tensor],
        alignment: str = "none",
        training: Sequence[str] = (),
    ) -> list[NDArray[np.float32]]:
        """Return what a function named so makes of every window of a subject's aligned runs, each (T, features)."""

        def of_run(run: CachedRun, read: Inputs) -> NDArray[np.float32]:
            if alignment == "none" and (of_recording := getattr(compute_features, "of_recording", None)) is not None:
                with torch.inference_mode():
                    return np.asarray(run.in_run(of_recording(run.eeg).numpy()))
            index = window_index([run])
            with torch.inference_mode():
                parts = [compute_features(read([run], index[at : at + 64])) for at in range(0, len(index), 64)]
            return torch.cat(parts).numpy()

        def compute() -> dict[str, Any]:
            read = self.eeg_inputs([subject], alignment, training)
            return {f"{number:04d}": of_run(run, read) for number, run in enumerate(self.runs(subject))}

        aligned_to = list(training) if alignment == "monge" else []
        depends_on = {
            "subject": subject,
            "rate_hz": self.settings.rate_hz,
            "alignment": alignment,
            "aligned_to": aligned_to,
        }
        features = self.product(f"features-{name}", depends_on, compute)
        return [features[key] for key in sorted(features)]

    def event_products(self, subject: str) -> EventProducts:
        """Return the products of a subject's FIR designs and volumes."""

        def compute() -> dict[str, Any]:
            runs = self.runs(subject)
            designs = [self.high_passed(self.event_design(run), run.at_T) for run in runs]
            volumes = [self.high_passed(run.targets.astype(np.float32), run.at_T) for run in runs]
            return vars(event_products(designs, volumes))

        return EventProducts(**self.product("events", {"subject": subject}, compute))

    def training_weights(self, subjects: Sequence[str]) -> NDArray[np.float32]:
        """Return the voxel weights of the objective that these training subjects give; they must be sorted."""
        training = list(subjects)

        def compute() -> dict[str, Any]:
            products = [self.event_products(subject) for subject in training]
            return {"weights": responsive_weights(products, self.grey_matter)}

        return np.asarray(self.product("weights", {"training": training}, compute)["weights"])

    def training_products(self, subjects: Sequence[str], output: str = "variance") -> TrainingProducts:
        """Return what these training subjects say about an output of this kind and scores; they must be sorted."""
        training = list(subjects)
        weights_V = self.training_weights(training)

        def compute() -> dict[str, Any]:
            patterns_KV, coefficients_NK = OUTPUTS[output](self, training, weights_V)
            return {"patterns_KV": patterns_KV, "coefficients_NK": coefficients_NK}

        product = self.product("basis", {"training": training, "output": output}, compute)
        return TrainingProducts(weights_V=weights_V, **product)

    def model_shape(self, basis_KV: NDArray[np.float32] | None) -> ModelShape:
        """Return what the data dictates about a model; the basis is None where it predicts all voxels."""
        layout = self.manifest.layout
        return ModelShape(
            num_channels=len(layout.channel_names),
            num_samples=round(self.window_volumes * layout.repetition_time_s * self.settings.rate_hz),
            num_volumes=self.window_volumes,
            rate_hz=self.settings.rate_hz,
            grid_shape=layout.grid_shape,
            voxel_indices=torch.from_numpy(self.voxel_indices),
            basis=None if basis_KV is None else torch.from_numpy(basis_KV),
            channel_positions=torch.tensor([place or (0.0, 0.0, 0.0) for place in layout.channel_locations_m]),
        )

    def product(
        self, name: str, depends_on: Mapping[str, Any], compute: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Return arrays that ``compute`` makes, from this node's cache where they are there already."""
        whole = {
            "data": self.manifest.digest,
            "pairing": self.settings.pairing,
            "version": PRODUCTS_VERSION,
            **({"shuffle_seed": self.settings.shuffle_seed} if self.settings.unit == SHARE else {}),
            **depends_on,
        }
        digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:32]
        path = self.folder / "products" / f"{name}-{digest}.npz"
        made_once(path, lambda: _save_arrays(path, compute()))
        try:
            with np.load(path) as arrays:
                return {key: arrays[key] for key in arrays.files}
        except (zipfile.BadZipFile, EOFError, ValueError) as error:
            path.unlink(missing_ok=True)
            raise BadInput(f"the cached {path} was torn and is deleted; run the same command again") from error

    @cached_property
    def has_gram(self) -> bool:
        """Whether the Gram matrix of all windows' volumes is small enough to be made."""
        windows = (max(0, entry.rows - self.window_volumes) for entry in self._cache.manifest.shards)
        return 4 * sum(windows) ** 2 <= MOST_GRAM_BYTES

    def gram_of(self, subjects: Sequence[str]) -> NDArray[np.float32]:
        """Return inner products of these subjects' volumes over the whole mask: a part of one matrix of the study."""
        runs = self._recordings if self.settings.unit == SHARE else self.runs_of(list(self.manifest.subjects))
        gram_NN = self.product("gram", {}, lambda: {"gram": gram_matrix([run.targets for run in runs])})["gram"]
        if self.settings.unit == SHARE:
            starts = np.cumsum([0, *(run.num_windows for run in runs)]).tolist()
            start_of = {run.run: start for run, start in zip(runs, starts, strict=False)}
            wanted = np.concatenate([start_of[run.run] + run.places for run in self.runs_of(subjects)])
        else:
            wanted = np.concatenate([np.full(run.num_windows, run.subject in subjects) for run in runs])
        return np.asarray(gram_NN[np.ix_(wanted, wanted)])

    def _entry(self, run: CachedRun) -> ShardEntry:
        entries = self.manifest.of_subject(run.subject)
        return next(entry for entry in entries if (entry.task, entry.run) == (run.task, run.run))


def _by_variance(
    data: StudyData, training: Sequence[str], weights_V: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    del weights_V
    runs = _volumes(data, training)
    if not data.has_gram:
        return principal_components_by_passes(runs, runs, MAX_RANK)
    return principal_components(data.gram_of(training), runs, MAX_RANK)


def _by_responsive_variance(
    data: StudyData, training: Sequence[str], weights_V: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    runs = _volumes(data, training)
    weighted = WeightedRuns(runs=runs, weights_V=weights_V)
    if not data.has_gram:
        return principal_components_by_passes(runs, weighted, MAX_RANK)
    return principal_components(gram_matrix(list(weighted)), runs, MAX_RANK)


def _by_reduced_rank(
    data: StudyData, training: Sequence[str], weights_V: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    runs = _volumes(data, training)
    features_NP = np.concatenate([features for subject in training for features in data.band_power(subject)])
    weighted = WeightedRuns(runs=runs, weights_V=weights_V)
    if not data.has_gram:
        return reduced_rank_by_passes(runs, weighted, features_NP, MAX_RANK)
    return reduced_rank(gram_matrix(list(weighted)), features_NP, runs, MAX_RANK)


def _by_parcel(
    data: StudyData, training: Sequence[str], weights_V: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    parcels_V = parcels(data.voxel_indices, OUTPUT_PARCELS)
    weight_K = np.bincount(parcels_V, weights_V) / np.bincount(parcels_V)
    return parcel_means(_volumes(data, training), parcels_V, np.argsort(-weight_K, kind="stable")[:MAX_RANK])


OUTPUTS: dict[
    str,
    Callable[[StudyData, Sequence[str], NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.float32]]],
] = {
    "variance": _by_variance,
    "responsive": _by_responsive_variance,
    "reduced_rank": _by_reduced_rank,
    "parcels": _by_parcel,
}
"""From a study, training subjects and voxel weights to patterns (K, V) and the training volumes' weights (N, K)."""


def _volumes(data: StudyData, subjects: Sequence[str]) -> "TargetsOfRuns":
    return TargetsOfRuns(runs=data.runs_of(subjects))


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetsOfRuns(Sequence[NDArray[np.float16]]):
    """The volumes that runs' windows must predict, taken when they are asked for: some of a recording's are a copy."""

    runs: Sequence[CachedRun]

    def __len__(self) -> int:
        return len(self.runs)

    @overload
    def __getitem__(self, number: int) -> NDArray[np.float16]: ...

    @overload
    def __getitem__(self, number: slice) -> "TargetsOfRuns": ...

    def __getitem__(self, number: int | slice) -> "NDArray[np.float16] | TargetsOfRuns":
        """Return one run's volumes."""
        return replace(self, runs=self.runs[number]) if isinstance(number, slice) else self.runs[number].targets


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightedRuns(Sequence[NDArray[np.float16]]):
    """The voxels that weigh, each times the root of its weight, so that inner products count them by weight.

    Each run is made when it is asked for: all of them need not fit into memory.
    """

    runs: Sequence[NDArray[np.float16]]
    weights_V: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.runs)

    @overload
    def __getitem__(self, number: int) -> NDArray[np.float16]: ...

    @overload
    def __getitem__(self, number: slice) -> "WeightedRuns": ...

    def __getitem__(self, number: int | slice) -> "NDArray[np.float16] | WeightedRuns":
        """Return one run's volumes in these voxels."""
        if isinstance(number, slice):
            return replace(self, runs=self.runs[number])
        return (self.runs[number][:, self._voxels] * self._sizes).astype(np.float16)

    @cached_property
    def _voxels(self) -> NDArray[np.int64]:
        return np.flatnonzero(self.weights_V)

    @cached_property
    def _sizes(self) -> NDArray[np.float32]:
        return np.sqrt(self.weights_V[self._voxels] / self.weights_V[self._voxels].mean())


def output_weights(products: TrainingProducts, *, has_basis: bool) -> NDArray[np.float32]:
    """Return how reliably each output responds in the training subjects, mean 1; a pattern by where it lies."""
    weights_V = products.weights_V
    weights = np.square(products.patterns_KV) @ weights_V if has_basis else weights_V
    return np.asarray(weights / weights.mean(), np.float32)


def rank_limited(products: TrainingProducts, rank: int) -> TrainingProducts:
    """Return the products with the leading patterns only, scaled so that their weights have a mean square of 1.

    Losses are then of one size whatever the rank; patterns times weights are the same volumes as before.
    """
    coefficients_NK = products.coefficients_NK[:, :rank]
    scale = np.float32(np.sqrt(np.mean(coefficients_NK**2))) if coefficients_NK.size else np.float32(1)
    return replace(products, patterns_KV=products.patterns_KV[:rank] * scale, coefficients_NK=coefficients_NK / scale)


def _save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_whole(path, buffer.getbuffer())
