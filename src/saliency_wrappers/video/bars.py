"""`FeatureBars`: maps of vector observations as a panel of bars, a row for each feature, beside the frame."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from saliency_wrappers.decisions import SaliencyMaps
from saliency_wrappers.step_saliency import StepSaliency
from saliency_wrappers.video.overlay import Frame, Scale

BAR_WIDTH = 260
"""The width of the panel in pixels."""

_HEAD = 18
DARK = (24, 24, 24)
"""The background."""
_GREY, _LIGHT = (110, 110, 110), (235, 235, 235)
COLOURS = {"actor": (110, 150, 255), "critic": (255, 100, 100)}
"""Of bars and texts, by head."""
_FONT = cv2.FONT_HERSHEY_SIMPLEX


class FeatureBars:
    """Draws maps `(features,)`; remembers the largest part of the episode so far, for `scale="episode"`."""

    def __init__(self, names: Sequence[str], heads: Sequence[str], scale: Scale, *, titled: bool = True) -> None:
        """Choose what is drawn.

        Args:
            names: of the features.
            heads: `"actor"`, `"critic"`, or both.
            scale: which part is a bar of full length: `"frame"`: each head's largest absolute value in this frame; `"episode"`: in the
                episode so far; `(low, high)`: `high`.
            titled: whether a line above tells the heads' colours.
        """
        self._titled = titled
        self.names, self.heads, self.scale = tuple(names), tuple(heads), scale
        self._episode: int | None = None
        self._peaks: dict[str, float] = {}

    def draw(self, height: int, saliency: StepSaliency | None) -> Frame:
        """Draw the panel `(height, BAR_WIDTH, 3)` uint8.

        Args:
            height: of the frame beside it, in pixels. Names are left out of rows below 9 pixels; where there are more features than
                pairs of pixels, a row shows the largest part of several.
            saliency: the decision. None, or one without maps, draws no bars.

        Raises:
            ValueError: maps of another number of features, or not finite.
        """
        panel = np.full((height, BAR_WIDTH, 3), DARK, np.uint8)
        maps = None if saliency is None else saliency.maps
        lengths = {} if saliency is None or maps is None else self._lengths(maps, saliency.episode)
        top = _HEAD if self._titled and height >= 2 * _HEAD else 0
        if top:
            self._write_heads(panel)
        rows = min(len(self.names), max(1, (height - top) // 2))
        edges = np.linspace(top, height, rows + 1).round().astype(int)
        groups = np.array_split(np.arange(len(self.names)), rows)
        for (begin, end), group in zip(pairwise(edges), groups, strict=True):
            text = self.names[group[0]] if len(group) == 1 else ""
            self._draw_row(panel[begin:end], (height - top) // rows, text, {head: _largest(one[group]) for head, one in lengths.items()})
        return panel

    def _lengths(self, maps: SaliencyMaps, episode: int) -> dict[str, NDArray[np.float64]]:
        """Of each head that has a map the bars' lengths, in -1 to 1."""
        if episode != self._episode:
            self._episode = episode
            self._peaks.clear()
        lengths: dict[str, NDArray[np.float64]] = {}
        for head in self.heads:
            raw = getattr(maps, head)
            if raw is None:
                continue
            if raw.shape != (len(self.names),) or not np.isfinite(raw).all():
                raise ValueError(f"Expected a finite {head} map of {len(self.names)} features, got shape {raw.shape}.")
            peak = self._peaks[head] = max(self._peaks.get(head, 0.0), float(np.abs(raw).max(initial=0.0)))
            longest = float(np.abs(raw).max(initial=0.0)) if self.scale == "frame" else peak
            longest = longest if isinstance(self.scale, str) else float(self.scale[1])
            lengths[head] = np.clip(raw.astype(np.float64) / longest, -1, 1) if longest > 0 else np.zeros(raw.shape)
        return lengths

    def _write_heads(self, panel: Frame) -> None:
        left = 6
        for head in self.heads:
            write_text(panel, head, (left, 13), 0.42, COLOURS[head])
            left += 64

    def _draw_row(self, row: Frame, height: int, name: str, lengths: dict[str, float]) -> None:
        """Draw a row of at least this height, by which all rows have one layout."""
        above = height >= 26  # the name has a line of its own above the bars
        left, top = (6, 13) if above else (BAR_WIDTH // 2, 1) if height >= 9 else (6, 0)
        size = 0.4 if height >= 14 else 0.3
        if height >= 9:
            write_text(row, name, (6, 11 if above else height // 2 + 4), size, _LIGHT, BAR_WIDTH - 12 if above else left - 8)
        space = min(height - top - (top > 0), 40)
        each = max(1, space // len(self.heads))
        for index, head in enumerate(self.heads):
            begin = top + index * each
            end = min(begin + max(1, each - 1), height)
            row[begin:end, left : left + 1] = _GREY
            _bar(row, (begin, end), left, lengths.get(head, 0.0), COLOURS[head])


def _bar(row: Frame, rows: tuple[int, int], left: int, length: float, colour: tuple[int, int, int]) -> None:
    """A bar, hollow where its length is negative."""
    begin, end = rows
    width = round(abs(length) * (BAR_WIDTH - left - 6))
    if width < 1:
        return
    row[begin:end, left : left + width] = colour
    if length < 0 and end - begin > 2 and width > 2:
        row[begin + 1 : end - 1, left + 1 : left + width - 1] = DARK


def _largest(parts: NDArray[np.float64]) -> float:
    return float(parts[np.abs(parts).argmax()])


def write_text(area: Frame, text: str, origin: tuple[int, int], size: float, colour: tuple[int, int, int], width: int = BAR_WIDTH) -> None:
    """Write into a part of a picture; characters beyond `width` pixels are left out."""
    while text and cv2.getTextSize(text, _FONT, size, 1)[0][0] > width:
        text = text[:-1]
    picture = np.ascontiguousarray(area)
    cv2.putText(picture, text, origin, _FONT, size, colour, 1, cv2.LINE_AA)
    area[:] = picture
