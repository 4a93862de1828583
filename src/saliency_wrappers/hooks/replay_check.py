"""The self-check: replaying a captured decision must give back what was recorded, or the maps would explain another decision.

`ReplayCheck` decides when to look, `replay` looks, `ReplayMismatchError` says what was found. `check_outputs`, `check_range` and
`check_preprocessing` look at what was captured itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saliency_wrappers.agents import AgentAdapter
from saliency_wrappers.agents.dict_observation import memory_of
from saliency_wrappers.decisions import AgentPass, Decision
from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.states import copy_state, state_leaves

Verify = Literal["first", "always", "never"]
FramesNow = Callable[[], Sequence[NDArray[np.uint8] | None]]
"""Gives the frames that are shown now, `(H, W, 3)` uint8, one for each row of the decision; None for a row, or nothing at all, where there
is none to compare with."""


class ReplayMismatchError(RuntimeError):
    """Replaying a captured decision gave logits or a value other than those of the acting pass."""


class ReplayCheck:
    """Checks the first decision of an agent and its first with a non-initial state (a dropped state does not show before), or every one.

    What fails is checked again at the next decision. The shapes of outputs are checked always, `"never"` included.
    """

    def __init__(self, verify: Verify) -> None:
        if verify not in Verify.__args__:
            raise ValueError(f"Expected verify to be one of {Verify.__args__}, got {verify!r}.")
        self.verify = verify
        self._adapter: AgentAdapter | None = None
        self._checked_first = False
        self._checked_memory = False
        self.unfinished = verify == "first"
        """Whether one of the two moments of `verify="first"` is still to come."""
        self.done_for: AgentAdapter | None = None
        """The agent of which nothing is left to be checked but the shapes of its outputs. None while there is something left."""

    def __call__(
        self, adapter: AgentAdapter, decision: Decision, preprocessor: FramePreprocessor | None = None, frames: FramesNow = tuple
    ) -> bool:
        """Replay a decision that is due and check its input; return whether it was due.

        Args:
            adapter: the agent that decided. Another one than before is checked anew.
            decision: what was captured.
            preprocessor: what should have made its input. None: not known.
            frames: gives what each row's input should have been made of, or nothing.

        Raises:
            ReplayMismatchError: the replay differs from what was recorded.
            ValueError: outputs of other shapes; an input outside `input_range`, or another one than the preprocessor makes.
        """
        check_outputs(decision)
        if adapter is not self._adapter:
            self._adapter, self._checked_first, self._checked_memory = adapter, False, False
            self.unfinished = self.verify == "first"
        self.done_for = None if self.verify == "always" or self.unfinished else adapter
        if self.done_for is not None:
            return False
        begins = _is_initial(adapter, decision)
        if self.verify == "first" and self._checked_first and begins:
            return False
        _check_all(adapter, decision, preprocessor, frames)
        self._checked_first = True
        self._checked_memory |= not begins
        if self._checked_memory and self.verify == "first":
            self.unfinished, self.done_for = False, adapter
        return True


def replay(adapter: AgentAdapter, decision: Decision, tolerance: float = 1e-5) -> None:
    """Run the adapter on a copy of what was captured and compare: `max|d| <= tolerance * max(1, max|y|)`, for logits and value alike.

    Raises:
        ReplayMismatchError: with both vectors, and the stochastic layers of the agent, if there are any.
    """
    # The captured input may be the very tensor that the user gave the agent, and agents may change what they are given.
    logits, value = adapter.evaluate(decision.inputs.clone(), copy_state(decision.state), decision.episode_start)
    for name, recorded, replayed in (("logits", decision.logits, logits), ("value", decision.value, value)):
        if recorded is None or replayed is None:
            if recorded is not replayed:
                raise ReplayMismatchError(f"The acting pass gave {_presence(recorded)} {name}, its replay {_presence(replayed)} {name}.")
            continue
        if bool(recorded.isnan().any() or replayed.isnan().any()):
            raise ReplayMismatchError(_not_a_number(name, recorded, replayed))
        if recorded.numel() != replayed.numel() or not _close(recorded.flatten(), replayed.flatten(), tolerance):
            if name == "logits" and _same_policy(recorded, replayed, tolerance):
                continue
            raise ReplayMismatchError(_mismatch(adapter, name, recorded, replayed))


def replay_held(adapter: AgentAdapter, decision: Decision, tolerance: float = 1e-5) -> None:
    """Replay a held decision; the error of a mismatch names the remedy for weights that changed meanwhile."""
    try:
        replay(adapter, decision, tolerance)
    except ReplayMismatchError as error:
        raise ReplayMismatchError(
            f"{error}\nThe decision was held to be explained later: if the agent learns meanwhile, construct the recorder with "
            'mode="inline", or call flush() before the weights change.'
        ) from error


def frames_of(rows: Collection[int], frames: FramesNow) -> FramesNow:
    """Return the frames of these rows, and None for the others, which are not compared."""
    return lambda: [frame if row in rows else None for row, frame in enumerate(frames())]


def check_outputs(decision: Decision | AgentPass) -> None:
    """Check the shapes of logits and value; `ValueError` for wrong ones."""
    value, logits = decision.value, decision.logits
    if logits is None or logits.ndim != 2 or (value is not None and value.numel() != decision.inputs.shape[0]):
        shapes = [None if tensor is None else tuple(tensor.shape) for tensor in (value, logits)]
        raise ValueError(
            f"Expected value (n,) or (n, 1) and logits (n, num_actions), got {shapes[0]} and {shapes[1]}: are they swapped? "
            "The agent is called as `value, logits, state = model((x, state))`."
        )


def check_range(adapter: AgentAdapter, inputs: Tensor) -> None:
    """Check that the input lies in the adapter's `input_range`, to a thousandth; `ValueError` for one outside it, or NaN."""
    low, high = adapter.input_range
    if inputs.ndim == 2:
        if not bool(inputs.isfinite().all()):
            raise ValueError(f"Expected a vector of finite numbers as network input, got {inputs[0].tolist()}.")
        return
    least, most, margin = float(inputs.min()), float(inputs.max()), 1e-3 * (high - low)
    if not (low - margin <= least and most <= high + margin):
        raise ValueError(
            f"Expected a network input in {low:g}..{high:g}, the adapter's input_range, got {least:.4g}..{most:.4g}. Fills are relative to "
            "this range: RecurrentAgentHook(agent, input_range=(low, high)) takes the range that the agent is fed with."
        )


