"""How times are taken, so that they can be compared: `in_turns` times ways on the same work, `Spread` and `ratios` sum the laps up.

What else the machine does changes from minute to minute. So ways take turns on small blocks of work, medians are printed with what was
least and most, and ratios are taken within a block.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from saliency_wrappers.saliency.incremental import kernels


@dataclass(frozen=True)
class Lap:
    """One way's time on one block of work."""

    way: str
    block: int
    units: int
    """How much work the block is: decisions, or steps."""
    seconds: float
    """For one unit."""


@dataclass(frozen=True)
class Spread:
    """The median of some numbers, and how far they lie apart."""

    median: float
    least: float
    most: float

    @staticmethod
    def of(numbers: Sequence[float]) -> Spread:
        """Of at least one number."""
        return Spread(median(numbers), min(numbers), max(numbers))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def without_kernels() -> Iterator[None]:
    """As where Numba is not installed."""
    before = kernels._kernels
    kernels._kernels = lambda: None
    try:
        yield
    finally:
        kernels._kernels = before


def in_turns(ways: Mapping[str, Callable[[], Any]], block: int, units: int, threads: int) -> tuple[list[Lap], dict[str, Any]]:
    """Let each way do the same block of work once, one after another, each block beginning with another way.

    Args:
        ways: what is timed, by name.
        block: the number of the block.
        units: how much work it is.
        threads: how many torch uses.

    Returns:
        A lap for each way, and what each returned.
    """
    names = list(ways)
    laps: list[Lap] = []
    results: dict[str, Any] = {}
    for name in names[block % len(names) :] + names[: block % len(names)]:
        with torch_threads(threads):
            start = time.perf_counter()
            results[name] = ways[name]()
            laps.append(Lap(name, block, units, (time.perf_counter() - start) / units))
    return laps, results


def seconds(laps: Sequence[Lap], way: str) -> Spread:
    """A way's seconds for one unit, over its blocks."""
    return Spread.of([lap.seconds for lap in laps if lap.way == way])


def ratios(laps: Sequence[Lap], baseline: str, way: str) -> Spread | None:
    """How many times the baseline's seconds are the way's, over the blocks that both did. None where there is no such block."""
    own = {lap.block: lap.seconds for lap in laps if lap.way == way}
    shared = [lap.seconds / own[lap.block] for lap in laps if lap.way == baseline and lap.block in own]
    return Spread.of(shared) if shared else None
