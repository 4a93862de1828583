"""`ActionHint`: paints a mark into the frames that tells an action. An agent that follows it looks at a place that is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsFloat, cast

import gymnasium as gym
import numpy as np
from gymnasium.core import ActType
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""Top, bottom, left and right in pixels of the frame; bottom and right are exclusive."""


class ActionHint(gym.Wrapper[Frame, ActType, Frame, ActType], gym.utils.RecordConstructorArgs):
    """Paints a bright mark into every observation, in one of as many cells of a box as there are actions (Greydanus et al. 2018).

    `info["hint"]` of `reset` and `step` is the action that the observation shows, an int. What `render` returns is marked, too, where it is
    an image of the observation's size. With random hints, an agent that was trained to follow them owes its decisions to the mark and
    nothing else: a truth to compare maps with. A mark changes the range of the frame: show marks to a control agent, too.

    Example:
        >>> import ale_py, gymnasium as gym
        >>> from saliency_wrappers import ActionHint
        >>> gym.register_envs(ale_py)
        >>> env = ActionHint(gym.make("ALE/Breakout-v5"), seed=0)
        >>> observation, info = env.reset(seed=0)
        >>> observation.shape, info["hint"]
        ((210, 160, 3), 3)
    """

    def __init__(
        self,
        env: gym.Env[Frame, ActType],
        choose: Callable[[Frame], int] | None = None,
        box: Box = (37, 42, 52, 108),
        colour: tuple[int, int, int] = (236, 236, 236),
        seed: int | None = None,
    ) -> None:
        """Choose hints.

        Args:
            env: shows frames `(H, W, 3)` uint8 and takes discrete actions from 0 on.
            choose: from an observation without a mark to the action that is hinted. None: at random, uniformly.
            box: where marks are; its width is divided among the actions.
            colour: of a mark.
            seed: of random hints. None: another sequence every time.

        Raises:
            TypeError: other observations or actions.
            ValueError: a box that is not within the frame, or narrower than there are actions.
        """
        gym.utils.RecordConstructorArgs.__init__(self, choose=choose, box=box, colour=colour, seed=seed)
        gym.Wrapper.__init__(self, env)
        self._actions = _count(env)
        self._shape = cast("tuple[int, ...]", env.observation_space.shape)
        self._random = np.random.default_rng(seed)
        self._choose = choose
        self._colour = colour
        self.box = _checked(box, self._shape, self._actions)
        self.hint = 0
        """The action that the present observation shows."""

    def paint(self, frame: Frame, action: int) -> Frame:
        """A copy of a frame `(H, W, 3)` uint8 with the mark of an action; `ValueError` for no action of the environment."""
        if not 0 <= action < self._actions:
            raise ValueError(f"Expected a hint of 0 to {self._actions - 1}, got {action}.")
        top, bottom, left, right = self.box
        width = right - left
        marked = frame.copy()
        marked[top:bottom, left + action * width // self._actions : left + (action + 1) * width // self._actions] = self._colour
        return marked

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        """Reset the environment and hint at the first action."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._hinted(observation), {**info, "hint": self.hint}

    def step(self, action: ActType) -> tuple[Frame, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment and hint at the next action."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._hinted(observation), reward, terminated, truncated, {**info, "hint": self.hint}

    def render(self) -> Any:
        """What the environment renders; a frame of the observation's size with the present mark."""
        frame = self.env.render()
        return self.paint(frame, self.hint) if isinstance(frame, np.ndarray) and frame.shape == self._shape else frame

    def _hinted(self, observation: Frame) -> Frame:
        self.hint = int(self._random.integers(self._actions) if self._choose is None else self._choose(observation))
        return self.paint(observation, self.hint)


def _count(env: gym.Env[Any, Any]) -> int:
    observations, actions = env.observation_space, env.action_space
    if not isinstance(observations, gym.spaces.Box) or len(observations.shape) != 3 or observations.dtype != np.uint8:
        raise TypeError(f"Expected observations (H, W, 3) of uint8 to paint on, got {observations}.")
    if not isinstance(actions, gym.spaces.Discrete) or actions.start != 0:
        raise TypeError(f"Expected discrete actions from 0 on, got {actions}.")
    return int(actions.n)


def _checked(box: Box, shape: tuple[int, ...], actions: int) -> Box:
    top, bottom, left, right = box
    if not (0 <= top < bottom <= shape[0] and 0 <= left < right <= shape[1] and right - left >= actions):
        raise ValueError(f"Expected a box within the frame {shape[:2]} and at least {actions} pixels wide, got {box}.")
    return top, bottom, left, right
