"""Where an agent's images have their channels, and what is said of agents that take whole numbers only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from saliency_wrappers import QNetworkAdapter, RecurrentAgentHook, RecurrentModuleAdapter, SaliencyRecorder
from saliency_wrappers.agents import CleanRLAdapter
from saliency_wrappers.testing import check_adapter


class ChannelsLast(nn.Module):
    """Of images `(n, 16, 16, 12)`; acts in three ways."""

    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(channels, 4, 8, 4), nn.Tanh(), nn.Flatten())
        self.actor, self.critic = nn.Linear(36, 4), nn.Linear(36, 1)

    def initial_state(self, n: int) -> None:
        """It has no memory."""

    def features(self, x: Tensor) -> Tensor:
        return self.body(x.permute(0, 3, 1, 2) / 255)

    def forward(self, call: Any) -> Any:
        h = self.features(call[0] if isinstance(call, tuple) else call)
        return (self.critic(h), self.actor(h), None) if isinstance(call, tuple) else self.actor(h)

    def get_action_and_value(self, x: Tensor, action: Any = None) -> Any:
        h = self.features(x)
        policy = Categorical(logits=self.actor(h))
        action = policy.sample() if action is None else action
        return action, policy.log_prob(action), policy.entropy(), self.critic(h)


WAYS: dict[str, tuple[Callable[..., Any], Callable[[nn.Module, Tensor], Any]]] = {
    "cleanrl": (CleanRLAdapter, lambda agent, x: agent.get_action_and_value(x)),  # type: ignore[operator]
    "q": (QNetworkAdapter, lambda agent, x: agent(x)),
    "recurrent": (lambda agent, **layout: RecurrentModuleAdapter(agent, (0, 255), **layout), lambda agent, x: agent((x, None))),
}


class Game(gym.Env[Any, Any]):
    action_space = gym.spaces.Discrete(4)

    def __init__(self, shape: tuple[int, ...], high: int = 255) -> None:
        self.observation_space = gym.spaces.Box(0, high, shape, np.uint8)
        self.observation_space.seed(0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, False, {}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layout", [{}, {"channels_last": True}])
def test_images_with_their_channels_last_are_presented_channels_first(way: str, layout: dict[str, bool]) -> None:
    agent = ChannelsLast()
    make, act = WAYS[way]
    env = SaliencyRecorder(Game((16, 16, 12)), RecurrentAgentHook(make(agent, **layout)), verify="always")
    observation, _ = env.reset()
    for _ in range(2):
        act(agent, torch.tensor(observation)[None].float())
        observation, *_, info = env.step(0)
        assert info["saliency"]["actor"].shape == (16, 16)


@pytest.mark.parametrize("way", WAYS)
def test_the_layout_that_is_given_keeps_the_contract(way: str) -> None:
    agent = ChannelsLast(channels=3)
    make, act = WAYS[way]
    inputs = torch.randint(0, 256, (3, 3, 16, 16)).float()
    check_adapter(make(agent, channels_last=True), inputs, lambda x: act(agent, x.permute(0, 2, 3, 1)))


def test_the_first_convolution_decides_and_channels_first_where_both_would_do() -> None:
    agent = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.LazyLinear(4))
    for shape, last in (((1, 3, 8, 8), False), ((1, 3, 8, 3), False)):
        adapter = QNetworkAdapter(agent)
        adapter.incoming((torch.zeros(shape),), {})
        assert adapter.layout.last is last
    told = QNetworkAdapter(nn.Linear(2, 2), channels_last=False)
    assert told.layout.last is False


class Symbols(nn.Module):
    """Looks symbols up, as agents of MiniGrid do."""

    def __init__(self, cut: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head, self.cut = nn.Embedding(11, 4), nn.Linear(4, 3), cut

    def forward(self, x: Tensor) -> Tensor:
        if self.cut:
            return self.head(self.embedding(x.long()).mean(dim=(1, 2, 3)))
        return self.head(x.float().mean(dim=(2, 3)).repeat(1, 4)[:, :4])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_an_agent_that_cuts_its_inputs_is_told_of_at_its_first_decision_only(dtype: torch.dtype) -> None:
    agent = Symbols(cut=True)
    env = SaliencyRecorder(Game((1, 7, 7), high=10), RecurrentAgentHook(QNetworkAdapter(agent, (0, 10))))
    observation, _ = env.reset()
    agent(torch.as_tensor(observation)[None].to(dtype))
    with pytest.warns(UserWarning, match=r"cuts its inputs down to whole numbers .*one-hot.*fill"):
        observation, *_ = env.step(0)
    agent(torch.as_tensor(observation)[None].to(dtype))
    assert "saliency" in env.step(0)[-1]


def test_an_agent_that_takes_all_numbers_is_not_told_of() -> None:
    agent = Symbols(cut=False)
    env = SaliencyRecorder(Game((1, 7, 7), high=10), RecurrentAgentHook(QNetworkAdapter(agent, (0, 10))))
    observation, _ = env.reset()
    agent(torch.as_tensor(observation)[None])
    assert "saliency" in env.step(0)[-1]
