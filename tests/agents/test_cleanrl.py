"""CleanRL: agents with `get_action_and_value`, with memory and without, and Q-networks."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from counting import Blackout, CountingEnv
from sb3_agents import Pictures, pictures
from tiny_agents import seeded
from torch import Tensor, nn
from torch.distributions import Categorical, Normal

from saliency_wrappers import CleanRLAdapter, QNetworkAdapter, RecurrentAgentHook, SaliencyRecorder, as_adapter
from saliency_wrappers.agents import UnreadPass
from saliency_wrappers.decisions import AgentPass, Decision
from saliency_wrappers.hooks.replay_check import ReplayMismatchError, replay
from saliency_wrappers.testing import check_adapter


class PlainAgent(nn.Module):
    """As in `ppo_atari.py`, for images `(n, channels, size, size)` in 0..255."""

    def __init__(self, channels: int = 3, actions: int = 4, size: int = 12) -> None:
        super().__init__()
        half = (size + 1) // 2
        self.network = nn.Sequential(nn.Conv2d(channels, 4, 3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(4 * half**2, 16), nn.Tanh())
        self.actor, self.critic = nn.Linear(16, actions), nn.Linear(16, 1)

    def get_value(self, x: Tensor) -> Tensor:
        return self.critic(self.network(x / 255.0))

    def get_action_and_value(self, x: Tensor, action: Tensor | None = None) -> tuple[Tensor, ...]:
        hidden = self.network(x / 255.0)
        probs = Categorical(logits=self.actor(hidden))
        if action is None:
            action = probs.sample()
        return action, probs.log_prob(action), probs.entropy(), self.critic(hidden)


class LSTMAgent(PlainAgent):
    """As in `ppo_atari_lstm.py`: the state is `(1, n, 8)` twice, `done` resets it inside, training flattens time."""

    def __init__(self, channels: int = 3, actions: int = 4, size: int = 12) -> None:
        super().__init__(channels, actions, size)
        self.lstm = nn.LSTM(16, 8)
        self.actor, self.critic = nn.Linear(8, actions), nn.Linear(8, 1)
        for weight in self.lstm.parameters():
            nn.init.uniform_(weight, -1, 1)

    def get_states(self, x: Tensor, lstm_state: Any, done: Tensor) -> tuple[Tensor, Any]:
        n = lstm_state[0].shape[1]
        hidden = self.network(x / 255.0).reshape((-1, n, self.lstm.input_size))
        outputs = []
        for h, d in zip(hidden, done.reshape((-1, n)), strict=True):
            kept = (1.0 - d).view(1, -1, 1)
            h, lstm_state = self.lstm(h.unsqueeze(0), (kept * lstm_state[0], kept * lstm_state[1]))
            outputs.append(h)
        return torch.flatten(torch.cat(outputs), 0, 1), lstm_state

    def get_value(self, x: Tensor, lstm_state: Any, done: Tensor) -> Tensor:  # type: ignore[override]
        return self.critic(self.get_states(x, lstm_state, done)[0])

    def get_action_and_value(self, x: Tensor, lstm_state: Any, done: Tensor, action: Tensor | None = None) -> tuple[Any, ...]:  # type: ignore[override]
        hidden, lstm_state = self.get_states(x, lstm_state, done)
        probs = Categorical(logits=self.actor(hidden))
        if action is None:
            action = probs.sample()
        return action, probs.log_prob(action), probs.entropy(), self.critic(hidden), lstm_state


class GaussianAgent(PlainAgent):
    """As in `ppo_continuous_action.py`."""

    def __init__(self) -> None:
        super().__init__()
        self.actor_mean, self.actor_logstd = nn.Linear(16, 2), nn.Parameter(torch.full((1, 2), -0.5))
        del self.actor

    def get_action_and_value(self, x: Tensor, action: Tensor | None = None) -> tuple[Tensor, ...]:
        hidden = self.network(x / 255.0)
        mean = self.actor_mean(hidden)
        probs = Normal(mean, self.actor_logstd.expand_as(mean).exp())
        if action is None:
            action = probs.sample()
        return action, probs.log_prob(action).sum(1), probs.entropy().sum(1), self.critic(hidden)


class QNetwork(nn.Module):
    """As in `dqn_atari.py`."""

    def __init__(self, channels: int = 3, actions: int = 4) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(channels, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(144, actions))

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x / 255.0)


def zeros(n: int = 1) -> Any:
    return torch.zeros(1, n, 8), torch.zeros(1, n, 8)


def watched(agent: Any) -> tuple[list[Any], Callable[[], None]]:
    seen: list[Any] = []
    return seen, as_adapter(agent).attach(seen.append)


@pytest.mark.parametrize("make", [PlainAgent, GaussianAgent])
def test_agents_without_memory_keep_the_contract(make: Any) -> None:
    agent = seeded(make)
    adapter = as_adapter(agent)
    assert isinstance(adapter, CleanRLAdapter)
    assert adapter.input_range == (0, 255)
    check_adapter(adapter, pictures().float(), lambda x: agent.get_action_and_value(x))
    check_adapter(adapter, pictures(), lambda x: agent.get_action_and_value(x))


def test_agents_with_memory_keep_the_contract() -> None:
    agent = seeded(LSTMAgent)
    state = zeros()

    def play(x: Tensor) -> None:
        nonlocal state
        *_, state = agent.get_action_and_value(x, state, torch.zeros(1))

    check_adapter(as_adapter(agent), pictures().float(), play)


@pytest.mark.parametrize("make", [PlainAgent, LSTMAgent])
def test_agents_can_be_asked_to_act_as_they_do_by_themselves(make: Any) -> None:
    adapter = as_adapter(agent := seeded(make))
    check_adapter(adapter, pictures().float())
    own = carried = adapter.initial_state(1)
    for x in pictures().float():
        logits, carried = adapter.act(x[None], carried)  # type: ignore[attr-defined]
        if make is LSTMAgent:
            hidden, own = agent.get_states(x[None], own, torch.zeros(1))
        else:
            hidden = agent.network(x[None] / 255.0)
        np.testing.assert_allclose(logits, agent.actor(hidden).detach(), rtol=1e-5)
    assert (carried is None) == (make is PlainAgent)


def test_a_compiled_agent_is_seen_by_its_methods() -> None:
    agent = seeded(LSTMAgent)
    compiled = torch.compile(agent, backend="eager")
    seen, detach = watched(compiled)
    compiled.get_action_and_value(pictures(1), zeros(), torch.zeros(1))
    assert len(seen) == 1
    detach()
    assert "get_action_and_value" not in {**vars(agent), **vars(compiled)}


def test_q_networks_keep_the_contract() -> None:
    check_adapter(QNetworkAdapter(seeded(QNetwork)), pictures().float())


def test_logits_and_value_are_those_of_the_call_and_the_state_the_one_that_went_in() -> None:
    agent = seeded(LSTMAgent)
    seen, _ = watched(agent)
    state, states, values = zeros(2), [], []
    done = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    for t in range(3):
        states.append(state)
        _, _, _, value, state = agent.get_action_and_value(pictures(2), state, done[t])
        values.append(value)
    for t, one in enumerate(seen):
        assert torch.equal(one.state[0], states[t][0])
        assert torch.equal(one.value, values[t])
        assert torch.equal(one.episode_start, done[t].bool())
        replay(as_adapter(agent), Decision.of(one))
    gaussian = seeded(GaussianAgent)
    seen, _ = watched(gaussian)
    gaussian.get_action_and_value(pictures(2))
    mean = gaussian.actor_mean(gaussian.network(pictures(2) / 255.0))
    np.testing.assert_allclose(seen[0].logits, torch.cat([mean, torch.full((2, 2), -0.5)], dim=1).detach(), rtol=1e-5)


def test_a_dropped_state_or_episode_start_does_not_replay() -> None:
    agent = seeded(LSTMAgent)
    seen, _ = watched(agent)
    *_, state = agent.get_action_and_value(pictures(1), zeros(), torch.zeros(1))
    agent.get_action_and_value(pictures(1), state, torch.ones(1))
    agent.get_action_and_value(pictures(1), state, torch.zeros(1))
    for one, wrong in ((seen[1], {"episode_start": None}), (seen[2], {"state": zeros()})):
        with pytest.raises(ReplayMismatchError):
            replay(as_adapter(agent), Decision.of(AgentPass(**{**vars(one), **wrong})))


def test_scored_actions_training_batches_and_values_are_no_decisions() -> None:
    agent, plain = seeded(LSTMAgent), seeded(PlainAgent)
    seen, _ = watched(agent)
    x, action = pictures(6).float(), torch.zeros(6)
    agent.get_action_and_value(x, zeros(2), torch.zeros(6), action)  # two environments, three steps each
    agent.get_action_and_value(x[:1], zeros(), torch.zeros(1), action=action[:1])
    agent.get_value(x[:1], zeros(), torch.zeros(1))
    assert [(one.scored_action, len(one.inputs), one.logits is None) for one in seen] == [
        (True, 6, False),
        (True, 1, False),
        (False, 1, True),
    ]
    seen, _ = watched(plain)
    plain.get_action_and_value(x[:1], action[:1])
    plain.get_action_and_value(x[:1], action=None)
    assert [one.scored_action for one in seen] == [True, False]


def test_evaluating_draws_no_random_numbers_and_is_not_seen() -> None:
    agent = seeded(PlainAgent).train()
    seen, _ = watched(agent)
    before = torch.get_rng_state()
    as_adapter(agent).evaluate(pictures().float(), None, None)
    assert torch.equal(before, torch.get_rng_state())
    assert not seen
    assert agent.training


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda agent: pickle.loads(pickle.dumps(agent))], ids=["deepcopy", "pickle"])
def test_a_copy_of_a_hooked_agent_works_and_is_not_watched(copied: Callable[[Any], Any]) -> None:
    agent = seeded(PlainAgent)
    seen, detach = watched(agent)
    twin = copied(agent)
    nn.init.zeros_(twin.critic.weight)
    nn.init.constant_(twin.critic.bias, 7)
    assert twin.get_action_and_value(pictures(1))[3].tolist() == [[7]]
    assert not seen
    detach()
    assert "get_action_and_value" not in vars(agent)


def test_an_agent_of_another_form_says_what_is_missing() -> None:
    class WithoutActor(PlainAgent):
        def __init__(self) -> None:
            super().__init__()
            self.head = self.actor
            del self.actor

        def get_action_and_value(self, x: Tensor, action: Tensor | None = None) -> tuple[Tensor, ...]:
            hidden = self.network(x / 255.0)
            return (self.head(hidden).argmax(1), hidden, hidden, self.critic(hidden))

    class WithTwoStates(PlainAgent):
        def get_action_and_value(self, x: Tensor, state: Any, action: Any = None) -> tuple[Tensor, ...]:  # type: ignore[override]
            return ()

    agent = seeded(WithoutActor)
    with pytest.raises(
        TypeError, match=r"Expected WithoutActor to have a layer `actor`.*CleanRLAdapter\(agent, actor=agent\.policy_head\)"
    ):
        as_adapter(agent)
    check_adapter(CleanRLAdapter(agent, actor=agent.head), pictures().float(), lambda x: agent.get_action_and_value(x))
    with pytest.raises(TypeError, match=r"Expected get_action_and_value\(x, action=None\).*got parameters \('x', 'state'\)"):
        as_adapter(WithTwoStates())


def test_calls_without_images_or_vectors_are_told_apart() -> None:
    agent, network = seeded(PlainAgent), seeded(QNetwork)
    agent.network, network.network = nn.Linear(5, 16), nn.Linear(5, 4)
    seen, _ = watched(agent)
    agent.get_action_and_value(torch.zeros(1, 2, 5))
    QNetworkAdapter(network).attach(seen.append)
    network(torch.zeros(1, 2, 5))
    assert [type(one) for one in seen] == [UnreadPass, UnreadPass]
    assert "with images (n, C, h, w)" in seen[0].reason


# In time


class CountingActor(nn.Module):
    """Sees the mean grey of the image, remembers how many passes there were and the last grey.

    Logits `(grey, passes, last)`, value 100 grey. The LSTM is there for the size of the state, `(1, n, 2)` twice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 2)
        self.actor, self.critic = nn.Identity(), nn.Identity()

    def get_action_and_value(self, x: Tensor, lstm_state: Any, done: Tensor, action: Any = None) -> tuple[Any, ...]:
        grey = x.float().mean(dim=(1, 2, 3))
        memory = (1 - done)[:, None] * lstm_state[0][0]
        logits = self.actor(torch.stack([grey, memory[:, 0], memory[:, 1]], dim=1))
        after = torch.stack([memory[:, 0] + 1, grey], dim=1)[None]
        chosen = torch.zeros(len(x), dtype=torch.long) if action is None else action
        return chosen, logits[:, 0], logits[:, 0], 100 * grey[:, None], (after, after.clone())


