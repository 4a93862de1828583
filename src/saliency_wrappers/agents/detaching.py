"""Detaching from agents that garbage collection has found unwatched: `release` waits until no agent is in use.

A finalizer runs at any moment, amid a forward pass or a copy of the agent, too. A list of hooks must not change then.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

waiting: deque[Callable[[], Any]] = deque()
"""What is to be done as soon as no agent is in use."""


def release_when_unused(release: Callable[[], Any]) -> None:
    """Call `release` now, or at the first `release_waiting` that finds no agent in use. For finalizers."""
    waiting.append(release)
    release_waiting()


def release_waiting() -> None:
    """Call what waits, unless a thread is amid a forward pass, a watched call or a copy of an agent. Costs nothing while nothing waits."""
    while waiting and not _agent_in_use():
        try:
            release = waiting.popleft()
        except IndexError:  # another thread was faster
            return
        release()


def _agent_in_use() -> bool:
    """Whether any thread runs code that may be iterating over the hooks or attributes of a module."""
    return any(_in_use(frame) for frame in sys._current_frames().values())  # pyright: ignore[reportPrivateUsage]


def _in_use(frame: FrameType | None) -> bool:
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name in _BUSY or (name.partition(".")[0] == "torch" and name != "torch.utils._contextlib"):
            return True
        frame = frame.f_back
    return False


_BUSY = {"copy", "pickle", "saliency_wrappers.agents.method_hooks", "saliency_wrappers.agents.module_hooks"}
"""Modules whose frames on the stack tell that an agent is in use; and all of torch but its decorators, `@torch.no_grad()` for one."""
