"""Observations that are more than an image: `DictObservation` takes them apart, and the rest travels in an `ObservedState`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from saliency_wrappers.states import StateTree, copy_tensor


class ObservedState(NamedTuple):
    """The state of an agent that consumes more than an image: what it remembers, and the rest of what it observes."""

    memory: StateTree
    """What it remembers. None for an agent without memory."""
    observation: Mapping[str, Tensor]
    """The rest of the observation by its keys, each `(n, ...)`."""


def memory_of(state: StateTree) -> StateTree:
    """The part of a state that an agent remembers: all of it, but for an `ObservedState`."""
    return state.memory if isinstance(state, ObservedState) else state


@dataclass(frozen=True, eq=False)
class DictObservation:
    """Which part of a dictionary is the image; the others go with the state, so that whoever has the state can put them together again."""

    image: str
    """The image's key."""
    others: Mapping[str, Tensor]
    """All other keys, each with an example of one row."""

    def apart(self, observation: Any, memory: StateTree) -> tuple[Any, ObservedState]:
        """The image, and the memory together with a copy of the rest; `TypeError` for other keys."""
        expected = {self.image, *self.others}
        if not isinstance(observation, Mapping) or set(cast("Mapping[str, Any]", observation)) != expected:
            keys = sorted(cast("Mapping[str, Any]", observation)) if isinstance(observation, Mapping) else type(observation).__name__
            raise TypeError(f"expected an observation with the keys {sorted(expected)}, image and others, got {keys}")
        return observation[self.image], ObservedState(memory, {name: copy_tensor(observation[name]) for name in self.others})

    def together(self, images: Tensor, state: StateTree) -> tuple[dict[str, Tensor], StateTree]:
        """The observation with these images, and the memory."""
        memory, rest = cast("ObservedState", state)
        return {self.image: images, **rest}, memory

    def initial(self, memory: StateTree, n: int) -> ObservedState:
        """A state to begin with: the examples, n times."""
        return ObservedState(memory, {name: torch.stack([example] * n) for name, example in self.others.items()})
