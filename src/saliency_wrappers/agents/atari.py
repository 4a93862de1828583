"""`RecurrentModuleAdapter`: modules in the manner of the published Atari agents, `model((x, state)) -> value, logits, state`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from saliency_wrappers.agents.base import OnPass, observe, undisturbed
from saliency_wrappers.records import AgentPass, StateTree, copy_state, copy_tensor, map_state


class RecurrentModuleAdapter:
    """Any `nn.Module` called as `value, logits, state = model((x, state))`, batch first, with images in [0, 1].

    The initial state comes from the module's own `initial_state(n)`; else it is zeros of the size of its one LSTM or GRU cell.
    A `torch.compile`d module and a `DataParallel` one are seen as well.
    """

    input_range = (0.0, 1.0)

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Logits `(n, num_actions)` and values `(n, 1)`, as `AgentAdapter.evaluate` says. The episode start is in the state."""
        with undisturbed(self.module):
            value, logits, _ = self.module((inputs, copy_state(state)))
        return logits, value

    def act(self, inputs: Tensor, state: StateTree) -> tuple[Tensor, StateTree]:
        """One acting pass without gradients: logits and the next state."""
        with torch.no_grad():
            _, logits, state = self.module((inputs, state))
        return logits, state

    def attach(self, on_pass: OnPass) -> Callable[[], None]:
        """Call `on_pass` after every pass, until the function that is returned is called."""
        return observe(self.module, self, on_pass)

    def initial_state(self, n: int) -> StateTree:
        """Zeros for n episodes, on the module's device."""
        # Unlike a compiled module, a DataParallel one does not pass on the attributes of what it wraps.
        module = self.module.module if isinstance(self.module, nn.DataParallel) else self.module
        own: Any = getattr(module, "initial_state", None)
        return cast("StateTree", own(n)) if callable(own) else _zero_state(self.module, n)

    def repeat_state(self, state: StateTree, n: int) -> StateTree:
        """Each row of each tensor n times in a row."""
        return map_state(lambda tensor: tensor.repeat_interleave(n, dim=0), state)

    def incoming(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AgentPass | None:
        """What goes in: `((x, state),)`. None for a call of another form."""
        call = args[0] if len(args) == 1 and not kwargs else None
        if not isinstance(call, tuple | list) or len(call) != 2 or not isinstance(call[0], Tensor):
            return None
        inputs, state = cast("tuple[Tensor, StateTree]", call)
        return AgentPass(inputs.detach(), copy_state(state), logits=None, value=None)

    def outgoing(self, incoming: AgentPass, output: Any) -> AgentPass:
        """What came out: `(value, logits, state)`. Anything else is a pass without policy output."""
        if not isinstance(output, tuple | list) or len(output) != 3 or not isinstance(output[1], Tensor):
            return incoming
        value, logits = output[0], output[1]
        return AgentPass(incoming.inputs, incoming.state, copy_tensor(logits), None if value is None else copy_tensor(value))


def _zero_state(module: nn.Module, n: int) -> StateTree:
    cells = [cell for cell in module.modules() if isinstance(cell, nn.LSTMCell | nn.GRUCell)]
    if len(cells) != 1:
        raise TypeError(
            f"Expected {type(module).__name__} to have initial_state(n) or exactly one LSTMCell or GRUCell, found {len(cells)} cells. "
            "Give the module an initial_state method."
        )
    zeros = cells[0].weight_hh.new_zeros(n, cells[0].hidden_size)
    return (zeros, zeros.clone()) if isinstance(cells[0], nn.LSTMCell) else zeros
