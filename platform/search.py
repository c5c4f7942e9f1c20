"""``python -m platform.search ARCHITECTURE``: search one architecture's configurations over all folds.

Arguments only: nothing defined here is ever pickled.
"""

import argparse
import dataclasses
import logging
import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from datasets.cluster import LOCAL, check_every_node_sees, connected
from datasets.command_line import (
    run_command,
)
from datasets.errors import BadInput
from datasets.storage import has_keys, home_folder, keys_to_environment, open_storage, without_secrets
from platform.data.products import DataSettings
from platform.data.several_data_sets import places_of
from platform.evidence.nulls import NUM_FLIPS
from platform.evidence.protocols import SHUFFLED, UNIT_OF
from platform.models import ADAPTERS, ARCHITECTURES
from platform.racing.budgets import Budgets
from platform.study.options import search_parser
from platform.study.own_space import search_space
from platform.study.replication import frozen_winner
from platform.study.run import check_data, search
from platform.study.settings import StudySettings
from platform.study.summary import summary
from platform.study.warm_start import starting_parameters
from platform.tracking.runs import TrackingSettings, check_tracking
from platform.training.calibration import MIN_CALIBRATION_MINUTES, Calibration
from platform.training.config import Epochs
from platform.training.job import Workers

logger = logging.getLogger(__name__)


