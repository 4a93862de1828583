"""Where images differ from their references: `Batch` and `Places`; `ConvGeometry`, `dilated` and `slide` say what a convolution sees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional

from saliency_wrappers.saliency.incremental.kernels import load_kernels
from saliency_wrappers.saliency.incremental.parallel import parallel_for
from saliency_wrappers.saliency.incremental.scratch import workspace


@dataclass(frozen=True)
class ConvGeometry:
    """Geometry of a convolution or pooling, vertical first."""

    size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    def outputs(self, axis: int, length: int) -> int:
        """Return the number of outputs along an axis, 0 or 1, of this length."""
        return (length + 2 * self.padding[axis] - self.dilation[axis] * (self.size[axis] - 1) - 1) // self.stride[axis] + 1


@dataclass(frozen=True, eq=False)
class Batch:
    """Which positions of n images `(h, w)` are changed, and each image's reference; independent of channels."""

    changed: Tensor
    """`(n, h, w)` bool: where an image differs from its reference."""
    frames: Tensor
    """`(n,)` int64, ascending: which of f reference images an image belongs to."""
    first: Tensor
    """`(f,)` int64: the first image of each frame, which is its reference."""

    @staticmethod
    def of(changed: Tensor, frames: Tensor) -> Batch:
        """Return the batch of images that are changed in `(n, h, w)` bool and belong to frames `(n,)`, ascending from 0."""
        begins = torch.ones_like(frames, dtype=torch.bool)
        begins[1:] = frames[1:] != frames[:-1]
        return Batch(changed, frames, begins.nonzero().flatten())

    @property
    def positions(self) -> int:
        """The number of positions of an image, h * w, which as an index stands for the padding."""
        return self.changed.shape[1] * self.changed.shape[2]


@dataclass(frozen=True, eq=False)
class Places:
    """The computed positions: all of each reference image, then the changed ones of all images."""

    listed: Tensor
    """`(m, 2)` int32: image index and position index."""
    lookup: Tensor
    """`(n, positions + 1)` int32: where in the list an image's positions are; the padding is behind its end."""
    known: int
    """How many entries belong to references."""

    @property
    def changed(self) -> int:
        """The number of entries that are changed positions."""
        return len(self.listed) - self.known

    @staticmethod
    def of(batch: Batch) -> Places:
        """List the positions of a batch."""
        kernels = load_kernels(batch.changed)
        return _found(batch) if kernels is None else _enlisted(batch, kernels)

    @staticmethod
    def empty(batch: Batch, changed: int) -> Places:
        """Return places with uninitialised entries for so many changed positions; those of the references are filled in."""
        first, positions = batch.first, batch.positions
        known = len(first) * positions
        listed = workspace.take((known + changed, 2), batch.changed.new_empty(0, dtype=torch.int32))
        listed[:known, 0] = first.repeat_interleave(positions)
        listed[:known, 1] = torch.arange(positions, device=first.device).repeat(len(first))
        return Places(listed, workspace.take((len(batch.frames), positions + 1), listed), known)


def _found(batch: Batch) -> Places:
    found, positions = batch.changed.flatten(1).nonzero(), batch.positions
    places = Places.empty(batch, len(found))
    places.listed[places.known :] = found
    torch.add(torch.arange(positions + 1, device=found.device), (batch.frames * positions)[:, None], out=places.lookup)
    places.lookup[:, -1] = len(places.listed)
    own = torch.arange(places.known, len(places.listed), dtype=torch.int32, device=found.device)
    places.lookup.view(-1).scatter_(0, found[:, 0] * (positions + 1) + found[:, 1], own)
    return places


