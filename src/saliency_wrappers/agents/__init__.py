"""Adapters: one file for each family of agents. `as_adapter` finds the one that fits."""

from __future__ import annotations

from typing import Any

from torch import nn

from saliency_wrappers.agents import cleanrl, sb3, sb3_contrib
from saliency_wrappers.agents.base import ActingAdapter, AgentAdapter, OnPass, UnreadPass
from saliency_wrappers.agents.cleanrl import CleanRLAdapter, QNetworkAdapter
from saliency_wrappers.agents.function import FunctionAdapter
from saliency_wrappers.agents.plain_module import ModuleAdapter
from saliency_wrappers.agents.recurrent_module import RecurrentModuleAdapter

__all__ = [
    "ActingAdapter",
    "AgentAdapter",
    "CleanRLAdapter",
    "FunctionAdapter",
    "OnPass",
    "QNetworkAdapter",
    "RecurrentModuleAdapter",
    "UnreadPass",
    "as_adapter",
]

_FAMILIES = (sb3_contrib.adapt, sb3.adapt, cleanrl.adapt)


def as_adapter(agent: Any) -> AgentAdapter:
    """The adapter for an agent.

    Args:
        agent: an algorithm of Stable-Baselines3 (PPO, A2C, DQN) or sb3-contrib (RecurrentPPO), or its policy; a module in the manner of
            CleanRL, with `get_action_and_value`; any other `nn.Module` is called as `value, logits, state = model((x, state))`, or,
            without memory, as `model(x)` that returns logits, `(logits, value)`, a mapping of them or a distribution. An
            `AgentAdapter` is returned as it is: `QNetworkAdapter(q_network)`, `FunctionAdapter(...)`, or one of your own.

    Raises:
        TypeError: no adapter fits.
    """
    for adapt in _FAMILIES:
        if (adapter := adapt(agent)) is not None:
            return adapter
    if isinstance(agent, nn.Module):
        return ModuleAdapter(agent)
    if isinstance(agent, AgentAdapter):
        return agent
    raise TypeError(
        f"Expected an nn.Module called as `value, logits, state = model((x, state))` or an AgentAdapter, got {type(agent).__name__}. "
        "Write an adapter with evaluate, attach, initial_state, repeat_state and input_range, or a FunctionAdapter."
    )
