"""`AgentSnapshot`: everything that running an agent could change, to see whether it did."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn


class AgentSnapshot:
    """Snapshot of an agent's weights, buffers, training flags and attributes, and of the random states of torch, NumPy and Python."""

    def __init__(self, agent: Any) -> None:
        """Take the snapshot.

        Args:
            agent: an `nn.Module`, or an object that holds modules as its attributes. None: the random states only.
        """
        self._parts = _parts(agent)
        self._before = _now(self._parts)

    def changes(self) -> Iterator[str]:
        """Yield what has changed since, as text to follow `leaves`: `"torch's random state as it is"`."""
        now = _now(self._parts)
        for what, before in self._before.items():
            names = sorted(name for name in before.keys() | now[what].keys() if not _same(before.get(name), now[what].get(name)))
            if names:
                yield f"{what} as they are, it changed {', '.join(names)}" if any(names) else f"{what} as it is"


def _now(parts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    modules = {path: part for path, part in parts.items() if isinstance(part, nn.Module)}
    numpy_state = cast("tuple[Any, ...]", np.random.get_state())  # noqa: NPY002
    return {
        "torch's random state": {"": torch.get_rng_state()},
        "NumPy's random state": {"": _copied(numpy_state, depth=0)},
        "Python's random state": {"": random.getstate()},
        "weights and buffers": {
            f"{path}.{name}".strip("."): tensor.detach().clone()
            for path, part in modules.items()
            for name, tensor in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))
        },
        "the training flags": {path or "the agent": part.training for path, part in modules.items()},
        "the agent's attributes": _attributes(parts),
    }


def _parts(agent: Any) -> dict[str, Any]:
    """Return an agent and its submodules, by name."""
    if isinstance(agent, nn.Module):
        return dict(agent.named_modules())
    held = vars(agent) if hasattr(agent, "__dict__") else {}
    inner = {f"{name}.{path}": part for name, value in held.items() if isinstance(value, nn.Module) for path, part in value.named_modules()}
    return {"": agent, **inner} if held else {}


def _attributes(parts: dict[str, Any]) -> dict[str, Any]:
    """Return copies of the parts' attributes, except those of `nn.Module` itself."""
    machinery = vars(nn.Module()).keys()
    return {
        f"{path}.{name}".strip("."): _copied(value, depth=1)
        for path, part in parts.items()
        for name, value in vars(part).items()
        if name not in machinery and not isinstance(value, nn.Module)
    }


@dataclass(frozen=True, eq=False)
class _Held:
    """An object that is an attribute, and a copy of its attributes."""

    value: Any
    attributes: dict[str, Any]


def _copied(value: Any, depth: int) -> Any:
    """Copy tensors, arrays and containers; keep objects by reference, with a copy of their attributes `depth` levels deep."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return cast("np.ndarray[Any, Any]", value).copy()
    if isinstance(value, tuple | list):
        return [_copied(item, depth) for item in cast("Sequence[Any]", value)]
    if isinstance(value, dict):
        return {name: _copied(item, depth) for name, item in cast("dict[Any, Any]", value).items()}
    if depth and hasattr(value, "__dict__") and not isinstance(value, type | nn.Module):
        return _Held(value, {name: _copied(item, depth - 1) for name, item in vars(value).items()})
    return value


def _same(before: Any, now: Any) -> bool:
    if isinstance(before, _Held):
        return isinstance(now, _Held) and before.value is now.value and _same(before.attributes, now.attributes)
    if isinstance(before, Tensor):
        return isinstance(now, Tensor) and torch.equal(before, now)
    if isinstance(before, np.ndarray):
        return isinstance(now, np.ndarray) and np.array_equal(before, now)
    if isinstance(before, dict):
        return isinstance(now, dict) and before.keys() == now.keys() and all(_same(item, now[name]) for name, item in before.items())
    if isinstance(before, list):
        return isinstance(now, list) and len(before) == len(now) and all(map(_same, before, now))
    return before is now or (isinstance(before, int | float | str | tuple) and before == now)
