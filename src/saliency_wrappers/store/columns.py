"""`DecisionColumns`: the decisions of an episode on their way to a store, as one array for each field.

What is large is copied into its array at the step. Of the rest a step keeps a `Row`, what may change copied; arrays are made of many of
them together, in a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saliency_wrappers.decisions import array_of
from saliency_wrappers.states import StateTree, sorted_keys, state_leaves
from saliency_wrappers.step_saliency import StepSaliency, plain_action
from saliency_wrappers.store.state_forms import StateForms
from saliency_wrappers.store.tree_schema import Structure, dtype_name, structure_of
from saliency_wrappers.store.zarr_array import ArrayField

STATE_FORM = "state_form"
"""The field that says which form a state has; not written while there is only one."""

_PARTS = ("episode_start", "logits", "value")
_Places = slice | NDArray[np.intp]
"""Rows of a block."""


Row = tuple[StepSaliency, int | StateTree]
"""The record of a decision without its input, which is in its column, and a copy of the action: an int, or a tree of tensors."""


@dataclass(frozen=True, eq=False)
class FilledBlock:
    """The filled part of a block, to be written. It does not change while the next block is filled."""

    index: int
    """Which block of the episode."""
    count: int
    """How many decisions the episode has, this block's included."""
    rows: list[tuple[ArrayField, NDArray[Any]]]
    """The rows of each field. Without forms of the state while there is only one."""
    fields: list[ArrayField]
    """All fields so far: a new form of the state brings new ones."""
    states: list[Structure]
    """The forms of the incoming state until now."""
    second_form: int | None
    """The block in which the state first had another form than before. None: not yet."""


