"""Gradient methods: what they give for networks whose gradients are known, and that the agent stays as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sb3_agents import Pictures, model
from sb3_contrib import RecurrentPPO
from tiny_agents import TinyGRU, TinyLSTM, images, seeded

from saliency_wrappers import Decision, FunctionAdapter, Gradient, IntegratedGradients, QNetworkAdapter, SmoothGrad, as_adapter
from saliency_wrappers.agents.module_hooks import with_gradients

METHODS = [Gradient(), SmoothGrad(samples=4), IntegratedGradients(steps=8)]


def decision(adapter: Any, n: int = 1, state: Any = "initial") -> Decision:
    inputs = images(n)
    memory = adapter.initial_state(n) if isinstance(state, str) else state
    return Decision(inputs, memory, *adapter.evaluate(inputs, memory, None))


@pytest.fixture
def linear() -> Any:
    """Logits `(w x, 0)` and the value `3 x[0, 0]`, for weights w of both signs."""
    weights = torch.linspace(-1, 1, 144).reshape(12, 12)

    def evaluate(inputs: torch.Tensor, _state: Any, _start: Any) -> Any:
        first = (inputs[:, 0] * weights).sum(dim=(1, 2))
        return torch.stack([first, 0 * first], dim=1), 3 * inputs[:, 0, 0, 0]

    return FunctionAdapter(torch.nn.Identity(), evaluate)


@pytest.mark.parametrize("method", [Gradient(signed=True), SmoothGrad(4, signed=True)])
def test_the_gradient_of_a_linear_agent_is_its_weights(linear: Any, method: Any):
    one = decision(linear)
    (maps,) = method(linear, [one])
    sign = 1 if one.logits[0, 0] > 0 else -1
    assert maps.actor == pytest.approx(sign * 0.5 * np.linspace(-1, 1, 144).reshape(12, 12), abs=1e-6)
    assert maps.critic[0, 0] == pytest.approx(3)
    assert not maps.critic[1:].any()


@pytest.mark.parametrize("network", [TinyLSTM, TinyGRU])
def test_integrated_gradients_sum_to_the_change_of_the_output(network: Any):
    adapter: Any = as_adapter(seeded(network))
    state = torch.full((1, 8), 0.3)
    one = decision(adapter, state=(state, -state) if network is TinyLSTM else state)
    (maps,) = IntegratedGradients(0.2, 64, signed=True)(adapter, [one])
    logits, value = adapter.evaluate(torch.full_like(one.inputs, 0.2), one.state, None)
    action = int(one.logits.argmax())
    centred = [float(row[0, action] - row.mean()) for row in (one.logits, logits)]
    assert maps.actor.sum() == pytest.approx(centred[0] - centred[1], abs=1e-4)
    assert one.value is not None
    assert maps.critic is not None
    assert maps.critic.sum() == pytest.approx(float(one.value - value), abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_state_that_went_in_is_held(method: Any):
    adapter: Any = as_adapter(seeded(TinyLSTM))
    states = [(torch.full((1, 8), level), torch.full((1, 8), level)) for level in (0.0, 2.0)]
    made = [method(adapter, [decision(adapter, state=state)])[0].actor for state in states]
    assert np.abs(made[0] - made[1]).max() > 1e-3 * np.abs(made[0]).max()


@pytest.mark.parametrize("method", METHODS)
def test_nothing_of_the_agent_changes_and_maps_repeat(method: Any):
    agent = seeded(TinyLSTM).train()
    adapter: Any = as_adapter(agent)
    one = decision(adapter)
    before = one.inputs.clone(), torch.get_rng_state(), {name: part.clone() for name, part in agent.state_dict().items()}
    with torch.inference_mode():
        first, second = (method(adapter, [one])[0].actor for _ in range(2))
    assert np.array_equal(first, second)
    assert first.shape == (12, 12)
    assert first.dtype == np.float32
    assert (first >= 0).all()
    assert torch.equal(one.inputs, before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert all(torch.equal(part, before[2][name]) for name, part in agent.state_dict().items())
    assert agent.training
    assert all(part.grad is None for part in agent.parameters())


def test_rows_are_explained_one_by_one():
    adapter: Any = as_adapter(seeded(TinyGRU))
    every = Gradient()(adapter, [decision(adapter, 3)])
    assert len(every) == 3
    row = images(3)[2:]
    (alone,) = Gradient()(adapter, [Decision(row, adapter.initial_state(1), *adapter.evaluate(row, adapter.initial_state(1), None))])
    assert every[2].actor == pytest.approx(alone.actor, abs=1e-6)


def test_an_agent_that_scales_its_input_in_place_is_differentiated():
    class InPlace(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(144, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x /= 2
            return self.layer(x.flatten(1))

    adapter = QNetworkAdapter(seeded(InPlace), input_range=(0.0, 1.0))
    inputs = images()
    (maps,) = Gradient()(adapter, [Decision(inputs, None, adapter.evaluate(inputs.clone(), None, None)[0], None)])
    assert maps.actor.any()
    assert maps.critic is None
    assert torch.equal(inputs, images())


def test_an_agent_of_sb3_contrib_is_differentiated():
    adapter: Any = as_adapter(model(RecurrentPPO, Pictures(), policy="CnnLstmPolicy").policy)
    inputs = 255 * images(channels=3)
    state, start = adapter.initial_state(1), torch.zeros(1, dtype=torch.bool)
    (maps,) = IntegratedGradients(steps=4)(adapter, [Decision(inputs, state, *adapter.evaluate(inputs, state, start), start)])
    assert maps.actor.any()
    assert maps.critic.any()


def test_an_agent_without_gradients_is_refused(linear: Any):
    def evaluate(inputs: torch.Tensor, _state: Any, _start: Any) -> Any:
        with torch.no_grad():
            return 2 * inputs.flatten(1)[:, :2], None

    adapter = FunctionAdapter(torch.nn.Identity(), evaluate)
    with pytest.raises(ValueError, match="can be differentiated"):
        Gradient()(adapter, [decision(adapter)])


def test_parts_that_cannot_be_are_refused():
    for make in (lambda: SmoothGrad(0), lambda: SmoothGrad(noise=-1.0), lambda: IntegratedGradients(steps=0)):
        with pytest.raises(ValueError, match="Expected"):
            make()


def test_gradients_are_on_within_the_block_only():
    adapter: Any = as_adapter(seeded(TinyGRU))
    inputs, state = images().requires_grad_(), adapter.initial_state(1)
    with with_gradients():
        assert adapter.evaluate(inputs, state, None)[0].requires_grad
    assert not adapter.evaluate(inputs, state, None)[0].requires_grad
