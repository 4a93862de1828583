"""`MaskedInput`: an input under many masks. `masked_images` makes the images, `rows_of` picks the masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saliency_wrappers.saliency.incremental.kernels import load_kernels
from saliency_wrappers.saliency.incremental.parallel import parallel_for


@dataclass(frozen=True, eq=False)
class MaskedInput:
    """Images `x + (1 - m) (f - x)`."""

    inputs: Tensor
    """x, `(C, h, w)`."""
    change: Tensor
    """`f - x`, `(C, h, w)`."""
    replaced: Tensor
    """`1 - m` of all masks, `(any, 1, h, w)`."""
    rows: Tensor
    """Which of them there is an image of, `(n,)` int64, ascending."""


def masked_images(one: MaskedInput, out: Tensor) -> None:
    """Compute the images, channels last.

    Args:
        one: what they are made of.
        out: to be filled, `(n, h * w + 1, C)`: the images, the padding behind each, which is 0.
    """
    x, difference = (tensor.flatten(1).T.contiguous() for tensor in (one.inputs, one.change))
    shares = one.replaced.flatten(1)
    kernels = load_kernels(one.inputs) if one.inputs.dtype == torch.float32 else None
    if kernels is None:
        torch.addcmul(x, rows_of(shares, one.rows)[:, :, None], difference, out=out[:, :-1])
        out[:, -1] = 0
        return
    arrays = [tensor.detach().numpy() for tensor in (x, difference, shares, one.rows, out)]
    parallel_for(lambda begin, end: kernels.perturb(*arrays, begin, end), len(one.rows), 700_000 // len(x))


def rows_of(tensor: Tensor, rows: Tensor) -> Tensor:
    """Return ascending rows: a view where they are consecutive, which is usual, else a copy."""
    first, last = int(rows[0]), int(rows[-1])
    return tensor[first : last + 1] if last - first == len(rows) - 1 else tensor[rows]
