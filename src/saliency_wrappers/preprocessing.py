"""`FramePreprocessor`: from the rendered frame to the network input, and from a map back onto the frame.

One object does both, so that the picture an agent was given and the place its map is drawn cannot drift apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saliency_wrappers.decisions import Array

Grey = Literal["mean", "luma"]
Scaling = Literal["stretch", "unit"]
Resize = Literal["bilinear-antialiased", "bilinear", "area"]


@dataclass(frozen=True)
class FramePreprocessor:
    """Crops, greys, scales and resizes frames, `(H, W, 3)` uint8 to `(stack, h, w)` float32 in [0, 1], and lays maps `(h, w)` on the frame.

    Named instances (`FramePreprocessor.named`):

    - `"greydanus2018"`: rows 35 to 194, mean of the channels, stretched to the frame's own range as 8 bits, antialiased bilinear
      resize to 80x80. What Atari agents in the line of Greydanus et al. (2018) were trained with.
    - `"xaitk"`: the same crop and grey, resized by `cv2.resize`: the preprocessing of the published xaitk notebook.
    - `"atari84"`: Gymnasium's `AtariPreprocessing` geometry: luma grey, the whole frame resized by area to 84x84.
    """

    size: tuple[int, int]
    """`(h, w)` of the network input, in pixels."""
    rows: tuple[int, int] | None = None
    """First row and the row after the last one that the agent sees. None: all rows."""
    columns: tuple[int, int] | None = None
    """First column and the column after the last one that the agent sees. None: all columns."""
    grey: Grey = "luma"
    """`"mean"` of the three channels, or `"luma"` (ITU-R BT.601, as ALE's own grey screen)."""
    scaling: Scaling = "unit"
    """`"unit"`: divided by 255. `"stretch"`: first stretched to the frame's own min..max as 8 bits, rounded half up."""
    resize: Resize = "area"
    """`"bilinear-antialiased"` (Pillow), `"bilinear"` or `"area"` (OpenCV)."""
    stack: int = 1
    """How many consecutive frames make one input. With more than one, call with `(stack, H, W, 3)`, the newest last."""
    determines_input: bool = True
    """Whether one rendered frame determines the network input. False where a wrapper pools several frames into one observation."""

    def __post_init__(self) -> None:
        if min(self.size) < 1 or self.stack < 1:
            raise ValueError(f"Expected a positive size and stack, got size={self.size}, stack={self.stack}.")
        for name, known in (("grey", Grey), ("scaling", Scaling), ("resize", Resize)):
            if getattr(self, name) not in known.__args__:
                raise ValueError(f"Expected {name} to be one of {known.__args__}, got {getattr(self, name)!r}.")

    @staticmethod
    def named(name: str) -> FramePreprocessor:
        """Return the preprocessor with this name; `ValueError` for an unknown name."""
        if name not in _NAMED:
            raise ValueError(f"Expected the name of a preprocessor, one of {sorted(_NAMED)}, got {name!r}.")
        return _NAMED[name]

    @staticmethod
    def of(preprocessor: FramePreprocessor | str | None) -> FramePreprocessor | None:
        """Return a preprocessor for an instance, a name, or None."""
        if preprocessor is None or isinstance(preprocessor, FramePreprocessor):
            return preprocessor
        if isinstance(preprocessor, str):
            return FramePreprocessor.named(preprocessor)
        raise TypeError(f"Expected a FramePreprocessor, its name or None, got {type(preprocessor).__name__}.")

    def stacked(self, stack: int) -> FramePreprocessor:
        """Return the same preprocessing for inputs of `stack` consecutive frames."""
        return replace(self, stack=stack, determines_input=self.determines_input and stack == 1)

    def for_input(self, shape: tuple[int, ...]) -> FramePreprocessor:
        """Return the preprocessor whose stack is that of a network input `(stack, h, w)`.

        Only a preprocessor that does not determine the input (`"atari84"`) takes the stack from it; any other one, and an input of another
        size, gives the preprocessor itself.
        """
        if self.determines_input or len(shape) != 3 or shape[1:] != self.size or self.stack != 1:
            return self
        return self.stacked(shape[0])

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape `(stack, h, w)` of the network input."""
        return (self.stack, *self.size)

    def __call__(self, frame: NDArray[np.uint8]) -> Array:
        """Return the network input for a frame.

        Args:
            frame: `(H, W, 3)` uint8; `(stack, H, W, 3)`, the newest last, when `stack` is more than one. It is not modified.

        Returns:
            `(stack, h, w)` float32 in [0, 1].

        Raises:
            TypeError: not an array of uint8.
            ValueError: another shape, or a frame smaller than the crop.
        """
        _check_frames(frame, self.stack)
        frames = frame if self.stack > 1 else frame[None]
        return np.stack([self._plane(one) for one in frames])

    def project(self, saliency: Array, frame_shape: tuple[int, int]) -> Array:
        """Lay a map on the frame.

        Args:
            saliency: `(h, w)` floats at network-input resolution.
            frame_shape: the frame's `(H, W)`.

        Returns:
            `(H, W)` float32: the map enlarged bilinearly within the crop, 0 outside it.
        """
        if saliency.shape != self.size:
            raise ValueError(f"Expected a map of shape {self.size}, as the network input, got {saliency.shape}.")
        top, bottom, left, right = self._box(frame_shape)
        projected = np.zeros(frame_shape, np.float32)
        enlarged = cv2.resize(saliency.astype(np.float32), (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
        projected[top:bottom, left:right] = enlarged
        return projected

    def covers(self, frame_shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Return `(H, W)` bool: True where the agent sees the frame, False outside the crop."""
        top, bottom, left, right = self._box(frame_shape)
        seen = np.zeros(frame_shape, np.bool_)
        seen[top:bottom, left:right] = True
        return seen

    def _box(self, frame_shape: tuple[int, int]) -> tuple[int, int, int, int]:
        if len(frame_shape) != 2:
            raise ValueError(f"Expected a frame's shape as (H, W), got {tuple(frame_shape)}.")
        height, width = frame_shape
        top, bottom = self.rows or (0, height)
        left, right = self.columns or (0, width)
        if not (0 <= top < bottom <= height and 0 <= left < right <= width):
            raise ValueError(f"Expected a frame that holds rows {top}:{bottom} and columns {left}:{right}, got one of {height}x{width}.")
        return top, bottom, left, right

    def _plane(self, frame: NDArray[np.uint8]) -> Array:
        top, bottom, left, right = self._box((frame.shape[0], frame.shape[1]))
        grey = _grey(frame[top:bottom, left:right], self.grey)
        if self.scaling == "stretch":
            grey = _stretched(grey)
        return (_resized(grey, self.size, self.resize) / 255.0).astype(np.float32)


def _check_frames(frame: Any, stack: int) -> None:
    expected = "(H, W, 3)" if stack == 1 else f"({stack}, H, W, 3)"
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        kind = f"an array of {frame.dtype}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise TypeError(f"Expected a frame as a uint8 array {expected}, got {kind}.")
    shape = frame.shape if stack == 1 else frame.shape[1:]
    if len(shape) != 3 or shape[-1] != 3 or (stack > 1 and len(frame) != stack):
        raise ValueError(f"Expected a frame of shape {expected}, channels last, got {frame.shape}.")


def _grey(frame: NDArray[np.uint8], how: Grey) -> NDArray[Any]:
    if how == "mean":
        return frame.mean(axis=2)
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


def _stretched(grey: NDArray[Any]) -> NDArray[np.uint8]:
    """Stretch to the frame's min..max as 8 bits, rounded half up, as `scipy.misc.imresize` (SciPy 1.2 and older) did."""
    low, high = float(grey.min()), float(grey.max())
    scale = 255.0 / (high - low or 1.0)
    return ((grey - low) * scale + 0.5).clip(0, 255).astype(np.uint8)


def _resized(grey: NDArray[Any], size: tuple[int, int], how: Resize) -> NDArray[Any]:
    if how == "bilinear-antialiased":
        image = Image.fromarray(grey if grey.dtype == np.uint8 else grey.astype(np.float32))
        return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return cv2.resize(grey, (size[1], size[0]), interpolation=cv2.INTER_AREA if how == "area" else cv2.INTER_LINEAR)


_NAMED = {
    "greydanus2018": FramePreprocessor(size=(80, 80), rows=(35, 195), grey="mean", scaling="stretch", resize="bilinear-antialiased"),
    "xaitk": FramePreprocessor(size=(80, 80), rows=(35, 195), grey="mean", resize="bilinear"),
    "atari84": FramePreprocessor(size=(84, 84), determines_input=False),
}

PREPROCESSORS = tuple(_NAMED)
"""The names of `FramePreprocessor.named`."""
