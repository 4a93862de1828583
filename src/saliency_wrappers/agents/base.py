"""`AgentAdapter`: what the toolkit needs of an agent; helpers for states and their batch axes that families of adapters share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol, TypeGuard, cast, runtime_checkable

from torch import Tensor, nn

from saliency_wrappers.decisions import AgentPass, Decision
from saliency_wrappers.states import StateTree, copy_state, copy_tensor, map_state, state_leaves


@dataclass(frozen=True)
class UnreadPass:
    """A forward pass that the adapter could not read."""

    reason: str
    """To follow a count: `"of another form than ..."`, `"that could not be captured: ..."`."""


OnPass = Callable[[AgentPass | UnreadPass], None]

PolicyForm = Literal["logits", "gaussian", "numbers"]
"""How the policy output describes a policy: `"logits"` of one categorical choice; `"gaussian"`: means and logarithms of standard deviations
side by side, `(n, 2 * action_size)`; `"numbers"`: anything else, such as Q-values or the action of a deterministic policy."""


@dataclass(frozen=True)
class ImageOptions:
    """Options of an agent's images, as the user gives them. None: the adapter decides."""

    input_range: tuple[float, float] | None = None
    """The lowest and highest value of the images."""
    image: str | None = None
    """The key of the image in a dictionary of observations."""
    channels_last: bool | None = None
    """Whether images are `(n, h, w, C)`."""

    def __post_init__(self) -> None:
        if self.input_range is not None and not self.input_range[0] < self.input_range[1]:
            raise ValueError(f"Expected input_range as (low, high) with low < high, got {self.input_range}.")

    @property
    def given(self) -> dict[str, Any]:
        """Return the options that are not None, by name."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}

    def without_image(self, agent: Any) -> dict[str, Any]:
        """Return the options that are not None, for an agent without dictionary observations; `ValueError` where `image` is given."""
        if self.image is not None:
            raise ValueError(
                f"Expected a policy of Stable-Baselines3 with a dictionary of observations for image={self.image!r}, got "
                f"{type(agent).__name__}. Hook a FunctionAdapter with image=... instead."
            )
        return self.given


@runtime_checkable
class AgentAdapter(Protocol):
    """Interface between the toolkit and one family of agents. `saliency_wrappers.testing.check_adapter` checks an implementation."""

    @property
    def input_range(self) -> tuple[float, float]:
        """The lowest and highest value of an image: `(0.0, 1.0)` or `(0.0, 255.0)`. Vectors are in units of their own, of any range."""
        ...

    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Run the agent once, without side effects: nothing is recorded, no flag, buffer or random state changes.

        Args:
            inputs: images `(n, C, h, w)`, in `input_range`, or vectors `(n, features)`.
            state: the incoming state of n rows. None for an agent without memory.
            episode_start: `(n,)` bool, True where an episode begins. None when the agent is not told.

        Returns:
            Logits `(n, num_actions)`, and values `(n,)` or `(n, 1)`; None when the agent has no value output.
        """
        ...

    def attach(self, on_pass: OnPass) -> Callable[[], None]:
        """Call `on_pass` after every pass of the agent, until the function that is returned is called."""
        ...

    def initial_state(self, n: int) -> StateTree:
        """Return the state in which n episodes begin. None for an agent without memory."""
        ...

    def repeat_state(self, state: StateTree, n: int) -> StateTree:
        """Repeat each row of the state n times (`repeat_interleave` along the batch axis)."""
        ...


@runtime_checkable
class ActingAdapter(AgentAdapter, Protocol):
    """An adapter that can act, as `RecurrentAgentHook.act` requires."""

    def act(self, inputs: Tensor, state: StateTree) -> tuple[Tensor, StateTree]:
        """Run the agent as its user would, seen by hooks: logits `(n, num_actions)` and the next state."""
        ...


def is_network_input(candidate: object) -> TypeGuard[Tensor]:
    """Return whether this is a batch of network inputs: images `(n, C, h, w)`, or vectors `(n, features)`."""
    return isinstance(candidate, Tensor) and candidate.ndim in (2, 4)


def policy_form(adapter: AgentAdapter) -> PolicyForm:
    """Return how the adapter's policy output is read: its attribute `policy_form`; `"logits"` where it has none."""
    return getattr(adapter, "policy_form", "logits")