def test_decisions_of_an_agent_with_memory_belong_to_the_frames_before_their_steps() -> None:
    env = CountingEnv(lengths=(4, 3, 5), per_step=3)
    agent = CountingActor()
    recorder = SaliencyRecorder(env, RecurrentAgentHook(agent), perturber=Blackout(), fill=0.0, verify="always")
    state, done = zero_states(1), torch.ones(1)
    for episode in range(3):
        observation, ended, t = recorder.reset()[0], False, 0
        while not ended:
            x = torch.as_tensor(observation).permute(2, 0, 1)[None]
            action, _, _, _, state = agent.get_action_and_value(x, state, done)
            observation, _, ended, _, info = recorder.step(int(action))
            agent.get_action_and_value(x.repeat(3, 1, 1, 1), zero_states(3), torch.zeros(3), torch.zeros(3))  # as training does
            done = torch.tensor([float(ended)])
            grey, last = env.level(episode, t), env.level(episode, t - 1) if t else 0
            saliency = info["saliency"]
            assert (saliency["episode"], saliency["step"]) == (episode, t)
            np.testing.assert_allclose(saliency["logits"], [grey, t, last], rtol=1e-5)
            np.testing.assert_allclose(saliency["value"], 100 * grey, rtol=1e-5)
            np.testing.assert_allclose(saliency["actor"], np.full((8, 8), 0.5 * grey**2), rtol=1e-4)
            np.testing.assert_allclose(saliency["critic"], np.full((8, 8), 0.5 * (100 * grey) ** 2), rtol=1e-4)
            t += 1


