"""The options of ``python -m platform.search``, in groups: names, defaults, units, help.

Gives a parser; what the words mean for a study, ``platform.search`` tells.
"""

import os

from datasets.cluster import address_from_environment
from datasets.command_line import CommandParser, natural_number, number_or_zero, positive_integer, positive_number
from platform.data.windows import PAIRINGS, RATES_HZ
from platform.evidence.nulls import NUM_FLIPS
from platform.evidence.protocols import PROTOCOLS
from platform.models import ARCHITECTURES
from platform.proposals.samplers import SAMPLERS
from platform.racing.next_job import RACINGS
from platform.study.progress import PROGRESS
from search_spaces.presets import PRESETS


def search_parser(prog: str, description: str, num_trials: int = 64) -> CommandParser:
    """Return a parser of all that a search is told."""
    parser = CommandParser(prog=prog, description=description)
    parser.usage = "%(prog)s ARCHITECTURE [--OPTION VALUE ...]"
    parser.add_argument("architecture", metavar="ARCHITECTURE", help=f"one of: {', '.join(ARCHITECTURES)}")
    _add_places(parser)
    _add_study(parser)
    _add_end(parser, num_trials)
    _add_rules(parser)
    _add_training(parser)
    _add_scores(parser)
    _add_shown(parser)
    _add_resources(parser)
    return parser


def _add_places(parser: CommandParser) -> None:
    home = "EEG2FMRI_HOME"
    add = parser.group("where things lie")
    add("--shards", metavar="URI", help="prepared shards: a local folder or s3:// URI; several: A,B")
    add("--study-storage", metavar="URL", help=f"the ledger's database, SQLAlchemy URL (else SQLite in {home})")
    add("--tracking", metavar="URI", help=f"MLflow's database or server (else SQLite in {home})")
    add("--experiment", metavar="NAME", default="eeg2fmri", help="MLflow experiment")
    add(
        "--system-metrics",
        action="store_true",
        help="send MLflow this machine's use of processor, memory, disk",
    )
    add("--job-storage", metavar="URI", help=f"where Ray keeps running jobs' files (else in {home})")
    add("--cache", metavar="FOLDER", help=f"this node's cache of decoded runs (else in {home})")
    add("--shared-disk", action="store_true", help="all nodes see the local paths given (NFS)")


def _add_study(parser: CommandParser) -> None:
    add = parser.group("what is searched")
    add("--study", metavar="NAME", help="the study's name (else the architecture's)")
    add(
        "--search-space",
        metavar="MODULE:FUNCTION",
        help="a search space of your own, from the working directory or PYTHONPATH",
    )
    add("--preset", choices=sorted(PRESETS), help="the first trials: fixed configurations, before the default one")
    add(
        "--start-from",
        metavar="STUDY",
        help="an earlier study, or URL#STUDY in another storage: its best are the trials after the default",
    )
    add(
        "--replicate",
        metavar="STUDY",
        help="an earlier study, or URL#STUDY in another storage: its best configuration, frozen, is the one trial on "
        "these other shards; --trials counts for nothing",
    )
    add("--seed", metavar="N", type=natural_number, default=0, help="seed of folds, trials and jobs")


def _add_end(parser: CommandParser, num_trials: int) -> None:
    add = parser.group("when it ends")
    add("--trials", metavar="N", type=positive_integer, default=num_trials, help="configurations to try")
    add("--time-budget", metavar="MINUTES", type=positive_number, help="minutes after which no fold job starts")
    add("--fold-jobs", metavar="N", type=positive_integer, help="fold jobs of the search, at the most")
    add("--gpu-hours", metavar="H", type=positive_number, help="GPU hours after which no fold job starts")
    add(
        "--stop-after-no-improvement",
        metavar="N",
        type=positive_integer,
        help="trials without a new best one, then no further trial",
    )


