"""Images that differ from references in few places."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from saliency_wrappers import Decision
from saliency_wrappers.saliency.incremental import kernels
from saliency_wrappers.saliency.incremental.positions import Batch
from saliency_wrappers.saliency.incremental.sparse_images import Changes
from saliency_wrappers.saliency.passes import Perturbation


def random_images(seed: int, frames: int, rows: int, channels: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images of several frames, of which all but each frame's first are changed in some rectangle, where, and the frames."""
    draw = np.random.default_rng(seed)
    images: list[Tensor] = []
    changed = torch.zeros(frames * rows, height, width, dtype=torch.bool)
    for frame in range(frames):
        reference = torch.from_numpy(draw.normal(size=(channels, height, width)).astype(np.float32))
        for row in range(rows):
            image = reference.clone()
            if row:
                top, left = draw.integers(height), draw.integers(width)
                bottom, right = draw.integers(top, height) + 1, draw.integers(left, width) + 1
                image[:, top:bottom, left:right] += float(draw.normal())
                changed[frame * rows + row, top:bottom, left:right] = True
            images.append(image)
    return torch.stack(images), changed, torch.arange(frames).repeat_interleave(rows)


def as_changes(images: Tensor, changed: Tensor, frames: Tensor) -> Changes:
    n, channels, height, width = images.shape
    rows = torch.zeros(n, height * width + 1, channels)
    rows[:, :-1] = images.permute(0, 2, 3, 1).flatten(1, 2)
    return Changes(Batch.of(changed, frames), rows.flatten(0, 1), None)


@contextmanager
def with_kernels(there: bool) -> Generator[None]:
    """As where Numba is installed, or as where it is not."""
    with pytest.MonkeyPatch.context() as patch:
        if not there:
            patch.setattr(kernels, "_kernels", lambda: None)
        yield


def decisions_of(adapter: Any, count: int, channels: int = 1, size: int = 80) -> list[Decision]:
    """Decisions on flat pictures with a few bright things, as in Atari games, with memories that differ."""
    torch.manual_seed(5)
    decisions: list[Decision] = []
    for _ in range(count):
        x = torch.zeros(1, channels, size, size, dtype=next(adapter.module.parameters()).dtype)
        x[:, :, 10:20, 5:60] = 0.5
        y, z = torch.randint(25, 60, (2,)).tolist()
        x[:, :, y : y + 4, z : z + 4] = 1.0
        state = adapter.initial_state(1)
        state = tuple(torch.randn_like(leaf) for leaf in state) if isinstance(state, tuple) else torch.randn_like(state)
        logits, value = adapter.evaluate(x, state, None)
        decisions.append(Decision(x, state, logits, value))
    return decisions


def dense_perturbation(rows: int) -> Perturbation:
    """Masks that change every pixel."""
    changed = torch.ones(1 + rows, 80, 80, dtype=torch.bool)
    changed[0] = False
    return Perturbation(torch.rand(1, 1, 80, 80), torch.rand(1, 80, 80), changed.float()[:, None], changed, torch.zeros(1, 256), None)


def window(top: int) -> Tensor:
    changed = torch.zeros(2, 80, 80, dtype=torch.bool)
    changed[1, top : top + 9, 5:30] = True
    return changed
