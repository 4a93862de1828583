"""`DecisionColumns`: the decisions of an episode on their way to a store, as one array for each field.

What is large is copied into its array at the step. Of the rest a step keeps a `Row`, what may change copied; the thread that writes looks
at it and makes arrays.
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

_PARTS = ("episode_start", "logits", "value")


@dataclass(eq=False)
class Row:
    """What a step keeps of a decision. It is its own: nobody else changes it."""

    step: int
    captured: Captured
    """Of one row. The inputs lie in their column."""
    action: int | StateTree
    """An int when it is one, otherwise a tree of tensors."""


class _Column:
    """One field of small rows: the block that is filled and written, in turns."""

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
            raise _unlike(self, array.shape, dtype)
        self._rows[row] = array

    def filled(self, block: int, count: int) -> NDArray[Any]:
        """The first rows of a block: a view."""
        return self.block[:count]


class _LargeColumn:
    """One field of large rows: a block is filled while the one before is written."""

    def __init__(self, field: ArrayField, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.field = field
        self.shape, self.dtype = shape, dtype
        self._blocks = field.empty(), field.empty()
        self._rows = [list(torch.from_numpy(block.reshape(field.block, *shape))) for block in self._blocks]

    def put(self, block: int, row: int, tensor: Tensor) -> Tensor:
        """Copy a tensor, and return the copy; `ValueError` unless it is like the first decision's."""
        if tensor.shape != self.shape or tensor.dtype is not self.dtype:
            raise _unlike(self, tuple(tensor.shape), tensor.dtype)
        return self._rows[block % 2][row].copy_(tensor)

    def put_frame(self, block: int, row: int, frame: NDArray[np.uint8]) -> None:
        """The same with a frame, which may be one that nobody may write to, as torch would have it."""
        if frame.shape != self.shape:
            raise _unlike(self, frame.shape, self.dtype)
        self._blocks[block % 2][row] = frame

    def filled(self, block: int, count: int) -> NDArray[Any]:
        """The first rows of a block: a view."""
        return self._blocks[block % 2][:count]


def _unlike(column: _Column | _LargeColumn, shape: tuple[int, ...], dtype: torch.dtype | None) -> ValueError:
    """What is said of a row that is not like the first."""
    like, found = f"{column.shape} of {column.dtype}", f"{shape} of {dtype}"
    return ValueError(f"Expected {column.field.name} as in the episode's first decision, {like}, got {found}.")


class DecisionColumns:
    """Blocks of decisions. Shapes and dtypes are those of the first decision."""

    def __init__(self, block: int, frames: bool, first: AgentPass | Decision, action: Any, frame: NDArray[np.uint8] | None) -> None:
        """Make room for decisions like this one; it is not put in."""
        self._block = block
        self._columns: dict[str, _Column | _LargeColumn] = {}
        self.states: list[Structure] = []
        """The forms of the incoming state so far."""
        self.second_form: int | None = None
        """The block in which the state first had another form than before. None: not yet."""
        self.outputs: dict[str, str | None] = {}
        """The names of the dtypes of inputs, logits, value and episode_start."""
        self.action: Structure = structure_of(_action_tree(action))
        for name in ("inputs", "episode_start", "logits", "value"):
            tensor: Tensor | None = getattr(first, name)
            self.outputs[name] = None if tensor is None else dtype_name(tensor)
            if tensor is not None and tensor.shape[:1] != (1,):
                raise ValueError(f"Expected {name} of one row, got {tuple(tensor.shape)}.")
        inputs = first.inputs
        self._inputs = _LargeColumn(self._field("inputs", inputs, inputs.shape[1:]), tuple(inputs.shape), inputs.dtype)
        self._parts = {name: self._add(name, part, part.shape[1:]) for name in _PARTS if (part := getattr(first, name)) is not None}
        self._steps, self._forms, self._rewards = (
            self._numbers(name, dtype) for name, dtype in (("step", "int64"), (STATE_FORM, "uint8"), ("reward", "float64"))
        )
        self._actions = [self._add(f"action.{index}", leaf) for index, leaf in enumerate(state_leaves(_action_tree(action)))]
        self._frames: _LargeColumn | None = None
        if frames:
            shape = check_shown(frame).shape
            self._frames = _LargeColumn(ArrayField("frames", shape, "uint8", block), shape, torch.uint8)
            self._columns["frames"] = self._frames
        self._columns["inputs"] = self._inputs
        self._leaves: list[list[_Column]] = []

    @property
    def fields(self) -> list[ArrayField]:
        """All fields so far: a new form of the state brings new ones."""
        return [column.field for column in self._columns.values()]

    def rows(self, block: int, count: int) -> list[tuple[ArrayField, NDArray[Any]]]:
        """The first rows of a block, of each field. Without forms of the state while there is only one."""
        columns = [column for name, column in self._columns.items() if name != STATE_FORM or self.second_form is not None]
        return [(column.field, column.filled(block, count)) for column in columns]

    def take(self, index: int, step: int, seen: AgentPass | Decision, action: Any, frame: NDArray[np.uint8] | None) -> Row:
        """At a step: copy a decision, the index-th of the episode.

        Raises:
            TypeError, ValueError: an input or a frame of another shape or dtype than the first decision's.
        """
        block, place = divmod(index, self._block)
        if self._frames is not None:
            self._frames.put_frame(block, place, check_shown(frame))
        inputs = self._inputs.put(block, place, seen.inputs)
        return Row(step, Captured(seen, inputs), action if type(action) is int else _action_tree(action))

    def put(self, index: int, row: Row, reward: float) -> None:
        """Later, elsewhere: fill in what was kept of the decision, and the reward that followed.

        Raises:
            TypeError, ValueError: other shapes or dtypes than the first decision's.
        """
        place, captured = index % self._block, row.captured
        (logits, value), dtypes = captured.numbers, captured.dtypes
        self._put_part("episode_start", place, captured.episode_start)
        self._put_part("logits", place, logits, dtypes[0])
        self._put_part("value", place, value, dtypes[1])
        self._put_action(place, row.action)
        self._forms[place] = self._put_state(place, captured.state, index // self._block)
        self._steps[place], self._rewards[place] = row.step, reward

    def _put_part(self, name: str, place: int, content: Any, dtype: torch.dtype | None = None) -> None:
        column = self._parts.get(name)
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
        field = self._field(name, like, like.shape if shape is None else shape)
        column = self._columns[name] = _Column(field, tuple(like.shape), like.dtype)
        return column

    def _field(self, name: str, like: Tensor, shape: tuple[int, ...]) -> ArrayField:
        return ArrayField(name, tuple(shape), str(array_of(like).dtype), self._block)


def check_shown(frame: Any) -> NDArray[np.uint8]:
    """The frame, when it is one; `TypeError` or `ValueError` when not."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        found = f"an array of {frame.dtype}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise TypeError(f"Expected the frame of each decision, (H, W, 3) of uint8, since the store keeps frames, got {found}.")
    if frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"Expected a frame of shape (H, W, 3), got {frame.shape}.")
    return frame


def _action_tree(action: Any) -> StateTree:
    """An action as a tree of tensors."""
    if isinstance(action, dict):
        return {str(key): _action_tree(part) for key, part in action.items()}
    if isinstance(action, tuple):
        return tuple([_action_tree(part) for part in action])
    return torch.as_tensor(plain_action(action))
