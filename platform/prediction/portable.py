"""A trained model that predicts anywhere: EEG in, volumes out.

Takes a folder that ``packaging`` wrote, and EEG (channels, samples); gives volumes (volumes, voxels).  A logged model
carries this file and ``alignment`` along as a package of another name, so both import nothing else of this project.

Legend of shapes: C channels, N samples as stored, S samples as the model sees them, T volumes, B windows, V voxels.
"""

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import oaconvolve, resample_poly
from torch import nn

from .alignment import MEANS, aligning_matrix, monge_matrix, piece_covariances

DESCRIPTION, PROGRAM, VOXELS, KERNEL = "model.json", "windows.pt2", "voxels.npy", "filter.npy"
BARYCENTRE, HALF_WIDTH = "barycentre.npy", "half_width.npy"
MOST_WINDOWS = 155
"""Windows that are predicted at once: layers that look at a subject's other windows see no more than these."""
LARGEST_FACTOR = 20_000
_PER_QUARTILES = 0.7413
_LARGEST_STEP = 32767

Floats = NDArray[np.float32]
Signal = NDArray[Any]


class PortableModel:
    """A trained model, how EEG is treated before it, and where its voxels lie."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.description: dict[str, Any] = json.loads((self.folder / DESCRIPTION).read_text(encoding="utf-8"))

    @property
    def channel_names(self) -> list[str]:
        """The channels, in the order in which EEG must have them."""
        return list(self.description["channel_names"])

    @property
    def eeg_rate_hz(self) -> float:
        """Samples per second of EEG that is filtered and normalised."""
        return float(self.description["eeg_rate_hz"])

    @property
    def samples_per_volume(self) -> int:
        """Samples of one channel, as the model sees them, in a volume's time."""
        return round(self.description["rate_hz"] * self.description["repetition_time_s"])

    @property
    def window_volumes(self) -> int:
        """Volumes that a window's EEG spans: as many at the start of a recording are not predicted."""
        return int(self.description["window_volumes"])

    @property
    def voxel_indices(self) -> NDArray[np.int64]:
        """Where on the grid each voxel lies, (V, 3)."""
        return self._array(VOXELS).astype(np.int64)

    @property
    def half_width(self) -> Floats | None:
        """Half of the 95 % interval of a predicted voxel, (V,); None where it was never estimated."""
        return self._array(HALF_WIDTH) if (self.folder / HALF_WIDTH).exists() else None

    @cached_property
    def program(self) -> nn.Module:
        """What maps windows of EEG, (B, C, S), to volumes, (B, V)."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, about how a program was saved
            return torch.export.load(self.folder / PROGRAM).module()

    def predict(self, eeg_CN: Signal, *, rate_hz: float | None = None, is_prepared: bool = False) -> Floats:
        """Return every volume that has a window of EEG before it, (T, V).

        Args:
            eeg_CN: in any unit, channels in the order of ``channel_names``.
            rate_hz: its samples per second; None for ``eeg_rate_hz``.
            is_prepared: whether it was filtered and normalised as the shards' EEG was, at ``eeg_rate_hz``.

        Raises:
            ValueError: where it is not such EEG.
        """
        eeg_CN = self._checked(eeg_CN)
        prepared_CN = eeg_CN if is_prepared else self.prepared(eeg_CN, rate_hz or self.eeg_rate_hz)
        eeg_CS = self.seen(prepared_CN)
        return np.concatenate(list(self.volumes(eeg_CS, self.alignment([eeg_CS]))))

    def prepared(self, eeg_CN: Signal, rate_hz: float) -> Floats:
        """Return EEG at the stored rate, filtered, referenced and normalised; bad channels are left as they are."""
        if self.description["eeg"]["normalise_over"] == "past" or self.description["eeg"]["pulse"] != "none":
            raise ValueError(
                "this model needs EEG normalised by its past, or without the pulse artefact: use the command "
                "python -m platform.predict, or give EEG so prepared with is_prepared"
            )
        eeg_CN = filtered(resampled(eeg_CN, rate_hz, self.eeg_rate_hz), self._array(KERNEL))
        if self.description["eeg"]["reference"] == "average":
            eeg_CN = eeg_CN - eeg_CN.mean(axis=0)
        return normalised(eeg_CN, self.description["eeg"]["normalisation"])

    def seen(self, prepared_CN: Signal) -> NDArray[np.float16]:
        """Return prepared EEG as a model sees it, after the steps of shards and of the local cache, (C, S)."""
        scale = np.float32(self.description["eeg_scale"])
        steps_CN = np.clip(np.rint(prepared_CN.astype(np.float32) / scale), -_LARGEST_STEP, _LARGEST_STEP)
        factor = round(self.eeg_rate_hz / self.description["rate_hz"])
        stored_CN = steps_CN.astype(np.float32) * scale
        return (stored_CN if factor == 1 else resample_poly(stored_CN, 1, factor, axis=1)).astype(np.float16)

    def volumes(self, eeg_CS: NDArray[np.float16], alignment_CC: torch.Tensor | None) -> Iterator[Floats]:
        """Yield the volumes that EEG as the model sees it predicts, some at a time, each (B, V).

        Args:
            eeg_CS: of one recording.
            alignment_CC: what ``alignment`` gives for its subject.

        Raises:
            ValueError: where no window fits into it.
        """
        num_windows = eeg_CS.shape[1] // self.samples_per_volume - self.window_volumes
        if num_windows < 1:
            seconds = (self.window_volumes + 1) * self.description["repetition_time_s"]
            raise ValueError(
                f"EEG must last {seconds:g} s or more, but lasts {eeg_CS.shape[1] / self.description['rate_hz']:g} s"
            )
        for piece_B in np.array_split(np.arange(num_windows), -(-num_windows // MOST_WINDOWS)):
            windows_BCS = self._windows(eeg_CS, piece_B)
            with torch.inference_mode():
                yield self.program(windows_BCS if alignment_CC is None else alignment_CC @ windows_BCS).numpy()

    def alignment(self, recordings: Sequence[NDArray[np.float16]]) -> torch.Tensor | None:
        """Return what mixes a subject's channels before the model sees its recordings, (C, C); None for nothing."""
        how = self.description["alignment"]
        if how == "none":
            return None
        rate_hz = self.description["rate_hz"]
        pieces_NCC = np.concatenate([piece_covariances(eeg_CS, rate_hz) for eeg_CS in recordings])
        if how == "monge":
            mean_CC = MEANS["euclidean"](pieces_NCC)
            return torch.from_numpy(monge_matrix(mean_CC, self._array(BARYCENTRE)))
        return torch.from_numpy(aligning_matrix(MEANS[how](pieces_NCC)))

    def _windows(self, eeg_CS: NDArray[np.float16], piece_B: NDArray[np.int64]) -> torch.Tensor:
        length = self.window_volumes * self.samples_per_volume
        starts_B = (piece_B * self.samples_per_volume).tolist()
        return torch.from_numpy(np.stack([eeg_CS[:, start : start + length] for start in starts_B])).float()

    def _checked(self, eeg_CN: Signal) -> Signal:
        eeg_CN = np.asarray(eeg_CN)
        if eeg_CN.ndim != 2 or len(eeg_CN) != len(self.channel_names):  # noqa: PLR2004
            raise ValueError(
                f"EEG must have the shape ({len(self.channel_names)}, samples), channels {self.channel_names}, but has "
                f"{eeg_CN.shape}"
            )
        if not np.isfinite(eeg_CN).all():
            raise ValueError("EEG must be finite, but some of its samples are NaN or infinite")
        return eeg_CN

    def _array(self, name: str) -> NDArray[Any]:
        return np.asarray(np.load(self.folder / name, allow_pickle=False))


