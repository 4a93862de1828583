"""Confidence of one map: `map_confidence` inserts its first pixels and sees how much of the policy is still missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from saliency_wrappers.agents.base import AgentAdapter
from saliency_wrappers.decisions import Decision
from saliency_wrappers.faithfulness.curves import CurveMaker, pixel_order
from saliency_wrappers.saliency.masks import Fill, GaussianBlur

_LEAST_EFFECT = 0.05


@dataclass(frozen=True)
class Confidence:
    """How far one actor map can be believed."""

    value: float
    """`1 - left`, in [0, 1]: 1 when the map's first pixels alone restore the policy."""
    left: float
    """The mean over fills of the total variation that is left after inserting the map's first pixels, in [0, 1]."""
    effect: float
    """Total variation between the policies on the input and on the blurred input, in [0, 1]."""

    @property
    def explains(self) -> bool:
        """False when replacing everything changes the policy by less than 0.05: there is nothing to explain, a map is best drawn grey."""
        return self.effect >= _LEAST_EFFECT


def map_confidence(
    adapter: AgentAdapter, decision: Decision, saliency: NDArray[Any], background: Fill | None = None, fraction: float = 0.08, seed: int = 0
) -> Confidence:
    """Measure an actor map by one pass over as many images as there are fills, and one for the effect.

    Args:
        adapter: the agent.
        decision: one row.
        saliency: its actor map, `(h, w)` or `(frames, h, w)`.
        background: a second fill besides the blur, such as `Background(episode)`. None: the blur alone.
        fraction: how many of the pixels are inserted, in (0, 1].
        seed: breaks ties of the map.

    Raises:
        ValueError: a map of another size or not finite, several rows, or a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"Expected a fraction in (0, 1], got {fraction}.")
    fills: dict[str, Fill] = {"blur": GaussianBlur(3)} | ({} if background is None else {"background": background})
    maker = CurveMaker(adapter, decision, fills)
    order = pixel_order(saliency, np.random.default_rng(seed))
    images = torch.cat([maker.inserted(order, fraction), maker.inserted(order, 0.0)[:1]])
    *left, effect = maker.distances(images).tolist()
    missing = float(np.mean(left))
    return Confidence(1 - missing, missing, effect)
