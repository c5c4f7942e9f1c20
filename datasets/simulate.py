"""Command: write a simulated study in ds000116's own layout, and its truth beside it.

Takes a folder and settings; gives recordings for ``python -m datasets.prepare`` whose right answer is known.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from datasets.command_line import CommandParser, positive_integer, run_command
from datasets.errors import BadInput
from datasets.simulator.levels import LEVELS
from datasets.simulator.shards import DEFAULT_EEG_RATE_HZ, simulate_shards
from datasets.simulator.study import EEG_FILES, LAYOUTS, SimulationSettings, simulate_study, truth_folder


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    usual, workers = SimulationSettings(), max(1, (os.cpu_count() or 1) // 2)
    parser = CommandParser(prog="python -m datasets.simulate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", metavar="OUT", help="folder of the study; the truth goes to OUT-truth")
    parser.add_argument("--fast", action="store_true", help="write prepared shards into OUT, without recordings")
    parser.add_option(
        "--eeg-rate", type=positive_integer, default=DEFAULT_EEG_RATE_HZ, help="Hz of the EEG in --fast shards"
    )
    parser.add_option("--subjects", type=positive_integer, default=usual.subjects, help="number of subjects")
    parser.add_option(
        "--runs", type=positive_integer, default=usual.runs, help="runs a subject, half auditory, half visual"
    )
    parser.add_option("--volumes", type=positive_integer, default=usual.volumes, help="volumes a run, 2 s each")
    parser.add_option(
        "--signal", choices=tuple(LEVELS), default=usual.signal, help="how strongly EEG and BOLD are linked"
    )
    parser.add_option("--layout", choices=tuple(LAYOUTS), default=usual.layout, help="how the files are laid out")
    parser.add_option(
        "--eeg-files", choices=EEG_FILES, default=usual.eeg_files, help="all adds EEG_noGA.mat to the legacy layout"
    )
    parser.add_option("--seed", type=int, default=usual.seed, help="seed of everything that is drawn")
    parser.add_option(
        "--workers", type=positive_integer, default=workers, help="processes, 1 GB each; they change no result"
    )
    return parser.parse_args(arguments)


def main() -> None:
    """Simulate a study and say where it lies."""
    chosen = parse_arguments()
    if "://" in chosen.out:
        raise BadInput(f"OUT must be a local folder, but got {chosen.out}; datasets.prepare writes to object storage")
    study = Path(chosen.out).expanduser().resolve()
    shown = shlex.quote(str(study))
    settings = SimulationSettings(
        subjects=chosen.subjects,
        runs=chosen.runs,
        volumes=chosen.volumes,
        signal=chosen.signal,
        seed=chosen.seed,
        layout=chosen.layout,
        eeg_files=chosen.eeg_files,
    )
    if chosen.fast:
        simulate_shards(study, settings, chosen.workers, chosen.eeg_rate)
        print(f"shards: {study}\ntruth:  {truth_folder(study)}")
        print(f"next:   python -m platform.search transformer --shards {shown}")
        return
    simulate_study(study, settings, chosen.workers)
    print(f"study: {study}\ntruth: {truth_folder(study)}\nnext:  python -m datasets.prepare {shown} SHARDS")


if __name__ == "__main__":
    sys.exit(run_command(main))
