"""Observations as pictures, for environments that cannot render."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box

from saliency_wrappers.video.overlay import Frame


def newest_picture(observation: Any, colour_first: bool = False) -> Frame | None:
    """Return the newest frame of an observation as an RGB picture.

    Args:
        observation: uint8, `(H, W)` grey, `(H, W, 3)` RGB, a stack `(k, H, W)` or `(H, W, k)` of grey frames or `(k, H, W, 3)` of RGB
            ones, the newest last.
        colour_first: `(3, H, W)` is one RGB frame, and not a stack of three grey ones.

    Returns:
        `(H, W, 3)` uint8. None for an observation that is no image.
    """
    if not isinstance(observation, np.ndarray) or observation.dtype != np.uint8 or not 2 <= observation.ndim <= 4:
        return None
    image = observation[-1] if observation.ndim == 4 else observation
    channels_last = image.ndim == 3 and image.shape[2] < image.shape[0]
    if channels_last:
        image = np.moveaxis(image, 2, 0)
    planes = image if image.ndim == 3 else image[None]
    picture = planes if len(planes) == 3 and (channels_last or colour_first) else np.broadcast_to(planes[-1], (3, *planes.shape[1:]))
    return np.ascontiguousarray(np.moveaxis(picture, 0, 2))


def check_pictures(space: Space[Any], render_mode: str | None) -> None:
    """Check that an environment that does not render observes images; `ValueError` when it does not."""
    if not isinstance(space, Box) or newest_picture(np.zeros(space.shape, space.dtype)) is None:
        raise ValueError(
            f'Expected environments that render (render_mode="rgb_array") or observe images of uint8, got render_mode={render_mode!r} and '
            f"observations of {space}: there is nothing to draw on."
        )
