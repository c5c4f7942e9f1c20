"""``python -m datasets.prepare RAW SHARDS``: recordings to shards, subjects in parallel on Ray, resumable.

Arguments and order only: the steps themselves are ``datasets.preparation``'s.
"""

import argparse
import itertools
import logging
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from datasets.bold import BoldSettings
from datasets.cluster import (
    address_from_environment,
    check_every_node_sees,
    cluster_size,
    connected,
    results_in_order,
    run_tasks,
)
from datasets.command_line import CommandParser, number_or_zero, positive_integer, positive_number, run_command
from datasets.data_sets import DATA_SETS, find_recordings
from datasets.derivatives import common_space, use_fmriprep, use_spm
from datasets.eeg import EEG_FILES, NORMALISATIONS, NORMALISED_OVER, PULSES, REFERENCES, EegSettings
from datasets.errors import BadInput
from datasets.oddball import PRESET_EXCLUDED
from datasets.preparation import claim_settings, complete_manifest, difference, prepare_subject
from datasets.recording import Recording
from datasets.registration import METHODS
from datasets.report import write_report
from datasets.run_preparation import PreparationSettings
from datasets.shards import MANIFEST, Manifest, read_manifest, write_manifest
from datasets.slice_timing import SLICE_ORDERS
from datasets.storage import Storage, open_storage
from datasets.subject_record import SubjectRecord, input_sizes, read_subject_record

logger = logging.getLogger(__name__)

PRESETS = {"none": (), "ds000116": PRESET_EXCLUDED}
BOLD_SOURCES: dict[str, Callable[[Sequence[Recording], Path], list[Recording]]] = {
    "fmriprep": use_fmriprep,
    "spm": use_spm,
}
"""Pipelines whose output can take the place of the scanner's volumes."""
MEMORY_BYTES = 1_200_000_000
"""What preparing one subject takes at most."""
EXIT_SKIPPED = 1


def main() -> int:
    """Prepare every subject that is not prepared yet, then write the manifest; 1 where a recording was skipped."""
    arguments = parse_arguments()
    settings = preparation_settings(arguments)
    storage = open_storage(arguments.shards)
    subjects = by_subject(find_all(arguments), arguments)
    claim_settings(storage, settings)
    missing = [each for each in subjects if not is_prepared(storage, each, settings)]
    manifest = read_manifest(storage) if storage.exists(MANIFEST) else None
    refuse_leaving_out(storage, manifest, subjects)
    if manifest is not None and not missing:
        print(described(storage, manifest, "already prepared with these settings; nothing was done"))
        return EXIT_SKIPPED if manifest.skipped else 0
    if missing:
        prepare_missing(missing, storage, settings, arguments)
    records = [read_subject_record(storage, each[0].subject) for each in subjects]
    manifest = complete_manifest(storage, [record for record in records if record is not None], settings)
    write_manifest(storage, manifest)
    print(described(storage, manifest, "prepared"))
    print(f"quality report: {write_report(storage, manifest)}")
    return EXIT_SKIPPED if manifest.skipped else 0


def parse_arguments() -> argparse.Namespace:
    """Parse the command line and the environment."""
    parser = CommandParser(
        prog="python -m datasets.prepare",
        description="Prepare recordings of simultaneous EEG and fMRI as shards.\n"
        "The same command goes on where it stopped.  Exit status 1: a recording was skipped; 2: bad input.",
    )
    parser.add_argument("raw", type=Path, metavar="RAW", help="folder with the recordings")
    parser.add_argument("shards", metavar="SHARDS", help="local folder or s3:// URI that the shards go to")
    _add_recordings(parser)
    _add_bold(parser)
    _add_eeg(parser)
    _add_resources(parser)
    return parser.parse_args()


def _add_recordings(parser: CommandParser) -> None:
    add = parser.add_option
    add("--data-set", choices=["auto", *DATA_SETS], default="auto", help="how RAW is laid out")
    add("--eeg-root", type=Path, metavar="FOLDER", help="folder with the EEG, where RAW has only the fMRI")
    add("--exclude", nargs="*", default=[], metavar="SUBJECT", help="subjects to leave out, as sub-04")
    add(
        "--preset",
        choices=sorted(PRESETS),
        default="none",
        help="ds000116: also leaves out sub-04, which others could not read",
    )


