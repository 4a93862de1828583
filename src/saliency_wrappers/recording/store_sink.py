"""`Capture`: what a recording sees, into a store: every decision before the step, its reward after it, its maps if there are any.

`NoCapture` is the same without a store, `Captures` several such sinks as one.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from saliency_wrappers.agents.base import split_rows
from saliency_wrappers.decisions import AgentPass, Decision, StepSaliency
from saliency_wrappers.hooks.hook import RecurrentAgentHook
from saliency_wrappers.hooks.replay_check import FramesNow
from saliency_wrappers.recording.clock import EpisodeClock
from saliency_wrappers.recording.error_policy import Failures
from saliency_wrappers.recording.numbers import plain_number
from saliency_wrappers.saliency.fingerprints import KnownAgent, fingerprint, method_description
from saliency_wrappers.saliency.method import SaliencyMethod
from saliency_wrappers.store.header import MOST_NAMES
from saliency_wrappers.store.store import EpisodeStore
from saliency_wrappers.store.writer import EpisodeWriter

Mode = Literal["inline", "deferred", "capture"]


class NoCapture:
    """Keeps nothing."""

    def begin(self, clock: EpisodeClock, seed: int | None) -> None:
        """An environment begins an episode; its seed, if it was given one."""

    def decide(self, clocks: Sequence[EpisodeClock], seen: AgentPass, actions: Sequence[Any], frames: FramesNow) -> None:
        """Before the environments step: a pass with a row for each environment, of which those of these clocks decide."""

    def advance(self, rewards: Sequence[Any] | None) -> None:
        """After the environments stepped: the reward of each, or None if they are not known."""

    def explained(self, saliency: StepSaliency) -> None:
        """A decision's maps; nothing, when it has none."""

    def flush(self) -> None:
        """Write what there is."""

    def end(self, clocks: Iterable[EpisodeClock], complete: bool = False) -> None:
        """Episodes are over (`complete`), or left. More than once does no harm."""

    def close(self) -> None:
        """All episodes are left."""


class Captures(NoCapture):
    """Several sinks as one: each is told of everything, in order."""

    def __init__(self, sinks: Sequence[NoCapture]) -> None:
        """Tell these sinks."""
        self._sinks = tuple(sinks)

    def begin(self, clock: EpisodeClock, seed: int | None) -> None:
        """Tell every sink."""
        for sink in self._sinks:
            sink.begin(clock, seed)

    def decide(self, clocks: Sequence[EpisodeClock], seen: AgentPass, actions: Sequence[Any], frames: FramesNow) -> None:
        """Tell every sink."""
        for sink in self._sinks:
            sink.decide(clocks, seen, actions, frames)

    def advance(self, rewards: Sequence[Any] | None) -> None:
        """Tell every sink."""
        for sink in self._sinks:
            sink.advance(rewards)

    def explained(self, saliency: StepSaliency) -> None:
        """Tell every sink."""
        for sink in self._sinks:
            sink.explained(saliency)

    def flush(self) -> None:
        """Tell every sink."""
        for sink in self._sinks:
            sink.flush()

    def end(self, clocks: Iterable[EpisodeClock], complete: bool = False) -> None:
        """Tell every sink."""
        over = list(clocks)
        for sink in self._sinks:
            sink.end(over, complete)

    def close(self) -> None:
        """Close every sink."""
        for sink in self._sinks:
            sink.close()


