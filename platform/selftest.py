"""``python -m platform.selftest ARCHITECTURE``: can the search that you mean to run be fooled?

Takes the options of ``platform.search``; runs that very search on simulated studies whose right verdict is known, and
gives a table.  Three controls hold nothing that EEG alone could tell of volumes; in the fourth a link is easy to find.
Arguments only: nothing defined here is ever pickled.
"""

import argparse
import dataclasses
import hashlib
import json
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import binom

from datasets.cluster import connected
from datasets.command_line import CommandParser, positive_integer, run_command
from datasets.errors import BadInput
from datasets.shards import Manifest
from datasets.simulator.shards import DEFAULT_EEG_RATE_HZ, simulate_shards
from datasets.simulator.study import SimulationSettings
from datasets.storage import home_folder
from platform.data.several_data_sets import open_shards
from platform.evidence.findings import Findings, findings
from platform.evidence.protocols import LEAKS
from platform.evidence.verdict import CONFOUND, EEG_SPECIFIC, NOT_BEYOND_EVENTS, NOTHING, REPLICATED
from platform.ledger.studies import read_ledger, study_names
from platform.search import check_architecture, study_settings, take_keys_out, with_starts
from platform.study.options import search_parser
from platform.study.run import check_data, search_untracked
from platform.study.settings import StudySettings
from platform.tracking.runs import TrackingSettings

