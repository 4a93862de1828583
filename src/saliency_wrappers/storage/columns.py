"""`DecisionColumns`: the decisions of an episode on their way to a store, as one preallocated block for each field."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saliency_wrappers.records import StateTree, plain_action, state_leaves
from saliency_wrappers.storage.chunks import ArrayField
from saliency_wrappers.storage.trees import Structure, dtype_name, structure_of

STATE_FORM = "state_form"
"""The field that says which form a state has; not written while there is only one."""


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


class _Column:
    """One field: the block that is filled, and the one that is written meanwhile."""

    def __init__(self, field: ArrayField, shape: tuple[int, ...], dtype: torch.dtype | None = None, on_cpu: bool = False) -> None:
        self.field = field
        self.shape, self.dtype = shape, dtype
        self.blocks = (field.empty(), field.empty())
        self.views = tuple(block.reshape(field.block, *shape) for block in self.blocks)
        """The same blocks, with rows of the tensors' own shape."""
        self._plain = on_cpu and dtype is not torch.bfloat16

    def copy(self, tensor: Tensor, row: int, half: int) -> None:
        if tensor.shape != self.shape or tensor.dtype is not self.dtype:
            found = f"{tuple(tensor.shape)} of {tensor.dtype}"
            raise ValueError(f"Expected {self.field.name} as in the episode's first decision, {self.shape} of {self.dtype}, got {found}.")
        self.views[half][row] = tensor.numpy() if self._plain and not tensor.requires_grad else _array(tensor)


