"""`EpisodeSink`: what a recording tells of every decision, reward and map. `Sinks`: all that one recording tells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

from saliency_wrappers.decisions import SaliencyMaps
from saliency_wrappers.hooks.replay_check import FramesNow
from saliency_wrappers.recording.clock import EpisodeClock
from saliency_wrappers.step_saliency import SaliencyConsumer, StepSaliency


class EpisodeSink:
    """Follows the episodes of a recording, whichever decisions are explained. This one keeps nothing; a store or a viewer overrides it."""

    def begin(self, clock: EpisodeClock, seed: int | None) -> None:
        """Begin an episode of an environment; `seed` is None when none was given."""

    def append(self, records: Sequence[StepSaliency], frames: FramesNow) -> None:
        """Before the environments step: their decisions, without maps. Their inputs may change when the agent runs again: copy them."""

    def advance(self, rewards: Sequence[Any] | None) -> None:
        """After the environments stepped: the reward of each, or None if they are not known."""

    def explained(self, saliency: StepSaliency) -> None:
        """A decision's maps; nothing, when it has none."""

    def flush(self) -> None:
        """Write what there is."""

    def end(self, clocks: Iterable[EpisodeClock], complete: bool = False) -> None:
        """Episodes are over (`complete`), or left. More than once does no harm."""

    def close(self) -> None:
        """Close the sink; episodes that are open are incomplete."""


class KeptMaps(EpisodeSink):
    """Retains all maps in memory, by environment and episode."""

    def __init__(self) -> None:
        self._maps: dict[tuple[int, int], list[SaliencyMaps]] = {}

    def explained(self, saliency: StepSaliency) -> None:
        """Retain a decision's maps, if it has some."""
        if saliency.maps is not None:
            self._maps.setdefault((saliency.environment, saliency.episode), []).append(saliency.maps)

    def maps(self, environment: int, episode: int) -> list[SaliencyMaps]:
        """Return the maps of an episode, in order; empty for one without any."""
        return list(self._maps.get((environment, episode), []))


class Sinks:
    """The receivers of a recording: sinks receive every decision, consumers the explained decisions of one environment."""

    def __init__(self, keeping: Sequence[EpisodeSink], environments: Iterable[int]) -> None:
        """Tell `keeping`, and consumers of these environments.

        Args:
            keeping: what belongs to the recording; `KeptMaps` receive maps only.
            environments: the numbers of those that may have consumers.
        """
        self._own = tuple(keeping)
        self._attached: tuple[EpisodeSink, ...] = ()
        self._consumers: dict[int, list[SaliencyConsumer]] = {index: [] for index in environments}
        self._find()

    def subscribe(self, consumer: SaliencyConsumer, environment: int) -> None:
        """Tell one more consumer of an environment's decisions that are explained or pending."""
        self._consumers[environment].append(consumer)

    def attach(self, sink: EpisodeSink) -> None:
        """Add a sink."""
        self._attached = (*self._attached, sink)
        self._find()

    def detach(self, sink: EpisodeSink) -> None:
        """Tell an attached sink of nothing any more. More than once does no harm."""
        self._attached = tuple(one for one in self._attached if one is not sink)
        self._find()

    def wanted(self, clocks: Sequence[EpisodeClock]) -> list[EpisodeClock]:
        """Return the clocks of environments whose next decision a consumer wants explained."""
        return [clock for clock in clocks if any(consumer.wants_step() for consumer in self._consumers[clock.environment])]

    def decided(self, saliency: StepSaliency) -> None:
        """Tell of a decision, with its maps or while they are pending."""
        if saliency.maps is not None:
            for sink in self._all:
                sink.explained(saliency)
        for consumer in self._consumers[saliency.environment]:
            consumer.decided(saliency)

    def explained(self, saliency: StepSaliency) -> None:
        """Tell of a decision that was pending; it has no maps when they could not be made."""
        for sink in self._all:
            sink.explained(saliency)
        for consumer in self._consumers[saliency.environment]:
            consumer.explained(saliency)

    def begin(self, clock: EpisodeClock, seed: int | None) -> None:
        """Notify all of an episode that begins."""
        for sink in self._all:
            sink.begin(clock, seed)

    def append(self, records: Sequence[StepSaliency], frames: FramesNow) -> None:
        """Notify all of the decisions of a step, before it is taken."""
        for sink in self.keeping:
            sink.append(records, frames)

    def advance(self, rewards: Sequence[Any] | None) -> None:
        """Notify all of a step that was taken."""
        for sink in self.keeping:
            sink.advance(rewards)

    def flush(self) -> None:
        """Flush all sinks."""
        for sink in self._all:
            sink.flush()

    def end(self, clocks: Sequence[EpisodeClock], complete: bool = False) -> None:
        """Notify all of episodes that ended (`complete`) or were left."""
        with ExitStack() as stack:
            for sink in reversed(self._all):
                stack.callback(sink.end, clocks, complete)

    def close(self) -> None:
        """Close all."""
        with ExitStack() as stack:
            for sink in reversed(self._all):
                stack.callback(sink.close)

    def _find(self) -> None:
        self._all = (*self._own, *self._attached)
        self.keeping = tuple(sink for sink in self._all if not isinstance(sink, KeptMaps))
        """Those that receive every decision."""
