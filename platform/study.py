"""The search: proposes trials, runs their fold jobs, fills the ledger, and refits the winner.

Takes settings; gives the study's result.  Whatever ends the process, the same settings go on where it stopped.
"""

import dataclasses
import functools
import logging
import math
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets.cluster import cluster_size, run_tasks
from datasets.errors import BadInput
from datasets.storage import without_secrets
from platform.after_search import LOCKED_AWAY, NESTED, NULLS, Afterwards, refit_epochs
from platform.baselines import BASELINES
from platform.brain_maps import maps_name
from platform.budgets import Budgets, fewest_fold_jobs
from platform.calibration import Calibration, Timing, parts_of
from platform.data_jobs import decode_subject, score_baselines
from platform.data_quality import QUALITY, data_quality
from platform.finalists import REFERENCES, TEST, score_finalist, score_references
from platform.findings import Findings, findings
from platform.fold_jobs import FoldJobs, StudySteps, run_fold_jobs
from platform.fold_models import exported, forget_fold_model, kept_fold_model
from platform.folds import Fold
from platform.job import Job, Workers, job_seed
from platform.job_model import open_data
from platform.ledger import (
    WINNER,
    BaselineFolds,
    FurtherScores,
    Ledger,
    LedgerTrial,
    best_trial,
    open_ledger,
)
from platform.loop import TrainingDiverged
from platform.median_stopping import GRACE_EPOCHS, MIN_JOBS, MedianCurve, median_curve
from platform.models import ARCHITECTURES, Volumes
from platform.own_space import check_space, checked_configuration, search_space
from platform.packaging import Package, half_width
from platform.products import DataSettings, StudyData
from platform.progress import PROGRESS, Standing, showing
from platform.protocols import PROTOCOLS, UNIT_OF, WITHIN, Division, divided, refuse_what_chooses
from platform.provenance import code_version
from platform.racing import RacingSettings
from platform.report import report_page
from platform.report_pages.brain_section import MAPS
from platform.report_pages.studied import FOLD_SUBJECTS
from platform.samplers import Proposal, propose, space_digest
from platform.study_note import Origin, study_note
from platform.tracking import TrackedData, Tracker, TrackingSettings, Untracked
from platform.training import RefitFailed, refit
from platform.training_config import Epochs
from search_spaces import SearchSpace

logger = logging.getLogger(__name__)

