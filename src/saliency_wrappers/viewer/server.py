"""The page behind a server of this machine: `view` starts one, `Viewer` is the running server."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
import webbrowser
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any

from saliency_wrappers.saliency.presets import PRESETS
from saliency_wrappers.store.store import EpisodeStore
from saliency_wrappers.viewer.encoding import encode_maps
from saliency_wrappers.viewer.episodes import block_count, episode_numbers, episode_row, frames_of_block, maps_of_block
from saliency_wrappers.viewer.export import MODULES, asset
from saliency_wrappers.viewer.guard import Guard
from saliency_wrappers.viewer.questions import Interrogation, Question

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from saliency_wrappers.store.reader import StoredEpisode

_STARTUP_SECONDS = 30.0
_HEAD = '<link rel="stylesheet" href="page.css">'
_SCRIPT = '<script type="module" src="page.js"></script>'


def view(store: EpisodeStore | str | os.PathLike[str], agent: Any = None, *, port: int = 0, browser: bool = True) -> Viewer:
    """Serve the page of a store to this machine, and open it in the browser.

    Args:
        store: the store, its path or its URL.
        agent: answers "what if": an `nn.Module`, or whatever `as_adapter` takes. None: the page shows what was recorded only.
        port: on 127.0.0.1. 0: any free one.
        browser: whether to open the address in the default browser.

    Returns:
        The running server. It serves until `close()`, the end of its `with` block or of the process.

    Raises:
        DependencyNotInstalled: Starlette or uvicorn is not installed.
        FileNotFoundError: no store is there.
        OSError: the port is taken.
    """
    opened = store if isinstance(store, EpisodeStore) else EpisodeStore.open(store)
    viewer = Viewer(opened, agent, port)
    if browser:
        webbrowser.open(viewer.url)
    return viewer


class Viewer:
    """A running server of one store's page; loopback only, behind a random token."""

    def __init__(self, store: EpisodeStore, agent: Any = None, port: int = 0) -> None:
        """Start to serve; the arguments are those of `view`."""
        uvicorn = _uvicorn()
        token = secrets.token_urlsafe(24)
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/{token}/"
        """The page's address. Who knows it can read the store."""
        application = Guard(_application(_Pages(store, agent), token), token, self.port)
        options: dict[str, Any] = {"log_level": "error", "access_log": False, "lifespan": "off", "ws": "none", "server_header": False}
        self._server = uvicorn.Server(uvicorn.Config(application, **options))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True, name="saliency-viewer")
        self._thread.start()
        self._wait_until_started()

    def __repr__(self) -> str:
        return f"Viewer({self.url!r})"

    def _repr_html_(self) -> str:
        """Return a link to the page, for notebooks."""
        return f'<a href="{self.url}" target="_blank" rel="noopener">{self.url}</a>'

    def wait(self) -> None:
        """Serve until the server is closed or the user interrupts."""
        while self._thread.is_alive():
            self._thread.join(0.5)

    def close(self) -> None:
        """Stop serving; a second call does nothing."""
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _wait_until_started(self) -> None:
        limit = time.monotonic() + _STARTUP_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > limit:
                raise RuntimeError(f"Expected the viewer's server to start on port {self.port} within {_STARTUP_SECONDS:g} s, it did not.")
            time.sleep(0.01)


