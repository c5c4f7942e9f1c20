"""Recordings to shards: the steps of preparation in order, one subject at a time.

Takes a subject's recordings and settings; gives its shards with what lies beside them, and its record, written when
all its files are: preparation that was interrupted goes on with the next subject.  What has no manifest, which comes
when all subjects are done, is not complete.
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import starmap
from typing import Any, Generic, TypeVar

from threadpoolctl import threadpool_limits

from datasets.eeg import Normaliser, fit_normaliser
from datasets.errors import BadInput, may_pass
from datasets.reading import Run, read_run
from datasets.recording import Recording
from datasets.run_preparation import (
    PreparationSettings,
    PreparedRun,
    Reference,
    align_subject,
    prepare_run,
    shared_layout,
)
from datasets.shards import VOXELS, Layout, Manifest, Skipped, entry_of, write_table
from datasets.storage import Storage, StorageUnusable, claim, open_storage
from datasets.subject_files import voxel_table, write_subject_files
from datasets.subject_record import SubjectRecord, input_sizes, record_entry, write_subject_record
from datasets.versions import package_versions, united

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Function = TypeVar("Function", bound=Callable[..., Any])

OF_EACH_HEAD = "channel_locations_m"
"""The one field of a layout in which subjects may differ: where electrodes were measured on each head."""
FINAL_ADVICE = "; download it again"
PASSING_ADVICE = "; this may pass: the same command tries it again"
SETTINGS_NAME = "preparation.json"
"""Where a storage says under which settings it is prepared, from the first moment on."""


@dataclass(kw_only=True)
class Findings:
    """What a user should know about a subject: recordings that were left out, and warnings, one line each.

    ``try_again`` names the recordings that were left out for a reason that may pass.
    """

    skipped: list[Skipped] = field(default_factory=list)
    try_again: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def skip(self, recordings: Iterable[Recording], reason: str, *, may_pass: bool = False) -> None:
        """List recordings that cannot be used."""
        names = [recording.name for recording in recordings]
        self.skipped += [Skipped(recording=name, reason=reason) for name in names]
        self.try_again += names if may_pass else []

    def keep(self, outcome: "Outcome[Result]") -> list[Result]:
        """Return what a step made, in a list, or list what was left out and return an empty one."""
        self.warnings += outcome.warnings
        if outcome.result is None:
            self.skip([outcome.recording], outcome.reason, may_pass=outcome.may_pass)
            return []
        return [outcome.result]


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome(Generic[Result]):
    """What came of a step on one recording: a result, or the reason why there is none, and whether that may pass."""

    recording: Recording
    result: Result | None = None
    reason: str = ""
    may_pass: bool = False
    warnings: tuple[str, ...] = ()


RunEach = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], Iterable[Any]]
"""Calls a function once for each tuple of arguments and gives the results in that order."""


def on_one_thread(work: Function) -> Function:
    """Return a function that computes on one thread, lest what it writes depend on how many the machine offers.

    Sums of several threads are rounded otherwise than those of one.
    """
    limited: Function = threadpool_limits.wrap(limits=1)(work)
    return limited


@on_one_thread
def prepare_subject(
    recordings: Sequence[Recording], shards_uri: str, settings: PreparationSettings, run_each: RunEach = starmap
) -> SubjectRecord:
    """Prepare all runs of one subject and return its record, which is written last.

    A recording that cannot be used is skipped and listed, not fatal; a subject may end up without any shard.
    ``run_each`` says where the runs are worked on: here, one after the other, or each as a task of its own.
    """
    storage, found = open_storage(shards_uri), Findings()
    runs = _of_one_layout(_read_runs(recordings, settings, run_each, found), settings, found)
    runs, reference = _aligned(runs, settings, found)
    prepared = _prepare_runs(runs, reference, shards_uri, settings, run_each, found) if reference else []
    subject = recordings[0].subject
    record = SubjectRecord(
        subject=subject,
        pipeline=settings.record,
        inputs=input_sizes(recordings),
        layout=shared_layout(runs[0], settings) if prepared else None,
        shards=tuple(run.shard for run in prepared),
        files=write_subject_files(storage, subject, [run.series for run in prepared], reference),
        skipped=tuple(sorted(found.skipped, key=lambda skipped: skipped.recording)),
        warnings=tuple(dict.fromkeys(found.warnings)),
        alignment=reference.alignment.to_json() if reference else {},
        quality={run.name: run.quality for run in prepared},
        try_again=tuple(sorted(found.try_again)),
        packages=package_versions(),
    )
    write_subject_record(storage, record)
    return record


def claim_settings(storage: Storage, settings: PreparationSettings) -> None:
    """Say at a storage under which settings it is prepared; BadInput where another preparation has said otherwise."""
    own = _canonical(settings)
    there = claim(storage, SETTINGS_NAME, own)
    if there == own:
        return
    try:
        differences = difference(json.loads(there), settings)
    except ValueError:
        differences = f"{SETTINGS_NAME} there is damaged"
    raise BadInput(
        f"{storage.uri} is prepared with other settings ({differences}); shards of different settings are never mixed: "
        "choose another folder, or prepare with the old settings, or, where nothing is prepared there yet, "
        f"delete {SETTINGS_NAME}"
    )


def difference(before: Mapping[str, Any], settings: PreparationSettings) -> str:
    """Return in words which settings differ between a record of them and now."""
    then, now = _flat(before), _flat(settings.record)
    changed = [key for key in sorted({*then, *now}) if then.get(key) != now.get(key)]
    return ", ".join(f"{key} {then.get(key)} then, {now.get(key)} now" for key in changed)


def complete_manifest(storage: Storage, records: Sequence[SubjectRecord], settings: PreparationSettings) -> Manifest:
    """Write the voxel table and return the manifest of these subjects, not written yet.

    Raises:
        BadInput: nothing could be prepared, subjects differ in what all shards must share, or another preparation with
            other settings has written here meanwhile.
    """
    _check_records(storage, records, settings)
    layouts = {record.subject: record.layout for record in records if record.layout is not None}
    shared = (write_table(storage, VOXELS, voxel_table()), entry_of(SETTINGS_NAME, _canonical(settings)))
    return Manifest(
        layout=next(iter(layouts.values())),
        pipeline=_pipeline(records, settings),
        shards=tuple(shard for record in records for shard in record.shards),
        files=(*shared, *map(record_entry, records), *(file for record in records for file in record.files)),
        skipped=tuple(skipped for record in records for skipped in record.skipped),
    )


def _pipeline(records: Sequence[SubjectRecord], settings: PreparationSettings) -> dict[str, Any]:
    """Return settings, packages and alignments; several versions of one package are shown, and warned of."""
    packages = united([record.packages for record in records])
    if several := [f"{name} {found}" for name, found in packages.items() if ", " in found]:
        logger.warning("subjects were prepared with several versions of %s", "; ".join(several))
    alignment = {record.subject: record.alignment for record in records}
    return {**settings.record, "packages": packages, "alignment": alignment}


def _check_records(storage: Storage, records: Sequence[SubjectRecord], settings: PreparationSettings) -> None:
    foreign = [record.subject for record in records if record.pipeline != settings.record]
    if foreign:
        raise BadInput(
            f"another preparation has written {', '.join(foreign)} at {storage.uri} with other settings meanwhile; "
            "choose another folder for one of the two"
        )
    layouts = {record.subject: record.layout for record in records if record.layout is not None}
    if not layouts:
        reasons = "; ".join(sorted({skipped.reason for record in records for skipped in record.skipped}))
        raise BadInput(f"no recording could be prepared: {reasons}")
    first, layout = next(iter(layouts.items()))
    for subject, other in layouts.items():
        if differs := _layout_difference(layout, other):
            raise BadInput(
                f"{subject} differs from {first} in {differs}, which all shards of a set must share: "
                f"leave {subject} out with --exclude, or prepare it into another folder"
            )


def _read_runs(
    recordings: Sequence[Recording], settings: PreparationSettings, run_each: RunEach, found: Findings
) -> list[Run]:
    outcomes = run_each(_read, [(recording, settings) for recording in recordings])
    return [run for outcome in outcomes for run in found.keep(outcome)]


def _read(recording: Recording, settings: PreparationSettings) -> Outcome[Run]:
    return _tried(recording, lambda: read_run(recording, settings.eeg))


def _prepare_runs(
    runs: Sequence[Run],
    reference: Reference,
    shards_uri: str,
    settings: PreparationSettings,
    run_each: RunEach,
    found: Findings,
) -> list[PreparedRun]:
    normaliser = fit_normaliser([run.clean.eeg for run in runs], settings.eeg, runs[0].clean.rate_hz)
    work = [(run, normaliser, reference, shards_uri, settings) for run in runs]
    return [prepared for outcome in run_each(_prepare, work) for prepared in found.keep(outcome)]


def _prepare(
    run: Run, normaliser: Normaliser, reference: Reference, shards_uri: str, settings: PreparationSettings
) -> Outcome[PreparedRun]:
    return _tried(run.recording, lambda: prepare_run(run, normaliser, reference, open_storage(shards_uri), settings))


@on_one_thread
def _tried(recording: Recording, step: Callable[[], Result]) -> Outcome[Result]:
    """Return what a step gives, or why it gives nothing, with what was warned of meanwhile, by the recording's name.

    A storage that refuses is not the recording's fault: that is raised.
    """
    result, reason, passing = None, "", False
    with _collected_warnings() as lines:
        try:
            result = step()
        except StorageUnusable:
            raise
        except BadInput as refusal:
            passing = may_pass(refusal)
            reason = f"{str(refusal).removesuffix(FINAL_ADVICE)}{PASSING_ADVICE}" if passing else str(refusal)
    named = [line if recording.name in line else f"{recording.name}: {line}" for line in lines]
    return Outcome(recording=recording, result=result, reason=reason, may_pass=passing, warnings=tuple(named))


def _of_one_layout(runs: Sequence[Run], settings: PreparationSettings, found: Findings) -> list[Run]:
    """Return the runs that share the first one's channels, rates and template, and list the others."""
    kept = []
    for run in runs:
        difference = _layout_difference(shared_layout(runs[0], settings), shared_layout(run, settings))
        if difference:
            found.skip([run.recording], f"it differs from {runs[0].recording.name} in {difference}")
        else:
            kept.append(run)
    return kept


