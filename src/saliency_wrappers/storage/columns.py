"""`DecisionColumns`: the decisions of an episode on their way to a store, as one preallocated block for each field."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saliency_wrappers.records import StateTree, array_of, copy_tensor, plain_action, state_leaves
from saliency_wrappers.storage.chunks import ArrayField
from saliency_wrappers.storage.trees import Structure, dtype_name, structure_of

STATE_FORM = "state_form"
"""The field that says which form a state has; not written while there is only one."""


_OUTPUTS = ("logits", "value")


class DecisionLike(Protocol):
    """A `Decision` or an `AgentPass` of one row."""

    @property
    def inputs(self) -> Tensor:
        """`(1, C, h, w)`."""
        ...

    @property
    def state(self) -> StateTree:
        """The incoming state. None for an agent without memory."""
        ...

    @property
    def logits(self) -> Tensor | None:
        """`(1, num_actions)`."""
        ...

    @property
    def value(self) -> Tensor | None:
        """`(1,)` or `(1, 1)`. None when the agent has no value output."""
        ...

    @property
    def episode_start(self) -> Tensor | None:
        """`(1,)`. None when the agent is not told."""
        ...

    @property
    def copied(self) -> bool:
        """Whether nobody else changes state, logits and value."""
        ...


class _Column:
    """One field: the block that is filled, and the one that is written meanwhile."""

    def __init__(self, field: ArrayField, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> None:
        self.field = field
        self.shape, self.dtype = shape, dtype
        self.blocks = (field.empty(), field.empty())
        self._views = tuple(block.reshape(field.block, *shape) for block in self.blocks)
        """The same blocks, with rows of the tensors' own shape."""

    def put(self, tensor: Tensor | None, row: int, half: int, copied: bool) -> None:
        """Copy a tensor, also one that is a copy; `ValueError` unless it is like the first decision's."""
        self._views[half][row] = array_of(_alike(self, tensor))

    def rows(self, half: int, count: int) -> NDArray[Any]:
        """The first rows of a block: a view."""
        return self.blocks[half][:count]


class _Kept:
    """One field of small tensors, which are mostly copies already: they are kept, and become an array when their block is written."""

    def __init__(self, field: ArrayField, like: Tensor) -> None:
        self.field = field
        self.shape, self.dtype = tuple(like.shape), like.dtype
        self._blocks = tuple([torch.zeros_like(like)] * field.block for _ in range(2))

    def put(self, tensor: Tensor | None, row: int, half: int, copied: bool) -> None:
        """Keep a tensor, or a copy of one that is not copied yet; `ValueError` unless it is like the first decision's."""
        alike = _alike(self, tensor)
        self._blocks[half][row] = alike if copied else copy_tensor(alike)

    def rows(self, half: int, count: int) -> NDArray[Any]:
        """The first rows of a block."""
        tensors = self._blocks[half][:count]
        try:
            together = torch.stack(tensors)
        except RuntimeError:  # the agent was moved to another device meanwhile
            together = torch.stack([tensor.cpu() for tensor in tensors])
        return array_of(together).reshape(count, *self.field.shape)


