"""`FunctionAdapter`: agents of any form, described by functions."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from counting import Blackout, CountingEnv
from sb3_agents import pictures
from tiny_agents import TinyGRU, images, seeded
from torch import Tensor, nn

from saliency_wrappers import FunctionAdapter, PerturbationSaliency, RecurrentAgentHook, SaliencyRecorder
from saliency_wrappers.agents import UnreadPass
from saliency_wrappers.agents.base import split_rows
from saliency_wrappers.agents.dict_observation import ObservedState
from saliency_wrappers.decisions import Decision
from saliency_wrappers.hooks.replay_check import ReplayCheck
from saliency_wrappers.testing import AdapterContractError, check_adapter


def features(x: Tensor) -> Tensor:
    """`(n, 3)` that depend on every pixel of `(n, C, h, w)`, in another way for each."""
    weights = torch.linspace(-1, 1, 3 * x[0].numel()).sin().reshape(3, -1)
    return torch.tanh(x.float().flatten(1) @ weights.T / 100)


class Reflex(nn.Module):
    """Gives logits and value, and has no memory."""

    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = nn.Linear(3, 4), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = features(x)
        return self.actor(hidden), self.critic(hidden)

    def act(self, x: Tensor) -> int:
        """Only the action comes out."""
        logits, _ = self(x)
        return int(logits.argmax())


class Keeps(nn.Module):
    """Keeps its memory in an attribute, by itself, and updates it in place."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = nn.Linear(3, 4)
        self.memory = torch.zeros(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.memory.mul_(0.5).add_(features(x))
        return self.actor(self.memory)


class Gaussian(nn.Module):
    """Continuous actions: a dictionary with mean, logarithm of the standard deviation, value and memory."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.mean, self.log_std, self.value = nn.GRUCell(3, 5), nn.Linear(5, 2), nn.Linear(5, 2), nn.Linear(5, 1)

    def forward(self, x: Tensor, memory: Tensor) -> dict[str, Tensor]:
        memory = self.gru(features(x), memory)
        return {"mean": self.mean(memory), "log_std": self.log_std(memory), "value": self.value(memory), "memory": memory}


class Sensors(nn.Module):
    """Looks at an image and reads other sensors, in a dictionary; remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.actor = nn.GRUCell(3 + 2 + 1, 5), nn.Linear(5, 4)

    def forward(self, observation: dict[str, Tensor], memory: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([features(observation["camera"]), observation["speed"], observation["fuel"][:, None].float()], dim=1)
        memory = self.gru(x, memory)
        return self.actor(memory), memory


def sensors(agent: Sensors) -> FunctionAdapter:
    return FunctionAdapter(
        agent,
        evaluate=lambda observation, memory, start: (agent(observation, memory)[0], None),
        outgoing=lambda output: (output[0], None),
        initial_state=lambda n: torch.zeros(n, 5),
        image="camera",
        others={"speed": torch.zeros(2), "fuel": torch.tensor(0)},
    )


def read(x: Tensor, seed: float = 0.0) -> dict[str, Tensor]:
    """An observation with this image, and sensors that differ by row."""
    rows = torch.arange(1.0, len(x) + 1)
    return {"fuel": (10 * rows).long(), "camera": x, "speed": torch.stack([rows + seed, -rows], dim=1)}


def test_an_agent_without_memory_is_described_by_one_function() -> None:
    agent = seeded(Reflex)
    adapter = FunctionAdapter(agent, evaluate=lambda x, state, start: agent(x))
    check_adapter(adapter, images(3), agent)
    np.testing.assert_array_equal(adapter.evaluate(images(2), None, None)[0], agent(images(2))[0].detach())


def test_logits_and_value_can_be_read_off_layers_where_the_call_gives_an_action_only() -> None:
    agent = seeded(Reflex)
    adapter = FunctionAdapter(agent, lambda x, state, start: agent(x), method="act", actor=agent.actor, critic=agent.critic)
    check_adapter(adapter, images(3), lambda x: agent.act(x))


def test_an_agent_that_is_no_module_and_takes_frames_is_described() -> None:
    class Player:
        """Takes a frame `(h, w, C)` as NumPy gives it."""

        def __init__(self) -> None:
            self.network = seeded(Reflex)
            self.calls = 0

        def act(self, frame: Any) -> int:
            self.calls += 1
            logits, _ = self.network(torch.as_tensor(frame)[None].permute(0, 3, 1, 2))
            return int(logits.argmax())

    player = Player()
    adapter = FunctionAdapter(
        player,
        evaluate=lambda x, state, start: player.network(x.permute(0, 3, 1, 2)),
        method="act",
        incoming=lambda frame: (torch.as_tensor(frame)[None], None),
        actor=player.network.actor,
        critic=player.network.critic,
        channels_last=True,
        input_range=(0.0, 255.0),
    )
    check_adapter(adapter, pictures(), lambda x: player.act(x[0].permute(1, 2, 0).numpy()))
    assert player.calls == 4
    for twin in (copy.deepcopy(player), copy.copy(player)):
        assert twin.act(np.zeros((12, 12, 3), np.uint8)) in range(4)
    wrong = FunctionAdapter(player, lambda x, state, start: player.network(x), method="act", incoming=lambda frame: (frame, None))
    seen: list[Any] = []
    wrong.attach(seen.append)
    player.act(np.zeros((12, 12, 3), np.uint8))
    assert seen == [
        UnreadPass("that could not be captured: expected images (n, C, h, w) or vectors (n, features) from incoming, got ndarray")
    ]


@pytest.mark.parametrize("channels_last", [False, True])
def test_images_of_any_layout_and_of_uint8_are_presented_channels_first(channels_last: bool) -> None:
    class Layout(Reflex):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            assert x.shape[3 if channels_last else 1] == 2
            return super().forward((x.permute(0, 3, 1, 2) if channels_last else x) / 255.0)

    agent = seeded(Layout)
    adapter = FunctionAdapter(agent, lambda x, state, start: agent(x), channels_last=channels_last, input_range=(0.0, 255.0))
    seen: list[Any] = []
    adapter.attach(seen.append)
    x = pictures(1, (2, 9, 12))
    agent(x.permute(0, 2, 3, 1) if channels_last else x)
    assert torch.equal(seen[0].inputs, x)
    (maps,) = PerturbationSaliency()(adapter, [Decision.of(seen[0])])
    assert maps.actor.shape == (9, 12)
    check_adapter(adapter, pictures(3, (2, 9, 12)), lambda x: agent(x.permute(0, 2, 3, 1) if channels_last else x))


def test_continuous_actions_are_described_by_mean_and_log_std() -> None:
    agent = seeded(Gaussian)

    def describe(output: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return torch.cat([output["mean"], output["log_std"]], dim=1), output["value"]

    adapter = FunctionAdapter(
        agent,
        evaluate=lambda x, memory, start: describe(agent(x, memory)),
        incoming=lambda x, memory: (x, memory),
        outgoing=describe,
        initial_state=lambda n: torch.zeros(n, 5),
    )
    memory = torch.zeros(1, 5)

    def play(x: Tensor) -> None:
        nonlocal memory
        memory = agent(x, memory=memory)["memory"]

    check_adapter(adapter, images(4), play)


def test_a_state_kept_as_an_attribute_is_read_before_the_call_and_put_back_after_evaluating() -> None:
    agent = seeded(Keeps)
    adapter = FunctionAdapter(
        agent, lambda x, state, start: (agent(x), None), initial_state=lambda n: torch.zeros(n, 3), state_attribute="memory"
    )
    check_adapter(adapter, images(4), agent)
    seen: list[Any] = []
    adapter.attach(seen.append)
    kept = agent.memory
    before = [kept.clone()]
    for x in images(3, seed=1):
        agent(x[None])
        before.append(kept.clone())
    assert [torch.equal(one.state, state) for one, state in zip(seen, before, strict=False)] == [True] * 3
    adapter.evaluate(images(5), torch.rand(5, 3), None)
    assert agent.memory is kept
    assert torch.equal(kept, before[-1])
    with pytest.raises(RuntimeError):
        adapter.evaluate(images(5), torch.rand(2, 3), None)
    assert agent.memory is kept


def test_a_module_that_keeps_its_state_fails_the_contract_when_that_is_not_said() -> None:
    class Forgotten(Keeps):
        def forward(self, x: Tensor) -> Tensor:
            self.memory = 0.5 * self.memory + features(x)
            return self.actor(self.memory)

    agent = seeded(Forgotten)
    with pytest.raises(AdapterContractError, match="evaluate is deterministic"):
        check_adapter(FunctionAdapter(agent, lambda x, state, start: (agent(x), None)), images(3), agent)


def test_the_rest_of_a_dictionary_goes_with_the_decision() -> None:
    agent = seeded(Sensors)
    adapter = sensors(agent)
    memory, count = torch.zeros(1, 5), 0

    def play(x: Tensor) -> None:
        nonlocal memory, count
        count += 1
        _, memory = agent(read(x, seed=count), memory)

    check_adapter(adapter, images(4), play)
    seen: list[Any] = []
    adapter.attach(seen.append)
    observation = read(images(3), seed=0.5)
    incoming = torch.rand(3, 5)
    logits, _ = agent(observation, incoming)
    decision = Decision.of(seen[0])
    observation["speed"].zero_()  # a buffer that its owner fills anew
    assert isinstance(decision.state, ObservedState)
    assert decision.state.observation["speed"].tolist() == [[1.5, -1], [2.5, -2], [3.5, -3]]
    for i, row in enumerate(split_rows(adapter, decision)):
        assert row.state.observation["fuel"].tolist() == [10 * (i + 1)]  # type: ignore[union-attr]
        np.testing.assert_allclose(adapter.evaluate(row.inputs, row.state, None)[0], logits[i : i + 1].detach(), rtol=1e-5, atol=1e-6)
        repeated = adapter.repeat_state(row.state, 4)
        assert [leaf.shape for leaf in repeated.observation.values()] == [(4, 2), (4,)]  # type: ignore[union-attr]
    assert len(PerturbationSaliency()(adapter, [decision])) == 3


def test_the_rest_of_a_dictionary_is_no_memory_to_the_self_check() -> None:
    agent = seeded(Sensors)
    adapter, check = sensors(agent), ReplayCheck("first")
    seen: list[Any] = []
    adapter.attach(seen.append)
    memory = torch.zeros(1, 5)
    unfinished = []
    for _ in range(3):
        _, memory = agent(read(images(1)), memory)
        check(adapter, Decision.of(seen[-1]))
        unfinished.append(check.unfinished)
    assert unfinished == [True, False, False]  # at the first decision and at the first with memory


def test_a_dictionary_with_other_keys_cannot_be_read_and_says_so() -> None:
    agent = seeded(Sensors)
    seen: list[Any] = []
    sensors(agent).attach(seen.append)
    agent({**read(images(1)), "sound": torch.zeros(1)}, torch.zeros(1, 5))
    (unread,) = seen
    assert "the keys ['camera', 'fuel', 'speed'], image and others, got ['camera', 'fuel', 'sound', 'speed']" in unread.reason


def test_calls_that_do_not_act_are_left_out_by_incoming() -> None:
    agent = seeded(Reflex)
    seen: list[Any] = []
    FunctionAdapter(agent, lambda x, state, start: agent(x), incoming=lambda x: (x, None) if len(x) == 1 else None).attach(seen.append)
    agent(images(3))
    agent(images(1))
    assert [type(one).__name__ for one in seen] == ["UnreadPass", "AgentPass"]


def test_what_the_agent_does_not_have_is_refused_at_once() -> None:
    agent = seeded(Reflex)
    with pytest.raises(TypeError, match="Expected Reflex to have 'choose', by which it acts or remembers"):
        FunctionAdapter(agent, lambda x, state, start: agent(x), method="choose")
    with pytest.raises(TypeError, match="Expected Reflex to have 'memory'"):
        FunctionAdapter(agent, lambda x, state, start: agent(x), state_attribute="memory")


def test_a_hooked_agent_is_pickled_without_its_adapter() -> None:
    agent = seeded(Reflex)
    hook = RecurrentAgentHook(FunctionAdapter(agent, lambda x, state, start: agent(x)))
    twin = pickle.loads(pickle.dumps(agent))
    assert torch.equal(twin(images(2))[0], agent(images(2))[0])
    hook.close()
    assert "forward" not in vars(agent)


class Greys(nn.Module):
    """Keeps the number of its passes and the last grey as an attribute: logits `(grey, passes, last)`."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = torch.zeros(1, 2)

    def act(self, x: Tensor) -> Tensor:
        grey = x.float().mean(dim=(1, 2, 3))
        logits = torch.stack([grey, *self.memory.T], dim=1)
        self.memory = torch.stack([self.memory[:, 0] + 1, grey], dim=1)
        return logits


def test_decisions_of_a_described_agent_belong_to_the_frames_before_their_steps() -> None:
    env, agent = CountingEnv(lengths=(4, 3, 5), per_step=3), Greys()
    adapter = FunctionAdapter(
        agent,
        lambda x, state, start: (agent.act(x), None),
        method="act",
        initial_state=lambda n: torch.zeros(n, 2),
        state_attribute="memory",
        channels_last=True,
        input_range=(0.0, 255.0),
    )
    recorder = SaliencyRecorder(env, RecurrentAgentHook(adapter), perturber=Blackout(), fill=0.0, verify="always")
    for episode in range(3):
        observation, ended, t = recorder.reset()[0], False, 0
        agent.memory = torch.zeros(1, 2)
        while not ended:
            agent.act(torch.as_tensor(observation)[None])
            observation, _, ended, _, info = recorder.step(t % 4)
            grey, last = env.level(episode, t), env.level(episode, t - 1) if t else 0
            assert (info["saliency"]["episode"], info["saliency"]["step"]) == (episode, t)
            np.testing.assert_allclose(info["saliency"]["logits"], [grey, t, last], rtol=1e-5)
            np.testing.assert_allclose(info["saliency"]["actor"], np.full((8, 8), 0.5 * grey**2), rtol=1e-4)
            t += 1


def test_the_recipe_of_the_documentation_works(tiny_gru: TinyGRU) -> None:
    agent = tiny_gru

    class Agent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = agent

        def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            value, logits, state = self.inner((x, state))
            return logits, value, state

    agent = Agent()
    adapter = FunctionAdapter(
        agent,
        evaluate=lambda x, state, start: agent(x, state)[:2],
        incoming=lambda x, state: (x, state),
        outgoing=lambda output: (output[0], output[1]),
        initial_state=lambda n: torch.zeros(n, 8),
    )
    state = torch.zeros(1, 8)

    def play(x: Tensor) -> None:
        nonlocal state
        *_, state = agent(x, state)

    check_adapter(adapter, images(3), play)
