"""Objects, Shapley values and the share of memory, on agents whose truth is known."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from saliency_wrappers import Decision, FunctionAdapter, LeaveOneOut, ObjectShapley, PerturbationSaliency, memory_share
from saliency_wrappers.faithfulness import CurveMaker
from saliency_wrappers.saliency.objects import find_objects
from saliency_wrappers.saliency.shapley import shapley_values


def product_game(weights: Any) -> Any:
    """A game with interactions and two components."""
    w = np.asarray(weights)

    def game(coalitions: Any) -> Any:
        sums = coalitions @ w
        return np.stack([sums**2, np.sin(sums)], axis=1)

    return game


def test_exact_values_are_the_mean_over_all_orders():
    game, n = product_game([0.3, -1.0, 2.0, 0.7]), 4
    expected = np.zeros((n, 2))
    for order in permutations(range(n)):
        there = np.zeros((1, n), bool)
        for player in order:
            before = game(there)[0]
            there[0, player] = True
            expected[player] += (game(there)[0] - before) / 24
    made = shapley_values(game, n)
    assert np.allclose(made.phi, expected)
    assert made.passes == 16
    assert not made.standard_error.any()


@pytest.mark.parametrize("n", [0, 1, 5, 9, 20])
def test_values_sum_to_the_whole(n: int):
    made = shapley_values(product_game(np.linspace(-1, 1, n)), n)
    assert np.allclose(made.phi.sum(axis=0), made.total, atol=1e-9)


def test_sampled_values_are_near_the_exact_ones_within_their_error():
    game = product_game(np.random.default_rng(0).normal(size=9))
    exact, sampled = shapley_values(game, 9, exact=9), shapley_values(game, 9, pairs=64)
    assert (np.abs(sampled.phi - exact.phi) < 5 * sampled.standard_error + 1e-9).all()
    assert np.allclose(sampled.phi[:, 0], exact.phi[:, 0])  # antithetic pairs are exact where players interact in pairs
    assert sampled.passes <= 512


def scene() -> tuple[Any, Any]:
    background = np.full((1, 20, 20), 0.2, np.float32)
    image = background.copy()
    image[0, 2:4, 2:4] = 1.0
    image[0, 10, 10] = image[0, 11, 11] = 0.9  # touch at a corner
    image[0, 17, 2] = 0.22  # below the threshold
    return image, background


def test_objects_are_components_grown_without_overlap():
    image, background = scene()
    segments = find_objects(image, background)
    assert segments.max() == 2
    assert segments[2, 2] == 1  # the largest change first
    assert segments[10, 10] == segments[11, 11] == 2
    assert segments[1, 2] == segments[1, 1] == 1
    assert segments[5, 2] == 0
    assert segments[17, 2] == 0
    assert find_objects(background, background).max() == 0
    assert (find_objects(image, background, most=1) > 0).sum() > (segments == 1).sum()


class Sees(torch.nn.Module):
    """Four times as fond of one place as of another."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        a, b = images[:, 0, 2:4, 2:4].mean(dim=(1, 2)), images[:, 0, 10, 10]
        return torch.stack([4 * a + b, -a], dim=1), 2 * a[:, None] + b[:, None]


@pytest.fixture
def adapter() -> FunctionAdapter:
    sees = Sees()
    return FunctionAdapter(sees, lambda images, _state, _start: sees(images))


def decision(adapter: Any) -> Decision:
    inputs = torch.as_tensor(scene()[0])[None]
    return Decision(inputs, None, *adapter.evaluate(inputs, None, None))


@pytest.mark.parametrize("options", [{}, {"exact": 0}])
def test_parts_of_objects_are_true_for_a_linear_agent(adapter: Any, options: Any):
    method = ObjectShapley(scene()[1], game="logit", **options)
    actor, critic = method.explain(adapter, decision(adapter))
    assert actor.phi == pytest.approx([0.5 * 5 * 0.8, 0.5 * 0.7], abs=1e-5)
    assert critic is not None
    assert critic.phi == pytest.approx([1.6, 0.7], abs=1e-5)
    assert actor.phi.sum() == pytest.approx(actor.total, abs=1e-5)
    assert actor.sentence(["paddle", "ball"]) == "paddle 85 %, ball 15 %"


@pytest.mark.parametrize("method", [ObjectShapley, LeaveOneOut])
def test_maps_paint_each_part_on_its_object(adapter: Any, method: Any):
    one = decision(adapter)
    made = method(scene()[1])
    actor, _ = made.explain(adapter, one)
    (maps,) = made(adapter, [one])
    for i in (1, 2):
        there = actor.segments == i
        assert maps.actor[there].sum() == pytest.approx(actor.phi[i - 1], abs=1e-6)
        assert np.ptp(maps.actor[there]) == 0
    assert not maps.actor[actor.segments == 0].any()
    (detailed,) = method(scene()[1], inside=PerturbationSaliency(weighting="change"))(adapter, [one])
    assert detailed.actor.sum() == pytest.approx(actor.phi.sum(), abs=1e-5)
    assert np.ptp(detailed.actor[actor.segments == 1]) > 0


