"""`Evaluation`: runs an agent on its input under every mask, on the dense path or the incremental one. `Plan` says which, and why.

The dense path runs whole images under all masks, in batches of the size that is fastest. The incremental path computes only what the masks
change, for one decision or for several at once. Where both give the same, the faster one is taken, as measured at the first decision.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from saliency_wrappers.agents.base import AgentAdapter
from saliency_wrappers.saliency.agent_memo import AgentMemo
from saliency_wrappers.saliency.dense_tuning import DenseTuner, run_densely, seconds_of
from saliency_wrappers.saliency.incremental.tensor import Step
from saliency_wrappers.saliency.independence import FEW, BatchProbe, one_at_a_time
from saliency_wrappers.saliency.passes import Outputs, Perturbation, Segment, compiled_pass, dense_pass, incremental_pass, joinable, joined
from saliency_wrappers.saliency.suitability import Suitability

PathChoice = Literal["auto", "plain", "incremental"]
"""`"plain"` is the dense path."""

WORTHWHILE = 0.5
"""The incremental path is considered while masks change at most this fraction of the pixels: beyond, gathering costs more than it saves."""

POSITIONS = 300_000
"""How many changed pixels the incremental path takes at a time with PyTorch: more would not stay in the processor's cache."""

COMPILED_POSITIONS = 2_500_000
"""The same with compiled kernels, which gather nothing; divided by the channels."""

SLOW = 5.0
"""Seconds: a decision that is expected to take longer is announced at the first one."""

_CLEARLY = 1.03
"""The incremental path is taken where it is faster by this factor: by less it may be the noise of measuring."""

_FEWEST = 8
"""How many rows of a slow decision are measured at least."""

_COUPLED = "the rows of a batch influence one another, so inputs are run one at a time"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """How the maps of a decision are computed. Its text is a readable summary."""

    path: Literal["plain", "incremental"]
    """`"plain"` is the dense path."""
    reason: str
    """Why this path."""
    masks: int
    """How many masks there are."""
    changing: int
    """How many of them change something, and are run."""
    share: float
    """The fraction of the pixels that those change, 0 to 1."""
    steps: tuple[Step, ...]
    """What the agent asked for, one operator after another; empty on the dense path."""
    seconds: float = 0.0
    """About how long a decision takes, extrapolated from a few masks; 0.0 where there are so few that nothing is measured."""

    def __str__(self) -> str:
        head = f"{'dense' if self.path == 'plain' else self.path} path: {self.reason}"
        masks = f"{self.changing} of {self.masks} masks change something: {self.share:.1%} of the pixels"
        return "\n".join([head, masks, f"about {self.seconds:.2g} s a decision", *map(str, self.steps)])


@dataclass(frozen=True)
class _Choice:
    """The faster path, as measured."""

    work: int
    """How many pixels the masks changed then."""
    seconds: float
    """How long that decision took on the faster path."""
    reason: str
    """Why the dense path; empty for the incremental one."""
    most_work: float
    """With more changed pixels it may be another path: incremental passes take longer then, dense ones do not."""


