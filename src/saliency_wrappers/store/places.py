"""`parse_place`: a store's path or URL, strictly read: the right place or a clear error, never another folder."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/*)")  # of two letters or more: C:/ is a drive


def parse_place(place: str | os.PathLike[str]) -> Path | str:
    """Return the absolute local folder that a place names, or its URL.

    Args:
        place: a path, where `~` is the user's home; a `file:` URL, whose `%20` is a space; or a URL that fsspec knows, as a string.

    Raises:
        TypeError: neither a string nor a path.
        ValueError: an empty string, a URL in a `Path` (which drops one of its slashes), a URL with one slash, or another machine's file.
    """
    text = os.fspath(place) if isinstance(place, str | os.PathLike) else None
    if not isinstance(text, str):
        raise TypeError(f"Expected the path or URL of a store, got {type(place).__name__}.")
    if not text or "\0" in text:
        raise ValueError(f"Expected the path or URL of a store, got {text!r}.")
    found = _SCHEME.match(text)
    if found is None or not found[2]:
        return _local(text)
    scheme, slashes = found[1].lower(), found[2]
    if not isinstance(place, str):
        url = f"{found[1]}://{text[found.end() :]}"
        raise ValueError(  # noqa: TRY004 - a Path is fine, its content is not
            f"Expected a URL as a string, got {place!r}: a Path drops a slash of it. Pass {url!r}."
        )
    if scheme == "file":
        return _file_url(text)
    if len(slashes) < 2:
        url = f"{found[1]}://{text[found.end() :]}"
        raise ValueError(f"Expected a URL with two slashes, such as {url!r}, or a path, such as './{text}', got {text!r}.")
    return text


def _file_url(text: str) -> Path:
    url = urlsplit(text)
    if url.netloc not in ("", "localhost") or url.query or url.fragment:
        raise ValueError(f"Expected a file URL with an absolute path, such as file:///home/me/store, got {text!r}.")
    path = unquote(url.path)
    return Path(path[1:] if re.match(r"/[A-Za-z]:/", path) else path).absolute()


def _local(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"Expected the path of a store, got {text!r}: {error}") from error
