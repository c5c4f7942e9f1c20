"""A study's best configuration, frozen, in a second data set: what is searched there is nothing, what counts is shown.

Takes an earlier study whose search is over; gives the one trial of a study on other shards, and, once that is over,
leaves in both ledgers what the other one found.  ``findings`` makes the verdict of it, the same in both.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets.errors import BadInput
from datasets.storage import without_secrets
from platform.evidence.findings import REPLICATIONS, evidence, winner_of
from platform.evidence.verdict import Evidence
from platform.ledger.ledger import Ledger
from platform.ledger.records import best_trial
from platform.ledger.studies import read_ledger
from platform.study.warm_start import located, terms_of

logger = logging.getLogger(__name__)

ALIKE = {
    "architecture": "ARCHITECTURE",
    "rate_hz": "--rate",
    "calibration": "--calibration",
    "max_epochs": "--max-epochs",
    "patience": "--patience",
}
"""Terms that a configuration is frozen with, and what sets them."""


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """The best configuration of an earlier study.

    Attributes:
        study, uid, trial: whose, and which of its trials.
        configuration: what is frozen.
        terms: the earlier study's.
        evidence: what that study shows of it; None where another trial has become its best since.
    """

    study: str
    uid: str
    trial: int
    configuration: Mapping[str, Any]
    terms: Mapping[str, Any]
    evidence: Evidence | None = None

    @property
    def own_terms(self) -> dict[str, Any]:
        """What a study that runs it depends on."""
        return {"study": self.study, "uid": self.uid, "trial": self.trial, "configuration": dict(self.configuration)}


def frozen_winner(reference: str, storage_url: str, name: str) -> Frozen:
    """Return the winner of an earlier study; the one that this study began with, where it is there already.

    Args:
        reference: the earlier study's name, in the same storage, or ``URL#NAME`` in another one.
        storage_url: the new study's storage.
        name: the new study's name.

    Raises:
        BadInput: where there is no such study, or its search is not over or found nothing.
    """
    earlier = read_ledger(*located(reference, storage_url))
    winner, begun = winner_of(earlier), terms_of(storage_url, name)
    uid, number = earlier.noted("uid") or "", winner.number
    if begun.get("replicate") == without_secrets(reference):
        number = begun["frozen"]["trial"]
        if begun["frozen"]["uid"] != uid:
            raise BadInput(f"study {earlier.name} is another one than study {name} began with; give another --study")
    return Frozen(
        study=earlier.name,
        uid=uid,
        trial=number,
        configuration=earlier.trials[number].configuration,
        terms=earlier.terms,
        evidence=evidence(earlier) if number == winner.number else None,
    )


def refuse_unlike(frozen: Frozen, terms: Mapping[str, Any]) -> None:
    """Refuse what is no second data set, or would not train what was frozen; ``terms`` are the new study's."""
    if frozen.terms.get("data") == terms["data"]:
        raise BadInput(
            f"--replicate {frozen.study} needs a second data set, but that study was searched on these very shards; "
            "give --shards of another one"
        )
    unlike = [name for name in ALIKE if frozen.terms.get(name) != terms.get(name)]
    if unlike:
        told = ", ".join(
            f"{ALIKE[name]} {frozen.terms.get(name, 'none')} and not {terms.get(name, 'none')}" for name in unlike
        )
        raise BadInput(f"--replicate {frozen.study} trains what that study found, as it did: give {told}")


def note_earlier(ledger: Ledger, frozen: Frozen) -> None:
    """Note what the earlier study shows of the configuration that is this study's one trial."""
    if frozen.evidence is not None:
        _note(ledger, _entry(frozen.study, frozen.uid, str(frozen.terms.get("data")), 0, frozen.evidence))


def note_there(ledger: Ledger, frozen: Frozen, reference: str, storage_url: str) -> None:
    """Note in the earlier study's ledger what this one, now over, shows; a control without coupling says nothing there.

    Where another process writes to the earlier study, or its storage takes nothing, the user is told how to go on.
    """
    if best_trial(ledger.trials) is None:
        return
    found = evidence(ledger)
    if found.is_control:
        return
    own = _entry(ledger.name, ledger.noted("uid") or "", str(ledger.terms.get("data")), frozen.trial, found)
    earlier = read_ledger(*located(reference, storage_url))
    try:
        with earlier.sole_writer():
            _note(earlier, own)
    except BadInput as refusal:
        logger.warning("study %s is not told of its replication (%s); run the command again", frozen.study, refusal)


def _entry(study: str, uid: str, data: str, own_trial: int, found: Evidence) -> dict[str, Any]:
    return {"study": study, "uid": uid, "data": data, "own_trial": own_trial, "evidence": found.noted}


def _note(ledger: Ledger, entry: Mapping[str, Any]) -> None:
    """Note an entry beside those of other studies, in place of an earlier one of the same."""
    known = ledger.noted(REPLICATIONS) or []
    kept = [each for each in known if each["uid"] != entry["uid"]]
    if [*kept, entry] != known:
        ledger.note(REPLICATIONS, [*kept, entry])
