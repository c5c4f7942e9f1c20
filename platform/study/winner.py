"""The best trial of a search that is over: refitted on all subjects, scored further, sent to MLflow.

Takes the closed ledger and the study's data; gives what of it MLflow holds now.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence

from datasets.cluster import run_tasks
from datasets.errors import BadInput
from platform.data.folds import Fold
from platform.data.products import StudyData
from platform.evidence.after_search import NESTED, refit_epochs
from platform.evidence.brain_maps import maps_name
from platform.evidence.finalists import REFERENCES, TEST, score_finalist, score_references
from platform.evidence.findings import Findings, findings
from platform.evidence.protocols import LEAKS, WITHOUT_FURTHER_SCORES, Division
from platform.ledger.ledger import Ledger
from platform.ledger.records import WINNER, FurtherScores, LedgerTrial, best_trial
from platform.models import Volumes
from platform.report import report_page
from platform.report_pages.brain_section import MAPS
from platform.study.jobs import fold_job, num_slots
from platform.study.settings import StudySettings
from platform.tracking.packaging import Package, half_width
from platform.tracking.runs import Tracker, Untracked
from platform.tracking.study_note import Origin, study_note
from platform.training.fold_job import RefitFailed, refit
from platform.training.fold_models import exported, forget_fold_model, kept_fold_model
from platform.training.job import Job, job_seed
from platform.training.job_model import open_data
from platform.training.loop import TrainingDiverged

logger = logging.getLogger(__name__)

WINNER_SENT = "winner_sent"
FURTHER_SENT = "further_sent"
"""Under these the ledger notes of which trial MLflow holds everything."""
_BESIDE = "references"
"""Under this the ledger keeps the further scores of baselines."""


def track_winner(
    settings: StudySettings, data: StudyData, division: Division, ledger: Ledger, tracker: Tracker
) -> int | None:
    """Send the winner, refitted on all subjects where this very one did not arrive before; return its number."""
    winner = best_trial(ledger.trials)
    if winner is None:
        return ledger.noted(WINNER_SENT)
    are_logged = ledger.noted(WINNER_SENT) == winner.number or _send_models(settings, data, division, winner, tracker)
    baselines, test_scores = ledger.baselines(), winner_test_scores(ledger, winner)
    origin = Origin(
        command=settings.command,
        shards=data.storage.uri,
        digest=data.manifest.digest,
        leak=LEAKS.get(settings.protocol, ""),
    )
    found = _findings(ledger)
    tracker.send_winner(winner, baselines, test_scores, study_note(winner, baselines, test_scores, found, origin))
    if settings.report and found is not None:
        tracker.send_report(report_page(ledger, found))
    return winner.number if are_logged else ledger.noted(WINNER_SENT)


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
    unit = settings.data.unit
    logger.info("refitting trial %d on all %d %ss for %d epochs", winner.number, len(subjects), unit, epochs)
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
    return dataclasses.replace(fold_job(settings, winner, fold), stop_after=winner.records[fold.number].best_epochs)


def forget_fold_models(settings: StudySettings, folds: Sequence[Fold], ledger: Ledger) -> None:
    """Delete the winner's models of its folds: they are logged."""
    winner = best_trial(ledger.trials)
    if winner is not None and settings.workers.storage:
        for fold in folds:
            forget_fold_model(_winner_job(settings, winner, fold))


def track_further(
    settings: StudySettings, folds: Sequence[Fold], ledger: Ledger, tracker: Tracker | Untracked
) -> int | None:
    """Score the winner and the baselines beside it by all further scores, and send them; return the winner's number."""
    winner = best_trial(ledger.trials)
    if winner is None or not settings.finalist_scores or settings.protocol in WITHOUT_FURTHER_SCORES:
        return ledger.noted(FURTHER_SENT)
    try:
        _score_further(settings, folds, ledger, winner)
    except TrainingDiverged as error:
        logger.warning("the winner cannot be trained again (%s), so it has no further scores", error)
        return ledger.noted(FURTHER_SENT)
    if ledger.noted(FURTHER_SENT) != winner.number:
        tracker.send_further(further_of(ledger, winner))
    return winner.number


def _score_further(settings: StudySettings, folds: Sequence[Fold], ledger: Ledger, winner: LedgerTrial) -> None:
    """Commit the further scores of every fold that the ledger has none of yet, the winner's and the baselines'."""
    whose = f"trial-{winner.number:04d}"
    known, known_beside = ledger.further_folds(whose), ledger.further_folds(_BESIDE)
    are_logged = ledger.noted(WINNER_SENT) == winner.number or not settings.workers.storage
    of_folds = {fold.number: _winner_job(settings, winner, fold) for fold in folds}
    jobs = [
        job
        for fold, job in of_folds.items()
        if fold not in known or not (are_logged or kept_fold_model(job) is not None)
    ]
    workers = settings.workers
    own = (workers.cpus, workers.gpus) if workers.count == 1 else (0, 0.0)  # its workers ask for their own
    at_once = num_slots(settings)
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


def further_of(ledger: Ledger, winner: LedgerTrial | None) -> FurtherScores:
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


def winner_test_scores(ledger: Ledger, winner: LedgerTrial) -> Mapping[int, float]:
    """Return the winner's test scores by fold; of a nested study by subject, at epochs that others chose."""
    nested = ledger.noted(NESTED)
    return dict(enumerate(nested["winner"].values())) if nested else ledger.test_scores(winner.number)
