"""The records that travel between stages.

`AgentPass` is one forward pass as an adapter saw it, `Decision` the pass that chose an action, `SaliencyMaps` what it looked at,
`StepSaliency` all of it with its place in time: what `info["saliency"]`, videos and stores are made from.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saliency_wrappers.details import SaliencyDetails
from saliency_wrappers.states import StateTree, copy_state, copy_tensor

Numbers = tuple[Any, Any]
"""Logits and value as lists of their numbers, in lists as deep as the tensors have axes; None for what there is not."""

Array = NDArray[np.float32]
_OUTPUT = (Tensor, type(None))  # a union would be made anew at every pass


@dataclass(eq=False)
class AgentPass:
    """One forward pass of the agent, as its adapter saw it. Tensors are references; the state is a copy made before the pass."""

    inputs: Tensor
    """What the network consumed, `(n, C, h, w)`."""
    state: StateTree
    """The incoming state. None for an agent without memory."""
    logits: Tensor | None
    """The policy output, `(n, num_actions)`. None when the pass gave no policy output (a value-only call), or none yet."""
    value: Tensor | None
    """The state value, `(n,)` or `(n, 1)`. None when the agent has no value output."""
    episode_start: Tensor | None = None
    """`(n,)` bool, True where an episode begins. None when the agent is not told."""
    scored_action: bool = False
    """True when the pass was given an action to score (`evaluate_actions`): never a decision."""
    copied: bool = False
    """True when the state is in fact a copy, which nobody else changes: it need not be copied again."""
    numbers: Numbers | None = None
    """The outputs as they came out, of a pass that may be a decision: who has the tensors may change them. None: not looked at."""
    call: Any = None
    """What the recorders of one agent share of a call that they all see. None while only one recorder watches."""
    complete: Callable[[AgentPass], None] | None = None
    """Adds the value, of a pass that may decide, when acting did not compute it. None: there is nothing to add."""
    given: Tensor | None = None
    """The tensor that the agent was given, while `inputs` is a copy of it. None: `inputs` is that tensor itself."""

    @property
    def batch(self) -> int:
        """The number of rows, n."""
        return self.inputs.shape[0]  # len() of a tensor takes five times as long

    def gave(self, logits: Tensor | None, value: Tensor | None) -> AgentPass:
        """The pass itself, with its outputs, detached from the graph; `TypeError` for what is no tensor."""
        if not isinstance(value, _OUTPUT):
            raise TypeError(f"Expected value as a tensor or None, got {type(value).__name__}.")
        if not isinstance(logits, _OUTPUT):
            raise TypeError(f"Expected logits as a tensor or None, got {type(logits).__name__}.")
        self.logits = logits.detach() if logits is not None and logits.requires_grad else logits
        self.value = value.detach() if value is not None and value.requires_grad else value
        return self


@dataclass(frozen=True, eq=False, init=False)
class Decision:
    """One acting forward pass: what went in and what came out, all batched `(n, ...)`."""

    inputs: Tensor
    """What the network consumed, `(n, C, h, w)`, in the adapter's `input_range`."""
    state: StateTree
    """The state that went in. None for an agent without memory."""
    logits: Tensor
    """The policy output, `(n, num_actions)`."""
    value: Tensor | None
    """The state value, `(n,)` or `(n, 1)`. None when the agent has no value output."""
    episode_start: Tensor | None = None
    """`(n,)` bool, True where an episode begins. None when the agent is not told."""
    action: Tensor | None = None
    """`(n,)` integers, the actions that were taken. None when unknown; then a map per action gives the greedy action's."""

    def __init__(
        self,
        inputs: Tensor,
        state: StateTree,
        logits: Tensor,
        value: Tensor | None,
        episode_start: Tensor | None = None,
        action: Tensor | None = None,
    ) -> None:
        n = inputs.shape[0]
        for name, tensor in (("logits", logits), ("value", value), ("episode_start", episode_start), ("action", action)):
            if tensor is not None and ((shape := tensor.shape)[:1] != (n,)):
                raise ValueError(f"Expected {name} with {n} rows, as many as inputs {tuple(inputs.shape)}, got {tuple(shape)}.")
        self.__dict__.update(inputs=inputs, state=state, logits=logits, value=value, episode_start=episode_start, action=action)

    def __len__(self) -> int:
        return self.inputs.shape[0]

    @property
    def copied(self) -> bool:
        """As of an `AgentPass`: False, it is not known whose the tensors are."""
        return False

    @property
    def numbers(self) -> Numbers:
        """As of an `AgentPass`: the outputs as they are now."""
        return numbers_of(self.logits, self.value)

    @staticmethod
    def of(seen: AgentPass | Decision, action: Tensor | None = None) -> Decision:
        """An independent copy of a pass, with this action: ordinary tensors, detached from the graph and from the caller's buffers."""
        return Captured(seen).decision(action)

    @staticmethod
    def by_reference(seen: AgentPass) -> Decision:
        """The pass itself, detached from the graph: its inputs may change when the agent runs again."""
        return Captured(seen, seen.inputs.detach()).decision()

    def copy(self) -> Decision:
        """An independent copy: ordinary tensors, detached from the graph and from the caller's buffers."""
        return Decision.of(self, None if self.action is None else copy_tensor(self.action))