def _alike(column: _Column | _Kept, tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise ValueError(f"Expected {column.field.name}, as in the episode's first decision, got None.")
    if tensor.shape != column.shape or tensor.dtype is not column.dtype:
        like, found = (f"{tuple(one.shape)} of {one.dtype}" for one in (column, tensor))
        raise ValueError(f"Expected {column.field.name} as in the episode's first decision, {like}, got {found}.")
    return tensor


class DecisionColumns:
    """Two blocks of decisions: one is filled row by row while the other is written. Shapes and dtypes are those of the first decision."""

    def __init__(self, block: int, frames: bool, decision: DecisionLike, action: Any, frame: NDArray[np.uint8] | None) -> None:
        """Make room for decisions like this one; it is not put in."""
        self._block = block
        self._columns: dict[str, _Column | _Kept] = {}
        self.states: list[Structure] = []
        """The forms of the incoming state so far."""
        self.second_form: int | None = None
        """The block in which the state first had another form than before. None: not yet."""
        self.outputs: dict[str, str | None] = {}
        """The names of the dtypes of inputs, logits, value and episode_start."""
        self.action: Structure = structure_of(_action_tree(action))
        for name in ("inputs", "episode_start", "logits", "value"):
            tensor: Tensor | None = getattr(decision, name)
            self.outputs[name] = None if tensor is None else dtype_name(tensor)
            if tensor is not None:
                if tensor.shape[:1] != (1,):
                    raise ValueError(f"Expected {name} of one row, got {tuple(tensor.shape)}.")
                field = self._field(name, tensor, tensor.shape[1:])
                self._columns[name] = _Kept(field, tensor) if name in _OUTPUTS else _Column(field, tuple(tensor.shape), tensor.dtype)
        self._steps, self._forms, self._rewards = (
            self._numbers(name, dtype) for name, dtype in (("step", "int64"), (STATE_FORM, "uint8"), ("reward", "float64"))
        )
        self._actions = [self._action(index, leaf) for index, leaf in enumerate(state_leaves(_action_tree(action)))]
        self._frames: _Column | None = None
        if frames:
            shape = check_shown(frame).shape
            self._columns["frames"] = self._frames = _Column(ArrayField("frames", shape, "uint8", block), shape)
        self._tensors = [(name, self._columns[name]) for name, dtype in self.outputs.items() if dtype is not None]
        self._missing = [name for name, dtype in self.outputs.items() if dtype is None]
        self._leaves: list[list[_Kept]] = []

    @property
    def fields(self) -> list[ArrayField]:
        """All fields so far: a new form of the state brings new ones."""
        return [column.field for column in list(self._columns.values())]  # the background asks while columns may be added

    def rows(self, block: int, count: int) -> list[tuple[ArrayField, NDArray[Any]]]:
        """The first rows of a block, of each field. Without forms of the state while there is only one."""
        columns = [column for name, column in list(self._columns.items()) if name != STATE_FORM or self.second_form is not None]
        return [(column.field, column.rows(block % 2, count)) for column in columns]

    def put(self, index: int, step: int, decision: DecisionLike, action: Any, frame: NDArray[np.uint8] | None) -> None:
        """Copy a decision, the index-th of the episode; its reward is not known yet.

        Raises:
            TypeError, ValueError: other shapes or dtypes than the first decision's.
        """
        row, half = index % self._block, index // self._block % 2
        copied = decision.copied
        for name, column in self._tensors:
            column.put(getattr(decision, name), row, half, copied)
        for name in self._missing:
            if getattr(decision, name) is not None:
                raise ValueError(f"Expected no {name}, as in the episode's first decision, got one.")
        self._steps[half][row] = step
        form = self._put_state(decision.state, index // self._block, row, copied)
        if self.second_form is not None:
            self._forms[half][row] = form
        self._put_action(action, row, half)
        if self._frames is not None:
            self._frames.blocks[half][row] = check_shown(frame, self._frames.shape)

    def put_reward(self, index: int, reward: float) -> None:
        """The reward that followed the index-th decision."""
        self._rewards[index // self._block % 2][index % self._block] = reward

    def _put_state(self, state: StateTree, block: int, row: int, copied: bool) -> int:
        leaves, half = [state] if isinstance(state, Tensor) else list(state_leaves(state)), block % 2
        for form, columns in enumerate(self._leaves):
            if len(columns) == len(leaves) and (leaves or state is self.states[form]):
                break
        else:
            form, columns = self._add_form(state, leaves)
            if form == 1:
                self.second_form = block
        for column, leaf in zip(columns, leaves, strict=True):
            column.put(leaf, row, half, copied)
        return form

    def _add_form(self, state: StateTree, leaves: list[Tensor]) -> tuple[int, list[_Kept]]:
        form = len(self.states)
        self.states.append(structure_of(state))
        names = [f"state.{form}.{index}" for index in range(len(leaves))]
        columns = [_Kept(self._field(name, leaf, leaf.shape), leaf) for name, leaf in zip(names, leaves, strict=True)]
        self._columns.update(zip(names, columns, strict=True))
        self._leaves.append(columns)
        return form, columns

    def _put_action(self, action: Any, row: int, half: int) -> None:
        if isinstance(action, int) and self.action == "int64":
            self._actions[0].blocks[half][row] = action
            return
        leaves = list(state_leaves(_action_tree(action)))
        if len(leaves) != len(self._actions):
            raise ValueError(f"Expected an action of {len(self._actions)} parts, as with the episode's first decision, got {len(leaves)}.")
        for column, leaf in zip(self._actions, leaves, strict=True):
            column.put(leaf, row, half, copied=False)

    def _numbers(self, name: str, dtype: str) -> tuple[NDArray[Any], NDArray[Any]]:
        column = self._columns[name] = _Column(ArrayField(name, (), dtype, self._block), ())
        return column.blocks

    def _action(self, index: int, leaf: Tensor) -> _Column:
        name = f"action.{index}"
        column = self._columns[name] = _Column(self._field(name, leaf, leaf.shape), tuple(leaf.shape), leaf.dtype)
        return column

    def _field(self, name: str, tensor: Tensor, shape: tuple[int, ...]) -> ArrayField:
        return ArrayField(name, tuple(shape), str(array_of(tensor).dtype), self._block)


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
