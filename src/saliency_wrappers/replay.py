"""The self-check: replaying a captured decision must give back what was recorded, or the maps would explain another decision.

`ReplayCheck` decides when to look, `replay` looks, `ReplayMismatchError` says what was found.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saliency_wrappers.agents import AgentAdapter
from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.records import Decision, state_leaves

Verify = Literal["first", "always", "never"]


class ReplayMismatchError(RuntimeError):
    """Replaying a captured decision gave other logits or another value than the acting pass."""


class ReplayCheck:
    """Checks the first decision and the first with a non-initial state (a dropped state does not show before), or every one."""

    def __init__(self, verify: Verify) -> None:
        if verify not in Verify.__args__:
            raise ValueError(f"Expected verify to be one of {Verify.__args__}, got {verify!r}.")
        self.verify = verify
        self._checked_first = False
        self._checked_memory = False

    @property
    def unfinished(self) -> bool:
        """Whether one of the two moments of `verify="first"` is still to come."""
        return self.verify == "first" and not (self._checked_first and self._checked_memory)

    def __call__(self, adapter: AgentAdapter, decision: Decision) -> bool:
        """Replay the decision when it is one to check; whether it was.

        Raises:
            ReplayMismatchError: the replay differs from what was recorded.
        """
        if self.verify == "never":
            return False
        begins = _is_initial(adapter, decision)
        if self.verify == "first" and self._checked_first and (self._checked_memory or begins):
            return False
        replay(adapter, decision)
        self._checked_first = True
        self._checked_memory |= not begins
        return True


def replay(adapter: AgentAdapter, decision: Decision, tolerance: float = 1e-5) -> None:
    """Run the adapter on what was captured and compare: `max|d| <= tolerance * max(1, max|y|)`, for logits and value alike.

    Raises:
        ReplayMismatchError: with both vectors, and the stochastic layers of the agent, if there are any.
    """
    logits, value = adapter.evaluate(decision.inputs, decision.state, decision.episode_start)
    for name, recorded, replayed in (("logits", decision.logits, logits), ("value", decision.value, value)):
        if recorded is None or replayed is None:
            if recorded is not replayed:
                raise ReplayMismatchError(f"The acting pass gave {_presence(recorded)} {name}, its replay {_presence(replayed)} {name}.")
            continue
        if recorded.numel() != replayed.numel() or not _close(recorded.flatten(), replayed.flatten(), tolerance):
            raise ReplayMismatchError(_mismatch(adapter, name, recorded, replayed))


def check_preprocessing(preprocessor: FramePreprocessor, frame: NDArray[np.uint8] | None, inputs: Tensor) -> None:
    """Compare the captured input of one environment with `preprocessor(frame)`, where the frame determines it.

    Raises:
        ValueError: another shape, or other pixels (by more than half a grey level).
    """
    captured = tuple(inputs.shape[1:])
    if captured != preprocessor.input_shape:
        raise ValueError(
            f"Expected a network input of shape {preprocessor.input_shape}, as the hook's preprocessor makes it, got {captured}. "
            "Give RecurrentAgentHook the preprocessor the agent is fed with."
        )
    if frame is None or preprocessor.stack > 1 or not preprocessor.determines_input:
        return
    difference = float(np.abs(preprocessor(frame) - inputs[0].float().cpu().numpy()).max())
    if not difference <= 0.5 / 255:
        raise ValueError(
            f"The captured network input differs from the hook's preprocessor applied to the rendered frame by up to {difference:.3g}. "
            "Give RecurrentAgentHook the preprocessor the agent is fed with (or one with determines_input=False, if the observation "
            'pools several frames), or pass verify="never".'
        )


def _is_initial(adapter: AgentAdapter, decision: Decision) -> bool:
    """Whether a dropped state cannot show in this decision: always False for an agent without memory."""
    captured, initial = list(state_leaves(decision.state)), list(state_leaves(adapter.initial_state(len(decision))))
    if not captured:
        return bool(initial)  # None, where the agent begins with its initial state by itself
    return len(captured) == len(initial) and all(torch.equal(a, b.to(a)) for a, b in zip(captured, initial, strict=True))


def _close(recorded: Tensor, replayed: Tensor, tolerance: float) -> bool:
    scale = max(1.0, float(recorded.abs().max()))
    return bool((recorded.double() - replayed.double().to(recorded.device)).abs().max() <= tolerance * scale)


def _presence(tensor: Tensor | None) -> str:
    return "no" if tensor is None else "a"


def _mismatch(adapter: AgentAdapter, name: str, recorded: Tensor, replayed: Tensor) -> str:
    text = (
        f"Replaying the decision gave other {name} than the acting pass.\n"
        f"  recorded: {_numbers(recorded)}\n  replayed: {_numbers(replayed)}\n"
        "Either the captured input or state is not all that the agent consumed, or its weights changed since it acted."
    )
    layers = _stochastic_layers(getattr(adapter, "module", None))
    if layers:
        text += f" These layers draw at random while training: {', '.join(layers)}. Act with agent.eval(), or without them."
    return text


def _numbers(tensor: Tensor) -> str:
    return np.array2string(tensor.detach().float().cpu().numpy(), precision=6, threshold=40)


def _stochastic_layers(module: Any) -> list[str]:
    if not isinstance(module, nn.Module):
        return []
    kinds = (nn.modules.dropout._DropoutNd, nn.RReLU, nn.modules.batchnorm._BatchNorm)  # pyright: ignore[reportPrivateUsage]
    return [
        f"{name} ({type(part).__name__})"
        for name, part in module.named_modules()
        if (part.training and isinstance(part, kinds)) or "noisy" in type(part).__name__.lower()  # some are noisy in eval(), too
    ]
