"""Take the BOLD that fMRIPrep or SPM has already prepared instead of the raw one.

Takes recordings and the folder of that pipeline's output; gives the recordings that it has output of, each with the
image, the template in whose space it lies, and, where they were left, a brain mask and a table of confounds.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.bids.files import natural_order, number_in, parse_name, read_json, read_rows, run_key
from datasets.bids.runs import image_shape, num_volumes
from datasets.errors import BadInput, may_pass
from datasets.motion import MOTION_NAMES, framewise_displacement
from datasets.recording import Recording

FMRIPREP_SPACES = ("MNI152NLin2009cAsym", "MNI152NLin6Asym")
"""The templates that are read, the preferred one first."""
SPM_SPACE = "IXI549Space"
"""What BIDS calls the space of SPM12's tissue maps, to which it normalises."""
SPM_STEPS = {"a": "corrected for slice timing (a)", "ru": "realigned (r or u)"}
CONFOUND_COLUMNS = {
    **{name: name for name in MOTION_NAMES},
    "framewise_displacement": "framewise_displacement",
    "global_signal": "global_signal",
    "csf_signal": "csf",
    "white_signal": "white_matter",
}
"""The columns of our tables, and what fMRIPrep calls them."""

_SPM_NAME = re.compile(r"(?P<prefix>s\d*w[aru]*)(?P<name>(?:sub-|bold|f|run|vol|[^aru]).*)\.nii(\.gz)?")
_LEGACY_RUN = re.compile(r"task\d{3}_run\d{3}")
_NUMBERS = re.compile(r"\d+")
_VOLUME_NUMBER = re.compile(r"(?<=_bold)_\d+(?=\.nii(\.gz)?$)")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Output:
    """What a pipeline made of one run."""

    bold: tuple[Path, ...]
    space: str
    brain_mask: Path | None = None
    confounds: Path | None = None


def use_fmriprep(recordings: Sequence[Recording], folder: Path) -> list[Recording]:
    """Return the recordings with fMRIPrep's BOLD in MNI space; one without has a ``fault``.

    Of two templates the one that more runs have is taken for all, MNI152NLin2009cAsym where it is both.  Of several
    resolutions that without ``res-`` is taken, else the first by name.

    Raises:
        BadInput: the folder holds no such BOLD of any of the recordings.
    """
    root = _existing(folder, "fMRIPrep")
    images = [path for place in (root, root / "fmriprep") for path in _preprocessed(place)]
    by_space = {
        space: {recording.name: found for recording in recordings if (found := _of_run(recording, images, space))}
        for space in FMRIPREP_SPACES
    }
    space = max(FMRIPREP_SPACES, key=lambda name: len(by_space[name]))
    if all(by_space.values()):
        logger.warning("fMRIPrep's BOLD is there in %s; %s is taken for all", " and ".join(FMRIPREP_SPACES), space)
    outputs = {name: _fmriprep_output(found[0], space) for name, found in by_space[space].items()}
    wanted = f"*_space-{space}_desc-preproc_bold.nii.gz" if outputs else f"*_space-{{{','.join(FMRIPREP_SPACES)}}}_*"
    return _replaced(recordings, outputs, f"{wanted} in {root}")


def use_spm(recordings: Sequence[Recording], folder: Path) -> list[Recording]:
    """Return the recordings with SPM's normalised and smoothed BOLD; one without has a ``fault``.

    Of a run the images with the longest history in their prefix are taken: swar before swa before sw.  A run is one
    4-D image, or one 3-D image a volume, in the order of their numbers.

    Raises:
        BadInput: the folder holds no such BOLD of any of the recordings.
    """
    root = _existing(folder, "SPM")
    images = sorted({*root.rglob("s*w*.nii"), *root.rglob("s*w*.nii.gz")})
    outputs, faulty = {}, []
    for recording in recordings:
        of_run = [path for path in images if _belongs(path, recording)]
        try:
            if of_run:
                outputs[recording.name] = _spm_output(recording, of_run)
        except BadInput as problem:
            faulty.append(_faulty(recording, problem))
    known = {recording.name: recording for recording in faulty}
    return _replaced([known.get(each.name, each) for each in recordings], outputs, f"swar*.nii in {root}")


def common_space(recordings: Iterable[Recording]) -> str:
    """Return the space in which the BOLD of all usable recordings lies; BadInput where they differ."""
    counts = Counter(recording.space for recording in recordings if not recording.fault)
    if len(counts) != 1:
        said = ", ".join(f"{count} in {space}" for space, count in sorted(counts.items()))
        raise BadInput(
            f"all BOLD must lie in one space, but of the recordings there are {said or 'none'}; prepare them apart"
        )
    return next(iter(counts))


