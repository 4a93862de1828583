"""`SaliencyDetails`: what may accompany the maps of a decision, when asked for: share of memory, confidence of the map, objects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class ObjectPart:
    """What the policy owes to one object of the network input."""

    label: str
    """Its name, or where it is: `"paddle"`, `"bottom left"`."""
    mask: NDArray[np.bool_]
    """`(h, w)`: True on the object, at network-input resolution."""
    phi: float
    """Its Shapley value in the game `-KL(pi || pi_S)`, in nats; above 0 where the object keeps the policy as it is."""
    standard_error: float
    """Of phi; 0 where it is exact."""


@dataclass(frozen=True, eq=False)
class SaliencyDetails:
    """Additions to one decision's maps; each is None unless it was asked for."""

    memory: float | None = None
    """The share of the policy output that comes from the recurrent state, in [0, 1]; 0 for an agent without memory. NaN while no other
    moments of the episode are known to compare with."""
    confidence: float | None = None
    """How far the actor's map can be believed, in [0, 1]; 0 where the policy hardly depends on the input, so that there is nothing to
    explain."""
    objects: tuple[ObjectPart, ...] | None = None
    """The objects of the input; empty where nothing differs from the background."""

    @property
    def doubtful(self) -> bool:
        """Whether the confidence was asked for and is 0: the map is then drawn in grey."""
        return self.confidence is not None and self.confidence <= 0

    @property
    def sentence(self) -> str | None:
        """The objects that matter most: `"paddle 49 %, ball 36 %"`. None when objects were not asked for."""
        if self.objects is None:
            return None
        return parts_sentence([one.label for one in self.objects], [one.phi for one in self.objects])

    def info(self) -> dict[str, Any]:
        """What `info["saliency"]` gains: `"memory"`, `"confidence"`, `"objects"` with `"sentence"`, where they were asked for."""
        content: dict[str, Any] = {}
        if self.memory is not None:
            content["memory"] = self.memory
        if self.confidence is not None:
            content["confidence"] = self.confidence
        if self.objects is not None:
            content["objects"] = [vars(one) | {"mask": one.mask.copy()} for one in self.objects]
            content["sentence"] = self.sentence
        return content


def parts_sentence(labels: Sequence[str], phi: Sequence[float], most: int = 3) -> str:
    """The largest parts in per cent of the sum of all absolute values: `"paddle 49 %, ball 36 %"`; `"no object matters"` if all are 0."""
    whole = math.fsum(abs(one) for one in phi)
    order = sorted(range(len(phi)), key=lambda i: -abs(phi[i]))[:most]
    return ", ".join(f"{labels[i]} {100 * abs(phi[i]) / whole:.0f} %" for i in order if phi[i]) or "no object matters"
