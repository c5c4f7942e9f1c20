"""What a configuration uses of the subject that it is scored on.

Takes an architecture and a flat configuration; tells whether the score is inductive or transductive.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from platform.models import ARCHITECTURES


def what_it_uses(architecture: str, configuration: Mapping[str, Any]) -> Literal["inductive", "transductive"]:
    """Return "transductive" where predicting one window of a subject needs its other EEG, unlabelled.

    That is so for alignment, for features or norms whose level is that of a recording or a subject, and for an ensemble
    weighted by similarity.  What preparation does to all EEG alike (normalising it per subject and channel) is not
    counted: every score rests on it.
    """
    known = dataclasses.fields(ARCHITECTURES[architecture].config)
    defaults = {field.name: field.default for field in known}
    chosen = {**defaults, **configuration}
    is_transductive = (
        chosen.get("alignment", "none") != "none"
        or chosen.get("num_members", 1) > 1
        or chosen.get("norm") == "subject"
        or (chosen.get("level") == "recording" and chosen.get("embedding") != "linear")
    )
    return "transductive" if is_transductive else "inductive"
