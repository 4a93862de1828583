"""`AdapterContract`: the laws of `AgentAdapter`, to be subclassed in a test. `check_adapter` runs them on one adapter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from saliency_wrappers.agents import ActingAdapter, AgentAdapter, UnreadPass
from saliency_wrappers.agents.base import batch_axes, is_network_input
from saliency_wrappers.decisions import AgentPass, Decision, floating_inputs
from saliency_wrappers.hooks.replay_check import replay
from saliency_wrappers.states import StateTree, copy_state, map_state, state_leaves
from saliency_wrappers.testing.agent_snapshot import AgentSnapshot
from saliency_wrappers.testing.contract import Contract, ContractError, equal_tensors

Play = Callable[[Tensor], Any]
"""Makes the agent act on inputs `(1, C, h, w)`."""


class AdapterContractError(ContractError):
    """An adapter breaks laws of `AgentAdapter`."""


class AdapterContract(Contract):
    """The laws that every `AgentAdapter` keeps, one `test_*` method each.

    Subclass it in a test module; pytest runs each law by itself::

        class TestMyAdapter(AdapterContract):
            def make_adapter(self) -> AgentAdapter:
                return MyAdapter(MyAgent())

            def make_inputs(self) -> Tensor:
                return torch.rand(3, 1, 84, 84)

    Side effects are those on inputs, state, weights, buffers, training flags, attributes (a state that the agent keeps itself, for example)
    and the random states of torch, NumPy and Python. Perturbed inputs are floating-point numbers anywhere within `input_range` and must
    not be truncated to integers.
    """

    error = AdapterContractError

    def make_adapter(self) -> AgentAdapter:
        """Return the adapter to check, of a new agent."""
        raise NotImplementedError(f"{type(self).__name__} defines make_adapter, which returns the adapter to check.")

    def make_inputs(self) -> Tensor:
        """Return two network inputs or more that differ: images `(n, C, h, w)` within `input_range`, or vectors `(n, features)`."""
        raise NotImplementedError(
            f"{type(self).__name__} defines make_inputs, which returns at least two inputs (n, C, h, w) or (n, features)."
        )

    def make_play(self, adapter: AgentAdapter) -> Play:
        """Return a function that makes the agent act on inputs of one row as its user would, and carries its state from call to call.

        By default through `adapter.act`; `TypeError` for an adapter without it.
        """
        if not isinstance(adapter, ActingAdapter):
            raise TypeError("Expected play=..., a function that makes the agent act, since the adapter has no act(inputs, state).")
        state = adapter.initial_state(1)

        def act(inputs: Tensor) -> None:
            nonlocal state
            _, state = adapter.act(inputs, state)

        return act

    @cached_property
    def adapter(self) -> AgentAdapter:
        """The adapter that is checked."""
        return self.make_adapter()

    @cached_property
    def inputs(self) -> Tensor:
        """The inputs, images or vectors; `ValueError` for fewer than two."""
        inputs = self.make_inputs()
        if not is_network_input(inputs) or len(inputs) < 2:
            raise ValueError(f"Expected at least two inputs (n, C, h, w) or (n, features), got {tuple(inputs.shape)}.")
        return inputs

    @cached_property
    def _observed(self) -> _Observed:
        return _observe(self.adapter, self.inputs, self.make_play(self.adapter))

    @property
    def _state(self) -> StateTree:
        """The state of the last pass that was seen, of one row; the initial state where none was."""
        return self._observed.passes[-1].state if self._observed.passes else self.adapter.initial_state(1)

    def _evaluated(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Evaluate inputs at the beginning of an episode."""
        n = len(inputs)
        return self.adapter.evaluate(inputs.clone(), self.adapter.initial_state(n), torch.ones(n, dtype=torch.bool))

    def _numbers(self, inputs: Tensor) -> list[Tensor]:
        return [output for output in self._evaluated(inputs) if output is not None]

    def test_input_range_holds_the_inputs(self) -> None:
        """`input_range` is `(low, high)` with low < high, and images lie within it."""
        low, high = self.adapter.input_range
        self.require(low < high, f"input_range is (low, high) with low < high, got {(low, high)}")
        least, most = float(self.inputs.min()), float(self.inputs.max())
        self.require(self.inputs.ndim == 2 or (low <= least and most <= high), f"inputs lie in {low}..{high}, got {least}..{most}")

    def test_evaluate_gives_one_row_of_outputs_for_each_input(self) -> None:
        """Logits are `(n, num_actions)`, values `(n,)` or `(n, 1)`, or None."""
        n, (logits, value) = len(self.inputs), self._evaluated(self.inputs)
        self.require(logits.ndim == 2 and len(logits) == n, f"evaluate gives logits (n, num_actions), got {tuple(logits.shape)} for n={n}")
        shape = None if value is None else tuple(value.shape)
        self.require(value is None or value.numel() == n, f"evaluate gives one value a row, got {shape}")

    def test_evaluate_is_deterministic(self) -> None:
        """The same call gives the same outputs."""
        (logits, value), again = self._evaluated(self.inputs), self._evaluated(self.inputs)
        self.require(torch.equal(logits, again[0]), "evaluate is deterministic: the same call gave other logits")
        same = value is None or (again[1] is not None and torch.equal(value, again[1]))
        self.require(same, "evaluate is deterministic: the same call gave other values")

    def test_every_acting_pass_is_seen(self) -> None:
        """`on_pass` is called for every acting pass, with logits."""
        n, found = len(self.inputs), len(self._observed.passes)
        hint = "" if found else " (look the agent's method up at each call: `lambda x: agent.act(x)`, not `agent.act`)"
        self.require(found >= n or bool(self._observed.unread), f"every acting pass is seen: {n} were made, {found} seen with logits{hint}")

    def test_every_acting_pass_can_be_read(self) -> None:
        """No acting pass is reported as an `UnreadPass`."""
        self.require(not self._observed.unread, f"every acting pass can be read, got passes {'; '.join(self._observed.unread)}")

    def test_evaluate_is_not_seen(self) -> None:
        """`evaluate` is not reported as a pass of the agent."""
        self.require(not self._observed.seen_in_evaluate, "evaluate is not seen as a pass of the agent")

    def test_nothing_is_seen_after_detaching(self) -> None:
        """The function that `attach` returned ends the reports."""
        self.require(not self._observed.seen_after_detaching, "after detaching no pass is seen")

    def test_replaying_a_pass_gives_its_outputs(self) -> None:
        """`evaluate` on the input and state of a pass gives the logits and the value that the pass gave."""
        for one in self._observed.passes:
            try:
                replay(self.adapter, Decision.of(one))
            except RuntimeError as error:
                raise self.error(f"Expected: replaying a pass gives its outputs. {error}") from error

    def test_evaluate_takes_any_number_in_the_input_range(self) -> None:
        """Floating-point inputs within `input_range` raise nothing and give no NaN."""
        low, high = self.adapter.input_range
        try:
            perturbed = self._numbers(self._between)
        except Exception as error:
            raise self.error(f"Expected: evaluate takes any number in {low}..{high}, got {type(error).__name__}: {error}") from error
        self.require(not any(bool(output.isnan().any()) for output in perturbed), f"evaluate gives no NaN for inputs in {low}..{high}")

    def test_integers_and_floating_point_numbers_are_the_same(self) -> None:
        """Inputs of another dtype with the same numbers give the same outputs."""
        exact = floating_inputs(self.inputs)
        pairs = zip(self._numbers(self.inputs), self._numbers(exact), strict=True)
        same = all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)
        self.require(same, f"evaluate gives the same for {self.inputs.dtype} as for the same numbers in {exact.dtype}")

    def test_perturbed_inputs_are_not_truncated(self) -> None:
        """Numbers between two integers give other outputs than the integer below, unless the agent does not see its input at all."""
        (low, high), between = self.adapter.input_range, self._between
        blind = equal_tensors(self._numbers(self.inputs), self._numbers(low + high - floating_inputs(self.inputs)))
        if blind or torch.equal(between, between.trunc()):
            return
        truncated = equal_tensors(self._numbers(between), self._numbers(between.trunc()))
        self.require(not truncated, "evaluate does not cut perturbed inputs, which are floating-point numbers, down to integers")

    def test_evaluate_leaves_inputs_and_state_as_they_are(self) -> None:
        """Neither is written to."""
        inputs, state = self.inputs.clone(), copy_state(self._state)
        self.adapter.evaluate(inputs[:1], state, torch.zeros(1, dtype=torch.bool))
        self.require(torch.equal(inputs, self.inputs), "evaluate leaves its inputs as they are")
        self.require(equal_tensors(state_leaves(self._state), state_leaves(state)), "evaluate leaves its state as it is")

    def test_evaluate_leaves_the_agent_as_it_is(self) -> None:
        """Weights, buffers, training flags, attributes and random states do not change."""
        start = torch.zeros(1, dtype=torch.bool)
        self.adapter.evaluate(self.inputs[-1:].clone(), copy_state(self._state), start)  # another input: what is kept of it shows
        before = AgentSnapshot(getattr(self.adapter, "module", None))
        self.adapter.evaluate(self.inputs[:1].clone(), copy_state(self._state), start)
        for what in before.changes():
            raise self.error(f"Expected: evaluate leaves {what}.")

    def test_initial_state_grows_along_one_axis(self) -> None:
        """Each tensor of `initial_state(n)` grows with n along one axis, and states of passes have as many tensors."""
        try:
            axes = batch_axes(self.adapter)
        except ValueError as error:
            raise self.error(str(error)) from error
        count = len(list(state_leaves(self._state)))
        self.require(count in (0, len(axes)), f"a state has as many tensors as initial_state(n), {len(axes)}, got {count}")

    def test_repeat_state_repeats_each_row(self) -> None:
        """`repeat_state(state, n)` is `repeat_interleave` along the batch axis of every tensor."""
        axes = batch_axes(self.adapter)
        doubling, tripling = iter(axes), iter(axes)
        two_rows = map_state(lambda leaf: torch.cat([leaf, leaf + 1], dim=next(doubling)), self._state)
        expected = map_state(lambda leaf: leaf.repeat_interleave(3, dim=next(tripling)), two_rows)
        repeated = self.adapter.repeat_state(two_rows, 3)
        shapes = [[tuple(leaf.shape) for leaf in state_leaves(one)] for one in (two_rows, repeated)]
        self.require(
            len(shapes[0]) == len(shapes[1]) and equal_tensors(state_leaves(expected), state_leaves(repeated)),
            f"repeat_state(state, 3) repeats each row three times in a row along the batch axis, got {shapes[1]} from {shapes[0]}",
        )

    def test_rows_do_not_influence_one_another(self) -> None:
        """A row has the same outputs alone and in a batch."""
        n, state = len(self.inputs), self._state
        start = torch.zeros(n, dtype=torch.bool)
        together = self.adapter.evaluate(self.inputs.clone(), self.adapter.repeat_state(state, n), start)
        single = [self.adapter.evaluate(row[None].clone(), copy_state(state), start[:1]) for row in self.inputs]
        for i, name in enumerate(("logits", "value")):
            whole, rows = together[i], [output for one in single if (output := one[i]) is not None]
            if whole is not None:
                same = len(rows) == n and torch.allclose(whole, torch.cat(rows), rtol=1e-4, atol=1e-5)
                self.require(same, f"the rows beside it do not change a row's {name}")

    @property
    def _between(self) -> Tensor:
        """The inputs moved towards the lower end of the range: floating-point numbers, whatever the agent is fed with."""
        low, _ = self.adapter.input_range
        return low + (floating_inputs(self.inputs) - low) * 0.7310586


