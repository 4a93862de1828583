"""`PartAdapter`: an agent on a dictionary of inputs, seen by one of them, so that a method for images or vectors explains that one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from saliency_wrappers.agents.base import AgentAdapter, OnPass, PolicyForm, policy_form
from saliency_wrappers.agents.dict_observation import DictObservation, ObservedState
from saliency_wrappers.decisions import Decision
from saliency_wrappers.states import StateTree


def parts_of(adapter: AgentAdapter) -> DictObservation | None:
    """Return how the adapter takes a dictionary of inputs apart. None for an agent with one input."""
    return getattr(adapter, "parts", None)


class PartAdapter:
    """An `AgentAdapter` whose input is one entry of the dictionary; all others, the adapter's own input included, are in the state."""

    def __init__(self, adapter: AgentAdapter, parts: DictObservation, key: str, like: Tensor) -> None:
        """See an agent by one of its other inputs.

        Args:
            adapter: of the agent.
            parts: how it takes its inputs apart.
            key: of the input, another one than the adapter's own.
            like: one row of the adapter's own input, which initial states begin with.
        """
        self._adapter, self._parts, self.key, self._like = adapter, parts, key, like
        layout: Any = getattr(adapter, "layout", adapter)
        self._last = bool(getattr(layout, "last", None) or getattr(layout, "channels_last", None))

    @property
    def input_range(self) -> tuple[float, float]:
        """That of the adapter's own input."""
        return self._adapter.input_range

    @property
    def policy_form(self) -> PolicyForm:
        """That of the agent."""
        return policy_form(self._adapter)

    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Logits and values for inputs of this part, as `AgentAdapter.evaluate` says."""
        given = inputs.permute(0, 2, 3, 1) if self._last and inputs.ndim == 4 else inputs
        own, whole = self._whole(state, given)
        return self._adapter.evaluate(own, whole, episode_start)

    def decision(self, decision: Decision) -> Decision:
        """Return a decision of the agent with this part as its input."""
        memory, rest = cast("ObservedState", decision.state)
        others = {name: part for name, part in rest.items() if name != self.key} | {self._parts.image: decision.inputs}
        part = rest[self.key].permute(0, 3, 1, 2) if self._last and rest[self.key].ndim == 4 else rest[self.key]
        return replace(decision, inputs=part, state=ObservedState(memory, others))

    def attach(self, on_pass: OnPass) -> Callable[[], None]:
        """Watch the agent itself."""
        return self._adapter.attach(on_pass)

    def initial_state(self, n: int) -> StateTree:
        """The agent's own, with the adapter's own input among the rest."""
        memory, rest = cast("ObservedState", self._adapter.initial_state(n))
        return ObservedState(memory, self._without_key(rest) | {self._parts.image: torch.stack([self._like] * n)})

    def repeat_state(self, state: StateTree, n: int) -> StateTree:
        """Each row n times in a row."""
        rows = len(cast("ObservedState", state).observation[self._parts.image])
        own, whole = self._whole(state, torch.stack([self._parts.others[self.key]] * rows))
        memory, rest = cast("ObservedState", self._adapter.repeat_state(whole, n))
        return ObservedState(memory, self._without_key(rest) | {self._parts.image: own.repeat_interleave(n, dim=0)})

    def _whole(self, state: StateTree, part: Tensor) -> tuple[Tensor, ObservedState]:
        """The adapter's own input, and its state with this part."""
        memory, rest = cast("ObservedState", state)
        others = {name: one for name, one in rest.items() if name != self._parts.image}
        return rest[self._parts.image], ObservedState(memory, others | {self.key: part})

    def _without_key(self, rest: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: part for name, part in rest.items() if name != self.key}