class Captured:
    """What decided, copied at its step, in the forms that take least time then; `decision` makes the record of it.

    At a step the agent's pass has emptied the caches, and each call takes several times as long as in a loop. To read a small tensor as
    lists takes a fifth of the time of a copy and its array.
    """

    def __init__(self, seen: AgentPass | Decision, inputs: Tensor | None = None) -> None:
        """Copy a pass with policy output: the state unless it is a copy already, the inputs unless `inputs` are the copy."""
        logits, value, start = seen.logits, seen.value, seen.episode_start
        if logits is None:
            raise ValueError("Expected a pass with policy output, got one without logits.")
        self.inputs = copy_tensor(seen.inputs) if inputs is None else inputs
        """`(n, C, h, w)`."""
        self.state = seen.state if seen.copied else copy_state(seen.state)
        self.episode_start = None if start is None else copy_tensor(start)
        self.numbers = seen.numbers or numbers_of(logits, value)
        self.dtypes = logits.dtype, None if value is None else value.dtype
        """Of logits and value."""

    def decision(self, action: Tensor | int | None = None) -> Decision:
        """The decision, with this action: ordinary tensors, which nobody else changes."""
        (logits, value), dtypes, device = self.numbers, self.dtypes, self.inputs.device
        with torch.inference_mode(False):
            logits = torch.tensor(logits, dtype=dtypes[0], device=device)
            value = None if value is None else torch.tensor(value, dtype=dtypes[1], device=device)
            taken = torch.tensor([action]) if isinstance(action, int) else action
        return Decision(self.inputs, self.state, logits, value, self.episode_start, taken)


def decisions_of(captured: Sequence[Captured], actions: Sequence[int | None]) -> list[Decision]:
    """The `decision` of each, with its action. Outputs of one form become tensors together, in a quarter of the time."""
    if len(captured) > 1 and None not in actions:
        kinds = {(one.dtypes, one.inputs.device) for one in captured}
        try:
            (((logits_dtype, value_dtype), device),) = kinds
            logits, values = zip(*(one.numbers for one in captured), strict=True)
            with torch.inference_mode(False):
                parts = (
                    torch.tensor(logits, dtype=logits_dtype, device=device).unbind(),
                    [None] * len(captured) if value_dtype is None else torch.tensor(values, dtype=value_dtype, device=device).unbind(),
                    torch.tensor(actions).split(1),
                )
        except (TypeError, ValueError):  # of different forms
            pass
        else:
            rows = zip(captured, *parts, strict=True)
            return [Decision(one.inputs, one.state, logits, value, one.episode_start, action) for one, logits, value, action in rows]
    return [one.decision(action) for one, action in zip(captured, actions, strict=True)]


@dataclass(frozen=True, eq=False)
class SaliencyMaps:
    """Where one decision looked, on a raw scale: magnitudes compare across frames and episodes."""

    actor: Array
    """`(h, w)` float32 at network-input resolution, `>= 0` for squared differences; 0: perturbing this place changes no logit."""
    critic: Array | None
    """`(h, w)` float32 for the state value. None when the agent has no value output."""
    details: SaliencyDetails | None = None
    """What was asked for besides the maps. None: nothing."""

    @property
    def doubtful(self) -> bool:
        """Whether a confidence was asked for and says that there is nothing to explain."""
        return self.details is not None and self.details.doubtful

    def _repr_html_(self) -> str:
        """Return both maps as grey images, each from its own lowest to its highest value, for notebooks."""
        figures = ""
        for head, raw in (("actor", self.actor), ("critic", self.critic)):
            if raw is not None and raw.ndim in (2, 3):
                low, high = float(raw.min()), float(raw.max())
                image = f'<img alt="{head} map" width="240" style="image-rendering:pixelated" src="data:image/png;base64,{_grey_png(raw)}">'
                figures += f'<figure style="display:inline-block">{image}<figcaption>{head}, {low:.3g} to {high:.3g}</figcaption></figure>'
        return figures


