"""Watching modules: `observe` sees their forward passes, `outputs_of` what their layers give.

`undisturbed` runs a module unseen and leaves it as it was found, `with_gradients` lets it be differentiated.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from saliency_wrappers.agents.base import OnPass, UnreadPass
from saliency_wrappers.agents.torchscript import WatchesModule, not_watched, scriptable
from saliency_wrappers.decisions import AgentPass
from saliency_wrappers.states import copy_tensor


class PassReader(Protocol):
    """Reads the calls of a module. An exception becomes an `UnreadPass` and never reaches the caller of the module."""

    @property
    def form(self) -> str:
        """Description of the call that it reads: `"model((x, state)) -> value, logits, state"`."""
        ...

    def incoming(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AgentPass | None:
        """Return the pass before it runs: inputs by reference, the state copied, no outputs. None for a call of another form."""
        ...

    def outgoing(self, incoming: AgentPass, output: Any) -> AgentPass | None:
        """Return the same pass with its outputs; without logits for a value-only call. None for an output of another form."""
        ...


def observe(module: nn.Module, reader: PassReader, on_pass: OnPass) -> Callable[[], None]:
    """Call `on_pass` after each forward pass of `module` itself (not of copies of it), until the returned function is called."""
    observer = _Observer(module, reader, on_pass)
    before, after = cast("tuple[Callable[..., None], ...]", (_Hook(observer.before), _Hook(observer.after)))
    handles = (
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after, with_kwargs=True, always_call=True),  # also when the pass fails
    )
    scriptable(module)
    watched = weakref.ref(module)

    def detach() -> None:
        for handle in handles:
            handle.remove()
        not_watched(watched())

    return detach


@contextmanager
def outputs_of(**layers: nn.Module) -> Generator[dict[str, Any]]:
    """Collect the last output of each layer within the block, in this thread, by the given names; tensors as ordinary copies."""
    outputs: dict[str, Any] = {}
    thread = threading.get_ident()

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def after(layer: nn.Module, args: Any, output: Any) -> None:
            if threading.get_ident() == thread:
                outputs[name] = _copy(output) if isinstance(output, Tensor) else output

        return after

    handles = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def undisturbed(module: nn.Module) -> Generator[None]:
    """Run a module for replay: evaluation mode, unseen by every hook of ours, and without gradients unless within `with_gradients`.

    Everything is restored at the end.
    """
    training = [part for part in module.modules() if part.training]
    devices = sorted({parameter.device.index or 0 for parameter in module.parameters() if parameter.device.type == "cuda"})
    thread = threading.get_ident()
    already = thread in _replaying
    _replaying.add(thread)
    for part in training:
        part.training = False
    try:
        without = nullcontext() if thread in _differentiating else torch.inference_mode()
        with without, torch.random.fork_rng(devices=devices):
            yield
    finally:
        for part in training:
            part.training = True
        if not already:
            _replaying.discard(thread)


@contextmanager
def with_gradients() -> Generator[None]:
    """Within this block, `evaluate` of an adapter returns outputs that can be differentiated by its inputs, in this thread."""
    thread = threading.get_ident()
    already = thread in _differentiating
    _differentiating.add(thread)
    try:
        # cuDNN differentiates recurrent layers in training mode only.
        with torch.inference_mode(False), torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        if not already:
            _differentiating.discard(thread)


def _copy(output: Tensor) -> Tensor:
    """Return an ordinary copy; within `with_gradients` one that is part of the graph."""
    return output.clone() if threading.get_ident() in _differentiating else copy_tensor(output)


def replaying() -> bool:
    """Whether this thread is within an `undisturbed` block: then nothing is to be seen."""
    return threading.get_ident() in _replaying


def read_pass(form: str, read: Callable[..., AgentPass | UnreadPass | None], *what: Any) -> AgentPass | UnreadPass:
    """Return what a reader finds in a call, or an `UnreadPass` with the reason."""
    try:
        return read(*what) or _another_form(form)
    except Exception as error:  # it would come out of the user's own call of the agent
        return _unreadable(error)


def _another_form(form: str) -> UnreadPass:
    return UnreadPass(f"of another form than {form}")


def _unreadable(error: Exception) -> UnreadPass:
    return UnreadPass(f"that could not be captured: {error}")


tracing = torch._C._get_tracing_state  # pyright: ignore
"""Of `torch.jit.trace`, which would record what we do with the tensors."""
_replaying: set[int] = set()
"""The threads within an `undisturbed` block."""
_differentiating: set[int] = set()
"""The threads within a `with_gradients` block."""


class InputsBefore:
    """Keeps inputs as they were before the pass, for agents that modify them in place, as by `x /= 255`.

    Inputs are held by reference, which costs nothing: that an agent leaves them as they are is seen at its first pass.
    """

    def __init__(self) -> None:
        self.stay = False
        """Whether the agent is known to leave its inputs as they are: then there is nothing to do."""
        self._change = False

    def keep(self, incoming: AgentPass | UnreadPass | None) -> AgentPass | UnreadPass | None:
        """Replace the inputs of a pass by a copy, before it runs. Returns the pass."""
        if not self.stay and isinstance(incoming, AgentPass):
            incoming.given, incoming.inputs = incoming.inputs, copy_tensor(incoming.inputs)
        return incoming

    def compare(self, incoming: AgentPass) -> AgentPass:
        """Compare the inputs after a pass; unchanged ones are held by reference again. Returns the pass."""
        given, incoming.given = incoming.given, None
        if self._change or given is None:
            return incoming
        if _same_numbers(given, incoming.inputs):
            incoming.inputs, self.stay = given, True
        else:
            self._change = True
        return incoming


def _same_numbers(now: Tensor, before: Tensor) -> bool:
    """Whether a tensor is what it was; NaN counts as equal to itself."""
    return now.shape == before.shape and bool(torch.equal(now, before) or ((now == before) | ((now != now) & (before != before))).all())


def _calls_in_progress(module: nn.Module) -> int:
    """Count the calls of a module that this thread is in. It walks the whole stack and is slow."""
    count, frame = 0, sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        count += frame.f_code is _CALL and frame.f_locals.get("self") is module
        frame = frame.f_back
    return count


_CALL = nn.Module._call_impl.__code__  # pyright: ignore[reportPrivateUsage]


class _Passes(threading.local):
    """The incoming passes that this thread is in. None for a pass that is not observed."""

    def __init__(self) -> None:
        self.begun: list[AgentPass | UnreadPass | None] = []


class _Observer:
    """Joins the inputs that a forward pre-hook saw with the outputs that the forward hook sees."""

    def __init__(self, module: nn.Module, reader: PassReader, on_pass: OnPass) -> None:
        self._module = weakref.ref(module)
        self._reader = reader
        self._on_pass = on_pass
        self._passes = _Passes()
        self._inputs = InputsBefore()

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        if kwargs is None:  # detached since this call began: torch no longer knows that the hook takes them
            return
        incoming: AgentPass | UnreadPass | None = None
        if module is self._module() and not (_replaying and replaying()) and not tracing():  # mostly there is none, and nothing to look up
            try:  # as `read_pass` does it, whose call takes longer
                incoming = self._reader.incoming(args, kwargs) or _another_form(self._reader.form)
                if not self._inputs.stay:
                    self._inputs.keep(incoming)
            except Exception as error:
                incoming = _unreadable(error)
        begun = self._passes.begun
        if begun:  # passes around this one, or passes that an interrupt ended: for those torch calls no hook
            del begun[max(_calls_in_progress(module) - 1, 0) :]
        begun.append(incoming)

    def after(self, module: nn.Module, args: tuple[Any, ...], *kwargs_and_output: Any) -> None:
        if len(kwargs_and_output) < 2:  # detached, as in `before`
            return
        output = kwargs_and_output[1]
        begun = self._passes.begun
        if len(begun) > 1:
            del begun[_calls_in_progress(module) :]
        incoming = begun.pop() if begun else None
        if incoming is None or output is None:  # not watched; failed
            return
        seen: AgentPass | UnreadPass = incoming
        if isinstance(incoming, AgentPass):
            try:
                if not self._inputs.stay:
                    self._inputs.compare(incoming)
                seen = self._reader.outgoing(incoming, output) or _another_form(self._reader.form)
            except Exception as error:
                seen = _unreadable(error)
        self._on_pass(seen)


class Untraced:
    """A callable within an agent's code that `torch.compile` does not trace; a call runs `_see`."""

    _see: Callable[..., Any]
    """What a call does."""

    def __init__(self) -> None:
        self._untraced: Any = None

    @property
    def __call__(self) -> Callable[..., Any]:
        """Call `_see` outside of the compiled graph."""
        # Decided at each call: importing torch._dynamo takes seconds, and without it nothing is compiled. A property without tensors, and
        # without the name `torch`, because dynamo compiles any frame that has one of them.
        dynamo = sys.modules.get("torch._dynamo")
        if dynamo is None:
            return self._see
        if self._untraced is None:
            self._untraced = dynamo.disable(self._see)
        return self._untraced


class _Hook(Untraced, WatchesModule):
    """A forward hook that can be copied and pickled with its module; the copy does nothing."""

    def __init__(self, see: Callable[..., None] | None) -> None:
        super().__init__()
        self._see = _nothing if see is None else see

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (None,)


def _nothing(*_: Any) -> None:
    """Do nothing: the hook of a copy."""
