"""`check_adapter`: the contract that every `AgentAdapter` keeps, ours and yours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from saliency_wrappers.agents import ActingAdapter, AgentAdapter
from saliency_wrappers.records import AgentPass, Decision, StateTree, copy_state, state_leaves
from saliency_wrappers.replay import replay


class AdapterContractError(AssertionError):
    """An adapter breaks the contract of `AgentAdapter`."""


def check_adapter(adapter: AgentAdapter, inputs: Tensor, play: Callable[[Tensor], Any] | None = None) -> None:
    """Check an adapter: shapes, determinism, batch independence, state repetition, no side effects, passes seen and replayed.

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
    _check_repetition(adapter, state)
    _check_batches(adapter, inputs, state)
    _check_no_side_effects(adapter, inputs, state)


def _check_range(adapter: AgentAdapter, inputs: Tensor) -> None:
    low, high = adapter.input_range
    _require(low < high, f"input_range is (low, high) with low < high, got {(low, high)}")
    _require(
        bool(inputs.min() >= low and inputs.max() <= high), f"inputs lie in {low}..{high}, got {float(inputs.min())}..{float(inputs.max())}"
    )


def _check_outputs(adapter: AgentAdapter, inputs: Tensor) -> None:
    n = len(inputs)
    logits, value = adapter.evaluate(inputs, adapter.initial_state(n), torch.ones(n, dtype=torch.bool))
    _require(logits.ndim == 2 and len(logits) == n, f"evaluate gives logits (n, num_actions), got {tuple(logits.shape)} for n={n}")
    _require(value is None or value.numel() == n, f"evaluate gives one value a row, got {None if value is None else tuple(value.shape)}")
    again, _ = adapter.evaluate(inputs, adapter.initial_state(n), torch.ones(n, dtype=torch.bool))
    _require(torch.equal(logits, again), "evaluate is deterministic: the same call gave other logits")


def _acting(adapter: AgentAdapter) -> Callable[[Tensor], Any]:
    if not isinstance(adapter, ActingAdapter):
        raise TypeError("Expected play=..., a function that makes the agent act, since the adapter has no act(inputs, state).")
    state = adapter.initial_state(1)

    def act(inputs: Tensor) -> None:
        nonlocal state
        _, state = adapter.act(inputs, state)

    return act


def _play(adapter: AgentAdapter, inputs: Tensor, play: Callable[[Tensor], Any]) -> list[AgentPass]:
    seen: list[AgentPass] = []
    detach = adapter.attach(seen.append)
    try:
        for row in inputs:
            play(row[None])
        count = len(seen)
        adapter.evaluate(inputs[:1], adapter.initial_state(1), torch.ones(1, dtype=torch.bool))
        _require(len(seen) == count, "evaluate is not seen as a pass of the agent")
    finally:
        detach()
    play(inputs[0][None])
    _require(len(seen) == count, "after detaching no pass is seen")
    return [one for one in seen if one.logits is not None]


def _check_passes(adapter: AgentAdapter, passes: list[AgentPass], n: int) -> None:
    _require(len(passes) >= n, f"every acting pass is seen: {n} were made, {len(passes)} seen with logits")
    for one in passes:
        try:
            replay(adapter, Decision.of(one))
        except RuntimeError as error:
            raise AdapterContractError(f"Expected: replaying a pass gives its outputs. {error}") from error


def _check_repetition(adapter: AgentAdapter, state: StateTree) -> None:
    for before, after in zip(state_leaves(state), state_leaves(adapter.repeat_state(state, 3)), strict=True):
        grown = [axis for axis in range(before.ndim) if before.shape[axis] != after.shape[axis]]
        _require(
            len(grown) == 1 and torch.equal(after, before.repeat_interleave(3, dim=grown[0])),
            f"repeat_state(state, 3) repeats each row three times along one axis, got {tuple(after.shape)} from {tuple(before.shape)}",
        )


def _check_batches(adapter: AgentAdapter, inputs: Tensor, state: StateTree) -> None:
    n = len(inputs)
    start = torch.zeros(n, dtype=torch.bool)
    together, _ = adapter.evaluate(inputs, adapter.repeat_state(state, n), start)
    alone = torch.cat([adapter.evaluate(row[None], state, start[:1])[0] for row in inputs])
    _require(torch.allclose(together, alone, rtol=1e-4, atol=1e-5), "a row's logits do not depend on the rows beside it")


def _check_no_side_effects(adapter: AgentAdapter, inputs: Tensor, state: StateTree) -> None:
    module: Any = getattr(adapter, "module", None)
    before_inputs, before_state = inputs.clone(), copy_state(state)
    random = torch.get_rng_state()
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()} if isinstance(module, nn.Module) else {}
    training = [part.training for part in module.modules()] if isinstance(module, nn.Module) else []
    adapter.evaluate(inputs[:1], state, torch.zeros(1, dtype=torch.bool))
    _require(torch.equal(inputs, before_inputs), "evaluate leaves its inputs as they are")
    unchanged = all(torch.equal(a, b) for a, b in zip(state_leaves(before_state), state_leaves(state), strict=True))
    _require(unchanged, "evaluate leaves its state as it is")
    _require(torch.equal(torch.get_rng_state(), random), "evaluate leaves torch's random state as it is")
    if isinstance(module, nn.Module):
        same = all(torch.equal(weights[name], tensor) for name, tensor in module.state_dict().items())
        _require(same, "evaluate leaves weights and buffers as they are")
        _require([part.training for part in module.modules()] == training, "evaluate leaves the training flags as they are")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise AdapterContractError(f"Expected: {what}.")
