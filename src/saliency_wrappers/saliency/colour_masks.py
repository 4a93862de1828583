"""Colour masks `(k, n, h, w)`, as xaitk's `MCRISEGrid` makes them: `colour_fills` are the colours, `colour_layers` what masks change.

`x_i = x + sum_j (1 - m_ij) (f_j - x)`: where a mask of colour j is 0, the input is replaced by that colour (Hatakeyama et al. 2020).
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saliency_wrappers.decisions import Array
from saliency_wrappers.saliency.masks import Fill, filled


def colour_fills(fill: Fill | Sequence[Fill], k: int, image: Array, input_range: tuple[float, float]) -> NDArray[Any]:
    """Return the fills of the masks of each colour.

    Args:
        fill: colours, an array `(k, C)` in the input's own units; or a list of k fills, one for each colour. Any other fill has no colours:
            then they are k evenly spaced hues, red first, in each group of three channels.
        k: the number of colours, `>= 1`.
        image: `(C, h, w)` float, C divisible by 3.
        input_range: the lowest and highest value of inputs.

    Returns:
        `(k, C, h, w)` of the image's dtype.

    Raises:
        ValueError: colours that are not finite.
    """
    channels = len(image)
    if isinstance(fill, Sequence) and len(fill) == k and not all(np.shape(one) == (channels,) for one in fill if not callable(one)):
        return np.stack([filled(one, image, input_range) for one in fill])
    if isinstance(fill, np.ndarray | Sequence) and np.shape(cast(Any, fill)) == (k, channels):
        return np.stack([filled(np.asarray(colour)[:, None, None], image, input_range) for colour in fill])
    low, high = input_range
    hues = np.array([colorsys.hsv_to_rgb(colour / k, 1.0, 1.0) for colour in range(k)])
    content = low + (high - low) * np.tile(hues, (1, channels // 3))
    return np.broadcast_to(content[:, :, None, None], (k, *image.shape)).astype(image.dtype)


def colour_layers(colours: Array, change: Tensor, like: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """Return the masks and changes of each colour.

    Args:
        colours: m, `(k, n, h, w)` float32 in [0, 1]; 1: untouched.
        change: `f - x` of each colour, `(k, C, h, w)`.
        like: of the device and dtype of the inputs.

    Returns:
        For each colour `1 - m`, `(1 + n, 1, h, w)` with 0 in row 0, and `f - x`, `(C, h, w)`.
    """
    replaced = torch.as_tensor(1 - colours).to(like)
    rows = torch.cat([torch.zeros_like(replaced[:, :1]), replaced], dim=1)[:, :, None]
    return tuple(zip(rows, change, strict=True))
