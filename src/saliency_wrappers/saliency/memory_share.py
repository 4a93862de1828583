"""`memory_share`: how much of a decision comes from the recurrent state, how much from the frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saliency_wrappers.agents.base import AgentAdapter, batch_axes
from saliency_wrappers.decisions import Decision
from saliency_wrappers.saliency.policy_scores import centred_logits
from saliency_wrappers.states import StateTree, map_state, state_leaves

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MemoryShare:
    """The two parts of one decision's outputs; `frame + memory` is the output minus its mean over the baseline frames and their states."""

    frame: Floats
    """`(num_actions,)`: what the frame adds to each centred logit."""
    memory: Floats
    """`(num_actions,)`: what the state adds."""
    value_frame: float | None
    """What the frame adds to the value. None without a value output."""
    value_memory: float | None
    """What the state adds to the value. None without a value output."""

    @property
    def share(self) -> float:
        """`|memory| / (|memory| + |frame|)` of the centred logits, in [0, 1]; 0 when both are 0."""
        return _share(float(np.linalg.norm(self.frame)), float(np.linalg.norm(self.memory)))

    @property
    def value_share(self) -> float | None:
        """The same of the value. None without a value output."""
        if self.value_frame is None or self.value_memory is None:
            return None
        return _share(abs(self.value_frame), abs(self.value_memory))


def memory_share(adapter: AgentAdapter, decision: Decision, others: Sequence[Decision], baseline: int = 8, seed: int = 0) -> MemoryShare:
    """Shapley values of two players, frame and memory, against frames and, independently, states of other moments of the episode.

    For K frames b_j and states g_j: `memory = mean_j 1/2 [(y(b_j, h) - y(b_j, g_j)) + (y(x, h) - y(x, g_j))]`, `frame` likewise. One
    batched pass over `3 K + 1` rows.

    Args:
        adapter: the agent.
        decision: one row, with a state.
        others: one-row decisions of the same episode, from which frames and states are drawn.
        baseline: K, how many of each are drawn, at most as many as there are.
        seed: of the draws.

    Raises:
        ValueError: an agent without memory, no other decisions, decisions of several rows, or a baseline below 1.
    """
    if decision.state is None:
        raise ValueError("Expected a decision with a recurrent state, got None: without memory, all of the decision comes from the frame.")
    if not others or baseline < 1 or any(len(one) != 1 for one in (decision, *others)):
        raise ValueError(f"Expected other decisions, all of one row, and a baseline of 1 or more, got {len(others)} and {baseline}.")
    random, k = np.random.default_rng(seed), min(baseline, len(others))
    frames = [others[i] for i in random.permutation(len(others))[:k]]
    states = [others[i] for i in random.permutation(len(others))[:k]]
    own = [decision.inputs] * k
    images = torch.cat([decision.inputs, *(one.inputs for one in frames), *(one.inputs for one in frames), *own])
    logits, values = _run(adapter, images, [decision] * (1 + k) + states + states)
    frame, memory = _parts(centred_logits(logits))
    if values is None:
        return MemoryShare(frame, memory, None, None)
    value_frame, value_memory = _parts(values[:, None])
    return MemoryShare(frame, memory, float(value_frame[0]), float(value_memory[0]))


def _parts(outputs: Floats) -> tuple[Floats, Floats]:
    """Frame's and memory's parts, from outputs for (x, h), then as many of each (b, h), (b, g), (x, g)."""
    whole, frame_other, both_other, state_other = outputs[:1], *np.split(outputs[1:], 3)
    memory = ((frame_other - both_other) + (whole - state_other)).mean(axis=0) / 2
    frame = ((state_other - both_other) + (whole - frame_other)).mean(axis=0) / 2
    return frame, memory


def _run(adapter: AgentAdapter, images: Tensor, remembered: Sequence[Decision]) -> tuple[Floats, Floats | None]:
    """Outputs of images with the states of decisions: logits `(n, num_actions)`, values `(n,)`."""
    n, starts = len(images), [one.episode_start for one in remembered if one.episode_start is not None]
    with torch.inference_mode():
        state = _joined(adapter, [one.state for one in remembered])
        logits, values = adapter.evaluate(images, state, torch.cat(starts) if len(starts) == n else None)
    return logits.double().cpu().numpy(), None if values is None else values.reshape(n).double().cpu().numpy()


def _joined(adapter: AgentAdapter, states: Sequence[StateTree]) -> StateTree:
    """One-row states as a batch."""
    leaves = zip(*(state_leaves(state) for state in states), strict=True)
    joined = iter([torch.cat(parts, dim=axis) for parts, axis in zip(leaves, batch_axes(adapter), strict=True)])
    return map_state(lambda _: next(joined), states[0])


def _share(frame: float, memory: float) -> float:
    return memory / (memory + frame) if memory + frame > 0 else 0.0
