"""Agents that act by methods of their own: `observe_calls` sees the calls, as a `CallReader` reads them."""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

from torch import nn

from saliency_wrappers.agents.base import OnPass, UnreadPass
from saliency_wrappers.agents.module_hooks import InputsBefore, Untraced, outputs_of, read_pass, replaying, tracing
from saliency_wrappers.agents.torchscript import WatchesModule, not_watched, scriptable
from saliency_wrappers.decisions import AgentPass


class CallReader(Protocol):
    """Reads the calls of an agent's methods. An exception becomes an `UnreadPass` and never reaches the caller."""

    @property
    def form(self) -> str:
        """Description of the calls that it reads: `"agent.get_action_and_value(x)"`."""
        ...

    @property
    def layers(self) -> Mapping[str, nn.Module]:
        """Return the layers whose outputs the call itself does not return, by a name that the reader chooses."""
        ...

    def entering(self, method: str, call: inspect.BoundArguments) -> AgentPass | None:
        """Return the pass before it runs, as `PassReader.incoming`; arguments have the names of the method's definition."""
        ...

    def leaving(self, method: str, incoming: AgentPass, output: Any, layers: Mapping[str, Any]) -> AgentPass | None:
        """Return the same pass with its outputs, as `PassReader.outgoing`; `layers`: copies of the outputs of those that ran, by name."""
        ...


def observe_calls(owner: Any, methods: Sequence[str], reader: CallReader, on_pass: OnPass) -> Callable[[], None]:
    """Call `on_pass` after each call of these methods of `owner` (not of copies of it), until the returned function is called.

    For agents that act by other methods than `forward`, or by several. A call within another one, in the same thread, is part of it and
    is not seen by itself. A call that fails is not seen, nor one by way of a bound method that was looked up before.
    """
    observer = _CallObserver(reader, on_pass)
    taps = [_Tap.on(owner, method) for method in methods]
    for tap in taps:
        tap.observers = (*tap.observers, observer)
    scriptable(owner)

    def detach() -> None:
        for tap in taps:
            tap.leave(observer)

    return detach


class _CallObserver:
    """Observes the outermost calls of an agent's methods."""

    def __init__(self, reader: CallReader, on_pass: OnPass) -> None:
        self._reader = reader
        self._on_pass = on_pass
        self._now = _Now()
        self._inputs = InputsBefore()

    def see(self, name: str, signature: inspect.Signature, method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Make the call and report it."""
        if self._now.within:
            return method(*args, **kwargs)
        reader, form, inputs = self._reader, self._reader.form, self._inputs
        incoming = read_pass(form, lambda: inputs.keep(reader.entering(name, signature.bind(*args, **kwargs))))
        self._now.within = True
        try:
            with outputs_of(**reader.layers) as layers:
                output = method(*args, **kwargs)
        finally:
            self._now.within = False
        if not isinstance(incoming, UnreadPass):
            begun = incoming
            incoming = read_pass(form, lambda: reader.leaving(name, inputs.compare(begun), output, layers))
        self._on_pass(incoming)
        return output


class _Now(threading.local):
    within = False


class _Tap(Untraced, WatchesModule):
    """Replaces a method of one agent so that observers see its calls. Copies of the agent have the original method."""

    def __init__(self, owner: Any, name: str) -> None:
        super().__init__()
        self._owner = weakref.ref(owner)
        self._name = name
        self._instead_of = vars(owner).get(name)
        self.observers: tuple[_CallObserver, ...] = ()
        """Replaced, never changed: a call that goes through them is not disturbed."""
        self._signature = inspect.signature(self._method(owner))
        functools.update_wrapper(cast("Any", self), self._method(owner))

    @staticmethod
    def on(owner: Any, name: str) -> _Tap:
        """Return the tap on a method, which all observers of the agent share."""
        tap = vars(owner).get(name)
        if not isinstance(tap, _Tap):
            tap = vars(owner)[name] = _Tap(owner, name)
        return tap

    def leave(self, observer: _CallObserver) -> None:
        """Remove an observer; with the last one the original method is restored."""
        self.observers = tuple(other for other in self.observers if other is not observer)
        owner = self._owner()
        if owner is None or self.observers or vars(owner).get(self._name) is not self:
            return
        del vars(owner)[self._name]
        if self._instead_of is not None:
            vars(owner)[self._name] = self._instead_of
        not_watched(owner)

    @property
    def original(self) -> Any:
        """The instance attribute that the tap replaced. None: the method of the class."""
        return self._instead_of

    def _see(self, *args: Any, **kwargs: Any) -> Any:
        call: Callable[..., Any] = self._method(self._owner())
        for observer in () if replaying() or tracing() else self.observers:
            call = functools.partial(observer.see, self._name, self._signature, call)
        return call(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_itself, (self._instead_of,)) if self._instead_of is not None else (getattr, (self._owner(), self._name))

    def _method(self, owner: Any) -> Callable[..., Any]:
        if self._instead_of is not None:
            return self._instead_of
        return inspect.getattr_static(type(owner), self._name).__get__(owner, type(owner))


def _itself(attribute: Any) -> Any:
    return attribute