def _add_bold(parser: CommandParser) -> None:
    add, usual = parser.add_option, BoldSettings()
    add(
        "--bold",
        choices=["raw", *BOLD_SOURCES],
        default="raw",
        help="whose volumes: the scanner's, or another pipeline's in MNI space (--derivatives)",
    )
    add("--derivatives", type=Path, metavar="FOLDER", help="folder of that pipeline's output")
    add("--registration", choices=sorted(METHODS), default=usual.registration, help="how subjects get to the grid")
    add("--no-motion", action="store_true", help="do not correct head motion")
    add(
        "--slice-order",
        choices=sorted(SLICE_ORDERS),
        help="when slices are taken; none: do not correct it (default: as the data set says)",
    )
    add("--fwhm", type=number_or_zero, default=usual.fwhm_mm, metavar="MM", help="smoothing, mm FWHM; 0: none")
    add(
        "--high-pass",
        type=positive_number,
        default=usual.high_pass_seconds,
        metavar="SECONDS",
        help="longest period that stays in BOLD, s",
    )


def _add_eeg(parser: CommandParser) -> None:
    add, usual = parser.add_option, EegSettings()
    add("--eeg-file", choices=EEG_FILES, default=usual.eeg_file, help="which of ds000116's EEG files")
    add("--eeg-reference", choices=REFERENCES, default=usual.reference, help="the EEG's reference")
    add("--eeg-rate", type=positive_number, default=usual.rate_hz, metavar="HZ",
        help="rate that EEG is stored at, Hz (default: 1000, 500 or 250, as the recording allows)")  # fmt: skip
    add(
        "--eeg-high-pass",
        type=number_or_zero,
        default=usual.high_pass_hz,
        metavar="HZ",
        help="EEG high-pass, Hz; 0: none",
    )
    add("--eeg-low-pass", type=number_or_zero, default=0.0, metavar="HZ", help="EEG low-pass, Hz; 0: none")
    add("--eeg-notch", type=number_or_zero, default=0.0, metavar="HZ", help="line frequency to remove, Hz; 0: none")
    add("--pulse", choices=PULSES, default=usual.pulse, help="how the pulse artefact is reduced")
    add("--keep-bad-channels", action="store_true", help="do not interpolate channels found bad")
    add("--normalisation", choices=sorted(NORMALISATIONS), default=usual.normalisation, help="of each EEG channel")
    add("--normalise-over", choices=NORMALISED_OVER, default=usual.normalise_over,
        help="what a channel's statistics are taken from")  # fmt: skip


def _add_resources(parser: CommandParser) -> None:
    add = parser.add_option
    add(
        "--workers",
        type=positive_integer,
        default=2,
        metavar="N",
        help="processes at once on this machine, 1.2 GB each; they change no byte",
    )
    add(
        "--ray-address",
        default=address_from_environment(),
        metavar="ADDRESS",
        help="local, auto or a cluster's address",
    )
    add("--shared-disk", action="store_true", help="all nodes see the local paths given (NFS)")


def preparation_settings(arguments: argparse.Namespace) -> PreparationSettings:
    """Return the settings that the arguments describe."""
    return PreparationSettings(
        bold_source=arguments.bold,
        eeg=EegSettings(
            eeg_file=arguments.eeg_file,
            reference=arguments.eeg_reference,
            rate_hz=arguments.eeg_rate,
            high_pass_hz=arguments.eeg_high_pass or None,
            low_pass_hz=arguments.eeg_low_pass or None,
            notch_hz=arguments.eeg_notch or None,
            pulse=arguments.pulse,
            interpolate_bad=not arguments.keep_bad_channels,
            normalisation=arguments.normalisation,
            normalise_over=arguments.normalise_over,
        ),
        bold=BoldSettings(
            registration=arguments.registration,
            motion=not arguments.no_motion,
            slice_order=arguments.slice_order,
            fwhm_mm=arguments.fwhm or None,
            high_pass_seconds=arguments.high_pass,
        ),
    )


def find_all(arguments: argparse.Namespace) -> list[Recording]:
    """Return every recording, with another pipeline's volumes where they are asked for."""
    recordings = find_recordings(arguments.data_set, arguments.raw, arguments.eeg_root)
    if arguments.bold == "raw":
        if arguments.derivatives is not None:
            raise BadInput("--derivatives needs --bold fmriprep or --bold spm")
        return recordings
    if arguments.derivatives is None:
        raise BadInput(f"--bold {arguments.bold} needs --derivatives, the folder of that pipeline's output")
    recordings = BOLD_SOURCES[arguments.bold](recordings, arguments.derivatives)
    common_space(recordings)
    return recordings


