"""`AgentMemo`: values that were found out about agents, forgotten together with the agent."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class AgentMemo(Generic[T]):
    """Maps `(agent adapter, key)` to a value without keeping the adapter alive.

    Adapters are told apart by identity: they need not be hashable. Of adapters that do not support weak references only the latest is kept,
    by a strong reference. A copy or an unpickled memo is empty, since measurements do not hold for another process.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Callable[[], object], dict[Hashable, T]]] = {}

    def __reduce__(self) -> tuple[type[AgentMemo[Any]], tuple[()]]:
        return AgentMemo, ()

    def __len__(self) -> int:
        """Return the number of agents with values."""
        return len(self._known)

    def get(self, adapter: object, key: Hashable) -> T | None:
        """Return the value, or None where there is none."""
        alive, values = self._known.get(id(adapter), (None, {}))
        return values.get(key) if alive is not None and alive() is adapter else None

    def put(self, adapter: object, key: Hashable, value: T) -> None:
        """Remember a value for as long as the adapter lives."""
        alive, values = self._known.get(id(adapter), (None, {}))
        if alive is None or alive() is not adapter:
            values = {}
            self._known[id(adapter)] = self._reference(adapter), values
        values[key] = value

    def _reference(self, adapter: object) -> Callable[[], object]:
        known, name = self._known, id(adapter)

        def forget(reference: object) -> None:
            if name in known and known[name][0] is reference:
                del known[name]

        try:
            return weakref.ref(adapter, forget)
        except TypeError:
            for other in [key for key, (alive, _) in known.items() if not isinstance(alive, weakref.ref)]:
                del known[other]
            return lambda: adapter
