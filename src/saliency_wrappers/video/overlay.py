"""Draws maps: `draw` lays them on their frame, `draw_strip` writes a decision's numbers, `Drawing` holds validated drawing options.

`EpisodeScale` scales maps by the peaks of their episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from saliency_wrappers.decisions import Array, SaliencyMaps
from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.step_saliency import StepSaliency

Frame = NDArray[np.uint8]
Scale = str | tuple[float, float]

HEADS = ("actor", "critic")
STYLES = ("xaitk", "additive")
COLORMAPS = tuple(sorted(name.removeprefix("COLORMAP_").lower() for name in dir(cv2) if name.startswith("COLORMAP_")))
STRIP_HEIGHT = 56
"""The height in pixels of what `draw_strip` draws, the same for every decision and width."""


def draw(
    frame: Frame,
    maps: SaliencyMaps | None,
    preprocessor: FramePreprocessor | None = None,
    style: str = "xaitk",
    scale: Scale = "frame",
    *,
    heads: Sequence[str] = HEADS,
    colormap: str | None = None,
    panels: bool = False,
) -> Frame:
    """Draw maps on a frame: the actor's in blue, the critic's in red. Nothing that goes in is modified.

    Args:
        frame: `(H, W, 3)` uint8, RGB: what the agent saw when it decided.
        maps: `(h, w)` floats each, on any scale; of per-frame maps `(k, h, w)` the largest value at each place is drawn. None draws
            nothing, in the same layout. A head whose map is None leaves the frame as it is.
        preprocessor: tells where in the frame the network input lies. None: the map covers the whole frame.
        style: `"xaitk"`: 0.4 frame + 0.6 colour where the agent sees the frame; `"additive"`: the colour is added to the frame and
            clipped, as Greydanus et al. (2018) drew it. Outside the crop the frame is untouched.
        scale: `"frame"`: each map from its own min..max to 0..1 (a constant map to zeros); `(low, high)`: this range to 0..1, clipped.
        heads: what is drawn: `"actor"`, `"critic"`, or both.
        colormap: the name of an OpenCV colour map (`"viridis"`, `"jet"`), used instead of blue and red. Needs panels or a single head.
        panels: frame, actor and critic side by side, instead of both on one frame.

    Returns:
        `(H, W, 3)` uint8; with panels `(H, (1 + len(heads)) * W, 3)`.

    Raises:
        TypeError: a frame or map of another kind or dtype.
        ValueError: another shape, a map with NaN or infinity, an unknown style, scale, head or colour map.
    """
    return Drawing(style, scale, tuple(heads), colormap, panels).apply(frame, maps, preprocessor)


@dataclass(frozen=True)
class Drawing:
    """Validated drawing options, as in `draw`."""

    style: str = "xaitk"
    scale: Scale = "frame"
    heads: tuple[str, ...] = HEADS
    colormap: str | None = None
    panels: bool = False

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise ValueError(f"Expected style to be one of {STYLES}, got {self.style!r}.")
        if not self.heads or len(set(self.heads)) < len(self.heads) or not set(self.heads) <= set(HEADS):
            raise ValueError(f"Expected heads to be some of {HEADS}, each once, got {self.heads!r}.")
        if self.colormap is not None and self.colormap not in COLORMAPS:
            raise ValueError(f"Expected colormap to be None or one of {COLORMAPS}, got {self.colormap!r}.")
        if self.colormap is not None and len(self.heads) > 1 and not self.panels:
            raise ValueError(
                f"With colormap={self.colormap!r} the two heads could not be told apart in one picture: "
                "use panels=True, or one head, as in heads=('actor',)."
            )
        _check_scale(self.scale)

    def apply(self, frame: Frame, maps: SaliencyMaps | None, preprocessor: FramePreprocessor | None = None) -> Frame:
        """Draw maps on a frame, in grey where their details say that there is nothing to explain; otherwise as `draw`."""
        check_frame(frame)
        shape = (frame.shape[0], frame.shape[1])
        seen = np.ones(shape, np.bool_) if preprocessor is None else preprocessor.covers(shape)
        colours = [self._colour(head, maps, shape, preprocessor) for head in self.heads]
        if self.panels:
            return np.hstack([frame, *(self._blend(frame, colour, seen) for colour in colours)])
        drawn = [colour for colour in colours if colour is not None]
        return self._blend(frame, sum(drawn[1:], drawn[0]) if drawn else None, seen)

    def _colour(self, head: str, maps: SaliencyMaps | None, shape: tuple[int, int], preprocessor: FramePreprocessor | None) -> Array | None:
        """Return `(H, W, 3)` float32 in [0, 255], or None where the head has no map."""
        raw = None if maps is None else getattr(maps, head)
        if maps is None or raw is None:
            return None
        heat = _scaled(_flat(_checked(head, raw)), self.scale)
        heat = cv2.resize(heat, shape[::-1], interpolation=cv2.INTER_LINEAR) if preprocessor is None else preprocessor.project(heat, shape)
        if self.colormap is None or maps.doubtful:
            return heat[..., None] * np.array(_DOUBTFUL if maps.doubtful else _COLOURS[head], np.float32)
        table = getattr(cv2, f"COLORMAP_{self.colormap.upper()}")
        colour = cv2.applyColorMap(np.rint(255 * heat).astype(np.uint8), table)[..., ::-1].astype(np.float32)
        # A colour map has a colour for zero too; added to the frame, zero must change nothing.
        return colour * heat[..., None] if self.style == "additive" else colour

    def _blend(self, frame: Frame, colour: Array | None, seen: NDArray[np.bool_]) -> Frame:
        if colour is None:
            return frame.copy()
        blended = frame + colour if self.style == "additive" else np.float32(0.4) * frame + np.float32(0.6) * colour
        return np.where(seen[..., None], np.rint(blended).clip(0, 255).astype(np.uint8), frame)


class EpisodeScale:
    """Scales maps to [0, 1] by each head's largest value in the episode so far; below 0 becomes 0.

    Frames are streamed, so the peak of a later frame is not known yet: a video's first frames are scaled by smaller peaks than its last.
    """

    def __init__(self) -> None:
        self._episode: int | None = None
        self._peaks: dict[str, float] = {}

    def __call__(self, maps: SaliencyMaps, episode: int) -> SaliencyMaps:
        """Scale a decision's maps, to be drawn with `scale=(0, 1)`. A constant map becomes zeros; a new episode resets the peak."""
        if episode != self._episode:
            self._episode = episode
            self._peaks.clear()
        critic = None if maps.critic is None else self._by_peak("critic", maps.critic)
        return replace(maps, actor=self._by_peak("actor", maps.actor), critic=critic)

    def _by_peak(self, head: str, raw: Any) -> Array:
        saliency = _checked(head, raw)
        peak = self._peaks[head] = max(self._peaks.get(head, 0.0), float(saliency.max()))
        if peak == 0.0 or saliency.min() == saliency.max():
            return np.zeros_like(saliency)
        return _scaled(saliency, (0.0, peak))


