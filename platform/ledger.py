"""The truth about a study: one atomic record per (trial, fold), in the Optuna study's own storage.

Takes fold records and proposals; gives every trial's progress, and the Optuna history that samplers read.
Only the driver writes.  "Finished" means: the record is committed here.

Test scores lie sealed in their records until the study is closed.  The seal (base64) keeps them out of tables that
people sort by; it is a curtain, not a lock.
"""

import base64
import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from datasets.errors import BadInput
from datasets.storage import without_secrets
from platform.racing import TrialProgress
from platform.samplers import Proposal

SCHEMA_VERSION = 1
_FOLD = "fold/"
_TERMS, _CLOSED, _BASELINES, _CONFIGURATION = "terms", "closed", "baseline/", "configuration"
_FURTHER = "further/"
WINNER = "winner"
FurtherScores = Mapping[str, Mapping[str, Mapping[int, float]]]
"""By predictor (``winner`` or a baseline), by score, by fold."""


@dataclass(frozen=True, kw_only=True)
class FoldRecord:
    """What one fold job found.

    Attributes:
        trial, fold: which job; folds are numbered in the study's shared order.
        score: mean of the two validation subjects' scores; None where the job failed.
        test_score: the test subject's score, sealed until the study is closed.
        best_epochs: epochs after which both validation subjects together score best.
        num_epochs: epochs trained.
        seconds: wall time of the job.
        seed: seed of the job.
        stop_reason: why training ended, or why the job failed.
        loss: training loss of every epoch.
        validation: each validation subject's score after every epoch.
        trace: the first validation subject's target and prediction over one run, as the responsive voxels' weighted
            mean, after the epoch that the second one chooses.
        uses: "transductive" where a prediction needs other EEG of the subject, else "inductive"; "" where unknown.
    """

    trial: int
    fold: int
    score: float | None
    test_score: float | None = None
    best_epochs: int = 0
    num_epochs: int = 0
    seconds: float = 0.0
    seed: int = 0
    stop_reason: str = ""
    loss: tuple[float, ...] = ()
    validation: tuple[tuple[float, ...], ...] = ()
    trace: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    uses: str = ""


@dataclass(frozen=True, kw_only=True)
class LedgerTrial:
    """One trial as the ledger knows it."""

    number: int
    state: str
    params: Mapping[str, Any]
    configuration: Mapping[str, Any]
    records: Mapping[int, FoldRecord]

    @property
    def scores(self) -> dict[int, float]:
        """Validation score of every fold that was scored."""
        return {fold: record.score for fold, record in sorted(self.records.items()) if record.score is not None}

    @property
    def uses(self) -> str:
        """What its scored folds say that it uses of a subject; "" where none does."""
        return next((record.uses for record in self.records.values() if record.uses), "")

    @property
    def failure(self) -> str:
        """Why the trial failed; empty where it did not."""
        return next((record.stop_reason for record in self.records.values() if record.score is None), "")

    @property
    def progress(self) -> TrialProgress:
        """What racing needs to know of the trial."""
        return TrialProgress(
            number=self.number,
            scores=self.scores,
            is_failed=bool(self.failure),
            is_told=self.state in ("COMPLETE", "PRUNED", "FAIL"),
        )


@dataclass(frozen=True, kw_only=True)
class BaselineFolds:
    """One baseline's scores by fold."""

    validation: dict[int, float]
    test: dict[int, float]


def best_trial(trials: Iterable[LedgerTrial]) -> LedgerTrial | None:
    """Return the complete trial with the highest mean validation score, the earliest of equals; None where none is."""
    complete = [trial for trial in trials if trial.state == "COMPLETE"]
    return max(complete, key=lambda trial: (mean(trial.scores), -trial.number), default=None)


def mean(scores: Mapping[int, float]) -> float:
    """Return the mean over folds; nan where there are none."""
    return statistics.fmean(scores.values()) if scores else math.nan


