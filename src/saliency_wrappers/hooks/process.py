"""`Process`: which process this is; `live_hooks`: the hooks that live in it, by their tokens, and `revive`, which finds one again."""

from __future__ import annotations

import os
import weakref
from typing import Any


class Process:
    """The number of this process, kept so that no pass has to ask the system for it."""

    id = os.getpid()


if hasattr(os, "register_at_fork"):  # where a process can be forked
    os.register_at_fork(after_in_child=lambda: setattr(Process, "id", os.getpid()))

live_hooks: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
"""Each `RecurrentAgentHook` of this process, by its token."""

ANOTHER_PROCESS = (
    "This RecurrentAgentHook belongs to another process, where its agent acts; here it would see nothing. "
    "Make the agent, the hook and the recorder in one process (wrap the vector environment, not the environments inside AsyncVectorEnv)."
)


def revive(token: str) -> Any:
    """The live hook with this token; `RuntimeError` in another process."""
    hook = live_hooks.get(token)
    if hook is None:
        raise RuntimeError(ANOTHER_PROCESS)
    return hook