def _enlisted(batch: Batch, kernels: ModuleType) -> Places:
    changed = batch.changed.flatten(1)
    counts = counted(changed)
    places = Places.empty(batch, int(counts.sum()))
    firsts = counts.cumsum(0).sub_(counts).add_(places.known)
    tensors = (changed.view(torch.uint8), batch.frames, firsts, places.listed, places.lookup)
    arrays = [tensor.numpy() for tensor in tensors]
    parallel_for(lambda begin, end: kernels.enlist(*arrays, begin, end), len(changed), 300_000 // batch.positions)
    return places


def counted(changed: Tensor) -> Tensor:
    """Count the changed positions of each image, `(n,)` int64, from `(n, positions)` bool."""
    kernels = load_kernels(changed)
    if kernels is None:
        return changed.view(torch.uint8).sum(dim=1, dtype=torch.int32).long()  # as bool in five times the time
    counts = torch.empty(len(changed), dtype=torch.int64)
    arrays = (changed.view(torch.uint8).numpy(), counts.numpy())
    parallel_for(lambda begin, end: kernels.count(*arrays, begin, end), len(changed), 2_500_000 // changed.shape[1])
    return counts


def dilated(changed: Tensor, kernel: ConvGeometry) -> Tensor:
    """Return the outputs `(n, h', w')` bool whose receptive field holds a changed position of `(n, h, w)`."""
    n, height, width = changed.shape
    rows, columns = (kernel.outputs(axis, length) for axis, length in enumerate((height, width)))
    kernels = load_kernels(changed)
    if kernels is None:
        return _dilated(changed, kernel, rows, columns)
    seen = workspace.take((n, rows, columns), changed)
    source, result = changed.view(torch.uint8).numpy(), seen.view(torch.uint8).numpy()
    geometry = (kernel.size, kernel.stride, kernel.padding, kernel.dilation)
    parallel_for(lambda begin, end: kernels.spread(source, *geometry, result, begin, end), n, 330_000 // (height * width))
    return seen


def _dilated(changed: Tensor, kernel: ConvGeometry, rows: int, columns: int) -> Tensor:
    n, _, width = changed.shape
    stride = kernel.stride[1]
    if stride not in _WORDS:
        tall = _vertically(functional.pad(changed, (kernel.padding[1], kernel.padding[1])), kernel, rows)
        seen = [tall[:, :, first : first + (columns - 1) * stride + 1 : stride] for first in _taps(kernel, 1)]
        return torch.stack(seen).any(dim=0)
    # Several positions are looked at in one word: eight of them downwards, and along a row as many as the kernel is moved on.
    left = -(-kernel.padding[1] // stride) * stride
    needed = max(left + width, (columns - 1) * stride + left - kernel.padding[1] + _taps(kernel, 1)[-1] + stride)
    padded = functional.pad(changed, (left, -(-needed // 8) * 8 - left - width))
    words = _vertically(padded.view(torch.int64), kernel, rows).view(torch.bool).view(_WORDS[stride])
    masks: dict[int, int] = {}
    for tap in _taps(kernel, 1):
        word, byte = divmod(left - kernel.padding[1] + tap, stride)
        masks[word] = masks.get(word, 0) | 1 << 8 * byte
    seen = torch.zeros(n, rows, columns, dtype=torch.bool, device=changed.device)
    for word, mask in masks.items():
        seen |= (words[:, :, word : word + columns] & mask) != 0
    return seen


def _vertically(seen: Tensor, kernel: ConvGeometry, rows: int) -> Tensor:
    """Combine each column's positions, or words of them, `(n, h, any)`, by `or` over receptive fields: `(n, h', any)`."""
    stride = kernel.stride[0]
    padded = functional.pad(seen, (0, 0, kernel.padding[0], kernel.padding[0]))
    parts = [padded[:, first : first + (rows - 1) * stride + 1 : stride] for first in _taps(kernel, 0)]
    together = parts[0].contiguous() if len(parts) == 1 else parts[0] | parts[1]
    for part in parts[2:]:
        together |= part
    return together


def _taps(kernel: ConvGeometry, axis: int) -> range:
    """Return the offsets of a kernel's receptive field, from its first position."""
    return range(0, kernel.size[axis] * kernel.dilation[axis], kernel.dilation[axis])


_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers of so many bytes."""


@lru_cache(maxsize=64)
def slide(height: int, width: int, kernel: ConvGeometry, device: torch.device) -> Tensor:
    """Return the receptive field of each output, `(h' * w', taps)` int64; `height * width` stands for the padding."""
    axes: list[Tensor] = []
    for axis, length in enumerate((height, width)):
        start = torch.arange(kernel.outputs(axis, length))[:, None] * kernel.stride[axis] - kernel.padding[axis]
        axes.append(start + torch.arange(kernel.size[axis]) * kernel.dilation[axis])
    y, x = axes[0][:, None, :, None], axes[1][None, :, None, :]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return torch.where(inside, y * width + x, height * width).flatten(2).flatten(0, 1).to(device)