def by_subject(recordings: Sequence[Recording], arguments: argparse.Namespace) -> list[list[Recording]]:
    """Return the recordings of every subject that is not left out."""
    excluded = {*arguments.exclude, *PRESETS[arguments.preset]}
    found = {recording.subject for recording in recordings}
    unknown = set(arguments.exclude) - found
    if unknown:
        raise BadInput(f"--exclude names {', '.join(sorted(unknown))}, but there are only {', '.join(sorted(found))}")
    kept = [recording for recording in recordings if recording.subject not in excluded]
    if not kept:
        raise BadInput("every subject is left out; exclude fewer")
    return [list(group) for _, group in itertools.groupby(kept, key=lambda recording: recording.subject)]


def is_prepared(storage: Storage, recordings: Sequence[Recording], settings: PreparationSettings) -> bool:
    """Tell whether a subject is prepared; BadInput where it was prepared otherwise or from other files."""
    subject = recordings[0].subject
    record = read_subject_record(storage, subject)
    if record is None:
        return False
    if record.pipeline != settings.record:
        raise BadInput(
            f"{subject} at {storage.uri} was prepared with other settings "
            f"({difference(record.pipeline, settings)}); shards of different settings are never mixed: "
            "choose another folder, or prepare with the old settings"
        )
    if record.try_again:
        logger.info("%s: %s could not be read; trying again", subject, ", ".join(record.try_again))
        return False
    changed = changed_inputs(record, recordings)
    if changed and changed <= {skipped.recording for skipped in record.skipped}:
        logger.info("%s: %s changed since it was skipped; preparing the subject again", subject, ", ".join(changed))
        return False
    if changed:
        raise BadInput(
            f"{subject} at {storage.uri} was prepared from other files than RAW holds now "
            f"(their names or sizes differ); delete {subject} there to prepare it again, or choose another folder"
        )
    return True


def changed_inputs(record: SubjectRecord, recordings: Sequence[Recording]) -> set[str]:
    """Return the names of the recordings whose files are not those that a record was made of."""
    now = input_sizes(recordings)
    return {name for name in {*now, *record.inputs} if now.get(name) != record.inputs.get(name)}


def refuse_leaving_out(storage: Storage, manifest: Manifest | None, subjects: Sequence[Sequence[Recording]]) -> None:
    """Refuse to write a manifest that would forget subjects of the present one, or whose files are there."""
    present = {name.split("/")[0] for name in storage.names() if name.startswith("sub-") and "/" in name}
    present |= set() if manifest is None else set(manifest.subjects)
    forgotten = present - {each[0].subject for each in subjects}
    if forgotten:
        raise BadInput(
            f"{storage.uri} holds {', '.join(sorted(forgotten))}, which this preparation leaves out; "
            "choose another folder, or delete what is there of them and the manifest"
        )


def prepare_missing(
    missing: Sequence[list[Recording]], storage: Storage, settings: PreparationSettings, arguments: argparse.Namespace
) -> None:
    """Prepare these subjects on Ray, as many at once as it has CPUs; the runs, too, where subjects are too few."""
    uri = arguments.shards if "://" in arguments.shards else storage.uri
    with connected(arguments.ray_address, arguments.workers):
        if not arguments.shared_disk:
            check_every_node_sees({"raw": str(arguments.raw), "shards": uri})
        num_cpus, _ = cluster_size()
        each = (results_in_order,) if len(missing) < num_cpus else ()
        work = [(recordings, uri, settings, *each) for recordings in missing]
        for record, progress in with_time_left(run_tasks(prepare_subject, work, memory_bytes=MEMORY_BYTES), len(work)):
            logger.info("prepared %s (%s): %d shards", record.subject, progress, len(record.shards))
            for skipped in record.skipped:
                logger.warning("skipped %s: %s", skipped.recording, skipped.reason)
            for warning in record.warnings:
                logger.warning("%s", warning)


def with_time_left(records: Iterator[SubjectRecord], total: int) -> Iterator[tuple[SubjectRecord, str]]:
    """Yield each record with how far the work is, as ``3 of 16, about 12 min left``."""
    start = time.monotonic()
    for number, record in enumerate(records, start=1):
        minutes = (time.monotonic() - start) / number * (total - number) / 60
        left = "" if number == total else f", about {max(1, round(minutes))} min left"
        yield record, f"{number} of {total}{left}"


def described(storage: Storage, manifest: Manifest, what: str) -> str:
    """Return what the shards hold, for a terminal."""
    size_mb = sum(shard.bytes for shard in manifest.shards) / 1e6
    lines = [
        f"{what}: {len(manifest.shards)} shards of {len(manifest.subjects)} subjects, {size_mb:.0f} MB",
        f"at {storage.uri}",
        *(f"skipped {each.recording}: {each.reason}" for each in manifest.skipped),
        f"next: python -m platform.search transformer --shards {shlex.quote(storage.uri)}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
