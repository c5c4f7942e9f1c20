"""Memory for batches that is used again: fresh pages cost more than filling them.

Takes shapes; gives tensors that nobody else holds.  Their memory goes back as soon as the last tensor that uses it, a
view or what autograd keeps included, is gone.
"""

import functools
import math
import weakref

import torch
from torch import Tensor

KEPT = 4
"""Free buffers that a process keeps: inputs and targets of a batch to train on, and of one to score on."""


class Buffers:
    """Free memory for float32 tensors; all methods may be called from any thread."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def empty(self, *shape: int) -> Tensor:
        """Return a float32 tensor of this shape whose values are arbitrary."""
        length = math.prod(shape)
        buffer = self._taken(length)
        lent = buffer.numpy()[:length]
        weakref.finalize(lent, self._give_back, buffer).atexit = False
        return torch.from_numpy(lent).view(shape)

    def _taken(self, length: int) -> Tensor:
        for _ in range(len(self._free)):
            try:
                buffer = self._free.pop(0)
            except IndexError:  # another thread took the last one
                break
            if len(buffer) >= length:
                return buffer
            self._free.append(buffer)
        with torch.inference_mode(False):
            return torch.empty(length, dtype=torch.float32)

    def _give_back(self, buffer: Tensor) -> None:
        self._free.append(buffer)
        del self._free[:-KEPT]


@functools.cache
def shared_buffers() -> Buffers:
    """Return the buffers of this process."""
    return Buffers()
