"""What the server answers: `StoredPages` from a store and an agent, `LivePages` from a recording that runs."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from saliency_wrappers.saliency.presets import PRESETS
from saliency_wrappers.store.reader import StoredEpisode
from saliency_wrappers.store.store import EpisodeStore
from saliency_wrappers.viewer.encoding import encode_maps
from saliency_wrappers.viewer.episodes import block_count, episode_numbers, episode_row, frames_of_block, maps_of_block
from saliency_wrappers.viewer.export import MODULES, asset
from saliency_wrappers.viewer.live import LiveEpisodes
from saliency_wrappers.viewer.questions import Interrogation, Question

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_HEAD = '<link rel="stylesheet" href="page.css">'
_SCRIPT = '<script type="module" src="page.js"></script>'


class StoredPages:
    """Answers the page's requests from a store and an agent."""

    live: LiveEpisodes | None = None

    def __init__(self, store: EpisodeStore, agent: Any) -> None:
        """Answer from a store; questions only with an agent."""
        self._store = store
        self._interrogation = None if agent is None else Interrogation(agent)
        self._rows: dict[str, dict[str, Any]] = {}
        self._episode = lru_cache(maxsize=64)(self._find)
        if self._interrogation is not None:
            threading.Thread(target=self._warm_up, daemon=True, name="saliency-viewer-warm-up").start()

    def store(self, request: Request) -> Response:
        """The list of episodes."""
        rows = [self._row(index, episode) for index, episode in enumerate(self._store.episodes)]
        return in_json({"episodes": rows, "agent": self._interrogation is not None, "methods": sorted(PRESETS)})

    def episode(self, request: Request) -> Response:
        """The numbers of an episode."""
        index = request.path_params["episode"]
        return in_json(episode_numbers(index, self._episode(index)))

    def frames(self, request: Request) -> Response:
        """The frames of a block."""
        episode = self._episode(request.path_params["episode"])
        return in_bytes(frames_of_block(episode, self._block(episode, request)))

    def maps(self, request: Request) -> Response:
        """The maps of a block."""
        episode, layer = self._episode(request.path_params["episode"]), request.path_params["layer"]
        if not 0 <= layer < len(episode.methods):
            raise ValueError(f"Expected maps of a method from 0 to {len(episode.methods) - 1}, got {layer}.")
        return in_bytes(maps_of_block(episode, layer, self._block(episode, request)))

    def ask(self, content: dict[str, Any]) -> Response:
        """The agent's answer to a question."""
        interrogation, episode = self._asked(content)
        return in_json(asdict(interrogation.ask(episode, Question.parse(content))))

    def explain(self, content: dict[str, Any]) -> Response:
        """The maps of one decision, made now."""
        interrogation, episode = self._asked(content)
        row = Question.parse({"row": content.get("row", 0)}).row
        return in_bytes(encode_maps([interrogation.maps(episode, row, str(content.get("method")))]))

    def trust(self, content: dict[str, Any]) -> Response:
        """Memory share and confidence of some decisions, measured now."""
        interrogation, episode = self._asked(content)
        return in_json(interrogation.trust(episode, Question.parse({"row": content.get("row", 0)}).row))

    def _asked(self, content: dict[str, Any]) -> tuple[Interrogation, StoredEpisode]:
        if self._interrogation is None:
            raise ValueError("Expected an agent to ask: start the viewer with one, view(store, agent).")
        index = content.get("episode")
        if type(index) is not int:
            raise ValueError(f"Expected the index of an episode, got {index!r}.")
        return self._interrogation, self._episode(index)

    def _warm_up(self) -> None:
        with suppress(ValueError, RuntimeError, OSError):  # the first question raises it again
            if self._interrogation is not None and self._store.episodes:
                self._interrogation.warm_up(self._store.episodes[0])

    def _row(self, index: int, episode: StoredEpisode) -> dict[str, Any]:
        """An episode's row in the list; of finished episodes it is read once."""
        if episode.name not in self._rows:
            row = episode_row(index, episode)
            if episode.header.decisions is None:
                return row
            self._rows[episode.name] = row
        return {**self._rows[episode.name], "index": index}

    def _find(self, index: int) -> StoredEpisode:
        if index < 0:
            raise ValueError(f"Expected the index of an episode, got {index}.")
        return self._store.episode(index)

    def _block(self, episode: StoredEpisode, request: Request) -> int:
        block = request.path_params["block"]
        if not 0 <= block < block_count(episode):
            raise ValueError(f"Expected a block from 0 to {block_count(episode) - 1}, got {block}.")
        return block


class LivePages:
    """Answers the page's requests from what a recording decided lately. A block is one decision."""

    def __init__(self, live: LiveEpisodes) -> None:
        """Answer from these episodes."""
        self.live = live

    def store(self, request: Request) -> Response:
        """The list of episodes, and what is recorded."""
        return in_json({"episodes": self.live.rows(), "agent": False, "methods": [], "live": self.live.about()})

    def episode(self, request: Request) -> Response:
        """The numbers of an episode."""
        return in_json(self.live.numbers(request.path_params["episode"]))

    def frames(self, request: Request) -> Response:
        """The picture of a decision."""
        return in_bytes(self.live.frame(request.path_params["episode"], request.path_params["block"]))

    def maps(self, request: Request) -> Response:
        """The maps of a decision."""
        return in_bytes(self.live.maps(request.path_params["episode"], request.path_params["block"]))

    def news(self, environment: int, index: int | None, rows: int, listed: int) -> Response:
        """What came since."""
        if environment not in self.live.environments:
            raise ValueError(f"Expected an environment that is recorded, one of {self.live.environments}, got {environment}.")
        return in_json(self.live.news(environment, index, rows, listed))

    def ask(self, content: dict[str, Any]) -> Response:
        """No answer."""
        raise ValueError("Expected a store and an agent to ask: while a recording runs, its agent is busy.")

    explain = trust = ask


def page() -> str:
    """Return the page as it is served."""
    return asset("page.html").replace("<!-- head -->", _HEAD).replace("<!-- script -->", _SCRIPT)


def page_file(name: str) -> Response:
    """Return one of the page's files; 404 for any other name."""
    from starlette.responses import PlainTextResponse

    if name not in (*MODULES, "page.css"):
        return PlainTextResponse("Not found.", 404)
    return PlainTextResponse(asset(name), media_type="text/css" if name.endswith(".css") else "text/javascript")


def in_json(content: Any) -> Response:
    """Return a response of JSON."""
    from starlette.responses import Response

    return Response(json.dumps(content, separators=(",", ":")), media_type="application/json")


def in_bytes(content: bytes) -> Response:
    """Return a response of bytes."""
    from starlette.responses import Response

    return Response(content, media_type="application/octet-stream")