def _layout_difference(first: Layout, second: Layout) -> str:
    """Return in words in what two layouts differ; empty where their shards may be mixed."""
    names = {each.name for each in dataclasses.fields(Layout)} - {OF_EACH_HEAD}
    differing = sorted(name for name in names if getattr(first, name) != getattr(second, name))
    return ", ".join(name.replace("_", " ") for name in differing)


def _aligned(runs: list[Run], settings: PreparationSettings, found: Findings) -> tuple[list[Run], Reference | None]:
    """Align the subject by the first run that can be aligned, and return it with that run and those after it.

    The runs before it are listed; where none can be aligned all are.
    """
    for number, run in enumerate(runs):
        outcome = _tried(run.recording, partial(align_subject, run, settings.bold))
        found.warnings += outcome.warnings
        if outcome.result is not None:
            return runs[number:], outcome.result
        reason = f"the subject cannot be aligned by it: {outcome.reason}"
        found.skip([run.recording], reason, may_pass=outcome.may_pass)
    return [], None


def _canonical(settings: PreparationSettings) -> bytes:
    return (json.dumps(settings.record, sort_keys=True, indent=1) + "\n").encode()


def _flat(fields: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(fields, Mapping):
        return {prefix.rstrip("."): fields}
    return {key: value for name, inner in fields.items() for key, value in _flat(inner, f"{prefix}{name}.").items()}


class _Lines(logging.Handler):
    """Collects what is warned of, one line each: a worker's own log is seen by nobody."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning's text, once."""
        text = record.getMessage()
        if text not in self.lines:
            self.lines.append(text)


@contextmanager
def _collected_warnings() -> Iterator[list[str]]:
    """Collect what is warned of by this package while the context lasts."""
    collector = _Lines()
    room = logging.getLogger("datasets")
    room.addHandler(collector)
    try:
        yield collector.lines
    finally:
        room.removeHandler(collector)