@dataclass(frozen=True, eq=False, init=False)
class StepSaliency:
    """One decision with its place in time: the content of `info["saliency"]`."""

    episode: int
    """0-based, +1 at every reset after the first."""
    step: int
    """0-based, counted from each reset: the decision made on the frame before this step."""
    action: Any
    """The action handed to `env.step`: an int for discrete actions, an array otherwise."""
    logits: Array
    """`(num_actions,)` float32."""
    value: float | None
    """None when the agent has no value output."""
    maps: SaliencyMaps | None
    """None while deferred maps are pending."""
    environment: int = 0
    """Which environment of a vector."""

    def __init__(
        self,
        episode: int,
        step: int,
        action: Any,
        logits: Array,
        value: float | None,
        maps: SaliencyMaps | None,
        environment: int = 0,
    ) -> None:
        # At every step, amid the agent's own work: all at once, where a frozen dataclass sets one field after another.
        self.__dict__.update(episode=episode, step=step, action=action, logits=logits, value=value, maps=maps, environment=environment)

    def explained(self, maps: SaliencyMaps | None) -> StepSaliency:
        """The same decision with these maps."""
        return StepSaliency(self.episode, self.step, self.action, self.logits, self.value, maps, self.environment)

    def info(self) -> dict[str, Any]:
        """The dictionary that goes under `info["saliency"]`, of arrays that its reader may change."""
        content: dict[str, Any] = {
            "episode": self.episode,
            "step": self.step,
            "action": self.action if type(self.action) is int else _own_action(self.action),
        }
        if self.maps is None:
            content["pending"] = True
        else:
            content["actor"] = self.maps.actor.copy()
            content["critic"] = None if self.maps.critic is None else self.maps.critic.copy()
        content["logits"] = self.logits.copy()
        content["value"] = self.value
        if self.maps is not None and self.maps.details is not None:
            content |= self.maps.details.info()
        return content


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
    """A discrete action as an int, a dictionary, tuple or ragged list of actions as it is, any other as an array of its own."""
    if type(action) is int or isinstance(action, tuple | dict):
        return action
    try:
        array = np.array(action.detach().cpu().numpy() if isinstance(action, Tensor) else action)
    except ValueError:  # a ragged list
        return action
    return int(array.item()) if array.size == 1 and np.issubdtype(array.dtype, np.integer) else array


def _own_action(action: Any) -> Any:
    """A copy of the arrays and tensors of an action, in the same dictionaries and tuples."""
    if isinstance(action, np.ndarray):
        return cast("NDArray[Any]", action).copy()
    if isinstance(action, Tensor):
        return copy_tensor(action)
    if isinstance(action, dict):
        return {name: _own_action(part) for name, part in cast("dict[Any, Any]", action).items()}
    if isinstance(action, tuple):
        parts = [_own_action(part) for part in cast("tuple[Any, ...]", action)]
        make = getattr(type(action), "_make", tuple)
        return make(parts)
    return action


def _grey_png(raw: Array) -> str:
    """A map as a PNG file in base64; of maps per frame, the largest value at each pixel."""
    flat = np.nan_to_num(raw if raw.ndim == 2 else raw.max(axis=0)).astype(np.float64)
    span = float(flat.max() - flat.min()) or 1.0
    grey = np.rint((flat - flat.min()) * (255 / span)).astype(np.uint8)
    return base64.b64encode(cv2.imencode(".png", grey)[1].tobytes()).decode()


def numbers_of(logits: Tensor | None, value: Tensor | None) -> Numbers:
    """The numbers of an agent's outputs."""
    return None if logits is None else logits.tolist(), None if value is None else value.tolist()


def row_of(numbers: Numbers, row: int) -> tuple[Array, float | None]:
    """One row of an agent's outputs: logits `(num_actions,)` and the value; `ValueError` for more than one number as value."""
    logits, value = numbers
    number: Any = None if value is None else value[row]
    while type(number) is list:
        if len(number) != 1:
            raise ValueError(f"Expected one value in each row, got {number}.")
        number = number[0]
    return np.array(logits[row], np.float32), number


def array_of(tensor: Tensor) -> NDArray[Any]:
    """A tensor's numbers, not copied where they are NumPy's already."""
    try:
        return tensor.numpy()
    except (RuntimeError, TypeError):  # with gradient history, or on another device; NumPy has no bfloat16
        tensor = tensor.detach().cpu()
        return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
