"""The search: proposes trials, runs their fold jobs, fills the ledger, and refits the winner.

Takes settings; gives the study's result.  Whatever ends the process, the same settings go on where it stopped.
"""

import functools
import logging
import time
import uuid
from collections.abc import Sequence

from datasets.cluster import run_tasks
from datasets.errors import BadInput
from platform.data.folds import NUM_SHARES, Fold
from platform.data.products import StudyData
from platform.data.quality import QUALITY, data_quality
from platform.evidence.after_search import LOCKED_AWAY, NESTED, NULLS, Afterwards
from platform.evidence.findings import FOLD_PLAN, findings
from platform.evidence.protocols import DATA_SETS, LEAKS, SHUFFLED, Division, divided
from platform.ledger.ledger import Ledger
from platform.ledger.provenance import code_version
from platform.ledger.records import LedgerTrial, best_trial
from platform.ledger.studies import open_ledger
from platform.proposals.samplers import Proposal, propose
from platform.racing.budgets import fewest_fold_jobs
from platform.racing.next_job import RacingSettings
from platform.report_pages.studied import FOLD_SUBJECTS
from platform.scores.baselines import BASELINES
from platform.scores.metrics import num_cosines
from platform.study.fold_jobs import FoldJobs, StudySteps, run_fold_jobs
from platform.study.jobs import fold_job, num_slots, rivals_curve_of
from platform.study.own_space import check_space, checked_configuration
from platform.study.progress import Standing, showing
from platform.study.replication import note_earlier, note_there, refuse_unlike
from platform.study.result import StudyResult
from platform.study.settings import StudySettings
from platform.study.winner import (
    FURTHER_SENT,
    WINNER_SENT,
    forget_fold_models,
    further_of,
    track_further,
    track_winner,
    winner_test_scores,
)
from platform.tracking.runs import TrackedData, Tracker, Untracked
from platform.training.calibration import Calibration, Timing, parts_of
from platform.training.data_jobs import decode_subject, score_baselines

logger = logging.getLogger(__name__)

FEWEST_DEGREES = 2
"""Degrees of freedom that the high-pass must leave of a recording's windows in a share."""
COMMAND = "command"
"""Under this the ledger notes the command that was last given."""


def check_data(settings: StudySettings) -> None:
    """Refuse shards or a search space that no study can be run on; nothing is written, and no cluster is needed."""
    check_space(settings.architecture, settings.space)
    data = StudyData(settings.data)
    if settings.frozen is not None:
        refuse_unlike(settings.frozen, settings.terms(data.manifest.digest))
    _check_fold_jobs(settings, len(_division(settings, data).folds))
    if settings.calibration is not None:
        _check_minutes(data, settings.calibration)
    if settings.protocol == SHUFFLED:
        _check_lengths(data)


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


def _check_lengths(data: StudyData) -> None:
    """Refuse recordings of which a share holds too few windows for a correlation once slow drifts are out."""
    repetition_time_s = data.manifest.layout.repetition_time_s
    for name, rows in sorted({(each.name, each.rows) for each in data.manifest.shards}):
        windows = rows - data.window_volumes
        fewest = num_cosines(windows, repetition_time_s) + FEWEST_DEGREES
        if windows > 0 and windows // NUM_SHARES < fewest:
            raise BadInput(
                f"--protocol within-shuffled deals every recording's windows to {NUM_SHARES} shares, each of which "
                f"needs {fewest} or more of {name}, but that has {windows} in all; prepare longer recordings"
            )


def search(settings: StudySettings) -> StudyResult:
    """Run a study to its end, or on from where it stopped, and return its result."""
    data = StudyData(settings.data)
    division = _division(settings, data)
    ledger = _opened(settings, data)
    with ledger.sole_writer():
        return _search(settings, data, division, ledger)


def _opened(settings: StudySettings, data: StudyData) -> Ledger:
    terms = settings.terms(data.manifest.digest)
    if settings.frozen is not None:
        refuse_unlike(settings.frozen, terms)
    return open_ledger(settings.storage_url, settings.name, terms)


def _division(settings: StudySettings, data: StudyData) -> Division:
    return divided(data.manifest.subjects, settings.seed, settings.protocol, settings.lock_away)


