"""A study's settings, a trial and a fold to the job that trains it, and how many such jobs run at once."""

from collections.abc import Sequence

from datasets.cluster import cluster_size
from datasets.errors import BadInput
from platform.data.folds import Fold
from platform.ledger.ledger import Ledger
from platform.ledger.records import LedgerTrial
from platform.study.settings import StudySettings
from platform.training.job import Job, job_seed
from platform.training.median_stopping import MedianCurve, median_curve


def fold_job(
    settings: StudySettings, trial: LedgerTrial, fold: Fold, repeat: int = 0, median: MedianCurve | None = None
) -> Job:
    """Return the job that trains and scores a trial on a fold, for the first time or again with another seed."""
    return Job(
        data=settings.data,
        architecture=settings.architecture,
        configuration=trial.configuration,
        epochs=settings.epochs,
        seed=job_seed(settings.seed, trial.number, fold.number, repeat),
        trial=trial.number,
        fold=fold,
        repeat=repeat,
        median=median,
        calibration=settings.calibration,
        storage=settings.workers.storage,
    )


def rivals_curve_of(settings: StudySettings, ledger: Ledger, trial: LedgerTrial, fold: int) -> MedianCurve | None:
    """Return the curve below which a job ends; None where none ends so."""
    if not settings.median_stopping:
        return None
    lag, maximum = settings.commit_lag, settings.epochs.maximum
    return rivals_curve(ledger.trials, trial, fold, commit_lag=lag, max_epochs=maximum)


def rivals_curve(
    trials: Sequence[LedgerTrial], trial: LedgerTrial, fold: int, *, commit_lag: int, max_epochs: int
) -> MedianCurve | None:
    """Return the median curve of the trials that were settled when this one was proposed; None once it is told."""
    if trial.progress.is_told:
        return None
    settled = trials[: max(0, trial.number - commit_lag + 1)]
    rivals = [other for other in settled if not other.progress.is_failed and fold in other.progress.scores]
    return median_curve([other.records[fold].validation for other in rivals], max_epochs)


def num_slots(settings: StudySettings) -> int:
    """Return how many jobs may run at once so that every worker group fits into the cluster."""
    workers = settings.workers
    cpus, gpus = cluster_size()
    fitting = cpus // (workers.count * workers.cpus)
    if workers.gpus:
        fitting = min(fitting, int(gpus / (workers.count * workers.gpus)))
    if fitting < 1:
        raise BadInput(
            f"a fold job needs {workers.count} workers with {workers.cpus} CPUs and {workers.gpus:g} GPUs each, but "
            f"the cluster has {cpus} CPUs and {gpus:g} GPUs; lower --workers-per-trial, --cpus-per-worker or "
            "--gpus-per-worker"
        )
    return min(fitting, settings.concurrency or fitting)
