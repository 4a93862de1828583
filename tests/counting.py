"""A world in which every off-by-one shows as a wrong number.

`CountingEnv`: its frame, which is its observation too, encodes the step and the episode in a uniform grey. `CountingAgent`: its state
counts its passes and remembers the grey of the last one; its outputs encode what it saw and what it remembered, and so do their maps
under `Blackout`, in closed form (`expected`). `play` is the published loop, `recorded` wraps, `check_saliency` compares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from xaitk_saliency import PerturbImage

from saliency_wrappers import FramePreprocessor, RecurrentAgentHook, SaliencyMaps, SaliencyRecorder

NUM_ACTIONS = 4
SIZE = (8, 8)


class CountingEnv(gym.Env[NDArray[np.uint8], Any]):
    """Frames of the grey `level(episode, t)`, t counting steps since the reset. Ends after `lengths[episode]` steps, the last repeated."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(
        self,
        lengths: Sequence[int] = (5,),
        size: tuple[int, int] = SIZE,
        per_step: int = 1,
        per_episode: int = 40,
        truncates: bool = False,
        render_mode: str | None = "rgb_array",
    ) -> None:
        self.lengths, self.size = tuple(lengths), size
        self.per_step, self.per_episode = per_step, per_episode
        self.truncates = truncates
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0, 255, (*size, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(NUM_ACTIONS)
        self.episode, self.t = -1, 0
        self.actions: list[Any] = []
        """Every action that came, of all episodes."""

    def level(self, episode: int, t: int) -> int:
        """The grey of the frame that is shown before step t; never 0, where nothing would show."""
        return 1 + (self.per_step * t + self.per_episode * episode) % 255

    def frame(self, episode: int, t: int) -> NDArray[np.uint8]:
        return np.full((*self.size, 3), self.level(episode, t), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self.render(), {"t": 0}

    def step(self, action: Any) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        self.actions.append(action)
        self.t += 1
        ends = self.t >= self.lengths[min(self.episode, len(self.lengths) - 1)]
        return self.render(), float(self.t), ends and not self.truncates, ends and self.truncates, {"t": self.t}

    def render(self) -> NDArray[np.uint8]:
        return self.frame(self.episode, self.t)


class CountingAgent(nn.Module):
    """`value, logits, state = model((x, state))`, where the state is `(n, 2)`: the number of passes so far and the grey of the last one.

    With seen grey g, passes n, last grey l and gain w: logits `w (g, n, l, g (1 + n))`, value `w g (100 + n + l)`.

    - `in_place`: the state is updated in the tensor that came in.
    - `pack`, `unpack`: between `(n, 2)` and another tree of tensors.
    - `critic=False`: the value is None.
    """

    def __init__(
        self,
        in_place: bool = False,
        critic: bool = True,
        pack: Callable[[Tensor], Any] = lambda tensor: tensor,
        unpack: Callable[[Any], Tensor] = lambda state: state,
    ) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.in_place, self.critic, self.pack, self.unpack = in_place, critic, pack, unpack

    def initial_state(self, n: int) -> Any:
        return self.pack(torch.zeros(n, 2))

    def forward(self, inputs: tuple[Tensor, Any]) -> tuple[Tensor | None, Tensor, Any]:
        x, packed = inputs
        state = self.unpack(packed)
        seen = 255 * x.mean(dim=(1, 2, 3))
        passes, last = (state[:, 0].clone(), state[:, 1].clone())
        logits = self.gain * torch.stack([seen, passes, last, seen * (1 + passes)], dim=1)
        value = (self.gain * seen * (100 + passes + last))[:, None] if self.critic else None
        if self.in_place:
            with torch.no_grad():
                state[:, 0] += 1
                state[:, 1] = seen
            return value, logits, packed
        return value, logits, self.pack(torch.stack([passes + 1, seen.detach()], dim=1))


class Blackout(PerturbImage):
    """One mask that replaces the whole image. With `fill=0.0` the maps are uniform, of the value in `expected`."""

    depends_on_shape_only = True

    def perturb(self, ref_image: NDArray[Any]) -> NDArray[np.float32]:
        return np.zeros((1, *ref_image.shape[:2]), np.float32)

    def get_config(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Expected:
    """What a decision of a `CountingAgent` of gain 1 must say."""

    logits: list[float]
    value: float
    actor: float
    """Everywhere on the actor map, under `Blackout` with `fill=0.0`."""
    critic: float


def expected(seen: float, passes: float, last: float) -> Expected:
    """By the grey that was seen, and the passes and the grey that were remembered."""
    value = seen * (100 + passes + last)
    return Expected([seen, passes, last, seen * (1 + passes)], value, 0.5 * seen**2 * (1 + (1 + passes) ** 2), 0.5 * value**2)


def check_saliency(saliency: dict[str, Any], episode: int, step: int, right: Expected, action: Any = None, gain: float = 1.0) -> None:
    """Check everything that `info["saliency"]` says, under `Blackout`, `fill=0.0`; the action is `play`'s by default."""
    assert (saliency["episode"], saliency["step"]) == (episode, step)
    assert saliency["action"] == (scheduled_action(episode, step) if action is None else action)
    np.testing.assert_allclose(saliency["logits"], gain * np.array(right.logits), rtol=1e-4)
    np.testing.assert_allclose(saliency["value"], gain * right.value, rtol=1e-4)
    if saliency.get("pending"):
        assert not {"actor", "critic"} & saliency.keys()
    else:
        check_maps(SaliencyMaps(saliency["actor"], saliency["critic"]), right, gain)


def check_maps(maps: SaliencyMaps, right: Expected, gain: float = 1.0) -> None:
    """Check the maps of a decision under `Blackout` with `fill=0.0`."""
    np.testing.assert_allclose(maps.actor, np.full(maps.actor.shape, gain**2 * right.actor), rtol=1e-4)
    assert maps.critic is not None
    np.testing.assert_allclose(maps.critic, np.full(maps.critic.shape, gain**2 * right.critic), rtol=1e-4)


def always_acting(env: CountingEnv, episode: int, t: int) -> Expected:
    """The decision at step t of an agent that is asked at every step of the episode."""
    return expected(env.level(episode, t), passes=t, last=env.level(episode, t - 1) if t else 0)


def recorded(env: gym.Env[Any, Any], agent: Any, **options: Any) -> SaliencyRecorder[Any, Any]:
    """A recorder around `env` that hooks `agent` and explains it under `Blackout`; `options` are the recorder's."""
    hook = RecurrentAgentHook(agent, FramePreprocessor(size=env.observation_space.shape[:2]))
    return SaliencyRecorder(env, hook, **{"perturber": Blackout(), "fill": 0.0, **options})


def network_input(frame: NDArray[np.uint8]) -> Tensor:
    """A frame `(H, W, 3)` as the agent's input `(1, 1, H, W)`, in [0, 1]."""
    return torch.as_tensor(frame[None, None, :, :, 0].copy()).float() / 255


def scheduled_action(episode: int, t: int) -> int:
    """The action that `play` takes: another at each step, and at the same step of another episode."""
    return (t + 2 * episode) % NUM_ACTIONS


def play(
    env: gym.Env[Any, Any],
    agent: Any,
    episodes: int = 1,
    acts: Callable[[int, int], bool] = lambda episode, t: True,
    between: Callable[[], None] = lambda: None,
) -> list[list[dict[str, Any]]]:
    """Play whole episodes as published loops do: `value, logits, state = agent((x, state))`, a new state for each episode.

    Args:
        env: the environment.
        agent: the agent, called with gradients as they are set.
        episodes: how many to play.
        acts: whether the agent is asked at a step of an episode; else the action is scripted.
        between: called after every step.

    Returns:
        The infos of each episode: first the reset's, then one for each step.
    """
    played: list[list[dict[str, Any]]] = []
    for episode in range(episodes):
        observation, info = env.reset(seed=episode)
        infos, state, ended = [info], agent.initial_state(1), False
        while not ended:
            t = len(infos) - 1
            if acts(episode, t):
                _, _, state = agent((network_input(observation), state))
            observation, _, terminated, truncated, info = env.step(scheduled_action(episode, t))
            ended = terminated or truncated
            infos.append(info)
            between()
        played.append(infos)
    return played
