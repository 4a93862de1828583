"""Worlds of vector observations, and small agents for them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn


class Gauges(gym.Env[Any, Any]):
    """Episodes of random vectors; the frame is grey. `actions=None`: continuous ones of two numbers."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self, features: int = 4, actions: int | None = 3, length: int = 7, dtype: Any = np.float32, render_mode: str | None = "rgb_array"
    ) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (features,), dtype)
        self.action_space = gym.spaces.Box(-1, 1, (2,)) if actions is None else gym.spaces.Discrete(actions)
        self.length, self.t, self.render_mode = length, 0, render_mode
        self.vector = np.zeros(features, dtype)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._next(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(self.vector[0] * (1 + np.sum(action)))
        self.t += 1
        return self._next(), reward, self.t >= self.length, False, {}

    def render(self) -> Any:
        return np.full((120, 160, 3), 90, np.uint8)

    def _next(self) -> Any:
        self.vector = self.np_random.normal(size=self.vector.shape).astype(self.vector.dtype)
        return self.vector


class NamedGauges(Gauges):
    """Gauges that tell what their numbers are."""

    feature_names = ("height", "speed", "fuel", "wind")


class Dials(nn.Module):
    """An actor-critic on vectors: logits and a value."""

    def __init__(self, features: int = 4, outputs: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(features, 16), nn.Tanh())
        self.actor, self.critic = nn.Linear(16, outputs), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.actor(h), self.critic(h)


class RecurrentDials(nn.Module):
    """The same with a GRU cell, called as `value, logits, state = model((x, state))`."""

    def __init__(self, features: int = 4, outputs: int = 3) -> None:
        super().__init__()
        self.gru = nn.GRUCell(features, 8)
        self.actor, self.critic = nn.Linear(8, outputs), nn.Linear(8, 1)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        h = self.gru(*inputs)
        return self.critic(h), self.actor(h), h

    def initial_state(self, n: int) -> Tensor:
        return torch.zeros(n, 8)
