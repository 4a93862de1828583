"""`PerturbedOutputs`: what masks do to the outputs of one decision, and how it is read from what was run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saliency_wrappers.decisions import Array
from saliency_wrappers.saliency.masks import Masks
from saliency_wrappers.saliency.passes import Outputs, Perturbation
from saliency_wrappers.saliency.scoring import mask_changes


@dataclass(frozen=True, eq=False)
class PerturbedOutputs:
    """The outputs of one decision, untouched and under every mask."""

    masks: Masks
    """The n masks."""
    logits: Array
    """`(1 + n, num_actions)` float32: on the input itself, then under each mask."""
    values: Array | None
    """`(1 + n, 1)` float32. None when the agent has no value output."""
    allowed: NDArray[np.bool_]
    """`(num_actions,)`: False where the logit on the input itself is `-inf`; `logits` holds 0 there."""
    change: Array
    """`(h, w)` float32: the largest `|f - x|` of all channels, in units of the input range."""

    @cached_property
    def policy_logits(self) -> Array:
        """`logits` with `-inf` for the actions that are not allowed."""
        return self.logits if self.allowed.all() else np.where(self.allowed, self.logits, np.float32(-np.inf))

    @cached_property
    def mask_changes(self) -> Array:
        """`(n,)` float32: how much each mask changes, see `scoring.mask_changes`."""
        return mask_changes(self.masks, self.change)


def of_every_mask(masks: Masks, perturbation: Perturbation, outputs: Outputs, span: float) -> PerturbedOutputs:
    """The outputs that were run, and the untouched ones where a mask changes nothing; `span` is the width of the input range."""
    logits, values = (None if run is None else _spread(run, perturbation.rows, len(perturbation.replaced)) for run in outputs)
    allowed = ~torch.isneginf(outputs[0].reshape(len(perturbation.rows), -1)[0]).cpu().numpy()
    change = (perturbation.change.abs().amax(dim=0).float() / span).cpu().numpy()
    return PerturbedOutputs(masks, cast(Array, logits), values, allowed, change)


def _spread(outputs: Tensor, rows: Tensor, n: int) -> Array:
    """From the outputs of some rows those of all n, `(n, outputs)`; 0 for forbidden actions."""
    run = outputs.reshape(len(rows), -1).float().cpu().numpy()
    forbidden = run[0] == -np.inf
    run = np.where(forbidden, np.float32(0), run)  # an action that is forbidden has no say
    finite = np.isfinite(run).all(axis=1)
    if not finite.all():
        first = int(finite.argmin())
        where = "" if first == 0 else " on a perturbed input"
        raise ValueError(f"The agent's output{where} is not finite: {run[first].tolist()}.")
    every = np.tile(run[0], (n, 1))
    every[rows.cpu().numpy()] = run
    return every
