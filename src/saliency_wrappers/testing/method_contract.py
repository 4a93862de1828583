"""`SaliencyMethodContract`: the laws of `SaliencyMethod`, to be subclassed in a test. `check_method` runs them on one method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from saliency_wrappers.agents import AgentAdapter, as_adapter
from saliency_wrappers.agents.base import split_rows
from saliency_wrappers.decisions import Array, Decision, SaliencyMaps
from saliency_wrappers.saliency.method import SaliencyMethod
from saliency_wrappers.states import StateTree, state_leaves
from saliency_wrappers.testing.agent_snapshot import AgentSnapshot
from saliency_wrappers.testing.contract import Contract, ContractError, equal_tensors
from saliency_wrappers.testing.tiny_agent import TinyAgent


class MethodContractError(ContractError):
    """A method breaks laws of `SaliencyMethod`."""


class SaliencyMethodContract(Contract):
    """The laws that every `SaliencyMethod` keeps, one `test_*` method each.

    Subclass it in a test module; pytest runs each law by itself::

        class TestMyMethod(SaliencyMethodContract):
            def make_method(self) -> SaliencyMethod:
                return MyMethod()

    A method that needs a certain agent or certain inputs overrides `make_adapter` and `make_decisions`, too.
    """

    error = MethodContractError

    def make_method(self) -> SaliencyMethod:
        """Return the method to check."""
        raise NotImplementedError(f"{type(self).__name__} defines make_method, which returns the method to check.")

    def make_adapter(self) -> AgentAdapter:
        """Return the agent that decided. By default a `TinyAgent` with a convolution, an LSTM cell and a critic."""
        return as_adapter(TinyAgent(seed=0))

    def make_decisions(self, adapter: AgentAdapter) -> list[Decision]:
        """Return at least two decisions of one row that differ. By default three of `make_adapter`'s agent on `(1, 1, 12, 12)`."""
        generator, state = torch.Generator().manual_seed(0), adapter.initial_state(1)
        return [_decided(adapter, torch.rand(1, 1, 12, 12, generator=generator), state) for _ in range(3)]

    @cached_property
    def method(self) -> SaliencyMethod:
        """The method that is checked."""
        return self.make_method()

    @cached_property
    def adapter(self) -> AgentAdapter:
        """The adapter of the agent that decided."""
        return self.make_adapter()

    @cached_property
    def decisions(self) -> list[Decision]:
        """The decisions that are explained; `ValueError` for fewer than two."""
        decisions = [row for decision in self.make_decisions(self.adapter) for row in split_rows(self.adapter, decision)]
        if len(decisions) < 2:
            raise ValueError(f"Expected at least two decisions, got {len(decisions)}.")
        return decisions

    @cached_property
    def _maps(self) -> list[SaliencyMaps]:
        return self.method(self.adapter, self.decisions)

    def test_each_decision_gets_maps(self) -> None:
        """A list with one `SaliencyMaps` for each row of each decision; none for no decisions."""
        n, name = len(self.decisions), type(self.method).__name__
        self.require(len(self._maps) == n, f"{name} gives one SaliencyMaps a decision, {n}, got {len(self._maps)}")
        kinds = {type(one).__name__ for one in self._maps}
        self.require(kinds == {"SaliencyMaps"}, f"{name} gives SaliencyMaps, got {', '.join(sorted(kinds))}")
        self.require(len(self.method(self.adapter, [])) == 0, f"{name} gives no maps for no decisions")

    def test_maps_have_the_size_of_the_input(self) -> None:
        """Maps are `(h, w)`, or `(k, h, w)` for k parts of the input."""
        for decision, maps in zip(self.decisions, self._maps, strict=True):
            size = tuple(decision.inputs.shape[2:])
            for name, one in _by_head(maps):
                self.require(one.ndim in (2, 3) and one.shape[-2:] == size, f"{name} maps {size} or (k, *{size}), got {one.shape}")

    def test_maps_are_finite_float32(self) -> None:
        """No NaN, no infinity, dtype float32."""
        for maps in self._maps:
            for name, one in _by_head(maps):
                self.require(one.dtype == np.float32, f"{name} maps of float32, got {one.dtype}")
                self.require(bool(np.isfinite(one).all()), f"finite {name} maps")

    def test_maps_are_deterministic(self) -> None:
        """The same decisions get the same maps."""
        self._require_same(self.method(self.adapter, self.decisions), self._maps, "the same decisions get the same maps")

    def test_maps_do_not_depend_on_other_decisions(self) -> None:
        """A decision has the same maps by itself and together with others, in any order."""
        backwards = self.method(self.adapter, self.decisions[::-1])[::-1]
        self._require_same(backwards, self._maps, "a decision's maps stay in its place, whatever the order of decisions")
        single = [self.method(self.adapter, [decision])[0] for decision in self.decisions]
        self._require_same(single, self._maps, "a decision's maps do not depend on the decisions beside it")

    def test_without_values_there_is_no_critic_map(self) -> None:
        """`critic` is None for an agent without a value output."""
        decisions = [replace(decision, value=None) for decision in self.decisions]
        maps = self.method(_WithoutValue(self.adapter), decisions)
        self.require(all(one.critic is None for one in maps), "critic is None for an agent without a value output")

    def test_an_agent_that_ignores_its_input_gets_zeros(self) -> None:
        """Where outputs never change, maps are 0 everywhere and finite."""
        adapter = _Constant(self.adapter, self.decisions[0])
        decisions = [replace(one, logits=self.decisions[0].logits, value=self.decisions[0].value) for one in self.decisions]
        for maps in self.method(adapter, decisions):
            for name, one in _by_head(maps):
                self.require(not one.any(), f"{name} maps of zeros for an agent that ignores its input, got up to {np.abs(one).max():.3g}")

    def test_decisions_are_left_as_they_are(self) -> None:
        """Inputs, states and outputs of the decisions are not written to."""
        before = [decision.copy() for decision in self.decisions]
        self.method(self.adapter, self.decisions)
        for one, other in zip(before, self.decisions, strict=True):
            self.require(equal_tensors(_tensors(one), _tensors(other)), "decisions are left as they are")

    def test_the_agent_is_left_as_it_is(self) -> None:
        """Weights, buffers, training flags, attributes and the random states of torch, NumPy and Python do not change."""
        snapshot = AgentSnapshot(getattr(self.adapter, "module", None))
        self.method(self.adapter, self.decisions)
        for what in snapshot.changes():
            raise self.error(f"Expected: the method leaves {what}.")

    def test_gradients_are_left_as_they_are(self) -> None:
        """The method neither switches gradients on or off nor leaves any in the agent's parameters."""
        module, enabled = getattr(self.adapter, "module", None), torch.is_grad_enabled()
        self.method(self.adapter, self.decisions)
        self.require(torch.is_grad_enabled() == enabled, "the method leaves gradients switched as they were")
        if isinstance(module, torch.nn.Module):
            self.require(all(one.grad is None for one in module.parameters()), "the method leaves no gradients in the agent's parameters")

    def _require_same(self, maps: Sequence[SaliencyMaps], expected: Sequence[SaliencyMaps], what: str) -> None:
        for one, other in zip(maps, expected, strict=True):
            for (_, a), (_, b) in zip(_by_head(one), _by_head(other), strict=True):
                scale = float(np.abs(b).max(initial=0.0))
                self.require(a.shape == b.shape and np.allclose(a, b, rtol=0, atol=1e-4 * scale + 1e-12), what)


