"""`StepSaliency` holds one decision and its maps; `SaliencyConsumer` is the protocol of those that receive it.

The recorder creates a record after the agent's forward pass; `info`, videos, stores and viewers read it.

This file is optimized for speed, since a record is created at every step. Right after a forward pass the processor's caches are cold, and
each Python call takes several times as long as in a loop. Therefore outputs are kept as lists of numbers (reading a small tensor takes a
fifth of the time of copying it), the frozen dataclass is filled through `__dict__.update` instead of one attribute after another, and
the tensors of many records are created in one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saliency_wrappers.decisions import AgentPass, Array, Decision, Dtypes, Numbers, SaliencyMaps, numbers_of, output_tensors
from saliency_wrappers.states import StateTree, copy_state, copy_tensor


@dataclass(frozen=True, eq=False, init=False)
class StepSaliency:
    """One decision of one environment, with its place in time and its maps: the content of `info["saliency"]`."""

    episode: int
    """0-based, +1 at every reset after the first."""
    step: int
    """0-based number of the `env.step` call since the reset. The decision used the observation from before that call."""
    action: Any
    """The action handed to `env.step`: an int for discrete actions, otherwise an array, or a dictionary, tuple or list of such."""
    maps: SaliencyMaps | None
    """None while deferred maps are pending, when computing them failed, and for steps without maps."""
    environment: int
    """Which environment of a vector; 0 for a single one."""
    numbers: Numbers
    """The outputs of one row as lists of numbers: logits `[[...]]`, value `[x]` or `[[x]]`, or None when the agent has no value output."""
    dtypes: Dtypes
    """The dtypes of logits and value."""
    inputs: Tensor | None
    """What the network consumed, `(1, ...)`. None for a record that was made without it, from `info` or for a test."""
    state: StateTree
    """The state that went in. None for an agent without memory."""
    episode_start: Tensor | None
    """`(1,)` bool: whether the decision starts an episode. None for agents that take no such flag."""

    def __init__(
        self, episode: int, step: int, action: Any, logits: Array, value: float | None, maps: SaliencyMaps | None, environment: int = 0
    ) -> None:
        """Create a record for display only, without input and state. `logits` are `(num_actions,)` float32."""
        self.__dict__.update(
            episode=episode,
            step=step,
            action=action,
            maps=maps,
            environment=environment,
            numbers=([np.asarray(logits, np.float32).tolist()], None if value is None else [value]),
            dtypes=(torch.float32, None if value is None else torch.float64),
            inputs=None,
            state=None,
            episode_start=None,
        )

    @staticmethod
    def capture(
        seen: AgentPass | Decision,
        action: Any,
        episode: int,
        step: int,
        environment: int = 0,
        numbers: Numbers | None = None,
        *,
        by_reference: bool = False,
    ) -> StepSaliency:
        """Return the record of a pass of one row, without maps.

        Args:
            seen: the pass. Its input, state and episode start are copied.
            action: what the environment will be given; copied.
            episode: the number of the episode.
            step: the number of the step.
            environment: the number of the environment.
            numbers: the outputs, if they have been read. None: they are read from the pass.
            by_reference: keep a reference to the input instead of a copy. The agent's next forward pass may overwrite it.

        Raises:
            ValueError: a pass without logits.
        """
        logits, value, start = seen.logits, seen.value, seen.episode_start
        if logits is None:
            raise ValueError("Expected a pass with policy output, got one without logits.")
        record = object.__new__(StepSaliency)
        record.__dict__.update(
            episode=episode,
            step=step,
            action=action if type(action) is int else plain_action(copy_action(action)),
            maps=None,
            environment=environment,
            numbers=numbers or seen.numbers or numbers_of(logits, value),
            dtypes=(logits.dtype, None if value is None else value.dtype),
            inputs=seen.inputs if by_reference else copy_tensor(seen.inputs),
            state=seen.state if seen.copied else copy_state(seen.state),
            episode_start=None if start is None else copy_tensor(start),
        )
        return record

    @property
    def logits(self) -> Array:
        """`(num_actions,)` float32, a new array."""
        return np.array(self.numbers[0][0], np.float32)

    @property
    def value(self) -> float | None:
        """The value, None when the agent has no value output. Raises `ValueError` if it has more than one number."""
        number: Any = None if self.numbers[1] is None else self.numbers[1][0]
        while type(number) is list:
            if len(number) != 1:
                raise ValueError(f"Expected one value in each row, got {number}.")
            number = number[0]
        return number

    @property
    def well_formed(self) -> bool:
        """Whether the logits are one row of numbers, and the value is one number or there is none."""
        logits, value = self.numbers
        if len(logits) != 1 or type(logits[0]) is not list or not logits[0] or type(logits[0][0]) is list:
            return False
        if value is None:
            return True
        number = value[0]
        return len(value) == 1 and (type(number) is not list or (len(number) == 1 and type(number[0]) is not list))

    def with_maps(self, maps: SaliencyMaps | None) -> StepSaliency:
        """Return the same decision with these maps."""
        record = object.__new__(StepSaliency)
        record.__dict__.update(self.__dict__, maps=maps)
        return record

    def with_own_inputs(self) -> StepSaliency:
        """Return the same decision with a copy of its input."""
        record = object.__new__(StepSaliency)
        record.__dict__.update(self.__dict__, inputs=copy_tensor(_inputs(self)))
        return record

    def without_inputs(self) -> StepSaliency:
        """Return the same decision with `inputs=None`; the caller keeps the input."""
        record = object.__new__(StepSaliency)
        record.__dict__.update(self.__dict__, inputs=None)
        return record

    def decision(self, first_action: int = 0) -> Decision:
        """Return the decision as tensors for saliency methods, outside inference mode.

        Args:
            first_action: the action that the first logit stands for.

        Raises:
            ValueError: a record without input, or tensors with different numbers of rows.
        """
        (decision,) = decisions_of([self], first_action)
        return decision

    def info(self) -> dict[str, Any]:
        """Return the content of `info["saliency"]`, a new dictionary of new arrays."""
        content: dict[str, Any] = {
            "episode": self.episode,
            "step": self.step,
            "action": self.action if type(self.action) is int else copy_action(self.action),
        }
        maps = self.maps
        if maps is None:
            content["pending"] = True
        else:
            content |= maps.info()
        content["logits"] = self.logits
        content["value"] = self.value
        if maps is not None and maps.details is not None:
            content |= maps.details.info()
        return content


def decisions_of(records: Sequence[StepSaliency], first_action: int = 0) -> list[Decision]:
    """Return the `decision` of each record. If their shapes and dtypes match, tensors are created in one call, in a quarter of the time."""
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False):
            return decisions_of(records, first_action)
    rows = _joint_rows(records, first_action) if len(records) > 1 else None
    if rows is None:
        rows = [_own_row(one, first_action) for one in records]
    return [_decision(one, *row) for one, row in zip(records, rows, strict=True)]


def _decision(record: StepSaliency, logits: Tensor, value: Tensor | None, action: Tensor | None) -> Decision:
    inputs, start = _inputs(record), record.episode_start
    if start is not None or not record.well_formed or inputs.shape[0] != 1:
        return Decision(inputs, record.state, logits, value, start, action)
    decision = object.__new__(Decision)  # was checked above: skip `Decision.__init__`
    decision.__dict__.update(inputs=inputs, state=record.state, logits=logits, value=value, episode_start=None, action=action)
    return decision


_Row = tuple[Tensor, Tensor | None, Tensor | None]
"""Logits, value and action of one record."""


def _own_row(record: StepSaliency, first_action: int) -> _Row:
    action = torch.tensor([record.action - first_action]) if isinstance(record.action, int) else None
    return *output_tensors(record.numbers, record.dtypes, _inputs(record).device), action


def _joint_rows(records: Sequence[StepSaliency], first_action: int) -> list[_Row] | None:
    """Return the rows of one joint tensor. None if the outputs have different shapes or dtypes."""
    if not all(isinstance(one.action, int) for one in records):
        return None
    try:
        ((dtypes, device),) = {(one.dtypes, _inputs(one).device) for one in records}
        logits, values = zip(*(one.numbers for one in records), strict=True)
        actions = torch.tensor([one.action - first_action for one in records]).split(1)
        together = torch.tensor(logits, dtype=dtypes[0], device=device).unbind()
        if dtypes[1] is None:
            return [(one, None, action) for one, action in zip(together, actions, strict=True)]
        return list(zip(together, torch.tensor(values, dtype=dtypes[1], device=device).unbind(), actions, strict=True))
    except (TypeError, ValueError, RuntimeError):
        return None


def _inputs(record: StepSaliency) -> Tensor:
    if record.inputs is None:
        raise ValueError("Expected a record of the agent's pass, got one that was made without the network's input.")
    return record.inputs


class SaliencyConsumer(Protocol):
    """Receives maps: a video, a store. All calls come from within the recorder's `step`, `reset`, `close` or `flush`."""

    def wants_step(self) -> bool:
        """Whether maps of the step that is about to be taken are wanted."""
        ...

    def decided(self, saliency: StepSaliency) -> None:
        """Receive a step's decision; its maps are None while they are pending."""
        ...

    def explained(self, saliency: StepSaliency) -> None:
        """Receive a decision that was pending, in order; its maps are None when computing them failed."""
        ...


def plain_action(action: Any) -> Any:
    """Return a discrete action as an int, a dictionary, tuple or ragged list as it is, and any other action as a new array."""
    if type(action) is int or isinstance(action, tuple | dict):
        return action
    try:
        array = np.array(action.detach().cpu().numpy() if isinstance(action, Tensor) else action)
    except ValueError:  # a ragged list
        return action
    return int(array.item()) if array.size == 1 and np.issubdtype(array.dtype, np.integer) else array


def copy_action(action: Any) -> Any:
    """Copy the arrays and tensors of an action into new dictionaries and tuples of the same structure. Lists are returned as they are."""
    if isinstance(action, np.ndarray):
        return cast("NDArray[Any]", action).copy()
    if isinstance(action, Tensor):
        return copy_tensor(action)
    if isinstance(action, dict):
        return {name: copy_action(part) for name, part in cast("dict[Any, Any]", action).items()}
    if isinstance(action, tuple):
        parts = [copy_action(part) for part in cast("tuple[Any, ...]", action)]
        make = getattr(type(action), "_make", tuple)
        return make(parts)
    return action