PROTOCOL_VERSION = 2
_WINNER_SENT = "winner_sent"
_FURTHER_SENT = "further_sent"
COMMAND = "command"
"""Under this the ledger notes the command that was last given."""
_BESIDE = "references"
"""Under this the ledger keeps the further scores of baselines."""


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """Everything that a search is told.

    Attributes:
        name: the study's name in its storage and in MLflow.
        architecture: a key of ``ARCHITECTURES``.
        search_space: a user's own search space as ``module:function``; "" for the architecture's.
        preset: name of the preset whose configurations are the first trials; "" for none.
        calibration: how the first minutes of each scored subject adapt a model; None for not at all.
        data: which shards, and how they are read.
        storage_url: the ledger's storage.
        tracking: where MLflow is.
        workers: what one fold job runs on.
        num_trials, racing, commit_lag: how many trials, and how they race.
        finalists: how many of the best run on all folds with two more seeds.
        sampler: a key of ``SAMPLERS``.
        seed: of folds, trials and jobs.
        epochs: how long a job may train.
        concurrency: fold jobs at once, at the most; None for as many as the cluster holds.
        time_budget_s: seconds after which no job starts; infinite for none.
        finalist_scores: whether the winner is trained again for all further scores.
        report: whether MLflow gets the report.
        job_timeout_s: seconds after which a fold job hangs and is ended; infinite for never.
        budgets: what else ends the search before its last trial.
        start_from: the earlier study, or ``URL#NAME``, that it starts from; "" for none.
        starts: the parameters that were found there, those of the trials after the default one.
        median_stopping: whether a job ends once it is below the median of earlier jobs of its fold.
        progress: how the search is shown while it runs, one of ``PROGRESS``.
        command: the command that was given, to be shown.
        protocol: which folds there are, a key of ``PROTOCOLS``.
        lock_away: how many subjects are in no fold, and scored once when the search is over.
        null_flips: how often ridge is fitted again with BOLD's sign flipped by subject.
        null_repeats: how often the winner's configuration is trained again so, on all folds.
    """

    name: str
    architecture: str
    data: DataSettings
    storage_url: str
    tracking: TrackingSettings
    workers: Workers = Workers()
    num_trials: int
    racing: str = "halving"
    commit_lag: int = 4
    finalists: int = 0
    sampler: str = "tpe"
    seed: int = 0
    epochs: Epochs = Epochs()
    search_space: str = ""
    preset: str = ""
    calibration: Calibration | None = None
    concurrency: int | None = None
    time_budget_s: float = math.inf
    finalist_scores: bool = True
    report: bool = True
    job_timeout_s: float = math.inf
    budgets: Budgets = Budgets()
    start_from: str = ""
    starts: tuple[dict[str, Any], ...] = ()
    median_stopping: bool = False
    progress: str = "auto"
    command: str = ""
    protocol: str = "loso"
    lock_away: int = 0
    null_flips: int = 0
    null_repeats: int = 0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w. -]+", self.name):
            raise BadInput(f"a study's name must be made of letters, digits, and any of '_. -', but got {self.name}")
        if self.architecture not in ARCHITECTURES:
            raise BadInput(f"the architecture must be one of {', '.join(ARCHITECTURES)}, but got {self.architecture}")
        if self.progress not in PROGRESS:
            raise BadInput(f"progress must be one of {', '.join(PROGRESS)}, but got {self.progress}")
        self._check_protocol()

    def _check_protocol(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise BadInput(f"the protocol must be one of {', '.join(PROTOCOLS)}, but got {self.protocol}")
        if self.lock_away and self.calibration is not None:
            raise BadInput(
                "--lock-away scores subjects that nothing adapts to; leave out --calibration, or --lock-away"
            )
        if self.data.unit != UNIT_OF[self.protocol]:
            raise BadInput(
                f"--protocol {self.protocol} leaves out a {UNIT_OF[self.protocol]}, but the data's unit is "
                f"{self.data.unit}; give them alike"
            )
        if self.protocol == WITHIN and (self.lock_away or self.data.pairing != "recorded"):
            raise BadInput(
                "--protocol within knows recordings alone, of which each stands for itself; leave out --lock-away and "
                "--pairing, or give --protocol loso"
            )
        if self.protocol != "nested":
            return
        learns = {"--start-from": self.start_from, "--median-stopping": self.median_stopping}
        refuse_what_chooses(self.sampler, self.racing, learns_otherwise=[name for name, on in learns.items() if on])
        if self.finalists or self.null_repeats:
            raise BadInput(
                "--protocol nested runs no trial with other seeds and repeats no null: give --finalists 0 and no "
                "--null-repeats"
            )

    def terms(self, data_digest: str) -> dict[str, Any]:
        """Return what every score of the study depends on."""
        return {
            "protocol": PROTOCOL_VERSION,
            "architecture": self.architecture,
            "data": data_digest,
            "pairing": self.data.pairing,
            "rate_hz": self.data.rate_hz,
            "space": space_digest(self.space),
            **{name: value for name, value in self._given().items() if value},
            **({"starts": list(self.starts)} if self.starts else {}),
            "sampler": self.sampler,
            "racing": self.racing,
            "commit_lag": self.commit_lag,
            "seed": self.seed,
            "max_epochs": self.epochs.maximum,
            "patience": self.epochs.patience,
        }

    @property
    def space(self) -> SearchSpace:
        """What trials are drawn from, and what the first of them are."""
        found = search_space(self.architecture, self.search_space, self.preset)
        return dataclasses.replace(found, starts=self.starts) if self.starts else found

    def _given(self) -> dict[str, str]:
        calibration = "" if self.calibration is None else str(self.calibration)
        median = f"after {GRACE_EPOCHS} epochs, of {MIN_JOBS} jobs or more" if self.median_stopping else ""
        return {
            "finalists": str(self.finalists) if self.racing == "paired" else "",  # all of them get all folds there
            "search_space": self.search_space,
            "preset": self.preset,
            "start_from": without_secrets(self.start_from),
            "calibration": calibration,
            "median_stopping": median,
            "folds": self.protocol if self.protocol != "loso" else "",
            "lock_away": str(self.lock_away) if self.lock_away else "",
        }


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What a search found; scores are keyed by fold.

    Attributes:
        name: the study's name.
        num_subjects: subjects in folds.
        trials: every trial.
        winner: the trial with the highest mean validation score over all folds; None where no trial has them all.
        test: the winner's test scores, opened now that the search is over.
        baselines: every baseline's scores.
        pairing: how EEG was paired with BOLD.
        calibration: how the first minutes of scored subjects adapted the models; None for not at all.
        is_tracked: whether MLflow holds everything.
        further: further test scores, by ``winner`` or a baseline, by score, by fold; empty where none were wanted.
        racing: the rule by which trials raced.
        ended_by: which budget ended the search before its last trial, in words; "" where none did.
        nested, locked_away: what they say of each subject, and of what, as the ledger notes it; empty where unasked.
        nulls: scores without coupling, as the ledger notes them.
        findings: what the study found; None where there is no winner.
    """

    name: str
    num_subjects: int
    trials: Sequence[LedgerTrial]
    winner: LedgerTrial | None
    test: Mapping[int, float]
    baselines: Mapping[str, BaselineFolds]
    pairing: str
    is_tracked: bool
    calibration: Calibration | None = None
    further: FurtherScores = field(default_factory=dict)
    racing: str = "none"
    ended_by: str = ""
    nested: Mapping[str, Any] = field(default_factory=dict)
    locked_away: Mapping[str, Any] = field(default_factory=dict)
    nulls: Sequence[Mapping[str, Any]] = ()
    findings: Findings | None = None


def check_data(settings: StudySettings) -> None:
    """Refuse shards or a search space that no study can be run on; nothing is written, and no cluster is needed."""
    check_space(settings.architecture, settings.space)
    data = StudyData(settings.data)
    _check_fold_jobs(settings, len(_division(settings, data).folds))
    if settings.calibration is not None:
        _check_minutes(data, settings.calibration)


def _check_fold_jobs(settings: StudySettings, num_folds: int) -> None:
    """Refuse a budget that lets no trial run on all folds."""
    fewest = fewest_fold_jobs(settings.racing, num_folds)
    if settings.budgets.fold_jobs is not None and settings.budgets.fold_jobs < fewest:
        raise BadInput(
            f"--fold-jobs must be {fewest} or more, but got {settings.budgets.fold_jobs}: with --racing "
            f"{settings.racing} fewer let no trial run on all {num_folds} folds"
        )


def _check_minutes(data: StudyData, calibration: Calibration) -> None:
    """Refuse a calibration that leaves too little of a subject to score."""
    timing = Timing(repetition_time_s=data.manifest.layout.repetition_time_s, window_volumes=data.window_volumes)
    for subject in data.manifest.subjects:
        rows = [entry.rows for entry in data.manifest.of_subject(subject) if entry.rows > data.window_volumes]
        parts_of(rows, timing, calibration.minutes, calibration.held_back, subject)


def search(settings: StudySettings) -> StudyResult:
    """Run a study to its end, or on from where it stopped, and return its result."""
    data = StudyData(settings.data)
    division = _division(settings, data)
    ledger = open_ledger(settings.storage_url, settings.name, settings.terms(data.manifest.digest))
    with ledger.sole_writer():
        return _search(settings, data, division, ledger)


def _division(settings: StudySettings, data: StudyData) -> Division:
    return divided(data.manifest.subjects, settings.seed, settings.protocol, settings.lock_away)


def search_untracked(settings: StudySettings) -> Ledger:
    """Run a study to its end as ``search`` does, but without MLflow, report or refit; return its closed ledger."""
    data = StudyData(settings.data)
    division = _division(settings, data)
    ledger = open_ledger(settings.storage_url, settings.name, settings.terms(data.manifest.digest))
    with ledger.sole_writer():
        _note_origin(settings, division, ledger)
        _fill(settings, data, division, ledger, Untracked())
    return ledger


def _search(settings: StudySettings, data: StudyData, division: Division, ledger: Ledger) -> StudyResult:
    _note_origin(settings, division, ledger)
    tracker = Tracker(settings.tracking, ledger, _tracked(data, division), _tags(settings, data))
    status = "KILLED"
    try:
        tracker.watch()
        ended_by, further = _fill(settings, data, division, ledger, tracker)
        winner = _track_winner(settings, data, division, ledger, tracker)
        status = "FINISHED"
    finally:
        is_tracked = tracker.finish(status)
    if is_tracked:
        ledger.note(_WINNER_SENT, winner)
        ledger.note(_FURTHER_SENT, further)
        _forget_fold_models(settings, division.folds, ledger)
    return _result(settings, division, ledger, is_tracked=is_tracked, ended_by=ended_by)


def _note_origin(settings: StudySettings, division: Division, ledger: Ledger) -> None:
    if ledger.noted("uid") is None:
        ledger.note("uid", uuid.uuid4().hex)
    if settings.command:
        ledger.note(COMMAND, settings.command)
    if ledger.noted(FOLD_SUBJECTS) is None:
        ledger.note(FOLD_SUBJECTS, [fold.test for fold in division.folds])


def _fill(
    settings: StudySettings, data: StudyData, division: Division, ledger: Ledger, tracker: Tracker | Untracked
) -> tuple[str, int | None]:
    """Run all that a ledger keeps; return which budget ended the search, and whose further scores were sent."""
    tracker.send_missing(ledger.trials)
    _decode_shards(settings, data)
    if ledger.noted(QUALITY) is None:
        ledger.note(QUALITY, data_quality(data))
    _score_baselines(settings, division.folds, ledger)
    ended_by = _run_trials(settings, division.folds, ledger, tracker)
    ledger.close()
    further = _track_further(settings, division.folds, ledger, tracker)
    _afterwards(settings, division, ledger)
    return ended_by, further


def _afterwards(settings: StudySettings, division: Division, ledger: Ledger) -> None:
    """Compute, once the search is over, what no trial was chosen by, and what would be found without coupling."""
    afterwards = Afterwards(
        ledger=ledger,
        data=settings.data,
        division=division,
        seed=settings.seed,
        workers=settings.workers,
        at_once=_concurrency(settings),
        job=lambda trial, fold: _job(settings, trial, fold),
    )
    if settings.protocol == "nested":
        afterwards.note_nested()
    afterwards.note_nulls(settings.null_flips, settings.null_repeats)
    afterwards.open_locked_away()


def _decode_shards(settings: StudySettings, data: StudyData) -> None:
    """Fill the cache, each shard's bytes checked against the manifest before the first job reads them."""
    subjects = data.manifest.subjects
    for number, _ in enumerate(run_tasks(decode_subject, [(settings.data, subject) for subject in subjects]), start=1):
        logger.info("decoded %d of %d subjects into %s", number, len(subjects), settings.data.cache_folder)


def _score_baselines(settings: StudySettings, folds: Sequence[Fold], ledger: Ledger) -> None:
    """Score the baselines of every fold that the ledger has none of yet."""
    scored = ledger.baseline_folds(BASELINES)
    missing = [fold for fold in folds if fold.number not in scored]
    tasks = [(settings.data, fold, settings.calibration) for fold in missing]
    for num_scored, (fold, scores) in enumerate(run_tasks(score_baselines, tasks), start=len(folds) - len(missing) + 1):
        ledger.commit_baselines(fold, {name: (score.validation, score.test) for name, score in scores.items()})
        shown = "  ".join(f"{name} {score.validation:+.3f}" for name, score in scores.items())
        logger.info("baselines of fold %d (%d of %d): %s", fold, num_scored, len(folds), shown)


def _run_trials(settings: StudySettings, folds: Sequence[Fold], ledger: Ledger, tracker: Tracker | Untracked) -> str:
    """Run fold jobs until every trial is settled or a budget is used up; return which one ended the search, or "".

    Raises:
        KeyboardInterrupt: where the jobs were interrupted.
    """
    racing = RacingSettings(
        num_trials=max(settings.num_trials, len(ledger.trials)),
        num_folds=len(folds),
        racing=settings.racing,
        commit_lag=settings.commit_lag,
        finalists=settings.finalists,
    )
    ledger.keep_num_folds(len(folds))
    jobs = FoldJobs(
        ledger=ledger,
        racing=racing,
        steps=StudySteps(
            propose=functools.partial(_proposal, settings, ledger),
            job=lambda trial, fold, repeat: _job(
                settings, trial, folds[fold], repeat, _median(settings, ledger, trial, fold)
            ),
        ),
        deadline=time.monotonic() + settings.time_budget_s,
        on_record=lambda *_: None,
        on_told=tracker.send_trial,
        timeout_s=settings.job_timeout_s,
        budgets=settings.budgets,
        gpus_per_job=settings.workers.count * settings.workers.gpus,
    )
    if not jobs.is_done():
        _run_shown(settings, jobs)
    jobs.tell_settled(len(ledger.trials))
    tracker.send_missing([trial for trial in ledger.trials if trial.late])
    if jobs.is_done():
        return jobs.ended_by()
    if not jobs.is_over():
        raise KeyboardInterrupt  # Ray Tune ends quietly on Ctrl-C
    logger.info("the budget is used up; the same command with a larger one goes on with what is not settled yet")
    return jobs.ended_by() or f"{settings.time_budget_s / 60:g} minutes are over"


def _run_shown(settings: StudySettings, jobs: FoldJobs) -> None:
    """Run fold jobs while showing how they go on."""
    num_slots = _concurrency(settings)
    standing = Standing(
        study=settings.name,
        num_trials=jobs.racing.num_trials,
        num_folds=jobs.racing.num_folds,
        num_slots=num_slots,
        num_finalists=jobs.racing.finalists,
        trials=tuple(jobs.ledger.trials),
        began_s=time.monotonic(),
        time_budget_s=settings.time_budget_s,
    )
    send_trial = jobs.on_told

    with showing(settings.progress, standing) as progress:

        def tell(trial: LedgerTrial) -> None:
            send_trial(trial)
            progress.told(trial)

        jobs.on_proposal, jobs.on_record, jobs.on_told = progress.proposed, progress.recorded, tell
        jobs.on_start, jobs.on_end = progress.started, progress.ended
        try:
            run_fold_jobs(jobs, settings.workers, num_slots)
        finally:
            jobs.on_told = send_trial


def _proposal(settings: StudySettings, ledger: Ledger, number: int, told_up_to: int) -> Proposal:
    proposal = propose(ledger.history(told_up_to), settings.sampler, settings.space, settings.seed, number)
    checked_configuration(settings.architecture, proposal.configuration)
    return proposal


def _job(
    settings: StudySettings, trial: LedgerTrial, fold: Fold, repeat: int = 0, median: MedianCurve | None = None
) -> Job:
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


def _median(settings: StudySettings, ledger: Ledger, trial: LedgerTrial, fold: int) -> MedianCurve | None:
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


def _concurrency(settings: StudySettings) -> int:
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


def _track_winner(
    settings: StudySettings, data: StudyData, division: Division, ledger: Ledger, tracker: Tracker
) -> int | None:
    """Send the winner, refitted on all subjects where this very one did not arrive before; return its number."""
    winner = best_trial(ledger.trials)
    if winner is None:
        return ledger.noted(_WINNER_SENT)
    are_logged = ledger.noted(_WINNER_SENT) == winner.number or _send_models(settings, data, division, winner, tracker)
    baselines, test_scores = ledger.baselines(), _test_scores(ledger, winner)
    origin = Origin(command=settings.command, shards=data.storage.uri, digest=data.manifest.digest)
    found = _findings(ledger)
    tracker.send_winner(winner, baselines, test_scores, study_note(winner, baselines, test_scores, found, origin))
    if settings.report and found is not None:
        tracker.send_report(report_page(ledger, found))
    return winner.number if are_logged else ledger.noted(_WINNER_SENT)


def _findings(ledger: Ledger) -> Findings | None:
    try:
        return findings(ledger)
    except BadInput as refusal:
        logger.info("MLflow gets no corrected score: %s", refusal)
        return None


def _send_models(
    settings: StudySettings, data: StudyData, division: Division, winner: LedgerTrial, tracker: Tracker
) -> bool:
    """Refit the winner on all subjects in folds and send its models; return whether it could be refitted."""
    epochs, subjects = refit_epochs(winner), division.in_folds
    logger.info("refitting trial %d on all %d subjects for %d epochs", winner.number, len(subjects), epochs)
    job = Job(
        data=settings.data,
        architecture=settings.architecture,
        configuration=winner.configuration,
        epochs=settings.epochs,
        stop_after=epochs,
        seed=job_seed(settings.seed, winner.number, len(subjects)),
        trial=winner.number,
        subjects=subjects,
        storage=settings.workers.storage,
    )
    try:
        model = refit(job, settings.workers)
    except RefitFailed as error:
        logger.warning("the winner's refit failed (%s); the same command tries it again", error)
        return False
    tracker.send_models(winner, _packages(settings, division, winner, model), open_data(settings.data))
    return True


def _packages(settings: StudySettings, division: Division, winner: LedgerTrial, model: Volumes) -> dict[str, Package]:
    """Return the winner refitted on all subjects, under "", and the models of its folds by test subject."""
    shape = open_data(settings.data).model_shape(None)
    origin = {"study": settings.name, "architecture": settings.architecture, "trial": winner.number}
    kept = {fold: kept_fold_model(_winner_job(settings, winner, fold)) for fold in division.folds}
    found = {fold: left for fold, left in kept.items() if left is not None}
    widths = half_width([left.test_error_V for left in found.values()]) if found else None
    refitted = Package(
        program=exported(model, shape.num_channels, shape.num_samples),
        configuration=winner.configuration,
        trained_on=division.in_folds,
        origin=origin,
        half_width_V=widths,
    )
    of_folds = {
        fold.test: Package(
            program=left.program,
            configuration=winner.configuration,
            trained_on=fold.training,
            origin={**origin, "test_subject": fold.test},
            half_width_V=half_width([left.validation_error_V]),
        )
        for fold, left in found.items()
    }
    return {"": refitted, **of_folds}


def _winner_job(settings: StudySettings, winner: LedgerTrial, fold: Fold) -> Job:
    """Return the job that trains the winner on a fold again."""
    return dataclasses.replace(_job(settings, winner, fold), stop_after=winner.records[fold.number].best_epochs)


def _forget_fold_models(settings: StudySettings, folds: Sequence[Fold], ledger: Ledger) -> None:
    winner = best_trial(ledger.trials)
    if winner is not None and settings.workers.storage:
        for fold in folds:
            forget_fold_model(_winner_job(settings, winner, fold))


def _track_further(
    settings: StudySettings, folds: Sequence[Fold], ledger: Ledger, tracker: Tracker | Untracked
) -> int | None:
    """Score the winner and the baselines beside it by all further scores, and send them; return the winner's number."""
    winner = best_trial(ledger.trials)
    if winner is None or not settings.finalist_scores or settings.protocol == "nested":
        return ledger.noted(_FURTHER_SENT)
    try:
        _score_further(settings, folds, ledger, winner)
    except TrainingDiverged as error:
        logger.warning("the winner cannot be trained again (%s), so it has no further scores", error)
        return ledger.noted(_FURTHER_SENT)
    if ledger.noted(_FURTHER_SENT) != winner.number:
        tracker.send_further(_further(ledger, winner))
    return winner.number


def _score_further(settings: StudySettings, folds: Sequence[Fold], ledger: Ledger, winner: LedgerTrial) -> None:
    """Commit the further scores of every fold that the ledger has none of yet, the winner's and the baselines'."""
    whose = f"trial-{winner.number:04d}"
    known, known_beside = ledger.further_folds(whose), ledger.further_folds(_BESIDE)
    are_logged = ledger.noted(_WINNER_SENT) == winner.number or not settings.workers.storage
    of_folds = {fold.number: _winner_job(settings, winner, fold) for fold in folds}
    jobs = [
        job
        for fold, job in of_folds.items()
        if fold not in known or not (are_logged or kept_fold_model(job) is not None)
    ]
    workers = settings.workers
    own = (workers.cpus, workers.gpus) if workers.count == 1 else (0, 0.0)  # its workers ask for their own
    at_once = _concurrency(settings)
    trained = run_tasks(score_finalist, [(job, workers) for job in jobs], cpus=own[0], gpus=own[1], at_once=at_once)
    for fold, scores in trained:
        ledger.commit_further(whose, fold, scores)
        _note_brain_maps(settings, folds, ledger, winner)
        num_scored = len(ledger.further_folds(whose))
        logger.info("further scores of trial %d on %d of %d folds", winner.number, num_scored, len(folds))
    missing = [(settings.data, fold) for fold in folds if fold.number not in known_beside]
    for fold, scores in run_tasks(score_references, missing):
        ledger.commit_further(_BESIDE, fold, scores)
        num_scored = len(ledger.further_folds(_BESIDE))
        logger.info("further scores of the baselines on %d of %d folds", num_scored, len(folds))


def _note_brain_maps(settings: StudySettings, folds: Sequence[Fold], ledger: Ledger, winner: LedgerTrial) -> None:
    """Note where the winner's maps lie, for the report."""
    names = {str(fold.number): maps_name(_winner_job(settings, winner, fold).digest) for fold in folds}
    found = {"trial": winner.number, "storage": settings.workers.storage, "names": names}
    if settings.workers.storage and ledger.noted(MAPS) != found:
        ledger.note(MAPS, found)


def _further(ledger: Ledger, winner: LedgerTrial | None) -> FurtherScores:
    """Return the further test scores that the ledger has of all folds, by predictor, by score, by fold."""
    if winner is None:
        return {}
    of_winner = {fold: scores[TEST] for fold, scores in ledger.further_scores(f"trial-{winner.number:04d}").items()}
    beside = ledger.further_scores(_BESIDE)
    if len(of_winner) < len(winner.scores) or len(beside) < len(winner.scores):
        return {}
    of_baselines = {name: {fold: scores[name] for fold, scores in beside.items()} for name in REFERENCES}
    return {
        predictor: {
            score: {fold: of_fold[score] for fold, of_fold in by_fold.items() if score in of_fold}
            for score in dict.fromkeys(name for of_fold in by_fold.values() for name in of_fold)
        }
        for predictor, by_fold in {WINNER: of_winner, **of_baselines}.items()
    }


def _tracked(data: StudyData, division: Division) -> TrackedData:
    return TrackedData(uri=data.storage.uri, digest=data.manifest.digest, num_subjects=len(division.in_folds))


def _tags(settings: StudySettings, data: StudyData) -> dict[str, str]:
    terms = settings.terms(data.manifest.digest)
    return {**{name: str(value) for name, value in terms.items() if name != "starts"}, "code_version": code_version()}


def _test_scores(ledger: Ledger, winner: LedgerTrial) -> Mapping[int, float]:
    """Return the winner's test scores by fold; of a nested study by subject, at epochs that others chose."""
    nested = ledger.noted(NESTED)
    return dict(enumerate(nested["winner"].values())) if nested else ledger.test_scores(winner.number)


def _result(
    settings: StudySettings, division: Division, ledger: Ledger, *, is_tracked: bool, ended_by: str
) -> StudyResult:
    winner = best_trial(ledger.trials)
    return StudyResult(
        name=settings.name,
        num_subjects=len(division.in_folds),
        trials=ledger.trials,
        winner=winner,
        test=_test_scores(ledger, winner) if winner else {},
        baselines=ledger.baselines(),
        pairing=settings.data.pairing,
        calibration=settings.calibration,
        is_tracked=is_tracked,
        ended_by=ended_by,
        further=_further(ledger, winner) if settings.finalist_scores else {},
        racing=settings.racing,
        nested=ledger.noted(NESTED) or {},
        locked_away=ledger.noted(LOCKED_AWAY) or {},
        nulls=ledger.noted(NULLS) or (),
        findings=findings(ledger) if winner else None,
    )


if __name__ == "__main__":
    from datasets.command_line import run_command
    from platform.study_tables import main

    raise SystemExit(run_command(main))
