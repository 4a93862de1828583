"""`Recording`: the clocks, triggers, blocks and error policy of an instrumented environment, as a plain object.

It takes each step's decision from the hook, has it explained now or in blocks, and hands `StepSaliency` to its `SaliencyConsumer`s.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch

from saliency_wrappers.agents import AgentAdapter
from saliency_wrappers.failures import Failures, OnError
from saliency_wrappers.hooks import RecurrentAgentHook
from saliency_wrappers.records import AgentPass, Decision, SaliencyMaps, StepSaliency, copy_tensor, plain_action
from saliency_wrappers.replay import FrameNow, ReplayCheck, Verify, replay_held
from saliency_wrappers.saliency import SaliencyMethod
from saliency_wrappers.wiring import Fault, Wiring

Mode = Literal["inline", "deferred"]
Trigger = Callable[[int], bool]


class MissingDecisionError(RuntimeError):
    """A step came without a decision although `require_decision=True`."""


class SaliencyConsumer(Protocol):
    """What is done with maps: a video, a store. All calls come from within the recorder's `step`, `reset`, `close` or `flush`."""

    def wants_step(self) -> bool:
        """Whether the decision of the step that is about to be taken should be explained."""
        ...

    def decided(self, saliency: StepSaliency) -> None:
        """A step's decision; its maps are None while they are pending."""
        ...

    def explained(self, saliency: StepSaliency) -> None:
        """A decision that was pending, later, in order; its maps are None when computing them failed."""
        ...


@dataclass(frozen=True, eq=False)
class _Held:
    saliency: StepSaliency
    decision: Decision
    adapter: AgentAdapter