def _add_rules(parser: CommandParser) -> None:
    add = parser.group("how it searches")
    add("--sampler", choices=sorted(SAMPLERS), default="tpe", help="who proposes configurations")
    add(
        "--racing",
        choices=RACINGS,
        default="halving",
        help="which trials run on all folds: all, the better halves, or those that may be the best",
    )
    add("--finalists", metavar="K", type=natural_number, default=3, help="best trials that run with three seeds in all")
    add(
        "--commit-lag", metavar="N", type=positive_integer, default=4, help="trials proposed before one must be settled"
    )
    add("--median-stopping", action="store_true", help="end a fold job below the median of earlier ones of its fold")


def _add_training(parser: CommandParser) -> None:
    add = parser.group("how long a fold job trains, and on what")
    add("--max-epochs", metavar="N", type=positive_integer, default=20, help="epochs of a fold job, at the most")
    add("--patience", metavar="EPOCHS", type=positive_integer, default=5, help="epochs without a new best, then stop")
    add(
        "--rate",
        metavar="HZ",
        type=int,
        choices=RATES_HZ,
        default=125,
        help="EEG samples per second that models see, Hz",
    )


def _add_scores(parser: CommandParser) -> None:
    add = parser.group("whom it scores, and how")
    add(
        "--protocol",
        choices=sorted(PROTOCOLS),
        default="loso",
        help="loso: one subject is left out; nested: every pair of subjects, for a score that nothing was chosen by "
        "(needs --sampler random or qmc, --racing none, --finalists 0); within: one recording, whose subject's others "
        "train (it leaks subjects); within-shuffled: a random eighth of all windows, whose neighbours train, as most "
        "published tables have it (it leaks: its scores say nothing of new subjects); data-sets: one data set of "
        "several (--shards A,B)",
    )
    add(
        "--lock-away",
        metavar="N",
        type=natural_number,
        default=0,
        help="subjects, drawn from the seed, that are in no fold and scored once when the search is over",
    )
    add("--calibration", choices=("eeg", "paired"), help="what adapts it: EEG alone, or EEG with its volumes")
    add(
        "--calibration-minutes",
        metavar="M",
        type=number_or_zero,
        default=0.0,
        help="minutes at the start of each scored subject that adapt the model; the rest is scored",
    )
    add("--pairing", choices=sorted(PAIRINGS), default="recorded", help="run-swapped: a control without coupling")
    add(
        "--null-flips",
        metavar="N",
        type=natural_number,
        help="ridge fits with the BOLD of random subjects upside down, the null of ridge's score; 0 for none (default: "
        f"{NUM_FLIPS}; none with --protocol within-shuffled)",
    )
    add(
        "--null-repeats",
        metavar="N",
        type=natural_number,
        default=0,
        help="trainings of the best configuration, on all folds, with BOLD so flipped: the null of its score",
    )
    add("--no-finalist-scores", action="store_true", help="do not train the winner again for its further scores")


def _add_shown(parser: CommandParser) -> None:
    add = parser.group("what it shows")
    add(
        "--progress",
        choices=PROGRESS,
        default="auto",
        help="a live table, plain lines or JSON lines; auto: by terminal",
    )
    add("--no-report", action="store_true", help="do not send MLflow the study's report")


def _add_resources(parser: CommandParser) -> None:
    add = parser.group("on what it runs")
    add(
        "--ray-address",
        metavar="ADDRESS",
        default=address_from_environment(),
        help="local, auto or a cluster's address",
    )
    add("--cpus", metavar="N", type=positive_integer, default=os.cpu_count(), help="CPUs of a local Ray")
    add(
        "--concurrency",
        metavar="N",
        type=positive_integer,
        help="fold jobs at once (else as many as the cluster holds)",
    )
    add(
        "--job-timeout", metavar="MINUTES", type=positive_number, help="minutes after which a fold job is ended, failed"
    )
    add("--workers-per-trial", metavar="N", type=positive_integer, default=1, help="DDP workers of a fold job")
    add("--cpus-per-worker", metavar="N", type=positive_integer, default=1, help="CPUs of each worker")
    add("--gpus-per-worker", metavar="N", type=number_or_zero, default=0.0, help="GPUs of each worker")