class Ledger:
    """The records of one study; opened by the driver, which alone writes.

    Every write is one statement, committed before the method returns; BadInput where the storage cannot be written.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._storage = study._storage  # noqa: SLF001 - Optuna's one way to write to a trial that another process asked
        self._study_id = study._study_id  # noqa: SLF001
        self._trials = {trial.number: _read_trial(trial) for trial in self._frozen()}

    @property
    def name(self) -> str:
        """The study's name."""
        return self._study.study_name

    @property
    def trials(self) -> list[LedgerTrial]:
        """Every trial, in the order of their numbers."""
        return [self._trials[number] for number in sorted(self._trials)]

    def history(self, told_up_to: int) -> list[FrozenTrial]:
        """Return what a sampler may know: trials told up to this number, the later ones as still running.

        Later trials are already told where a finished study is extended; the sampler sees what it would have seen.
        """
        return [trial if trial.number <= told_up_to else _as_running(trial) for trial in self._frozen()]

    def add(self, proposal: Proposal) -> LedgerTrial:
        """Add a proposed trial, whole or not at all."""
        trial = create_trial(
            state=TrialState.RUNNING,
            params=proposal.params,
            distributions=proposal.distributions,
            user_attrs={_CONFIGURATION: proposal.configuration},
        )
        trial.datetime_start = datetime.now()  # noqa: DTZ005 - Optuna's own convention: local, naive
        with self._writing():
            trial_id = self._storage.create_new_trial(self._study_id, template_trial=trial)
            return self._reread(self._storage.get_trial(trial_id))

    def commit(self, record: FoldRecord) -> None:
        """Write a fold job's record in one statement; a job that was recorded before keeps its first record.

        A job that ends after its trial was told (another fold of it failed) leaves no record: a told trial is final.
        """
        trial = self._trials[record.trial]
        if record.fold in trial.records or trial.progress.is_told:
            return
        fields = dataclasses.asdict(record)
        fields["test_score"] = _seal(record.test_score)
        key = f"{_FOLD}{record.fold:04d}"
        with self._writing():
            self._storage.set_trial_user_attr(self._trial_id(record.trial), key, fields)
        records = {**trial.records, record.fold: record}
        self._trials[record.trial] = dataclasses.replace(trial, records=records)

    def tell(self, number: int, num_folds: int) -> str:
        """Tell Optuna how a settled trial ended and return the state.

        The intermediate value is the running mean over folds, its step their number (Optuna's TPE ranks a pruned
        trial by its last step).  COMPLETE only with all folds, FAIL where a fold job failed, else PRUNED.
        """
        with self._writing():
            return self._tell(self._trials[number], num_folds)

    def _tell(self, trial: LedgerTrial, num_folds: int) -> str:
        trial_id = self._trial_id(trial.number)
        live = optuna.trial.Trial(self._study, trial_id)
        scores = list(trial.scores.values())
        if trial.failure:
            live.set_user_attr("failure", trial.failure)
            self._study.tell(live, state=TrialState.FAIL)
        else:
            live.report(sum(scores) / len(scores), step=len(scores))
            is_complete = len(scores) == num_folds
            value = sum(scores) / len(scores) if is_complete else None
            self._study.tell(live, value, state=TrialState.COMPLETE if is_complete else TrialState.PRUNED)
        return self._reread(self._storage.get_trial(trial_id)).state

    def baseline_folds(self, names: Iterable[str] = ()) -> set[int]:
        """Return the folds on which baselines are scored, all that are named here among them."""
        scored = {key: found for key, found in self._study.user_attrs.items() if key.startswith(_BASELINES)}
        return {int(key.removeprefix(_BASELINES)) for key, found in scored.items() if set(names) <= set(found)}

    def baselines(self) -> dict[str, BaselineFolds]:
        """Return every baseline's fold scores; test scores only once the study is closed."""
        found: dict[str, BaselineFolds] = {}
        for fold in sorted(self.baseline_folds()):
            for name, score in self._study.user_attrs[f"{_BASELINES}{fold:04d}"].items():
                of_name = found.setdefault(name, BaselineFolds(validation={}, test={}))
                of_name.validation[fold] = score["validation"]
                if self.is_closed:
                    of_name.test[fold] = _unseal(score["test"])
        return found

    def commit_baselines(self, fold: int, scores: Mapping[str, tuple[float, float]]) -> None:
        """Write all baselines' (validation, test) scores of one fold."""
        sealed = {name: {"validation": pair[0], "test": _seal(pair[1])} for name, pair in scores.items()}
        self._set(f"{_BASELINES}{fold:04d}", sealed)

    def further_folds(self, whose: str) -> set[int]:
        """Return the folds of which all further scores are known: a trial's, or those of the baselines beside it."""
        prefix = f"{_FURTHER}{whose}/"
        return {int(key.removeprefix(prefix)) for key in self._study.user_attrs if key.startswith(prefix)}

    def further_scores(self, whose: str) -> dict[int, dict[str, dict[str, float]]]:
        """Return what was committed by fold; BadInput before the study is closed."""
        if not self.is_closed:
            raise BadInput(f"further scores of study {self.name} stay sealed until its search is over")
        return {
            fold: _unseal(self._study.user_attrs[f"{_FURTHER}{whose}/{fold:04d}"])
            for fold in sorted(self.further_folds(whose))
        }

    def commit_further(self, whose: str, fold: int, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Write all further scores of one fold in one statement; those written before stay."""
        if fold not in self.further_folds(whose):
            self._set(f"{_FURTHER}{whose}/{fold:04d}", _seal({name: dict(each) for name, each in scores.items()}))

    @property
    def is_closed(self) -> bool:
        """Whether the search is over and finalists' test scores may be read."""
        return _CLOSED in self._study.user_attrs

    def close(self) -> None:
        """Record that the search is over, with the number of trials that it had."""
        closings = [*self._study.user_attrs.get(_CLOSED, [])]
        if not closings or closings[-1]["trials"] != len(self._trials):
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._set(_CLOSED, [*closings, {"trials": len(self._trials), "at": now}])

    def test_scores(self, number: int) -> dict[int, float]:
        """Return a finalist's test scores by fold; BadInput before the study is closed."""
        if not self.is_closed:
            raise BadInput(f"test scores of study {self.name} stay sealed until its search is over")
        records = self._trials[number].records.values()
        return {record.fold: record.test_score for record in records if record.test_score is not None}

    def note(self, key: str, value: Any) -> None:  # noqa: ANN401 - JSON
        """Keep something of the study's own, as where its tracking run lies."""
        self._set(f"note/{key}", value)

    def noted(self, key: str) -> Any:  # noqa: ANN401 - JSON
        """Return what was noted under a key, or None."""
        return self._study.user_attrs.get(f"note/{key}")

    def _set(self, key: str, value: Any) -> None:  # noqa: ANN401 - JSON
        with self._writing():
            self._study.set_user_attr(key, value)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            raise BadInput(
                f"the storage of study {self.name} cannot be written: {_reason(error)}; see that the database can be "
                "reached and its disk has room, then run the same command again: nothing committed is lost"
            ) from error

    def _frozen(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _reread(self, frozen: FrozenTrial) -> LedgerTrial:
        self._trials[frozen.number] = _read_trial(frozen)
        return self._trials[frozen.number]


def open_ledger(storage_url: str, name: str, terms: Mapping[str, Any]) -> Ledger:
    """Open a study's ledger, making it where there is none.

    Args:
        storage_url: SQLAlchemy URL of the storage; a SQLite file must have an absolute path.
        name: the study's name.
        terms: what every score of the study depends on; a study is never continued under other terms.

    Raises:
        BadInput: where the storage cannot be read, or the study was begun under other terms.
    """
    with _using(storage_url) as storage:
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
        began = study.user_attrs.get(_TERMS)
        if began is None:
            study.set_user_attr(_TERMS, {"schema": SCHEMA_VERSION, **terms})
        else:
            _refuse_other_terms(name, began, {"schema": SCHEMA_VERSION, **terms})
        return Ledger(study)


def read_ledger(storage_url: str, name: str) -> Ledger:
    """Open the ledger of a study that is there, whatever its terms, to look at it.

    Raises:
        BadInput: where the storage cannot be read, or holds no such study.
    """
    with _using(_existing(storage_url)) as storage:
        _refuse_unknown(name, optuna.get_all_study_names(storage), storage_url)
        return Ledger(optuna.load_study(study_name=name, storage=storage))


def study_names(storage_url: str) -> list[str]:
    """Return the names of a storage's studies, sorted; BadInput where it cannot be read."""
    with _using(_existing(storage_url)) as storage:
        return sorted(optuna.get_all_study_names(storage))


def delete_study(storage_url: str, name: str) -> None:
    """Delete a study with all that was found; BadInput where the storage holds no such study."""
    with _using(_existing(storage_url)) as storage:
        _refuse_unknown(name, optuna.get_all_study_names(storage), storage_url)
        optuna.delete_study(study_name=name, storage=storage)


@contextmanager
def _using(storage_url: str) -> Iterator[RDBStorage]:
    """Return a context with the storage; whatever makes it unusable is one line of BadInput."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield RDBStorage(_checked_url(storage_url))
    except BadInput:
        raise
    except (
        SQLAlchemyError, ImportError, optuna.exceptions.StorageInternalError, RuntimeError, OSError, ValueError
    ) as error:  # fmt: skip
        reason = str(error.__cause__ or error).splitlines()[0]
        raise BadInput(
            f"cannot use the study storage {_shown(storage_url)}: {reason}; "
            "give --study-storage a URL such as sqlite:////absolute/path/studies.db or postgresql+psycopg2://user@host/database"
        ) from error


def _existing(storage_url: str) -> str:
    """Return the URL of a storage; BadInput where it would have to be made first."""
    path = Path(storage_url.partition(":///")[2])
    if storage_url.startswith("sqlite") and path.is_absolute() and not path.is_file():
        raise BadInput(f"there is no study storage at {path}; give --study-storage the URL that the search was given")
    return storage_url


def _refuse_unknown(name: str, known: Sequence[str], storage_url: str) -> None:
    if name not in known:
        raise BadInput(
            f"there is no study {name} in {_shown(storage_url)}; it holds {', '.join(sorted(known)) or 'none'}"
        )


def _shown(storage_url: str) -> str:
    return without_secrets(storage_url) if "://" in storage_url else storage_url.rpartition("@")[2]


def _reason(error: BaseException) -> str:
    return (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]


def _checked_url(url: str) -> str:
    if not url.startswith("sqlite"):
        return url
    path = Path(url.partition(":///")[2])
    if not path.is_absolute():
        raise BadInput(f"a SQLite study storage needs an absolute path (sqlite:////folder/studies.db), but got {url}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return url


def _refuse_other_terms(name: str, began: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    changed = [
        f"{key} was {began.get(key)!r} and is now {now.get(key)!r}"
        for key in sorted({*began, *now})
        if began.get(key) != now.get(key)
    ]
    if changed:
        raise BadInput(
            f"study {name} was begun under other terms: {'; '.join(changed)}. Scores under different terms are never "
            "mixed: choose another name with --study, or go back to the old terms"
        )


def _as_running(trial: FrozenTrial) -> FrozenTrial:
    running = create_trial(state=TrialState.RUNNING, params=trial.params, distributions=trial.distributions)
    running.datetime_start = trial.datetime_start
    return running


def _read_trial(trial: FrozenTrial) -> LedgerTrial:
    records = {}
    for key, fields in trial.user_attrs.items():
        if key.startswith(_FOLD):
            record = FoldRecord(**{**fields, "test_score": _unseal(fields["test_score"])})
            records[record.fold] = record
    return LedgerTrial(
        number=trial.number,
        state=trial.state.name,
        params=trial.params,
        configuration=trial.user_attrs.get(_CONFIGURATION, {}),
        records=records,
    )


def sealed(record: FoldRecord) -> str:
    """Return a whole record under seal, for places that write down what passes through them."""
    return _seal(dataclasses.asdict(record))


def opened(text: str) -> FoldRecord:
    """Return the record that was sealed."""
    return FoldRecord(**_unseal(text))


def _seal(value: Any) -> str:  # noqa: ANN401 - JSON
    return base64.b64encode(json.dumps(value).encode()).decode()


def _unseal(text: str) -> Any:  # noqa: ANN401 - JSON
    return json.loads(base64.b64decode(text))
