"""Observations that are more than an image: `DictObservation` takes them apart, and the rest travels in an `ObservedState`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from saliency_wrappers.states import StateTree, copy_tensor


class ObservedState(NamedTuple):
    """State of an agent with dictionary observations: its memory, and the observation without the image."""

    memory: StateTree
    """What it remembers. None for an agent without memory."""
    observation: Mapping[str, Tensor]
    """The rest of the observation by its keys, each `(n, ...)`."""


def memory_of(state: StateTree) -> StateTree:
    """Return an agent's memory: the state itself, or the memory of an `ObservedState`."""
    return state.memory if isinstance(state, ObservedState) else state


@dataclass(frozen=True, eq=False)
class DictObservation:
    """Splits dictionary observations into the image and the rest, which travels with the state so that both can be joined again."""

    image: str
    """The image's key."""
    others: Mapping[str, Tensor]
    """All other keys, each with an example of one row."""

    def apart(self, observation: Any, memory: StateTree) -> tuple[Any, ObservedState]:
        """Return the image, and the memory with a copy of the rest; `TypeError` for other keys."""
        expected = {self.image, *self.others}
        if not isinstance(observation, Mapping) or set(cast("Mapping[str, Any]", observation)) != expected:
            keys = sorted(cast("Mapping[str, Any]", observation)) if isinstance(observation, Mapping) else type(observation).__name__
            raise TypeError(f"expected an observation with the keys {sorted(expected)}, image and others, got {keys}")
        return observation[self.image], ObservedState(memory, {name: copy_tensor(observation[name]) for name in self.others})

    def together(self, images: Tensor, state: StateTree) -> tuple[dict[str, Tensor], StateTree]:
        """Return the observation with these images, and the memory."""
        memory, rest = cast("ObservedState", state)
        return {self.image: images, **rest}, memory

    def initial(self, memory: StateTree, n: int) -> ObservedState:
        """Return an initial state: the memory, and the example values repeated n times."""
        return ObservedState(memory, {name: torch.stack([example] * n) for name, example in self.others.items()})
