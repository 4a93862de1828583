"""`check_adapter`: the contract that every `AgentAdapter` keeps, ours and yours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from saliency_wrappers.agents import ActingAdapter, AgentAdapter, UnreadPass
from saliency_wrappers.agents.base import batch_axes
from saliency_wrappers.decisions import AgentPass, Decision
from saliency_wrappers.hooks.replay_check import replay
from saliency_wrappers.states import StateTree, copy_state, map_state, state_leaves
from saliency_wrappers.testing.agent_snapshot import AgentSnapshot


class AdapterContractError(AssertionError):
    """An adapter breaks the contract of `AgentAdapter`."""


def check_adapter(adapter: AgentAdapter, inputs: Tensor, play: Callable[[Tensor], Any] | None = None) -> None:
    """Check an adapter: shapes, determinism, batch independence, state repetition, no side effects, passes seen and replayed, numbers.

    Side effects are those on inputs, state, weights, buffers, training flags, attributes (a state that the agent keeps itself, say) and the
    random numbers of torch, NumPy and Python. Numbers: perturbed inputs are floating-point numbers anywhere within `input_range`, and must
    not be cut down to integers.

    Args:
        adapter: what to check. The agent is left as it was.
        inputs: at least two network inputs `(n, C, h, w)` that differ, within `adapter.input_range`.
        play: makes the agent act on inputs `(1, C, h, w)` as its user would, carrying its state from call to call. None: through
            `adapter.act`.

    Raises:
        AdapterContractError: what does not hold, and how it was seen.
        ValueError: fewer than two inputs.
        TypeError: no way to make the agent act.
    """
    if inputs.ndim != 4 or len(inputs) < 2:
        raise ValueError(f"Expected at least two inputs (n, C, h, w), got {tuple(inputs.shape)}.")
    _check_range(adapter, inputs)
    _check_outputs(adapter, inputs)
    passes = _play(adapter, inputs, play or _acting(adapter))
    _check_passes(adapter, passes, len(inputs))
    state = passes[-1].state
    _check_numbers(adapter, inputs)
    _check_no_side_effects(adapter, inputs, state)
    _check_repetition(adapter, state)
    _check_batches(adapter, inputs, state)


def _check_range(adapter: AgentAdapter, inputs: Tensor) -> None:
    low, high = adapter.input_range
    _require(low < high, f"input_range is (low, high) with low < high, got {(low, high)}")
    _require(
        bool(inputs.min() >= low and inputs.max() <= high), f"inputs lie in {low}..{high}, got {float(inputs.min())}..{float(inputs.max())}"
    )


def _check_outputs(adapter: AgentAdapter, inputs: Tensor) -> None:
    n = len(inputs)
    logits, value = adapter.evaluate(inputs.clone(), adapter.initial_state(n), torch.ones(n, dtype=torch.bool))
    _require(logits.ndim == 2 and len(logits) == n, f"evaluate gives logits (n, num_actions), got {tuple(logits.shape)} for n={n}")
    _require(value is None or value.numel() == n, f"evaluate gives one value a row, got {None if value is None else tuple(value.shape)}")
    again = adapter.evaluate(inputs.clone(), adapter.initial_state(n), torch.ones(n, dtype=torch.bool))
    _require(torch.equal(logits, again[0]), "evaluate is deterministic: the same call gave other logits")
    _require(
        value is None or (again[1] is not None and torch.equal(value, again[1])),
        "evaluate is deterministic: the same call gave other values",
    )


def _acting(adapter: AgentAdapter) -> Callable[[Tensor], Any]:
    if not isinstance(adapter, ActingAdapter):
        raise TypeError("Expected play=..., a function that makes the agent act, since the adapter has no act(inputs, state).")
    state = adapter.initial_state(1)

    def act(inputs: Tensor) -> None:
        nonlocal state
        _, state = adapter.act(inputs, state)

    return act


def _play(adapter: AgentAdapter, inputs: Tensor, play: Callable[[Tensor], Any]) -> list[AgentPass]:
    seen: list[AgentPass | UnreadPass] = []
    detach = adapter.attach(seen.append)
    try:
        for row in inputs:
            play(row[None].clone())
        count = len(seen)
        adapter.evaluate(inputs[:1].clone(), adapter.initial_state(1), torch.ones(1, dtype=torch.bool))
        _require(len(seen) == count, "evaluate is not seen as a pass of the agent")
    finally:
        detach()
    play(inputs[0][None].clone())
    _require(len(seen) == count, "after detaching no pass is seen")
    unread = {one.reason for one in seen if isinstance(one, UnreadPass)}
    _require(not unread, f"every acting pass can be read, got passes {'; '.join(sorted(unread))}")
    passes = [one for one in seen if isinstance(one, AgentPass) and one.logits is not None]
    for one in passes:
        if one.complete is not None:
            one.complete(one)
    return passes


def _check_passes(adapter: AgentAdapter, passes: list[AgentPass], n: int) -> None:
    hint = "" if passes else " (look the agent's method up at each call: `lambda x: agent.act(x)`, not `agent.act`)"
    _require(len(passes) >= n, f"every acting pass is seen: {n} were made, {len(passes)} seen with logits{hint}")
    for one in passes:
        try:
            replay(adapter, Decision.of(one))
        except RuntimeError as error:
            raise AdapterContractError(f"Expected: replaying a pass gives its outputs. {error}") from error


def _check_repetition(adapter: AgentAdapter, state: StateTree) -> None:
    try:
        axes = batch_axes(adapter)
    except ValueError as error:
        raise AdapterContractError(str(error)) from error
    count = len(list(state_leaves(state)))
    _require(count in (0, len(axes)), f"a state has as many tensors as initial_state(n), {len(axes)}, got {count}")
    doubling, tripling = iter(axes), iter(axes)
    two_rows = map_state(lambda leaf: torch.cat([leaf, leaf + 1], dim=next(doubling)), state)
    expected = map_state(lambda leaf: leaf.repeat_interleave(3, dim=next(tripling)), two_rows)
    repeated = adapter.repeat_state(two_rows, 3)
    shapes = [[tuple(leaf.shape) for leaf in state_leaves(one)] for one in (two_rows, repeated)]
    _require(
        len(shapes[0]) == len(shapes[1]) and _equal(state_leaves(expected), state_leaves(repeated)),
        f"repeat_state(state, 3) repeats each row three times in a row along the batch axis, got {shapes[1]} from {shapes[0]}",
    )


def _check_batches(adapter: AgentAdapter, inputs: Tensor, state: StateTree) -> None:
    n = len(inputs)
    start = torch.zeros(n, dtype=torch.bool)
    together = adapter.evaluate(inputs.clone(), adapter.repeat_state(state, n), start)
    alone = [adapter.evaluate(row[None].clone(), state, start[:1]) for row in inputs]
    for i, name in enumerate(("logits", "value")):
        whole, rows = together[i], [output for one in alone if (output := one[i]) is not None]
        if whole is not None:
            same = len(rows) == n and torch.allclose(whole, torch.cat(rows), rtol=1e-4, atol=1e-5)
            _require(same, f"the rows beside it do not change a row's {name}")


def _check_numbers(adapter: AgentAdapter, inputs: Tensor) -> None:
    """Perturbed inputs are floating-point numbers anywhere within the range, whatever the agent is fed with."""
    low, high = adapter.input_range
    n = len(inputs)
    exact = inputs if inputs.is_floating_point() else inputs.float()

    def outputs(x: Tensor) -> list[Tensor]:
        state, start = adapter.initial_state(n), torch.ones(n, dtype=torch.bool)
        return [output for output in adapter.evaluate(x.clone(), state, start) if output is not None]

    between = low + (exact - low) * 0.7310586
    try:
        perturbed = outputs(between)
    except Exception as error:
        raise AdapterContractError(f"Expected: evaluate takes any number in {low}..{high}, got {type(error).__name__}: {error}") from error
    _require(not any(bool(output.isnan().any()) for output in perturbed), f"evaluate gives no NaN for inputs in {low}..{high}")
    as_fed = outputs(inputs)
    same = all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(as_fed, outputs(exact), strict=True))
    _require(same, f"evaluate gives the same for {inputs.dtype} as for the same numbers in {exact.dtype}")
    blind = _equal(as_fed, outputs(low + high - exact))
    truncates = not blind and not torch.equal(between, between.trunc()) and _equal(perturbed, outputs(between.trunc()))
    _require(not truncates, "evaluate does not cut perturbed inputs, which are floating-point numbers, down to integers")


def _check_no_side_effects(adapter: AgentAdapter, inputs: Tensor, state: StateTree) -> None:
    before_inputs, before_state, before = inputs.clone(), copy_state(state), AgentSnapshot(getattr(adapter, "module", None))
    adapter.evaluate(inputs[:1], state, torch.zeros(1, dtype=torch.bool))
    _require(torch.equal(inputs, before_inputs), "evaluate leaves its inputs as they are")
    _require(_equal(state_leaves(before_state), state_leaves(state)), "evaluate leaves its state as it is")
    for what in before.changes():
        raise AdapterContractError(f"Expected: evaluate leaves {what}.")


def _equal(before: Iterable[Tensor], after: Iterable[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise AdapterContractError(f"Expected: {what}.")