RIGHT: dict[str, tuple[str, ...]] = {
    "none": (NOTHING,),
    "trap": (NOTHING, CONFOUND),
    "events": (NOTHING, CONFOUND, NOT_BEYOND_EVENTS),
    "easy": (EEG_SPECIFIC,),
}
"""By what is simulated, the verdicts that are right; in a small study a step that is there may not show."""
NAMED = {"none": NOTHING, "trap": CONFOUND, "events": NOT_BEYOND_EVENTS, "easy": EEG_SPECIFIC}
"""By what is simulated, the verdict that says what is there, and no less."""
WHAT = {
    "none": "EEG and volumes share nothing",
    "trap": "they share heart, breath, motion, blinks, arousal, onsets",
    "events": "they share the timing of stimuli alone",
    "easy": "EEG tells of activity, clearly",
}
CLAIMS = (EEG_SPECIFIC, REPLICATED)
CHANCE = 0.05
"""How often a sound pipeline may claim too much of a control."""
NUM_TRIALS, MOST_RUNS = 8, 2
SUBJECTS, VOLUMES = 8, 170
"""Of a control where no shards say it."""
PLACEHOLDER = "file:///simulated"
"""Stands for the shards until a control is simulated."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """What one simulated study came to."""

    signal: str
    seed: int
    verdict: str
    mean: float
    low: float
    high: float

    @property
    def is_right(self) -> bool:
        """Whether the verdict is one that the simulated truth allows."""
        return self.verdict in RIGHT[self.signal]

    @property
    def is_fooled(self) -> bool:
        """Whether EEG was claimed to tell something that it does not."""
        return self.verdict in CLAIMS and not self.is_right


def main() -> int:
    """Run the controls, print the table, and return 1 if the search was fooled."""
    arguments = parse_arguments()
    take_keys_out(arguments)
    sizes = _sizes(arguments)
    arguments.shards = PLACEHOLDER
    settings = with_starts(study_settings(arguments))
    signals = arguments.controls or list(RIGHT)
    found, folder = [], home_folder() / "selftest"
    with connected(arguments.ray_address, arguments.cpus):
        for seed in range(arguments.studies):
            for signal in signals:
                simulated = dataclasses.replace(sizes, signal=signal, seed=arguments.seed + seed)
                said = control(settings, simulated, folder, every=arguments.every, workers=arguments.cpus or 1)
                found.append(outcome(said, simulated))
    print(table(found))
    return 1 if any(is_fooled(found, signal) for signal in signals) else 0


def parse_arguments() -> argparse.Namespace:
    """Parse the command line and the environment."""
    parser = search_parser(
        "python -m platform.selftest",
        "Run a search, told as platform.search is, on simulated controls, and tell whether it can be fooled.\n"
        "Exit status 1 if it is.  With --shards the controls are as large as that study; it is not read further.",
        NUM_TRIALS,
    )
    _add_controls(parser)
    arguments = parser.parse_args()
    arguments.command = parser.spelled_out(arguments)
    check_architecture(arguments)
    if arguments.replicate:
        raise BadInput("a selftest searches simulated studies; leave out --replicate, which searches nothing")
    if arguments.protocol in LEAKS:
        raise BadInput(
            f"the verdict under --protocol {arguments.protocol}, which leaks, is always {NOTHING!r}, so it cannot be "
            "fooled; leave --protocol out"
        )
    return arguments


def _add_controls(parser: CommandParser) -> None:
    add = parser.add_option
    add("--controls", nargs="+", choices=list(RIGHT), metavar="NAME", help=f"of {', '.join(RIGHT)} (else all)")
    add("--studies", metavar="N", type=positive_integer, default=1, help="studies of each control")
    every = "every N-th voxel of the controls along each axis (else 1, all): 2 takes an eighth of the time of volumes"
    add("--every", metavar="N", type=positive_integer, default=1, help=every)
    for name, what in (
        ("subjects", f"subjects of a control (else the shards', or {SUBJECTS})"),
        ("runs", f"runs a subject (else the shards', {MOST_RUNS} at the most)"),
        ("volumes", f"volumes a run, 2 s each (else the shards', or {VOLUMES})"),
    ):
        add(f"--{name}", metavar="N", type=positive_integer, help=what)


def _sizes(arguments: argparse.Namespace) -> SimulationSettings:
    """Return how large a control is: as told, else as the shards are."""
    given = {name: getattr(arguments, name) for name in ("subjects", "runs", "volumes")}
    own = {"subjects": SUBJECTS, "runs": MOST_RUNS, "volumes": VOLUMES}
    if arguments.shards:
        own = _sizes_of(open_shards(arguments.shards)[1])
    whole = {name: given[name] or own[name] for name in own}
    return SimulationSettings(subjects=whole["subjects"], runs=whole["runs"], volumes=whole["volumes"])


def _sizes_of(manifest: Manifest) -> dict[str, int]:
    runs = [len(manifest.of_subject(subject)) for subject in manifest.subjects]
    return {
        "subjects": len(manifest.subjects),
        "runs": min(MOST_RUNS, round(statistics.median(runs))),
        "volumes": round(statistics.median(shard.rows for shard in manifest.shards)),
    }


def control(
    settings: StudySettings, simulated: SimulationSettings, folder: Path, *, every: int = 1, workers: int = 1
) -> Findings:
    """Return what the search finds in a simulated study; one that was searched before is read from its ledger.

    Args:
        settings: the search; where things lie is replaced.
        simulated: the study.
        folder: where all of it lies; shards and cache are deleted once searched.
        every: every so many-th voxel along each axis is there.
        workers: processes that simulate.
    """
    study = _settings_of(settings, simulated, folder, every)
    if not _is_finished(study):
        shards = folder / study.name / "shards"
        rate_hz = max(DEFAULT_EEG_RATE_HZ, settings.data.rate_hz)
        simulate_shards(shards, simulated, workers, rate_hz, every=every)
        check_data(study)
        search_untracked(study)
        shutil.rmtree(folder / study.name)
    return findings(read_ledger(study.storage_url, study.name))


def _settings_of(settings: StudySettings, simulated: SimulationSettings, folder: Path, every: int = 1) -> StudySettings:
    """Return the search's settings for a simulated study, which keeps apart from all that the user has."""
    told = {
        "simulated": dataclasses.asdict(simulated),
        "terms": settings.terms(""),
        **({"every": every} if every > 1 else {}),
    }
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]
    name = f"{settings.architecture}-{simulated.signal}-{simulated.seed}-{digest}"
    place = folder / name
    return dataclasses.replace(
        settings,
        name=name,
        data=dataclasses.replace(settings.data, shards=(place / "shards").as_uri(), cache_folder=str(place / "cache")),
        storage_url=f"sqlite:///{folder / 'studies.db'}",
        tracking=TrackingSettings(uri=f"sqlite:///{folder / 'mlflow.db'}", artifacts=(folder / "mlartifacts").as_uri()),
        workers=dataclasses.replace(settings.workers, storage=str(place / "jobs") if settings.workers.storage else ""),
    )


