"""`StoreSink`: writes every decision of a recording into a store before the step, its reward after it, and its maps if there are any."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saliency_wrappers.hooks.hook import RecurrentAgentHook
from saliency_wrappers.hooks.replay_check import FramesNow
from saliency_wrappers.recording.clock import EpisodeClock
from saliency_wrappers.recording.error_policy import Failures
from saliency_wrappers.recording.numbers import plain_number
from saliency_wrappers.recording.options import RecordedEnvironments
from saliency_wrappers.recording.sinks import EpisodeSink
from saliency_wrappers.saliency.fingerprints import KnownAgent, fingerprint, method_description
from saliency_wrappers.saliency.method import SaliencyMethod
from saliency_wrappers.step_saliency import StepSaliency
from saliency_wrappers.store.header import MOST_NAMES
from saliency_wrappers.store.store import EpisodeStore
from saliency_wrappers.store.writer import EpisodeWriter


class StoreSink(EpisodeSink):
    """Writes an episode of the store for each episode of each environment that has decisions. Errors go to the error policy."""

    def __init__(
        self,
        store: EpisodeStore,
        hook: RecurrentAgentHook,
        method: SaliencyMethod,
        failures: Failures,
        clocks: dict[int, EpisodeClock],
        environments: RecordedEnvironments,
    ) -> None:
        """Write to a store.

        Args:
            store: where to.
            hook: tells the agent and its preprocessor.
            method: what makes the maps that come, if any.
            failures: the error policy.
            clocks: of the environments, by their numbers.
            environments: what the store keeps about them.
        """
        self._store, self._hook, self._method, self._failures = store, hook, method, failures
        self._clocks = clocks
        names = environments.action_names
        self._known: dict[str, Any] = {
            "env_spec": spec_content(environments.spec),
            "first_action": environments.first_action,
            "action_names": None if names is None or len(names) > MOST_NAMES else list(names),
        }
        self._agent = KnownAgent()
        self._open: dict[int, _OpenEpisode] = {}
        self._seeds: dict[int, int | None] = {}

    def begin(self, clock: EpisodeClock, seed: int | None) -> None:
        """Close the last episode, if it was left."""
        self.end([clock])
        self._seeds[clock.environment] = seed

    def append(self, records: Sequence[StepSaliency], frames: FramesNow) -> None:
        """Copy each decision into its episode."""
        try:
            shown = self._shown(frames) if self._store.frames else None
            for record in records:
                index = record.environment
                episode = self._open.get(index) or self._begun(self._clocks[index])
                episode.rows[record.step] = episode.writer.decide(record, None if shown is None else shown[index])
                episode.awaits_reward = True
        except Exception as error:
            self._handle(error, self._clocks[records[0].environment])

    def advance(self, rewards: Sequence[Any] | None) -> None:
        """Write the rewards of environments whose agent decided. Errors are postponed: the transition must not be lost."""
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
        """Write a decision's maps, under the fingerprint of method and agent."""
        episode = self._open.get(saliency.environment)
        if episode is not None and saliency.maps is not None and episode.number == saliency.episode:
            with self._handled(episode.clock):
                episode.explain(saliency, self._method)

    def flush(self) -> None:
        """Write what there is, and wait for it."""
        for episode in self._open.values():
            with self._handled(episode.clock):
                episode.writer.flush()

    def end(self, clocks: Iterable[EpisodeClock], complete: bool = False) -> None:
        """Close the files of these episodes."""
        for clock in clocks:
            episode = self._open.pop(clock.environment, None)
            if episode is not None:
                with self._handled(clock):
                    episode.close(complete, learned=self._hook.attached and episode.agent != self._agent.fingerprint(self._hook.adapter))

    def close(self) -> None:
        """Close all episodes, and end the thread that writes."""
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
            **self._known,
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


def spec_content(spec: Any) -> dict[str, Any] | None:
    """Return Gymnasium's specification as JSON; of one that cannot be written so, its id. None for none."""
    if spec is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a callable that would be written as text
            return json.loads(spec.to_json())
    except Exception:
        return {"id": str(getattr(spec, "id", spec))}
