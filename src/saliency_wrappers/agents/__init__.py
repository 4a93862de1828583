"""Adapters: one file for each family of agents. `as_adapter` finds the one that fits."""

from __future__ import annotations

from typing import Any

from torch import nn

from saliency_wrappers.agents.atari import RecurrentModuleAdapter
from saliency_wrappers.agents.base import ActingAdapter, AgentAdapter, OnPass, UnreadPass

__all__ = ["ActingAdapter", "AgentAdapter", "OnPass", "RecurrentModuleAdapter", "UnreadPass", "as_adapter"]


def as_adapter(agent: Any) -> AgentAdapter:
    """The adapter for an agent.

    Args:
        agent: an `AgentAdapter`, which is returned as it is, or an `nn.Module` called as `value, logits, state = model((x, state))`.

    Raises:
        TypeError: no adapter fits.
    """
    if isinstance(agent, nn.Module):
        return RecurrentModuleAdapter(agent)
    if isinstance(agent, AgentAdapter):
        return agent
    raise TypeError(
        f"Expected an nn.Module called as `value, logits, state = model((x, state))` or an AgentAdapter, got {type(agent).__name__}. "
        "Write an adapter with evaluate, attach, initial_state, repeat_state and input_range."
    )
