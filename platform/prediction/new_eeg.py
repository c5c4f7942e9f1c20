"""A recording that no model has seen, treated as preparation treated the EEG that a model was trained on.

Takes a file in any format that mne reads and a portable model's description; gives EEG as the model sees it.  A long
recording is treated in stretches, each as a run, so that memory does not grow with its length.

Legend of shapes: C channels, N samples as stored, S samples as the model sees them.
"""

import itertools
import logging
import math
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mne
import numpy as np
from numpy.typing import NDArray

from datasets.bad_channels import interpolate
from datasets.bids.eeg import companions
from datasets.eeg import (
    EegSettings,
    Normaliser,
    clean_eeg,
    fit_normaliser,
    future_seconds,
    where_not_finite,
)
from datasets.errors import BadInput
from datasets.recording import EegSignal
from platform.prediction.portable import PortableModel, resampled

logger = logging.getLogger(__name__)

MICROVOLTS = 1e6
STRETCH_SECONDS = 600.0
"""Of a recording, treated at once: its bad channels and heart beats are found anew in each."""
MARGIN_SECONDS = 4.0
"""Beside what the filters reach: the pulse artefact's templates and the change of rate need some, too."""
MOST_MISSING = 0.25
_HEART = re.compile(r"ecg|ekg", re.IGNORECASE)
_EDGE_SAMPLES = 16
_WHOLE_SECOND = 1e-6
_SAME_RATE = 1e-4

