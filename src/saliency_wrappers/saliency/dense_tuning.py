"""`DenseTuner`: measures in which batches and in which memory layout the dense path runs fastest."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from saliency_wrappers.agents.base import AgentAdapter
from saliency_wrappers.saliency.agent_memo import AgentMemo
from saliency_wrappers.saliency.passes import MemoryLayout, Outputs, Perturbation, Segment, dense_pass, joined, witnessed_pass

_SMALLEST = 16
"""Rows of the smallest batch that is tried."""

_BATCHES = (1, 2, 4, 8, 16)
"""Into how many equal batches the masks are cut: a small last one would waste time."""

_ROUNDS = 3
"""How often each of the settings that are left after the first round is measured."""

_CONTENDERS = 1.25
"""Settings up to this many times slower than the fastest in the first round are measured again."""

_EQUAL = 1.03
"""Settings up to this many times slower than the fastest count as equally fast; the first in a fixed order is taken."""

_LONG = 1.0
"""Seconds that one measurement takes at most: where all masks take longer, only a part of them is measured, in batches of no more."""


_WITNESS = 50
"""For so many rows the untouched input is run once more, to see whether the rows of a batch influence one another."""


@dataclass(frozen=True)
class DenseSetting:
    """Batch size and memory layout of dense passes."""

    size: int
    """How many rows at a time."""
    layout: MemoryLayout


def run_densely(
    adapter: AgentAdapter, perturbation: Perturbation, setting: DenseSetting, limit: int | None = None
) -> tuple[Outputs, Outputs]:
    """Run all rows of a perturbation in equal batches of at most `setting.size` rows.

    Args:
        adapter: the agent's.
        perturbation: what to run it on.
        setting: size and memory layout of the batches.
        limit: batches never have more rows than this. None: no limit.

    Returns:
        The outputs of all rows, and those of the untouched input in several of the batches, of one row each: in the first one, and, as an
        additional row, in as many others as cost no more than one row in `_WITNESS`.
    """
    rows = perturbation.rows
    parts = torch.tensor_split(rows, -(-len(rows) // setting.size))
    spaced = torch.linspace(1, len(parts) - 1, min(len(parts) - 1, len(rows) // _WITNESS)).long().tolist()
    made, witnesses = list[Outputs](), list[Outputs]()
    for i, part in enumerate(parts):
        segment = Segment(perturbation, part)
        if i == 0 or (i in spaced and (limit is None or len(part) < limit)):
            outputs, witness = witnessed_pass(adapter, segment, setting.layout)
            witnesses.append(witness)
        else:
            outputs = dense_pass(adapter, segment, setting.layout)
        made.append(outputs)
    return joined(made), joined(witnesses)


class DenseTuner:
    """Measures the fastest batch size and layout: activations of too large a batch do not fit into the processor's caches.

    Every setting is measured over all masks, in turns, as it is used later. Among settings that are equally fast within 3 % the first in a
    fixed order is taken, so that the choice does not differ from run to run.
    """

    def __init__(self, batch_size: int | None) -> None:
        """Tune batches of at most `batch_size` rows. None: of any size."""
        self._batch_size = batch_size
        self._best: AgentMemo[tuple[int, DenseSetting]] = AgentMemo()

    def __reduce__(self) -> tuple[type[DenseTuner], tuple[int | None]]:
        return DenseTuner, (self._batch_size,)

    def best(self, adapter: AgentAdapter, perturbation: Perturbation) -> DenseSetting:
        """Return the fastest setting for this agent, input shape, device and number of threads.

        Measured at the first decision, and again at one with more than twice as many masks that change something.
        """
        inputs, n = perturbation.inputs, len(perturbation.rows)
        smallest = _SMALLEST if self._batch_size is None else min(_SMALLEST, self._batch_size)
        key = (inputs.shape, inputs.dtype, inputs.device, torch.get_num_threads())
        measured, setting = self._best.get(adapter, key) or (0, DenseSetting(smallest, "contiguous"))
        if n <= 2 * measured or n <= _SMALLEST:
            return setting
        setting = self._fastest(adapter, perturbation, self._settings(n))
        self._best.put(adapter, key, (n, setting))
        return setting

    def rough_seconds(self, adapter: AgentAdapter, perturbation: Perturbation) -> float:
        """Estimate the time of all rows from one batch in each layout."""
        n = len(perturbation.rows)
        size = min(n, self._batch_size or n, max(_SMALLEST, -(-n // 8)))
        settings = [DenseSetting(size, layout) for layout in MemoryLayout.__args__]
        return min(_seconds(adapter, perturbation, setting, size) for _ in range(2) for setting in settings) * n / size

    def _settings(self, n: int) -> list[DenseSetting]:
        """Return the settings that are measured, preferred ones first."""
        limit = self._batch_size or n
        sizes = sorted({min(limit, max(_SMALLEST, -(-n // parts))) for parts in _BATCHES})
        return [DenseSetting(size, layout) for size in sizes for layout in MemoryLayout.__args__]

    def _fastest(self, adapter: AgentAdapter, perturbation: Perturbation, settings: Sequence[DenseSetting]) -> DenseSetting:
        n = len(perturbation.rows)
        first = settings[0]
        _seconds(adapter, perturbation, first, first.size)  # what happens only once
        whole = _seconds(adapter, perturbation, first, first.size) * n / first.size
        rows = n if whole <= _LONG else max(first.size, int(n * _LONG / whole))
        settings = [one for one in settings if one.size <= rows]

        def measured(chosen: Sequence[DenseSetting]) -> dict[DenseSetting, float]:
            return {one: _seconds(adapter, perturbation, one, rows) for one in chosen}

        shortest = measured(settings)
        best = min(shortest.values())
        chosen = [one for one in settings if shortest[one] <= _CONTENDERS * best]
        for _ in range(_ROUNDS if len(chosen) > 1 else 0):  # in turns: what else the machine does then hits all of them
            for one, seconds in measured(chosen).items():
                shortest[one] = min(shortest[one], seconds)
        best = min(shortest[one] for one in chosen)
        return next(one for one in chosen if shortest[one] <= _EQUAL * best)


def seconds_of(run: Callable[[], object]) -> float:
    """Return the seconds that `run` takes, work on a GPU included."""
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _seconds(adapter: AgentAdapter, perturbation: Perturbation, setting: DenseSetting, rows: int) -> float:
    """Return the seconds of the first `rows` rows; infinity where the agent does not run in this layout."""
    chosen = perturbation.rows[:rows]
    parts = torch.tensor_split(chosen, max(1, -(-len(chosen) // setting.size)))
    try:
        return seconds_of(lambda: [dense_pass(adapter, Segment(perturbation, part), setting.layout) for part in parts])
    except RuntimeError:
        if setting.layout == "contiguous":
            raise
        return float("inf")
