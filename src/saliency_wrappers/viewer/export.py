"""The page as one file: `export_page` writes it, `show` puts it into a notebook. Neither needs a server or the `viewer` extra."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from saliency_wrappers.store.reader import StoredEpisode
from saliency_wrappers.viewer.episodes import block_count, episode_numbers, episode_row, frames_of_block, maps_of_block

MODULES = tuple(
    f"{name}.js" for name in ("source", "numbers", "picture", "curves", "charts", "episode_list", "what_if", "live", "trust", "page")
)
"""In the order in which one may use the other."""
_IMPORT = re.compile(r"^import .*?;\n", re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """A self-contained page."""

    html: str

    def _repr_html_(self) -> str:
        """Show it in a notebook: a frame of its own, which may run the page's script and nothing else."""
        source = html.escape(self.html, quote=True)
        return (
            f'<iframe sandbox="allow-scripts" title="Recorded episode" style="width:100%;height:900px;border:0" srcdoc="{source}"></iframe>'
        )


def show(episode: StoredEpisode) -> Page:
    """Return the page of an episode, which a notebook displays as the cell's result.

    Raises:
        StoreError: the episode is damaged.
    """
    return Page("".join(_page([episode])))


def export_page(episodes: Sequence[StoredEpisode], path: str | os.PathLike[str]) -> int:
    """Write a self-contained page: frames, maps of all methods (8 bits), logits, values, rewards.

    Args:
        episodes: what to show, in this order.
        path: the file, replaced when it exists.

    Returns:
        The number of bytes written.

    Raises:
        ValueError: no episode.
        StoreError: an episode is damaged.
    """
    if not episodes:
        raise ValueError("Expected at least one episode to export, got none.")
    file = Path(path)
    partial = file.with_name(f"{file.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as out:
            out.writelines(_page(episodes))
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return file.stat().st_size


def asset(name: str) -> str:
    """Return the text of one of the page's files."""
    return resources.files("saliency_wrappers.viewer").joinpath("page", name).read_text(encoding="utf-8")


def _page(episodes: Sequence[StoredEpisode]) -> Iterator[str]:
    script = "".join(_EXPORT.sub("", _IMPORT.sub("", asset(name))) for name in MODULES)
    style = asset("page.css")
    sources = f"default-src 'none'; img-src blob: data:; script-src {_hash(script)}; style-src {_hash(style)}"
    policy = f"{sources}; base-uri 'none'; form-action 'none'"
    before, after = asset("page.html").split("<!-- head -->")
    yield before
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style}</style>'
    body, end = after.split("<!-- script -->")
    yield body
    rows = [episode_row(index, episode) for index, episode in enumerate(episodes)]
    yield _json("store", {"episodes": rows, "agent": False})
    for index, episode in enumerate(episodes):
        yield from _episode(index, episode)
    yield f'<script type="module">{script}</script>'
    yield end


def _episode(index: int, episode: StoredEpisode) -> Iterator[str]:
    numbers = episode_numbers(index, episode)
    yield _json(f"episode-{index}", numbers)
    if numbers["picture"] is None:
        return
    for block in range(block_count(episode)):
        yield _bytes(f"frames-{index}-{block}", frames_of_block(episode, block, small=True))
        for layer in range(len(numbers["layers"]) if numbers["picture"]["input"] is not None else 0):
            yield _bytes(f"maps-{index}-{layer}-{block}", maps_of_block(episode, layer, block, small=True))


def _json(name: str, content: object) -> str:
    # In a script element only "<" could end it.
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="data-{name}">{text}</script>\n'


def _bytes(name: str, content: bytes) -> str:
    return f'<script type="text/plain" id="data-{name}">{base64.b64encode(content).decode()}</script>\n'


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
