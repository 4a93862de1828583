"""The records that travel between stages, and helpers for trees of recurrent state.

`AgentPass` is one forward pass as an adapter saw it, `Decision` the pass that chose an action, `SaliencyMaps` what it looked at,
`StepSaliency` all of it with its place in time: what `info["saliency"]`, videos and stores are made from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

StateTree = Tensor | tuple["StateTree", ...] | Mapping[str, "StateTree"] | None
"""A recurrent state: a tensor, a tuple or NamedTuple of states, a mapping of states, or None for an agent without memory."""

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class AgentPass:
    """One forward pass of the agent, as its adapter saw it. Tensors are references; the state is a copy made before the pass."""

    inputs: Tensor
    """What the network consumed, `(n, C, h, w)`."""
    state: StateTree
    """The incoming state. None for an agent without memory."""
    logits: Tensor | None
    """The policy output, `(n, num_actions)`. None when the pass gave no policy output (a value-only call)."""
    value: Tensor | None
    """The state value, `(n,)` or `(n, 1)`. None when the agent has no value output."""
    episode_start: Tensor | None = None
    """`(n,)` bool, True where an episode begins. None when the agent is not told."""
    scored_action: bool = False
    """True when the pass was given an action to score (`evaluate_actions`): never a decision."""

    @property
    def batch(self) -> int:
        """The number of rows, n."""
        return len(self.inputs)


@dataclass(frozen=True, eq=False)
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

    def __post_init__(self) -> None:
        n = len(self.inputs)
        for name in ("logits", "value", "episode_start", "action"):
            tensor: Tensor | None = getattr(self, name)
            if tensor is not None and tensor.shape[:1] != (n,):
                raise ValueError(f"Expected {name} with {n} rows, as many as inputs {tuple(self.inputs.shape)}, got {tuple(tensor.shape)}.")

    def __len__(self) -> int:
        return len(self.inputs)

    @staticmethod
    def of(seen: AgentPass) -> Decision:
        """An independent copy of a pass: ordinary tensors, detached from the graph and from the caller's buffers."""
        return Decision.by_reference(seen).copy()

    @staticmethod
    def by_reference(seen: AgentPass) -> Decision:
        """The pass itself, detached from the graph: its tensors may change when the agent runs again."""
        if seen.logits is None:
            raise ValueError("Expected a pass with policy output, got one without logits.")
        value = None if seen.value is None else seen.value.detach()
        return Decision(seen.inputs.detach(), seen.state, seen.logits.detach(), value, seen.episode_start)

    def copy(self) -> Decision:
        """An independent copy: ordinary tensors, detached from the graph and from the caller's buffers."""
        return Decision(
            inputs=copy_tensor(self.inputs),
            state=copy_state(self.state),
            logits=copy_tensor(self.logits),
            value=None if self.value is None else copy_tensor(self.value),
            episode_start=None if self.episode_start is None else copy_tensor(self.episode_start),
            action=None if self.action is None else copy_tensor(self.action),
        )


@dataclass(frozen=True, eq=False)
class SaliencyMaps:
    """Where one decision looked, on a raw scale: magnitudes compare across frames and episodes."""

    actor: Array
    """`(h, w)` float32 at network-input resolution, `>= 0` for squared differences; 0: perturbing this place changes no logit."""
    critic: Array | None
    """`(h, w)` float32 for the state value. None when the agent has no value output."""


@dataclass(frozen=True, eq=False)
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

    def info(self) -> dict[str, Any]:
        """The dictionary that goes under `info["saliency"]`, of arrays that its reader may change."""
        content: dict[str, Any] = {"episode": self.episode, "step": self.step, "action": _own_action(self.action)}
        if self.maps is None:
            content["pending"] = True
        else:
            critic = None if self.maps.critic is None else self.maps.critic.copy()
            content |= {"actor": self.maps.actor.copy(), "critic": critic}
        return content | {"logits": self.logits.copy(), "value": self.value}


def plain_action(action: Any) -> Any:
    """A discrete action as an int, a dictionary or tuple of actions as it is, any other as an array of its own."""
    if type(action) is int or isinstance(action, tuple | dict):
        return action
    array = np.array(action.detach().cpu().numpy() if isinstance(action, Tensor) else action)
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


def copy_tensor(tensor: Tensor) -> Tensor:
    """An ordinary copy (never an inference tensor), without gradient history."""
    if not (tensor.is_inference() or torch.is_inference_mode_enabled()):
        return tensor.detach().clone()  # a third of the time that entering and leaving the two modes takes
    with torch.inference_mode(False), torch.no_grad():
        return tensor.detach().clone() if not tensor.is_inference() else tensor.clone()


def row_of(tensor: Tensor, row: int) -> Array:
    """One row of a tensor, as an array of its own."""
    if tensor.requires_grad or not tensor.is_cpu or tensor.dtype is not torch.float32:
        tensor = tensor.detach().float().cpu()
    return tensor.numpy()[row].copy()


def map_state(function: Callable[[Tensor], Tensor], state: StateTree) -> StateTree:
    """Apply `function` to every tensor of a state, keeping its structure (NamedTuple types included)."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, Mapping):
        return {name: map_state(function, branch) for name, branch in state.items()}
    if isinstance(state, tuple):
        branches = [map_state(function, branch) for branch in state]
        make = getattr(type(state), "_make", tuple)
        return make(branches)
    raise TypeError(_NO_STATE.format(type(state).__name__))


def state_leaves(state: StateTree) -> Iterator[Tensor]:
    """The tensors of a state, in order; none for None."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping):
        for branch in state.values():
            yield from state_leaves(branch)
    elif isinstance(state, tuple):
        for branch in state:
            yield from state_leaves(branch)
    elif state is not None:
        raise TypeError(_NO_STATE.format(type(state).__name__))


def copy_state(state: StateTree) -> StateTree:
    """An independent copy of a state, of ordinary tensors."""
    return map_state(copy_tensor, state)


_NO_STATE = "Expected a recurrent state made of tensors, tuples, mappings or None, got {}."
