"""The state of a job between epochs, on storage that every node sees: a job whose process was lost goes on from there.

Takes a job's digest and states; gives the last state back.
"""

import io
import time
from collections.abc import Callable
from typing import Any

import torch

from datasets.storage import Storage

SECONDS_BETWEEN = 60.0
"""A lost process costs at most about as long again; a short job never writes."""


class JobSnapshots:
    """The snapshots of one job: one file, each whole in the place of the one before it."""

    def __init__(self, storage: Storage, digest: str, seconds_between: float | None = None) -> None:
        self._storage = storage
        self._name = f"snapshots/{digest}.pt"
        self._seconds_between = SECONDS_BETWEEN if seconds_between is None else seconds_between
        self._last_s = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Return the last state; None where there is none."""
        if not self._storage.exists(self._name):
            return None
        content = io.BytesIO(self._storage.read(self._name))
        state: dict[str, Any] = torch.load(content, map_location="cpu", weights_only=True)
        return state

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Keep a state, where the last one is old enough."""
        if time.monotonic() - self._last_s < self._seconds_between:
            return
        content = io.BytesIO()
        torch.save(state(), content)
        self._storage.write(self._name, content.getbuffer())
        self._last_s = time.monotonic()

    def remove(self) -> None:
        """Leave nothing behind."""
        self._storage.remove(self._name)
