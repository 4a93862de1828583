"""`TakenAction`: the state of a decision by an agent whose critics judge actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

_SAME = 1e-5
"""Actions that differ by no more are the same: scaling to the environment's bounds and back rounds."""


class TakenAction(NamedTuple):
    """The action that the value of a decision is of. As part of the state it is held while the observation is perturbed."""

    action: Tensor
    """`(n, action_size)`, as the critics are given it."""


def differs(chosen: Tensor, given: Callable[[], NDArray[Any]]) -> Tensor | None:
    """Return the actions that the environments are given, in the form of those the actor chose, where they are others; otherwise None.

    Args:
        chosen: `(n, action_size)`.
        given: makes the actions as the critics take them; what it raises, as for actions of another form, means that the actor's stand.
    """
    try:
        taken = torch.as_tensor(given(), dtype=chosen.dtype, device=chosen.device).reshape(chosen.shape)
    except (TypeError, ValueError, RuntimeError):
        return None
    return taken if bool((taken - chosen).abs().max() > _SAME) else None
