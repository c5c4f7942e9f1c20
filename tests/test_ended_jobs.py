"""Ray Tune forgets jobs that have ended: on its own controller, and over many jobs of a search."""

import gc
import math
import weakref

import pytest
from ray._private import worker
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.search import Searcher, SearchGenerator
from test_job_timeout import a_job

from datasets.cluster import LOCAL, connected
from platform.ledger.records import FoldRecord, LedgerTrial
from platform.ledger.studies import open_ledger
from platform.proposals.samplers import Proposal
from platform.racing.next_job import RacingSettings
from platform.study import fold_jobs
from platform.study.ended_jobs import ForgettingScheduler
from platform.study.fold_jobs import FoldJobs, StudySteps, run_fold_jobs
from platform.training.job import Workers

NUM_TRIALS, NUM_FOLDS, CONCURRENCY = 30, 5, 2
COUNTED_EVERY = 10

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")


def a_controller(*statuses: str) -> tuple[TuneController, list["weakref.ref[Trial]"]]:
    """Return Tune's controller after an experiment checkpoint, and its trials, which nothing else holds."""
    controller = TuneController(search_alg=SearchGenerator(Searcher()))
    trials = [Trial("job", stub=True) for _ in statuses]
    for trial in trials:
        controller.add_trial(trial)
    controller._get_trial_checkpoints()
    for trial, status in zip(trials, statuses, strict=True):
        controller._set_trial_status(trial, status)
        controller._mark_trial_to_checkpoint(trial)
    controller._pending_trials_list.clear()  # as when they were started
    return controller, [weakref.ref(trial) for trial in trials]


@pytest.mark.parametrize("hook", ["completed", "failed"])
def test_a_controller_holds_nothing_of_trials_that_ended_before_the_one_that_ends_now(hook):
    controller, (stopped, failed, waiting, running, ending) = a_controller(
        Trial.TERMINATED, Trial.ERROR, Trial.PENDING, Trial.RUNNING, Trial.ERROR
    )
    if hook == "completed":
        ForgettingScheduler().on_trial_complete(controller, ending(), {})
    else:
        ForgettingScheduler().on_trial_error(controller, ending())
    gc.collect()
    assert (stopped(), failed()) == (None, None), "Ray Tune holds ended trials elsewhere: see platform.study.ended_jobs"
    kept = [waiting(), running(), ending()]
    assert controller.get_trials() == kept
    assert controller.get_live_trials() == set(kept)
    assert set(controller._get_trial_checkpoints()) == {trial.trial_id for trial in kept}


def test_the_driver_holds_as_many_trials_and_objects_after_many_jobs_as_after_few(tmp_path, monkeypatch):
    def run_job(config: dict, workers: Workers) -> None:
        from ray import tune

        from platform.ledger.records import FoldRecord, sealed

        job = config["job"]
        tune.report({"record": sealed(FoldRecord(trial=job.trial, fold=job.fold.number, score=0.5)), "score": 0.5})

    held = []

    def count(trial: LedgerTrial, _: FoldRecord) -> None:
        if trial.number % COUNTED_EVERY == 0:
            trials = [each for each in gc.get_objects() if type(each) is Trial]
            held.append((len(trials), len(worker.global_worker.core_worker.get_all_reference_counts())))

    monkeypatch.setattr(fold_jobs, "run_job", run_job)
    ledger = open_ledger(f"sqlite:///{tmp_path / 'studies.db'}", "study", {"data": "d"})
    jobs = FoldJobs(
        ledger=ledger,
        racing=RacingSettings(num_trials=NUM_TRIALS, num_folds=NUM_FOLDS, racing="none"),
        steps=StudySteps(propose=lambda *_: Proposal(params={}, distributions={}, configuration={}), job=a_job),
        deadline=math.inf,
        on_record=count,
        on_told=lambda *_: None,
    )
    with connected(LOCAL, CONCURRENCY):
        run_fold_jobs(jobs, Workers(storage=str(tmp_path / "jobs")), CONCURRENCY)
    assert len(held) == NUM_TRIALS * NUM_FOLDS / COUNTED_EVERY
    assert max(trials for trials, _ in held) <= 2 * CONCURRENCY
    assert max(references for _, references in held) <= 20
