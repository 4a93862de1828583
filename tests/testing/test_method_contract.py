"""`SaliencyMethodContract` as a user's test, and methods that each break a law."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_agents import images
from xaitk_saliency.impls.perturb_image.sliding_window import SlidingWindow

from saliency_wrappers import LeaveOneOut, ObjectShapley, PerturbationSaliency, as_adapter
from saliency_wrappers.agents import AgentAdapter
from saliency_wrappers.decisions import Decision, SaliencyMaps
from saliency_wrappers.saliency.method import SaliencyMethod
from saliency_wrappers.saliency.presets import PRESETS, saliency_method
from saliency_wrappers.testing import MethodContractError, SaliencyMethodContract, TinyAgent, check_method

WINDOWS = SlidingWindow((4, 4), (4, 4))


class TestPerturbationSaliency(SaliencyMethodContract):
    def make_method(self) -> SaliencyMethod:
        return PerturbationSaliency(WINDOWS)


class TestMapsOfEachFrame(SaliencyMethodContract):
    def make_method(self) -> SaliencyMethod:
        return PerturbationSaliency(WINDOWS, frames=2)

    def make_adapter(self) -> AgentAdapter:
        return as_adapter(TinyAgent(channels=2, seed=1))

    def make_decisions(self, adapter: AgentAdapter) -> list[Decision]:
        return [Decision(x, adapter.initial_state(1), *adapter.evaluate(x, adapter.initial_state(1), None)) for x in images(3, 2)[:, None]]


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_keep_the_contract(preset: str):
    method: Any = saliency_method(preset)
    check_method(PerturbationSaliency(method.perturber, method.saliency_gen, 0.0, weighting=method.weighting))


@pytest.mark.parametrize("path", ["plain", "incremental"])
def test_both_paths_keep_the_contract(path: Any):
    check_method(PerturbationSaliency(WINDOWS, path=path))


@pytest.mark.parametrize("kind", [ObjectShapley, LeaveOneOut])
def test_methods_of_objects_keep_the_contract(kind: Any):
    check_method(kind(0.0))


@pytest.fixture(scope="module")
def agent() -> AgentAdapter:
    return as_adapter(TinyAgent(seed=0))


class Differences:
    """A method that keeps the contract: how far a blank input changes the outputs, where the input is not blank."""

    def __call__(self, adapter: AgentAdapter, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
        return [self.one(adapter, decision) for decision in decisions]

    def one(self, adapter: AgentAdapter, decision: Decision) -> SaliencyMaps:
        with torch.no_grad():
            logits, value = adapter.evaluate(torch.zeros_like(decision.inputs), decision.state, decision.episode_start)
        shown = decision.inputs[0].mean(dim=0).numpy()
        actor = float((logits - decision.logits).abs().sum()) * shown
        critic = None if value is None or decision.value is None else float((value - decision.value).abs().sum()) * shown
        return SaliencyMaps(actor, critic)


class OneTooFew(Differences):
    def __call__(self, adapter: AgentAdapter, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
        return super().__call__(adapter, decisions)[: max(1, len(decisions) - 1)]


class GivesArrays(Differences):
    def __call__(self, adapter: AgentAdapter, decisions: Sequence[Decision]) -> list[Any]:
        return [maps.actor for maps in super().__call__(adapter, decisions)]


class Downscaled(Differences):
    def one(self, adapter: AgentAdapter, decision: Decision) -> SaliencyMaps:
        maps = super().one(adapter, decision)
        return SaliencyMaps(maps.actor[::2, ::2], maps.critic)


class DoublePrecision(Differences):
    def one(self, adapter: AgentAdapter, decision: Decision) -> SaliencyMaps:
        maps = super().one(adapter, decision)
        return SaliencyMaps(maps.actor.astype(np.float64), maps.critic)  # type: ignore[arg-type]


class ScaledToOne(Differences):
    """A peak of 1, which is 0 / 0 for an agent that ignores its input."""

    def one(self, adapter: AgentAdapter, decision: Decision) -> SaliencyMaps:
        maps = super().one(adapter, decision)
        with np.errstate(invalid="ignore"):
            return SaliencyMaps(maps.actor / maps.actor.max(), maps.critic)


class NotANumber(Differences):
    def one(self, adapter: AgentAdapter, decision: Decision) -> SaliencyMaps:
        maps = super().one(adapter, decision)
        return SaliencyMaps(maps.actor, maps.actor * np.float32(np.nan))


class Noisy(Differences):
    def __init__(self) -> None:
        self.noise = np.random.default_rng(0)

    def one(self, adapter: AgentAdapter, decision: Decision) -> SaliencyMaps:
        maps = super().one(adapter, decision)
        return SaliencyMaps(maps.actor * np.float32(self.noise.uniform(0.5, 1)), maps.critic)


class RelativeToTheOthers(Differences):
    def __call__(self, adapter: AgentAdapter, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
        maps = super().__call__(adapter, decisions)
        most = max([float(one.actor.max()) for one in maps], default=1.0) or 1.0
        return [SaliencyMaps(one.actor / np.float32(most), one.critic) for one in maps]


class Reversed(Differences):
    def __call__(self, adapter: AgentAdapter, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
        return sorted(super().__call__(adapter, decisions), key=lambda maps: float(maps.actor.sum()))


class InventsACritic(Differences):
    def one(self, adapter: AgentAdapter, decision: Decision) -> SaliencyMaps:
        maps = super().one(adapter, decision)
        return SaliencyMaps(maps.actor, maps.actor)


class ShowsTheInput(Differences):
    def one(self, adapter: AgentAdapter, decision: Decision) -> SaliencyMaps:
        return SaliencyMaps(decision.inputs[0, 0].numpy().copy(), None)


class WritesToInputs(Differences):
    def one(self, adapter: AgentAdapter, decision: Decision) -> SaliencyMaps:
        maps = super().one(adapter, decision)
        decision.inputs.mul_(1.0001)
        return maps


class Trains(Differences):
    def one(self, adapter: AgentAdapter, decision: Decision) -> SaliencyMaps:
        maps = super().one(adapter, decision)
        if module := getattr(adapter, "module", None):
            with torch.no_grad():
                module.actor_linear.bias += 0.001
        return maps


class Draws(Differences):
    def one(self, adapter: AgentAdapter, decision: Decision) -> SaliencyMaps:
        torch.rand(1)
        return super().one(adapter, decision)


class LeavesGradients(Differences):
    def one(self, adapter: AgentAdapter, decision: Decision) -> SaliencyMaps:
        maps = super().one(adapter, decision)
        if module := getattr(adapter, "module", None):
            with torch.enable_grad():
                module((decision.inputs, decision.state))[1].sum().backward()
        return maps


@pytest.mark.parametrize(
    ("broken", "law", "message"),
    [
        (OneTooFew, "each_decision_gets_maps", "OneTooFew gives one SaliencyMaps a decision, 3, got 2"),
        (GivesArrays, "each_decision_gets_maps", "GivesArrays gives SaliencyMaps, got ndarray"),
        (Downscaled, "maps_have_the_size_of_the_input", r"actor maps \(12, 12\) or \(k, \*\(12, 12\)\), got \(6, 6\)"),
        (DoublePrecision, "maps_are_finite_float32", "actor maps of float32, got float64"),
        (NotANumber, "maps_are_finite_float32", "finite critic maps"),
        (ScaledToOne, "an_agent_that_ignores_its_input_gets_zeros", "actor maps of zeros for an agent that ignores its input"),
        (Noisy, "maps_are_deterministic", "the same decisions get the same maps"),
        (RelativeToTheOthers, "maps_do_not_depend_on_other_decisions", "do not depend on the decisions beside it"),
        (Reversed, "maps_do_not_depend_on_other_decisions", "stay in its place"),
        (InventsACritic, "without_values_there_is_no_critic_map", "critic is None for an agent without a value output"),
        (ShowsTheInput, "an_agent_that_ignores_its_input_gets_zeros", "got up to 0.9"),
        (WritesToInputs, "decisions_are_left_as_they_are", "decisions are left as they are"),
        (Trains, "the_agent_is_left_as_it_is", r"the method leaves weights and buffers as they are, it changed actor_linear\.bias"),
        (Draws, "the_agent_is_left_as_it_is", "the method leaves torch's random state as it is"),
        (LeavesGradients, "gradients_are_left_as_they_are", "no gradients in the agent's parameters"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_contract_says_what_a_broken_method_breaks(broken: Any, law: str, message: str):
    with pytest.raises(MethodContractError) as raised:
        check_method(broken())
    assert re.search(message, raised.value.laws[f"test_{law}"])
    assert raised.value.laws[f"test_{law}"] in str(raised.value)


def test_a_method_that_keeps_the_contract_passes(agent: AgentAdapter):
    check_method(Differences())
    decisions = SaliencyMethodContract().make_decisions(agent)
    check_method(Differences(), agent, [replace(one, value=None) for one in decisions])


def test_a_method_is_checked_on_two_decisions_at_least(agent: AgentAdapter):
    decisions = SaliencyMethodContract().make_decisions(agent)
    with pytest.raises(ValueError, match="Expected at least two decisions, got 1"):
        check_method(Differences(), agent, decisions[:1])
    with pytest.raises(NotImplementedError, match="defines make_method"):
        _ = SaliencyMethodContract().method
