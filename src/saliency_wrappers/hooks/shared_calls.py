"""`SharedCalls`: the calls of an agent that several recorders watch; `call_site`: where in a program a call is made."""

from __future__ import annotations

import sys
import threading
from types import CodeType
from typing import Any

from saliency_wrappers.decisions import AgentPass

CallSite = tuple[tuple[CodeType, int], ...]
"""The innermost places of the program that led to a call, outside this package and torch."""


class SharedCall:
    """A call of an agent, as all windows see it."""

    def __init__(self, seen: AgentPass) -> None:
        self.numbers = seen.numbers
        self.thread = threading.get_ident()
        self.watchers: set[int] = set()
        """The windows that saw it, by identity."""
        self.taken = False
        """Whether it decided in one of their environments."""


class _Latest(threading.local):
    call: SharedCall | None = None


class SharedCalls:
    """Recognises which passes of several windows are one call."""

    def __init__(self) -> None:
        self._latest = _Latest()

    def join(self, seen: AgentPass, window: Any) -> None:
        """Give a pass the call that it is part of: the latest in this thread, unless this window saw that one or its outputs are others."""
        latest = self._latest.call
        if seen.call is None:
            same = latest is not None and id(window) not in latest.watchers and latest.numbers == seen.numbers
            seen.call = latest if same else SharedCall(seen)
        call: SharedCall = seen.call
        call.watchers.add(id(window))
        self._latest.call = call


def call_site(places: int = 5) -> CallSite:
    """Return where the observed call comes from: the innermost frames outside this package and torch."""
    site: list[tuple[CodeType, int]] = []
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None and len(site) < places:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in ("saliency_wrappers", "torch"):
            site.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(site)
