"""`InputPanel`: of agents with several inputs each one's share, bars of vectors and maps of further images, beside the frame."""

from __future__ import annotations

import cv2
import numpy as np

from saliency_wrappers.decisions import InputMaps, SaliencyMaps
from saliency_wrappers.step_saliency import StepSaliency
from saliency_wrappers.video.bars import BAR_WIDTH, COLOURS, DARK, FeatureBars, write_text
from saliency_wrappers.video.overlay import Drawing, EpisodeScale, Frame

_TITLE = 18


class InputPanel:
    """Draws a panel `(height, BAR_WIDTH, 3)`; remembers the peaks of the episode so far, for `scale="episode"`."""

    def __init__(self, drawing: Drawing, *, by_episode: bool = False) -> None:
        """Choose what is drawn.

        Args:
            drawing: how maps of images are drawn, and which heads.
            by_episode: scale parts and maps by their peaks in the episode so far.
        """
        self._drawing, self._by_episode = drawing, by_episode
        self._bars: dict[str, FeatureBars] = {}
        self._scales: dict[str, EpisodeScale] = {}

    def draw(self, height: int, saliency: StepSaliency | None) -> Frame:
        """Draw a decision's inputs, one below the other; nothing for None, or for a decision without maps of its inputs.

        Args:
            height: of the frame beside it, in pixels.
            saliency: the decision.
        """
        panel = np.full((height, BAR_WIDTH, 3), DARK, np.uint8)
        inputs = None if saliency is None or saliency.maps is None else saliency.maps.inputs
        if saliency is None or not inputs:
            return panel
        own = None if saliency.maps is None else saliency.maps.actor
        drawn = {key: one.maps for key, one in inputs.items() if one.maps is not None and (one.maps.actor is not own or one.maps.features)}
        space = max(0, height - len(inputs) * _TITLE) // max(1, len(drawn))
        top = 0
        for key, one in inputs.items():
            if top + _TITLE > height:
                break
            _write_title(panel[top : top + _TITLE], key, one, self._drawing.heads)
            top += _TITLE
            if key in drawn and space >= _TITLE:  # the others have no maps, or theirs lie on the frame
                self._draw_maps(panel[top : top + space], key, drawn[key], saliency)
                top += space
        return panel

    def _draw_maps(self, area: Frame, key: str, maps: SaliencyMaps, saliency: StepSaliency) -> None:
        if maps.features is not None:
            if key not in self._bars or self._bars[key].names != maps.features:
                scale = "episode" if self._by_episode else self._drawing.scale
                self._bars[key] = FeatureBars(maps.features, self._drawing.heads, scale, titled=False)
            area[:] = self._bars[key].draw(area.shape[0], saliency.with_maps(maps))
            return
        if self._by_episode:
            maps = self._scales.setdefault(key, EpisodeScale())(maps, saliency.episode)
        height, width = maps.actor.shape[-2:]
        factor = min(area.shape[0] / height, (BAR_WIDTH - 12) / width)
        size = max(1, int(width * factor)), max(1, int(height * factor))
        black = np.zeros((height, width, 3), np.uint8)
        picture = cv2.resize(self._drawing.apply(black, maps), size, interpolation=cv2.INTER_NEAREST)
        area[: size[1], 6 : 6 + picture.shape[1]] = picture[:, : BAR_WIDTH - 12]


def _write_title(area: Frame, key: str, one: InputMaps, heads: tuple[str, ...]) -> None:
    write_text(area, key, (6, 13), 0.42, (235, 235, 235), BAR_WIDTH - 120)
    left = BAR_WIDTH - 104
    for head, share in (("actor", one.share), ("critic", one.value_share)):
        if head in heads and share is not None:
            write_text(area, f"{100 * share:.0f} %", (left, 13), 0.42, COLOURS[head], 50)
            left += 52