def _is_finished(study: StudySettings) -> bool:
    path = Path(study.storage_url.removeprefix("sqlite:///"))
    return path.is_file() and study.name in study_names(study.storage_url) and _is_over(study)


def _is_over(study: StudySettings) -> bool:
    ledger = read_ledger(study.storage_url, study.name)
    return ledger.is_closed and len(ledger.trials) >= study.num_trials


def outcome(found: Findings, simulated: SimulationSettings) -> Control:
    """Return what a simulated study came to, by what was found in it."""
    return Control(
        signal=simulated.signal,
        seed=simulated.seed,
        verdict=found.verdict.word,
        mean=found.corrected.mean,
        low=found.corrected.low,
        high=found.corrected.high,
    )


def is_fooled(controls: Sequence[Control], signal: str) -> bool:
    """Tell whether EEG was claimed to matter in more studies of a control than chance explains: of one study, in it."""
    of_signal = [control for control in controls if control.signal == signal]
    return sum(control.is_fooled for control in of_signal) > by_chance(len(of_signal))


def by_chance(num_studies: int) -> int:
    """Return how many studies of a control a sound pipeline claims too much of, at the most in 19 of 20 selftests."""
    return int(binom.ppf(1 - CHANCE - 1e-9, num_studies, CHANCE))


def table(controls: Sequence[Control]) -> str:
    """Return what every control came to, and whether the search can be fooled."""
    signals = [signal for signal in RIGHT if any(control.signal == signal for control in controls)]
    lines = [f"  {'control':<9}{'seed':>5}  {'verdict':<19}{'':<9}{'r, corrected':>14}{'95 % interval':>20}"]
    for control in sorted(controls, key=lambda each: (signals.index(each.signal), each.seed)):
        word = "fooled" if control.is_fooled else "right" if control.is_right else "missed"
        interval = f"{control.low:+.3f} to {control.high:+.3f}"
        origin = f"  {control.signal:<9}{control.seed:>5}  "
        lines.append(f"{origin}{control.verdict:<19}{word:<9}{control.mean:>+14.3f}{interval:>20}")
    return "\n".join([*lines, "", *(f"  {_summed_up(controls, signal)}" for signal in signals), _conclusion(controls)])


def _summed_up(controls: Sequence[Control], signal: str) -> str:
    of_signal = [control for control in controls if control.signal == signal]
    num_right = sum(control.is_right for control in of_signal)
    right = " or ".join(RIGHT[signal])
    num_named = sum(control.verdict == NAMED[signal] for control in of_signal)
    named = f", {NAMED[signal]} in {num_named}" if len(RIGHT[signal]) > 1 else ""
    return f"{signal}: {WHAT[signal]}; right ({right}) in {num_right} of {len(of_signal)}{named}"


def _conclusion(controls: Sequence[Control]) -> str:
    fooled = [signal for signal in RIGHT if is_fooled(controls, signal)]
    if fooled:
        return f"FOOLED by {', '.join(fooled)}: do not believe an {EEG_SPECIFIC} verdict of this search"
    easy = [control for control in controls if control.signal == "easy"]
    if easy and not any(control.is_right for control in easy):
        return "not fooled, but blind: what is easy to find was not found; give it more subjects, runs or --trials"
    return f"not fooled by {len(controls)} simulated studies"


if __name__ == "__main__":
    raise SystemExit(run_command(main))
