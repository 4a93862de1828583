"""Shapley values of features against brute force, on functions whose truth is known."""

from __future__ import annotations

from itertools import combinations, permutations
from math import factorial
from typing import Any

import numpy as np
import pytest
import torch
from gauges import Dials
from tiny_agents import seeded
from torch import Tensor

from saliency_wrappers import (
    Decision,
    FeatureMean,
    FeatureNoise,
    FeatureOcclusion,
    FeatureShapley,
    FunctionAdapter,
    Marginal,
    QNetworkAdapter,
    as_adapter,
)
from saliency_wrappers.agents.base import PolicyForm
from saliency_wrappers.saliency.feature_game import divergence
from saliency_wrappers.saliency.policy_scores import kl_divergence


def vectors(n: int, features: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(n, features)).astype(np.float32)


def decided(agent: Any, x: Any, action: int | None = None) -> Decision:
    with torch.no_grad():
        logits, value = agent(torch.as_tensor(x)[None])
    return Decision(torch.as_tensor(x)[None], None, logits, value, action=None if action is None else torch.tensor([action]))


def brute_force(worth: Any, n: int) -> Any:
    """Shapley values by the formula over subsets, one at a time."""
    phi = []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        parts = [
            factorial(size) * factorial(n - 1 - size) / factorial(n) * (worth({*subset, i}) - worth(set(subset)))
            for size in range(n)
            for subset in combinations(others, size)
        ]
        phi.append(sum(parts))
    return np.array(phi)


def worth_of(agent: Any, x: Any, rows: Any) -> Any:
    """What a set of features is worth to actor and critic, computed row by row."""
    with torch.no_grad():
        reference = agent(torch.as_tensor(x)[None])[0][0].double().numpy()

    def worth(features: set[int]) -> Any:
        total = np.zeros(2)
        for row in rows:
            mixed = torch.tensor([[x[i] if i in features else row[i] for i in range(len(x))]], dtype=torch.float32)
            with torch.no_grad():
                logits, value = agent(mixed)
            total += [-kl_divergence(reference, logits.double().numpy())[0], value.item()]
        return total / len(rows)

    return worth


@pytest.mark.parametrize("features", [3, 5])
def test_exact_values_are_those_of_brute_force(features: int) -> None:
    agent, x, rows = seeded(Dials, features), vectors(1, features, 1)[0], vectors(6, features)
    made = FeatureShapley(Marginal(rows, rows=6)).explain(as_adapter(agent), decided(agent, x))
    expected = brute_force(worth_of(agent, x, rows), features)
    assert made.critic is not None
    assert np.abs(made.actor.phi - expected[:, 0]).max() < 1e-6
    assert np.abs(made.critic.phi - expected[:, 1]).max() < 1e-6
    assert made.actor.passes == 2**features
    assert not made.actor.standard_error.any()
    assert np.isclose(made.critic.phi.sum(), made.critic.total)


def test_twelve_features_are_exact_and_thirteen_are_sampled_within_their_error() -> None:
    agent, rows = seeded(Dials, 13), vectors(3, 13)
    decision = decided(agent, vectors(1, 13, 1)[0])
    sampled = FeatureShapley(rows, pairs=64).explain(as_adapter(agent), decision)
    exact = FeatureShapley(rows, exact=13).explain(as_adapter(agent), decision)
    assert (sampled.actor.standard_error > 0).all()
    assert (np.abs(sampled.actor.phi - exact.actor.phi) < 5 * sampled.actor.standard_error).all()
    error = np.abs(sampled.actor.phi - exact.actor.phi) / sampled.actor.standard_error
    assert np.mean(error < 2) >= 0.8
    assert np.isclose(sampled.actor.phi.sum(), exact.actor.phi.sum())
    twelve = FeatureShapley(rows, groups={"two": [0, 1]}).explain(as_adapter(agent), decision)
    assert twelve.actor.passes == 2**12