def warn_of_truncation(adapter: AgentAdapter, decision: Decision) -> None:
    """Warn when an agent with integer-valued inputs truncates perturbed inputs to integers."""
    low, high = adapter.input_range
    inputs = decision.inputs.float()
    if inputs.ndim == 2:  # features are replaced by values of other moments
        return
    between = low + (inputs - low) * 0.7310586
    if not torch.equal(inputs, inputs.trunc()) or torch.equal(between, between.trunc()):
        return
    try:
        fed, whole, other, perturbed = (
            adapter.evaluate(images.clone(), copy_state(decision.state), decision.episode_start)[0]
            for images in (inputs, between.trunc(), low + high - inputs, between)
        )
    except Exception:  # what an agent does not take at all is an error of the computation of maps, which shows it
        return
    if not torch.equal(fed, other) and not torch.equal(fed, perturbed) and torch.equal(perturbed, whole):
        warnings.warn(
            "The agent cuts its inputs down to whole numbers (as x.long() does), so what a perturbation replaces by numbers between them "
            "is lost or means something else. For symbolic observations feed the agent one-hot planes and hook the part that takes them, "
            "or use a fill of whole numbers, fill=0.0 for example, with masks of 0 and 1; for images do not truncate in forward.",
            stacklevel=2,
        )


def check_preprocessing(
    preprocessor: FramePreprocessor, frame: NDArray[np.uint8] | None, inputs: Tensor, input_range: tuple[float, float] = (0.0, 1.0)
) -> None:
    """Compare the captured input of one environment with `preprocessor(frame)` in the input's range, where the frame determines it.

    Raises:
        ValueError: another shape, or other pixels (by more than half a grey level).
    """
    captured = tuple(inputs.shape[1:])
    preprocessor = preprocessor.for_input(captured)
    if captured != preprocessor.input_shape:
        raise ValueError(
            f"Expected a network input of shape {preprocessor.input_shape}, as the hook's preprocessor makes it, got {captured}. "
            "Give RecurrentAgentHook the preprocessor the agent is fed with."
        )
    if frame is None or preprocessor.stack > 1 or not preprocessor.determines_input:
        return
    low, high = input_range
    expected = low + preprocessor(frame) * (high - low)
    difference = float(np.abs(expected - inputs[0].float().cpu().numpy()).max())
    if not difference <= 0.5 / 255 * (high - low):
        raise ValueError(
            f"The captured network input differs from the hook's preprocessor applied to the rendered frame by up to {difference:.3g}. "
            "Give RecurrentAgentHook the preprocessor the agent is fed with (or one with determines_input=False, if the observation "
            'pools several frames), or pass verify="never".'
        )


