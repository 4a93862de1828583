"""`LiveEpisodes`: the latest of what a recording decides, in memory, for the page that follows it.

It is a sink of the recording, called by the thread that steps the environment; the server's threads read it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from saliency_wrappers.hooks.replay_check import FramesNow
from saliency_wrappers.recording.clock import EpisodeClock
from saliency_wrappers.recording.numbers import plain_number
from saliency_wrappers.recording.recording import Recording
from saliency_wrappers.recording.sinks import EpisodeSink
from saliency_wrappers.saliency.fingerprints import method_description
from saliency_wrappers.step_saliency import StepSaliency
from saliency_wrappers.viewer.encoding import encode_frames, encode_maps
from saliency_wrappers.viewer.episodes import LONGEST_NAME, names_of_page
from saliency_wrappers.viewer.live_episode import LiveEpisode

if TYPE_CHECKING:
    from collections.abc import Generator

MOST_EPISODES = 200
"""The oldest is forgotten when there are more."""
MOST_ROWS = 100_000
"""Decisions of all episodes whose numbers are kept."""
MOST_BYTES = 96 * 2**20
"""Of pictures and maps that are kept."""
WATCHED_SECONDS = 3.0
"""So long after its last question a page counts as open."""
PAUSE_FACTOR = 4.0
"""After a picture was taken, none is taken for so many times the time it took: at most a fifth of the environment's time goes into it."""
NEWS_ROWS = 5_000
"""The most decisions in one answer."""


