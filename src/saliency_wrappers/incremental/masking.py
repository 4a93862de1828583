"""`masked_images`: an input under many masks, each position's channels together. `rows_of` picks the masks."""

from __future__ import annotations

import torch
from torch import Tensor

from saliency_wrappers.incremental.compiled import kernels
from saliency_wrappers.incremental.threads import share


def masked_images(inputs: Tensor, change: Tensor, replaced: Tensor, rows: Tensor, out: Tensor) -> None:
    """Apply masks: `x + (1 - m) (f - x)`.

    Args:
        inputs: x, `(C, h, w)`.
        change: `f - x`, `(C, h, w)`.
        replaced: `1 - m` of all masks, `(any, 1, h, w)`.
        rows: which of them, `(n,)` int64.
        out: to be filled, `(n, h * w + 1, C)`: the images, the padding behind each, which is 0.
    """
    x, difference = (tensor.flatten(1).T.contiguous() for tensor in (inputs, change))
    shares = replaced.flatten(1)
    compiled = kernels(inputs) if inputs.dtype == torch.float32 else None
    if compiled is None:
        torch.addcmul(x, rows_of(shares, rows)[:, :, None], difference, out=out[:, :-1])
        out[:, -1] = 0
        return
    arrays = [tensor.detach().numpy() for tensor in (x, difference, shares, rows, out)]
    share(lambda begin, end: compiled.perturb(*arrays, begin, end), len(rows), 700_000 // len(x))


def rows_of(tensor: Tensor, rows: Tensor) -> Tensor:
    """These ascending rows: a view where they follow each other, which they mostly do, else a copy."""
    first, last = int(rows[0]), int(rows[-1])
    return tensor[first : last + 1] if last - first == len(rows) - 1 else tensor[rows]
