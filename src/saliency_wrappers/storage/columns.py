"""`Row`: a decision on its way to a store, as it is kept at its step. `DecisionColumns`: a block of them, as one array for each field.

A step copies what may change, and nothing else; the thread that writes looks at shapes, and makes arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saliency_wrappers.records import AgentPass, Captured, Decision, StateTree, array_of, plain_action, state_leaves
from saliency_wrappers.storage.chunks import ArrayField
from saliency_wrappers.storage.trees import Structure, dtype_name, structure_of

STATE_FORM = "state_form"
"""The field that says which form a state has; not written while there is only one."""


@dataclass(eq=False)
class Row:
    """A decision on its way to a store. What it holds is its own: nobody else changes it."""

    step: int
    captured: Captured
    """Of one row."""
    action: int | StateTree
    """An int when it is one, otherwise a tree of tensors."""
    frame: NDArray[np.uint8] | None

    @staticmethod
    def of(step: int, seen: AgentPass | Decision, action: Any, frame: NDArray[np.uint8] | None) -> Row:
        """Copy a decision, its action and its frame."""
        own = action if type(action) is int else _action_tree(action)
        return Row(step, Captured(seen), own, None if frame is None else check_shown(frame).copy())


class _Column:
    """One field: the block that is filled, and written."""

    def __init__(self, field: ArrayField, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> None:
        self.field = field
        self.shape, self.dtype = shape, dtype
        self.block = field.empty()
        self._rows = self.block.reshape(field.block, *shape)
        """The same block, with rows of the tensors' own shape."""

    def put(self, row: int, content: Any, dtype: torch.dtype | None = None) -> None:
        """Fill in a row, by a tensor or by the numbers of one of this dtype; `ValueError` unless it is like the first decision's."""
        if isinstance(content, Tensor):
            array, dtype = array_of(content), content.dtype
        else:
            array = np.asarray(content, self.block.dtype)
        if array.shape != self.shape or dtype is not self.dtype:
            like, found = (f"{shape} of {dtype}" for shape, dtype in ((self.shape, self.dtype), (array.shape, dtype)))
            raise ValueError(f"Expected {self.field.name} as in the episode's first decision, {like}, got {found}.")
        self._rows[row] = array


