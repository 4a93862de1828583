"""`RecurrentModuleAdapter`: modules in the manner of the published Atari agents, `model((x, state)) -> value, logits, state`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from saliency_wrappers.agents.base import OnPass, batch_axes, copy_without_lists, without_lists, zero_state
from saliency_wrappers.agents.image_layout import ImageLayout
from saliency_wrappers.agents.module_hooks import observe, undisturbed
from saliency_wrappers.decisions import AgentPass
from saliency_wrappers.states import StateTree, copy_state, map_state, state_leaves


class RecurrentModuleAdapter:
    """Adapter for any `nn.Module` called as `value, logits, state = model((x, state))`, batch first, with images in `input_range`.

    The initial state comes from the module's own `initial_state(n)`; else it is zeros of the size of its one LSTM or GRU (cell).
    A `torch.compile`d module and a `DataParallel` one are seen as well.
    """

    input_range: tuple[float, float] = (0.0, 1.0)
    form = "model((x, state)) -> value, logits, state"

    def __init__(self, module: nn.Module, input_range: tuple[float, float] | None = None, *, channels_last: bool | None = None) -> None:
        """Adapt a module.

        Args:
            module: the agent.
            input_range: the lowest and highest value of its images. None: that of the class, `(0.0, 1.0)`.
            channels_last: whether its images are `(n, h, w, C)`. None: as its first convolution tells, see `ImageLayout`.
        """
        self.module = module
        self._axes: list[int] | None = None
        self.layout = ImageLayout(module, channels_last)
        if input_range is not None:
            low, high = input_range
            if not low < high:
                raise ValueError(f"Expected input_range as (low, high) with low < high, got {input_range}.")
            self.input_range = (float(low), float(high))

    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return logits `(n, num_actions)` and values `(n, 1)`, as `AgentAdapter.evaluate`. The episode start is part of the state."""
        with undisturbed(self.module):
            value, logits, _ = self.module((self.layout.as_given(inputs), copy_state(state)))
        return logits, value

    def act(self, inputs: Tensor, state: StateTree) -> tuple[Tensor, StateTree]:
        """Run one acting pass without gradients and return logits and the next state."""
        with torch.no_grad():
            _, logits, state = self.module((self.layout.as_given(inputs), state))
        return logits, without_lists(state)

    def attach(self, on_pass: OnPass) -> Callable[[], None]:
        """Call `on_pass` after every pass, until the function that is returned is called."""
        return observe(self.module, self, on_pass)

    def initial_state(self, n: int) -> StateTree:
        """Return zeros for n episodes on the module's device, or what the module's `initial_state` returns."""
        # Unlike a compiled module, a DataParallel one does not pass on the attributes of what it wraps.
        module = self.module.module if isinstance(self.module, nn.DataParallel) else self.module
        own: Any = getattr(module, "initial_state", None)
        return without_lists(own(n)) if callable(own) else zero_state(self.module, n)

    def repeat_state(self, state: StateTree, n: int) -> StateTree:
        """Repeat each row of each tensor n times along the axis in which initial states grow, or the first axis."""
        if self._axes is None:
            self._axes = _known_axes(self)
        leaves = list(state_leaves(state))
        known = len(self._axes) == len(leaves)
        if not known and any(leaf.ndim == 0 for leaf in leaves):
            shapes = [tuple(leaf.shape) for leaf in leaves]
            raise ValueError(f"Expected a batch axis in each tensor of the state, in which initial_state(n) grows, got shapes {shapes}.")
        axes = iter(self._axes)
        return map_state(lambda tensor: tensor.repeat_interleave(n, dim=next(axes) if known else 0), state)

    def incoming(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AgentPass | None:
        """Return the pass of a call with `((x, state),)`. None for a call of another form."""
        call = args[0] if len(args) == 1 and not kwargs else None
        if not isinstance(call, _SEQUENCE) or len(call) != 2 or not isinstance(call[0], Tensor) or not call[0].ndim:
            return None
        inputs, state = call
        if self.layout.last is not False:
            inputs = self.layout.channels_first(inputs)
        return AgentPass(inputs.detach() if inputs.requires_grad else inputs, copy_without_lists(state), None, None, copied=True)

    def outgoing(self, incoming: AgentPass, output: Any) -> AgentPass | None:
        """Return the pass with the outputs `(value, logits, state)`. A single tensor or None as logits is a pass without policy output."""
        if isinstance(output, Tensor):
            return incoming
        if not isinstance(output, _SEQUENCE) or len(output) != 3:
            return None
        return incoming.gave(output[1], output[0])


_SEQUENCE = (tuple, list)  # a union would be made anew at every pass


def _known_axes(adapter: RecurrentModuleAdapter) -> list[int]:
    try:
        return batch_axes(adapter)
    except (TypeError, ValueError):  # no initial state, or one that does not grow
        return []