def main() -> None:
    """Search one architecture and print its best configuration beside the baselines."""
    arguments = parse_arguments()
    take_keys_out(arguments)
    settings = study_settings(arguments)
    check_tracking(settings.tracking)
    settings = with_starts(settings)
    check_data(settings)
    with connected(arguments.ray_address, arguments.cpus):
        if not arguments.shared_disk:
            check_every_node_sees(
                {
                    "shards": _first_on_one_node(settings.data.shards),
                    "study-storage": settings.storage_url,
                    "tracking": settings.tracking.uri,
                    "job-storage": settings.workers.storage,
                }
            )
        result = search(settings)
    print(summary(result))
    print(whereabouts(settings, is_tracked=result.is_tracked))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line and the environment."""
    parser = search_parser(
        "python -m platform.search",
        "Search configurations of one architecture over leave-one-subject-out folds.\n"
        "The same command goes on where it was stopped.",
    )
    arguments = parser.parse_args()
    arguments.command = parser.spelled_out(arguments)
    check_architecture(arguments)
    return arguments


def check_architecture(arguments: argparse.Namespace) -> None:
    """Refuse an architecture that is not there."""
    if arguments.architecture in ADAPTERS:
        _check_adapter(arguments.architecture)
    if arguments.architecture not in ARCHITECTURES:
        raise BadInput(f"ARCHITECTURE must be one of {', '.join(ARCHITECTURES)}, but got {arguments.architecture}")


def _check_adapter(architecture: str) -> None:
    """Refuse an architecture of a library that is not there, or not as it should be."""
    try:
        ADAPTERS[architecture]()
    except ImportError as error:
        raise BadInput(
            f"{architecture} needs an optional library ({error}); install it on every node: "
            "pip install 'eeg2fmri-platform[braindecode]' (docs/your-own-architecture.md tells what it needs of torch)"
        ) from error


def take_keys_out(arguments: argparse.Namespace) -> None:
    """Move keys that stand in URIs to the environment: Ray writes down whatever its jobs are given.

    Jobs of a cluster do not inherit this process's environment: there the keys stay where they are, and the user is
    told who may read them.

    Raises:
        BadInput: two URIs hold different keys.
    """
    shards = places_of(arguments.shards or "")
    places = [*shards, *([arguments.job_storage] if arguments.job_storage else [])]
    if arguments.ray_address != LOCAL:
        _warn_of_keys(places)
        return
    bare = keys_to_environment(places)
    arguments.shards = ",".join(bare[: len(shards)]) or arguments.shards
    arguments.job_storage = bare[-1] if arguments.job_storage else arguments.job_storage


def _warn_of_keys(places: Sequence[str]) -> None:
    if any(has_keys(place) for place in places):
        logger.warning(
            "keys in --shards or --job-storage are written into the files of the cluster's jobs: leave them out "
            "and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for `ray start` on every node and for this command"
        )


def study_settings(arguments: argparse.Namespace) -> StudySettings:
    """Return the study that the arguments describe; whatever lasts lies at an absolute place."""
    home = home_folder()
    name = arguments.study or "-".join(
        [arguments.architecture, *([arguments.pairing] * (arguments.pairing != "recorded"))]
    )
    return StudySettings(
        name=name,
        architecture=arguments.architecture,
        data=DataSettings(
            shards=_shards(arguments.shards),
            cache_folder=str(Path(arguments.cache or home / "cache").absolute()),
            rate_hz=arguments.rate,
            pairing=arguments.pairing,
            unit=UNIT_OF[arguments.protocol],
            shuffle_seed=arguments.seed if arguments.protocol == SHUFFLED else 0,
        ),
        storage_url=arguments.study_storage or f"sqlite:///{home / 'studies.db'}",
        tracking=TrackingSettings(
            uri=arguments.tracking or f"sqlite:///{home / 'mlflow.db'}",
            experiment=arguments.experiment,
            artifacts=None if _is_server(arguments.tracking) else (home / "mlartifacts").as_uri(),
            system_metrics=arguments.system_metrics,
        ),
        workers=Workers(
            count=arguments.workers_per_trial,
            cpus=arguments.cpus_per_worker,
            gpus=arguments.gpus_per_worker,
            storage=arguments.job_storage or str(home / "jobs"),
        ),
        num_trials=1 if arguments.replicate else arguments.trials,
        racing=arguments.racing,
        commit_lag=arguments.commit_lag,
        finalists=arguments.finalists,
        sampler=arguments.sampler,
        seed=arguments.seed,
        search_space=arguments.search_space or "",
        preset=arguments.preset or "",
        start_from=arguments.start_from or "",
        calibration=_calibration(arguments.calibration, arguments.calibration_minutes),
        epochs=Epochs(maximum=arguments.max_epochs, patience=arguments.patience),
        concurrency=arguments.concurrency,
        time_budget_s=arguments.time_budget * 60 if arguments.time_budget else math.inf,
        finalist_scores=not arguments.no_finalist_scores,
        report=not arguments.no_report,
        job_timeout_s=arguments.job_timeout * 60 if arguments.job_timeout else math.inf,
        budgets=_budgets(arguments),
        median_stopping=arguments.median_stopping,
        progress=arguments.progress,
        command=arguments.command,
        protocol=arguments.protocol,
        lock_away=arguments.lock_away,
        null_flips=_null_flips(arguments),
        null_repeats=arguments.null_repeats,
        replicate=arguments.replicate or "",
    )


def _null_flips(arguments: argparse.Namespace) -> int:
    """Return how many flips of subjects are wanted; shares of windows know no subjects, so by default none of them."""
    by_default = 0 if arguments.protocol == SHUFFLED else NUM_FLIPS
    return by_default if arguments.null_flips is None else int(arguments.null_flips)


def whereabouts(settings: StudySettings, *, is_tracked: bool) -> str:
    """Return where the study lies and the line that opens it."""
    uri = without_secrets(settings.tracking.uri)
    storage = without_secrets(settings.storage_url)
    name = shlex.quote(settings.name)
    ledger = (
        f"ledger (Optuna study {settings.name}): {storage}\n"
        f"its report, one HTML page: python -m platform.report {name} --study-storage {shlex.quote(storage)}"
    )
    if not is_tracked:
        return f"{ledger}\nMLflow could not be reached at {uri}: run the same command again to send what is missing"
    if uri.startswith("http"):
        return f"{ledger}\nMLflow: {uri}"
    return f"{ledger}\nMLflow's database: {uri}\nopen its UI with:\n\n    mlflow ui --backend-store-uri {uri}\n"


def _calibration(how: str | None, minutes: float) -> Calibration | None:
    if how is None and not minutes:
        return None
    if how is None:
        raise BadInput(
            "--calibration-minutes needs --calibration: eeg (EEG alone adapts the model), or paired (volumes)"
        )
    if minutes < MIN_CALIBRATION_MINUTES:
        raise BadInput(
            f"--calibration {how} needs --calibration-minutes of {MIN_CALIBRATION_MINUTES:g} or more (a window spans "
            f"30 s), but got {minutes:g}"
        )
    return Calibration(how=how, minutes=minutes)


def with_starts(settings: StudySettings) -> StudySettings:
    """Return the settings with what they take of an earlier study: parameters to start from, or its winner, frozen."""
    if settings.replicate:
        frozen = frozen_winner(settings.replicate, settings.storage_url, settings.name)
        return dataclasses.replace(settings, frozen=frozen)
    if not settings.start_from:
        return settings
    space = search_space(settings.architecture, settings.search_space, settings.preset)
    found = starting_parameters(settings.start_from, settings.storage_url, settings.name, space)
    return dataclasses.replace(settings, starts=found)


def _budgets(arguments: argparse.Namespace) -> Budgets:
    if arguments.gpu_hours and not arguments.gpus_per_worker:
        raise BadInput("--gpu-hours needs jobs that hold GPUs: give --gpus-per-worker, too, or --time-budget instead")
    return Budgets(
        fold_jobs=arguments.fold_jobs,
        gpu_hours=arguments.gpu_hours,
        no_improvement=arguments.stop_after_no_improvement,
    )


def _is_server(tracking: str | None) -> bool:
    return tracking is not None and tracking.startswith("http")


def _shards(given: str | None) -> str:
    if not given:
        raise BadInput(
            "no shards are configured: give --shards URI or set EEG2FMRI_SHARDS; make some with: "
            "python -m datasets.simulate RAW && python -m datasets.prepare RAW SHARDS"
        )
    return ",".join(place if "://" in place else open_storage(place).uri for place in places_of(given))


def _first_on_one_node(shards: str) -> str:
    """Return the place that other nodes may not see, where one of several is such."""
    places = places_of(shards)
    return next((place for place in places if open_storage(place).is_local), places[0])


if __name__ == "__main__":
    raise SystemExit(run_command(main))
