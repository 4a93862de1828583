"""Small agents of Stable-Baselines3 and sb3-contrib for worlds of small images, and a way to watch them learn."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from saliency_wrappers import SaliencyRecorder


class Grey(BaseFeaturesExtractor):
    """The mean grey of the image in 0..255 as the only feature, so that outputs tell which frame was seen. Trained weights leave it be."""

    def __init__(self, space: gym.spaces.Box) -> None:
        super().__init__(space, 1)

    def forward(self, x: Tensor) -> Tensor:
        return 255 * x.mean(dim=(1, 2, 3))[:, None]


class SmallCNN(BaseFeaturesExtractor):
    """One convolution and eight features: enough to depend on every pixel."""

    def __init__(self, space: gym.spaces.Box) -> None:
        super().__init__(space, 8)
        channels, height, width = space.shape
        self.conv = nn.Conv2d(channels, 4, 3, stride=2, padding=1)
        self.linear = nn.Linear(4 * ((height + 1) // 2) * ((width + 1) // 2), 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(torch.tanh(self.conv(x)).flatten(1)))


class SmallCombined(BaseFeaturesExtractor):
    """A `SmallCNN` for the image of a dictionary, beside all its other numbers."""

    def __init__(self, space: gym.spaces.Dict) -> None:
        self.images = [key for key, part in space.items() if len(part.shape) == 3]  # type: ignore[arg-type]
        self.others = {key: gym.spaces.utils.flatdim(part) for key, part in space.items() if key not in self.images}
        super().__init__(space, 8 * len(self.images) + sum(self.others.values()))
        self.see = nn.ModuleDict({key: SmallCNN(space[key]) for key in self.images})

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        seen = [self.see[key](x[key]) for key in self.images]
        return torch.cat([*seen, *(x[key].flatten(1) / 10 for key in self.others)], dim=1)


class Pictures(gym.Env[Any, Any]):
    """Episodes of random pictures `(12, 12, 3)`; the reward depends on picture and action. `actions=None`: continuous ones."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, actions: int | None = 3, length: int = 7, shape: tuple[int, ...] = (12, 12, 3)) -> None:
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)
        self.action_space = gym.spaces.Box(-1, 1, (2,)) if actions is None else gym.spaces.Discrete(actions)
        self.length, self.t, self.picture = length, 0, np.zeros(shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._next(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(self.picture.mean() / 255 * (1 + np.sum(action)))
        self.t += 1
        return self._next(), reward, self.t >= self.length, False, {}

    def render(self) -> Any:
        return self.picture[..., :3]

    def _next(self) -> Any:
        self.picture = self.np_random.integers(0, 256, self.observation_space.shape, np.uint8)
        return self.picture


def model(algorithm: Any, env: Any, features: Any = SmallCNN, policy: str = "CnnPolicy", policy_kwargs: Any = None, **options: Any) -> Any:
    """A small model on the processor, the same in every run."""
    kwargs = {"features_extractor_class": features, "net_arch": [], **(policy_kwargs or {})}
    return algorithm(policy, env, policy_kwargs=kwargs, seed=0, device="cpu", **options)


def learn(agent: Any, steps: int) -> list[dict[str, Any]]:
    """Let the first environment's agent learn; the infos of its steps."""
    infos: list[dict[str, Any]] = []

    def see(local: dict[str, Any], _: Any) -> bool:
        infos.append(local["infos"][0])
        return True

    agent.learn(steps, callback=see)
    return infos


def recorder_of(agent: Any) -> SaliencyRecorder[Any, Any]:
    """The recorder beneath what Stable-Baselines3 puts around the environment."""
    env = agent.get_env().venv.envs[0]
    while not isinstance(env, SaliencyRecorder):
        env = env.env
    return env


def pictures(n: int = 3, shape: tuple[int, ...] = (3, 12, 12)) -> Tensor:
    """`(n, C, h, w)` uint8, the same in every run."""
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Cue(gym.Env[Any, Any]):
    """A task of memory: the first of three frames `(12, 12, 3)` is bright on the left or on the right, the others are grey. The last action
    must name the side."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (12, 12, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(2)
        self.t, self.side = 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.side = 0, int(self.np_random.integers(2))
        return self.render(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        reward = float(self.t == 3 and int(action) == self.side)
        return self.render(), reward, self.t == 3, False, {}

    def render(self) -> Any:
        frame = np.full((12, 12, 3), 100, np.uint8)
        if self.t == 0:
            frame[:, 6 * self.side : 6 * self.side + 6] = 255
        return frame


class Cockpit(gym.Wrapper[Any, Any, Any, Any]):
    """A dictionary of the picture, a gauge that counts steps, and a gear."""

    def __init__(self, env: Any = None, second: bool = False) -> None:
        super().__init__(env or Pictures())
        pictures = {"camera": self.env.observation_space} | ({"mirror": self.env.observation_space} if second else {})
        self.observation_space = gym.spaces.Dict({"gauge": gym.spaces.Box(0, 99, (2,)), "gear": gym.spaces.Discrete(3), **pictures})
        self.gauge = 0

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        picture, info = self.env.reset(**options)
        self.gauge = 0
        return self.observe(picture), info

    def step(self, action: Any) -> Any:
        self.gauge += 1
        picture, *rest = self.env.step(action)
        return self.observe(picture), *rest

    def observe(self, picture: Any) -> dict[str, Any]:
        gauges = {"gauge": np.array([self.gauge, 2.0], np.float32), "gear": self.gauge % 3}
        return {**gauges, **{key: picture for key in self.observation_space.spaces if key not in gauges}}
