"""TorchScript: `scriptable` lets `torch.jit.script` compile a watched module, by compiling a copy without hooks."""

from __future__ import annotations

import copy
import sys
import weakref
from collections import OrderedDict
from typing import Any, cast

from torch import nn

_NAME = "__prepare_scriptable__"  # what torch.jit.script asks a module for
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


class WatchesModule:
    """Base class of what observes a module and cannot be compiled: a hook, or a replaced method."""

    original: Any = None
    """What was in its place. None: nothing."""


def scriptable(module: Any) -> None:
    """Let `torch.jit.script(module)` compile it while it is watched."""
    if isinstance(module, nn.Module) and not hasattr(module, _NAME):
        vars(module)[_NAME] = _Unwatched(module)


def not_watched(module: Any) -> None:
    """Take away what `scriptable` put in, once nothing of ours is left."""
    if isinstance(module, nn.Module) and not _watched(module) and isinstance(vars(module).get(_NAME), _Unwatched):
        del vars(module)[_NAME]


class _Unwatched:
    """Makes the copy that is compiled: it shares everything with the module except its observers."""

    def __init__(self, module: nn.Module) -> None:
        self._module = weakref.ref(module)

    def __call__(self) -> nn.Module:
        module = cast("nn.Module", self._module())
        caller = sys._getframe(1).f_back  # pyright: ignore[reportPrivateUsage]
        if caller is not None and caller.f_code.co_name == "call_prepare_scriptable_func_impl":  # it would put the twin into its owner
            raise RuntimeError(
                f"Expected torch.jit.script of a module without watched parts, got one that holds a hooked {type(module).__name__}. "
                "Script it before the hook is attached, or call hook.close() first."
            )
        twin = copy.copy(module)
        attributes = vars(twin)
        attributes.pop(_NAME, None)
        ours = {number for name in _HOOKS[:2] for number, hook in attributes[name].items() if isinstance(hook, WatchesModule)}
        for name in _HOOKS:
            attributes[name] = OrderedDict((number, hook) for number, hook in attributes[name].items() if number not in ours)
        for name, value in list(attributes.items()):
            if isinstance(value, WatchesModule):
                del attributes[name]
                if value.original is not None:
                    attributes[name] = value.original
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        return _Unwatched, (self._module(),)


def _watched(module: nn.Module) -> bool:
    hooks = [hook for name in _HOOKS[:2] for hook in vars(module)[name].values()]
    return any(isinstance(one, WatchesModule) for one in (*hooks, *vars(module).values()))
