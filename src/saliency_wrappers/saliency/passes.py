"""Forward passes over perturbed inputs: `dense_pass` runs an agent on whole images, `incremental_pass` on what masks change.

`Perturbation` is what masks do to the input of one decision, `Segment` some of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

import torch
from torch import Tensor

from saliency_wrappers.agents.base import AgentAdapter, batch_axes
from saliency_wrappers.saliency.incremental.kernels import load_kernels
from saliency_wrappers.saliency.incremental.masked_input import MaskedInput, rows_of
from saliency_wrappers.saliency.incremental.parallel import single_torch_thread
from saliency_wrappers.saliency.incremental.positions import Batch, counted
from saliency_wrappers.saliency.incremental.scratch import workspace
from saliency_wrappers.saliency.incremental.sparse_images import Masked
from saliency_wrappers.saliency.incremental.tensor import IncrementalBatch, Step
from saliency_wrappers.saliency.masks import perturbed
from saliency_wrappers.states import StateTree, map_state, state_leaves, structure

MemoryLayout = Literal["contiguous", "channels_last"]

Outputs = tuple[Tensor, Tensor | None]
"""Logits `(n, num_actions)`, and values `(n,)` or `(n, 1)`, or None."""


@dataclass(frozen=True, eq=False)
class Perturbation:
    """The input of one decision and n masks. Row 0 is the input itself, row k the input under mask k."""

    inputs: Tensor
    """x, `(1, C, h, w)`."""
    change: Tensor
    """`f - x`, `(C, h, w)`."""
    replaced: Tensor
    """`1 - m`, `(1 + n, 1, h, w)`; 0 in row 0."""
    changed: Tensor
    """`(1 + n, h, w)` bool: the pixels that a row changes; none in row 0."""
    state: StateTree
    """The incoming state of one row. None for an agent without memory."""
    episode_start: Tensor | None
    """`(1,)` bool. None when the agent is not told."""
    recorded: Outputs | None = None
    """The outputs that were recorded when the agent decided. None: unknown."""
    colours: tuple[tuple[Tensor, Tensor], ...] = ()
    """For colour masks: `1 - m` `(1 + n, 1, h, w)` and `f - x` `(C, h, w)` of each colour; empty for ordinary masks."""

    @cached_property
    def rows(self) -> Tensor:
        """`(k,)` int64, ascending: row 0 and the rows that change something."""
        changing = self._every_count > 0
        changing[0] = True
        return changing.nonzero().flatten()

    @cached_property
    def counts(self) -> Tensor:
        """`(k,)` int64: how many pixels each of `rows` changes."""
        return self._every_count[self.rows]

    @cached_property
    def _every_count(self) -> Tensor:
        return counted(self.changed.flatten(1))

    @property
    def share(self) -> float:
        """The fraction of pixels that the `rows` change, 0 to 1."""
        return float(self.counts.sum()) / (len(self.rows) * self.changed[0].numel())


@dataclass(frozen=True, eq=False)
class Segment:
    """Some rows of a perturbation."""

    perturbation: Perturbation
    rows: Tensor
    """`(k,)` int64, ascending."""


def dense_pass(adapter: AgentAdapter, segment: Segment, layout: MemoryLayout = "contiguous") -> Outputs:
    """Run the agent on whole images in a memory layout; one that flattens them by `view` does not run on `"channels_last"`."""
    one = segment.perturbation
    return _evaluated(adapter, one, perturbed_images(segment, out=_empty(len(segment.rows), one.inputs, layout)))


def witnessed_pass(adapter: AgentAdapter, segment: Segment, layout: MemoryLayout = "contiguous") -> tuple[Outputs, Outputs]:
    """Run the agent as `dense_pass` does, with the untouched input in the middle of the batch.

    An agent that mixes the rows of a batch changes the outputs of some rows only, the later ones for example: those in the middle have rows
    before and behind them. The untouched input changes places with the image in the middle; a segment without row 0 gets one image more.

    Returns:
        The outputs of the segment's rows, in their order, and those of the untouched input, of one row.
    """
    one, n = segment.perturbation, len(segment.rows)
    middle, has_input = n // 2, int(segment.rows[0]) == 0
    images = _empty(n if has_input else n + 1, one.inputs, layout)
    perturbed_images(segment, out=images[:n])
    spare = 0 if has_input else n
    images[spare] = images[middle]
    images[middle] = one.inputs[0]
    made = [None if output is None else output.clone() for output in _evaluated(adapter, one, images)]
    witness = [None if output is None else output[middle : middle + 1].clone() for output in made]
    for output, untouched in zip(made, witness, strict=True):
        if output is not None and untouched is not None:
            output[middle] = output[spare]
            output[spare] = untouched[0]
    logits, value = (None if output is None else output[:n] for output in made)
    return (cast(Tensor, logits), value), (cast(Tensor, witness[0]), witness[1])


def _evaluated(adapter: AgentAdapter, one: Perturbation, images: Tensor) -> Outputs:
    n = len(images)
    start = None if one.episode_start is None else one.episode_start.expand(n)
    return adapter.evaluate(images, adapter.repeat_state(one.state, n), start)


def perturbed_images(segment: Segment, out: Tensor) -> Tensor:
    """Write the perturbed images of a segment, `(k, C, h, w)`, to `out`, which is returned."""
    one = segment.perturbation
    if not one.colours:
        return perturbed(one.inputs[0], one.change, rows_of(one.replaced, segment.rows), out=out)
    out.copy_(one.inputs.expand_as(out))
    for replaced, change in one.colours:
        out.addcmul_(rows_of(replaced, segment.rows), change)
    return out


def incremental_pass(adapter: AgentAdapter, segments: Sequence[Segment], steps: list[Step] | None = None) -> Outputs:
    """Run the agent on what changes.

    Args:
        adapter: the agent's.
        segments: of inputs of one shape and dtype; each begins with row 0.
        steps: is told what the agent asked for, which takes time to find out. None: that is not wanted.

    Returns:
        The outputs of all rows.
    """
    starts = [one.perturbation.episode_start.expand(len(one.rows)) for one in segments if one.perturbation.episode_start is not None]
    with workspace.run(), single_torch_thread() if compiled_pass(segments[0].perturbation) else nullcontext():
        batch = IncrementalBatch(_masked(segments), steps)
        logits, values = adapter.evaluate(batch, _states(adapter, segments), torch.cat(starts) if starts else None)
    return _plain(logits), None if values is None else _plain(values)


def compiled_pass(perturbation: Perturbation) -> bool:
    """Whether the compiled kernels do the work of an incremental pass."""
    return perturbation.inputs.dtype == torch.float32 and load_kernels(perturbation.inputs) is not None


def change_by_frame(change: Tensor, frames: int) -> list[Tensor]:
    """Split a change `(C, h, w)` into one for each of `frames` stacked frames, `(C, h, w)` with 0 in the channels of all others."""
    if len(change) % frames:
        raise ValueError(f"Expected channels that {frames} frames share evenly, got an input of {len(change)} channels.")
    size = len(change) // frames
    parts = [torch.zeros_like(change) for _ in range(frames)]
    for i, one in enumerate(parts):
        one[i * size : (i + 1) * size] = change[i * size : (i + 1) * size]
    return parts


def joinable(adapter: AgentAdapter, one: Perturbation, other: Perturbation) -> bool:
    """Whether rows of two decisions can be run in one batch: inputs and states of one form, and states with known batch axes."""
    if _tensor_form(one.inputs) != _tensor_form(other.inputs) or (one.episode_start is None) != (other.episode_start is None):
        return False
    if structure(one.state) != structure(other.state) or _devices(one.state) != _devices(other.state):
        return False
    try:
        return one.state is None or len(batch_axes(adapter)) == len(list(state_leaves(one.state)))
    except (TypeError, ValueError):  # no initial state, or one that does not grow
        return False


def joined(parts: Sequence[Outputs]) -> Outputs:
    """Concatenate the outputs of several passes."""
    values = [value for _, value in parts if value is not None]
    return torch.cat([logits for logits, _ in parts]), torch.cat(values) if values else None


def _devices(state: StateTree) -> list[torch.device]:
    return [leaf.device for leaf in state_leaves(state)]


def _tensor_form(tensor: Tensor) -> tuple[object, ...]:
    return tuple(tensor.shape), tensor.dtype, tensor.device


def _masked(segments: Sequence[Segment]) -> Masked:
    """Concatenate the masked inputs of all segments."""
    parts = [rows_of(one.perturbation.changed, one.rows) for one in segments]
    changed = parts[0] if len(parts) == 1 else torch.cat(parts)
    lengths = torch.tensor([len(one.rows) for one in segments])
    frames = torch.arange(len(segments)).repeat_interleave(lengths).to(changed.device)
    given = [(one.perturbation, one.rows) for one in segments]
    return Masked(Batch.of(changed, frames), [MaskedInput(one.inputs[0], one.change, one.replaced, rows) for one, rows in given])


def _states(adapter: AgentAdapter, segments: Sequence[Segment]) -> StateTree:
    states = [adapter.repeat_state(one.perturbation.state, len(one.rows)) for one in segments]
    if len(states) == 1 or states[0] is None:
        return states[0]
    leaves = zip(*(state_leaves(state) for state in states), strict=True)
    joined = (torch.cat(parts, dim=axis) for parts, axis in zip(leaves, batch_axes(adapter), strict=True))
    return map_state(lambda _: next(joined), states[0])


def _plain(output: Tensor) -> Tensor:
    return output.whole_batch() if isinstance(output, IncrementalBatch) else output


def _empty(n: int, like: Tensor, layout: MemoryLayout) -> Tensor:
    """Return an uninitialised tensor `(n, C, h, w)`."""
    _, channels, height, width = like.shape
    if layout == "contiguous":
        return like.new_empty(n, channels, height, width)
    # `memory_format` would ignore it where C is 1.
    strides = (channels * height * width, 1, width * channels, channels)
    return torch.empty_strided((n, channels, height, width), strides, dtype=like.dtype, device=like.device)