def split_rows(adapter: AgentAdapter, decision: Decision) -> list[Decision]:
    """Split a decision of n rows into n decisions of one row, along the axes of the state in which initial states grow with n."""
    if len(decision) == 1:
        return [decision]
    axes = batch_axes(adapter) if decision.state is not None else []

    def row(tensor: Tensor | None, i: int) -> Tensor | None:
        return None if tensor is None else tensor[i : i + 1]

    def state_row(i: int) -> StateTree:
        axis = iter(axes)
        return map_state(lambda leaf: leaf.narrow(next(axis), i, 1), decision.state)

    return [
        replace(
            decision,
            inputs=decision.inputs[i : i + 1],
            state=state_row(i),
            logits=decision.logits[i : i + 1],
            value=row(decision.value, i),
            episode_start=row(decision.episode_start, i),
            action=row(decision.action, i),
        )
        for i in range(len(decision))
    ]


def batch_axes(adapter: AgentAdapter) -> list[int]:
    """Return the batch axis of each tensor of an agent's state: the one along which initial states grow with the number of episodes."""
    one, two = (list(state_leaves(adapter.initial_state(n))) for n in (1, 2))
    grown = [[axis for axis in range(a.ndim) if a.shape[axis] != b.shape[axis]] for a, b in zip(one, two, strict=True)]
    if any(len(axes) != 1 for axes in grown):
        shapes = [(tuple(a.shape), tuple(b.shape)) for a, b in zip(one, two, strict=True)]
        raise ValueError(f"Expected initial_state(n) to grow with n along one axis of each tensor, got {shapes} for n = 1 and 2.")
    return [axis for (axis,) in grown]


def repeat_rows(adapter: AgentAdapter, state: StateTree, n: int) -> StateTree:
    """Repeat each row of each tensor n times along its batch axis (the first axis where initial states have other tensors)."""
    axes = batch_axes(adapter)
    known = len(axes) == len(list(state_leaves(state)))
    axis = iter(axes)
    return map_state(lambda leaf: leaf.repeat_interleave(n, dim=next(axis) if known else 0), state)


def without_lists(state: Any) -> StateTree:
    """Return the state with tuples instead of lists, which cannot be changed in place."""
    if isinstance(state, Tensor):
        return state
    if isinstance(state, list):
        return tuple(without_lists(branch) for branch in cast("list[Any]", state))
    if type(state) is tuple:
        return tuple(without_lists(branch) for branch in cast("tuple[Any, ...]", state))
    if isinstance(state, Mapping):
        return {name: without_lists(branch) for name, branch in cast("Mapping[str, Any]", state).items()}
    return state


def copy_without_lists(state: Any) -> StateTree:
    """Return `copy_state(without_lists(state))`, at every pass in half of the calls."""
    if isinstance(state, Tensor):
        return copy_tensor(state)
    if type(state) is tuple or type(state) is list:
        return tuple([copy_without_lists(branch) for branch in cast("tuple[Any, ...]", state)])
    return copy_state(without_lists(state))


def zero_state(module: nn.Module, n: int) -> StateTree:
    """Return zeros for n episodes, sized for a module's only LSTM or GRU (cell); `TypeError` when it has none or several."""
    cells = [part for part in module.modules() if isinstance(part, nn.LSTMCell | nn.GRUCell | nn.LSTM | nn.GRU)]
    if len(cells) != 1:
        raise TypeError(
            f"Expected {type(module).__name__} to have initial_state(n) or exactly one LSTMCell, GRUCell, LSTM or GRU, "
            f"found {len(cells)} cells. Give the module an initial_state method."
        )
    (cell,) = cells
    weight = next(cell.parameters())
    if isinstance(cell, nn.LSTM | nn.GRU):
        layers = cell.num_layers * (2 if cell.bidirectional else 1)
        zeros = weight.new_zeros(layers, n, cell.proj_size or cell.hidden_size)
        return (zeros, weight.new_zeros(layers, n, cell.hidden_size)) if isinstance(cell, nn.LSTM) else zeros
    zeros = weight.new_zeros(n, cell.hidden_size)
    return (zeros, zeros.clone()) if isinstance(cell, nn.LSTMCell) else zeros


def advice_for(agent: Any) -> str:
    """Return advice for an agent whose passes cannot be read, or that acts by a method that is not observed."""
    methods = [name for name in _METHODS if callable(getattr(type(agent), name, None))]
    named = f', method="{methods[0]}"' if methods else ""
    return (
        "Hook QNetworkAdapter(model) for module(x) -> logits, and "
        f"FunctionAdapter(agent, evaluate=...{named}) for any other form, such as an agent that acts by a method."
    )


_METHODS = ("get_action", "act", "select_action", "choose_action", "sample_action", "get_action_and_value", "predict")
"""Methods by which agents usually act, other than a call of the module."""


def acts_by_method(agent: Any) -> bool:
    """Whether an agent has a method with a usual name for acting."""
    return any(callable(getattr(type(agent), name, None)) for name in _METHODS)
