"""`Workspace`: memory for large intermediate results that is used again and again."""

from __future__ import annotations

import math
import threading
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor


class Workspace(threading.local):
    """Memory that each run of an agent reuses: page faults of new memory cost more than the computation in it.

    One for each thread. What was taken is given back when the run of which it is a part ends.
    """

    largest = 1 << 26
    """Bytes; what is larger is not kept."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []
        self._taken = 0

    @contextmanager
    def run(self) -> Generator[None]:
        """Release at the end of the block the memory that was taken within it."""
        before = self._taken
        try:
            yield
        finally:
            self._taken = before

    def take(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return an uninitialised tensor of the dtype and device of `like`."""
        size = math.prod(shape)
        if size * like.element_size() > self.largest:
            return like.new_empty(shape)
        if self._taken == len(self._kept):
            self._kept.append(like.new_empty(0))
        kept = self._kept[self._taken]
        unfit = kept.is_inference() and not torch.is_inference_mode_enabled()  # nothing may be written to it
        if unfit or len(kept) < size or (kept.dtype, kept.device) != (like.dtype, like.device):
            self._kept[self._taken] = kept = like.new_empty(size + size // 4)
        self._taken += 1
        return kept[:size].view(shape)


workspace = Workspace()
