"""`is_egocentric`: whether an observation is not a view of the rendered frame. `view_picture`: that observation as a picture.

`any_egocentric` and `row_view` are the same for vectors of environments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv

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


def any_egocentric(envs: Any, observation_space: gym.Space[Any]) -> bool:
    """Return whether the environments of a vector are egocentric, by the first one.

    Args:
        envs: a vector of Gymnasium or Stable-Baselines3, without its wrappers. Of one whose environments are in other processes, those
            are egocentric that have an `agent_view_size` and observe as many cells.
        observation_space: of one environment.
    """
    held = getattr(envs, "envs", None)
    if held:
        return is_egocentric(held[0])
    if not isinstance(envs, AsyncVectorEnv) or not envs.call("has_wrapper_attr", "agent_view_size")[0]:
        return False
    size = envs.call("get_wrapper_attr", "agent_view_size")[0]
    image = observation_space["image"] if isinstance(observation_space, gym.spaces.Dict) else observation_space
    return image.shape is not None and tuple(image.shape[:2]) == (size, size)


def row_view(observations: Any, index: int) -> Frame | None:
    """Return `view_picture` of one environment's row of batched observations, an array or a dictionary of arrays."""
    return view_picture({"image": observations["image"][index]} if isinstance(observations, Mapping) else observations[index])


def view_picture(observation: Any) -> Frame | None:
    """Return an observation `(h, w, 3)` of uint8, or the `"image"` of a dictionary, as a picture of that size. None for any other."""
    image: Any = cast("Mapping[str, Any]", observation).get("image") if isinstance(observation, Mapping) else observation
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        return None
    picture = image * np.uint8(255 // (_CODES - 1)) if int(image.max()) < _CODES else image
    return np.ascontiguousarray(picture)
