"""`Guard`: lets only the viewer's own page reach its data, and adds the headers that keep the page to itself."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

LARGEST_BODY = 65_536
LONGEST_PATH = 512
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


class Guard:
    """Refuses requests of another host name, another origin or without the token; an ASGI application around another.

    The host name is checked because a stranger's name can be made to resolve to this machine (DNS rebinding), the origin because another
    page in the same browser can send requests here, and the token because other users of this machine can, too.
    """

    def __init__(self, application: Application, token: str, port: int) -> None:
        """Guard an application that is reached at `http://127.0.0.1:port/token/`."""
        self._application = application
        self._token = token.encode()
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self._origins = {f"http://{host}" for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on what is allowed; answer 403 or 404 to everything else."""
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _refuse(send, *refusal)
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_encoded(HEADERS)]
            await send(message)

        await self._application(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == "host"]
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return 403, "Expected this machine's own name as host."
        known = dict(headers)
        origin, site = known.get("origin"), known.get("sec-fetch-site", "same-origin")
        if (origin is not None and origin not in self._origins) or site not in ("same-origin", "none"):
            return 403, "Expected a request of the viewer's own page."
        path: str = scope["path"]
        token = path.partition("/")[2].partition("/")[0].encode()
        if len(path) > LONGEST_PATH or not secrets.compare_digest(token, self._token):
            return 404, "Not found."
        if scope["method"] == "POST":
            return _post_refusal(known)
        return None if scope["method"] in ("GET", "HEAD") else (405, "Expected GET or POST.")


def _post_refusal(headers: dict[str, str]) -> tuple[int, str] | None:
    if "origin" not in headers or headers.get("content-type", "").split(";")[0].strip() != "application/json":
        return 403, "Expected JSON from the viewer's own page."
    length = headers.get("content-length", "")
    if not length.isdecimal() or int(length) > LARGEST_BODY:
        return 413, f"Expected a body of at most {LARGEST_BODY} bytes, and its length."
    return None


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = _encoded({**HEADERS, "content-type": "text/plain; charset=utf-8"})
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
