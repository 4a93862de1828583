"""`Explainer`: computes maps per step or per block, and tells the sinks of each decision."""

from __future__ import annotations

from collections.abc import Sequence

from saliency_wrappers.agents import AgentAdapter
from saliency_wrappers.decisions import SaliencyMaps
from saliency_wrappers.hooks.replay_check import replay_held
from saliency_wrappers.recording.error_policy import Failures
from saliency_wrappers.recording.options import RecordingOptions
from saliency_wrappers.recording.sinks import Sinks
from saliency_wrappers.recording.tracker import EpisodeTracker
from saliency_wrappers.saliency.method import SaliencyMethod, maps_of
from saliency_wrappers.step_saliency import StepSaliency, decisions_of


class Explainer:
    """Computes maps per step or per block and notifies sinks."""

    def __init__(
        self,
        method: SaliencyMethod,
        options: RecordingOptions,
        tracker: EpisodeTracker,
        sinks: Sinks,
        failures: Failures,
        first_action: int,
        replay_tolerance: float | None,
    ) -> None:
        """Compute maps by a method.

        Args:
            method: makes the maps.
            options: how many records are held at most.
            tracker: knows the words for an episode.
            sinks: receive every record.
            failures: the error policy.
            first_action: the action that the first logit stands for.
            replay_tolerance: for the replay of the first of a block, as in `replay`. None: blocks are not replayed.
        """
        self._method, self._block, self._first_action = method, options.block, first_action
        self._tracker, self._sinks, self._failures = tracker, sinks, failures
        self._replay_tolerance = replay_tolerance
        self._held: list[StepSaliency] = []
        self._adapter: AgentAdapter | None = None
        """Of the agent that made the decisions that are held. None while there are none."""

    def explain_now(self, adapter: AgentAdapter, records: Sequence[StepSaliency]) -> list[StepSaliency]:
        """Return the decisions of one step with their maps, from one call of the method."""
        found = maps_of(self._method, adapter, decisions_of(records, self._first_action))
        explained = [record.with_maps(maps) for record, maps in zip(records, found, strict=True)]
        for saliency in explained:
            self._sinks.decided(saliency)
        return explained

    def explain_later(self, adapter: AgentAdapter, records: Sequence[StepSaliency]) -> Sequence[StepSaliency]:
        """Hold the decisions of one step until the block is full or `explain_held` is called, and return them."""
        if self._held and adapter is not self._adapter:
            self.explain_held()  # another agent was attached
        for record in records:
            self._adapter = adapter
            self._held.append(record)
            self._sinks.decided(record)
            if len(self._held) >= self._block:
                self.explain_held()
        return records

    def explain_held(self) -> None:
        """Compute the maps of all held decisions in one call of the method; on an error sinks get the decisions without maps."""
        held, adapter = self._held, self._adapter
        if adapter is None:
            return
        self._held, self._adapter = [], None
        explained: list[SaliencyMaps | None] = [None] * len(held)
        first = held[0]
        episode = self._tracker.clocks[first.environment].words_for(first.episode)
        place = f"for the {len(held)} decisions from step {first.step} of {episode}"
        try:
            with self._failures.handled("No saliency", place):
                explained = [*self._held_maps(adapter, held)]
        finally:
            for record, maps in zip(held, explained, strict=True):
                with self._failures.handled("Saliency was not handed on", place):
                    self._sinks.explained(record.with_maps(maps))

    def _held_maps(self, adapter: AgentAdapter, held: Sequence[StepSaliency]) -> list[SaliencyMaps]:
        if self._replay_tolerance is not None:
            replay_held(adapter, held[0].decision(self._first_action), self._replay_tolerance)
        return maps_of(self._method, adapter, decisions_of(held, self._first_action))