@pytest.mark.parametrize("method", [ObjectShapley, LeaveOneOut])
def test_an_agent_of_float64_is_asked_in_float64(method: Any):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(400, 3)).double()
    agent = FunctionAdapter(network, lambda images, _state, _start: (network(images), None))
    inputs = torch.as_tensor(scene()[0])[None].double()
    actor, _ = method(scene()[1], game="logit").explain(agent, Decision(inputs, None, *agent.evaluate(inputs, None, None)))
    assert actor.phi.sum() == pytest.approx(actor.total, abs=1e-5)  # exact for both methods, since the agent is linear
    curves = CurveMaker(agent, Decision(inputs, None, *agent.evaluate(inputs, None, None)), {"black": 0.0}).curves(np.arange(400))
    assert curves["black", "insertion"].policy[-1] == pytest.approx(0, abs=1e-6)


def test_an_input_without_objects_has_a_zero_map(adapter: Any):
    one = decision(adapter)
    for method in (ObjectShapley(one.inputs[0].numpy()), LeaveOneOut(one.inputs[0].numpy())):
        (maps,) = method(adapter, [one])
        assert not maps.actor.any()
        assert method.explain(adapter, one)[0].sentence() == "no object matters"


def test_objects_come_from_any_callable(adapter: Any):
    whole = np.ones((20, 20), int)
    method = ObjectShapley(scene()[1], objects=lambda image, background: whole)
    actor, _ = method.explain(adapter, decision(adapter))
    assert actor.phi == pytest.approx([actor.total])
    with pytest.raises(ValueError, match="Expected segments of the input's size"):
        ObjectShapley(0.0, objects=lambda image, background: np.ones((2, 2), int)).explain(adapter, decision(adapter))
    with pytest.raises(ValueError, match="Expected game"):
        ObjectShapley(0.0, game="value")


class Remembers(torch.nn.Module):
    """Logits of the frame and of the state, with weights; the state is a column."""

    def __init__(self, frame: float, memory: float) -> None:
        super().__init__()
        self.weights = frame, memory

    def forward(self, images: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y = self.weights[0] * images.mean(dim=(1, 2, 3)) + self.weights[1] * state[:, 0]
        return torch.stack([y, -y], dim=1), y[:, None]


def remembering(frame: float, memory: float) -> tuple[Any, list[Decision]]:
    agent = Remembers(frame, memory)
    adapter = FunctionAdapter(agent, lambda images, state, _start: agent(images, state), initial_state=lambda n: torch.zeros(n, 1))
    random = torch.Generator().manual_seed(0)
    made = []
    for _ in range(10):
        inputs, state = torch.rand(1, 1, 4, 4, generator=random), torch.rand(1, 1, generator=random)
        made.append(Decision(inputs, state, *agent(inputs, state)))
    return adapter, made


@pytest.mark.parametrize(("frame", "memory", "expected"), [(1.0, 0.0, 0.0), (0.0, 1.0, 1.0)])
def test_an_agent_of_one_source_has_a_share_of_zero_or_one(frame: float, memory: float, expected: float):
    adapter, made = remembering(frame, memory)
    share = memory_share(adapter, made[0], made[1:])
    assert share.share == pytest.approx(expected, abs=1e-5)
    assert share.value_share == pytest.approx(expected, abs=1e-5)


def test_parts_of_frame_and_memory_add_up():
    adapter, made = remembering(2.0, 1.0)
    one, others = made[0], made[1:]
    share = memory_share(adapter, one, others, baseline=len(others))
    baseline = np.mean([float((2 * other.inputs.mean() + 0 * other.state).item()) for other in others]) + np.mean(
        [float(other.state.item()) for other in others]
    )
    assert share.value_frame is not None
    assert share.value_memory is not None
    assert share.value_frame + share.value_memory == pytest.approx(float(one.value.item()) - baseline, abs=1e-5)
    assert share.value_memory == pytest.approx(float(one.state.item()) - np.mean([float(other.state.item()) for other in others]), abs=1e-5)
    assert 0 <= share.share <= 1


def test_an_agent_without_memory_is_refused(adapter: Any):
    with pytest.raises(ValueError, match="Expected a decision with a recurrent state, got None"):
        memory_share(adapter, decision(adapter), [decision(adapter)])
    remember, made = remembering(1, 1)
    with pytest.raises(ValueError, match="Expected other decisions"):
        memory_share(remember, made[0], [])
