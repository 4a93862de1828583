"""`Recording`: the triggers, blocks and error policy of instrumented environments, as a plain object.

It takes each step's decisions from the hook, has them explained now or in blocks, and hands `StepSaliency` to its `SaliencyConsumer`s.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from saliency_wrappers.agents.base import split_rows
from saliency_wrappers.decisions import AgentPass, Decision, SaliencyConsumer, SaliencyMaps, StepSaliency, numbers_of
from saliency_wrappers.hooks.hook import RecurrentAgentHook
from saliency_wrappers.hooks.replay_check import FramesNow, ReplayCheck, Verify, check_outputs, frames_of
from saliency_wrappers.recording.clock import EpisodeClock, chosen_environments
from saliency_wrappers.recording.diagnostics import Fault, Wiring
from saliency_wrappers.recording.error_policy import Failures, MissingDecisionError, OnError
from saliency_wrappers.recording.explainer import Decided, Explainer, pending
from saliency_wrappers.recording.store_sink import Capture, Captures, Mode, NoCapture, check_mode
from saliency_wrappers.recording.triggers import Trigger, Triggers
from saliency_wrappers.saliency.method import SaliencyMethod
from saliency_wrappers.store.at_exit import call_at_exit
from saliency_wrappers.store.store import EpisodeStore

_BEGINNING = 64
"""Steps of each episode in which the agent is watched in any case: an episode without decisions is to be noticed."""


class Recording:
    """Follows environments through their episodes: `begin_episodes`, then `decide` and `advance` for each step, `close` at the end.

    The agent acts for all of them in one pass, and each has a clock of its own. One environment is a vector of one.
    """

    def __init__(
        self,
        hook: RecurrentAgentHook,
        method: SaliencyMethod,
        *,
        num_envs: int = 1,
        environments: Sequence[int] | None = None,
        resets_at_once: bool = False,
        mode: Mode = "inline",
        episode_trigger: Trigger | None = None,
        step_trigger: Trigger | None = None,
        verify: Verify = "first",
        require_decision: bool = False,
        on_error: OnError = "raise",
        keep: bool = False,
        block: int = 64,
        store: EpisodeStore | None = None,
        env_spec: Any = None,
        first_action: int = 0,
        action_names: Sequence[str] | None = None,
    ) -> None:
        """Listen to a hook.

        Args:
            hook: sees the agent act.
            method: makes the maps.
            num_envs: how many environments there are: the rows of the agent's passes.
            environments: which of them are recorded. None: all.
            resets_at_once: when a step ends an episode, the environment has begun the next one when the step returns.
            mode: `"inline"`: maps at the step; `"deferred"`: in blocks; `"capture"`: decisions are stored only.
            episode_trigger: selects episodes by their number. None: no episode by its number.
            step_trigger: selects steps by their number since construction. None: no step by its number.
            verify: which decisions are replayed and compared: `"first"`, `"always"` or `"never"`.
            require_decision: a step without a decision is an error.
            on_error: `"raise"`, or `"warn"`.
            keep: retain the maps for `maps`.
            block: the most decisions that wait for their maps, in deferred mode.
            store: where every decision is kept. None: nothing is stored.
            env_spec: what the store is told of the environments.
            first_action: the action that the first logit stands for, as `start` of a `Discrete` space.
            action_names: a name for each action, in the order of the logits. None: not known.
        """
        check_mode(mode, store)
        chosen = chosen_environments(environments, num_envs)
        self.hook = hook
        self.method = method
        self.num_envs = num_envs
        self.mode: Mode = mode
        self.block = block
        self.failures = Failures(on_error)
        self.clocks = {index: EpisodeClock(index, alone=num_envs == 1) for index in chosen}
        """The clock of each environment that is recorded, by its number."""
        self._clocks = list(self.clocks.values())
        self.total_steps = 0
        self._resets_at_once = resets_at_once
        self.first_action = first_action
        self.env_spec = env_spec
        self.action_names = None if action_names is None else list(action_names)
        self._triggers = Triggers(episode_trigger, step_trigger)
        self._require_decision = require_decision
        self._check = ReplayCheck(verify)
        # In a batch of another size a row's outputs differ by rounding.
        tolerance = None if verify == "never" else 1e-5 if num_envs == 1 else 1e-4
        self._explainer = Explainer(method, block, self.failures, self._hand_on, tolerance)
        self._consumers: dict[int, list[SaliencyConsumer]] = {index: [] for index in chosen}
        self._kept: dict[tuple[int, int], list[SaliencyMaps]] | None = {} if keep else None
        self._warned: set[Fault] = set()
        self._stored = NoCapture()
        if store is not None:
            known: dict[str, Any] = {"action_names": self.action_names, "first_action": first_action}
            self._stored = Capture(store, hook, method, self.failures, num_envs, env_spec, **known)
        self._capture = self._stored
        self._attached: list[NoCapture] = []
        self._wants_all = not self._triggers.given
        self._stores_all = require_decision or store is not None or not self._triggers.given
        self._sees_all = self._stores_all
        self._enabled = True
        self._begun = False
        self._running: list[EpisodeClock] = []
        self._window = hook.open_window(num_envs)
        if store is not None:
            call_at_exit(self.close)  # the decisions that are held, and their maps

    @property
    def enabled(self) -> bool:
        """Whether steps are recorded. While they are not, the agent is not watched and nothing is computed."""
        return self._enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self._enabled = enabled
        self._window.clear()
        self._watch()

    def subscribe(self, consumer: SaliencyConsumer, environment: int = 0) -> None:
        """Hand an environment's decisions to a consumer, too. With no trigger of its own, only what consumers want is explained."""
        self._consumers[self.clock(environment).environment].append(consumer)
        self._wants_all = False

    def attach(self, sink: NoCapture) -> None:
        """Tell one more sink of every decision, reward and map; what is explained does not change. It must not raise."""
        self._attach([*self._attached, sink])

    def detach(self, sink: NoCapture) -> None:
        """Tell an attached sink of nothing any more. More than once does no harm."""
        self._attach([one for one in self._attached if one is not sink])

    def _attach(self, sinks: list[NoCapture]) -> None:
        self._attached = sinks
        self._capture = Captures([self._stored, *sinks]) if sinks else self._stored
        self._sees_all = self._stores_all or bool(sinks)
        self._watch()

    def clock(self, environment: int) -> EpisodeClock:
        """The clock of an environment; `ValueError` for one that is not recorded."""
        if environment not in self.clocks:
            raise ValueError(f"Expected one of the environments that are recorded, {sorted(self.clocks)}, got {environment!r}.")
        return self.clocks[environment]

    def begin_episodes(self, environments: Iterable[int] | None = None, seeds: Sequence[int | None] | None = None) -> None:
        """These environments were reset, or all of them; the seed of each of all environments, if known. Nothing has been decided."""
        begun = self._of(environments)
        self.end_episodes(environments)
        self._begin(begun, seeds)

    def decide(self, actions: Sequence[Any], frames: FramesNow = tuple) -> list[StepSaliency | None]:
        """Before the environments step: the decision behind each action, explained, pending, or None.

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
        saliencies: list[StepSaliency | None] = [None] * self.num_envs
        if not (self._window.enabled and self._begun):
            return saliencies
        seen = self.hook.take(self._window)
        deciding = self._running  # an autoreset ignores the other actions
        if not deciding:
            return saliencies
        if seen is None and self._require_decision:
            raise MissingDecisionError(f"{self._moment(deciding).capitalize()} came without a decision. {self.hook.explain()}")
        if seen is not None:
            self._capture.decide(deciding, seen, actions, frames)
        try:
            for clock in deciding:
                clock.wiring.see(seen is not None, actions[clock.environment])
            if seen is not None:
                for saliency in self._explain(seen, deciding, actions, frames):
                    saliencies[saliency.environment] = saliency
        except Exception:  # at every step entering and leaving a context would take longer than most of what is done in it
            with self.failures.handled("No saliency", f"for {self._moment(deciding)}"):
                raise
        return saliencies

    def advance(self, ended: Sequence[bool], rewards: Sequence[Any] | None = None) -> None:
        """After the environments stepped; `ended` says of each whether its episode is over, by termination or truncation; None: no rewards.

        The step after an episode's end, without a reset, was an autoreset's if the environment goes on: a new episode has begun. The
        transition is never lost: an error in explaining what is held is raised by the next `decide`, `end_episodes`, `flush` or `close`.
        """
        self.total_steps += 1
        self._window.clear()
        self._capture.advance(rewards)
        begun: list[EpisodeClock] = []
        over: list[EpisodeClock] = []
        for clock in self._clocks:
            ends = bool(ended[clock.environment])
            if clock.ended and not ends:
                begun.append(clock)
            elif clock.episode >= 0:
                clock.tick(ends)
                if ends:
                    over.append(clock)
        if not (begun or over):
            self._watch()
            return
        self._running = [clock for clock in self._clocks if clock.running]
        with self.failures.postponed():
            try:
                self._explainer.explain_held() if over else None
            finally:
                self._capture.end(over, complete=True)
        self._complain(over)
        with self.failures.postponed():
            self._begin(begun + over if self._resets_at_once else begun)

    def observe(self, observation: Any) -> None:
        """The environments returned this observation, from `reset` or `step`: what the agent decides on next."""
        self._window.observe(observation)

    def end_episodes(self, environments: Iterable[int] | None = None) -> None:
        """Explain what is held; warn, once, of an episode that shows wrong wiring. More than once does no harm."""
        try:
            self.flush()
        finally:
            self._capture.end(self._of(environments))
        self._complain(self._of(environments))

    def flush(self) -> None:
        """Explain and hand on the decisions that are held, and store them; raises what failed when the last episode ended."""
        self.failures.raise_postponed()
        self._explainer.explain_held()
        self._capture.flush()

    def maps(self, episode: int, environment: int = 0) -> list[SaliencyMaps]:
        """The maps of an episode's explained decisions, in order; empty for an episode without any.

        Raises:
            ValueError: maps are not kept: `keep=True` is needed; or the environment is not recorded.
        """
        if self._kept is None:
            raise ValueError("Maps are handed on and dropped. Construct the recorder with keep=True to retain them.")
        return list(self._kept.get((self.clock(environment).environment, episode), []))

    def close(self) -> None:
        """End the episodes and leave the hook. More than once does no harm."""
        try:
            self.end_episodes()
        finally:
            for clock in self.clocks.values():
                clock.wiring = Wiring()
            self.hook.close_window(self._window)
            self._capture.close()

    def _of(self, environments: Iterable[int] | None) -> list[EpisodeClock]:
        chosen = self.clocks if environments is None else set(environments)
        return [clock for index, clock in self.clocks.items() if index in chosen]

    def _moment(self, clocks: Sequence[EpisodeClock]) -> str:
        return f"step {clocks[0].step} of {clocks[0].in_words}" if self.num_envs == 1 else f"step {self.total_steps} of the vector"

    def _begin(self, begun: Sequence[EpisodeClock], seeds: Sequence[int | None] | None = None) -> None:
        self._begun |= bool(begun)
        for clock in begun:
            clock.begin()
        self._running = [clock for clock in self._clocks if clock.running]
        for clock in begun:
            if clock is self._clocks[0]:  # of many environments, the first sets the pace
                self.failures.new_episode()
                self._window.forget_counts()
        if begun:
            self._window.clear()
            if self.num_envs == 1:  # hook.act carries the memory of one
                self.hook.new_episode(self._window)
        for clock in begun:  # last: what fails must not keep other environments from beginning
            self._capture.begin(clock, None if seeds is None else seeds[clock.environment])
            with self.failures.handled("No saliency", f"in {clock.in_words}"):
                self._triggers.begin(clock)
        self._watch()

    def _watch(self) -> None:
        """Watch the agent at the step to come, unless nobody wants to know what it will decide: then it costs nothing."""
        if self._triggers.given:
            self._triggers.prepare(self.total_steps)
        watch = self._enabled and (self._sees_all or self._check.unfinished or self._triggers.may_want(self._clocks) or self._begins())
        if self._window.enabled != watch:
            self.hook.enable_window(self._window, watch)

    def _begins(self) -> bool:
        return any(clock.wiring.steps < _BEGINNING for clock in self._clocks)

    def _complain(self, clocks: Iterable[EpisodeClock]) -> None:
        for clock in clocks:
            fault = clock.wiring.fault
            if fault is not None and fault not in self._warned:
                self._warned.add(fault)
                text = f"{clock.in_words} {clock.wiring.complaint} {self.hook.explain()}"
                warnings.warn(text[0].upper() + text[1:], stacklevel=4)

    def _wanted(self, clocks: list[EpisodeClock]) -> list[EpisodeClock]:
        if self._triggers.given:
            return self._triggers.wanted(clocks)
        return [clock for clock in clocks if any(consumer.wants_step() for consumer in self._consumers[clock.environment])]

    def _explain(self, seen: AgentPass, clocks: list[EpisodeClock], actions: Sequence[Any], frames: FramesNow) -> Sequence[StepSaliency]:
        """The decisions of these environments that are wanted; a decision that is to be checked is checked in any case."""
        wanted, adapter = clocks if self._wants_all else self._wanted(clocks), self.hook.adapter
        if adapter is not self._check.done_for and (wanted or self._check.unfinished):
            rows = [clock.environment for clock in clocks]
            self._check(adapter, Decision.by_reference(seen), self.hook.preprocessor, frames_of(rows, frames))
        if not wanted:
            return ()
        if self.mode == "capture":
            numbers = seen.numbers or numbers_of(seen.logits, seen.value)
            return [pending(clock, numbers, actions[clock.environment]) for clock in wanted]
        check_outputs(seen)
        rows = [seen] if self.num_envs == 1 else split_rows(adapter, Decision.by_reference(seen))
        decided = [Decided.at(clock, rows[clock.environment], actions[clock.environment], adapter, self.first_action) for clock in wanted]
        return (self._explainer.explain_now if self.mode == "inline" else self._explainer.explain_later)(decided)

    def _hand_on(self, saliency: StepSaliency, pending: bool) -> None:
        if self._kept is not None and saliency.maps is not None:
            self._kept.setdefault((saliency.environment, saliency.episode), []).append(saliency.maps)
        self._capture.explained(saliency)
        for consumer in self._consumers[saliency.environment]:
            (consumer.explained if pending else consumer.decided)(saliency)