class Recording:
    """Follows one environment through its episodes: `begin_episode`, then `decide` and `advance` for each step, `close` at the end."""

    def __init__(
        self,
        hook: RecurrentAgentHook,
        method: SaliencyMethod,
        *,
        mode: Mode = "inline",
        episode_trigger: Trigger | None = None,
        step_trigger: Trigger | None = None,
        verify: Verify = "first",
        require_decision: bool = False,
        on_error: OnError = "raise",
        keep: bool = False,
        block: int = 64,
    ) -> None:
        """Listen to a hook; the parameters are those of `SaliencyRecorder`."""
        _check_options(mode, on_error, block)
        _check_triggers(episode_trigger, step_trigger)
        self.hook = hook
        self.method = method
        self.mode: Mode = mode
        self.block = block
        self.failures = Failures(on_error)
        self.episode = -1
        self.step = 0
        self.total_steps = 0
        self._episode_trigger = episode_trigger
        self._step_trigger = step_trigger
        self._require_decision = require_decision
        self._check = ReplayCheck(verify)
        self._consumers: list[SaliencyConsumer] = []
        self._held: list[_Held] = []
        self._kept: dict[int, list[SaliencyMaps]] | None = {} if keep else None
        self._episode_triggered = False
        self._ended = False
        self._wiring = Wiring()
        self._warned: set[Fault] = set()
        self._window = hook.open_window(num_envs=1)

    @property
    def enabled(self) -> bool:
        """Whether steps are recorded. While they are not, the agent is not watched and nothing is computed."""
        return self._window.enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self.hook.enable_window(self._window, enabled)

    def subscribe(self, consumer: SaliencyConsumer) -> None:
        """Hand every decision to a consumer, too. With no trigger of its own, only what consumers want is explained."""
        self._consumers.append(consumer)

    def begin_episode(self) -> None:
        """The environment was reset: nothing has been decided."""
        self.end_episode()
        self._begin()

    def decide(self, action: Any, frame: FrameNow = lambda: None) -> StepSaliency | None:
        """Before the environment steps: the decision behind this action, explained, pending, or None.

        Args:
            action: what the environment will be given.
            frame: what is shown now, to compare with the captured input. None: not compared.

        Raises:
            MissingDecisionError: no acting pass was seen, and `require_decision` is set.
            ReplayMismatchError: replaying the decision gave something else (unless `on_error="warn"`).
            Exception: computing maps failed now (unless `on_error="warn"`), or when the last episode ended.
        """
        self.failures.raise_postponed()
        if not self.enabled or self.episode < 0:
            return None
        seen = self.hook.take(self._window)
        if self._ended:
            return None  # an autoreset beneath ignores this action
        if seen is None and self._require_decision:
            raise MissingDecisionError(f"Step {self.step} of episode {self.episode} came without a decision. {self.hook.explain()}")
        with self.failures.handled("No saliency", f"for step {self.step} of episode {self.episode}"):
            self._wiring.see(seen is not None, action)
            wanted = seen is not None and self._is_wanted()
            if seen is not None and (wanted or self._check.unfinished):
                return self._record(seen, action, frame, wanted)
        return None

    def advance(self, ended: bool) -> None:
        """After the environment stepped; `ended` when the episode is over by termination or truncation.

        The step after an episode's end, without a reset, was an autoreset's if the environment goes on: a new episode has begun. The
        transition is never lost: an error in explaining what is held is raised by the next `decide`, `end_episode`, `flush` or `close`.
        """
        self.total_steps += 1
        with self.failures.postponed():
            if self._ended and not ended:
                self._begin()
                return
            self.step += 1
            self._window.clear()
            self._ended = ended
            if ended:
                self._explain_held()
        if ended:
            self._complain()

    def end_episode(self) -> None:
        """Explain what is held; warn, once, of an episode that shows wrong wiring. More than once does no harm."""
        self.flush()
        self._complain()

    def flush(self) -> None:
        """Explain and hand on the decisions that are held; raises what failed when the last episode ended."""
        self.failures.raise_postponed()
        self._explain_held()

    def maps(self, episode: int) -> list[SaliencyMaps]:
        """The maps of an episode's explained decisions, in order; empty for an episode without any.

        Raises:
            ValueError: maps are not kept: `keep=True` is needed.
        """
        if self._kept is None:
            raise ValueError("Maps are handed on and dropped. Construct the recorder with keep=True to retain them.")
        return list(self._kept.get(episode, []))

    def close(self) -> None:
        """End the episode and leave the hook. More than once does no harm."""
        try:
            self.end_episode()
        finally:
            self._wiring = Wiring()
            self.hook.close_window(self._window)

    def _begin(self) -> None:
        self.episode += 1
        self.step = 0
        self._ended = False
        self._wiring = Wiring()
        self.failures.new_episode()
        self._window.forget_counts()
        self._window.clear()
        self.hook.new_episode(self._window)
        self._episode_triggered = False
        with self.failures.handled("No saliency", f"in episode {self.episode}"):
            self._episode_triggered = self._episode_trigger is not None and self._episode_trigger(self.episode)

    def _complain(self) -> None:
        fault = self._wiring.fault
        if fault is not None and fault not in self._warned:
            self._warned.add(fault)
            warnings.warn(f"Episode {self.episode} {self._wiring.complaint} {self.hook.explain()}", stacklevel=4)

    def _is_wanted(self) -> bool:
        if self._episode_trigger is None and self._step_trigger is None:
            return not self._consumers or any(consumer.wants_step() for consumer in self._consumers)
        return self._episode_triggered or (self._step_trigger is not None and self._step_trigger(self.total_steps))

    def _record(self, seen: AgentPass, action: Any, frame: FrameNow, wanted: bool) -> StepSaliency | None:
        action = plain_action(action)
        chosen = copy_tensor(torch.tensor([action])) if isinstance(action, int) else None
        decision = replace(Decision.of(seen), action=chosen)
        adapter, preprocessor = self.hook.adapter, self.hook.preprocessor
        self._check(adapter, decision, preprocessor, frame)
        if not wanted:
            return None
        maps = self._explain(adapter, [decision])[0] if self.mode == "inline" else None
        saliency = _step_saliency(self.episode, self.step, action, decision, maps)
        if maps is None:
            self._hold(_Held(saliency, decision, adapter))
        self._hand_on(saliency, pending=False)
        if len(self._held) >= self.block:
            self._explain_held()
        return saliency

    def _explain(self, adapter: AgentAdapter, decisions: list[Decision]) -> list[SaliencyMaps]:
        maps = self.method(adapter, decisions)
        if len(maps) != len(decisions):
            raise ValueError(f"Expected {len(decisions)} SaliencyMaps from {type(self.method).__name__}, one a decision, got {len(maps)}.")
        return maps

    def _explain_held(self) -> None:
        held, self._held = self._held, []
        if not held:
            return
        explained: list[SaliencyMaps | None] = [None] * len(held)
        place = f"for the {len(held)} decisions from step {held[0].saliency.step} of episode {self.episode}"
        try:
            with self.failures.handled("No saliency", place):
                if self._check.verify != "never":
                    replay_held(held[0].adapter, held[0].decision)
                explained = [*self._explain(held[0].adapter, [one.decision for one in held])]
        finally:
            for one, maps in zip(held, explained, strict=True):
                with self.failures.handled("Saliency was not handed on", place):
                    self._hand_on(replace(one.saliency, maps=maps), pending=True)

    def _hold(self, one: _Held) -> None:
        if self._held and self._held[0].adapter is not one.adapter:
            self._explain_held()  # another agent was attached
        self._held.append(one)

    def _hand_on(self, saliency: StepSaliency, *, pending: bool) -> None:
        if self._kept is not None and saliency.maps is not None:
            self._kept.setdefault(saliency.episode, []).append(saliency.maps)
        for consumer in self._consumers:
            (consumer.explained if pending else consumer.decided)(saliency)


def _step_saliency(episode: int, step: int, action: Any, decision: Decision, maps: SaliencyMaps | None) -> StepSaliency:
    return StepSaliency(
        episode=episode,
        step=step,
        action=action,
        logits=decision.logits[0].float().cpu().numpy(),
        value=None if decision.value is None else float(decision.value.flatten()[0]),
        maps=maps,
    )


def _check_triggers(*triggers: Trigger | None) -> None:
    for trigger in triggers:
        if trigger is not None and not callable(trigger):
            raise TypeError(f"Expected a trigger to be a function of a number, or None, got {type(trigger).__name__}.")


def _check_options(mode: str, on_error: str, block: int) -> None:
    for name, value, known in (("mode", mode, Mode.__args__), ("on_error", on_error, OnError.__args__)):
        if value not in known:
            raise ValueError(f"Expected {name} to be one of {known}, got {value!r}.")
    if block < 1:
        raise ValueError(f"Expected a positive block, got {block}.")