class _Column:
    """One field of small rows: a block, of which copies are written."""

    def __init__(self, field: ArrayField, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> None:
        self.field = field
        self.shape, self.dtype = shape, dtype
        self.block = field.empty()
        self.latest = -1
        """The last block in which a row was filled in."""
        self._rows = self.block.reshape(field.block, *shape)
        """The same block, with rows of the tensors' own shape."""

    def put(self, places: _Places, tensors: Sequence[Tensor]) -> None:
        """Fill in rows; `ValueError` unless they are like the first decision's."""
        for tensor in tensors:
            if tensor.shape != self.shape or tensor.dtype is not self.dtype:
                raise _unlike(self, tuple(tensor.shape), tensor.dtype)
        self._rows[places] = array_of(torch.stack([*tensors]))

    def put_numbers(self, places: _Places, numbers: Sequence[Any], dtypes: Sequence[torch.dtype | None]) -> None:
        """The same with the numbers of tensors of these dtypes."""
        array = np.array(numbers, self.block.dtype)
        for dtype in {*dtypes}:
            if array.shape[1:] != self.shape or dtype is not self.dtype:
                raise _unlike(self, array.shape[1:], dtype)
        self._rows[places] = array

    def filled(self, block: int, count: int) -> NDArray[Any]:
        """The first rows of a block: a copy."""
        return self.block[:count].copy()


class _LargeColumn:
    """One field of large rows: a block is filled while the one before is written."""

    def __init__(self, field: ArrayField, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.field = field
        self.shape, self.dtype = shape, dtype
        self._blocks = field.empty(), field.empty()
        self._rows = [list(torch.from_numpy(block.reshape(field.block, *shape))) for block in self._blocks]

    def put(self, block: int, row: int, tensor: Tensor) -> None:
        """Copy a tensor; `ValueError` unless it is like the first decision's."""
        if tensor.shape != self.shape or tensor.dtype is not self.dtype:
            raise _unlike(self, tuple(tensor.shape), tensor.dtype)
        self._rows[block % 2][row].copy_(tensor)

    def put_frame(self, block: int, row: int, frame: NDArray[np.uint8]) -> None:
        """Copy a frame, which may be a read-only array, for which torch would warn."""
        if frame.shape != self.shape:
            raise _unlike(self, frame.shape, self.dtype)
        self._blocks[block % 2][row] = frame

    def filled(self, block: int, count: int) -> NDArray[Any]:
        """The first rows of a block: a view."""
        return self._blocks[block % 2][:count]


def _unlike(column: _Column | _LargeColumn, shape: tuple[int, ...], dtype: torch.dtype | None) -> ValueError:
    """Return the error text for a row that differs from the first."""
    like, found = f"{column.shape} of {column.dtype}", f"{shape} of {dtype}"
    return ValueError(f"Expected {column.field.name} as in the episode's first decision, {like}, got {found}.")


class DecisionColumns:
    """Blocks of decisions. Shapes and dtypes are those of the first decision."""

    def __init__(self, block: int, frames: bool, first: StepSaliency, frame: NDArray[np.uint8] | None) -> None:
        """Make room for decisions like this one; it is not put in."""
        self._block = block
        self._columns: dict[str, _Column | _LargeColumn] = {}
        self._states = StateForms()
        self._second_form: int | None = None
        self.outputs: dict[str, str | None] = {}
        """The names of the dtypes of inputs, logits, value and episode_start."""
        if first.inputs is None or first.inputs.shape[:1] != (1,):
            raise ValueError(f"Expected inputs of one row, got {None if first.inputs is None else tuple(first.inputs.shape)}.")
        parts, decision = _action_tree(first.action), first.decision()
        self.action: Structure = structure_of(parts)
        for name in ("inputs", *_PARTS):
            tensor: Tensor | None = getattr(decision, name)
            self.outputs[name] = None if tensor is None else dtype_name(tensor)
        inputs = decision.inputs
        self._inputs = _LargeColumn(self._field("inputs", inputs, inputs.shape[1:]), tuple(inputs.shape), inputs.dtype)
        self._parts = {name: self._add(name, part, part.shape[1:]) for name in _PARTS if (part := getattr(decision, name)) is not None}
        self._steps, self._forms, self._rewards = (
            self._numbers(name, dtype) for name, dtype in (("step", "int64"), (STATE_FORM, "uint8"), ("reward", "float64"))
        )
        self._actions = [self._add(f"action.{index}", leaf) for index, leaf in enumerate(state_leaves(parts))]
        self._frames: _LargeColumn | None = None
        if frames:
            shape = check_shown(frame).shape
            self._frames = _LargeColumn(ArrayField("frames", shape, "uint8", block), shape, torch.uint8)
            self._columns["frames"] = self._frames
        self._columns["inputs"] = self._inputs
        self._leaves: list[list[_Column]] = []
        self._form(decision.state, 0)

    @property
    def states(self) -> list[Structure]:
        """The forms of the incoming state until now."""
        return [*self._states.structures]

    def filled(self, count: int) -> FilledBlock:
        """Return the block of the last of so many decisions, all of which were put in."""
        block = (count - 1) // self._block
        unused = {column.field.name for columns in self._leaves for column in columns if column.latest != block}
        unused |= {STATE_FORM} if self._second_form is None else set()
        columns = [column for name, column in self._columns.items() if name not in unused]
        rows = [(column.field, column.filled(block, count - block * self._block)) for column in columns]
        fields = [column.field for column in self._columns.values()]
        return FilledBlock(block, count, rows, fields, self.states, self._second_form)

    def take(self, index: int, record: StepSaliency, frame: NDArray[np.uint8] | None) -> Row:
        """Copy the input of the index-th decision of the episode at its step; the rest of its record is kept.

        Raises:
            TypeError, ValueError: an input or a frame of another shape or dtype than the first decision's.
        """
        block, place = divmod(index, self._block)
        if self._frames is not None:
            self._frames.put_frame(block, place, check_shown(frame))
        if record.inputs is None:
            raise ValueError("Expected a record with the network's input, got one without.")
        self._inputs.put(block, place, record.inputs)
        return record.without_inputs(), record.action if type(record.action) is int else _action_tree(record.action)

    def put(self, index: int, rows: Sequence[tuple[Row, float]]) -> None:
        """Fill in the kept records of decisions of one block, from the index-th on, and their rewards.

        Raises:
            TypeError, ValueError: other shapes or dtypes than the first decision's.
        """
        block, place = divmod(index, self._block)
        places = slice(place, place + len(rows))
        kept, rewards = zip(*rows, strict=True)
        records, actions = zip(*kept, strict=True)
        logits, values = zip(*(one.numbers for one in records), strict=True)
        starts = [one.episode_start for one in records]
        self._put_numbers("logits", places, logits, [one.dtypes[0] for one in records])
        self._put_numbers("value", places, values, [one.dtypes[1] for one in records])
        self._put_numbers("episode_start", places, *zip(*map(_start_numbers, starts), strict=True))
        self._put_actions(places, actions)
        self._put_states(place, [one.state for one in records], block)
        self._steps[places] = [one.step for one in records]
        self._rewards[places] = rewards

    def _put_numbers(self, name: str, places: slice, numbers: Sequence[Any], dtypes: Sequence[torch.dtype | None]) -> None:
        column, missing = self._parts.get(name), [one is None for one in numbers]
        if (column is None and not all(missing)) or (column is not None and any(missing)):
            raise ValueError(f"Expected {'no ' if column is None else ''}{name}, as in the episode's first decision.")
        if column is not None:
            column.put_numbers(places, numbers, dtypes)

    def _put_actions(self, places: slice, actions: Sequence[int | StateTree]) -> None:
        if self.action == "int64" and all(isinstance(action, int) for action in actions):
            self._actions[0].block[places] = actions
            return
        trees = [torch.tensor(action) if isinstance(action, int) else action for action in actions]
        for tree in trees:
            if structure_of(tree) != self.action:
                raise ValueError(f"Expected an action as with the episode's first decision, {self.action}, got {structure_of(tree)}.")
        for column, tensors in zip(self._actions, zip(*map(state_leaves, trees), strict=True), strict=True):
            column.put(places, tensors)

    def _put_states(self, place: int, states: Sequence[StateTree], block: int) -> None:
        forms = [self._form(state, block) for state in states]
        self._forms[place : place + len(forms)] = forms
        for form in set(forms):
            own = [row for row, one in enumerate(forms) if one == form]
            tensors = [self._states.tensors(states[row], form) for row in own]
            for number, column in enumerate(self._leaves[form]):
                column.put(place + np.array(own), [one[number] for one in tensors])
                column.latest = block

    def _form(self, state: StateTree, block: int) -> int:
        """Return which of the forms a state has; the arrays of a new one are made."""
        form = self._states.form(state)
        if form == len(self._leaves):
            tensors = self._states.tensors(state, form)
            self._leaves.append([self._add(f"state.{form}.{index}", leaf) for index, leaf in enumerate(tensors)])
            if form == 1:
                self._second_form = block
        return form

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


def _start_numbers(start: Tensor | None) -> tuple[Any, torch.dtype | None]:
    return (None, None) if start is None else (start.tolist(), start.dtype)


def check_shown(frame: Any) -> NDArray[np.uint8]:
    """Return a valid frame; `TypeError` or `ValueError` for anything else."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        found = f"an array of {frame.dtype}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise TypeError(f"Expected the frame of each decision, (H, W, 3) of uint8, since the store keeps frames, got {found}.")
    if frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"Expected a frame of shape (H, W, 3), got {frame.shape}.")
    return frame


def _action_tree(action: Any) -> StateTree:
    """Return an action as a tree of tensors."""
    if isinstance(action, dict):
        return {str(key): _action_tree(action[key]) for key in sorted_keys(action)}
    if isinstance(action, tuple):
        return tuple([_action_tree(part) for part in action])
    plain = plain_action(action)
    return _action_tree(tuple(plain)) if isinstance(plain, list) else torch.as_tensor(plain)