class Capture(NoCapture):
    """Writes an episode of the store for each episode of each environment that has decisions. Errors are the recording's to handle."""

    def __init__(
        self,
        store: EpisodeStore,
        hook: RecurrentAgentHook,
        method: SaliencyMethod,
        failures: Failures,
        num_envs: int,
        env_spec: Any = None,
        action_names: list[str] | None = None,
        first_action: int = 0,
    ) -> None:
        """Write to a store.

        Args:
            store: where to.
            hook: tells the agent and its preprocessor.
            method: what makes the maps that come, if any.
            failures: what becomes of errors.
            num_envs: how many environments the agent acts for in one pass.
            env_spec: Gymnasium's specification of the environments. None: not known.
            action_names: a name for each action. None: not known.
            first_action: the action that the first logit stands for.
        """
        self._store, self._hook, self._method, self._failures = store, hook, method, failures
        self._env_spec = spec_content(env_spec)
        self._first_action = first_action
        self._action_names = None if action_names is None or len(action_names) > MOST_NAMES else action_names
        self._alone = num_envs == 1
        self._agent = KnownAgent()
        self._open: dict[int, _OpenEpisode] = {}
        self._seeds: dict[int, int | None] = {}

    def begin(self, clock: EpisodeClock, seed: int | None) -> None:
        """The last episode, if it was left, is written."""
        self.end([clock])
        self._seeds[clock.environment] = seed

    def decide(self, clocks: Sequence[EpisodeClock], seen: AgentPass, actions: Sequence[Any], frames: FramesNow) -> None:
        """The pass is copied."""
        try:
            rows: Sequence[AgentPass | Decision] = [seen] if self._alone else split_rows(self._hook.adapter, Decision.by_reference(seen))
            shown = self._shown(frames) if self._store.frames else None
            for clock in clocks:
                index, step = clock.environment, clock.step
                episode = self._open.get(index) or self._begun(clock)
                frame = None if shown is None else shown[index]
                episode.rows[step] = episode.writer.decide(step, rows[index], actions[index], frame)
                episode.awaits_reward = True
        except Exception as error:
            self._handle(error, clocks[0])

    def advance(self, rewards: Sequence[Any] | None) -> None:
        """Only of environments whose agent decided; an error is postponed, the transition is not to be lost."""
        for index, episode in self._open.items():
            if not episode.awaits_reward:
                continue
            try:
                episode.awaits_reward = False
                episode.writer.reward(float("nan") if rewards is None else plain_number(rewards[index], "a reward"))
            except Exception as error:
                with self._failures.postponed():
                    self._handle(error, episode.clock)

    def explained(self, saliency: StepSaliency) -> None:
        """They are kept under the fingerprint of method and agent."""
        episode = self._open.get(saliency.environment)
        if episode is not None and saliency.maps is not None and episode.number == saliency.episode:
            with self._handled(episode.clock):
                episode.explain(saliency, self._method)

    def flush(self) -> None:
        """And wait for it."""
        for episode in self._open.values():
            with self._handled(episode.clock):
                episode.writer.flush()

    def end(self, clocks: Iterable[EpisodeClock], complete: bool = False) -> None:
        """Their files are closed."""
        for clock in clocks:
            episode = self._open.pop(clock.environment, None)
            if episode is not None:
                with self._handled(clock):
                    episode.close(complete, learned=self._hook.attached and episode.agent != self._agent.fingerprint(self._hook.adapter))

    def close(self) -> None:
        """And the thread that writes ends."""
        try:
            self.end([episode.clock for episode in self._open.values()])
        finally:
            self._store.close()

    def _handled(self, clock: EpisodeClock) -> AbstractContextManager[None]:
        return self._failures.handled("Not stored", f"from step {clock.step} of {clock.in_words}")

    def _handle(self, error: Exception, clock: EpisodeClock) -> None:
        """At every step, where entering and leaving a context would cost more than what is done in it."""
        with self._handled(clock):
            raise error

    def _shown(self, frames: FramesNow) -> Sequence[NDArray[np.uint8] | None]:
        shown = frames()
        if not shown:
            raise ValueError(
                "The store keeps frames, but the environment shows none: make it with render_mode='rgb_array', or the store with "
                "EpisodeStore(path, frames=False)."
            )
        return shown

    def _begun(self, clock: EpisodeClock) -> _OpenEpisode:
        agent, preprocessor = self._agent.fingerprint(self._hook.adapter), self._hook.preprocessor
        writer = self._store.new_episode(
            episode=clock.episode,
            seed=self._seeds.pop(clock.environment, None),
            env_spec=self._env_spec,
            action_names=self._action_names,
            first_action=self._first_action,
            agent=agent,
            preprocessor=None if preprocessor is None else dict(vars(preprocessor)),
        )
        episode = self._open[clock.environment] = _OpenEpisode(clock, writer, agent)
        return episode


class _OpenEpisode:
    """An episode that is being written."""

    def __init__(self, clock: EpisodeClock, writer: EpisodeWriter, agent: str | None) -> None:
        self.clock, self.writer, self.number = clock, writer, clock.episode
        self.awaits_reward = False
        self.agent = agent
        self.rows: dict[int, int] = {}
        """The row of each step with a decision."""
        self._description: dict[str, Any] = {}

    def explain(self, saliency: StepSaliency, method: SaliencyMethod) -> None:
        self._description = self._description or method_description(method, self.agent)
        row = self.rows.get(saliency.step)
        if row is not None and saliency.maps is not None:
            self.writer.explain(row, saliency.maps, fingerprint(self._description), self._description)

    def close(self, complete: bool, learned: bool) -> None:
        self.writer.close(complete, learned)


def check_mode(mode: str, store: EpisodeStore | None) -> None:
    """`ValueError` for no mode, or one that needs a store and has none."""
    if mode not in Mode.__args__:
        raise ValueError(f"Expected mode to be one of {Mode.__args__}, got {mode!r}.")
    if mode == "capture" and store is None:
        raise ValueError('mode="capture" makes no maps here, it keeps decisions for compute_saliency: expected a store to keep them in.')


def spec_content(spec: Any) -> dict[str, Any] | None:
    """Gymnasium's specification as JSON; of one that cannot be written so, its id. None for none."""
    if spec is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a callable that would be written as text
            return json.loads(spec.to_json())
    except Exception:
        return {"id": str(getattr(spec, "id", spec))}
