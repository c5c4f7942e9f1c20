"""The truth about a study: one atomic record per (trial, fold), in the Optuna study's own storage.

Takes fold records and proposals; gives every trial's progress, and the Optuna history that samplers read.
Only the driver writes.  "Finished" means: the record is committed here.

Test scores lie sealed in their records until the study is closed.  The seal (base64) keeps them out of tables that
people sort by; it is a curtain, not a lock.
"""

import base64
import dataclasses
import functools
import json
import math
import sqlite3
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from datasets.errors import BadInput
from datasets.retries import Patience, persist
from datasets.storage import without_secrets
from platform.ledger.sole_writer import Claim, claim_on
from platform.proposals.samplers import Proposal
from platform.racing.next_job import TrialProgress

SCHEMA_VERSION = 2
"""Version 2 keeps records that come after a trial was told; a program of version 1 would not see them."""
MIGRATIONS: dict[int, Callable[[optuna.Study], None]] = {1: lambda _: None}
"""From a version to what makes a study of it one of the next, in place; may be begun again after a kill."""
PATIENCE = Patience(seconds=120.0, longest_wait_s=5.0)
"""How long a search waits for a database server that is away, as for its restart."""
Result = TypeVar("Result")
_FOLD = "fold/"
_TERMS, _CLOSED, _BASELINES, _CONFIGURATION = "terms", "closed", "baseline/", "configuration"
_FURTHER, _LATE, _NUM_FOLDS = "further/", "late/", "num_folds"
WINNER = "winner"
FurtherScores = Mapping[str, Mapping[str, Mapping[int, float]]]
"""By predictor (``winner`` or a baseline), by score, by fold."""


