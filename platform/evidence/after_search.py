"""What is computed once a search is over: nested scores, those of locked-away subjects, nulls.

Takes the closed ledger, the study's division of subjects and what makes jobs of the winner; leaves notes in the ledger,
each computed once.
"""

import dataclasses
import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from datasets.cluster import run_tasks
from platform.data.folds import Fold, leave_one_subject_out
from platform.data.products import DataSettings
from platform.evidence.locked_away import fold_of, score_locked_away, score_locked_away_baselines
from platform.evidence.nulls import (
    RIDGE_FLIPS,
    WINNER_FLIPS,
    null_scores,
    ridge_flip_scores,
    ridge_null,
    sign_flips,
)
from platform.evidence.protocols import Division, nested_scores
from platform.ledger.ledger import Ledger
from platform.ledger.records import LedgerTrial, best_trial
from platform.training.fold_job import run_fold_job
from platform.training.job import Job, Workers, job_seed
from platform.training.loop import TrainingDiverged

logger = logging.getLogger(__name__)

NESTED, LOCKED_AWAY, NULLS = "nested", "locked_away", "nulls"
"""Under these the ledger keeps what was found."""
_FIRST_NULL_REPEAT = 1000
"""Repeats of a fold job, from this on, are nulls: their seeds are those of no other job."""


