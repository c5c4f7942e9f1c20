"""Augmentations that a trial may choose from: what training windows may undergo and still be followed by their volume.

Takes a batch of windows, a strength in [0, 1] and a generator; gives the batch as it is trained on.

Legend of shapes: B windows of a batch, C channels, S samples, K outputs of the model.  A cached input has no channels
and samples, only features (B, F): what needs more leaves it as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

_EEG_DIMENSIONS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Windows with their targets: ``inputs`` (B, C, S) or (B, F), ``targets_BK``, and whose each is, ``subject_B``."""

    inputs: Tensor
    targets_BK: Tensor
    subject_B: Tensor


Augmentation = Callable[[Batch, float, torch.Generator], Batch]


def none(batch: Batch, strength: float, generator: torch.Generator) -> Batch:
    """Leave the windows as they are."""
    del strength, generator
    return batch


def channel_dropout(batch: Batch, strength: float, generator: torch.Generator) -> Batch:
    """Silence each channel of each window with this probability (Saeed et al. 2021)."""
    if batch.inputs.ndim != _EEG_DIMENSIONS:
        return batch
    kept_BC1 = torch.rand(*batch.inputs.shape[:2], 1, generator=generator) >= strength
    return replace(batch, inputs=batch.inputs * kept_BC1)


def time_shift(batch: Batch, strength: float, generator: torch.Generator) -> Batch:
    """Shift each window by up to this share of a twentieth of its length (1.5 s of 30 s), silence moving in."""
    if batch.inputs.ndim != _EEG_DIMENSIONS:
        return batch
    num_samples = batch.inputs.shape[2]
    most = max(1, round(strength * num_samples / 20))
    shifts_B = torch.randint(-most, most + 1, (len(batch.inputs),), generator=generator).tolist()
    shifted = torch.zeros_like(batch.inputs)
    for window_CS, source_CS, by in zip(shifted, batch.inputs, shifts_B, strict=True):
        window_CS[:, max(by, 0) : num_samples + min(by, 0)] = source_CS[:, max(-by, 0) : num_samples - max(by, 0)]
    return replace(batch, inputs=shifted)


def amplitude_scale(batch: Batch, strength: float, generator: torch.Generator) -> Batch:
    """Scale each window by exp of normal noise of this standard deviation: caps and skulls differ in gain."""
    if batch.inputs.ndim != _EEG_DIMENSIONS:
        return batch
    return replace(batch, inputs=batch.inputs * torch.exp(strength * _normal(batch, (1, 1), generator)))


def noise(batch: Batch, strength: float, generator: torch.Generator) -> Batch:
    """Add white noise of this share of the batch's standard deviation."""
    drawn = _normal(batch, tuple(batch.inputs.shape[1:]), generator)
    return replace(batch, inputs=batch.inputs + strength * batch.inputs.std() * drawn)


def phase_surrogate(batch: Batch, strength: float, generator: torch.Generator) -> Batch:
    """Turn the phases of each window's spectrum by up to this share of a full turn, alike in all channels.

    Power and the relations between channels stay (Schwabedal et al. 2018).
    """
    if batch.inputs.ndim != _EEG_DIMENSIONS:
        return batch
    num_samples = batch.inputs.shape[2]
    spectrum = torch.fft.rfft(batch.inputs)
    turn = torch.pi * strength * (2 * torch.rand(len(spectrum), 1, spectrum.shape[2], generator=generator) - 1)
    turn[..., 0] = 0
    return replace(batch, inputs=torch.fft.irfft(spectrum * torch.polar(torch.ones_like(turn), turn), num_samples))


def mixup(batch: Batch, strength: float, generator: torch.Generator) -> Batch:
    """Blend each window and its volume with those of another, whoever's it is (Zhang et al. 2018)."""
    return _mixed(batch, torch.randperm(len(batch.inputs), generator=generator), strength, generator)


def mixup_within(batch: Batch, strength: float, generator: torch.Generator) -> Batch:
    """Blend each window and its volume with those of another of the same subject."""
    partner_B = torch.arange(len(batch.inputs))
    for subject in batch.subject_B.unique():
        own = torch.nonzero(batch.subject_B == subject).flatten()
        partner_B[own] = own[torch.randperm(len(own), generator=generator)]
    return _mixed(batch, partner_B, strength, generator)


def _mixed(batch: Batch, partner_B: Tensor, strength: float, generator: torch.Generator) -> Batch:
    """Blend with a partner, of which at most half is taken, and at most this strength."""
    share_B = strength * 0.5 * torch.rand(len(partner_B), generator=generator)
    share = share_B.view(-1, *[1] * (batch.inputs.ndim - 1))
    return replace(
        batch,
        inputs=(1 - share) * batch.inputs + share * batch.inputs[partner_B],
        targets_BK=(1 - share_B[:, None]) * batch.targets_BK + share_B[:, None] * batch.targets_BK[partner_B],
    )


def _normal(batch: Batch, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(len(batch.inputs), *shape, generator=generator)


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": none,
    "channel_dropout": channel_dropout,
    "time_shift": time_shift,
    "amplitude_scale": amplitude_scale,
    "noise": noise,
    "phase_surrogate": phase_surrogate,
    "mixup": mixup,
    "mixup_within": mixup_within,
}
