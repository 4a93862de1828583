"""`Painter`: draws the frames of a video. `DrawingOptions`: how, as users of the video wrappers choose it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.step_saliency import StepSaliency
from saliency_wrappers.video.bars import FeatureBars
from saliency_wrappers.video.details import draw_details
from saliency_wrappers.video.input_panel import InputPanel
from saliency_wrappers.video.overlay import HEADS, Drawing, EpisodeScale, Frame, Scale, draw_strip


@dataclass(frozen=True)
class DrawingOptions:
    """How maps are drawn: what `RecordSaliencyVideo`, its twins for vectors and `render_episode` have in common."""

    style: str = "xaitk"
    """As in `draw`."""
    scale: Scale = "frame"
    """As in `draw`; or `"episode"`: by the peak of the episode so far, see `EpisodeScale`."""
    heads: Sequence[str] = HEADS
    """As in `draw`."""
    colormap: str | None = None
    """As in `draw`. None: a colour for each head."""
    panels: bool = False
    """As in `draw`."""
    strip: bool = False
    """Show value, action probabilities and action below the frame, see `draw_strip`, and the recorder's details; legible from 320 pixels'
    width."""
    zoom: int = 1
    """Enlarge every pixel to `zoom` x `zoom`."""

    def painter(self, action_names: Sequence[str] | None = None, first_action: int = 0, **beside: Any) -> Painter:
        """Return a painter for one video; the parameters are those of `Painter`, `beside` being `details`, `features` and `inputs`.

        Raises:
            TypeError, ValueError: an option of another kind, or value.
        """
        by_episode = isinstance(self.scale, str) and self.scale == "episode"
        drawing = Drawing(self.style, (0.0, 1.0) if by_episode else self.scale, tuple(self.heads), self.colormap, self.panels)
        return Painter(drawing, by_episode, self.strip, action_names, self.zoom, first_action, **beside)


class Painter:
    """Draws the frames of a video, all of one size, with or without maps and a strip of numbers."""

    def __init__(
        self,
        drawing: Drawing,
        by_episode: bool = False,
        strip: bool = False,
        action_names: Sequence[str] | None = None,
        zoom: int = 1,
        first_action: int = 0,
        details: bool = False,
        *,
        features: Sequence[str] | None = None,
        inputs: bool = False,
    ) -> None:
        """Choose how frames are drawn.

        Args:
            drawing: how maps are drawn.
            by_episode: scale maps by the peaks of their episode first; the drawing's scale should be (0, 1).
            strip: add the decision's numbers below.
            action_names: for the strip; numbers are shown where there are not as many names as logits. None: numbers.
            zoom: enlarge every pixel to `zoom` x `zoom`.
            first_action: the action that the first logit stands for.
            details: with the strip, leave room for the decision's details, too.
            features: the names of the entries of maps `(features,)`, which are drawn as bars beside each frame. None: maps of images.
            inputs: whether a panel beside each frame shows the other inputs of the agent, see `InputPanel`.

        Raises:
            TypeError, ValueError: `zoom` is no integer, or below 1.
        """
        if isinstance(zoom, bool) or not isinstance(zoom, (int, np.integer)):
            raise TypeError(f"Expected zoom to be an integer, got {type(zoom).__name__}.")
        if zoom < 1:
            raise ValueError(f"Expected zoom to be at least 1, got {zoom}.")
        self.drawing = drawing
        self.episode_scale = EpisodeScale() if by_episode else None
        self.strip = strip
        self.action_names = action_names
        self.zoom = zoom
        self.first_action = first_action
        self.details = details
        self.bars = None if features is None else FeatureBars(features, drawing.heads, "episode" if by_episode else drawing.scale)
        self.inputs = InputPanel(drawing, by_episode=by_episode) if inputs else None

    def paint(
        self, frame: Frame, saliency: StepSaliency | None, preprocessor: FramePreprocessor | None, view: Frame | None = None
    ) -> Frame:
        """Return the picture for a frame and its decision.

        Args:
            frame: `(H, W, 3)` uint8.
            saliency: the decision. None, or one without maps, draws nothing.
            preprocessor: tells how maps lie on the frame. None: over the whole frame.
            view: `(h, w, 3)` uint8, what the agent sees where that is no part of the frame: it is drawn beside the frame, as high as the
                frame, and carries the maps instead. None: the maps lie on the frame.
        """
        maps = None if saliency is None else saliency.maps
        if self.bars is not None:
            picture = np.hstack([_zoomed(frame, self.zoom), self.bars.draw(frame.shape[0] * self.zoom, saliency)])
            return self._with_strip(picture, saliency)
        if saliency is not None and maps is not None and self.episode_scale is not None:
            maps = self.episode_scale(maps, saliency.episode)
        if maps is not None and maps.features is not None and self.inputs is not None:
            maps = None  # of several inputs without an image: all of them are in the panel
        if view is None:
            picture = self.drawing.apply(frame, maps, preprocessor)
        else:
            picture = np.hstack([frame, self.drawing.apply(_enlarged(view, frame.shape[0]), maps)])
        picture = _zoomed(picture, self.zoom)
        if self.inputs is not None:
            picture = np.hstack([picture, self.inputs.draw(picture.shape[0], saliency)])
        return self._with_strip(picture, saliency)

    def _with_strip(self, picture: Frame, saliency: StepSaliency | None) -> Frame:
        if not self.strip:
            return picture
        names = self.action_names
        if saliency is None or names is None or len(names) != len(saliency.logits):
            names = None
        below = [draw_strip(picture.shape[1], saliency, names, self.first_action)]
        if self.details:
            maps = None if saliency is None else saliency.maps
            below.append(draw_details(picture.shape[1], None if maps is None else maps.details))
        return np.vstack([picture, *below])


def _zoomed(picture: Frame, zoom: int) -> Frame:
    return picture.repeat(zoom, axis=0).repeat(zoom, axis=1)


def _enlarged(view: Frame, height: int) -> Frame:
    """Scale the view to a height, with square pixels as far as possible."""
    width = max(1, round(view.shape[1] * height / view.shape[0]))
    return np.asarray(cv2.resize(view, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)
