"""Let Ray Tune forget the jobs that have ended: the driver's memory and time per job do not grow with their number.

Takes Tune's controller, as a scheduler is given it; removes from it the trials that have ended, whose results are in
the ledger.
"""

from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

SETS_OF_TRIALS = ("_stopped_trials", "_failed_trials", "_trials_to_cache")
"""Where a controller of Ray 2.60 keeps ended trials besides its public lists; not of Ray's public interface."""
CHECKPOINTS = "_trial_metadata"
"""Where it keeps, by identifier, what an experiment checkpoint says of each trial."""


class ForgettingScheduler(FIFOScheduler):
    """Tune's own order of jobs; whenever one ends, those that ended before it are forgotten.

    The job that ends just now stays until the next one does: Tune is not done with it.
    """

    def on_trial_complete(self, tune_controller: "TuneController", trial: Trial, result: dict[str, Any]) -> None:
        """Forget the other jobs that have ended."""
        forget_ended(tune_controller, but=trial)

    def on_trial_error(self, tune_controller: "TuneController", trial: Trial) -> None:
        """Forget the other jobs that have ended; this one may yet be started anew."""
        forget_ended(tune_controller, but=trial)


class NoTrialProgress(TrialProgressCallback):
    """Stands where Tune would put its own, which prints nothing of a quiet run but keeps every trial."""

    def on_trial_result(self, *_: object, **__: object) -> None:
        """Keep nothing."""

    def on_trial_error(self, *_: object, **__: object) -> None:
        """Keep nothing."""

    def on_trial_complete(self, *_: object, **__: object) -> None:
        """Keep nothing."""


def forget_ended(controller: "TuneController", but: Trial) -> None:
    """Remove from a controller all trials that have ended but one.

    Tune itself keeps every trial to its end (each with its configuration, its state as JSON and a reference to an
    object of its actor), goes through all of them at each step and writes all of them into each experiment checkpoint.
    """
    trials = controller.get_trials()
    ended = {trial for trial in trials if trial.is_finished() and trial is not but}
    if not ended:
        return
    trials[:] = [trial for trial in trials if trial not in ended]
    for held in (controller.get_live_trials(), *(getattr(controller, name) for name in SETS_OF_TRIALS)):
        held.difference_update(ended)
    for trial in ended:
        getattr(controller, CHECKPOINTS).pop(trial.trial_id, None)
