"""`Process`: the current process id. `live_hooks`: the hooks of this process by their tokens, which `revive` looks up."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any


class Process:
    """The id of this process, cached so that no pass has to ask the system for it."""

    id = os.getpid()


if hasattr(os, "register_at_fork"):  # where a process can be forked
    os.register_at_fork(after_in_child=lambda: setattr(Process, "id", os.getpid()))

live_hooks: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
"""Each `RecurrentAgentHook` of this process, by its token."""

ANOTHER_PROCESS = (
    "This RecurrentAgentHook belongs to another process, where its agent acts; here it would see nothing. "
    "Make the agent, the hook and the recorder in one process (wrap the vector environment, not the environments inside AsyncVectorEnv)."
)


def call_when_alive(method: weakref.WeakMethod[Callable[[], None]]) -> None:
    """Call a bound method unless its object is gone."""
    if (alive := method()) is not None:
        alive()


def revive(token: str) -> Any:
    """Return the live hook with this token; `RuntimeError` in another process."""
    hook = live_hooks.get(token)
    if hook is None:
        raise RuntimeError(ANOTHER_PROCESS)
    return hook
