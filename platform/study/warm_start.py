"""Where a study starts from: the best configurations that an earlier study found.

Takes an earlier study's name and a search space; gives parameters that are legal in that space, the best first.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from datasets.errors import BadInput
from datasets.storage import without_secrets
from platform.ledger.records import LedgerTrial, mean
from platform.ledger.studies import read_ledger, study_names
from search_spaces import SearchSpace

NUM_STARTS = 4
"""Configurations that are taken from the earlier study, at the most."""


def starting_parameters(reference: str, storage_url: str, name: str, space: SearchSpace) -> tuple[dict[str, Any], ...]:
    """Return the parameters that a study starts from, those that it was begun with where it is there already.

    Args:
        reference: the earlier study's name, in the same storage, or ``URL#NAME`` in another one.
        storage_url: the new study's storage.
        name: the new study's name.
        space: what the new study draws from.

    Raises:
        BadInput: where there is no such study, or nothing of it is legal in the space.
    """
    begun = terms_of(storage_url, name)
    if begun.get("start_from") == without_secrets(reference):
        return tuple(begun["starts"])
    trials = read_ledger(*located(reference, storage_url)).trials
    found = legal_starts(trials, space)
    if not found:
        complete = sum(trial.state == "COMPLETE" for trial in trials)
        raise BadInput(
            f"--start-from {without_secrets(reference)}: none of its {complete} trials on all folds is another "
            "configuration that is legal in this search space; start from a study of the same architecture, or leave "
            "--start-from out"
        )
    return found


def legal_starts(trials: Sequence[LedgerTrial], space: SearchSpace) -> tuple[dict[str, Any], ...]:
    """Return the parameters of the best trials on all folds that the space could suggest, its default left out."""
    complete = [trial for trial in trials if trial.state == "COMPLETE"]
    best = sorted(complete, key=lambda trial: (-mean(trial.scores), trial.number))
    seen = [_asked(space.default, space)]
    for trial in best:
        params = _asked(trial.params, space)
        if params is not None and params not in seen and len(seen) <= NUM_STARTS:
            seen.append(params)
    return tuple(params for params in seen[1:] if params is not None)


def located(reference: str, storage_url: str) -> tuple[str, str]:
    """Return the storage and the name of a study that is called ``NAME``, or ``URL#NAME`` in another storage."""
    url, separator, name = reference.rpartition("#")
    return url if separator else storage_url, name


def terms_of(storage_url: str, name: str) -> Mapping[str, Any]:
    """Return the terms of a study; none where there is no such study, or no storage yet."""
    try:
        known = study_names(storage_url)
    except BadInput:  # the search makes the storage, or says why it cannot
        return {}
    return read_ledger(storage_url, name).terms if name in known else {}


def _asked(params: Mapping[str, Any], space: SearchSpace) -> dict[str, Any] | None:
    """Return those of the parameters that the space asks for; None where it asks for another or offers less."""
    asked = _Asked(params)
    try:
        space.suggest(asked)  # type: ignore[arg-type] # it answers as a trial does
    except (KeyError, ValueError):
        return None
    return asked.params


class _Asked(optuna.trial.FixedTrial):
    """Answers with fixed parameters, none but legal ones; keeps those that were asked for."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__(dict(params))
        self._given = params

    def _suggest(self, name: str, distribution: optuna.distributions.BaseDistribution) -> Any:  # noqa: ANN401
        if name not in self._given or not distribution._contains(distribution.to_internal_repr(self._given[name])):  # noqa: SLF001
            raise ValueError(f"{name} is not legal here")
        return super()._suggest(name, distribution)