def zero_states(n: int) -> Any:
    return torch.zeros(1, n, 2), torch.zeros(1, n, 2)


class GreyNetwork(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float().mean(dim=(1, 2, 3))[:, None] * torch.arange(1.0, 4.0)


def test_a_q_networks_random_actions_and_training_batches_are_no_decisions() -> None:
    env = CountingEnv(lengths=(12,), per_step=5)
    network = GreyNetwork()
    hook = RecurrentAgentHook(QNetworkAdapter(network))
    recorder = SaliencyRecorder(env, hook, perturber=Blackout(), fill=0.0)
    random = np.random.default_rng(3)
    observation, _ = recorder.reset()
    greedy = 0
    for t in range(12):
        x = torch.as_tensor(observation).permute(2, 0, 1)[None]
        explores = random.random() < 0.5
        action = int(random.integers(4)) if explores else int(network(x).argmax())
        observation, _, _, _, info = recorder.step(action)
        network(x.repeat(32, 1, 1, 1))  # trains on a batch
        with hook.paused():
            network(x)  # trains on one
        assert ("saliency" in info) != explores
        if not explores:
            greedy += 1
            np.testing.assert_allclose(info["saliency"]["logits"], env.level(0, t) * np.arange(1, 4), rtol=1e-5)
            assert info["saliency"]["value"] is info["saliency"]["critic"] is None
    assert 0 < greedy < 12


def test_a_q_network_can_be_asked_to_act() -> None:
    hook = RecurrentAgentHook(QNetworkAdapter(seeded(QNetwork)))
    env = SaliencyRecorder(gym.wrappers.TransformObservation(Pictures(), lambda o: o, None), hook, verify="always")
    observation, _ = env.reset(seed=0)
    *_, info = env.step(hook.act(np.moveaxis(observation, -1, 0).astype(np.float32)) % 3)
    assert info["saliency"]["actor"].any()
