"""Agents with Q-functions in the manner of CleanRL: an actor and critics apart, and a distributional Q-network."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gauges import Gauges
from tiny_agents import seeded
from torch import Tensor, nn

from saliency_wrappers import ActorQAdapter, RecurrentAgentHook, VectorSaliencyRecorder, as_adapter
from saliency_wrappers.testing import check_adapter

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Actor(nn.Module):
    """TD3's: the action itself, in the environment's bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.fc_mu = nn.Linear(4, 2)
        self.register_buffer("action_scale", torch.tensor([2.0, 1.0]))

    def forward(self, x: Tensor) -> Any:
        return torch.tanh(self.fc_mu(x)) * self.action_scale


class SoftActor(Actor):
    """SAC's: mean and logarithm of the standard deviation, and `get_action`, which draws."""

    def __init__(self) -> None:
        super().__init__()
        self.fc_logstd = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        return self.fc_mu(x), -2 + torch.tanh(self.fc_logstd(x))

    def get_action(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_std = self(x)
        drawn = torch.distributions.Normal(mean, log_std.exp()).rsample()
        return torch.tanh(drawn) * self.action_scale, drawn.sum(1, keepdim=True), torch.tanh(mean) * self.action_scale


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 1)

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        return self.fc(torch.cat([x, a], 1)).tanh()


class Distribution(nn.Module):
    """C51's: probabilities of atoms for each action."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(4, 3 * 5)
        self.register_buffer("atoms", torch.linspace(-2, 2, 5))

    def get_action(self, x: Tensor, action: Tensor | None = None) -> tuple[Tensor, Tensor]:
        masses = self.network(x).view(len(x), 3, 5).softmax(dim=2)
        action = (masses * self.atoms).sum(2).argmax(1) if action is None else action
        return action, masses[torch.arange(len(x)), action]


def parts(actor: Any) -> tuple[Any, Any, Any]:
    critics = seeded(Critic), seeded(Critic)
    with torch.no_grad():
        critics[1].fc.bias += 0.3 * torch.sign(torch.randn(1, generator=torch.Generator().manual_seed(1)))
    return seeded(actor), *critics


@pytest.mark.parametrize("actor", [Actor, SoftActor])
def test_adapters_of_actor_and_critics_keep_the_contract(actor: Any) -> None:
    agent, *critics = parts(actor)
    act = agent.get_action if actor is SoftActor else agent
    check_adapter(ActorQAdapter(agent, *critics), X, lambda x: agent.get_action(x) if actor is SoftActor else act(x))


@pytest.mark.parametrize("actor", [Actor, SoftActor])
def test_values_are_of_the_actions_that_environments_are_given(actor: Any) -> None:
    agent, qf1, qf2 = parts(actor)
    hook = RecurrentAgentHook(ActorQAdapter(agent, qf1, qf2))
    envs = VectorSaliencyRecorder(gym.vector.SyncVectorEnv([lambda: Gauges(actions=None)] * 2), hook)
    envs.single_action_space.low[:], envs.single_action_space.high[:] = -3, 3
    observations, _ = envs.reset(seed=0)
    for _ in range(3):
        x = torch.as_tensor(observations)
        with torch.no_grad():
            actions = agent.get_action(x)[0] if actor is SoftActor else agent(x)
            chosen = actions.clone()
            actions += torch.normal(0, 0.1 * torch.ones(2, 2))  # in place, as TD3's exploration
            expected = torch.min(qf1(x, actions), qf2(x, actions))[:, 0]
            told = torch.cat(agent(x), dim=1) if actor is SoftActor else chosen
        observations, *_, infos = envs.step(actions.numpy())
        agent(torch.zeros(8, 4))  # a training batch
        saliency = infos["saliency"]
        assert np.allclose(saliency["value"], expected, atol=1e-6)
        assert np.allclose(saliency["logits"], told, atol=1e-6)
        assert saliency["actor"].shape == saliency["critic"].shape == (2, 4)
    assert saliency["actor"].any()
    assert saliency["critic"].any()
    envs.close()


def test_an_actor_alone_has_no_value() -> None:
    agent = seeded(Actor)
    adapter = ActorQAdapter(agent)
    check_adapter(adapter, X, lambda x: agent(x))
    assert adapter.evaluate(X, adapter.initial_state(3), None)[1] is None


def test_a_distributional_network_tells_its_means() -> None:
    network = seeded(Distribution)
    adapter = as_adapter(network)
    check_adapter(adapter, X, lambda x: network.get_action(x))
    with torch.no_grad():
        masses = network.network(X).view(3, 3, 5).softmax(dim=2)
    assert torch.allclose(adapter.evaluate(X, None, None)[0], (masses * network.atoms).sum(2))
    seen: list[Any] = []
    detach = adapter.attach(seen.append)
    network.get_action(X, torch.zeros(3, dtype=torch.long))
    detach()
    assert seen[0].scored_action
