"""Open, list and delete the studies of a storage, and tell whether a study is one that this program may go on with.

Takes the storage's URL, a study's name and the terms it must have; gives its ledger.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from datasets.errors import BadInput
from datasets.storage import without_secrets
from platform.ledger.ledger import TERMS, Ledger

SCHEMA_VERSION = 2
"""Version 2 keeps records that come after a trial was told; a program of version 1 would not see them."""
MIGRATIONS: dict[int, Callable[[optuna.Study], None]] = {1: lambda _: None}
"""From a version to what makes a study of it one of the next, in place; may be begun again after a kill."""


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
        began = study.user_attrs.get(TERMS)
        if began is None:
            study.set_user_attr(TERMS, {"schema": SCHEMA_VERSION, **terms})
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
        study.set_user_attr(TERMS, {**study.user_attrs[TERMS], "schema": version + 1})


def _schema_of(study: optuna.Study) -> int:
    return study.user_attrs.get(TERMS, {}).get("schema", 1)