class DecisionColumns:
    """A block of decisions, filled row by row, in turn with being written. Shapes and dtypes are those of the first decision."""

    def __init__(self, block: int, frames: bool, first: Row) -> None:
        """Make room for decisions like this one; it is not put in."""
        self._block = block
        self._columns: dict[str, _Column] = {}
        self.states: list[Structure] = []
        """The forms of the incoming state so far."""
        self.second_form: int | None = None
        """The block in which the state first had another form than before. None: not yet."""
        self.outputs: dict[str, str | None] = {}
        """The names of the dtypes of inputs, logits, value and episode_start."""
        self.action: Structure = structure_of(_action_tree(first.action))
        decision = first.captured.decision()
        for name in ("inputs", "episode_start", "logits", "value"):
            tensor: Tensor | None = getattr(decision, name)
            self.outputs[name] = None if tensor is None else dtype_name(tensor)
            if tensor is not None:
                if tensor.shape[:1] != (1,):
                    raise ValueError(f"Expected {name} of one row, got {tuple(tensor.shape)}.")
                self._add(name, tensor, tensor.shape[1:])
        self._steps, self._forms, self._rewards = (
            self._numbers(name, dtype) for name, dtype in (("step", "int64"), (STATE_FORM, "uint8"), ("reward", "float64"))
        )
        self._actions = [self._add(f"action.{index}", leaf) for index, leaf in enumerate(state_leaves(_action_tree(first.action)))]
        self._frames: _Column | None = None
        if frames:
            shape = check_shown(first.frame).shape
            self._columns["frames"] = self._frames = _Column(ArrayField("frames", shape, "uint8", block), shape)
        self._leaves: list[list[_Column]] = []

    @property
    def fields(self) -> list[ArrayField]:
        """All fields so far: a new form of the state brings new ones."""
        return [column.field for column in self._columns.values()]

    def rows(self, count: int) -> list[tuple[ArrayField, NDArray[Any]]]:
        """The first rows of the block, of each field. Without forms of the state while there is only one."""
        columns = [column for name, column in self._columns.items() if name != STATE_FORM or self.second_form is not None]
        return [(column.field, column.block[:count]) for column in columns]

    def put(self, index: int, row: Row, reward: float) -> None:
        """Fill in a decision, the index-th of the episode, and the reward that followed.

        Raises:
            TypeError, ValueError: other shapes or dtypes than the first decision's.
        """
        place, captured = index % self._block, row.captured
        (logits, value), dtypes = captured.numbers, captured.dtypes
        self._put_part("inputs", place, captured.inputs)
        self._put_part("episode_start", place, captured.episode_start)
        self._put_part("logits", place, logits, dtypes[0])
        self._put_part("value", place, value, dtypes[1])
        self._put_action(place, row.action)
        if self._frames is not None:
            self._frames.block[place] = check_shown(row.frame, self._frames.shape)
        self._forms[place] = self._put_state(place, captured.state, index // self._block)
        self._steps[place], self._rewards[place] = row.step, reward

    def _put_part(self, name: str, place: int, content: Any, dtype: torch.dtype | None = None) -> None:
        column = self._columns.get(name)
        if (column is None) != (content is None):
            first, found = ("one", "none") if content is None else ("none", "one")
            raise ValueError(f"Expected {name} as in the episode's first decision, {first}, got {found}.")
        if column is not None:
            column.put(place, content, dtype)

    def _put_state(self, place: int, state: StateTree, block: int) -> int:
        leaves = list(state_leaves(state))
        for form, columns in enumerate(self._leaves):
            if len(columns) == len(leaves) and (leaves or state is self.states[form]):
                break
        else:
            form, columns = self._add_form(state, leaves)
            if form == 1:
                self.second_form = block
        for column, leaf in zip(columns, leaves, strict=True):
            column.put(place, leaf)
        return form

    def _add_form(self, state: StateTree, leaves: list[Tensor]) -> tuple[int, list[_Column]]:
        form = len(self.states)
        self.states.append(structure_of(state))
        self._leaves.append([self._add(f"state.{form}.{index}", leaf) for index, leaf in enumerate(leaves)])
        return form, self._leaves[form]

    def _put_action(self, place: int, action: int | StateTree) -> None:
        if isinstance(action, int) and self.action == "int64":
            self._actions[0].block[place] = action
            return
        leaves = list(state_leaves(_action_tree(action)))
        if len(leaves) != len(self._actions):
            raise ValueError(f"Expected an action of {len(self._actions)} parts, as with the episode's first decision, got {len(leaves)}.")
        for column, leaf in zip(self._actions, leaves, strict=True):
            column.put(place, leaf)

    def _numbers(self, name: str, dtype: str) -> NDArray[Any]:
        column = self._columns[name] = _Column(ArrayField(name, (), dtype, self._block), ())
        return column.block

    def _add(self, name: str, like: Tensor, shape: tuple[int, ...] | None = None) -> _Column:
        """A column for tensors like this one, in rows of this shape. None: of the tensors' own."""
        field = ArrayField(name, tuple(like.shape if shape is None else shape), str(array_of(like).dtype), self._block)
        column = self._columns[name] = _Column(field, tuple(like.shape), like.dtype)
        return column


def check_shown(frame: Any, shape: tuple[int, ...] | None = None) -> NDArray[np.uint8]:
    """The frame, when it is one of this shape; `TypeError` or `ValueError` when not."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        found = f"an array of {frame.dtype}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise TypeError(f"Expected the frame of each decision, (H, W, 3) of uint8, since the store keeps frames, got {found}.")
    if frame.ndim != 3 or frame.shape[2] != 3 or (shape is not None and frame.shape != shape):
        raise ValueError(f"Expected a frame of shape {'(H, W, 3)' if shape is None else shape}, got {frame.shape}.")
    return frame


def _action_tree(action: Any) -> StateTree:
    """An action as a tree of tensors."""
    if isinstance(action, dict):
        return {str(key): _action_tree(part) for key, part in action.items()}
    if isinstance(action, tuple):
        return tuple([_action_tree(part) for part in action])
    return torch.as_tensor(plain_action(action))
