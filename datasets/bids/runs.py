"""What the files of one BIDS run say of its BOLD: the repetition time, the number of volumes, whether it is one run.

Takes a recording or its image; gives numbers, or BadInput with the reason why the run cannot be used.
"""

import zlib
from pathlib import Path
from typing import Any

import nibabel

from datasets.bids.files import EEG_EXTENSIONS, IMAGE_EXTENSIONS, metadata, parse_name, run_key
from datasets.errors import BadInput
from datasets.images import is_empty
from datasets.matlab import first_line
from datasets.recording import SCANNER, Recording

LONGEST_REPETITION_S = 100.0
SECONDS_IN = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
_UNREADABLE = (
    OSError, ValueError, EOFError, OverflowError, zlib.error, nibabel.filebasedimages.ImageFileError,
    nibabel.spatialimages.HeaderDataError,
)  # fmt: skip


def repetition_time_s(bold: Path) -> float:
    """Return the seconds between volumes: RepetitionTime of the sidecars, else what the image's header says.

    Raises:
        BadInput: neither tells, or it is no number of seconds.
    """
    fields = metadata(bold)
    stated = fields.get("RepetitionTime")
    if stated is None and "VolumeTiming" in fields:
        raise BadInput(f"{bold.name} was acquired with gaps (VolumeTiming); volumes must come once a RepetitionTime")
    seconds = _header_repetition_time_s(bold) if stated is None else stated
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < LONGEST_REPETITION_S:
        raise BadInput(
            f"{bold.name} must have a RepetitionTime in seconds in its sidecar (_bold.json), but it is {seconds}"
        )
    return float(seconds)


def num_volumes(recording: Recording) -> int:
    """Return how many volumes a recording has, from the images' headers; BadInput where they cannot be read."""
    if len(recording.bold) > 1:
        return len(recording.bold)
    shape = image_shape(recording.bold[0])
    return shape[3] if len(shape) > 3 else 1


def image_shape(path: Path) -> tuple[int, ...]:
    """Return an image's shape from its header; BadInput where it cannot be read."""
    return tuple(int(size) for size in _header(path).get_data_shape())


def refuse_twins(recording: Recording) -> None:
    """Refuse a run of which there are two images, or two EEG files: nobody can tell which is meant."""
    paths = [] if recording.eeg is None else [recording.eeg]
    if recording.space == SCANNER:
        paths.append(recording.bold[0])
    for path in paths:
        twins = _twins(path)
        if len(twins) > 1:
            raise BadInput(
                f"there are {len(twins)} files of this one run: {', '.join(twin.name for twin in twins)}; "
                "keep one of them, or give them different run- numbers"
            )


def _twins(path: Path) -> list[Path]:
    own, key = parse_name(path), run_key(path)
    if own is None or key is None:
        return [path]
    extensions = EEG_EXTENSIONS if own.suffix == "eeg" else IMAGE_EXTENSIONS
    same = []
    for candidate in sorted(path.parent.glob(f"*_{own.suffix}.*")):
        name = parse_name(candidate)
        if name is None or name.extension not in extensions or run_key(candidate) != key:
            continue
        if name.entities.get("part", "mag") == "mag" and "space" not in name.entities:
            same.append(candidate)
    return same


def _header_repetition_time_s(bold: Path) -> float | None:
    header = _header(bold)
    zooms, unit = header.get_zooms(), header.get_xyzt_units()[1]
    return float(zooms[3]) * SECONDS_IN[unit] if len(zooms) > 3 and unit in SECONDS_IN else None


def _header(path: Path) -> Any:  # noqa: ANN401 - a NIfTI header
    try:
        if is_empty(path):
            raise BadInput(f"cannot read the BOLD of {path}: it is empty (0 bytes); download it again")
        return nibabel.load(path).header
    except BadInput:
        raise
    except _UNREADABLE as error:
        raise BadInput(f"cannot read the BOLD of {path}: {first_line(error)}; download it again") from error