Signal = NDArray[np.float32]
Raw = Any
"""A recording that mne has opened, ``mne.io.BaseRaw``."""


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A part of a recording in seconds, and from where to where it is read so that filters know what is beside it."""

    start_s: float
    stop_s: float
    read_from_s: float
    read_to_s: float


@contextmanager
def seen_eeg(path: Path, model: PortableModel) -> Iterator[NDArray[np.float16]]:
    """Read and treat a recording; the context holds its EEG as the model sees it, (C, S), on disk.

    Raises:
        BadInput: it cannot be read, lacks too many of the model's channels, is too short, or has samples that are no
            number.
    """
    raw = opened(path)
    settings = EegSettings(**model.description["eeg"])
    stretches = stretches_of(raw.n_times / raw.info["sfreq"], margin_s=_margin_s(model, settings))
    _check_rate(raw, model)
    _check_length(raw.n_times / raw.info["sfreq"], model)
    with tempfile.TemporaryDirectory(prefix="eeg2fmri-") as folder:
        num_samples = int(raw.n_times / raw.info["sfreq"] * model.eeg_rate_hz + _WHOLE_SECOND)
        shape = (len(model.channel_names), num_samples)
        clean_CN = np.memmap(Path(folder) / "clean", np.float32, "w+", shape=shape)
        for stretch in stretches:
            _clean_into(clean_CN, raw, stretch, model, settings)
        normaliser = fit_normaliser([_part(clean_CN, one, model) for one in stretches], settings, model.eeg_rate_hz)
        yield _as_seen(clean_CN, normaliser, model, Path(folder), stretches)


def opened(path: Path) -> Raw:
    """Open a recording in any format that mne reads; BadInput where it cannot be read."""
    if not path.exists():
        raise BadInput(f"no EEG at {path}; --eeg must name a file that mne reads, as .vhdr, .edf or .fif")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mne's remarks on file names and on what a header leaves out
            return mne.io.read_raw(path, preload=False, verbose="error")
    except Exception as error:  # noqa: BLE001 - a damaged file makes mne raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        beside = ", ".join(file.name for file in companions(path))
        read_too = f" (with {beside})" if beside else ""
        raise BadInput(f"mne cannot read {path}{read_too}: {reason}; convert it to .vhdr, .edf or .fif") from error


def stretches_of(seconds: float, *, margin_s: float, stretch_s: float = STRETCH_SECONDS) -> list[Stretch]:
    """Return the stretches of a recording, all of whole seconds but the last, which is never the shorter."""
    number = max(1, int(seconds // stretch_s))
    ends_s = [stretch_s * part for part in range(number)] + [seconds]
    return [
        Stretch(
            start_s=start_s,
            stop_s=stop_s,
            read_from_s=max(0.0, start_s - margin_s),
            read_to_s=min(seconds, stop_s + margin_s),
        )
        for start_s, stop_s in itertools.pairwise(ends_s)
    ]


def rows_of(names: Sequence[str], wanted: Sequence[str]) -> dict[str, int]:
    """Return the row of every wanted channel that a recording has, whatever the case of its letters.

    Raises:
        BadInput: more than a quarter of them are missing, or a name stands for two channels.
    """
    plain = [_plain(name) for name in names]
    rows = {name: plain.index(_plain(name)) for name in wanted if _plain(name) in plain}
    twice = [name for name in rows if plain.count(_plain(name)) > 1]
    if twice:
        raise BadInput(f"the EEG has several channels {', '.join(twice)}; leave one of each")
    missing = [name for name in wanted if name not in rows]
    if len(missing) > MOST_MISSING * len(wanted):
        raise BadInput(
            f"the EEG lacks {len(missing)} of the model's {len(wanted)} channels: {', '.join(missing)}; it has "
            f"{', '.join(names[:8])}{'...' if len(names) > 8 else ''}: rename its channels, or give the right file"  # noqa: PLR2004
        )
    return rows


def signal_of(raw: Raw, stretch: Stretch, model: PortableModel, settings: EegSettings) -> EegSignal:
    """Return a stretch's EEG in uV, the model's channels in their order; missing ones are to be filled as bad ones."""
    wanted, rate_hz = model.channel_names, float(raw.info["sfreq"])
    rows = rows_of(raw.ch_names, wanted)
    first, last = round(stretch.read_from_s * rate_hz), min(raw.n_times, round(stretch.read_to_s * rate_hz))
    found = raw.get_data(list(rows.values()), first, last).astype(np.float32) * np.float32(MICROVOLTS)
    _check_finite(found, list(rows), stretch.read_from_s, rate_hz)
    eeg_CN = np.zeros((len(wanted), last - first), np.float32)
    eeg_CN[[wanted.index(name) for name in rows]] = found
    heart = [row for row, name in enumerate(raw.ch_names) if _HEART.search(name) and row not in rows.values()]
    signal = EegSignal(
        eeg_uv=eeg_CN,
        channel_names=tuple(wanted),
        locations_m=tuple(
            None if place is None else tuple(place) for place in model.description["channel_locations_m"]
        ),
        rate_hz=rate_hz,
        ecg=raw.get_data(heart[:1], first, last)[0].astype(np.float32) if heart and settings.pulse != "none" else None,
    )
    return with_missing(signal, [name for name in wanted if name not in rows], settings)


def with_missing(signal: EegSignal, missing: Sequence[str], settings: EegSettings) -> EegSignal:
    """Return a signal whose missing channels, zero so far, are filled, or listed as bad where all bad ones are.

    Raises:
        BadInput: nobody knows where a missing channel lies.
    """
    if not missing:
        return signal
    placed = dict(zip(signal.channel_names, signal.locations_m, strict=True))
    nowhere = [name for name in missing if placed[name] is None]
    if nowhere:
        raise BadInput(f"the EEG lacks {', '.join(nowhere)}, and the model does not know where they lie to fill them")
    if settings.interpolate_bad:
        return replace(signal, listed_bad=tuple(missing))
    filled = interpolate(signal.eeg_uv, signal.channel_names, signal.locations_m, missing)
    return replace(signal, eeg_uv=filled)


def _margin_s(model: PortableModel, settings: EegSettings) -> float:
    return math.ceil(future_seconds(model.eeg_rate_hz, settings) + MARGIN_SECONDS)


def _check_length(seconds: float, model: PortableModel) -> None:
    least_s = (model.window_volumes + 1) * model.description["repetition_time_s"]
    if seconds < least_s:
        raise BadInput(f"the EEG must last {least_s:g} s or more to predict a volume, but lasts {seconds:g} s")


def _check_finite(eeg_CN: Signal, names: Sequence[str], since_s: float, rate_hz: float) -> None:
    finite = [bool(np.isfinite(signal).all()) for signal in eeg_CN]
    if all(finite):
        return
    listed = ", ".join(name for name, is_finite in zip(names, finite, strict=True) if not is_finite)
    after = f"of the stretch that begins at {since_s:g} s " if since_s else ""
    where = where_not_finite(eeg_CN, rate_hz)
    raise BadInput(f"EEG must be finite, but in channels {listed} {after}{where}; cut that part out, or repair it")


def _clean_into(
    clean_CN: NDArray[np.float32], raw: Raw, stretch: Stretch, model: PortableModel, settings: EegSettings
) -> None:
    settings = replace(settings, rate_hz=model.eeg_rate_hz)
    clean = clean_eeg(at_least(signal_of(raw, stretch, model, settings), model.eeg_rate_hz), settings)
    part = _part(clean_CN, stretch, model)
    first = round((stretch.start_s - stretch.read_from_s) * model.eeg_rate_hz)
    part[:] = clean.eeg[:, first : first + part.shape[1]]


def at_least(signal: EegSignal, rate_hz: float) -> EegSignal:
    """Return a signal at a rate, where its own is lower: preparation takes rates down only."""
    if signal.rate_hz >= rate_hz * (1 - _SAME_RATE):
        return signal
    heart = None if signal.ecg is None else resampled(signal.ecg[None], signal.rate_hz, rate_hz)[0]
    return replace(signal, eeg_uv=resampled(signal.eeg_uv, signal.rate_hz, rate_hz), ecg=heart, rate_hz=rate_hz)


def _check_rate(raw: Raw, model: PortableModel) -> None:
    """Refuse a recording that lacks frequencies which the model was trained to see."""
    seen_hz = float(model.description["rate_hz"])
    if raw.info["sfreq"] < seen_hz * (1 - _SAME_RATE):
        raise BadInput(
            f"the EEG has {raw.info['sfreq']:g} samples per second, but this model sees {seen_hz:g}: give it "
            "at that rate or above"
        )


def _part(clean_CN: NDArray[np.float32], stretch: Stretch, model: PortableModel) -> NDArray[np.float32]:
    start, stop = (round(seconds * model.eeg_rate_hz) for seconds in (stretch.start_s, stretch.stop_s))
    return clean_CN[:, start:stop]


def _as_seen(
    clean_CN: NDArray[np.float32],
    normaliser: Normaliser,
    model: PortableModel,
    folder: Path,
    stretches: Sequence[Stretch],
) -> NDArray[np.float16]:
    """Return normalised EEG as the model sees it, made stretch by stretch, with what the decimation filter reaches."""
    if normaliser.scale is None:
        return model.seen(normaliser(np.asarray(clean_CN)))
    factor = round(model.eeg_rate_hz / model.description["rate_hz"])
    shape = (len(clean_CN), -(-clean_CN.shape[1] // factor))
    seen_CS = np.memmap(folder / "seen", np.float16, "w+", shape=shape)
    reach = _EDGE_SAMPLES * factor
    for stretch in stretches:
        start, stop = (round(seconds * model.eeg_rate_hz) for seconds in (stretch.start_s, stretch.stop_s))
        start -= start % factor
        first, last = max(0, start - reach), min(clean_CN.shape[1], stop + reach)
        part_CS = model.seen(normaliser(np.asarray(clean_CN[:, first:last])))
        skipped = (start - first) // factor
        length = min(-(-stop // factor), shape[1]) - start // factor
        seen_CS[:, start // factor : start // factor + length] = part_CS[:, skipped : skipped + length]
    return seen_CS


def _plain(name: str) -> str:
    return name.strip().removeprefix("EEG ").removesuffix("-Ref").strip().upper()
