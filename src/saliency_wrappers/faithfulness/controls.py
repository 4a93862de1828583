"""Controls: saliency methods that know nothing of the agent. A method that does not beat them says nothing about it.

`RandomPixels`, `CentrePrior`, `ChangeFromFill` and `OtherDecision`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter

from saliency_wrappers.agents.base import AgentAdapter, split_rows
from saliency_wrappers.decisions import Array, Decision, SaliencyMaps
from saliency_wrappers.saliency.masks import Fill, filled
from saliency_wrappers.saliency.method import SaliencyMethod, maps_of


class RandomPixels:
    """Independent random numbers, or smooth random fields."""

    def __init__(self, seed: int = 0, sigma: float | None = None) -> None:
        """Draw with this seed.

        Args:
            seed: of the maps; another for each decision of a call.
            sigma: blur the numbers with this standard deviation, in pixels. None: no blur.
        """
        self.seed, self.sigma = seed, sigma

    def __call__(self, adapter: AgentAdapter, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
        """Random maps `(h, w)`."""
        random = np.random.default_rng(self.seed)
        return [_both(self._map(random, row)) for decision in decisions for row in split_rows(adapter, decision)]

    def _map(self, random: np.random.Generator, decision: Decision) -> Array:
        numbers = random.random(tuple(decision.inputs.shape[2:]))
        return (numbers if self.sigma is None else gaussian_filter(numbers, self.sigma)).astype(np.float32)


class CentrePrior:
    """Brightest in the middle of the input."""

    def __call__(self, adapter: AgentAdapter, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
        """The same map `(h, w)` for every decision: minus the distance to the centre, plus the largest."""
        return [_both(self._map(row)) for decision in decisions for row in split_rows(adapter, decision)]

    def _map(self, decision: Decision) -> Array:
        height, width = decision.inputs.shape[2:]
        y, x = np.ogrid[:height, :width]
        distance = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
        return (distance.max() - distance).astype(np.float32)


class ChangeFromFill:
    """How much each pixel differs from a fill: what can be said without a model."""

    def __init__(self, fill: Fill) -> None:
        """Compare with this fill."""
        self.fill = fill

    def __call__(self, adapter: AgentAdapter, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
        """`max over C of |f - x|`, `(h, w)`."""
        return [_both(self._map(adapter, row)) for decision in decisions for row in split_rows(adapter, decision)]

    def _map(self, adapter: AgentAdapter, decision: Decision) -> Array:
        image = decision.inputs[0].float().cpu().numpy()
        return np.abs(filled(self.fill, image, adapter.input_range) - image).max(axis=0)


class OtherDecision:
    """A method's maps of other decisions: the one half a list away. Tells what maps have in common whatever the agent sees."""

    def __init__(self, method: SaliencyMethod) -> None:
        """Move this method's maps."""
        self.method = method

    def __call__(self, adapter: AgentAdapter, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
        """The maps of the decisions half the list away; of a single decision its own."""
        maps = maps_of(self.method, adapter, [row for decision in decisions for row in split_rows(adapter, decision)])
        half = len(maps) // 2
        return maps[half:] + maps[:half]


def _both(saliency: Array) -> SaliencyMaps:
    return SaliencyMaps(saliency, saliency)
