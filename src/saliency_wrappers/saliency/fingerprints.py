"""Which agent, which method: `agent_fingerprint` of the weights, `method_description` in words, `fingerprint` of both together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from saliency_wrappers.agents import AgentAdapter
from saliency_wrappers.saliency.fills import Fills, as_fills
from saliency_wrappers.saliency.masks import GaussianBlur
from saliency_wrappers.saliency.method import SaliencyMethod
from saliency_wrappers.saliency.perturbation import PerturbationSaliency
from saliency_wrappers.saliency.presets import PRESETS

_WRAPPERS = ("_orig_mod.", "module.")
"""What `torch.compile` and `DataParallel` put before the names of weights."""


def agent_fingerprint(adapter: AgentAdapter) -> str | None:
    """The sha256 of an agent's weights, by name, shape and dtype; None for an adapter that holds no `nn.Module`."""
    modules = _modules(adapter)
    if not modules:
        return None
    digest = hashlib.sha256()
    for name, tensor in _weights(modules):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        if tensor.numel():
            digest.update(tensor.cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class KnownAgent:
    """`agent_fingerprint`, computed again only when sums over the weights have changed: at each episode's begin and end that is cheap."""

    def __init__(self) -> None:
        self._sums: list[tuple[str, float, float]] | None = None
        self._fingerprint: str | None = None

    def fingerprint(self, adapter: AgentAdapter) -> str | None:
        """Of the agent as it is now."""
        sums = [
            (name, float(part.sum(dtype=torch.float64)), float(part.to(torch.float64).norm())) for name, part in _weights(_modules(adapter))
        ]
        if sums != self._sums:
            self._sums, self._fingerprint = sums, agent_fingerprint(adapter)
        return self._fingerprint


def method_description(method: SaliencyMethod, agent: str | None, state_lag: int = 0) -> dict[str, Any]:
    """What maps depend on, as JSON: the method, its parts and their parameters, the agent's fingerprint, the lag of the state.

    A method that adds something to another's maps names that one in `maps_from`; maps depend on it alone.
    """
    method = getattr(method, "maps_from", method)
    described = _parts(method) if isinstance(method, PerturbationSaliency) else _thing(method)
    return {"name": _name(method, described), **described, "state_lag": state_lag, "agent": agent}


def fingerprint(description: dict[str, Any]) -> str:
    """16 hexadecimal digits."""
    content = {key: value for key, value in description.items() if key != "name"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _parts(method: PerturbationSaliency) -> dict[str, Any]:
    return {
        "class": type(method).__name__,
        "perturber": _thing(method.perturber),
        "saliency_gen": _thing(method.saliency_gen),
        "fill": _fill(method.fill),
        "tolerance": method.tolerance,
        **({} if method.frames is None else {"frames": method.frames}),
        **({} if method.weighting == "coverage" else {"weighting": method.weighting}),
        **({} if method.critic_gen is method.saliency_gen else {"critic_gen": _thing(method.critic_gen)}),
    }


def _name(method: SaliencyMethod, described: dict[str, Any]) -> str:
    """A preset's, or the perturber's and the generator's."""
    if not isinstance(method, PerturbationSaliency):
        return type(method).__name__
    for name, preset in PRESETS.items():
        if described == _parts(preset()):
            return name
    return f"{type(method.perturber).__name__} + {type(method.saliency_gen).__name__}"


def _thing(thing: Any) -> dict[str, Any]:
    """A part's class and what it was made with, where it tells (`get_config` of smqtk's plugins)."""
    kind = f"{type(thing).__module__}.{type(thing).__qualname__}"
    if hasattr(thing, "__qualname__"):  # a function
        kind = f"{thing.__module__}.{thing.__qualname__}"
    config = getattr(thing, "get_config", dict)()
    return {"class": kind, "config": json.loads(json.dumps(config, default=_plain_value, sort_keys=True))}


def _fill(fill: Fills) -> Any:
    first, *others = as_fills(fill)
    if others:
        return [_fill(one) for one in (first, *others)]
    fill = first
    if isinstance(fill, GaussianBlur):
        return {"class": "GaussianBlur", "sigma": fill.sigma}
    if callable(fill):
        return _thing(fill)
    array = np.asarray(fill)
    if array.ndim == 0:
        return float(array)
    return {"array": list(array.shape), "sha256": hashlib.sha256(np.ascontiguousarray(array, np.float64).data).hexdigest()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _weights(modules: list[nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """Name and content of each tensor, by name."""
    for module in modules:
        weights = {_plain(name): tensor.detach() for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
        yield from sorted(weights.items())


def _modules(adapter: AgentAdapter) -> list[nn.Module]:
    if isinstance(adapter, nn.Module):
        return [adapter]
    held: Mapping[str, Any] = getattr(adapter, "__dict__", {})
    found = [part if isinstance(part, nn.Module) else getattr(part, "policy", None) for _, part in sorted(held.items())]
    return [module for module in found if isinstance(module, nn.Module)]


def _plain(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    return name