def check_method(method: SaliencyMethod, adapter: AgentAdapter | None = None, decisions: Sequence[Decision] | None = None) -> None:
    """Run every law of `SaliencyMethodContract` on a method, without pytest.

    Args:
        method: what to check.
        adapter: the agent that decided. None: a `TinyAgent`.
        decisions: at least two decisions of one row that differ. None: three of the adapter's on `(1, 1, 12, 12)` inputs.

    Raises:
        MethodContractError: every law that does not hold, and how it was seen; `error.laws` has them by name.
        ValueError: fewer than two decisions.
    """
    contract = _Given(method, adapter, decisions)
    _ = contract.decisions  # what the caller got wrong is no broken law
    contract.check()


class _Given(SaliencyMethodContract):
    """The contract of a method that exists."""

    def __init__(self, method: SaliencyMethod, adapter: AgentAdapter | None, decisions: Sequence[Decision] | None) -> None:
        self._given = method, adapter, decisions

    def make_method(self) -> SaliencyMethod:
        return self._given[0]

    def make_adapter(self) -> AgentAdapter:
        return self._given[1] or super().make_adapter()

    def make_decisions(self, adapter: AgentAdapter) -> list[Decision]:
        return super().make_decisions(adapter) if self._given[2] is None else list(self._given[2])


class _Wrapped:
    """An adapter with other outputs."""

    def __init__(self, adapter: AgentAdapter) -> None:
        self._adapter = adapter
        self.input_range = adapter.input_range
        self.attach, self.initial_state, self.repeat_state = adapter.attach, adapter.initial_state, adapter.repeat_state


class _WithoutValue(_Wrapped):
    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self._adapter.evaluate(inputs, state, episode_start)[0], None


class _Constant(_Wrapped):
    """An adapter whose outputs are always those of one decision."""

    def __init__(self, adapter: AgentAdapter, decision: Decision) -> None:
        super().__init__(adapter)
        self._outputs = decision.logits, decision.value

    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        n, (logits, value) = len(inputs), self._outputs
        return logits.expand(n, -1).clone(), None if value is None else value.expand(n, *value.shape[1:]).clone()


def _decided(adapter: AgentAdapter, inputs: Tensor, state: StateTree) -> Decision:
    with torch.no_grad():
        logits, value = adapter.evaluate(inputs.clone(), state, torch.ones(1, dtype=torch.bool))
    return Decision(inputs, state, logits, value, action=logits.argmax(dim=1))


def _by_head(maps: SaliencyMaps) -> list[tuple[str, Array]]:
    return [(name, one) for name, one in (("actor", maps.actor), ("critic", maps.critic)) if one is not None]


def _tensors(decision: Decision) -> list[Tensor]:
    given = (decision.inputs, decision.logits, decision.value, decision.action, *state_leaves(decision.state))
    return [one for one in given if one is not None]
