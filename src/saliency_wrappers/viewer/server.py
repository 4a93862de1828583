"""The page behind a server of this machine: `view` starts one, `Viewer` is the running server."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import threading
import time
import webbrowser
from collections.abc import Callable
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any

from saliency_wrappers.recording.recording import Recording
from saliency_wrappers.store.store import EpisodeStore
from saliency_wrappers.viewer.guard import Guard
from saliency_wrappers.viewer.live import LiveEpisodes
from saliency_wrappers.viewer.pages import LivePages, StoredPages, page, page_file

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_STARTUP_SECONDS = 30.0
_WAIT_SECONDS = 1.0
"""So long a question for news waits for some."""
_FAREWELL_SECONDS = 1.5
"""So long an open page has to hear that the recording ended."""
_LAST_PICTURE_SECONDS = 0.3
"""So long it has to read the last picture."""


def view(source: Any, agent: Any = None, *, port: int = 0, browser: bool = True) -> Viewer:
    """Serve the page of a store or of a running recorder to this machine, and open it in the browser.

    Args:
        source: an `EpisodeStore`, its path or its URL; or a recorder, see `Viewer`.
        agent: answers "what if": an `nn.Module`, or whatever `as_adapter` takes. None: the page shows what was recorded only.
        port: on 127.0.0.1. 0: any free one.
        browser: whether to open the address in the default browser.

    Returns:
        The running server. It serves until `close()`, the end of its `with` block or of the process.

    Raises:
        DependencyNotInstalled: Starlette or uvicorn is not installed.
        FileNotFoundError: no store is there.
        OSError: the port is taken.
        TypeError, ValueError: `source` is neither a store nor a recorder, or a recorder came with an agent.
    """
    viewer = Viewer(source, agent, port)
    if browser:
        webbrowser.open(viewer.url)
    return viewer


class Viewer:
    """A running server of the page of one store, or of one recorder; loopback only, behind a random token.

    With a recorder (`SaliencyRecorder`, `VectorSaliencyRecorder`, `SaliencyVecEnv`, or a wrapper around one) the page follows what is
    recorded: the present decision, the curves so far, the last episodes. Which decisions are explained does not change. Numbers are kept
    of every decision; pictures only while a page is open, and at most a fifth of the time goes into them. A closed page stops nothing::

        env = SaliencyRecorder(env, hook)
        with Viewer(env) as viewer:
            print(viewer.url)
            ...  # the loop
    """

    def __init__(self, source: Any, agent: Any = None, port: int = 0) -> None:
        """Start to serve; the arguments are those of `view`."""
        uvicorn = _uvicorn()
        pages, self._recording = _pages_of(source, agent)
        self._live = pages.live
        token = secrets.token_urlsafe(24)
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/{token}/"
        """The page's address. Who knows it can read the store."""
        application = Guard(_application(pages, token), token, self.port)
        options: dict[str, Any] = {"log_level": "error", "access_log": False, "lifespan": "off", "ws": "none", "server_header": False}
        self._server = uvicorn.Server(uvicorn.Config(application, timeout_graceful_shutdown=3, **options))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True, name="saliency-viewer")
        self._thread.start()
        self._wait_until_started()
        if self._recording is not None and self._live is not None:
            self._recording.attach(self._live)

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
        """Stop serving; a second call does nothing. The recorder goes on."""
        if self._recording is not None and self._live is not None:
            self._recording.detach(self._live)
            self._live.close()
            if self._live.watched and self._live.told_end.wait(_FAREWELL_SECONDS):
                time.sleep(_LAST_PICTURE_SECONDS)
            self._recording = None
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


def _pages_of(source: Any, agent: Any) -> tuple[StoredPages | LivePages, Recording | None]:
    recording = None if isinstance(source, str | os.PathLike | EpisodeStore) else _recording_of(source)
    if recording is None:
        return StoredPages(source if isinstance(source, EpisodeStore) else EpisodeStore.open(source), agent), None
    if agent is not None:
        raise ValueError("Expected no agent with a recorder: while it records, its agent is busy. Open its store for questions.")
    return LivePages(LiveEpisodes(recording)), recording


def _recording_of(recorder: Any) -> Recording:
    beneath = recorder
    while beneath is not None:
        found = vars(beneath).get("recording") if hasattr(beneath, "__dict__") else None
        if isinstance(found, Recording):
            return found
        known = getattr(beneath, "__dict__", {})
        beneath = known.get("env", known.get("venv"))
    recorders = "SaliencyRecorder, VectorSaliencyRecorder or SaliencyVecEnv"
    raise TypeError(f"Expected a store, its path, or a recorder ({recorders}), got {type(recorder).__name__}.")


def _application(pages: StoredPages | LivePages, token: str) -> Any:
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse, PlainTextResponse
    from starlette.routing import Mount, Route

    def start(request: Request) -> Response:
        return HTMLResponse(page())

    def file(request: Request) -> Response:
        return page_file(request.path_params["name"])

    async def failed(request: Request, error: Exception) -> Response:
        return PlainTextResponse(str(error)[:2000], 400)

    routes = [
        Route("/", start),
        Route("/data/store", pages.store),
        Route("/data/episode-{episode:int}", pages.episode),
        Route("/data/frames-{episode:int}-{block:int}", pages.frames),
        Route("/data/maps-{episode:int}-{layer:int}-{block:int}", pages.maps),
        Route("/ask", _posted(pages.ask), methods=["POST"]),
        Route("/explain", _posted(pages.explain), methods=["POST"]),
        Route("/trust", _posted(pages.trust), methods=["POST"]),
        *([Route("/data/news-{environment:int}-{after:int}-{rows:int}-{listed:int}-{stamp:int}", _news(pages))] if pages.live else []),
        Route("/{name}", file),
    ]
    handlers: dict[Any, Any] = dict.fromkeys((ValueError, RuntimeError, OSError, TypeError, LookupError, ArithmeticError), failed)
    return Starlette(routes=[Mount(f"/{token}", routes=routes)], exception_handlers=handlers)


def _posted(answer: Callable[[dict[str, Any]], Response]) -> Any:
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import PlainTextResponse

    async def post(request: Request) -> Response:
        content = json.loads(await request.body())
        if not isinstance(content, dict):
            return PlainTextResponse("Expected a JSON object.", 400)
        return await run_in_threadpool(answer, content)

    return post


def _news(pages: Any) -> Any:
    """Answers at once when there is something new, else within a second. `after` is the number of the page's episode and 1, or 0."""

    async def news(request: Request) -> Response:
        known = request.path_params
        limit = time.monotonic() + _WAIT_SECONDS
        while pages.live.stamp == known["stamp"] and time.monotonic() < limit:
            await asyncio.sleep(0.02)
        index = known["after"] - 1 if known["after"] else None
        return pages.news(known["environment"], index, known["rows"], known["listed"])

    return news


def _uvicorn() -> Any:
    try:
        import_module("starlette")  # fails before anything is opened
        return import_module("uvicorn")
    except ImportError as error:
        from gymnasium.error import DependencyNotInstalled

        raise DependencyNotInstalled('The viewer needs Starlette and uvicorn: pip install "saliency_wrappers[viewer]".') from error
