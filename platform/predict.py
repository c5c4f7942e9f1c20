"""The command ``python -m platform.predict``: EEG in, a predicted series of volumes out.

Takes a logged model and a recording; gives a 4-D NIfTI on the model's grid, a JSON sidecar, and a map of how far each
voxel may be off.
"""

import argparse
import logging
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets.command_line import CommandParser, run_command
from datasets.errors import BadInput
from datasets.storage import home_folder
from platform.prediction.new_eeg import seen_eeg
from platform.prediction.portable import PortableModel
from platform.prediction.predicted_images import ENDING, sidecar, write_half_width, write_series
from platform.tracking.logged_model import fetch

logger = logging.getLogger(__name__)


def main() -> None:
    """Predict volumes from a recording and print where they lie."""
    arguments = parse_arguments()
    output = checked_output(arguments.output)
    tracking = arguments.tracking or f"sqlite:///{home_folder() / 'mlflow.db'}"
    with tempfile.TemporaryDirectory(prefix="eeg2fmri-") as folder:
        model = PortableModel(fetch(arguments.model, tracking, Path(folder), arguments.fold or ""))
        written = predict_file(model, Path(arguments.eeg), output, name=arguments.model)
    print("\n".join(str(path) for path in written))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line and the environment."""
    parser = CommandParser(
        prog="python -m platform.predict",
        description="Predict the volumes of a recording that holds EEG only.  A prediction, not a measurement.",
    )
    parser.add_option("--model", metavar="URI", required=True, help="as models:/eeg2fmri-transformer@champion")
    parser.add_option("--eeg", metavar="FILE", required=True, help="EEG in any format that mne reads")
    parser.add_option("--output", metavar="FILE", required=True, help=f"the image to write, FILE{ENDING}")
    parser.add_option("--tracking", metavar="URI", help="MLflow's database or server, as the search's")
    parser.add_option("--fold", metavar="SUBJECT", help="use the model of the fold that tested this subject")
    return parser.parse_args()


def checked_output(given: str) -> Path:
    """Return where the image goes; BadInput where nothing can be written there."""
    output = Path(given).absolute()
    if not output.name.endswith(ENDING):
        raise BadInput(f"--output must end in {ENDING}, but got {given}")
    if not output.parent.is_dir():
        raise BadInput(f"--output must lie in a folder that is there, but {output.parent} is not")
    return output


def predict_file(model: PortableModel, eeg: Path, output: Path, *, name: str) -> list[Path]:
    """Predict a recording's volumes and write them, their sidecar and their map; nothing is left where it fails."""
    stem = output.name.removesuffix(ENDING)
    beside, half_width = output.with_name(f"{stem}.json"), output.with_name(f"{stem}_interval{ENDING}")
    with whole_files(output, beside, half_width) as (image, text, interval):
        with seen_eeg(eeg, model) as eeg_CS:
            num_volumes = write_series(image, model, eeg_CS)
        text.write_text(sidecar(model, name, eeg, num_volumes), encoding="utf-8")
        if model.half_width is None:
            logger.warning("no interval map: this model's study has no further scores")
        else:
            write_half_width(interval, model, model.half_width)
    return [path for path in (output, beside, half_width) if path.exists()]


@contextmanager
def whole_files(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Give a temporary place for each file; those written are renamed together at the end, or deleted."""
    token = secrets.token_hex(4)
    temporary = tuple(path.with_name(f".{token}.{path.name}") for path in paths)
    try:
        yield temporary
        for path, at in zip(paths, temporary, strict=True):
            if at.exists():
                at.replace(path)
            else:
                path.unlink(missing_ok=True)
    finally:
        for at in temporary:
            at.unlink(missing_ok=True)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
