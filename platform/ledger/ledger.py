"""The truth about a study: one atomic record per (trial, fold), in the Optuna study's own storage.

Takes fold records and proposals; gives every trial's progress, and the Optuna history that samplers read.
Only the driver writes.  "Finished" means: the record is committed here.  Test scores lie sealed in their records until
the study is closed.
"""

import dataclasses
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from datasets.errors import BadInput
from datasets.retries import Patience, persist
from platform.ledger.records import BaselineFolds, FoldRecord, LedgerTrial, seal, unseal
from platform.ledger.sole_writer import Claim, claim_on
from platform.proposals.samplers import Proposal

PATIENCE = Patience(seconds=120.0, longest_wait_s=5.0)
"""How long a search waits for a database server that is away, as for its restart."""
TERMS = "terms"
"""Under this a study keeps what every score of it depends on."""
Result = TypeVar("Result")
_FOLD = "fold/"
_CLOSED, _BASELINES, _CONFIGURATION = "closed", "baseline/", "configuration"
_FURTHER, _LATE, _NUM_FOLDS = "further/", "late/", "num_folds"


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
        return dict(self._study.user_attrs.get(TERMS, {}))

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
        fields["test_score"] = seal(record.test_score)
        key = f"{_FOLD}{record.fold:04d}"
        self._kept(lambda: self._storage.set_trial_user_attr(self._trial_id(record.trial), key, fields))
        records = {**trial.records, record.fold: record}
        self._trials[record.trial] = dataclasses.replace(trial, records=records)

    def _commit_late(self, trial: LedgerTrial, record: FoldRecord) -> None:
        key = record.fold, record.repeat
        if trial.state == "FAIL" or key in trial.late or (record.repeat == 0 and record.fold in trial.records):
            return
        fields = dataclasses.asdict(record)
        fields["test_score"] = seal(record.test_score)
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
                    of_name.test[fold] = unseal(score["test"])
        return found

    def commit_baselines(self, fold: int, scores: Mapping[str, tuple[float, float]]) -> None:
        """Write all baselines' (validation, test) scores of one fold."""
        sealed = {name: {"validation": pair[0], "test": seal(pair[1])} for name, pair in scores.items()}
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
            fold: unseal(self._attributes[f"{_FURTHER}{whose}/{fold:04d}"])
            for fold in sorted(self.further_folds(whose))
        }

    def commit_further(self, whose: str, fold: int, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Write all further scores of one fold in one statement; those written before stay."""
        if fold not in self.further_folds(whose):
            self._set(f"{_FURTHER}{whose}/{fold:04d}", seal({name: dict(each) for name, each in scores.items()}))

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


def _reason(error: BaseException) -> str:
    return (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]


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
    return FoldRecord(**{**fields, "test_score": unseal(fields["test_score"])})


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