def test_a_group_gets_what_brute_force_gives_it() -> None:
    agent, x, rows = seeded(Dials), vectors(1, 4, 1)[0], vectors(3, 4)
    whole, members = worth_of(agent, x, rows), [{1, 3}, {0}, {2}]

    def worth(players: set[int]) -> Any:
        return whole(set().union(*(members[player] for player in players)))

    made = FeatureShapley(rows, groups={"pair": [1, 3]}).explain(as_adapter(agent), decided(agent, x))
    assert made.actor.names == ("pair", "feature 0", "feature 2")
    assert np.abs(made.actor.phi - brute_force(worth, 3)[:, 0]).max() < 1e-6


class Linear(torch.nn.Module):
    """A value of which the parts are known: 3 a - 2 b; c counts for nothing."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.stack([x[:, 0], 0 * x[:, 0]], dim=1), 3 * x[:, 0] - 2 * x[:, 1]


@pytest.mark.parametrize("method", [FeatureShapley, FeatureOcclusion])
def test_a_linear_value_is_taken_apart(method: Any) -> None:
    agent, x, rows = Linear(), np.array([1.0, 2.0, 5.0], np.float32), vectors(8, 3)
    for fill in (rows, Marginal(rows, rows=8), FeatureMean(rows)):
        made = method(fill)(as_adapter(agent), [decided(agent, x)])[0]
        mean = rows.mean(axis=0)
        assert np.allclose(made.critic, [3 * (x[0] - mean[0]), -2 * (x[1] - mean[1]), 0], atol=1e-5)
        assert made.actor[0] > 0
        assert not made.actor[1:].any()


def test_noise_has_the_spread_of_the_features() -> None:
    rows = vectors(200, 2) * [1, 10] + [0, 5]
    noise = FeatureNoise(rows, rows=500)(np.zeros(2))
    assert np.allclose(noise.mean(axis=0), rows.mean(axis=0), atol=[0.2, 2])
    assert np.allclose(noise.std(axis=0), rows.std(axis=0), rtol=0.1)
    assert np.array_equal(noise, FeatureNoise(rows, rows=500)(np.zeros(2)))


def test_the_output_itself_is_explained_for_the_action_that_was_taken() -> None:
    agent, x, rows = seeded(Dials), vectors(1, 4, 1)[0], vectors(3, 4)
    adapter, decision = as_adapter(agent), decided(agent, x, action=2)
    explained = FeatureShapley(rows).explain(adapter, decision)
    assert len(explained.outputs) == 3
    made = FeatureShapley(rows, game="output")(adapter, [decision])[0]
    assert np.allclose(made.actor, explained.outputs[2].phi)
    assert np.allclose(FeatureShapley(rows, game="output", output=0)(adapter, [decision])[0].actor, explained.outputs[0].phi)
    with pytest.raises(ValueError, match="Expected output= as the index of one of 3 outputs, got None"):
        FeatureShapley(rows, game="output")(adapter, [decided(agent, x)])


@pytest.mark.parametrize("form", ["logits", "gaussian", "numbers"])
def test_divergences_are_those_of_the_distributions(form: PolicyForm) -> None:
    y, others = vectors(1, 4)[0].astype(float), vectors(5, 4, 1).astype(float)
    made = divergence(form, y, others)
    for one, got in zip(others, made, strict=True):
        p, q = torch.tensor(y), torch.tensor(one)
        if form == "logits":
            pair = [torch.distributions.Categorical(logits=z) for z in (p, q)]
        else:
            pair = [torch.distributions.Normal(z[:2], z[2:].exp()) for z in (p, q)]
        expected = 0.5 * (p - q).square().sum() if form == "numbers" else torch.distributions.kl_divergence(*pair).sum()
        assert got == pytest.approx(expected.item(), abs=1e-9)


def test_several_rows_and_decisions_are_explained_one_by_one() -> None:
    agent, rows = seeded(Dials), vectors(4, 4)
    inputs = torch.as_tensor(vectors(3, 4, 2))
    with torch.no_grad():
        logits, value = agent(inputs)
    together = FeatureShapley(rows)(as_adapter(agent), [Decision(inputs, None, logits, value)])
    alone = [FeatureShapley(rows)(as_adapter(agent), [decided(agent, x.numpy())])[0] for x in inputs]
    assert all(np.allclose(a.actor, b.actor, atol=1e-6) for a, b in zip(together, alone, strict=True))


def test_batches_do_not_change_values() -> None:
    agent, rows = seeded(Dials), vectors(5, 4)
    decision, adapter = decided(agent, vectors(1, 4, 1)[0]), as_adapter(agent)
    whole, parts = (FeatureShapley(rows, batch_size=size)(adapter, [decision])[0] for size in (1000, 7))
    assert np.allclose(whole.actor, parts.actor, atol=1e-6)


def test_q_values_are_compared_by_their_squared_differences() -> None:
    network = torch.nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    x = torch.tensor([[2.0, 7.0]])
    decision = Decision(x, None, network(x).detach(), None)
    made = FeatureShapley(0.0)(QNetworkAdapter(network), [decision])[0]
    assert np.allclose(made.actor, [2.0, 0.0])
    assert made.critic is None


def test_a_forbidden_action_has_no_say() -> None:
    def evaluate(x: Tensor, state: Any, start: Any) -> tuple[Tensor, None]:
        return torch.stack([x[:, 0], x[:, 1], torch.full_like(x[:, 0], -torch.inf)], dim=1), None

    adapter = FunctionAdapter(torch.nn.Identity(), evaluate)
    x = torch.tensor([[1.0, 2.0]])
    decision = Decision(x, None, evaluate(x, None, None)[0], None, action=torch.tensor([1]))
    for game in ("divergence", "output"):
        made = FeatureShapley(0.0, game=game)(adapter, [decision])[0]
        assert np.isfinite(made.actor).all()
        assert made.actor[1] > 0


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: FeatureShapley(game="kl"), "Expected game 'divergence' or 'output'"),
        (lambda: FeatureShapley(exact=17), "Expected exact of 0 to 16"),
        (lambda: FeatureShapley("mean"), "Expected a fill for features"),
        (lambda: Marginal(np.zeros((2, 3, 4))), r"Expected network inputs \(n, features\), got an array of shape \(2, 3, 4\)"),
        (lambda: Marginal([]), "Expected at least one vector"),
        (lambda: Marginal(np.full((2, 3), np.nan)), "Expected vectors of finite numbers"),
        (lambda: FeatureShapley(names=["a"]).players(2), "Expected 2 different names"),
        (lambda: FeatureShapley(groups={"g": ["wind"]}).players(2), "Expected the number of a feature, 0 to 1, or its name"),
        (lambda: FeatureShapley(groups={"g": [0], "h": [0]}).players(2), "each feature in one group at most"),
    ],
)
def test_wrong_parameters_say_what_is_expected(make: Any, match: str) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        make()


@pytest.mark.parametrize("fill", [np.zeros(3), np.zeros((2, 2, 4)), lambda x: np.full(4, np.nan), Marginal(np.zeros((2, 5)))])
def test_fills_that_do_not_fit_are_refused(fill: Any) -> None:
    agent = seeded(Dials)
    with pytest.raises(ValueError, match="Expected a fill"):
        FeatureShapley(fill)(as_adapter(agent), [decided(agent, vectors(1, 4)[0])])


def test_an_image_is_refused() -> None:
    decision = Decision(torch.zeros(1, 1, 4, 4), None, torch.zeros(1, 2), None)
    with pytest.raises(ValueError, match=r"Expected a vector \(1, features\) as network input, got \(1, 1, 4, 4\)"):
        FeatureShapley()(QNetworkAdapter(torch.nn.Flatten()), [decision])


def test_orders_of_antithetic_pairs_agree_with_all_orders_on_pairwise_games() -> None:
    """A product of two features is a pairwise game: sampled values are exact, as in the mean over all orders."""

    class Product(torch.nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return torch.stack([x[:, 0], 0 * x[:, 0]], dim=1), x[:, 0] * x[:, 1] + x[:, 2]

    agent, x = Product(), np.array([2.0, 3.0, 4.0], np.float32)
    made = FeatureShapley(0.0, exact=0, pairs=2).explain(as_adapter(agent), decided(agent, x))
    gains = np.zeros(3)
    for order in permutations(range(3)):
        shown = np.zeros(3, np.float32)
        for player in order:
            before = float(shown[0] * shown[1] + shown[2])
            shown[player] = x[player]
            gains[player] += (float(shown[0] * shown[1] + shown[2]) - before) / 6
    assert made.critic is not None
    assert np.allclose(made.critic.phi, gains, atol=1e-6)
