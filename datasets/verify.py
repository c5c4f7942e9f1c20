"""``python -m datasets.verify SHARDS``: compare every byte of a prepared data set with its manifest."""

from datasets.command_line import CommandParser, run_command
from datasets.errors import BadInput
from datasets.shards import all_files, check_files, read_manifest
from datasets.storage import open_storage


def main() -> None:
    """Read every file that the manifest names, and say which of them changed."""
    parser = CommandParser(
        prog="python -m datasets.verify", description="Compare every byte of shards with their manifest."
    )
    parser.add_argument("shards", metavar="SHARDS", help="a local folder or s3:// URI with prepared shards")
    storage = open_storage(parser.parse_args().shards)
    manifest = read_manifest(storage)
    faults = check_files(storage, manifest)
    if faults:
        raise BadInput(f"{len(faults)} of the files differ: " + " | ".join(faults))
    size_mb = sum(file.bytes for file in all_files(manifest)) / 1e6
    print(
        f"{len(manifest.shards)} shards of {len(manifest.subjects)} subjects, {size_mb:.0f} MB: every byte as prepared"
    )
    print(f"digest {manifest.digest}")


if __name__ == "__main__":
    raise SystemExit(run_command(main))
