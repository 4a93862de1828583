"""`AgentAdapter`: what the toolkit needs of an agent; helpers that every family of adapters shares.

`observe` sees the passes of a module, `undisturbed` runs a module and leaves it as it was found, `split_rows` takes a batched decision
apart.
"""

from __future__ import annotations

import sys
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from saliency_wrappers.records import AgentPass, Decision, StateTree, map_state, state_leaves


@dataclass(frozen=True)
class UnreadPass:
    """A pass of the agent that its adapter could not read."""

    reason: str
    """To follow a count: `"of another form than ..."`, `"that could not be captured: ..."`."""


OnPass = Callable[[AgentPass | UnreadPass], None]


@runtime_checkable
class AgentAdapter(Protocol):
    """How the toolkit talks to one family of agents. `saliency_wrappers.testing.check_adapter` checks an implementation."""

    @property
    def input_range(self) -> tuple[float, float]:
        """The lowest and highest value of a network input: `(0.0, 1.0)` or `(0.0, 255.0)`."""
        ...

    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Run the agent once, without side effects: nothing is recorded, no flag, buffer or random state changes.

        Args:
            inputs: `(n, C, h, w)`, in `input_range`.
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
        """The state in which n episodes begin. None for an agent without memory."""
        ...

    def repeat_state(self, state: StateTree, n: int) -> StateTree:
        """Each row of the state n times in a row (`repeat_interleave` along this family's batch axis)."""
        ...


@runtime_checkable
class ActingAdapter(AgentAdapter, Protocol):
    """An adapter that can also act: `RecurrentAgentHook.act` needs it."""

    def act(self, inputs: Tensor, state: StateTree) -> tuple[Tensor, StateTree]:
        """Run the agent as its user would, seen by hooks: logits `(n, num_actions)` and the next state."""
        ...


def split_rows(adapter: AgentAdapter, decision: Decision) -> list[Decision]:
    """One decision of n rows as n decisions of one row. The batch axes of the state are those in which initial states grow with n."""
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
    """The batch axis of each tensor of an agent's state: the one in which initial states grow with the number of episodes."""
    one, two = (list(state_leaves(adapter.initial_state(n))) for n in (1, 2))
    grown = [[axis for axis in range(a.ndim) if a.shape[axis] != b.shape[axis]] for a, b in zip(one, two, strict=True)]
    if any(len(axes) != 1 for axes in grown):
        shapes = [(tuple(a.shape), tuple(b.shape)) for a, b in zip(one, two, strict=True)]
        raise ValueError(f"Expected initial_state(n) to grow with n along one axis of each tensor, got {shapes} for n = 1 and 2.")
    return [axis for (axis,) in grown]


class PassReader(Protocol):
    """How an adapter reads the calls of its module. What it raises makes an `UnreadPass`, and never reaches the caller of the module."""

    @property
    def form(self) -> str:
        """The call that it reads, in words: `"model((x, state)) -> value, logits, state"`."""
        ...

    def incoming(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AgentPass | None:
        """The pass before it happens: inputs by reference, the state copied, no outputs. None for a call of another form."""
        ...

    def outgoing(self, incoming: AgentPass, output: Any) -> AgentPass | None:
        """The pass with its outputs, copied; without logits when there are none (a value-only call). None for an output of another form."""
        ...


def observe(module: nn.Module, reader: PassReader, on_pass: OnPass) -> Callable[[], None]:
    """Call `on_pass` after each forward pass of `module` itself (not of copies of it), until the returned function is called."""
    observer = _Observer(module, reader, on_pass)
    before, after = cast("tuple[Callable[..., None], ...]", (_BeforePass(observer), _AfterPass(observer)))
    handles = (
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after, with_kwargs=True, always_call=True),  # also when the pass fails
    )

    def detach() -> None:
        for handle in handles:
            handle.remove()

    return detach


@contextmanager
def undisturbed(module: nn.Module) -> Generator[None]:
    """Run a module for replay: evaluation mode, no gradients, unseen by every hook of ours; everything is restored at the end."""
    training = [part for part in module.modules() if part.training]
    devices = sorted({parameter.device.index or 0 for parameter in module.parameters() if parameter.device.type == "cuda"})
    before = _replay.active
    _replay.active = True
    for part in training:
        part.training = False
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        for part in training:
            part.training = True
        _replay.active = before


class _Replay(threading.local):
    active = False


_replay = _Replay()


class _Passes(threading.local):
    """What was seen to go in, of the passes that this thread is in the middle of. None for a pass that is not watched."""

    def __init__(self) -> None:
        self.begun: list[AgentPass | UnreadPass | None] = []


class _Observer:
    """Joins what a pre-hook saw of a pass with what the forward hook sees of it."""

    def __init__(self, module: nn.Module, reader: PassReader, on_pass: OnPass) -> None:
        self._module = weakref.ref(module)
        self._reader = reader
        self._on_pass = on_pass
        self._passes = _Passes()

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        watched = not _replay.active and module is self._module()
        self._passes.begun.append(self._read(lambda: self._reader.incoming(args, kwargs)) if watched else None)

    def after(self, output: Any) -> None:
        incoming = self._passes.begun.pop() if self._passes.begun else None
        if incoming is None or output is None:  # not watched; failed
            return
        self._on_pass(incoming if isinstance(incoming, UnreadPass) else self._read(lambda: self._reader.outgoing(incoming, output)))

    def _read(self, read: Callable[[], AgentPass | None]) -> AgentPass | UnreadPass:
        try:
            found = read()
        except Exception as error:  # it would come out of the user's own call of the module
            return UnreadPass(f"that could not be captured: {error}")
        return found or UnreadPass(f"of another form than {self._reader.form}")


class _Hook(ABC):
    """A forward hook that can be copied and pickled with its module: the copy does nothing. `torch.compile` does not trace it."""

    def __init__(self, observer: _Observer | None) -> None:
        self._observer = observer
        self._untraced: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (None,)

    @property
    def __call__(self) -> Callable[..., None]:
        # Decided at each call: importing torch._dynamo takes seconds, and without it nothing is compiled. A property without tensors, and
        # without the name `torch`, because dynamo compiles any frame that has one of them.
        dynamo = sys.modules.get("torch._dynamo")
        if dynamo is None:
            return self._see
        if self._untraced is None:
            self._untraced = dynamo.disable(self._see)
        return self._untraced

    @abstractmethod
    def _see(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any = None) -> None:
        """Tell the observer."""


class _BeforePass(_Hook):
    def _see(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any = None) -> None:
        if self._observer is not None:
            self._observer.before(module, args, kwargs)


class _AfterPass(_Hook):
    def _see(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any = None) -> None:
        if self._observer is not None:
            self._observer.after(output)
