"""Agents without an adapter of their own: what is recognised, what is told to the user, and what `FunctionAdapter` takes."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal

from saliency_wrappers import FunctionAdapter, RecurrentAgentHook, ReplayMismatchError, SaliencyRecorder
from saliency_wrappers.agents import as_adapter
from saliency_wrappers.agents.policy_outputs import read_outputs
from saliency_wrappers.testing import AdapterContractError, check_adapter


class Game(gym.Env[Any, Any]):
    observation_space, action_space = gym.spaces.Box(0, 255, (1, 12, 12), np.uint8), gym.spaces.Discrete(4)

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)

    def observation(self) -> Any:
        return self.random.integers(0, 256, (1, 12, 12), dtype=np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.observation(), {}

    def step(self, action: Any) -> Any:
        return self.observation(), 0.0, False, False, {}


class Parts(nn.Module):
    """Features, and heads for policy and value; subclasses put them together."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.pi, self.v = nn.Sequential(nn.Conv2d(1, 4, 5, 3), nn.Tanh(), nn.Flatten()), nn.Linear(36, 4), nn.Linear(36, 1)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x.float() / 255)
        return self.pi(h), self.v(h)


def forms() -> dict[str, type[Parts]]:
    class Logits(Parts):
        def forward(self, x: Tensor) -> Any:
            return self.both(x)[0]

    class Pair(Parts):
        def forward(self, x: Tensor) -> Any:
            return self.both(x)

    class Reversed(Parts):
        def forward(self, x: Tensor) -> Any:
            logits, value = self.both(x)
            return value.flatten(), logits

    class Named(Parts):
        def forward(self, x: Tensor) -> Any:
            logits, value = self.both(x)
            return {"value": value, "logits": logits, "features": x}

    class Distribution(Parts):
        def forward(self, x: Tensor) -> Any:
            logits, value = self.both(x)
            return Categorical(logits=logits), value

    return {form.__name__: form for form in (Logits, Pair, Reversed, Named, Distribution)}


@pytest.mark.parametrize("name", forms())
def test_modules_without_memory_are_recognised_by_their_first_call_and_their_user_is_told(name: str) -> None:
    agent = forms()[name]()
    env = SaliencyRecorder(Game(), RecurrentAgentHook(agent))
    observation, _ = env.reset()
    for t in range(3):
        x = torch.as_tensor(observation[None]).float()
        agent(x)
        logits, value = agent.both(x)
        if t:
            observation, *_, info = env.step(0)
        else:
            with pytest.warns(UserWarning, match=r"taken as an agent without memory .* 0\.\.255 .*QNetworkAdapter.*FunctionAdapter"):
                observation, *_, info = env.step(0)
        found = torch.as_tensor(info["saliency"]["logits"])
        torch.testing.assert_close(found.log_softmax(0), logits[0].detach().log_softmax(0), rtol=1e-4, atol=1e-5)
        assert (info["saliency"]["value"] is None) == (name == "Logits")
        if name != "Logits":
            np.testing.assert_allclose(info["saliency"]["value"], value.item(), rtol=1e-4)
        assert info["saliency"]["actor"].max() > 0


def test_a_recognised_module_keeps_the_contract() -> None:
    agent = forms()["Pair"]()
    adapter = as_adapter(agent)
    agent_inputs = torch.randint(0, 256, (3, 1, 12, 12)).float()
    detach = adapter.attach(lambda seen: None)
    agent(agent_inputs)
    detach()
    check_adapter(adapter, agent_inputs, lambda x: agent(x))
    check_adapter(adapter, agent_inputs)


@pytest.mark.parametrize(
    "output",
    [
        torch.zeros(2, 1),
        torch.zeros(2),
        torch.zeros(2, 3, 4),
        torch.zeros(2, 3, dtype=torch.long),
        (torch.zeros(2, 3), torch.zeros(2, 3)),
        (torch.zeros(2, 3), None),
        (torch.zeros(2, 3), torch.zeros(2, 1), None),
        {"value": torch.zeros(2, 1)},
        {"hidden": torch.zeros(2, 3)},
        "text",
    ],
)
def test_what_could_be_read_in_two_ways_is_not_read(output: Any) -> None:
    assert read_outputs(output) is None


def test_a_gaussian_is_read_as_mean_and_log_std() -> None:
    policy = Independent(Normal(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0]])), 1)
    read = read_outputs((policy, torch.zeros(1)))
    assert read is not None
    assert read[0].tolist() == [[1, 2, 0, 0]]


def steps_until_warned(agent: Any, act: Any, steps: int = 12) -> tuple[int, str]:
    env = SaliencyRecorder(Game(), RecurrentAgentHook(agent))
    observation, _ = env.reset()
    for t in range(steps):
        act(torch.as_tensor(observation[None]).float())
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            observation, *_ = env.step(0)
        if told:
            return t, str(told[0].message)
    return steps, ""