def draw_strip(width: int, saliency: StepSaliency | None, action_names: Sequence[str] | None = None, first_action: int = 0) -> Frame:
    """Draw a decision's numbers: the value and the chosen action as text, the action probabilities as bars, the chosen one highlighted.

    Args:
        width: in pixels, at least 1; legible from about 320.
        saliency: the decision. None draws an empty strip. Where its action is no integer (continuous, or one of several parts), the
            logits are not the log-probabilities of a choice, and the action is written out instead of bars.
        action_names: one for each logit. None: actions are named by their numbers, and so are bars too narrow for names.
        first_action: the action that the first logit stands for, as `start` of a `Discrete` space.

    Returns:
        `(STRIP_HEIGHT, width, 3)` uint8.

    Raises:
        ValueError: a width below 1, or names that are not one for each logit.
    """
    if width < 1:
        raise ValueError(f"Expected a strip at least 1 pixel wide, got {width}.")
    strip = np.full((STRIP_HEIGHT, width, 3), DARK, np.uint8)
    if saliency is None:
        return strip
    write_text(strip, "value -" if saliency.value is None else f"value {saliency.value:.3g}", (4, 17), LIGHT)
    if not isinstance(saliency.action, (int, np.integer)):
        write_text(strip, f"action {_in_words(saliency.action)}", (4, 35), CHOSEN)
        return strip
    names = [str(first_action + index) for index in range(len(saliency.logits))] if action_names is None else list(action_names)
    if len(names) != len(saliency.logits):
        raise ValueError(f"Expected {len(saliency.logits)} action names, one for each logit, got {len(names)}: {names}.")
    chosen = int(saliency.action) - first_action
    text = min(104, width // 3)
    write_text(strip[:, :text], names[chosen] if 0 <= chosen < len(names) else str(saliency.action), (4, 35), CHOSEN)
    _draw_bars(strip[:, text:], _softmax(saliency.logits), names, chosen, first_action)
    return strip


def check_frame(frame: Any, size: tuple[int, int] | None = None) -> None:
    """Raise unless the array is a frame `(H, W, 3)` uint8.

    Args:
        frame: should be `(H, W, 3)` uint8.
        size: the only `(H, W)` allowed. None allows any.

    Raises:
        TypeError: not an array of uint8.
        ValueError: another shape.
    """
    expected = "(H, W, 3)" if size is None else str((*size, 3))
    array = _array_or_none(frame)
    if array is None or array.dtype != np.uint8:
        raise TypeError(f"Expected a frame as an array {expected} of uint8, actual: {_kind(frame)}.")
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape or (size is not None and array.shape[:2] != size):
        raise ValueError(f"Expected a frame of shape {expected}, actual shape: {array.shape}.")


_COLOURS = {"actor": (0, 0, 255), "critic": (255, 0, 0)}
_DOUBTFUL = (96, 96, 96)
DARK, GREY, LIGHT, CHOSEN = (24, 24, 24), (110, 110, 110), (235, 235, 235), (255, 205, 60)
_FONT, NORMAL, SMALL = cv2.FONT_HERSHEY_SIMPLEX, 0.42, 0.31


def _check_scale(scale: Any) -> None:
    if isinstance(scale, str):
        if scale == "episode":
            raise ValueError("scale='episode' needs an episode: pass (low, high) to draw one frame, or scale with EpisodeScale.")
        if scale != "frame":
            raise ValueError(f"Expected scale to be 'frame' or two numbers (low, high), got {scale!r}.")
        return
    numbers = np.asarray(scale)
    if numbers.shape != (2,) or numbers.dtype.kind not in "iuf":
        raise TypeError(f"Expected scale to be 'frame' or two numbers (low, high), got {scale!r}.")
    if not np.isfinite(numbers).all() or numbers[0] >= numbers[1]:
        raise ValueError(f"Expected a finite scale (low, high) with low < high, got {scale!r}.")


def _checked(head: str, raw: Any) -> Array:
    array = _array_or_none(raw)
    if array is None or array.dtype.kind != "f":
        raise TypeError(f"Expected the {head} map as an array of float32, actual: {_kind(raw)}.")
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(f"Expected the {head} map of shape (h, w), or (k, h, w) for a stack of frames, actual shape: {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"Expected a finite {head} map, got {np.count_nonzero(~np.isfinite(array))} values of NaN or infinity.")
    return array.astype(np.float32)


def _array_or_none(thing: Any) -> NDArray[Any] | None:
    return cast("NDArray[Any]", thing) if isinstance(thing, np.ndarray) else None


def _kind(thing: Any) -> str:
    array = _array_or_none(thing)
    return type(thing).__name__ if array is None else f"an array of {array.dtype}"


def _flat(saliency: Array) -> Array:
    return saliency if saliency.ndim == 2 else saliency.max(axis=0)


def _scaled(saliency: Array, scale: Scale) -> Array:
    """Scale to [0, 1], in float64, where no finite range of float32 overflows or vanishes."""
    low, high = (saliency.min(), saliency.max()) if isinstance(scale, str) else scale
    if low == high:
        return np.zeros_like(saliency)
    span = float(high) - float(low)
    return ((saliency.astype(np.float64) - float(low)) / span).clip(0.0, 1.0).astype(np.float32)


def _in_words(action: Any) -> str:
    array = _array_or_none(action)
    if array is None or array.dtype.kind not in "biuf":
        return str(action)
    return " ".join(f"{number:.3g}" for number in array.ravel().tolist())


def _softmax(logits: Array) -> NDArray[np.float64]:
    """Return probabilities, 0 for forbidden actions (-inf) and NaN."""
    scores = np.nan_to_num(logits.astype(np.float64), nan=-np.inf, posinf=np.finfo(np.float64).max, neginf=-np.inf)
    weights = np.exp(scores - scores.max()) if np.isfinite(scores.max()) else np.zeros(len(scores))
    return weights / max(float(weights.sum()), 1.0)


def _draw_bars(area: Frame, probabilities: NDArray[np.float64], names: list[str], chosen: int, first_action: int) -> None:
    count, width = len(names), area.shape[1]
    labels, size = _labels(names, width // count - 1, first_action)
    base = STRIP_HEIGHT - 15
    for index, label in enumerate(labels):
        slot = area[:, index * width // count : (index + 1) * width // count]
        top = base - round(float(probabilities[index]) * (base - 4))
        slot[top : base + 1, 1:-1] = CHOSEN if index == chosen else GREY
        centred = (slot.shape[1] - text_width(label, size)) // 2
        write_text(slot, label, (centred, STRIP_HEIGHT - 4), CHOSEN if index == chosen else LIGHT, size)


def _labels(names: list[str], width: int, first_action: int) -> tuple[list[str], float]:
    """Return the labels that fit (names, numbers or none) and their font size."""
    numbers = [str(first_action + index) for index in range(len(names))]
    for labels in (names, numbers):
        for size in (NORMAL, SMALL):
            if all(text_width(label, size) <= width for label in labels):
                return labels, size
    return [""] * len(names), SMALL


def text_width(text: str, size: float) -> int:
    """Return the width of a text in pixels."""
    return cv2.getTextSize(text, _FONT, size, 1)[0][0]


def write_text(area: Frame, text: str, origin: tuple[int, int], colour: tuple[int, int, int], size: float = NORMAL) -> None:
    """Write into a part of a picture; what does not fit is cut off."""
    if area.size:
        picture = np.ascontiguousarray(area)
        cv2.putText(picture, text, origin, _FONT, size, colour, 1, cv2.LINE_AA)
        area[:] = picture
