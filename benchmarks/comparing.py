"""Ways to compute maps, timed in turns on the same decisions, and compared with the maps that they must agree with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np
from measuring import Lap, Spread, in_turns, ratios, seconds, torch_threads
from numpy.typing import NDArray

from saliency_wrappers import Decision, SaliencyMaps
from saliency_wrappers.agents import AgentAdapter
from saliency_wrappers.saliency.method import SaliencyMethod
from saliency_wrappers.saliency.paths import Plan

Array = NDArray[np.float32]
Difference = Callable[[Array, Array], float]
"""How far a map is from the one that it must agree with."""

EQUAL = 1e-4
"""How far maps that are to be the same may differ, of their peak or of their own scale: float32 sums in another order."""

SIMILAR = 0.1
"""How far maps that are to be much the same may differ: what they do is a result, and printed."""


Explain = Callable[[Sequence[Decision]], list[SaliencyMaps]]
"""The maps of decisions, in their order."""


@dataclass(frozen=True)
class Way:
    """One way to compute maps."""

    name: str
    explain: Explain
    agrees_with: str
    """The name of the way whose maps these must equal."""
    difference: Difference
    bound: float = EQUAL
    warm_up: int = 8
    """How many decisions it explains before it is timed: batch sizes are measured then, masks made, memory taken."""
    slow: bool = False
    """Takes part in every other block only."""
    plan: Callable[[Decision], Plan] | None = None
    """How it explains a decision. None where it has no choice."""


@dataclass(frozen=True)
class Result:
    """What the laps of one way say, for one number of threads."""

    way: str
    threads: int
    decisions: int
    """How many were explained."""
    seconds: Spread
    """Per decision, over the blocks."""
    times_faster: dict[str, Spread | None]
    """By the name of a baseline: its seconds divided by these, over the blocks that both explained."""
    agrees_with: str
    difference: float
    """The largest, over all maps, to those that it must agree with."""
    usual_difference: float
    """The median."""
    incremental: int | None
    """How many of all decisions took the incremental path. None where there is no choice."""


def of_own_scale(saliency: Array, other: Array) -> float:
    """The largest difference after both are stretched to [0, 1]: the published application does so itself."""
    return float(np.abs(_scaled(saliency) - _scaled(other)).max())


def of_the_peak(saliency: Array, other: Array) -> float:
    """The largest difference, as a share of the other's peak."""
    return float(np.abs(saliency - other).max() / (np.abs(other).max() or 1.0))


def inline(method: SaliencyMethod, adapter: AgentAdapter) -> Explain:
    """Explain one decision a call, as while an agent plays."""
    return lambda decisions: [maps for decision in decisions for maps in method(adapter, [decision])]


def deferred(method: SaliencyMethod, adapter: AgentAdapter) -> Explain:
    """Explain all decisions in one call, as what was recorded."""
    return lambda decisions: method(adapter, decisions)


def compare(
    ways: Sequence[Way], decisions: Sequence[Decision], rounds: int, threads: int, baselines: Sequence[str], multiple: int | None = None
) -> list[Result]:
    """Let all ways explain the same decisions in turns.

    Args:
        ways: what to compare.
        decisions: what to explain, once by each way that is not slow.
        rounds: how many blocks they are explained in.
        threads: how many torch uses.
        baselines: names of the ways that each is compared in speed with.
        multiple: decisions that follow each other in groups of so many stay together. None: as many as there are threads.

    Returns:
        One result a way, in their order.

    Raises:
        ValueError: maps that must agree do not.
    """
    laps: list[Lap] = []
    differences: dict[str, list[float]] = {way.name: [] for way in ways}
    with torch_threads(threads):
        for way in ways:
            if way.warm_up:
                way.explain(decisions[: way.warm_up])
    for number, block in enumerate(blocks(decisions, rounds, multiple or threads)):
        turns = [way for way in ways if number % 2 == 0 or not way.slow]
        own, maps = in_turns({way.name: partial(way.explain, block) for way in turns}, number, len(block), threads)
        laps += own
        for way in turns:
            differences[way.name] += checked_differences(way, maps)
    with torch_threads(threads):
        paths = {way.name: _incremental(way, decisions) for way in ways}
    return [_result(way, laps, differences[way.name], baselines, threads, paths[way.name]) for way in ways]


def blocks(decisions: Sequence[Decision], rounds: int, multiple: int) -> Iterator[list[Decision]]:
    """The decisions in at most so many shares, each spread over all of them.

    All but one have a `multiple` of decisions, so that a way with a thread for each decision has no idle thread at the end.
    """
    groups = [decisions[start : start + multiple] for start in range(0, len(decisions), multiple)]
    for number in range(min(rounds, len(groups))):
        yield [decision for group in groups[number::rounds] for decision in group]


def checked_differences(way: Way, maps: dict[str, list[SaliencyMaps]]) -> list[float]:
    """How far each of a way's maps is from the one that it must agree with; `ValueError` where that is more than the bound.

    Empty where the others were not computed.
    """
    if way.agrees_with not in maps:
        return []
    pairs = zip(maps[way.name], maps[way.agrees_with], strict=True)
    differences = [way.difference(a, b) for pair in pairs for a, b in zip(*map(_heads, pair), strict=True)]
    for difference in differences:
        if not difference <= way.bound:
            raise ValueError(f"Expected the maps of {way.name} within {way.bound:g} of those of {way.agrees_with}, got {difference:.3g}.")
    return differences


def _result(
    way: Way, laps: Sequence[Lap], differences: Sequence[float], baselines: Sequence[str], threads: int, incremental: int | None
) -> Result:
    return Result(
        way=way.name,
        threads=threads,
        decisions=sum(lap.units for lap in laps if lap.way == way.name),
        seconds=seconds(laps, way.name),
        times_faster={baseline: ratios(laps, baseline, way.name) for baseline in baselines},
        agrees_with=way.agrees_with,
        difference=max(differences),
        usual_difference=median(differences),
        incremental=incremental,
    )


def _incremental(way: Way, decisions: Sequence[Decision]) -> int | None:
    return None if way.plan is None else sum(way.plan(decision).path == "incremental" for decision in decisions)


def _heads(maps: SaliencyMaps) -> list[Array]:
    """The actor's map, and the critic's if there is one."""
    return [saliency for saliency in (maps.actor, maps.critic) if saliency is not None]


def _scaled(saliency: Array) -> Array:
    """The map from its own least value at 0 to its largest at 1; zeros where it is constant."""
    return (saliency - saliency.min()) / (np.ptp(saliency) or 1.0)