class _Pages:
    """Answers the page's requests from a store and an agent."""

    def __init__(self, store: EpisodeStore, agent: Any) -> None:
        self._store = store
        self._interrogation = None if agent is None else Interrogation(agent)
        self._episode = lru_cache(maxsize=64)(self._find)
        if self._interrogation is not None:
            threading.Thread(target=self._warm_up, daemon=True, name="saliency-viewer-warm-up").start()

    def page(self, request: Request) -> Response:
        from starlette.responses import HTMLResponse

        return HTMLResponse(asset("page.html").replace("<!-- head -->", _HEAD).replace("<!-- script -->", _SCRIPT))

    def file(self, request: Request) -> Response:
        from starlette.responses import PlainTextResponse

        name = request.path_params["name"]
        if name not in (*MODULES, "page.css"):
            return PlainTextResponse("Not found.", 404)
        return PlainTextResponse(asset(name), media_type="text/css" if name.endswith(".css") else "text/javascript")

    def store(self, request: Request) -> Response:
        rows = [episode_row(index, episode) for index, episode in enumerate(self._store.episodes)]
        return _json({"episodes": rows, "agent": self._interrogation is not None, "methods": sorted(PRESETS)})

    def episode(self, request: Request) -> Response:
        index = request.path_params["episode"]
        return _json(episode_numbers(index, self._episode(index)))

    def frames(self, request: Request) -> Response:
        episode = self._episode(request.path_params["episode"])
        return _binary(frames_of_block(episode, self._block(episode, request)))

    def maps(self, request: Request) -> Response:
        episode, layer = self._episode(request.path_params["episode"]), request.path_params["layer"]
        if not 0 <= layer < len(episode.methods):
            raise ValueError(f"Expected maps of a method from 0 to {len(episode.methods) - 1}, got {layer}.")
        return _binary(maps_of_block(episode, layer, self._block(episode, request)))

    def ask(self, request: Request, content: dict[str, Any]) -> Response:
        interrogation, episode = self._asked(content)
        return _json(asdict(interrogation.ask(episode, Question.parse(content))))

    def explain(self, request: Request, content: dict[str, Any]) -> Response:
        interrogation, episode = self._asked(content)
        row = Question.parse({"row": content.get("row", 0)}).row
        return _binary(encode_maps([interrogation.maps(episode, row, str(content.get("method")))]))

    def _asked(self, content: dict[str, Any]) -> tuple[Interrogation, StoredEpisode]:
        if self._interrogation is None:
            raise ValueError("Expected an agent to ask: start the viewer with one, view(store, agent).")
        index = content.get("episode")
        if type(index) is not int:
            raise ValueError(f"Expected the index of an episode, got {index!r}.")
        return self._interrogation, self._episode(index)

    def _warm_up(self) -> None:
        with suppress(ValueError, RuntimeError, OSError):  # whoever asks is told
            if self._interrogation is not None and self._store.episodes:
                self._interrogation.warm_up(self._store.episodes[0])

    def _find(self, index: int) -> StoredEpisode:
        if index < 0:
            raise ValueError(f"Expected the index of an episode, got {index}.")
        return self._store.episode(index)

    def _block(self, episode: StoredEpisode, request: Request) -> int:
        block = request.path_params["block"]
        if not 0 <= block < block_count(episode):
            raise ValueError(f"Expected a block from 0 to {block_count(episode) - 1}, got {block}.")
        return block


def _application(pages: _Pages, token: str) -> Any:
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route

    async def post(request: Request) -> Response:
        content = json.loads(await request.body())
        if not isinstance(content, dict):
            return PlainTextResponse("Expected a JSON object.", 400)
        answer = pages.ask if request.url.path.endswith("/ask") else pages.explain
        return await run_in_threadpool(answer, request, content)

    async def failed(request: Request, error: Exception) -> Response:
        return PlainTextResponse(str(error), 400)

    routes = [
        Route("/", pages.page),
        Route("/data/store", pages.store),
        Route("/data/episode-{episode:int}", pages.episode),
        Route("/data/frames-{episode:int}-{block:int}", pages.frames),
        Route("/data/maps-{episode:int}-{layer:int}-{block:int}", pages.maps),
        Route("/ask", post, methods=["POST"]),
        Route("/explain", post, methods=["POST"]),
        Route("/{name}", pages.file),
    ]
    handlers: dict[Any, Any] = dict.fromkeys((ValueError, RuntimeError, OSError), failed)
    return Starlette(routes=[Mount(f"/{token}", routes=routes)], exception_handlers=handlers)


def _json(content: Any) -> Response:
    from starlette.responses import Response

    return Response(json.dumps(content, separators=(",", ":")), media_type="application/json")


def _binary(content: bytes) -> Response:
    from starlette.responses import Response

    return Response(content, media_type="application/octet-stream")


def _uvicorn() -> Any:
    try:
        import_module("starlette")  # fails before anything is opened
        return import_module("uvicorn")
    except ImportError as error:
        from gymnasium.error import DependencyNotInstalled

        raise DependencyNotInstalled('The viewer needs Starlette and uvicorn: pip install "saliency_wrappers[viewer]".') from error
