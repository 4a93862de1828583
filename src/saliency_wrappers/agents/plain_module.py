"""`ModuleAdapter`: any `nn.Module`; the form of its first call tells whether it has a memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from saliency_wrappers.agents.base import PolicyForm, is_network_input
from saliency_wrappers.agents.module_hooks import undisturbed
from saliency_wrappers.agents.policy_outputs import form_of_output, read_outputs
from saliency_wrappers.agents.recurrent_module import RecurrentModuleAdapter
from saliency_wrappers.decisions import AgentPass
from saliency_wrappers.states import StateTree


class _PlainPass(AgentPass):
    """A pass `module(x)` of a module without memory."""


class ModuleAdapter(RecurrentModuleAdapter):
    """Adapter for a module called as `value, logits, state = model((x, state))` or, without memory, as `model(x)`.

    What `model(x)` returns is read as `read_outputs` says; the range of its images is told by its first input, and `notice` says so.
    """

    def __init__(self, module: nn.Module, input_range: tuple[float, float] | None = None, *, channels_last: bool | None = None) -> None:
        """Adapt a module; the parameters are those of `RecurrentModuleAdapter`."""
        super().__init__(module, input_range, channels_last=channels_last)
        self._range_is_given = input_range is not None
        recurrent = any(isinstance(part, nn.RNNBase | nn.RNNCellBase) for part in module.modules())
        self._may_be_plain = not (recurrent or hasattr(module, "initial_state"))
        self._plain = False
        self.policy_form: PolicyForm = "logits"
        """How the policy output of `module(x)` is read: of a normal distribution `"gaussian"`."""
        self.notice: str | None = None
        """What its user should know of how it was read. None: nothing."""

    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return logits `(n, num_actions)` and values, as `AgentAdapter.evaluate`."""
        if not self._plain and not self._found_plain(inputs, state):
            return super().evaluate(inputs, state, episode_start)
        with undisturbed(self.module):
            return self._read(self.module(self.layout.as_given(inputs)))

    def act(self, inputs: Tensor, state: StateTree) -> tuple[Tensor, StateTree]:
        """Run one acting pass without gradients and return logits and the next state."""
        if not self._plain:
            return super().act(inputs, state)
        with torch.no_grad():
            return self._read(self.module(self.layout.as_given(inputs)))[0], None

    def initial_state(self, n: int) -> StateTree:
        """Return the initial state of a module with memory; None without."""
        return None if self._plain else super().initial_state(n)

    def incoming(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AgentPass | None:
        """Return the pass of a call with `((x, state),)`, or `(x,)` with images `(n, C, h, w)` or vectors `(n, features)`."""
        read = super().incoming(args, kwargs)
        if read is not None or not self._may_be_plain:
            return read
        image = args[0] if len(args) == 1 and not kwargs else None
        if not is_network_input(image):
            return None
        return _PlainPass(self.layout.channels_first(image.detach()), None, None, None, copied=True)

    def outgoing(self, incoming: AgentPass, output: Any) -> AgentPass | None:
        """Return the pass with its outputs."""
        if type(incoming) is not _PlainPass:
            return super().outgoing(incoming, output)
        read = read_outputs(output)
        if read is None:
            return None
        if not self._plain:
            self.policy_form = form_of_output(output)
            self._take_as_plain(incoming.inputs, with_value=read[1] is not None)
        return incoming.gave(*read)

    def _found_plain(self, inputs: Tensor, state: StateTree) -> bool:
        """Whether the module, of which no call was seen yet, runs as `module(x)`, as for maps of a store by a module just loaded."""
        if state is not None or not self._may_be_plain:
            return False
        try:
            with undisturbed(self.module):
                output = self.module(self.layout.as_given(inputs))
        except Exception:
            return False
        if (read := read_outputs(output)) is None:
            return False
        self.policy_form = form_of_output(output)
        self._take_as_plain(inputs, with_value=read[1] is not None)
        return True

    def _read(self, output: Any) -> tuple[Tensor, Tensor | None]:
        read = read_outputs(output)
        if read is None:
            raise TypeError(f"Expected {type(self.module).__name__}(x) to return logits, as it did before, got {type(output).__name__}.")
        return read

    def _take_as_plain(self, inputs: Tensor, with_value: bool) -> None:
        self._plain = True
        if inputs.ndim == 2:
            what = "logits and a value" if with_value else "logits or Q-values, and no value"
            self.notice = (
                f"{type(self.module).__name__} was called as module(x) with vectors: taken as an agent without memory that returns {what}. "
                "Hook QNetworkAdapter(model) for module(x) -> Q-values, or a FunctionAdapter for any other form, to say so yourself."
            )
            return
        most = float(inputs.max())
        if not self._range_is_given:
            self.input_range = (0.0, 255.0) if most > 1 or not inputs.is_floating_point() else (0.0, 1.0)
        low, high = self.input_range
        name, what = type(self.module).__name__, "logits and a value" if with_value else "logits or Q-values, and no value"
        self.notice = (
            f"{name} was called as module(x): taken as an agent without memory that returns {what}, of images in {low:g}..{high:g} "
            f"(its first input reaches {most:.4g}). Hook QNetworkAdapter(model, input_range=...) for module(x) -> logits, or a "
            "FunctionAdapter for any other form, to say so yourself."
        )