def test_an_agent_of_an_unknown_form_is_told_of_within_ten_steps() -> None:
    class Triple(Parts):
        def forward(self, x: Tensor, flag: bool) -> Any:
            return (*self.both(x), flag, "info")

    agent = Triple()
    when, text = steps_until_warned(agent, lambda x: agent(x, True))
    assert when < 10
    assert "of another form" in text
    assert "QNetworkAdapter(model) for module(x) -> logits" in text
    assert "FunctionAdapter" in text


@pytest.mark.parametrize("method", ["get_action", "act", "select_action"])
def test_an_agent_that_acts_by_a_method_is_told_of_within_ten_steps(method: str) -> None:
    agent_type = type("Own", (Parts,), {method: lambda self, x: self.both(x)[0].argmax(1)})
    agent = agent_type()
    when, text = steps_until_warned(agent, getattr(agent, method))
    assert when < 10
    assert f'FunctionAdapter(agent, evaluate=..., method="{method}")' in text


def test_random_actions_at_the_beginning_are_not_told_of() -> None:
    assert steps_until_warned(forms()["Logits"](), lambda x: None) == (12, "")


# What FunctionAdapter takes.


class Acts(Parts):
    def act(self, x: Tensor, deterministic: Any = False) -> Any:
        logits, value = self.both(x)
        return logits.argmax(1), torch.tanh(value)

    def actor_only(self, x: Tensor) -> Any:
        return self.pi(self.body(x.float() / 255))


def tanh_value(agent: Acts) -> Any:
    def evaluate(x: Tensor, state: Any, start: Any) -> Any:
        logits, value = agent.both(x)
        return logits, torch.tanh(value)

    return evaluate


INPUTS = torch.arange(3 * 144.0).reshape(3, 1, 12, 12) % 251


def test_a_value_that_the_call_returns_is_read_beside_a_layer_of_the_actor() -> None:
    agent = Acts()
    seen: list[Any] = []
    adapter = FunctionAdapter(
        agent, tanh_value(agent), method="act", actor=agent.pi, outgoing=lambda out: (None, out[1]), input_range=(0.0, 255.0)
    )
    check_adapter(adapter, INPUTS, lambda x: agent.act(x))
    adapter.attach(seen.append)
    agent.act(INPUTS[:1])
    assert seen[0].value is not None


@pytest.mark.parametrize("by", ["layer", "output"])
def test_the_value_is_evaluated_where_acting_runs_the_actor_only(by: str) -> None:
    agent = Acts()
    adapter = FunctionAdapter(
        agent,
        tanh_value(agent),
        method="actor_only",
        incoming=lambda x: (x, None),
        actor=agent.pi if by == "layer" else None,
        input_range=(0.0, 255.0),
    )
    check_adapter(adapter, INPUTS, lambda x: agent.actor_only(x))
    env = SaliencyRecorder(Game(), RecurrentAgentHook(adapter))
    observation, _ = env.reset()
    x = torch.as_tensor(observation[None])
    agent.actor_only(x)
    info = env.step(0)[-1]
    np.testing.assert_allclose(info["saliency"]["value"], torch.tanh(agent.both(x)[1]).item(), rtol=1e-4)
    assert info["saliency"]["critic"] is not None


@pytest.mark.parametrize("second", [True, 0.1, None, np.float32(0.5), "greedy"])
def test_a_second_argument_that_is_no_state_is_none(second: Any) -> None:
    agent = Acts()
    seen: list[Any] = []
    FunctionAdapter(agent, tanh_value(agent), method="act", actor=agent.pi).attach(seen.append)
    agent.act(INPUTS[:1], second)
    assert seen[0].state is None


def test_a_state_without_an_initial_state_is_named() -> None:
    agent = Acts()
    seen: list[Any] = []
    FunctionAdapter(agent, tanh_value(agent), method="act", actor=agent.pi).attach(seen.append)
    agent.act(INPUTS[:1], torch.zeros(1, 8))
    assert "initial_state=lambda n:" in seen[0].reason


def test_normalised_logits_are_the_same_policy() -> None:
    agent = Acts()

    def evaluate(x: Tensor, state: Any, start: Any) -> Any:
        logits, value = agent.both(x)
        return Categorical(logits=logits).logits, torch.tanh(value)

    check_adapter(FunctionAdapter(agent, evaluate, method="act", actor=agent.pi, input_range=(0.0, 255.0)), INPUTS, lambda x: agent.act(x))


def test_logits_that_differ_by_a_constant_for_another_reason_are_a_mismatch_that_says_so() -> None:
    agent = Acts()
    adapter = FunctionAdapter(
        agent, lambda x, state, start: (agent.both(x)[0] + 3, None), method="act", actor=agent.pi, input_range=(0.0, 255.0)
    )
    with pytest.raises((ReplayMismatchError, AdapterContractError), match="differ by a constant in each row"):
        check_adapter(adapter, INPUTS, lambda x: agent.act(x))
