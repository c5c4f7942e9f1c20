"""Everything that a search is told, checked, and the terms that every score of a study depends on."""

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Any

from datasets.errors import BadInput
from datasets.storage import without_secrets
from platform.data.products import DataSettings
from platform.evidence.protocols import DATA_SETS, PROTOCOLS, SHUFFLED, UNIT_OF, WITHIN, refuse_what_chooses
from platform.models import ARCHITECTURES
from platform.proposals.samplers import space_digest
from platform.racing.budgets import Budgets
from platform.study.own_space import search_space
from platform.study.progress import PROGRESS
from platform.study.replication import Frozen
from platform.tracking.runs import TrackingSettings
from platform.training.calibration import Calibration
from platform.training.config import Epochs
from platform.training.job import Workers
from platform.training.median_stopping import GRACE_EPOCHS, MIN_JOBS
from search_spaces import SearchSpace

PROTOCOL_VERSION = 2


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
        replicate: the earlier study, or ``URL#NAME``, whose best configuration is the one trial; "" for none.
        frozen: that configuration; None until it is looked up.
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
    replicate: str = ""
    frozen: Frozen | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w. -]+", self.name):
            raise BadInput(f"a study's name must be made of letters, digits, and any of '_. -', but got {self.name}")
        if self.architecture not in ARCHITECTURES:
            raise BadInput(f"the architecture must be one of {', '.join(ARCHITECTURES)}, but got {self.architecture}")
        if self.progress not in PROGRESS:
            raise BadInput(f"progress must be one of {', '.join(PROGRESS)}, but got {self.progress}")
        if self.replicate and (self.num_trials != 1 or self.search_space or self.preset or self.start_from):
            raise BadInput(
                "--replicate runs the best configuration of that study and no other trial; leave out --search-space, "
                "--preset and --start-from"
            )
        self._check_protocol()

    def _check_protocol(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise BadInput(f"the protocol must be one of {', '.join(PROTOCOLS)}, but got {self.protocol}")
        if self.lock_away and self.calibration is not None:
            raise BadInput(
                "--lock-away scores subjects that nothing adapts to; leave out --calibration, or --lock-away"
            )
        self._check_unit()
        if self.protocol == DATA_SETS and self.lock_away:
            raise BadInput(
                "--protocol data-sets leaves whole data sets out; leave out --lock-away, or one of the data sets"
            )
        if self.protocol == SHUFFLED:
            self._check_shuffled()
        if self.protocol == "nested":
            self._check_nested()

    def _check_unit(self) -> None:
        """Refuse data whose unit is not what the protocol leaves out, and what single recordings cannot have."""
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

    def _check_nested(self) -> None:
        """Refuse what would choose trials by scores, or train pairs of subjects for more."""
        learns = {"--start-from": self.start_from, "--median-stopping": self.median_stopping}
        refuse_what_chooses(self.sampler, self.racing, learns_otherwise=[name for name, on in learns.items() if on])
        if self.finalists or self.null_repeats:
            raise BadInput(
                "--protocol nested runs no trial with other seeds and repeats no null: give --finalists 0 and no "
                "--null-repeats"
            )

    def _check_shuffled(self) -> None:
        """Refuse what would speak of subjects: shares of windows hold all of them."""
        given = {
            "--lock-away": self.lock_away,
            "--calibration": self.calibration is not None,
            "--null-flips": self.null_flips,
            "--null-repeats": self.null_repeats,
        }
        if unfit := [name for name, is_given in given.items() if is_given]:
            raise BadInput(
                "--protocol within-shuffled leaves out windows, not subjects, so there is none to lock away, to adapt "
                f"to or to flip; leave out {', '.join(unfit)}, or give --protocol loso"
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
            **({"frozen": self.frozen.own_terms} if self.frozen else {}),
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
            "replicate": without_secrets(self.replicate),
            "calibration": calibration,
            "median_stopping": median,
            "folds": self.protocol if self.protocol != "loso" else "",
            "lock_away": str(self.lock_away) if self.lock_away else "",
        }