def resampled(eeg_CN: Signal, rate_hz: float, new_rate_hz: float) -> Floats:
    """Return EEG at another rate, ends continued by their last value."""
    ratio = (Fraction(new_rate_hz) / Fraction(rate_hz)).limit_denominator(LARGEST_FACTOR)
    if ratio == 1:
        return eeg_CN.astype(np.float32)
    longer_CN = resample_poly(eeg_CN, ratio.numerator, ratio.denominator, axis=1, padtype="edge")
    return np.asarray(longer_CN[:, : round(eeg_CN.shape[1] * new_rate_hz / rate_hz)], np.float32)


def filtered(eeg_CN: Signal, kernel_K: NDArray[np.float64]) -> Floats:
    """Return EEG convolved with a symmetric kernel, ends continued by their reflection through the last sample."""
    half = len(kernel_K) // 2
    if not half:
        return eeg_CN.astype(np.float32)
    if eeg_CN.shape[1] <= half:
        raise ValueError(f"EEG must have more than {half} samples to be filtered, but has {eeg_CN.shape[1]}")
    filtered_CN = np.empty(eeg_CN.shape, np.float32)
    for channel, signal in enumerate(eeg_CN):
        continued = np.pad(signal.astype(np.float64), half, mode="reflect", reflect_type="odd")
        filtered_CN[channel] = oaconvolve(continued, kernel_K, mode="valid")
    return filtered_CN


def normalised(eeg_CN: Floats, method: str) -> Floats:
    """Return every channel less its centre, over its width; a constant channel becomes zeros."""
    centre_C, width_C = _SCALES[method](eeg_CN.astype(np.float64))
    is_constant_C = width_C <= np.finfo(np.float32).eps * np.abs(centre_C)
    factor_C = np.where(is_constant_C, 0.0, 1.0 / np.where(is_constant_C, 1.0, width_C))
    return np.asarray((eeg_CN - centre_C[:, None]) * factor_C[:, None], np.float32)


def _extremes(eeg_CN: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low_C, high_C = eeg_CN.min(axis=1), eeg_CN.max(axis=1)
    return (low_C + high_C) / 2, (high_C - low_C) / 2


def _quartiles(eeg_CN: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low_C, middle_C, high_C = np.percentile(eeg_CN, [25, 50, 75], axis=1)
    return middle_C, (high_C - low_C) * _PER_QUARTILES


_SCALES: dict[str, Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]]] = {
    "zscore": lambda eeg_CN: (eeg_CN.mean(axis=1), eeg_CN.std(axis=1)),
    "minmax": _extremes,
    "robust": _quartiles,
}


class ArrayModel:
    """The portable model as MLflow calls it."""

    def __init__(self, model: PortableModel) -> None:
        self.model = model

    def predict(self, eeg_CN: Signal, params: Mapping[str, Any] | None = None) -> Floats:
        """Return volumes, (T, V), of EEG, (C, N); ``params`` are ``rate_hz`` and ``is_prepared``."""
        given = dict(params or {})
        return self.model.predict(
            eeg_CN, rate_hz=given.get("rate_hz") or None, is_prepared=bool(given.get("is_prepared", False))
        )


def _load_pyfunc(data_path: str) -> ArrayModel:
    """Return the model for MLflow, which finds this function by its name."""
    return ArrayModel(PortableModel(data_path))