@dataclass(frozen=True, kw_only=True)
class Afterwards:
    """What the computations after a search share.

    Attributes:
        ledger: of the closed study.
        data: which data, and how it is read.
        division: who is in folds.
        seed: the study's.
        workers, at_once: what a job of the winner runs on, and how many at once.
        job: from a trial and a fold to the search's own job.
    """

    ledger: Ledger
    data: DataSettings
    division: Division
    seed: int
    workers: Workers
    at_once: int
    job: Callable[[LedgerTrial, Fold], Job]

    def note_nested(self) -> None:
        """Note what a nested study says of every subject; again where trials have come since."""
        winner = best_trial(self.ledger.trials)
        if winner is not None:
            self.ledger.note(NESTED, nested_scores(self.ledger.trials, self.division.folds, winner.number).noted)

    def open_locked_away(self) -> None:
        """Score the locked-away subjects, the first time that the study is closed with a winner, and never again.

        The opening is noted before anything is scored: after an interruption the same trial is scored.
        """
        winner = best_trial(self.ledger.trials)
        if winner is None or not self.division.locked_away:
            return
        opened = self.ledger.noted(LOCKED_AWAY) or _opening(self.ledger, winner)
        if "subjects" in opened:
            _say_opened_before(opened, winner)
            return
        self.ledger.note(LOCKED_AWAY, opened)
        try:
            scores = self._locked_away_scores(self.ledger.trials[opened["trial"]])
        except TrainingDiverged as error:
            logger.warning("the winner cannot be trained on all subjects in folds (%s); run the command again", error)
            return
        self.ledger.note(LOCKED_AWAY, {**opened, **scores})

    def _locked_away_scores(self, winner: LedgerTrial) -> dict[str, Any]:
        subjects, in_folds = self.division.locked_away, self.division.in_folds
        logger.info("opening %d locked-away subjects: trial %d scores them", len(subjects), winner.number)
        whole = dataclasses.replace(
            self.job(winner, self.division.folds[0]),
            seed=job_seed(self.seed, winner.number, len(in_folds)),
            stop_after=refit_epochs(winner),
        )
        jobs = [
            dataclasses.replace(whole, fold=fold_of(subject, len(self.division.folds) + at, in_folds))
            for at, subject in enumerate(subjects)
        ]
        of_winner = dict(self._run(score_locked_away, jobs))
        fold = leave_one_subject_out(in_folds, self.seed)[0]
        [baselines] = run_tasks(score_locked_away_baselines, [(self.data, fold, subjects)])
        return {"subjects": {subject: of_winner[subject] for subject in subjects}, "baselines": baselines}

    def note_nulls(self, num_flips: int, num_repeats: int) -> None:
        """Note what ridge scores under flips, and what the winner's configuration does, trained anew under each."""
        known = {each["name"]: each for each in self.ledger.noted(NULLS) or []}
        winner = best_trial(self.ledger.trials)
        if num_flips:
            known[RIDGE_FLIPS] = self._ridge_null(num_flips, known.get(RIDGE_FLIPS))
        if num_repeats and winner is not None:
            known[WINNER_FLIPS] = self._winner_null(num_repeats, winner)
        elif known.get(WINNER_FLIPS, {}).get("trial") != (winner.number if winner else None):
            known.pop(WINNER_FLIPS, None)  # it was another winner's
        if list(known.values()) != (self.ledger.noted(NULLS) or []):
            self.ledger.note(NULLS, list(known.values()))

    def _ridge_null(self, num_flips: int, known: Mapping[str, Any] | None) -> dict[str, Any]:
        subjects = self.division.in_folds
        signs_FK = sign_flips(len(subjects), num_flips, self.seed)
        if known is not None and len(known["values"]) >= len(signs_FK):
            return dict(known)
        logger.info("ridge under %d flips of the BOLD's sign by subject", len(signs_FK))
        folds = self.division.folds
        if any(fold.test in fold.validation for fold in folds):  # pairs of subjects
            folds = tuple(leave_one_subject_out(subjects, self.seed))
        tasks = [(self.data, fold, subjects, signs_FK) for fold in folds]
        return ridge_null(dict(run_tasks(ridge_flip_scores, tasks))).noted

    def _winner_null(self, num_repeats: int, winner: LedgerTrial) -> dict[str, Any]:
        signs_FK = sign_flips(len(self.division.in_folds), num_repeats, self.seed)
        jobs = {
            f"flipped/{winner.number:04d}/{repeat:04d}/{fold.number:04d}": self._flipped(winner, fold, repeat, signs)
            for repeat, signs in enumerate(signs_FK)
            for fold in self.division.folds
        }
        noted = {key: self.ledger.noted(key) for key in jobs}
        keys = {(job.repeat, job.fold.number): key for key, job in jobs.items() if job.fold is not None}
        missing = [job for key, job in jobs.items() if noted[key] is None]
        for number, record in enumerate(self._run(run_fold_job, missing), start=1):
            key = keys[record.repeat, record.fold]
            noted[key] = 0.0 if record.test_score is None else record.test_score
            self.ledger.note(key, noted[key])
            logger.info("null job %d of %d", number, len(missing))
        by_repeat: dict[str, list[float]] = {}
        for key in jobs:
            by_repeat.setdefault(key.rpartition("/")[0], []).append(noted[key])
        observed = statistics.fmean(self.ledger.test_scores(winner.number).values())
        values = [statistics.fmean(scores) for scores in by_repeat.values()]
        return {**null_scores(WINNER_FLIPS, observed, values).noted, "trial": winner.number}

    def _flipped(self, winner: LedgerTrial, fold: Fold, repeat: int, signs: Sequence[float]) -> Job:
        flipped = tuple(subject for subject, sign in zip(self.division.in_folds, signs, strict=True) if sign < 0)
        job = self.job(winner, fold)
        number = _FIRST_NULL_REPEAT + repeat
        return dataclasses.replace(
            job,
            data=dataclasses.replace(job.data, flipped=flipped),
            seed=job_seed(self.seed, winner.number, fold.number, number),
            repeat=number,
        )

    def _run(self, task: Callable[[Job, Workers], Any], jobs: Sequence[Job]) -> Any:  # noqa: ANN401 - what it gives
        workers = self.workers
        own = (workers.cpus, workers.gpus) if workers.count == 1 else (0, 0.0)  # its workers ask for their own
        return run_tasks(task, [(job, workers) for job in jobs], cpus=own[0], gpus=own[1], at_once=self.at_once)


def refit_epochs(winner: LedgerTrial) -> int:
    """Return for how many epochs the winner is trained on all subjects: the median of its folds' best."""
    return round(statistics.median(record.best_epochs for record in winner.records.values()))


def _opening(ledger: Ledger, winner: LedgerTrial) -> dict[str, Any]:
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return {"at": at, "trial": winner.number, "num_trials": len(ledger.trials)}


def _say_opened_before(opened: Mapping[str, Any], winner: LedgerTrial) -> None:
    if opened["trial"] != winner.number:
        logger.warning(
            "the locked-away subjects were opened at %s for trial %d of %d; trial %d, now the best, is not scored on "
            "them: they are opened once",
            opened["at"], opened["trial"], opened["num_trials"], winner.number,
        )  # fmt: skip