class Evaluation:
    """Runs agents on perturbations, each on its fastest path."""

    def __init__(self, path: PathChoice = "auto", batch_size: int | None = None) -> None:
        """Choose path and batch size.

        Args:
            path: `"auto"`: the incremental one where it is faster and gives the dense one's outputs.
            batch_size: run at most so many rows at a time, the untouched input included. None: as many as are fastest.

        Raises:
            ValueError: another path, or a batch size below 1.
        """
        if path not in PathChoice.__args__:
            raise ValueError(f"Expected path to be one of {PathChoice.__args__}, got {path!r}.")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"Expected a positive batch_size, got {batch_size}.")
        self.path: PathChoice = path
        self.batch_size = batch_size
        self._tuner = DenseTuner(batch_size)
        # The incremental path keeps the untouched input in the first row of a batch, which some kinds of coupling spare.
        self._probe = BatchProbe(batch_size, few=1 if path == "incremental" else FEW)
        self._suitability = Suitability(batch_size)
        self._choices: AgentMemo[_Choice] = AgentMemo()
        self._announced: AgentMemo[bool] = AgentMemo()

    def __call__(self, adapter: AgentAdapter, perturbations: Sequence[Perturbation]) -> list[Outputs]:
        """Return the outputs of each perturbation's `rows`, in order."""
        with torch.inference_mode():
            reasons = [self._why_dense(adapter, one) for one in perturbations]
            dense = {i for i, reason in enumerate(reasons) if reason}
            if perturbations:
                self._announce(adapter, perturbations[0], incremental=0 not in dense)
            done = {i: self._densely(adapter, perturbations[i]) for i in dense}
            others = [i for i in range(len(perturbations)) if i not in dense]
            done.update(zip(others, self._incrementally(adapter, [perturbations[i] for i in others]), strict=True))
            return [self._independent(adapter, one, *done[i]) for i, one in enumerate(perturbations)]

    def plan(self, adapter: AgentAdapter, perturbation: Perturbation) -> Plan:
        """Return how the outputs of a perturbation are computed; runs the agent once to record its operators."""
        with torch.inference_mode():
            reason, steps = self._why_dense(adapter, perturbation), list[Step]()
            if not reason:
                incremental_pass(adapter, [Segment(perturbation, perturbation.rows)], steps)
            seconds = self._expected_seconds(adapter, perturbation)
        masks, changing = len(perturbation.replaced) - 1, len(perturbation.rows) - 1
        by = "compiled kernels" if compiled_pass(perturbation) else "PyTorch"
        why = reason or f"only what the masks change is computed, by {by}"
        return Plan("plain" if reason else "incremental", why, masks, changing, perturbation.share, tuple(steps), seconds)

    def _why_dense(self, adapter: AgentAdapter, perturbation: Perturbation) -> str:
        """Return why a perturbation is run on the dense path; empty for the incremental path."""
        if self.batch_size == 1:
            return "batch_size=1 leaves no room for the untouched input beside a perturbed one"
        if self._probe(adapter, perturbation).coupled:
            return _COUPLED
        if perturbation.colours:
            return "colour masks are applied to whole images"
        if self.path != "auto":
            return "it was asked for" if self.path == "plain" else ""
        if len(perturbation.rows) == 1:
            return "no mask changes anything"
        if perturbation.inputs.device.type != "cpu":
            return f"on {perturbation.inputs.device.type} large dense batches are assumed to be faster"
        if perturbation.share > WORTHWHILE:
            return f"the masks change {perturbation.share:.0%} of the pixels, more than {WORTHWHILE:.0%}"
        return self._suitability(adapter, perturbation) or self._choice(adapter, perturbation).reason

    def _choice(self, adapter: AgentAdapter, perturbation: Perturbation) -> _Choice:
        """Return the faster path, as measured at the first decision.

        It is measured again where masks change so much more than then that incremental passes would take as long as dense ones.
        """
        key, work = _choice_key(perturbation), int(perturbation.counts.sum())
        choice = self._choices.get(adapter, key)
        if choice is None or work > choice.most_work:
            incremental, dense = self._measured(adapter, perturbation)
            slower = f"it is faster here, as measured: {1e3 * dense:.1f} ms, and {1e3 * incremental:.1f} ms on the incremental path"
            if dense < _CLEARLY * incremental:
                choice = _Choice(work, dense, slower, float("inf"))
            else:
                choice = _Choice(work, incremental, "", work * max(_CLEARLY, min(2.0, dense / incremental if incremental else 2.0)))
            self._choices.put(adapter, key, choice)
        return choice

    def _measured(self, adapter: AgentAdapter, perturbation: Perturbation) -> tuple[float, float]:
        """The seconds of a decision on the incremental path and on the dense one, the latter roughly where the difference is clear."""
        if (seconds := self._expected_seconds(adapter, perturbation)) > SLOW:
            return self._measured_in_part(adapter, perturbation, seconds)

        def incrementally() -> float:
            return seconds_of(lambda: self._incrementally(adapter, [perturbation]))

        incrementally()  # what happens only once
        incremental = min(incrementally() for _ in range(3))
        dense = self._tuner.rough_seconds(adapter, perturbation)
        if not incremental / 3 < dense < 3 * incremental:
            return incremental, dense
        self._tuner.best(adapter, perturbation)
        for turn in range(5):  # in turns: what else the machine does then hits both
            measured = seconds_of(lambda: self._densely(adapter, perturbation))
            dense = min(dense, measured) if turn else measured
            incremental = min(incremental, incrementally())
        return incremental, dense

    def _measured_in_part(self, adapter: AgentAdapter, perturbation: Perturbation, seconds: float) -> tuple[float, float]:
        """The same from about one second's worth of the masks, for a decision that takes so many seconds on the dense path."""
        n = len(perturbation.rows)
        size = min(n, max(_FEWEST, int(n / seconds)), self.batch_size or n)
        segment = Segment(perturbation, perturbation.rows[torch.linspace(0, n - 1, size).long()])
        incremental = seconds_of(lambda: incremental_pass(adapter, [segment]))
        return incremental * n / size, seconds_of(lambda: dense_pass(adapter, segment)) * n / size

    def _expected_seconds(self, adapter: AgentAdapter, perturbation: Perturbation) -> float:
        """About how long a decision takes: as measured, else on the dense path from a few rows; 0 where there are few."""
        choice = self._choices.get(adapter, _choice_key(perturbation))
        if choice is not None and choice.seconds:
            return choice.seconds * int(perturbation.counts.sum()) / choice.work
        return self._probe(adapter, perturbation).row_seconds * len(perturbation.rows)

    def _announce(self, adapter: AgentAdapter, perturbation: Perturbation, incremental: bool) -> None:
        """Say once for each agent and input shape that a decision will take long."""
        key = perturbation.inputs.shape
        if len(perturbation.rows) == 1 or self._announced.get(adapter, key):
            return
        self._announced.put(adapter, key, True)
        seconds = self._expected_seconds(adapter, perturbation)
        if seconds > SLOW:
            _logger.warning(
                "The saliency of one decision will take about %.0f s on the %s path: %d masks on an input of %s. "
                "A perturber with a larger stride, or a step_trigger, makes it faster.",
                seconds,
                "incremental" if incremental else "dense",
                len(perturbation.rows) - 1,
                " x ".join(map(str, perturbation.inputs.shape[1:])),
            )

    def _independent(self, adapter: AgentAdapter, perturbation: Perturbation, outputs: Outputs, witnesses: Outputs | None) -> Outputs:
        """Return the outputs, run again one by one where the rows of a batch turn out to influence one another."""
        if witnesses is None or len(perturbation.rows) == 1:
            return outputs
        found = self._probe(adapter, perturbation).coupled or not self._probe.check(adapter, perturbation, witnesses)
        return one_at_a_time(adapter, perturbation) if found else outputs

    def _densely(self, adapter: AgentAdapter, perturbation: Perturbation) -> tuple[Outputs, Outputs | None]:
        """Return the outputs, and those of the untouched input in several batches; None where rows were run one at a time."""
        if self.batch_size == 1 or self._probe(adapter, perturbation).coupled:
            return one_at_a_time(adapter, perturbation), None
        return run_densely(adapter, perturbation, self._tuner.best(adapter, perturbation), self.batch_size)

    def _incrementally(self, adapter: AgentAdapter, perturbations: Sequence[Perturbation]) -> list[tuple[Outputs, Outputs]]:
        """Return the outputs of each perturbation, and those of its untouched input in every batch."""
        parts: dict[int, list[Outputs]] = {id(one): [] for one in perturbations}
        witnesses: dict[int, list[Outputs]] = {id(one): [] for one in perturbations}
        for segments in self._batches(adapter, perturbations):
            logits, values = incremental_pass(adapter, segments)
            begin = 0
            for one in segments:
                # Row 0 leads each segment; it is an output of the first one only.
                part = slice(begin + bool(parts[id(one.perturbation)]), begin + len(one.rows))
                parts[id(one.perturbation)].append(_rows_between(logits, values, part))
                witnesses[id(one.perturbation)].append(_rows_between(logits, values, slice(begin, begin + 1)))
                begin += len(one.rows)
        return [(joined(parts[id(one)]), joined(witnesses[id(one)])) for one in perturbations]

    def _batches(self, adapter: AgentAdapter, perturbations: Sequence[Perturbation]) -> Iterator[list[Segment]]:
        """Segments to be run together: as many as stay within `batch_size` rows and `_positions` changed pixels."""
        batch: list[Segment] = []
        rows = positions = 0
        for one in perturbations:
            for segment, count in self._segments(one):
                full = rows + len(segment.rows) > (self.batch_size or sys.maxsize) or positions + count > _positions(one)
                if batch and (full or not joinable(adapter, batch[0].perturbation, one)):
                    yield batch
                    batch, rows, positions = [], 0, 0
                batch.append(segment)
                rows, positions = rows + len(segment.rows), positions + count
        if batch:
            yield batch

    def _segments(self, perturbation: Perturbation) -> Iterator[tuple[Segment, int]]:
        """The rows of a perturbation, cut, each part led by row 0, and how many pixels it changes."""
        rows, counts = perturbation.rows, perturbation.counts
        limited = -(-(len(rows) - 1) // (self.batch_size - 1)) if self.batch_size else 1  # row 0 is in each part
        parts = max(1, -(-int(counts.sum()) // _positions(perturbation)), limited)
        for own, count in zip(rows[1:].tensor_split(parts), counts[1:].tensor_split(parts), strict=True):
            yield Segment(perturbation, torch.cat([rows[:1], own])), int(count.sum())


def _rows_between(logits: Tensor, values: Tensor | None, part: slice) -> Outputs:
    """Return the outputs of some rows."""
    return logits[part], None if values is None else values[part]


def _choice_key(perturbation: Perturbation) -> tuple[object, ...]:
    inputs = perturbation.inputs
    return inputs.shape, inputs.dtype, inputs.device, torch.get_num_threads()


def _positions(perturbation: Perturbation) -> int:
    """Return the largest number of changed pixels in one batch."""
    return max(1, COMPILED_POSITIONS // perturbation.inputs.shape[1]) if compiled_pass(perturbation) else POSITIONS
