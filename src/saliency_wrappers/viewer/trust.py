"""`Trust`: memory share and confidence of stored decisions, measured when the page asks, for its curves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from saliency_wrappers.agents import AgentAdapter
from saliency_wrappers.decisions import Array, Decision
from saliency_wrappers.faithfulness import map_confidence
from saliency_wrappers.saliency.memory_share import memory_share
from saliency_wrappers.store.reader import StoredEpisode
from saliency_wrappers.viewer.episodes import number_of_page

OTHERS = 32
"""Moments of the episode, evenly spaced, from which frames and states for the memory share are drawn."""
TOGETHER = 16
"""Decisions in one answer."""


class Trust:
    """Measures decisions of stored episodes with an agent."""

    def __init__(
        self, adapter: AgentAdapter, decision: Callable[[StoredEpisode, int], Decision], background: Callable[[StoredEpisode], Array]
    ) -> None:
        """Measure with this agent; `decision` reads one of an episode, `background` gives its median input."""
        self._adapter = adapter
        self._decision = decision
        self._background = background
        self._others: dict[str, list[Decision]] = {}

    def measure(self, episode: StoredEpisode, first: int) -> dict[str, Any]:
        """Return memory share and confidence of at most `TOGETHER` decisions from `first` on.

        Returns:
            `"memory"`: shares of the logits that come from the state, in [0, 1]; None for an agent without memory. `"confidence"`: of the
            actor maps of the first method, in [0, 1], 0 where replacing everything hardly changes the policy, None where there is no map;
            None for a store without maps.

        Raises:
            ValueError: no such decision, or an agent that does not take it.
        """
        rows = range(first, min(first + TOGETHER, len(episode)))
        decisions = [self._decision(episode, row) for row in rows] or [self._decision(episode, first)]
        others = self._others_of(episode)
        memory = None
        if decisions[0].state is not None and others:
            memory = [number_of_page(memory_share(self._adapter, one, others).share) for one in decisions]
        return {"memory": memory, "confidence": self._confidence(episode, rows, decisions)}

    def _confidence(self, episode: StoredEpisode, rows: range, decisions: list[Decision]) -> list[float | None] | None:
        fingerprint = next(iter(episode.methods), None)
        if fingerprint is None:
            return None
        maps: list[Any] = []
        for block in range(rows.start // episode.block, (rows.stop - 1) // episode.block + 1):
            maps += episode.layer(fingerprint).read(block)
        offset = rows.start // episode.block * episode.block
        background = self._background(episode)
        return [self._confidence_of(decision, maps[row - offset], background) for row, decision in zip(rows, decisions, strict=True)]

    def _confidence_of(self, decision: Decision, maps: Any, background: Array) -> float | None:
        if maps is None or not np.isfinite(maps.actor).all():
            return None
        confidence = map_confidence(self._adapter, decision, maps.actor, background)
        return number_of_page(confidence.value) if confidence.explains else 0.0

    def _others_of(self, episode: StoredEpisode) -> list[Decision]:
        if episode.name not in self._others:
            rows = np.unique(np.linspace(0, len(episode) - 1, OTHERS).astype(int)).tolist()
            self._others = {episode.name: [self._decision(episode, row) for row in rows]}
        return self._others[episode.name]