def check_adapter(adapter: AgentAdapter, inputs: Tensor, play: Play | None = None) -> None:
    """Run every law of `AdapterContract` on an adapter, without pytest.

    Args:
        adapter: what to check. The agent is left as it was.
        inputs: at least two network inputs that differ: images `(n, C, h, w)` within `adapter.input_range`, or vectors `(n, features)`.
        play: makes the agent act on inputs of one row as its user would, carrying its state from call to call. None: through
            `adapter.act`.

    Raises:
        AdapterContractError: every law that does not hold, and how it was seen; `error.laws` has them by name.
        ValueError: fewer than two inputs.
        TypeError: no way to make the agent act.
    """
    contract = _Given(adapter, inputs, play)
    _ = contract.inputs, contract.make_play(adapter)  # what the caller got wrong is no broken law
    contract.check()


class _Given(AdapterContract):
    """The contract of an adapter that exists."""

    def __init__(self, adapter: AgentAdapter, inputs: Tensor, play: Play | None) -> None:
        self._given = adapter, inputs, play

    def make_adapter(self) -> AgentAdapter:
        return self._given[0]

    def make_inputs(self) -> Tensor:
        return self._given[1]

    def make_play(self, adapter: AgentAdapter) -> Play:
        return self._given[2] or super().make_play(adapter)


@dataclass(frozen=True)
class _Observed:
    """What an attached adapter reported while the agent acted."""

    passes: list[AgentPass]
    """Those with logits."""
    unread: list[str]
    """Why the others could not be read; empty when all could."""
    seen_in_evaluate: bool
    seen_after_detaching: bool


def _observe(adapter: AgentAdapter, inputs: Tensor, play: Play) -> _Observed:
    reported: list[AgentPass | UnreadPass] = []
    detach = adapter.attach(reported.append)
    try:
        for row in inputs:
            play(row[None].clone())
        acting = list(reported)
        adapter.evaluate(inputs[:1].clone(), adapter.initial_state(1), torch.ones(1, dtype=torch.bool))
        in_evaluate = len(reported) > len(acting)
    finally:
        detach()
    count = len(reported)
    play(inputs[0][None].clone())
    passes = [one for one in acting if isinstance(one, AgentPass) and one.logits is not None]
    for one in passes:
        if one.complete is not None:
            one.complete(one)
    unread = sorted({one.reason for one in acting if isinstance(one, UnreadPass)})
    return _Observed(passes, unread, in_evaluate, len(reported) > count)
