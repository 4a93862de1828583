"""Insertion and deletion curves of one map (Petsiuk et al. 2018, on a policy's total variation): `CurveMaker`, `Areas`.

Pixels are replaced by a fill, or shown again, in descending order of the map, and the outputs compared with those of the whole input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saliency_wrappers.agents.base import AgentAdapter
from saliency_wrappers.decisions import Array, Decision, floating_inputs
from saliency_wrappers.saliency.masks import Fill, filled
from saliency_wrappers.saliency.policy_scores import policy, total_variation

Floats = NDArray[np.float64]

FRACTIONS = (0.0, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.3, 0.5, 0.75, 1.0)
"""The fractions of pixels at which curves are taken."""

_X = np.array(FRACTIONS)


def pixel_order(saliency: NDArray[Any], random: np.random.Generator) -> NDArray[np.int64]:
    """Pixels in descending order of a map, ties broken at random: a stable sort would show the top rows of a sparse map first.

    Args:
        saliency: `(h, w)`, or `(frames, h, w)`, whose frames are added.
        random: breaks ties.

    Returns:
        `(h * w,)` flat indices.

    Raises:
        ValueError: a map that is not finite, or of another number of axes.
    """
    if saliency.ndim not in (2, 3) or not np.isfinite(saliency).all():
        raise ValueError(f"Expected a finite map (h, w) or (frames, h, w), got one of shape {saliency.shape} or with NaN or infinity.")
    flat = (saliency if saliency.ndim == 2 else saliency.sum(axis=0)).ravel()
    return np.lexsort((random.random(flat.size), -flat.astype(np.float64)))


def area(distances: NDArray[Any], axis: str = "lin") -> Floats:
    """The area under curves `(..., 13)` taken at `FRACTIONS`: over the fraction (`"lin"`), or its log10 in [.001, 1] over 3 (`"log"`)."""
    if axis == "lin":
        return np.asarray(np.trapezoid(distances, _X, axis=-1))
    return np.asarray(np.trapezoid(distances[..., 1:], np.log10(_X[1:]), axis=-1)) / 3


@dataclass(frozen=True, eq=False)
class Curves:
    """What the outputs become along the fractions, for one map, fill and direction."""

    policy: Floats
    """`(13,)`: total variation to the policy on the whole input, in [0, 1]."""
    value: Floats | None
    """`(13,)`: `|V - V_k|`. None without a value output."""
    action: Floats
    """`(13,)`: probability of the chosen action."""


class CurveMaker:
    """Runs one decision along the curves of any number of maps."""

    def __init__(self, adapter: AgentAdapter, decision: Decision, fills: Mapping[str, Fill]) -> None:
        """Take a one-row decision and named fills."""
        if len(decision) != 1:
            raise ValueError(f"Expected a decision of one row, got {len(decision)}.")
        self._adapter, self._decision = adapter, decision
        self._inputs = floating_inputs(decision.inputs)
        image = self._inputs[0].float().cpu().numpy()
        self._fills = {name: torch.as_tensor(filled(fill, image, adapter.input_range)).to(self._inputs) for name, fill in fills.items()}
        logits, values = self._run(self._inputs)
        self.logits: Array = logits[0]
        self.value: float | None = None if values is None else float(values[0])
        self.action = int(self.logits.argmax()) if decision.action is None else int(decision.action.flatten()[0])

    def curves(self, order: NDArray[np.int64]) -> dict[tuple[str, str], Curves]:
        """Return the curves by fill and direction, `"insertion"` or `"deletion"`, from one batched pass.

        Args:
            order: `(h * w,)` indices of pixels, the most important first.
        """
        keys, images = [], []
        shown = self._shown(order)
        for name, fill in self._fills.items():
            keys += [(name, "insertion"), (name, "deletion")]
            images += [torch.where(shown, self._inputs, fill), torch.where(shown, fill, self._inputs)]
        logits, values = self._run(torch.cat(images))
        steps = len(FRACTIONS)
        return {
            key: self._curves(logits[i * steps : (i + 1) * steps], None if values is None else values[i * steps : (i + 1) * steps])
            for i, key in enumerate(keys)
        }

    def digest(self) -> bytes:
        """What curves depend on, besides the agent and the map: the input, the fills and the outputs on the input."""
        parts = [self._inputs[0], *self._fills.values()]
        found = hashlib.sha256(self.logits.tobytes())
        for part in parts:
            found.update(part.contiguous().cpu().numpy().tobytes())
        return found.digest()

    def distances(self, images: Tensor) -> Floats:
        """Total variation `(n,)` between the policy on the input and on images `(n, C, h, w)`."""
        return total_variation(self.logits, self._run(images)[0])

    def inserted(self, order: NDArray[np.int64], fraction: float) -> Tensor:
        """`(fills, C, h, w)`: the first pixels of an order on each fill; nothing of the input with a fraction of 0."""
        shown = self._first(order, fraction)
        return torch.stack([torch.where(shown, self._inputs[0], fill) for fill in self._fills.values()])

    def _shown(self, order: NDArray[np.int64]) -> Tensor:
        return torch.stack([self._first(order, fraction) for fraction in FRACTIONS])[:, None]

    def _first(self, order: NDArray[np.int64], fraction: float) -> Tensor:
        shape = self._inputs.shape[2:]
        if len(order) != shape[0] * shape[1]:
            raise ValueError(f"Expected a map of the input's size {tuple(shape)}, got one of {len(order)} pixels.")
        shown = np.zeros(len(order), bool)
        shown[order[: round(fraction * len(order))]] = True
        return torch.as_tensor(shown.reshape(tuple(shape)), device=self._inputs.device)

    def _curves(self, logits: Array, values: Array | None) -> Curves:
        value = None if values is None or self.value is None else np.abs(values.astype(np.float64) - self.value)
        return Curves(total_variation(self.logits, logits), value, policy(logits)[:, self.action])

    def _run(self, images: Tensor) -> tuple[Array, Array | None]:
        """Logits `(n, actions)` and values `(n,)` of images, with the decision's state."""
        n, start = len(images), self._decision.episode_start
        state = self._adapter.repeat_state(self._decision.state, n)
        with torch.inference_mode():
            logits, values = self._adapter.evaluate(images, state, None if start is None else start.expand(n))
        return logits.float().cpu().numpy(), None if values is None else values.reshape(n).float().cpu().numpy()
