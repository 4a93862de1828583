"""`SaliencyMethod`: anything that turns decisions into maps; `maps_of` runs one and checks what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from saliency_wrappers.agents.base import AgentAdapter
from saliency_wrappers.decisions import Decision, SaliencyMaps

Detail = Literal["memory", "confidence", "objects"]
"""What may be added to maps, see `SaliencyDetails`."""


@runtime_checkable
class SaliencyMethod(Protocol):
    """Turns decisions into maps."""

    def __call__(self, adapter: AgentAdapter, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
        """One `SaliencyMaps` for each row of each decision, in order."""
        ...


def maps_of(method: SaliencyMethod, adapter: AgentAdapter, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
    """Compute the maps of one-row decisions by any method; `ValueError` unless it returns one for each."""
    maps = method(adapter, decisions)
    if len(maps) != len(decisions):
        raise ValueError(f"Expected {len(decisions)} SaliencyMaps from {type(method).__name__}, one a decision, got {len(maps)}.")
    return maps