class LiveEpisodes(EpisodeSink):
    """Keeps numbers of every decision, and pictures while a page is open. An error of its own stops nothing: the page shows it."""

    def __init__(self, recording: Recording) -> None:
        """Follow a recording from now on; attach it with `recording.attach`."""
        self.recording = recording
        self.environments = sorted(recording.clocks)
        self.stamp = 0
        """Changes whenever there is something new."""
        self.listed = 0
        """Changes whenever an episode begins or ends."""
        self.ended = False
        """Whether the recording was closed."""
        self.error: str | None = None
        """What went wrong here. None: nothing."""
        self.told_end = threading.Event()
        """Set when a page was told that the recording has ended."""
        self._lock = threading.Lock()
        self._episodes: deque[LiveEpisode] = deque()
        self._current: dict[int, LiveEpisode] = {}
        self._seeds: dict[int, int | None] = {}
        self._kept: deque[tuple[LiveEpisode, int, int]] = deque()
        self._bytes = 0
        self._rows = 0
        self._begun = 0
        self._asked = -WATCHED_SECONDS
        self._environment = self.environments[0]
        self._next_picture = 0.0
        self._geometry: dict[str, Any] | None = None

    @property
    def watched(self) -> bool:
        """Whether a page asked lately."""
        return time.monotonic() - self._asked < WATCHED_SECONDS

    def begin(self, clock: EpisodeClock, seed: int | None) -> None:
        """The episode is listed when its first decision comes."""
        with self._changing():
            self._leave(clock.environment, complete=False)
            self._seeds[clock.environment] = seed

    def append(self, records: Sequence[StepSaliency], frames: FramesNow) -> None:
        """Keep each decision's numbers, and what the watched environment shows now."""
        with self._changing():
            for record in records:
                index = record.environment
                episode = self._current.get(index) or self._begin(self.recording.clocks[index])
                episode.decide(record)
                self._rows += 1
                if self._wants_picture(episode):
                    self._take_picture(episode, record, frames)
            self._forget()

    def advance(self, rewards: Sequence[Any] | None) -> None:
        """The decisions are shown now."""
        with self._changing():
            for index, episode in self._current.items():
                if episode.awaits_reward:
                    episode.reward(float("nan") if rewards is None else plain_number(rewards[index], "a reward"))
            self.stamp += 1

    def explained(self, saliency: StepSaliency) -> None:
        """Keep its maps, if it has some."""
        episode = self._current.get(saliency.environment)
        if episode is None or saliency.maps is None or episode.number != saliency.episode:
            return
        with self._changing():
            row = episode.explain(saliency)
            if row is not None:
                self._keep(episode, row, sum(raw.nbytes for raw in (saliency.maps.actor, saliency.maps.critic) if raw is not None))
                self.stamp += 1

    def end(self, clocks: Iterable[EpisodeClock], complete: bool = False) -> None:
        """These episodes are over."""
        with self._changing():
            for clock in clocks:
                self._leave(clock.environment, complete)

    def close(self) -> None:
        """The recording has ended; the page keeps what it has."""
        with self._changing():
            for index in self.environments:
                self._leave(index, complete=False)
            self.ended = True
            self.stamp += 1

    def about(self) -> dict[str, Any]:
        """Return the facts about the recording that the page shows."""
        recording = self.recording
        return {
            "environments": self.environments,
            "num_envs": recording.num_envs,
            "mode": recording.options.mode,
            "method": str(method_description(recording.method, None)["name"]),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return the list of episodes, oldest first."""
        with self._lock:
            return [episode.row() for episode in self._episodes]

    def numbers(self, index: int) -> dict[str, Any]:
        """Return an episode's numbers, as `episode_numbers` does; `ValueError` when it is not kept."""
        recording = self.recording
        with self._lock:
            content = self._episode(index).numbers()
        known = {"action_names": names_of_page(recording.environments.action_names), "first_action": recording.environments.first_action}
        return {**content, **known, "layers": [{"fingerprint": "", "name": self.about()["method"]}]}

    def frame(self, index: int, row: int) -> bytes:
        """Return a decision's picture by `encode_frames`; none when it was not taken, or is no longer kept."""
        with self._lock:
            picture = next((episode.pictures.get(row) for episode in self._episodes if episode.index == index), None)
        return encode_frames([] if picture is None else [picture])

    def maps(self, index: int, row: int) -> bytes:
        """Return a decision's maps by `encode_maps`."""
        with self._lock:
            maps = next((episode.maps.get(row) for episode in self._episodes if episode.index == index), None)
        return encode_maps([maps])

    def news(self, environment: int, index: int | None, rows: int, listed: int) -> dict[str, Any]:
        """Return what a page lacks; to ask this is to watch.

        Args:
            environment: the one that is watched.
            index: the episode that the page shows. None: none yet.
            rows: how many of its decisions the page has.
            listed: the page's version of the list.
        """
        self._asked, self._environment = time.monotonic(), environment
        with self._lock:
            latest = [one for one in self._episodes if one.environment == environment and one.known]
            shown = next((one for one in self._episodes if one.index == index), None)
            content: dict[str, Any] = {
                "stamp": self.stamp,
                "listed": self.listed,
                "ended": self.ended,
                "error": self.error,
                "current": latest[-1].index if latest else None,
                "episode": None if shown is None else shown.since(rows, NEWS_ROWS),
                "episodes": None if listed == self.listed else [episode.row() for episode in self._episodes],
            }
        if self.ended:
            self.told_end.set()
        return content

    @contextmanager
    def _changing(self) -> Generator[None]:
        with self._lock:
            try:
                yield
            except Exception as error:  # the page is an onlooker: the environment goes on
                self.error = f"{type(error).__name__}: {error}"[:500]

    def _begin(self, clock: EpisodeClock) -> LiveEpisode:
        spec = self.recording.environments.spec
        name = str(getattr(spec, "id", None) or "unknown environment")[:LONGEST_NAME]
        seed = self._seeds.get(clock.environment)
        wait = 2 * self.recording.block if self.recording.options.mode == "deferred" else 0
        episode = LiveEpisode(self._begun, clock.environment, clock.episode, name, seed if type(seed) is int else None, wait)
        episode.geometry = self._geometry
        self._begun += 1
        self._current[clock.environment] = episode
        self._episodes.append(episode)
        self.listed += 1
        return episode

    def _leave(self, environment: int, complete: bool) -> None:
        episode = self._current.pop(environment, None)
        if episode is not None:
            episode.finish(complete)
            self.listed += 1
            self.stamp += 1

    def _wants_picture(self, episode: LiveEpisode) -> bool:
        """Always of the first decision of all, which tells the size."""
        if self._rows == 1:
            return True
        return episode.environment == self._environment and time.perf_counter() >= self._next_picture and self.watched

    def _take_picture(self, episode: LiveEpisode, record: StepSaliency, frames: FramesNow) -> None:
        began = time.perf_counter()
        picture = episode.take_picture(record, frames, self.recording)
        self._geometry = episode.geometry
        now = time.perf_counter()
        self._next_picture = now + PAUSE_FACTOR * (now - began)
        if picture is not None:
            self._keep(episode, len(episode.steps) - 1, picture.nbytes)

    def _keep(self, episode: LiveEpisode, row: int, size: int) -> None:
        self._kept.append((episode, row, size))
        self._bytes += size

    def _forget(self) -> None:
        while self._bytes > MOST_BYTES and len(self._kept) > 2:
            episode, row, size = self._kept.popleft()
            episode.forget(row)
            self._bytes -= size
        while len(self._episodes) > 1 and (len(self._episodes) > MOST_EPISODES or self._rows > MOST_ROWS):
            oldest = self._episodes.popleft()
            self._rows -= len(oldest.steps)
            self.listed += 1
            for index in [index for index, episode in self._current.items() if episode is oldest]:
                del self._current[index]  # the rest of this episode is listed as another

    def _episode(self, index: int) -> LiveEpisode:
        for episode in self._episodes:
            if episode.index == index:
                return episode
        raise ValueError(f"Expected an episode that is kept while the recording runs, got {index}.")