class DecisionColumns:
    """Two blocks of decisions: one is filled row by row while the other is written. Shapes and dtypes are those of the first decision."""

    def __init__(self, block: int, frames: bool, decision: DecisionLike, action: Any, frame: NDArray[np.uint8] | None) -> None:
        """Make room for decisions like this one; it is not put in."""
        self._block = block
        self._columns: dict[str, _Column] = {}
        self.states: list[Structure] = []
        """The forms of the incoming state so far."""
        self.second_form: int | None = None
        """The block in which the state first had another form than before. None: not yet."""
        self.outputs: dict[str, str | None] = {}
        """The names of the dtypes of inputs, logits, value and episode_start."""
        self.action: Structure = structure_of(_action_tree(action))
        for name in ("inputs", "logits", "value", "episode_start"):
            tensor: Tensor | None = getattr(decision, name)
            self.outputs[name] = None if tensor is None else dtype_name(tensor)
            if tensor is not None:
                if tensor.shape[:1] != (1,):
                    raise ValueError(f"Expected {name} of one row, got {tuple(tensor.shape)}.")
                self._add(name, tensor, tensor.shape[1:])
        for name, dtype in (("step", "int64"), (STATE_FORM, "uint8"), ("reward", "float64")):
            self._columns[name] = _Column(ArrayField(name, (), dtype, block), ())
        self._numbers = [self._columns[name] for name in ("step", STATE_FORM, "reward")]
        for index, leaf in enumerate(state_leaves(_action_tree(action))):
            self._add(f"action.{index}", leaf, leaf.shape)
        if frames:
            shape = check_shown(frame).shape
            self._columns["frames"] = _Column(ArrayField("frames", shape, "uint8", block), shape)
        self._frames = self._columns.get("frames")
        self._tensors = [(name, self._columns[name]) for name, dtype in self.outputs.items() if dtype is not None]
        self._missing = [name for name, dtype in self.outputs.items() if dtype is None]
        self._leaves: list[list[_Column]] = []

    @property
    def fields(self) -> list[ArrayField]:
        """All fields so far: a new form of the state brings new ones."""
        return [column.field for column in list(self._columns.values())]  # the background asks while columns may be added

    def rows(self, block: int, count: int) -> dict[ArrayField, NDArray[Any]]:
        """The first rows of a block, by field: views. Without forms of the state while there is only one."""
        columns = [column for name, column in list(self._columns.items()) if name != STATE_FORM or self.second_form is not None]
        return {column.field: column.blocks[block % 2][:count] for column in columns}

    def put(self, index: int, step: int, decision: DecisionLike, action: Any, frame: NDArray[np.uint8] | None) -> None:
        """Copy a decision, the index-th of the episode; its reward is not known yet.

        Raises:
            TypeError, ValueError: other shapes or dtypes than the first decision's.
        """
        row, half = index % self._block, index // self._block % 2
        for name, column in self._tensors:
            column.copy(_there(name, getattr(decision, name)), row, half)
        for name in self._missing:
            if getattr(decision, name) is not None:
                raise ValueError(f"Expected no {name}, as in the episode's first decision, got one.")
        steps, forms, rewards = self._numbers
        steps.blocks[half][row] = step
        forms.blocks[half][row] = self._put_state(decision.state, index // self._block, row)
        rewards.blocks[half][row] = np.nan
        self._put_action(action, row, half)
        if self._frames is not None:
            self._frames.blocks[half][row] = check_shown(frame, self._frames.shape)

    def put_reward(self, index: int, reward: float) -> None:
        """The reward that followed the index-th decision."""
        self._numbers[2].blocks[index // self._block % 2][index % self._block] = reward

    def _put_state(self, state: StateTree, block: int, row: int) -> int:
        leaves, half = list(state_leaves(state)), block % 2
        for form, columns in enumerate(self._leaves):
            if len(columns) == len(leaves) and (leaves or state is self.states[form]):
                break
        else:
            form, columns = self._add_form(state, leaves)
            if form == 1:
                self.second_form = block
        for column, leaf in zip(columns, leaves, strict=True):
            column.copy(leaf, row, half)
        return form

    def _add_form(self, state: StateTree, leaves: list[Tensor]) -> tuple[int, list[_Column]]:
        form = len(self.states)
        self.states.append(structure_of(state))
        self._leaves.append([self._add(f"state.{form}.{index}", leaf, leaf.shape) for index, leaf in enumerate(leaves)])
        return form, self._leaves[form]

    def _put_action(self, action: Any, row: int, half: int) -> None:
        if isinstance(action, int) and self.action == "int64":
            self._columns["action.0"].blocks[half][row] = action
            return
        for index, leaf in enumerate(state_leaves(_action_tree(action))):
            self._columns[f"action.{index}"].copy(leaf, row, half)

    def _add(self, name: str, tensor: Tensor, shape: tuple[int, ...]) -> _Column:
        dtype = str(_array(tensor).dtype)
        column = _Column(ArrayField(name, tuple(shape), dtype, self._block), tuple(tensor.shape), tensor.dtype, tensor.is_cpu)
        self._columns[name] = column
        return column


def check_shown(frame: Any, shape: tuple[int, ...] | None = None) -> NDArray[np.uint8]:
    """The frame, when it is one of this shape; `TypeError` or `ValueError` when not."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        found = f"an array of {frame.dtype}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise TypeError(f"Expected the frame of each decision, (H, W, 3) of uint8, since the store keeps frames, got {found}.")
    if frame.ndim != 3 or frame.shape[2] != 3 or (shape is not None and frame.shape != shape):
        raise ValueError(f"Expected a frame of shape {'(H, W, 3)' if shape is None else shape}, got {frame.shape}.")
    return frame


def _there(name: str, tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise ValueError(f"Expected {name}, as in the episode's first decision, got None.")
    return tensor


def _array(tensor: Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu() if tensor.requires_grad or not tensor.is_cpu else tensor
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()  # NumPy has no bfloat16


def _action_tree(action: Any) -> StateTree:
    """An action as a tree of tensors."""
    if isinstance(action, dict):
        return {str(key): _action_tree(part) for key, part in action.items()}
    if isinstance(action, tuple):
        return tuple([_action_tree(part) for part in action])
    return torch.as_tensor(plain_action(action))
