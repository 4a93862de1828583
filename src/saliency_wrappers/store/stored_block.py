"""Decisions of a stored episode: `StoredBlock` is one chunk's worth of them, `StoredDecision` one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saliency_wrappers.decisions import Decision
from saliency_wrappers.states import StateTree
from saliency_wrappers.step_saliency import StepSaliency
from saliency_wrappers.store.checks import ReadBudget
from saliency_wrappers.store.columns import STATE_FORM
from saliency_wrappers.store.files import StoreError
from saliency_wrappers.store.header import EpisodeHeader
from saliency_wrappers.store.tree_schema import check_structure, rebuilt


class StoredBlock:
    """A block of an episode; each field is read once, when it is asked for."""

    def __init__(self, header: EpisodeHeader, index: int, rows: int, read: Callable[[str, ReadBudget], NDArray[Any]], place: str) -> None:
        """Read nothing yet.

        Args:
            header: the episode's.
            index: which block of the episode.
            rows: how many decisions are there.
            read: returns `(rows, ...)`, a field of these decisions.
            place: the episode, for errors.
        """
        self.index = index
        self.rows = rows
        self._header = header
        self._read_field, self._place = read, place
        self._read: dict[str, NDArray[Any]] = {}
        self._budget = ReadBudget()

    @property
    def steps(self) -> NDArray[np.int64]:
        """`(rows,)` int64: the steps of its decisions, ascending."""
        return self.field("step")

    @property
    def decisions(self) -> list[StoredDecision]:
        """Its decisions."""
        return [StoredDecision(self, row) for row in range(self.rows)]

    def field(self, name: str) -> NDArray[Any]:
        """`(rows, ...)`: a field of its decisions."""
        if name not in self._read:
            self._read[name] = self._read_field(name, self._budget)
        return self._read[name]

    def decision(self, row: int) -> Decision:
        """Return inputs, state and outputs as new tensors, `(1, ...)`; the action is the index of a logit."""
        header = self._header
        action = self.action(row)
        return Decision(
            inputs=self._row("inputs", header.inputs, row),
            state=self.state(row),
            logits=self._row("logits", header.logits, row),
            value=None if header.value is None else self._row("value", header.value, row),
            episode_start=None if header.episode_start is None else self._row("episode_start", header.episode_start, row),
            action=_index_of(action, header.first_action),
        )

    def action(self, row: int) -> Any:
        """Return the action that the environment was given: an int, an array, or a tuple or dictionary of arrays."""
        structure = self._header.action
        tree = rebuilt(structure, self._leaves("action", structure, row))
        if isinstance(tree, Tensor):
            return int(tree) if tree.ndim == 0 and not tree.is_floating_point() else tree.numpy()
        return _arrays(tree)

    def frame(self, row: int) -> NDArray[np.uint8] | None:
        """Return the frame `(H, W, 3)` uint8. None when frames were not kept."""
        return self.field("frames")[row] if self._header.frames else None

    def state(self, row: int) -> StateTree:
        """Return the incoming state."""
        states = self._header.states
        form = int(self.field(STATE_FORM)[row]) if len(states) > 1 else 0
        if form >= len(states):
            raise StoreError(f"Expected a form of state below {len(states)} in {self._place}, got {form}.")
        return rebuilt(states[form], self._leaves(f"state.{form}", states[form], row))

    def _leaves(self, name: str, structure: Any, row: int) -> Iterator[Tensor]:
        count = len(list(check_structure(structure, name)))
        return (torch.from_numpy(np.array(self.field(f"{name}.{index}")[row])) for index in range(count))

    def _row(self, name: str, dtype: str, row: int) -> Tensor:
        tensor = rebuilt(dtype, iter([torch.from_numpy(self.field(name)[row : row + 1].copy())]))
        if not isinstance(tensor, Tensor):
            raise StoreError(f"Expected {name} to be one tensor in {self._place}.")
        return tensor


@dataclass(frozen=True, eq=False)
class StoredDecision:
    """One decision of a stored episode; its content is read when it is asked for."""

    block: StoredBlock
    row: int

    @property
    def step(self) -> int:
        """Its step in the episode, from 0."""
        return int(self.block.steps[self.row])

    @property
    def decision(self) -> Decision:
        """Inputs, state and outputs."""
        return self.block.decision(self.row)

    @property
    def action(self) -> Any:
        """The action that the environment was given."""
        return self.block.action(self.row)

    @property
    def record(self) -> StepSaliency:
        """The record of its step as it was written, without maps. Its `episode` is 0: a stored episode does not know its place."""
        return StepSaliency.capture(self.decision, self.action, 0, self.step, by_reference=True)

    @property
    def reward(self) -> float:
        """The reward of the step; NaN when the step failed."""
        return float(self.block.field("reward")[self.row])

    @property
    def frame(self) -> NDArray[np.uint8] | None:
        """The frame `(H, W, 3)` uint8 that the agent saw. None when frames were not kept."""
        return self.block.frame(self.row)


def _index_of(action: Any, first: int) -> Tensor | None:
    """Return the index `(1,)` of an action's logit. None for an action that is no number."""
    if not isinstance(action, int):
        return None
    largest = torch.iinfo(torch.int64).max
    return torch.tensor([max(-largest, min(action - first, largest))])


def _arrays(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.numpy()
    if isinstance(tree, dict):
        return {key: _arrays(branch) for key, branch in tree.items()}
    return tuple([_arrays(branch) for branch in tree])