def read_pipeline_confounds(path: Path) -> dict[str, NDArray[np.float64]]:
    """Return confounds that another pipeline left, (volumes,) each, under our tables' names; nan where not known.

    Reads fMRIPrep's table, and SPM's ``rp_*.txt`` (six columns: mm, and pitch, roll, yaw in rad).

    Raises:
        BadInput: the table cannot be read.
    """
    if path.suffix == ".txt":
        return _spm_confounds(path)
    rows = read_rows(path, ())
    return {
        name: np.array([number_in(row.get(column, "n/a")) for row in rows], dtype=np.float64)
        for name, column in CONFOUND_COLUMNS.items()
    }


def _existing(folder: Path, pipeline: str) -> Path:
    if not Path(folder).is_dir():
        raise BadInput(f"{folder} must be the folder of {pipeline}'s output, but there is no such folder")
    return Path(folder)


def _replaced(recordings: Sequence[Recording], outputs: dict[str, _Output], wanted: str) -> list[Recording]:
    """Return the recordings with their output; one without has a fault, which preparation lists."""
    replaced = [_with(recording, outputs.get(recording.name), wanted) for recording in recordings]
    if all(recording.fault for recording in replaced):
        raise BadInput(f"no recording has {wanted}; give the folder of that pipeline's output")
    return replaced


def _with(recording: Recording, output: _Output | None, wanted: str) -> Recording:
    if output is None:
        return replace(recording, fault=recording.fault or f"there is no {wanted} of it")
    try:
        _check_length(recording, output)
    except BadInput as problem:
        return _faulty(recording, problem)
    return replace(
        recording,
        bold=output.bold,
        space=output.space,
        brain_mask=output.brain_mask,
        confounds=output.confounds,
        slice_order=None,
    )


def _faulty(recording: Recording, problem: BadInput) -> Recording:
    return replace(recording, fault=str(problem), fault_may_pass=may_pass(problem))


def _check_length(recording: Recording, output: _Output) -> None:
    """Refuse output whose number of volumes is not the raw run's.

    A pipeline that dropped volumes at the start would pair all EEG with the wrong ones.
    """
    raw, prepared = num_volumes(recording), num_volumes(replace(recording, bold=output.bold))
    if raw != prepared:
        raise BadInput(f"{output.bold[0].name}: it has {prepared} volumes, the raw run has {raw}")
    if output.confounds is not None and (rows := _num_rows(output.confounds)) != prepared:
        raise BadInput(f"{output.confounds.name}: it has {rows} rows, but the run has {prepared} volumes")


def _num_rows(confounds: Path) -> int:
    return len(read_pipeline_confounds(confounds)["trans_x"])


def _preprocessed(root: Path) -> list[Path]:
    patterns = ("sub-*/func/*_desc-preproc_bold.nii*", "sub-*/ses-*/func/*_desc-preproc_bold.nii*")
    return [path for pattern in patterns for path in sorted(root.glob(pattern))]


def _of_run(recording: Recording, images: Sequence[Path], space: str) -> list[Path]:
    """Return a run's images in a template's space, the one to take first."""
    found = []
    for path in images:
        name = parse_name(path)
        if name is not None and name.entities.get("space") == space and _belongs(path, recording):
            found.append((("res" in name.entities), path.name, path))
    return [path for _, _, path in sorted(found)]


def _fmriprep_output(bold: Path, space: str) -> _Output:
    stem = bold.name.split("_space-")[0]
    mask = bold.with_name(re.sub(r"_desc-preproc_bold\.nii(\.gz)?$", "_desc-brain_mask.nii.gz", bold.name))
    tables = [bold.with_name(f"{stem}_desc-confounds_{kind}.tsv") for kind in ("timeseries", "regressors")]
    sidecar = bold.with_name(f"{bold.name.split('.')[0]}.json")
    if sidecar.is_file() and read_json(sidecar).get("SliceTimingCorrected") is False:
        logger.warning("%s was not corrected for slice timing", bold.name)
    return _Output(
        bold=(bold,),
        space=space,
        brain_mask=mask if mask.is_file() else None,
        confounds=next((table for table in tables if table.is_file()), None),
    )


