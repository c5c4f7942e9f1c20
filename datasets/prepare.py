"""``python -m datasets.prepare RAW SHARDS``: recordings to shards, subjects in parallel on Ray, resumable.

Arguments and order only: the steps themselves are ``datasets.preparation``'s.
"""

import argparse
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

from datasets.bold import BoldSettings
from datasets.cluster import address_from_environment, check_every_node_sees, connected, run_tasks
from datasets.command_line import CommandParser, number_or_zero, positive_integer, positive_number, run_command
from datasets.eeg import EegSettings
from datasets.errors import BadInput
from datasets.oddball import PRESET_EXCLUDED, find_recordings
from datasets.preparation import (
    PreparationSettings,
    SubjectRecord,
    complete_manifest,
    input_sizes,
    prepare_subject,
    read_subject_record,
)
from datasets.recording import Recording
from datasets.registration import METHODS
from datasets.shards import MANIFEST, Manifest, read_manifest, write_manifest
from datasets.storage import Storage, open_storage

logger = logging.getLogger(__name__)

PRESETS = {"none": (), "ds000116": PRESET_EXCLUDED}


def main() -> None:
    """Prepare every subject that is not prepared yet, then write the manifest."""
    arguments = parse_arguments()
    settings = preparation_settings(arguments)
    storage = open_storage(arguments.shards)
    subjects = by_subject(find_recordings(arguments.raw, arguments.eeg_root), arguments)
    missing = [each for each in subjects if not is_prepared(storage, each, settings)]
    manifest = read_manifest(storage) if storage.exists(MANIFEST) else None
    refuse_leaving_out(storage, manifest, subjects)
    if manifest is not None and not missing:
        print(described(storage, manifest, "already prepared with these settings; nothing was done"))
        return
    if missing:
        prepare_missing(missing, storage, settings, arguments)
    records = [read_subject_record(storage, each[0].subject) for each in subjects]
    manifest = complete_manifest(storage, [record for record in records if record is not None], settings)
    write_manifest(storage, manifest)
    print(described(storage, manifest, "prepared"))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line and the environment."""
    parser = CommandParser(
        prog="python -m datasets.prepare",
        description="Prepare recordings of simultaneous EEG and fMRI as shards.\n"
        "The same command goes on where it stopped.",
    )
    add = parser.add_option
    parser.add_argument("raw", type=Path, metavar="RAW", help="folder with ds000116's recordings, either layout")
    parser.add_argument("shards", metavar="SHARDS", help="local folder or s3:// URI that the shards go to")
    add("--eeg-root", type=Path, metavar="FOLDER", help="folder with the EEG, where RAW has only the fMRI")
    add("--exclude", nargs="*", default=[], metavar="SUBJECT", help="subjects to leave out, as sub-04")
    add(
        "--preset",
        choices=sorted(PRESETS),
        default="none",
        help="ds000116: also leaves out sub-04, which others could not read",
    )
    add(
        "--registration",
        choices=sorted(METHODS),
        default=BoldSettings().registration,
        help="how subjects get to the grid",
    )
    add("--fwhm", type=number_or_zero, default=BoldSettings().fwhm_mm, metavar="MM", help="smoothing, mm FWHM; 0: none")
    add("--high-pass", type=positive_number, default=BoldSettings().high_pass_seconds, metavar="SECONDS",
        help="longest period that stays in BOLD, s")  # fmt: skip
    add(
        "--eeg-high-pass",
        type=number_or_zero,
        default=EegSettings().high_pass_hz,
        metavar="HZ",
        help="EEG high-pass, Hz; 0: none",
    )
    add(
        "--workers",
        type=positive_integer,
        default=2,
        metavar="N",
        help="subjects at once on this machine, about 1.5 GB each",
    )
    add(
        "--ray-address",
        default=address_from_environment(),
        metavar="ADDRESS",
        help="local, auto or a cluster's address",
    )
    add("--shared-disk", action="store_true", help="all nodes see the local paths given (NFS)")
    return parser.parse_args()


def preparation_settings(arguments: argparse.Namespace) -> PreparationSettings:
    """Return the settings that the arguments describe."""
    return PreparationSettings(
        eeg=EegSettings(high_pass_hz=arguments.eeg_high_pass or None),
        bold=BoldSettings(
            registration=arguments.registration, fwhm_mm=arguments.fwhm or None, high_pass_seconds=arguments.high_pass
        ),
    )


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
            f"{subject} at {storage.uri} was prepared with other settings ({difference(record, settings)}); shards of "
            "different settings are never mixed: choose another folder, or prepare with the old settings"
        )
    if record.inputs != input_sizes(recordings):
        raise BadInput(
            f"{subject} at {storage.uri} was prepared from other files than RAW holds now "
            f"(their names or sizes differ); delete {subject} there to prepare it again, or choose another folder"
        )
    return True


def difference(record: SubjectRecord, settings: PreparationSettings) -> str:
    """Return which settings differ between a subject's record and now, in words."""
    before, now = _flat(record.pipeline), _flat(settings.record)
    changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    return ", ".join(f"{key} {before.get(key)} then, {now.get(key)} now" for key in changed)


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
    """Prepare these subjects on Ray, as many at once as it has CPUs."""
    uri = arguments.shards if "://" in arguments.shards else storage.uri
    with connected(arguments.ray_address, arguments.workers):
        if not arguments.shared_disk:
            check_every_node_sees({"raw": str(arguments.raw), "shards": uri})
        tasks = run_tasks(prepare_subject, [(recordings, uri, settings) for recordings in missing])
        for number, record in enumerate(tasks, start=1):
            skipped = "".join(f"; skipped {each.recording}: {each.reason}" for each in record.skipped)
            logger.info(
                "prepared %s (%d of %d): %d shards%s", record.subject, number, len(missing), len(record.shards), skipped
            )
            for warning in record.warnings:
                logger.warning("%s: %s", record.subject, warning)


def described(storage: Storage, manifest: Manifest, what: str) -> str:
    """Return what the shards hold, for a terminal."""
    size_mb = sum(shard.bytes for shard in manifest.shards) / 1e6
    lines = [
        f"{what}: {len(manifest.shards)} shards of {len(manifest.subjects)} subjects, {size_mb:.0f} MB",
        f"at {storage.uri}",
        *(f"skipped {each.recording}: {each.reason}" for each in manifest.skipped),
        f"next: python -m platform.search transformer --shards {storage.uri}",
    ]
    return "\n".join(lines)


def _flat(fields: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(fields, dict):
        return {prefix.rstrip("."): fields}
    return {key: value for name, inner in fields.items() for key, value in _flat(inner, f"{prefix}{name}.").items()}


if __name__ == "__main__":
    raise SystemExit(run_command(main))