def search_untracked(settings: StudySettings) -> Ledger:
    """Run a study to its end as ``search`` does, but without MLflow, report or refit; return its closed ledger."""
    data = StudyData(settings.data)
    division = _division(settings, data)
    ledger = _opened(settings, data)
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
        winner = track_winner(settings, data, division, ledger, tracker)
        status = "FINISHED"
    finally:
        is_tracked = tracker.finish(status)
    if is_tracked:
        ledger.note(WINNER_SENT, winner)
        ledger.note(FURTHER_SENT, further)
        forget_fold_models(settings, division.folds, ledger)
    return _result(settings, division, ledger, is_tracked=is_tracked, ended_by=ended_by)


def _note_origin(settings: StudySettings, division: Division, ledger: Ledger) -> None:
    if ledger.noted("uid") is None:
        ledger.note("uid", uuid.uuid4().hex)
    if settings.command:
        ledger.note(COMMAND, settings.command)
    if ledger.noted(FOLD_SUBJECTS) is None:
        ledger.note(FOLD_SUBJECTS, [fold.test for fold in division.folds])
    if settings.protocol == DATA_SETS and ledger.noted(FOLD_PLAN) is None:
        ledger.note(FOLD_PLAN, {"validation": division.validation, "num_training": division.num_training})
    if settings.frozen is not None:
        note_earlier(ledger, settings.frozen)


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
    further = track_further(settings, division.folds, ledger, tracker)
    _afterwards(settings, division, ledger)
    if settings.frozen is not None:
        note_there(ledger, settings.frozen, settings.replicate, settings.storage_url)
    return ended_by, further


def _afterwards(settings: StudySettings, division: Division, ledger: Ledger) -> None:
    """Compute, once the search is over, what no trial was chosen by, and what would be found without coupling."""
    afterwards = Afterwards(
        ledger=ledger,
        data=settings.data,
        division=division,
        seed=settings.seed,
        workers=settings.workers,
        at_once=num_slots(settings),
        job=lambda trial, fold: fold_job(settings, trial, fold),
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
            job=lambda trial, fold, repeat: fold_job(
                settings, trial, folds[fold], repeat, rivals_curve_of(settings, ledger, trial, fold)
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
    slots = num_slots(settings)
    standing = Standing(
        study=settings.name,
        num_trials=jobs.racing.num_trials,
        num_folds=jobs.racing.num_folds,
        num_slots=slots,
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
            run_fold_jobs(jobs, settings.workers, slots)
        finally:
            jobs.on_told = send_trial


def _proposal(settings: StudySettings, ledger: Ledger, number: int, told_up_to: int) -> Proposal:
    if settings.frozen is not None:
        proposal = Proposal(params={}, distributions={}, configuration=dict(settings.frozen.configuration))
    else:
        proposal = propose(ledger.history(told_up_to), settings.sampler, settings.space, settings.seed, number)
    checked_configuration(settings.architecture, proposal.configuration)
    return proposal


def _tracked(data: StudyData, division: Division) -> TrackedData:
    return TrackedData(
        uri=data.storage.uri,
        digest=data.manifest.digest,
        num_subjects=len(division.in_folds),
        num_training=division.num_training,
    )


def _tags(settings: StudySettings, data: StudyData) -> dict[str, str]:
    terms = settings.terms(data.manifest.digest)
    return {
        **{name: str(value) for name, value in terms.items() if name not in ("starts", "frozen")},
        **({"leaks": LEAKS[settings.protocol]} if settings.protocol in LEAKS else {}),
        "code_version": code_version(),
    }


def _result(
    settings: StudySettings, division: Division, ledger: Ledger, *, is_tracked: bool, ended_by: str
) -> StudyResult:
    winner = best_trial(ledger.trials)
    return StudyResult(
        name=settings.name,
        num_subjects=len(division.in_folds),
        unit=settings.data.unit,
        leak=LEAKS.get(settings.protocol, ""),
        trials=ledger.trials,
        winner=winner,
        test=winner_test_scores(ledger, winner) if winner else {},
        baselines=ledger.baselines(),
        pairing=settings.data.pairing,
        calibration=settings.calibration,
        is_tracked=is_tracked,
        ended_by=ended_by,
        further=further_of(ledger, winner) if settings.finalist_scores else {},
        racing=settings.racing,
        nested=ledger.noted(NESTED) or {},
        locked_away=ledger.noted(LOCKED_AWAY) or {},
        nulls=ledger.noted(NULLS) or (),
        findings=findings(ledger) if winner else None,
    )
