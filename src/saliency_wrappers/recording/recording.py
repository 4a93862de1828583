"""`Recording`: records the decisions of environments; the plain object behind every wrapper.

An `EpisodeTracker` counts episodes and steps, a `DecisionSource` reads decisions, an `Explainer` computes maps, and `Sinks` get them all.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from saliency_wrappers.decisions import AgentPass, SaliencyMaps
from saliency_wrappers.hooks.hook import RecurrentAgentHook
from saliency_wrappers.hooks.replay_check import FramesNow, check_outputs
from saliency_wrappers.recording.clock import EpisodeClock
from saliency_wrappers.recording.decision_source import DecisionSource
from saliency_wrappers.recording.error_policy import Failures, MissingDecisionError
from saliency_wrappers.recording.explainer import Explainer
from saliency_wrappers.recording.options import RecordedEnvironments, RecordingOptions
from saliency_wrappers.recording.sinks import EpisodeSink, KeptMaps, Sinks
from saliency_wrappers.recording.store_sink import StoreSink
from saliency_wrappers.recording.tracker import EpisodeTracker
from saliency_wrappers.recording.triggers import Triggers
from saliency_wrappers.saliency.method import SaliencyMethod
from saliency_wrappers.step_saliency import SaliencyConsumer, StepSaliency
from saliency_wrappers.store.at_exit import call_at_exit


class Recording:
    """Follows environments through their episodes: `begin_episodes`, then `decide` and `advance` for each step, `close` at the end."""

    def __init__(
        self,
        hook: RecurrentAgentHook,
        method: SaliencyMethod,
        options: RecordingOptions | None = None,
        environments: RecordedEnvironments | None = None,
    ) -> None:
        """Record the decisions of a hook's agent.

        Args:
            hook: sees the agent act.
            method: makes the maps.
            options: how decisions are recorded. None: as `RecordingOptions()` says.
            environments: for which the agent acts. None: one, of which nothing is known.

        Raises:
            TypeError, ValueError: environments that there are not.
        """
        self.hook, self.method = hook, method
        self.options = options or RecordingOptions()
        self.environments = environments or RecordedEnvironments()
        self.failures = Failures(self.options.on_error)
        self._tracker = EpisodeTracker(self.environments)
        self._triggers = Triggers(self.options.episode_trigger, self.options.step_trigger)
        self._kept = KeptMaps() if self.options.keep else None
        self._sinks = Sinks(self._own_sinks(), self.clocks)
        self._explainer = self._make_explainer()
        self._wants_all = not self.options.selects
        self._sees_all, self._enabled = self._must_see_all(), True
        self._source = DecisionSource(hook, self.num_envs, self.options.verify)
        if self.options.store is not None:
            call_at_exit(self.close)  # the decisions that are held, and their maps

    @property
    def num_envs(self) -> int:
        """The number of environments, which is the number of rows of the agent's passes."""
        return self.environments.num_envs

    @property
    def block(self) -> int:
        """The largest number of decisions that wait for their maps."""
        return self.options.block

    @property
    def clocks(self) -> dict[int, EpisodeClock]:
        """The clock of each recorded environment, by its number."""
        return self._tracker.clocks

    @property
    def total_steps(self) -> int:
        """The number of steps since construction."""
        return self._tracker.total_steps

    @property
    def enabled(self) -> bool:
        """Whether steps are recorded. While they are not, the agent is not watched and nothing is computed."""
        return self._enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self._enabled = enabled
        self._source.window.clear()
        self._watch()

    def subscribe(self, consumer: SaliencyConsumer, environment: int = 0) -> None:
        """Add a consumer of an environment's decisions. Without triggers, maps are computed only for decisions that consumers want."""
        self._sinks.subscribe(consumer, self.clock(environment).environment)
        self._wants_all = False

    def attach(self, sink: EpisodeSink) -> None:
        """Add a sink that gets every decision, reward and map; it does not change which maps are computed, and must not raise."""
        self._sinks.attach(sink)
        self._sees_all = True
        self._watch()

    def detach(self, sink: EpisodeSink) -> None:
        """Remove an attached sink. More than once does no harm."""
        self._sinks.detach(sink)
        self._sees_all = self._must_see_all()
        self._watch()

    def clock(self, environment: int) -> EpisodeClock:
        """Return the clock of an environment; `ValueError` for one that is not recorded."""
        return self._tracker.clock(environment)

    def begin_episodes(self, environments: Iterable[int] | None = None, seeds: Sequence[int | None] | None = None) -> None:
        """Begin episodes of these environments, or of all, after a reset; `seeds` are those of all environments, if known."""
        begun = self._tracker.select(environments)
        self.end_episodes(environments)
        self._begin(begun, seeds)

    def decide(self, actions: Sequence[Any], frames: FramesNow = tuple) -> list[StepSaliency | None]:
        """Before the environments step: return the decision behind each action, explained, pending, or None.

        Args:
            actions: what each environment will be given.
            frames: what each shows now, to compare with the captured input. None of them: not compared.

        Raises:
            MissingDecisionError: no acting pass was seen, and `require_decision` is set.
            ReplayMismatchError: replaying the decision gave something else (unless `on_error="warn"`).
            Exception: computing maps failed now (unless `on_error="warn"`), or when an episode ended.
        """
        if self.failures.waiting is not None:
            self.failures.raise_postponed()
        saliencies: list[StepSaliency | None] = [None] * self.environments.num_envs
        tracker = self._tracker
        window = self._source.window
        if not (tracker.begun and window.enabled):
            return saliencies
        seen = self.hook.take(window, actions)
        if not tracker.running:
            return saliencies
        if seen is None and self.options.require_decision:
            raise MissingDecisionError(f"{tracker.moment.capitalize()} came without a decision. {self.hook.explain()}")
        try:
            for saliency in self._records(seen, actions, frames):
                saliencies[saliency.environment] = saliency
        except Exception:  # a context around the block would cost more at every step than most of what is done in it
            with self.failures.handled("No saliency", f"for {tracker.moment}"):
                raise
        return saliencies

    def advance(self, ended: Sequence[bool], rewards: Sequence[Any] | None = None, observations: Any = None) -> None:
        """Advance the clocks after the environments stepped.

        The transition is never lost: an error in explaining what is held is raised by the next `decide`, `end_episodes`, `flush` or
        `close`.

        Args:
            ended: says of each environment whether its episode is over, by termination or truncation.
            rewards: of each environment. None: not known.
            observations: what the agent decides on next. None: not known.
        """
        self._source.window.turn(observations)
        if self._sinks.keeping:
            self._sinks.advance(rewards)
        begun, over = self._tracker.advance(ended)
        if begun or over:
            self._end_and_begin(over, begun)
        else:
            self._watch()

    def observe(self, observations: Any) -> None:
        """Set the observations that the environments returned, on which the agent decides next."""
        self._source.window.turn(observations)

    def end_episodes(self, environments: Iterable[int] | None = None) -> None:
        """Compute pending maps, and warn once of an episode whose steps show a misplaced recorder. More than once does no harm."""
        clocks = self._tracker.select(environments)
        try:
            self.flush()
        finally:
            self._sinks.end(clocks)
        self._complain(clocks)

    def flush(self) -> None:
        """Compute pending maps and store them; raises what failed when the last episode ended."""
        self.failures.raise_postponed()
        self._explainer.explain_held()
        self._sinks.flush()

    def maps(self, episode: int, environment: int = 0) -> list[SaliencyMaps]:
        """Return the maps of an episode's explained decisions, in order; empty for an episode without any.

        Raises:
            ValueError: maps are not kept: `keep=True` is needed; or the environment is not recorded.
        """
        if self._kept is None:
            raise ValueError("Maps are handed on and dropped. Construct the recorder with keep=True to retain them.")
        return self._kept.maps(self.clock(environment).environment, episode)

    def close(self) -> None:
        """End the episodes and detach from the hook. More than once does no harm."""
        try:
            self.end_episodes()
        finally:
            self._tracker.forget()
            self._source.close()
            self._sinks.close()

    def _own_sinks(self) -> Sequence[EpisodeSink]:
        kept, store = [] if self._kept is None else [self._kept], self.options.store
        if store is None:
            return kept
        return [*kept, StoreSink(store, self.hook, self.method, self.failures, self.clocks, self.environments)]

    def _make_explainer(self) -> Explainer:
        # In a batch of another size a row's outputs differ by rounding.
        tolerance = None if self.options.verify == "never" else 1e-5 if self.num_envs == 1 else 1e-4
        first_action = self.environments.first_action
        return Explainer(self.method, self.options, self._tracker, self._sinks, self.failures, first_action, tolerance)

    def _records(self, seen: AgentPass | None, actions: Sequence[Any], frames: FramesNow) -> Sequence[StepSaliency]:
        """Return the step's decisions that are wanted; a decision that is due for a check is checked in any case."""
        source, clocks = self._source, self._tracker.running
        self._tracker.see(seen is not None, actions)
        if seen is None:
            return ()
        every: list[StepSaliency] | None = None
        if self._sinks.keeping:
            every = source.records(seen, clocks, actions, by_reference=True)
            self._sinks.append(every, frames)
        wanted = clocks if self._wants_all else self._wanted(clocks)
        adapter = self.hook.adapter
        if not source.checked(adapter):
            source.check(seen, clocks, frames, wanted=bool(wanted))
        if not wanted:
            return ()
        if every is None:
            records = source.records(seen, wanted, actions)
        else:
            records = [one for one in every if self.clocks[one.environment] in wanted]
        if not records[0].well_formed:
            check_outputs(seen)
        mode = self.options.mode
        if mode == "capture":
            return records
        own = records if every is None else [one.with_own_inputs() for one in records]
        return (self._explainer.explain_now if mode == "inline" else self._explainer.explain_later)(adapter, own)

    def _wanted(self, clocks: list[EpisodeClock]) -> list[EpisodeClock]:
        return self._triggers.wanted(clocks) if self._triggers.given else self._sinks.wanted(clocks)

    def _end_and_begin(self, over: list[EpisodeClock], begun: list[EpisodeClock]) -> None:
        with self.failures.postponed():
            try:
                if over:
                    self._explainer.explain_held()
            finally:
                self._sinks.end(over, complete=True)
        self._complain(over)
        with self.failures.postponed():
            self._begin(begun)

    def _begin(self, begun: Sequence[EpisodeClock], seeds: Sequence[int | None] | None = None) -> None:
        self._tracker.begin(begun)
        if begun:
            first = self._tracker.first in begun
            if first:
                self.failures.new_episode()
            self._source.begin(first)
        for clock in begun:  # last: what fails must not keep other environments from beginning
            self._sinks.begin(clock, None if seeds is None else seeds[clock.environment])
            with self.failures.handled("No saliency", f"in {clock.in_words}"):
                self._triggers.begin(clock)
        self._watch()

    def _watch(self) -> None:
        """Attach the hook for the next step, or detach it where no trigger selects that step."""
        if self._triggers.given:
            self._triggers.prepare(self.total_steps)
        wanted = self._enabled and (self._sees_all or self._source.unfinished or self._may_want())
        if wanted != self._source.window.enabled:
            self._source.watch(wanted)

    def _must_see_all(self) -> bool:
        """Whether every decision is wanted by something, whichever are explained."""
        return not self._triggers.given or self.options.require_decision or bool(self._sinks.keeping)

    def _may_want(self) -> bool:
        return self._triggers.may_want(self._tracker.ordered) or self._tracker.beginning

    def _complain(self, clocks: Iterable[EpisodeClock]) -> None:
        for complaint in self._tracker.complaints(clocks):
            warnings.warn(f"{complaint} {self.hook.explain()}", stacklevel=4)
