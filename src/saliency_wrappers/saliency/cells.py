"""`grid_cells`: a method for symbolic grids, whose numbers are codes and not grey levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from xaitk_saliency.impls.perturb_image.sliding_window import SlidingWindow

from saliency_wrappers.saliency.perturbation import PerturbationSaliency


def grid_cells(empty: Sequence[float], **options: Any) -> PerturbationSaliency:
    """Return a method that replaces one cell of a grid at a time by an empty one.

    Perturbed inputs hold codes that the agent knows, no numbers between them, so agents that look codes up (`x.long()`) can be explained.

    Args:
        empty: the numbers of an empty cell, one for each channel of the input `(C, h, w)`: `(1, 0, 0)` for MiniGrid's symbols, the plane of
            the empty cell set for one-hot planes.
        options: of `PerturbationSaliency`, such as `saliency_gen`; `perturber` and `fill` are set here.

    Raises:
        TypeError, ValueError: `empty` is no sequence of finite numbers.
    """
    cell = np.asarray(empty, np.float32)
    if cell.ndim != 1 or not cell.size or not np.isfinite(cell).all():
        raise ValueError(f"Expected the numbers of an empty cell, one for each channel, got {empty!r}.")
    return PerturbationSaliency(SlidingWindow((1, 1), (1, 1)), fill=cell[:, None, None], **options)