@dataclass(frozen=True, kw_only=True)
class FoldRecord:
    """What one fold job found.

    Attributes:
        trial, fold: which job; folds are numbered in the study's shared order.
        repeat: 0 for the search's own job; a finalist's others have other seeds.
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
    repeat: int = 0


@dataclass(frozen=True, kw_only=True)
class LedgerTrial:
    """One trial as the ledger knows it.

    Attributes:
        number: the trial's.
        state: COMPLETE where all folds are scored, whenever that was; else as Optuna was told.
        params, configuration: what Optuna drew, and what is trained.
        records: repeat 0 of every fold that has ended.
        late: what came after Optuna was told, by fold and repeat; those of repeat 0 are among ``records``, too.
    """

    number: int
    state: str
    params: Mapping[str, Any]
    configuration: Mapping[str, Any]
    records: Mapping[int, FoldRecord]
    late: Mapping[tuple[int, int], FoldRecord] = dataclasses.field(default_factory=dict)

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
    def means_by_repeat(self) -> list[float]:
        """Mean score over folds of every repeat that has as many scored folds as the search's own."""
        scores = self.scores
        found: dict[int, list[float]] = {}
        for (_, repeat), record in sorted(self.late.items()):
            if repeat and record.score is not None:
                found.setdefault(repeat, []).append(record.score)
        whole = [statistics.fmean(each) for each in found.values() if len(each) == len(scores)]
        return [mean(scores), *whole]

    @property
    def seconds(self) -> float:
        """Wall time of all its fold jobs."""
        repeats = (record.seconds for (_, repeat), record in self.late.items() if repeat)
        return math.fsum(record.seconds for record in self.records.values()) + math.fsum(repeats)

    @property
    def seconds_per_job(self) -> float:
        """Mean wall time of its fold jobs."""
        return self.seconds / max(self.num_jobs, 1)

    @property
    def num_jobs(self) -> int:
        """Fold jobs of its that have ended."""
        return len(self.records) + sum(repeat > 0 for _, repeat in self.late)

    @functools.cached_property
    def progress(self) -> TrialProgress:
        """What racing needs to know of the trial."""
        early = {fold: record.score for fold, record in sorted(self.records.items()) if (fold, 0) not in self.late}
        return TrialProgress(
            number=self.number,
            scores={fold: score for fold, score in early.items() if score is not None},
            is_failed=None in early.values(),
            is_told=self.state in ("COMPLETE", "PRUNED", "FAIL"),
            late={key: record.score for key, record in self.late.items()},
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


class _StorageFault(Exception):
    """What a study's storage did not do, and whether it may do it in a minute: a server may be just starting anew."""

    def __init__(self, study: str, error: Exception) -> None:
        super().__init__(f"the storage of study {study} cannot be written: {_reason(error)}")
        cause = error if isinstance(error, SQLAlchemyError) else error.__cause__
        is_local = isinstance(getattr(cause, "orig", None), sqlite3.Error)
        self.may_pass = isinstance(cause, (OperationalError, InterfaceError)) and not is_local


class Ledger:
    """The records of one study; opened by the driver, which alone writes.

    Every write is one statement, committed before the method returns; BadInput where the storage cannot be written.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._storage = study._storage  # noqa: SLF001 - Optuna's one way to write to a trial that another process asked
        self._study_id = study._study_id  # noqa: SLF001
        self._claim: Claim | None = None
        self._late, self._num_folds = _read_late(study.user_attrs)
        self._trials = {trial.number: self._whole(trial) for trial in self._frozen()}

    @contextmanager
    def sole_writer(self) -> Iterator[None]:
        """Return a context in which no other process may write to the study; BadInput where one does now.

        Another one may have written since this ledger was opened, so its trials are read again.
        """
        backend: Any = getattr(self._storage, "_backend", self._storage)
        claim = claim_on(backend.engine, self.name)
        self._kept(claim.take)
        self._claim = claim
        try:
            self._late, self._num_folds = _read_late(self._attributes)
            self._trials = {trial.number: self._whole(trial) for trial in self._frozen()}
            yield
        finally:
            self._claim = None
            claim.release()

    @property
    def name(self) -> str:
        """The study's name."""
        return self._study.study_name

    @property
    def terms(self) -> dict[str, Any]:
        """What every score of the study depends on, as it was begun."""
        return dict(self._study.user_attrs.get(_TERMS, {}))

    @property
    def trials(self) -> list[LedgerTrial]:
        """Every trial, in the order of their numbers."""
        return [self._trials[number] for number in sorted(self._trials)]

    def history(self, told_up_to: int) -> list[FrozenTrial]:
        """Return what a sampler may know: trials told up to this number, the later ones as still running.

        Later trials are already told where a finished study is extended; the sampler sees what it would have seen.
        """
        trials = self._kept(self._frozen)
        return [trial if trial.number <= told_up_to else _as_running(trial) for trial in trials]

    def add(self, proposal: Proposal) -> LedgerTrial:
        """Add a proposed trial, whole or not at all."""
        trial = create_trial(
            state=TrialState.RUNNING,
            params=proposal.params,
            distributions=proposal.distributions,
            user_attrs={_CONFIGURATION: proposal.configuration},
        )
        trial.datetime_start = datetime.now()  # noqa: DTZ005 - Optuna's own convention: local, naive
        return self._reread(self._kept(lambda: self._added(trial)))

    def _added(self, trial: FrozenTrial) -> FrozenTrial:
        """Write a trial, unless an attempt whose answer was lost has written it."""
        there = [each for each in self._frozen() if each.number == len(self._trials)]
        if there:
            return there[0]
        return self._storage.get_trial(self._storage.create_new_trial(self._study_id, template_trial=trial))

    def commit(self, record: FoldRecord) -> None:
        """Write a fold job's record in one statement; a job that was recorded before keeps its first record.

        A job that ends after its trial was told FAIL (another fold of it failed) leaves no record.  A told trial is
        final, so that all other late records are the study's.
        """
        trial = self._trials[record.trial]
        if trial.progress.is_told:
            self._commit_late(trial, record)
            return
        if record.fold in trial.records or record.repeat:
            return
        fields = dataclasses.asdict(record)
        fields["test_score"] = _seal(record.test_score)
        key = f"{_FOLD}{record.fold:04d}"
        self._kept(lambda: self._storage.set_trial_user_attr(self._trial_id(record.trial), key, fields))
        records = {**trial.records, record.fold: record}
        self._trials[record.trial] = dataclasses.replace(trial, records=records)

    def _commit_late(self, trial: LedgerTrial, record: FoldRecord) -> None:
        key = record.fold, record.repeat
        if trial.state == "FAIL" or key in trial.late or (record.repeat == 0 and record.fold in trial.records):
            return
        fields = dataclasses.asdict(record)
        fields["test_score"] = _seal(record.test_score)
        self._set(f"{_LATE}{record.trial:04d}/{record.fold:04d}/{record.repeat}", fields)
        self._late.setdefault(record.trial, {})[key] = record
        self._trials[record.trial] = _with_late(trial, self._late[record.trial], self._num_folds)

    def keep_num_folds(self, number: int) -> None:
        """Keep how many folds a whole trial has: a trial that was raced out may get them all later."""
        if self._num_folds != number:
            self._set(_NUM_FOLDS, number)
            self._num_folds = number

    def tell(self, number: int, num_folds: int) -> str:
        """Tell Optuna how a settled trial ended and return the state.

        The intermediate value is the running mean over folds, its step their number (Optuna's TPE ranks a pruned
        trial by its last step).  COMPLETE only with all folds, FAIL where a fold job failed, else PRUNED.
        """
        return self._kept(lambda: self._tell(self._trials[number], num_folds))

    def _tell(self, trial: LedgerTrial, num_folds: int) -> str:
        trial_id = self._trial_id(trial.number)
        if (there := self._storage.get_trial(trial_id)).state.is_finished():  # the answer to an attempt was lost
            return self._reread(there).state
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
        scored = {key: found for key, found in self._attributes.items() if key.startswith(_BASELINES)}
        return {int(key.removeprefix(_BASELINES)) for key, found in scored.items() if set(names) <= set(found)}

    def baselines(self) -> dict[str, BaselineFolds]:
        """Return every baseline's fold scores; test scores only once the study is closed."""
        found: dict[str, BaselineFolds] = {}
        for fold in sorted(self.baseline_folds()):
            for name, score in self._attributes[f"{_BASELINES}{fold:04d}"].items():
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
        return {int(key.removeprefix(prefix)) for key in self._attributes if key.startswith(prefix)}

    def further_scores(self, whose: str) -> dict[int, dict[str, dict[str, float]]]:
        """Return what was committed by fold; BadInput before the study is closed."""
        if not self.is_closed:
            raise BadInput(f"further scores of study {self.name} stay sealed until its search is over")
        return {
            fold: _unseal(self._attributes[f"{_FURTHER}{whose}/{fold:04d}"])
            for fold in sorted(self.further_folds(whose))
        }

    def commit_further(self, whose: str, fold: int, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Write all further scores of one fold in one statement; those written before stay."""
        if fold not in self.further_folds(whose):
            self._set(f"{_FURTHER}{whose}/{fold:04d}", _seal({name: dict(each) for name, each in scores.items()}))

    @property
    def is_closed(self) -> bool:
        """Whether the search is over and finalists' test scores may be read."""
        return _CLOSED in self._attributes

    @property
    def closings(self) -> list[dict[str, Any]]:
        """Each time that the search was over: when, and with how many trials."""
        return [dict(closing) for closing in self._attributes.get(_CLOSED, [])]

    def close(self) -> None:
        """Record that the search is over, with the number of trials that it had."""
        closings = [*self._attributes.get(_CLOSED, [])]
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
        return self._attributes.get(f"note/{key}")

    def _set(self, key: str, value: Any) -> None:  # noqa: ANN401 - JSON
        self._kept(lambda: self._study.set_user_attr(key, value))

    @property
    def _attributes(self) -> dict[str, Any]:
        return self._kept(lambda: self._study.user_attrs)

    def _kept(self, action: Callable[[], Result]) -> Result:
        """Return what a reading or writing gives, begun anew while a server may come back.

        An action must find out for itself what an attempt has written whose answer was lost.  A server that was away
        has forgotten who may write, and a new connection to it is made unseen: the claim is looked at each time.
        """

        def attempt() -> Result:
            try:
                if self._claim is not None:
                    self._claim.take()
                return action()
            except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
                raise _StorageFault(self.name, error) from error

        def may_pass(error: Exception) -> bool:
            return isinstance(error, _StorageFault) and error.may_pass

        try:
            return persist(attempt, may_pass=may_pass, patience=PATIENCE)
        except _StorageFault as fault:
            raise BadInput(
                f"{fault}; see that the database can be reached and its disk has room, then run the same command "
                "again: nothing committed is lost"
            ) from fault

    def _frozen(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _reread(self, frozen: FrozenTrial) -> LedgerTrial:
        self._trials[frozen.number] = self._whole(frozen)
        return self._trials[frozen.number]

    def _whole(self, frozen: FrozenTrial) -> LedgerTrial:
        return _with_late(_read_trial(frozen), self._late.get(frozen.number, {}), self._num_folds)


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
            _refuse_newer_schema(study)
            _refuse_other_terms(name, {**began, "schema": SCHEMA_VERSION}, {"schema": SCHEMA_VERSION, **terms})
            _migrate(study)
        return Ledger(study)


def read_ledger(storage_url: str, name: str) -> Ledger:
    """Open the ledger of a study that is there, whatever its terms, to look at it.

    Raises:
        BadInput: where the storage cannot be read, or holds no such study.
    """
    with _using(_existing(storage_url)) as storage:
        _refuse_unknown(name, optuna.get_all_study_names(storage), storage_url)
        study = optuna.load_study(study_name=name, storage=storage)
        _refuse_newer_schema(study)
        return Ledger(study)


def study_names(storage_url: str) -> list[str]:
    """Return the names of a storage's studies, sorted; BadInput where it cannot be read."""
    with _using(_existing(storage_url)) as storage:
        return sorted(optuna.get_all_study_names(storage))


def delete_study(storage_url: str, name: str) -> None:
    """Delete a study with all that was found; BadInput where the storage holds no such study."""
    with _using(_existing(storage_url)) as storage:
        _refuse_unknown(name, optuna.get_all_study_names(storage), storage_url)
        with Ledger(optuna.load_study(study_name=name, storage=storage)).sole_writer():
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


def _refuse_newer_schema(study: optuna.Study) -> None:
    schema = _schema_of(study)
    if schema > SCHEMA_VERSION:
        raise BadInput(
            f"study {study.study_name} was written by a newer program (schema version {schema}, this one knows up to "
            f"{SCHEMA_VERSION}): use that one, or choose another name with --study"
        )


def _migrate(study: optuna.Study) -> None:
    """Make an older study one of this version, step by step."""
    for version in range(_schema_of(study), SCHEMA_VERSION):
        MIGRATIONS[version](study)
        study.set_user_attr(_TERMS, {**study.user_attrs[_TERMS], "schema": version + 1})


def _schema_of(study: optuna.Study) -> int:
    return study.user_attrs.get(_TERMS, {}).get("schema", 1)


def _as_running(trial: FrozenTrial) -> FrozenTrial:
    running = create_trial(state=TrialState.RUNNING, params=trial.params, distributions=trial.distributions)
    running.datetime_start = trial.datetime_start
    return running


def _read_trial(trial: FrozenTrial) -> LedgerTrial:
    records = {}
    for key, fields in trial.user_attrs.items():
        if key.startswith(_FOLD):
            record = _read_record(fields)
            records[record.fold] = record
    return LedgerTrial(
        number=trial.number,
        state=trial.state.name,
        params=trial.params,
        configuration=trial.user_attrs.get(_CONFIGURATION, {}),
        records=records,
    )


def _read_record(fields: Mapping[str, Any]) -> FoldRecord:
    return FoldRecord(**{**fields, "test_score": _unseal(fields["test_score"])})


def _read_late(attributes: Mapping[str, Any]) -> tuple[dict[int, dict[tuple[int, int], FoldRecord]], int]:
    """Return what came after its trial was told, by trial, by fold and repeat, and how many folds a study has, or 0."""
    found: dict[int, dict[tuple[int, int], FoldRecord]] = {}
    for key in sorted(attributes):
        if key.startswith(_LATE):
            record = _read_record(attributes[key])
            found.setdefault(record.trial, {})[record.fold, record.repeat] = record
    return found, attributes.get(_NUM_FOLDS, 0)


def _with_late(trial: LedgerTrial, late: Mapping[tuple[int, int], FoldRecord], num_folds: int) -> LedgerTrial:
    """Return a trial with what came after it was told; with all folds scored it is complete after all."""
    records = {**trial.records, **{fold: record for (fold, repeat), record in late.items() if repeat == 0}}
    whole = dataclasses.replace(trial, records=records, late=dict(late))
    is_complete = trial.state == "PRUNED" and len(whole.scores) == num_folds
    return dataclasses.replace(whole, state="COMPLETE") if is_complete else whole


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
