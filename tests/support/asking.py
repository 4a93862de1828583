"""Requests to a viewer's server with exactly the headers that are given."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from typing import Any

from saliency_wrappers.viewer.server import Viewer


def ask(viewer: Viewer, path: str, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, bytes]:
    """A request with exactly these headers; the path is taken under the token unless it begins with a slash."""
    token = urllib.parse.urlparse(viewer.url).path
    connection = http.client.HTTPConnection("127.0.0.1", viewer.port, timeout=60)
    content = None if body is None else json.dumps(body).encode()
    connection.putrequest(method, path if path.startswith(("/", "*")) else token + path, skip_host=True, skip_accept_encoding=True)
    for name, value in {"Host": f"127.0.0.1:{viewer.port}", **headers}.items():
        connection.putheader(name.replace("_", "-"), value)
    if content is not None:
        connection.putheader("Content-Length", str(len(content)))
    connection.endheaders(content)
    response = connection.getresponse()
    status, answer = response.status, response.read()
    connection.close()
    return status, answer


def post(viewer: Viewer, path: str, body: Any) -> tuple[int, Any]:
    """A question as the page itself asks it."""
    status, answer = ask(viewer, path, "POST", body, Origin=f"http://127.0.0.1:{viewer.port}", Content_Type="application/json")
    return status, json.loads(answer) if status == 200 else answer.decode()


def news(viewer: Viewer, environment: int = 0, after: int = 0, rows: int = 0, listed: int = 0, stamp: int = 0) -> dict[str, Any]:
    """What a page asks for while a recording runs."""
    status, answer = ask(viewer, f"data/news-{environment}-{after}-{rows}-{listed}-{stamp}")
    assert status == 200, answer
    return json.loads(answer)