def _check_all(adapter: AgentAdapter, decision: Decision, preprocessor: FramePreprocessor | None, frames: FramesNow) -> None:
    check_range(adapter, decision.inputs)
    replay(adapter, decision)
    warn_of_truncation(adapter, decision)
    if preprocessor is not None:
        for inputs, frame in zip(decision.inputs, frames() or [None] * len(decision), strict=True):
            check_preprocessing(preprocessor, frame, inputs[None], adapter.input_range)


def _is_initial(adapter: AgentAdapter, decision: Decision) -> bool:
    """Whether a dropped state cannot show in this decision: always False for an agent without memory."""
    captured = list(state_leaves(memory_of(decision.state)))
    try:
        initial = list(state_leaves(memory_of(adapter.initial_state(len(decision)))))
    except TypeError:  # the agent does not tell it; all begin with zeros, or nothing
        return not any(bool(leaf.any()) for leaf in captured)
    if not captured:
        return bool(initial)  # None, where the agent begins with its initial state by itself
    return len(captured) == len(initial) and all(torch.equal(a, b.to(a)) for a, b in zip(captured, initial, strict=True))


def _close(recorded: Tensor, replayed: Tensor, tolerance: float) -> bool:
    recorded, replayed = recorded.double(), replayed.double().to(recorded.device)
    finite = recorded.isfinite()
    if not torch.equal(recorded[~finite], replayed[~finite]):  # minus infinity is how forbidden actions are masked
        return False
    scale = max([1.0, *recorded[finite].abs().tolist()])
    return bool(((recorded - replayed)[finite].abs() <= tolerance * scale).all())


def _same_policy(recorded: Tensor, replayed: Tensor, tolerance: float) -> bool:
    """Whether logits `(n, k)` differ by a constant in each row because one of them are normalised, as `Categorical.logits` are."""
    if recorded.shape != replayed.shape or recorded.ndim != 2 or recorded.shape[1] < 2:
        return False
    pair = [logits.double().cpu() for logits in (recorded, replayed)]
    normalised = any(bool((logits.logsumexp(dim=1).abs() <= 1e-4).all()) for logits in pair)
    return normalised and _close(pair[0].log_softmax(dim=1).flatten(), pair[1].log_softmax(dim=1).flatten(), tolerance)


def _presence(tensor: Tensor | None) -> str:
    return "no" if tensor is None else "a"


def _mismatch(adapter: AgentAdapter, name: str, recorded: Tensor, replayed: Tensor) -> str:
    text = (
        f"Replaying the decision gave other {name} than the acting pass.\n"
        f"  recorded: {_numbers(recorded)}\n  replayed: {_numbers(replayed)}\n"
        "Either the captured input or state is not all that the agent consumed, or its weights changed since it acted."
    )
    difference = (recorded - replayed.to(recorded)).float() if recorded.shape == replayed.shape and recorded.ndim == 2 else None
    if difference is not None and difference.shape[1] > 1 and bool((difference - difference[:, :1]).abs().max() <= 1e-4):
        text += " They differ by a constant in each row: let evaluate return the same logits that the call gives, before any normalisation."
    layers = _stochastic_layers(getattr(adapter, "module", None))
    if layers:
        text += f" These layers draw at random while training: {', '.join(layers)}. Act with agent.eval(), or without them."
    return text


def _not_a_number(name: str, recorded: Tensor, replayed: Tensor) -> str:
    return (
        f"The agent gave {name} that are not numbers.\n  recorded: {_numbers(recorded)}\n  replayed: {_numbers(replayed)}\n"
        "Look for weights that diverged, or NaN in the network's input or state."
    )


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
