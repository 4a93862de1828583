"""`DetailedSaliency`: a method's maps with `SaliencyDetails`; `with_details` makes one from the names that recorders take."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import numpy as np

from saliency_wrappers.agents.base import AgentAdapter, split_rows
from saliency_wrappers.decisions import Array, Decision, SaliencyMaps
from saliency_wrappers.details import ObjectPart, SaliencyDetails
from saliency_wrappers.faithfulness.confidence import map_confidence
from saliency_wrappers.saliency.agent_memo import AgentMemo
from saliency_wrappers.saliency.fills import Background
from saliency_wrappers.saliency.masks import Fill, filled
from saliency_wrappers.saliency.memory_share import memory_share
from saliency_wrappers.saliency.method import Detail, SaliencyMethod, maps_of
from saliency_wrappers.saliency.objects import ObjectMethod, ObjectShapley


class DetailedSaliency:
    """Adds details to the maps of another method: share of memory, confidence of the actor's map, objects.

    A `SaliencyMethod` for recorders. Maps, and the fingerprint under which a store keeps them, are the other method's; a store keeps no
    details. The running background and the other moments that memory is compared with are those of earlier calls, so that
    details depend on the order of decisions.
    """

    def __init__(
        self,
        method: SaliencyMethod,
        details: Sequence[Detail] = ("memory", "confidence"),
        *,
        background: Fill | None = None,
        objects: ObjectMethod | None = None,
        baseline: int = 8,
        last: int = 64,
    ) -> None:
        """Choose what is added.

        Args:
            method: makes the maps.
            details: some of `"memory"` (3 `baseline` + 1 passes), `"confidence"` (4 passes) and `"objects"` (`2**n` passes for n objects
                up to 7, a few hundred for more).
            background: the scene without objects. None: the running median of the inputs.
            objects: how objects are found, named and valued. None: `ObjectShapley` on `background`, which takes the place of its own.
            baseline: how many other moments the memory's share is measured against.
            last: how many earlier decisions of an agent are kept for that.

        Raises:
            TypeError: no sequence of names.
            ValueError: an unknown detail, or numbers below 1.
        """
        if baseline < 1 or last < 1:
            raise ValueError(f"Expected baseline and last of 1 or more, got baseline={baseline} and last={last}.")
        self.maps_from, self.details = method, _checked(details)
        self._background: Fill = Background() if background is None else background
        self._objects = ObjectShapley(self._background) if objects is None else objects
        self._baseline, self._last = baseline, last
        self._moments: AgentMemo[deque[Decision]] = AgentMemo()

    def __call__(self, adapter: AgentAdapter, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
        """The other method's maps of each row of each decision, with details."""
        rows = [row for decision in decisions for row in split_rows(adapter, decision)]
        maps = maps_of(self.maps_from, adapter, rows)
        if "memory" in self.details:
            self._remember(adapter, rows)
        return [replace(one, details=self._explained(adapter, row, one.actor)) for row, one in zip(rows, maps, strict=True)]

    def _explained(self, adapter: AgentAdapter, row: Decision, saliency: Array) -> SaliencyDetails:
        memory = self._memory(adapter, row) if "memory" in self.details else None
        if "confidence" not in self.details and "objects" not in self.details:
            return SaliencyDetails(memory)
        scene = filled(
            self._background, row.inputs[0].float().cpu().numpy(), adapter.input_range
        )  # once: a running median counts its calls
        confidence = self._confidence(adapter, row, saliency, scene) if "confidence" in self.details else None
        return SaliencyDetails(memory, confidence, self._parts(adapter, row, scene) if "objects" in self.details else None)

    def _confidence(self, adapter: AgentAdapter, row: Decision, saliency: Array, scene: Array) -> float:
        found = map_confidence(adapter, row, saliency, scene)
        return found.value if found.explains else 0.0

    def _parts(self, adapter: AgentAdapter, row: Decision, scene: Array) -> tuple[ObjectPart, ...]:
        return self._objects.explain(adapter, row, scene)[0].parts

    def _memory(self, adapter: AgentAdapter, row: Decision) -> float:
        if row.state is None:
            return 0.0
        moments = self._moments.get(adapter, "moments") or ()
        others = [one for one in moments if one is not row and one.inputs.shape == row.inputs.shape]
        return memory_share(adapter, row, others, self._baseline).share if others else float(np.nan)

    def _remember(self, adapter: AgentAdapter, rows: Sequence[Decision]) -> None:
        moments = self._moments.get(adapter, "moments")
        if moments is None:
            moments = deque[Decision](maxlen=self._last)
            self._moments.put(adapter, "moments", moments)
        moments.extend(rows)


def with_details(method: SaliencyMethod, details: Sequence[Detail] = ()) -> SaliencyMethod:
    """The method itself, or, where details are named, one that adds them. Errors are those of `DetailedSaliency`."""
    return DetailedSaliency(method, details) if _checked(details) else method


def has_details(method: SaliencyMethod) -> bool:
    """Whether a method's maps come with details."""
    return isinstance(method, DetailedSaliency)


def _checked(details: Sequence[Detail]) -> tuple[Detail, ...]:
    known = get_args(Detail)
    if isinstance(details, str) or not isinstance(details, Sequence):
        raise TypeError(f"Expected details as a list or tuple of some of {known}, got {details!r}.")
    unknown = [one for one in details if one not in known]
    if unknown:
        raise ValueError(f"Expected details to be some of {known}, got {unknown[0]!r}.")
    return tuple(dict.fromkeys(details))
