"""`is_egocentric`: whether an observation is not a view of the rendered frame. `view_picture`: that observation as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import gymnasium as gym
import numpy as np

from saliency_wrappers.video.overlay import Frame

_WHOLE = ("FullyObsWrapper", "RGBImgObsWrapper", "SymbolicObsWrapper")
"""MiniGrid's wrappers that observe the whole grid."""
_CODES = 16
"""Observations below this are codes of objects, not colours: they are stretched to be seen."""


def is_egocentric(env: gym.Env[Any, Any]) -> bool:
    """Return whether the agent sees what surrounds it while the frame shows the whole world.

    Such are MiniGrid's environments, which tell the size of the agent's view (`agent_view_size`), unless a wrapper observes the whole grid.
    """
    beneath: Any = env
    while isinstance(beneath, gym.Wrapper):
        if type(beneath).__name__ in _WHOLE:
            return False
        beneath = beneath.env
    return hasattr(beneath, "agent_view_size")


def view_picture(observation: Any) -> Frame | None:
    """Return an observation `(h, w, 3)` of uint8, or the `"image"` of a dictionary, as a picture of that size. None for any other."""
    image: Any = cast("Mapping[str, Any]", observation).get("image") if isinstance(observation, Mapping) else observation
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        return None
    picture = image * np.uint8(255 // (_CODES - 1)) if int(image.max()) < _CODES else image
    return np.ascontiguousarray(picture)
