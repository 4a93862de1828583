"""`CountingEnv`: an environment whose frames say which step and episode they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray


class CountingEnv(gym.Env[NDArray[np.uint8], Any]):
    """An environment whose frames count: step t of episode e is a uniform grey, so that an off-by-one shows as a wrong number.

    Observations and rendered frames are `(h, w, 3)` uint8 of the grey `1 + (first + per_step * t + per_episode * e) % 255`, where t counts
    steps since the reset; 0 never occurs. The reward is t.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(
        self,
        lengths: Sequence[int] = (5,),
        size: tuple[int, int] = (8, 8),
        per_step: int = 1,
        per_episode: int = 40,
        truncates: bool = False,
        render_mode: str | None = "rgb_array",
        first: int = 0,
        num_actions: int = 4,
    ) -> None:
        """Choose the episodes.

        Args:
            lengths: how many steps the first, the second, ... episode has; the last length is repeated.
            size: `(h, w)` of the frames.
            per_step: what a step adds to the grey.
            per_episode: what an episode adds to the grey.
            truncates: episodes end as truncated instead of terminated.
            render_mode: `"rgb_array"`. None: nothing is rendered.
            first: the grey of the first frame is `1 + first`.
            num_actions: the size of the action space.
        """
        self.lengths, self.size, self.first = tuple(lengths), size, first
        self.per_step, self.per_episode, self.truncates, self.render_mode = per_step, per_episode, truncates, render_mode
        self.observation_space = gym.spaces.Box(0, 255, (*size, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(num_actions)
        self.episode, self.t = -1, 0
        self.actions: list[Any] = []
        """Every action that was taken, of all episodes."""

    def level(self, episode: int, t: int) -> int:
        """Return the grey, 1 to 255, of the frame that is shown before step t."""
        return 1 + (self.first + self.per_step * t + self.per_episode * episode) % 255

    def frame(self, episode: int, t: int) -> NDArray[np.uint8]:
        """Return the frame `(h, w, 3)` uint8 that is shown before step t."""
        return np.full((*self.size, 3), self.level(episode, t), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Begin the next episode; `info` is `{"t": 0}`."""
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self.render(), {"t": 0}

    def step(self, action: Any) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Take any action; `info` is `{"t": t}`."""
        self.actions.append(action)
        self.t += 1
        ends = self.t >= self.lengths[min(self.episode, len(self.lengths) - 1)]
        return self.render(), float(self.t), ends and not self.truncates, ends and self.truncates, {"t": self.t}

    def render(self) -> NDArray[np.uint8]:
        """Return the current frame `(h, w, 3)` uint8."""
        return self.frame(self.episode, self.t)
