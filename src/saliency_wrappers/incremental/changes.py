"""`Changes`: a batch of images that differ from reference images in few places, and how layers act on it by computing only there.

A perturbed input is the input itself outside a small window, and so is every convolution's output outside a somewhat larger one (the idea
of Krypton: Nakandala, Nagrecha, Kumar and Papakonstantinou, SIGMOD 2019). Here no windows are cut: the changed positions are listed,
whatever their outline, and each layer gathers what it needs for them. `Pending` is what a layer will have computed, so that the functions
that follow it are applied while its numbers are still in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from saliency_wrappers.incremental.workspace import workspace

PIECE = 1_000_000
"""How many numbers are gathered at a time."""

Pointwise = Callable[[Tensor], Tensor]
"""A function of the channels of each position, `(any, C)` to `(any, C)`."""

Reduce = Callable[[Tensor, Tensor], object]
"""What a layer makes of the positions that its kernel sees: from `(m, taps, C)` into `(m, C_out)`."""


@dataclass(frozen=True)
class Kernel:
    """The geometry of a convolution or pooling, vertical first."""

    size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    def outputs(self, axis: int, length: int) -> int:
        """How many outputs there are along an axis, 0 or 1, of this length."""
        return (length + 2 * self.padding[axis] - self.dilation[axis] * (self.size[axis] - 1) - 1) // self.stride[axis] + 1


@dataclass(frozen=True, eq=False)
class Batch:
    """What n images `(h, w)` are about, whatever their channels."""

    changed: Tensor
    """`(n, h, w)` bool: where an image differs from its reference."""
    frames: Tensor
    """`(n,)` int64, ascending: which of f reference images an image belongs to."""
    first: Tensor
    """`(f,)` int64: the first image of each frame, which is its reference."""

    @staticmethod
    def of(changed: Tensor, frames: Tensor) -> Batch:
        """From where images are changed `(n, h, w)` bool and the frames they belong to `(n,)`, ascending from 0."""
        begins = torch.ones_like(frames, dtype=torch.bool)
        begins[1:] = frames[1:] != frames[:-1]
        return Batch(changed, frames, begins.nonzero().flatten())

    @property
    def positions(self) -> int:
        """How many positions an image has, h * w. The number itself stands for the padding around the image."""
        return self.changed.shape[1] * self.changed.shape[2]


@dataclass(frozen=True, eq=False)
class Changes:
    """A batch of images `(n, C, h, w)`: f reference images, and what each image has in its changed positions."""

    batch: Batch
    rows: Tensor
    """`(any, C)`: the channels at one position each: the references', then those of the changed positions, and last the padding, 0."""
    lookup: Tensor | None
    """`(n, h * w + 1)` int32: where in `rows` an image's positions and its padding are. None: one after another, image by image."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(n, C, h, w)`."""
        n, height, width = self.batch.changed.shape
        return n, self.rows.shape[1], height, width

    @property
    def share(self) -> float:
        """How many of all positions were computed, 0 to 1."""
        if self.lookup is None:
            return 1.0
        return (len(self.rows) - 1 - len(self.batch.first) * self.batch.positions) / self.batch.changed.numel()

    @property
    def settled(self) -> Changes:
        """Itself: it is computed."""
        return self

    def dense(self) -> Tensor:
        """All images, `(n, C, h, w)`."""
        n, channels, height, width = self.shape
        lookup = self.lookup
        rows = self.rows.view(n, -1, channels)[:, :-1].clone() if lookup is None else self.rows.index_select(0, lookup[:, :-1].flatten())
        return rows.view(n, height, width, channels).permute(0, 3, 1, 2)

    def pointwise(self, function: Pointwise) -> Changes:
        """The images with a function applied to them, in place if it works in place."""
        rows = function(self.rows)
        padding = rows[-1:] if self.lookup is not None else rows.view(len(self.batch.frames), -1, rows.shape[1])[:, -1]
        padding.zero_()
        return replace(self, rows=rows)

    def convolved(self, weight: Tensor, bias: Tensor | None, kernel: Kernel) -> Pending:
        """Convolve with `weight` `(C_out, C, *kernel.size)` and `bias` `(C_out,)`."""
        matrix = weight.permute(2, 3, 1, 0).reshape(-1, len(weight))

        def multiply(seen: Tensor, out: Tensor) -> None:
            torch.mm(seen.flatten(1), matrix, out=out)
            if bias is not None:
                out.add_(bias)  # in half the time that addmm takes for it

        return self.slid(kernel, multiply, len(weight))

    def slid(self, kernel: Kernel, reduce: Reduce, channels: int, taps: Tensor | None = None) -> Pending:
        """What a sliding kernel makes of the images.

        Args:
            kernel: its geometry.
            reduce: what it makes of the positions that it sees.
            channels: how many come out.
            taps: which positions it sees, as `slide` gives them. None: those.
        """
        changed = dilated(self.batch.changed, kernel)
        _, _, height, width = self.shape
        taps = slide(height, width, kernel, self.rows.device) if taps is None else taps
        return Pending(self, replace(self.batch, changed=changed), taps, reduce, channels, changed.flatten(1).nonzero())

    def rows_of(self, places: Tensor) -> Tensor:
        """Which rows belong to places, `(m,)` counted through all positions of all images."""
        return places if self.lookup is None else self.lookup.view(-1).index_select(0, places)

    def gather(self, rows: Tensor, out: Tensor) -> Tensor:
        """These rows, `(m,)`, written to `out` `(m, C)`."""
        if self.rows.shape[1] == 1:  # several times as fast as rows of one number
            return torch.index_select(self.rows.view(-1), 0, rows, out=out.view(-1)).view(-1, 1)
        return torch.index_select(self.rows, 0, rows, out=out)


