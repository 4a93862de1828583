"""`Evaluation`: runs an agent on its input under every mask, on the plain path or the incremental one. `Plan` says which, and why.

The plain path is dense: all masks, in batches of the size that is fastest. The incremental path computes only what the masks change, for
one decision or for several at once.
"""

from __future__ import annotations

import logging
import sys
import time
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from saliency_wrappers.agents.base import AgentAdapter
from saliency_wrappers.saliency.incremental.tensor import Step
from saliency_wrappers.saliency.passes import Layout, Outputs, Perturbation, Segment, compiled_pass, dense_pass, incremental_pass, joinable

Path = Literal["auto", "plain", "incremental"]

WORTHWHILE = 0.5
"""The incremental path is taken while masks change at most this share of the pixels: beyond, gathering costs more than it saves."""

POSITIONS = 300_000
"""How many changed pixels the incremental path takes at a time with PyTorch: more would not stay in the processor's cache."""

COMPILED_POSITIONS = 2_500_000
"""The same with compiled kernels, which gather nothing; divided by the channels."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """How the maps of a decision are computed. Its text is a readable summary."""

    path: Literal["plain", "incremental"]
    reason: str
    """Why this path."""
    masks: int
    """How many masks there are."""
    changing: int
    """How many of them change something, and are run."""
    share: float
    """How many of the pixels those change, 0 to 1."""
    steps: tuple[Step, ...]
    """What the agent asked for, one operator after another; empty on the plain path."""

    def __str__(self) -> str:
        head = f"{self.path} path: {self.reason}"
        masks = f"{self.changing} of {self.masks} masks change something: {self.share:.1%} of the pixels"
        return "\n".join([head, masks, *map(str, self.steps)])


class Evaluation:
    """Runs agents on perturbations, each on the path that suits it."""

    def __init__(self, path: Path = "auto", batch_size: int | None = None) -> None:
        """Choose how.

        Args:
            path: `"auto"`: the incremental one where it is worthwhile and gives the plain one's outputs.
            batch_size: run at most so many masks at a time. None: as many as are fastest.
        """
        if path not in Path.__args__:
            raise ValueError(f"Expected path to be one of {Path.__args__}, got {path!r}.")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"Expected a positive batch_size, got {batch_size}.")
        self.path: Path = path
        self.batch_size = batch_size
        self._tuner = _Tuner(batch_size)
        self._suitability = _Suitability()

    def __call__(self, adapter: AgentAdapter, perturbations: Sequence[Perturbation]) -> list[Outputs]:
        """The outputs of each perturbation's `rows`, in their order."""
        with torch.inference_mode():
            plain = {i for i, one in enumerate(perturbations) if self._why_plain(adapter, one)}
            done = {i: self._plainly(adapter, perturbations[i]) for i in plain}
            others = [i for i in range(len(perturbations)) if i not in plain]
            done.update(zip(others, self._incrementally(adapter, [perturbations[i] for i in others]), strict=True))
        return [done[i] for i in range(len(perturbations))]

    def plan(self, adapter: AgentAdapter, perturbation: Perturbation) -> Plan:
        """How the outputs of a perturbation are computed; runs the agent once to see what it asks for."""
        with torch.inference_mode():
            reason, steps = self._why_plain(adapter, perturbation), list[Step]()
            if not reason:
                incremental_pass(adapter, [Segment(perturbation, perturbation.rows)], steps)
        masks, changing = len(perturbation.replaced) - 1, len(perturbation.rows) - 1
        by = "compiled kernels" if compiled_pass(perturbation) else "PyTorch"
        why = reason or f"only what the masks change is computed, by {by}"
        return Plan("plain" if reason else "incremental", why, masks, changing, perturbation.share, tuple(steps))

    def _why_plain(self, adapter: AgentAdapter, perturbation: Perturbation) -> str:
        """Why a perturbation is run on the plain path; empty when it is not."""
        if self.path != "auto":
            return "it was asked for" if self.path == "plain" else ""
        if len(perturbation.rows) == 1:
            return "no mask changes anything"
        if perturbation.inputs.device.type != "cpu":
            return f"on {perturbation.inputs.device.type} large dense batches are assumed to be faster"
        if perturbation.share > WORTHWHILE:
            return f"the masks change {perturbation.share:.0%} of the pixels, more than {WORTHWHILE:.0%}"
        return self._suitability(adapter, perturbation)

    def _plainly(self, adapter: AgentAdapter, perturbation: Perturbation) -> Outputs:
        setting, rows = self._tuner.best(adapter, perturbation), perturbation.rows
        parts = torch.tensor_split(rows, -(-len(rows) // setting.size))
        return _joined([dense_pass(adapter, Segment(perturbation, part), setting.layout) for part in parts])

    def _incrementally(self, adapter: AgentAdapter, perturbations: Sequence[Perturbation]) -> list[Outputs]:
        parts: dict[int, list[Outputs]] = {id(one): [] for one in perturbations}
        for segments in self._batches(adapter, perturbations):
            logits, values = incremental_pass(adapter, segments)
            begin = 0
            for one in segments:
                # Row 0 leads each segment; it is an output of the first one only.
                part = slice(begin + bool(parts[id(one.perturbation)]), begin + len(one.rows))
                parts[id(one.perturbation)].append((logits[part], None if values is None else values[part]))
                begin += len(one.rows)
        return [_joined(parts[id(one)]) for one in perturbations]

    def _batches(self, adapter: AgentAdapter, perturbations: Sequence[Perturbation]) -> Iterator[list[Segment]]:
        """Segments to be run together: as many as stay within `batch_size` rows and `_positions` changed pixels."""
        batch: list[Segment] = []
        rows = positions = 0
        for one in perturbations:
            for segment, count in self._segments(one):
                full = rows + len(segment.rows) > (self.batch_size or sys.maxsize) or positions + count > _positions(one)
                if batch and (full or not _alike(adapter, batch[0].perturbation, one)):
                    yield batch
                    batch, rows, positions = [], 0, 0
                batch.append(segment)
                rows, positions = rows + len(segment.rows), positions + count
        if batch:
            yield batch

    def _segments(self, perturbation: Perturbation) -> Iterator[tuple[Segment, int]]:
        """The rows of a perturbation, cut, each part led by row 0, and how many pixels it changes."""
        rows, counts = perturbation.rows, perturbation.counts
        parts = max(1, -(-int(counts.sum()) // _positions(perturbation)), -(-(len(rows) - 1) // self.batch_size) if self.batch_size else 1)
        for own, count in zip(rows[1:].tensor_split(parts), counts[1:].tensor_split(parts), strict=True):
            yield Segment(perturbation, torch.cat([rows[:1], own])), int(count.sum())


def _positions(perturbation: Perturbation) -> int:
    """How many changed pixels to take at a time."""
    return max(1, COMPILED_POSITIONS // perturbation.inputs.shape[1]) if compiled_pass(perturbation) else POSITIONS


def _alike(adapter: AgentAdapter, one: Perturbation, other: Perturbation) -> bool:
    """Whether rows of both can be run together."""
    same = one.inputs.shape == other.inputs.shape and one.inputs.dtype == other.inputs.dtype and one.inputs.device == other.inputs.device
    return same and (one.episode_start is None) == (other.episode_start is None) and joinable(adapter, one)


def _joined(parts: Sequence[Outputs]) -> Outputs:
    values = [value for _, value in parts if value is not None]
    return torch.cat([logits for logits, _ in parts]), torch.cat(values) if values else None


class _Suitability:
    """Finds out, once for each agent and input shape, whether it can be run on the incremental path, by running both on a few rows."""

    rows = 8

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[Callable[[], Any], str]] = {}

    def __reduce__(self) -> tuple[type[_Suitability], tuple[()]]:
        return _Suitability, ()

    def __call__(self, adapter: AgentAdapter, perturbation: Perturbation) -> str:
        """Why not; empty when it can."""
        inputs = perturbation.inputs
        key = (id(adapter), inputs.shape, inputs.dtype, inputs.device)
        alive, reason = self._known.get(key, (None, ""))
        if alive is None or alive() is not adapter:  # another one may have its id now
            reason = self._find(adapter, perturbation)
            self._known[key] = _reference(adapter), reason
            if reason:
                _logger.info("%s is run on the plain path: %s.", type(adapter).__name__, reason)
        return reason

    def _find(self, adapter: AgentAdapter, perturbation: Perturbation) -> str:
        if reason := _opaque(getattr(adapter, "module", None)):
            return reason
        exact = (perturbation.replaced[:, 0] > 0) & perturbation.change.any(dim=0)
        perturbation = replace(perturbation, changed=exact)  # what the tolerance leaves out would tell them apart, too
        picked = perturbation.rows[torch.linspace(0, len(perturbation.rows) - 1, self.rows).long().unique()]
        segment = Segment(perturbation, picked)
        expected, steps = dense_pass(adapter, segment), list[Step]()
        try:
            outputs = incremental_pass(adapter, [segment], steps)
        except Exception as error:
            return f"the agent does not run on what changes alone ({type(error).__name__}: {error})"
        if not any(step.incremental and step.operator == "conv2d" for step in steps):
            return "the agent has no convolution that is known"
        return "" if all(map(_agree, outputs, expected)) else "the agent's outputs would be others"


def _reference(adapter: AgentAdapter) -> Callable[[], Any]:
    try:
        return weakref.ref(adapter)
    except TypeError:  # an object that cannot be referred to weakly: it is looked at each time
        return lambda: None


def _opaque(module: object) -> str:
    """Why a module cannot be watched at its operators; empty for one that can."""
    for part in module.modules() if isinstance(module, nn.Module) else ():
        if isinstance(part, nn.DataParallel | torch.jit.ScriptModule) or type(part).__name__ == "OptimizedModule":
            return f"{type(part).__name__} runs as a whole"
        if getattr(part, "_compiled_call_impl", None) is not None:
            return f"{type(part).__name__} is compiled"
    return ""


def _agree(output: Tensor | None, expected: Tensor | None) -> bool:
    """Whether both are the same but for rounding."""
    if output is None or expected is None:
        return output is expected
    finite = expected[expected.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 1.0
    return output.shape == expected.shape and torch.allclose(output, expected, rtol=0, atol=1e-3 * max(scale, 1e-6), equal_nan=True)


@dataclass(frozen=True)
class _Setting:
    """How a dense pass is run."""

    size: int
    """How many masks at a time."""
    layout: Layout


class _Tuner:
    """Measures how masks are run fastest: the activations of too large a batch fall out of the processor's caches."""

    smallest = 16
    shares = (1, 2, 4, 8, 16)
    """Into how many equal batches the masks are cut: a small last one would waste time."""

    def __init__(self, batch_size: int | None) -> None:
        self._batch_size = batch_size
        self._best: dict[Hashable, _Setting] = {}

    def __reduce__(self) -> tuple[type[_Tuner], tuple[int | None]]:
        return _Tuner, (self._batch_size,)  # elsewhere others may be faster

    def best(self, adapter: AgentAdapter, perturbation: Perturbation) -> _Setting:
        """The fastest setting for this agent, input shape, device and number of threads; measured once."""
        inputs, n = perturbation.inputs, len(perturbation.rows)
        # By id: an adapter need not be hashable, and when another takes over its id only the speed is at stake.
        key = (id(adapter), inputs.shape, inputs.dtype, inputs.device, torch.get_num_threads())
        if key not in self._best:
            if n <= self.smallest:
                return _Setting(self._batch_size or self.smallest, "contiguous")
            sizes = {self._batch_size} if self._batch_size else {max(self.smallest, -(-n // share)) for share in self.shares}
            self._best[key] = self._fastest(adapter, perturbation, [_Setting(size, layout) for size in sizes for layout in Layout.__args__])
        return self._best[key]

    def _fastest(self, adapter: AgentAdapter, perturbation: Perturbation, settings: Sequence[_Setting]) -> _Setting:
        shortest = dict.fromkeys(settings, float("inf"))
        for _ in range(4):  # in turns: what else the machine does then hits all of them
            for setting in settings:
                shortest[setting] = min(shortest[setting], _seconds(adapter, perturbation, setting))
        return min(settings, key=lambda setting: shortest[setting])


def _seconds(adapter: AgentAdapter, perturbation: Perturbation, setting: _Setting) -> float:
    """For each mask; infinite where the agent does not run in this layout."""
    rows = perturbation.rows[: setting.size]
    start = time.perf_counter()
    try:
        dense_pass(adapter, Segment(perturbation, rows), setting.layout)
    except RuntimeError:
        if setting.layout == "contiguous":
            raise
        return float("inf")
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / len(rows)
