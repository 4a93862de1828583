"""`network_input`: what an agent that acts by its hook is given."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saliency_wrappers.preprocessing import FramePreprocessor


def network_input(
    observation: NDArray[Any], preprocessor: FramePreprocessor | None, input_range: tuple[float, float], dtype: torch.dtype
) -> Tensor:
    """Return the network input `(C, h, w)` of this dtype, in `input_range`.

    Args:
        observation: a frame `(H, W, 3)` uint8 for the preprocessor; without one the network input itself.
        preprocessor: makes inputs of frames. None: the observation is the input.
        input_range: the lowest and highest value of the agent's inputs.
        dtype: the agent's.

    Raises:
        TypeError: without a preprocessor, an input of another dtype.
        ValueError: without a preprocessor, an input of another number of axes, or with NaN or infinity.
    """
    low, high = input_range
    if preprocessor is not None:
        return torch.as_tensor(low + preprocessor(observation) * (high - low)).to(dtype)
    image = torch.as_tensor(np.asarray(observation))
    if image.dtype != dtype or image.ndim != 3:
        raise (TypeError if image.dtype != dtype else ValueError)(
            f"Expected a network input (C, h, w) of {dtype} in {low:g}..{high:g}, since the hook has no preprocessor, "
            f"got {tuple(image.shape)} of {image.dtype}. For frames, construct RecurrentAgentHook(agent, preprocessor=...)."
        )
    if not bool(image.isfinite().all()):
        raise ValueError(f"Expected a network input of finite numbers in {low:g}..{high:g}, got NaN or infinity.")
    return image