@dataclass(frozen=True, eq=False)
class Pending:
    """A layer that is still to be computed in the places that it changes, and functions that are to be applied there."""

    source: Changes
    batch: Batch
    """Its output's."""
    taps: Tensor
    """`(h' * w', taps)` int64: the positions that the kernel sees."""
    reduce: Reduce
    channels: int
    """How many come out."""
    places: Tensor
    """`(m, 2)` int64: the changed positions: of which image, and which."""
    functions: tuple[Pointwise, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(n, C_out, h', w')`."""
        n, height, width = self.batch.changed.shape
        return n, self.channels, height, width

    @property
    def rows(self) -> Tensor:
        """Of the dtype and on the device of what will come out."""
        return self.source.rows

    @property
    def share(self) -> float:
        """How many of all positions are to be computed, 0 to 1."""
        return len(self.places) / self.batch.changed.numel()

    def pointwise(self, function: Pointwise) -> Pending:
        """The images with a function applied to them, which may work in place and keeps the dtype."""
        return replace(self, functions=(*self.functions, function))

    @property
    def settled(self) -> Changes:
        """The images, computed now."""
        # The references by the same products as the changed positions: then both are rounded alike.
        first, positions = self.batch.first, self.batch.positions
        known = torch.stack([first.repeat_interleave(positions), torch.arange(positions, device=first.device).repeat(len(first))], dim=1)
        rows = workspace.take((len(known) + len(self.places) + 1, self.channels), self.rows)
        self._compute(torch.cat([known, self.places]), rows[:-1])
        rows[-1] = 0
        changed = torch.arange(len(known), len(rows) - 1, dtype=torch.int32, device=first.device)
        lookup = torch.arange(positions + 1, dtype=torch.int32, device=first.device) + (self.batch.frames * positions).int()[:, None]
        lookup[:, -1] = len(rows) - 1
        lookup.view(-1).scatter_(0, self.places[:, 0] * (positions + 1) + self.places[:, 1], changed)
        return Changes(self.batch, rows, lookup)

    def _compute(self, places: Tensor, out: Tensor) -> None:
        """The rows of places `(m, 2)`, `(m, C_out)`, a cache-sized piece at a time."""
        m, taps, channels = len(places), self.taps.shape[1], self.source.shape[1]
        size = max(1, PIECE // (taps * channels + 2 * self.channels))
        scratch = workspace.take((min(m, size) * taps, channels), self.rows)
        seen = workspace.take((m, taps), self.taps)
        torch.index_select(self.taps, 0, places[:, 1], out=seen).add_(places[:, :1] * (self.source.batch.positions + 1))
        rows = self.source.rows_of(seen.flatten())
        for start in range(0, m, size):
            piece = slice(start, min(start + size, m))
            wanted = rows[start * taps : (start + size) * taps]
            self.reduce(self.source.gather(wanted, out=scratch[: len(wanted)]).view(-1, taps, channels), out[piece])
            for function in self.functions:
                result = function(out[piece])
                if result.data_ptr() != out[piece].data_ptr():
                    out[piece] = result


def dilated(changed: Tensor, kernel: Kernel) -> Tensor:
    """The positions `(n, h', w')` bool in which a kernel sees a changed one of `(n, h, w)`."""
    n, height, width = changed.shape
    rows, columns = (kernel.outputs(axis, length) for axis, length in enumerate((height, width)))
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


def _vertically(seen: Tensor, kernel: Kernel, rows: int) -> Tensor:
    """Each column's positions, or words of them, `(n, h, any)`, put together by `or` where the kernel sees them: `(n, h', any)`."""
    stride = kernel.stride[0]
    padded = functional.pad(seen, (0, 0, kernel.padding[0], kernel.padding[0]))
    parts = [padded[:, first : first + (rows - 1) * stride + 1 : stride] for first in _taps(kernel, 0)]
    together = parts[0].contiguous() if len(parts) == 1 else parts[0] | parts[1]
    for part in parts[2:]:
        together |= part
    return together


def _taps(kernel: Kernel, axis: int) -> range:
    """The positions that a kernel sees, from its first."""
    return range(0, kernel.size[axis] * kernel.dilation[axis], kernel.dilation[axis])


_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers of so many bytes."""


@lru_cache(maxsize=64)
def slide(height: int, width: int, kernel: Kernel, device: torch.device) -> Tensor:
    """The positions that a kernel sees for each of its outputs, `(h' * w', taps)` int64; `height * width` stands for the padding."""
    axes: list[Tensor] = []
    for axis, length in enumerate((height, width)):
        start = torch.arange(kernel.outputs(axis, length))[:, None] * kernel.stride[axis] - kernel.padding[axis]
        axes.append(start + torch.arange(kernel.size[axis]) * kernel.dilation[axis])
    y, x = axes[0][:, None, :, None], axes[1][None, :, None, :]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return torch.where(inside, y * width + x, height * width).flatten(2).flatten(0, 1).to(device)
