"""A user's loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
from counting import (
    network_input,
)


def loop(env: gym.Env[Any, Any], agent: Callable[..., Any], state: Any, steps: int) -> Iterator[dict[str, Any]]:
    """Some steps of the published loop, from a reset; the infos of `step`."""
    observation, _ = env.reset(seed=0)
    for t in range(steps):
        _, _, state = agent((network_input(observation), state))
        observation, _, terminated, truncated, info = env.step(t % 3)
        yield info
        if terminated or truncated:
            return
