"""``python -m benchmarks.leaking_split``: one configuration by shuffled windows, which leaks, and by subjects left out.

Takes nothing; simulates a study in which EEG tells of BOLD, and one in which nothing is shared, and gives a table: the
test score of the default configuration and of baselines under ``--protocol within-shuffled`` and ``--protocol loso``,
also with the EEG of another run, which knows nothing.
"""

import argparse
import itertools
import statistics
import tempfile
from pathlib import Path

from benchmarks.table import Row, print_table
from datasets.cluster import in_this_process
from datasets.simulator.shards import DEFAULT_EEG_RATE_HZ, simulate_shards
from datasets.simulator.study import SimulationSettings
from platform.data.products import DataSettings
from platform.evidence.findings import findings
from platform.evidence.protocols import SHUFFLED, UNIT_OF
from platform.study.run import search_untracked
from platform.study.settings import StudySettings
from platform.tracking.runs import TrackingSettings
from platform.training.config import Epochs

SUBJECTS, RUNS, VOLUMES, EVERY = 6, 2, 150, 3
SIGNALS, PROTOCOLS = ("none", "easy"), (SHUFFLED, "loso")
CASES = (("none", "recorded"), ("easy", "recorded"), ("none", "run-swapped"))
"""What is simulated, and whose EEG is given."""
BESIDE = ("ridge_band_power", "time_in_run", "zero")


def main() -> None:
    """Search, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", default="band_power")
    parser.add_argument("--epochs", type=int, default=10)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print_table(measure(Path(folder), chosen.architecture, chosen.epochs))


def measure(folder: Path, architecture: str, max_epochs: int) -> list[Row]:
    """Return a row for every study, protocol and pairing."""
    for signal in SIGNALS:
        simulated = SimulationSettings(signal=signal, subjects=SUBJECTS, runs=RUNS, volumes=VOLUMES)
        simulate_shards(folder / signal, simulated, 2, DEFAULT_EEG_RATE_HZ, every=EVERY)
    with in_this_process():
        return [
            _row(folder, signal, protocol, pairing, architecture, max_epochs)
            for (signal, pairing), protocol in itertools.product(CASES, PROTOCOLS)
        ]


def _row(folder: Path, signal: str, protocol: str, pairing: str, architecture: str, max_epochs: int) -> Row:
    settings = StudySettings(
        name=f"{signal}-{protocol}-{pairing}",
        architecture=architecture,
        data=DataSettings(
            shards=str(folder / signal), cache_folder=str(folder / "cache"), pairing=pairing, unit=UNIT_OF[protocol]
        ),
        storage_url=f"sqlite:///{folder / 'studies.db'}",
        tracking=TrackingSettings(uri=""),
        num_trials=1,
        racing="none",
        protocol=protocol,
        epochs=Epochs(maximum=max_epochs, patience=max_epochs),
        finalist_scores=False,
    )
    ledger = search_untracked(settings)
    found, baselines = findings(ledger), ledger.baselines()
    beside = ", ".join(f"{name} {statistics.fmean(baselines[name].test.values()):+.3f}" for name in BESIDE)
    leaks = "it leaks; " if found.leak else ""
    return Row(
        benchmark="leaking_split",
        what=f"signal {signal}, EEG {pairing}, {protocol} ({leaks}{beside}; verdict: {found.verdict.word})",
        value=f"{found.raw.mean:+.3f}",
    )


if __name__ == "__main__":
    main()