def _belongs(path: Path, recording: Recording) -> bool:
    """Tell whether a pipeline's image is of a recording's run: by its BIDS name, or by ds000116's legacy folders."""
    raw = recording.bold[0]
    own, other = run_key(raw), run_key(_without_prefix(path))
    if own is not None and other is not None:
        return own == other
    if other is not None:
        return (f"sub-{other.subject}", other.run) == (recording.subject, recording.run) and other.task.startswith(
            recording.task
        )
    return _legacy_key(path) is not None and _legacy_key(path) == (_legacy_key(raw) or _legacy_key_of(recording))


def _without_prefix(path: Path) -> Path:
    """Return the path without what SPM puts before a BIDS name, and without the number of a volume after it."""
    _, separator, rest = path.name.partition("sub-")
    return path.with_name(separator + _VOLUME_NUMBER.sub("", rest)) if separator else path


def _legacy_key(path: Path) -> tuple[str, str] | None:
    """Return the subject's number and the run's folder of a file in .../sub001/BOLD/task001_run001/."""
    run, subject = path.parent.name, path.parents[2].name if len(path.parents) > 2 else ""
    match = re.fullmatch(r"sub-?(\d+)", subject)
    return (match[1].lstrip("0"), run) if match and _LEGACY_RUN.fullmatch(run) else None


def _legacy_key_of(recording: Recording) -> tuple[str, str] | None:
    """Return what ds000116's legacy layout calls the run of a recording that was found under its BIDS name."""
    from datasets.oddball import TASKS

    tasks = {name: number for number, name in TASKS.items()}
    number = recording.subject.removeprefix("sub-").lstrip("0")
    if recording.task not in tasks:
        return None
    return number, f"task{tasks[recording.task]:03d}_run{recording.run:03d}"


def _spm_output(recording: Recording, images: Sequence[Path]) -> _Output:
    by_prefix: dict[str, list[Path]] = {}
    for path in images:
        if match := _SPM_NAME.fullmatch(path.name):
            by_prefix.setdefault(match["prefix"], []).append(path)
    if not by_prefix:
        raise BadInput(f"no image of {images[0].parent} is called swar*.nii, swa*.nii or sw*.nii")
    prefix = min(by_prefix, key=lambda name: (len(_lacking(name)), name))
    for step in _lacking(prefix):
        logger.warning("%s: by its name %s*.nii is not %s", recording.name, prefix, step)
    bold = _series(by_prefix[prefix])
    parameters = sorted(bold[0].parent.glob("rp_*.txt"))
    return _Output(bold=bold, space=SPM_SPACE, confounds=parameters[0] if len(parameters) == 1 else None)


def _lacking(prefix: str) -> list[str]:
    return [step for letters, step in SPM_STEPS.items() if not set(letters) & set(prefix)]


def _series(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return the one 4-D image, or the 3-D images in the order of the volumes' numbers."""
    is_series = {path: len(image_shape(path)) > 3 and image_shape(path)[3] > 1 for path in paths}
    whole = [path for path in paths if is_series[path]]
    if len(whole) == 1:
        return (whole[0],)
    if whole:
        raise BadInput(f"there are {len(whole)} series of one run: {', '.join(path.name for path in whole)}; keep one")
    ordered = sorted(paths, key=lambda path: natural_order(path.name))
    _check_numbers(ordered)
    return tuple(ordered)


def _check_numbers(paths: Sequence[Path]) -> None:
    """Refuse a run whose volumes are not numbered without a gap."""
    numbers = [tuple(int(number) for number in _NUMBERS.findall(path.name)) for path in paths]
    columns = [column for column in zip(*numbers, strict=False) if len(set(column)) > 1]
    if len({len(row) for row in numbers}) != 1 or not columns:
        raise BadInput(f"cannot tell the order of the volumes {paths[0].name} to {paths[-1].name} by their numbers")
    if not any(np.all(np.diff(column) == 1) for column in columns):
        raise BadInput(f"volumes are missing between {paths[0].name} and {paths[-1].name}; their numbers have gaps")


def _spm_confounds(path: Path) -> dict[str, NDArray[np.float64]]:
    try:
        parameters = np.loadtxt(path, dtype=np.float64, ndmin=2)
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read the motion parameters of {path}: {error}") from error
    if parameters.shape[1] != len(MOTION_NAMES):
        raise BadInput(f"{path} must have six columns, but has {parameters.shape[1]}")
    unknown = np.full(len(parameters), np.nan)
    return {
        **dict.fromkeys(CONFOUND_COLUMNS, unknown),
        **{name: parameters[:, number] for number, name in enumerate(MOTION_NAMES)},
        "framewise_displacement": framewise_displacement(parameters),
    }
