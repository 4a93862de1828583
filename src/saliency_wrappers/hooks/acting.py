"""`Actor`: acts for `RecurrentAgentHook.act` and carries the agent's state; `network_input`: what the agent is given."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saliency_wrappers.agents import ActingAdapter, AgentAdapter
from saliency_wrappers.decisions import AgentPass
from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.states import StateTree, state_leaves


class Actor:
    """Runs an agent on one observation after another. Its state begins anew with each episode."""

    def __init__(self, seed: int | None) -> None:
        """Begin with the initial state; `seed` is that of sampled actions. None: a fresh one from the operating system."""
        self._state: StateTree = None
        self._begins = True
        self._random = np.random.default_rng(seed)
        self._acting = False
        self._acted: AgentPass | None = None
        self._owner: weakref.ref[Any] | None = None

    def act(self, adapter: AgentAdapter, observation: NDArray[Any], preprocessor: FramePreprocessor | None, greedy: bool) -> int:
        """Choose an action, as `RecurrentAgentHook.act` says; `TypeError` for an adapter that cannot act."""
        if not isinstance(adapter, ActingAdapter):
            raise TypeError(f"{type(adapter).__name__} cannot act by itself: it has no act(inputs, state). Call your agent instead.")
        state = adapter.initial_state(1) if self._begins else self._state
        leaf = next(state_leaves(state), torch.zeros(()))
        inputs = network_input(observation, preprocessor, adapter.input_range, leaf.dtype)[None].to(leaf.device)
        self._acting = True
        try:
            logits, self._state = adapter.act(inputs, state)
        finally:
            self._acting = False
        self._begins = False
        scores = logits[0].double().cpu()
        if greedy:
            return int(scores.argmax())
        return int(self._random.choice(len(scores), p=scores.softmax(0).numpy()))

    def begin(self, owner: Any) -> None:
        """Act with the initial state next, for the episode of this window. None: without a window."""
        self._begins = True
        self._owner = None if owner is None else weakref.ref(owner)

    def see(self, seen: Any) -> None:
        """Remember a pass that is made while it acts."""
        if self._acting and isinstance(seen, AgentPass):
            self._acted = seen

    def acted_for_another(self, decided: AgentPass, window: Any) -> bool:
        """Return whether this pass was made with the memory of another window's episode."""
        owner = None if self._owner is None else self._owner()
        return decided is self._acted and owner not in (None, window)


def network_input(
    observation: NDArray[Any], preprocessor: FramePreprocessor | None, input_range: tuple[float, float], dtype: torch.dtype
) -> Tensor:
    """Return the network input of this dtype: an image `(C, h, w)` in `input_range`, or a vector `(features,)`.

    Args:
        observation: a frame `(H, W, 3)` uint8 for the preprocessor; without one the network input itself.
        preprocessor: makes inputs of frames. None: the observation is the input.
        input_range: the lowest and highest value of the agent's inputs.
        dtype: the agent's.

    Raises:
        TypeError: without a preprocessor, an input of another dtype.
        ValueError: without a preprocessor, an input of another number of axes, or with NaN or infinity.
    """
    low, high = input_range
    if preprocessor is not None:
        return torch.as_tensor(low + preprocessor(observation) * (high - low)).to(dtype)
    image = torch.as_tensor(np.asarray(observation))
    if image.ndim == 1 and image.is_floating_point():
        image = image.to(dtype)  # environments give vectors of float64, too
    if image.dtype != dtype or image.ndim not in (1, 3):
        raise (TypeError if image.dtype != dtype else ValueError)(
            f"Expected a network input (C, h, w) of {dtype} in {low:g}..{high:g} or (features,), since the hook has no preprocessor, "
            f"got {tuple(image.shape)} of {image.dtype}. For frames, construct RecurrentAgentHook(agent, preprocessor=...)."
        )
    if not bool(image.isfinite().all()):
        raise ValueError(f"Expected a network input of finite numbers in {low:g}..{high:g}, got NaN or infinity.")
    return image
