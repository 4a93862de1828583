"""Adapters: one file for each family of agents. `as_adapter` finds the one that fits."""

from __future__ import annotations

from typing import Any

from torch import nn

from saliency_wrappers.agents import cleanrl, cleanrl_off_policy, sb3, sb3_contrib
from saliency_wrappers.agents.base import ActingAdapter, AgentAdapter, ImageOptions, OnPass, UnreadPass
from saliency_wrappers.agents.cleanrl import CleanRLAdapter, QNetworkAdapter
from saliency_wrappers.agents.cleanrl_off_policy import ActorQAdapter
from saliency_wrappers.agents.function import FunctionAdapter
from saliency_wrappers.agents.plain_module import ModuleAdapter
from saliency_wrappers.agents.recurrent_module import RecurrentModuleAdapter

__all__ = [
    "ActingAdapter",
    "ActorQAdapter",
    "AgentAdapter",
    "CleanRLAdapter",
    "FunctionAdapter",
    "ImageOptions",
    "ModuleAdapter",
    "OnPass",
    "QNetworkAdapter",
    "RecurrentModuleAdapter",
    "UnreadPass",
    "as_adapter",
]

_FAMILIES = (sb3_contrib.adapt, sb3.adapt, cleanrl.adapt, cleanrl_off_policy.adapt)


def as_adapter(
    agent: Any,
    *,
    input_range: tuple[float, float] | None = None,
    image: str | None = None,
    channels_last: bool | None = None,
) -> AgentAdapter:
    """Return the adapter for an agent.

    Args:
        agent: an algorithm of Stable-Baselines3 (PPO, A2C, DQN, SAC, TD3, DDPG) or sb3-contrib (RecurrentPPO, TQC, CrossQ), or its policy;
            a module in the manner of CleanRL, with `get_action_and_value`; any other `nn.Module` is called as
            `value, logits, state = model((x, state))`, or, without memory, as `model(x)` that returns logits, `(logits, value)`, a mapping
            of them or a distribution. An `AgentAdapter` is returned as it is: `QNetworkAdapter(q_network)`, `FunctionAdapter(...)`, or one
            of your own.
        input_range: the lowest and highest value of the agent's images. None: as its observation space, its `VecNormalize` or its family
            tells.
        image: the key of the image in a dictionary with several. None: the only one.
        channels_last: whether images are `(n, h, w, C)`. None: as the first convolution tells.

    Raises:
        TypeError: no adapter fits, or options for an adapter, which takes them in its constructor.
        ValueError: an `input_range` that is not ascending; an `image` for an agent without a dictionary, or one that is not in it.
    """
    options = ImageOptions(input_range, image, channels_last)
    for adapt in _FAMILIES:
        if (adapter := adapt(agent, options)) is not None:
            return adapter
    if isinstance(agent, nn.Module):
        return ModuleAdapter(agent, **options.without_image(agent))
    if isinstance(agent, AgentAdapter):
        if options.given:
            raise TypeError(f"{', '.join(options.given)} are options of {type(agent).__name__} itself: give them to its constructor.")
        return agent
    raise TypeError(
        f"Expected an nn.Module called as `value, logits, state = model((x, state))` or an AgentAdapter, got {type(agent).__name__}. "
        "Write an adapter with evaluate, attach, initial_state, repeat_state and input_range, or a FunctionAdapter."
    )
