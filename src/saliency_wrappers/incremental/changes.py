"""`Changes`: a batch of images that differ from reference images in few places, and how layers act on it by computing only there.

A perturbed input is the input itself outside a small window, and so is every convolution's output outside a somewhat larger one (the idea
of Krypton: Nakandala, Nagrecha, Kumar and Papakonstantinou, SIGMOD 2019). Here no windows are cut: the changed positions are listed,
whatever their outline, and each layer takes what it needs for them. `Pending` is what a layer will have computed, so that the functions
that follow it are applied while its numbers are still in the processor's cache.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from saliency_wrappers.incremental.places import Batch, Kernel, Places, dilated, slide
from saliency_wrappers.incremental.products import Pointwise, Product, Reduce, Seen, compute
from saliency_wrappers.incremental.workspace import workspace


@dataclass(frozen=True, eq=False)
class Changes:
    """A batch of images `(n, C, h, w)`: f reference images, and what each image has in its changed positions."""

    batch: Batch
    rows: Tensor
    """`(any, C)`: the channels at one position each: the references', then those of the changed positions, and last the padding, 0."""
    places: Places | None
    """Which positions `rows` are. None: all of all images, each image's padding behind it."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(n, C, h, w)`."""
        n, height, width = self.batch.changed.shape
        return n, self.rows.shape[1], height, width

    @property
    def share(self) -> float:
        """How many of all positions were computed, 0 to 1."""
        if self.places is None:
            return 1.0
        return self.places.changed / self.batch.changed.numel()

    @property
    def settled(self) -> Changes:
        """Itself: it is computed."""
        return self

    def dense(self) -> Tensor:
        """All images, `(n, C, h, w)`."""
        n, channels, height, width = self.shape
        if self.places is None:
            rows = self.rows.view(n, -1, channels)[:, :-1].clone()
        else:
            rows = self.rows.index_select(0, self.places.lookup[:, :-1].flatten())
        return rows.view(n, height, width, channels).permute(0, 3, 1, 2)

    def pointwise(self, function: Pointwise) -> Changes:
        """The images with a function applied to them, in place if it works in place."""
        rows = function(self.rows)
        padding = rows[-1:] if self.places is not None else rows.view(len(self.batch.frames), -1, rows.shape[1])[:, -1]
        padding.zero_()
        return replace(self, rows=rows)

    def convolved(self, weight: Tensor, bias: Tensor | None, kernel: Kernel) -> Pending:
        """Convolve with `weight` `(C_out, C, *kernel.size)` and `bias` `(C_out,)`."""
        return self.slid(kernel, Product(weight.permute(2, 3, 1, 0).reshape(-1, len(weight)), bias), len(weight))

    def slid(self, kernel: Kernel, reduce: Reduce, channels: int, taps: Tensor | None = None) -> Pending:
        """What a sliding kernel makes of the images.

        Args:
            kernel: its geometry.
            reduce: what it makes of the positions that it sees.
            channels: how many come out.
            taps: which positions it sees, as `slide` gives them. None: those.
        """
        batch = replace(self.batch, changed=dilated(self.batch.changed, kernel))
        _, _, height, width = self.shape
        taps = slide(height, width, kernel, self.rows.device) if taps is None else taps
        return Pending(self, batch, Places.of(batch), taps, reduce, channels)


@dataclass(frozen=True, eq=False)
class Pending:
    """A layer that is still to be computed in the places that it changes, and functions that are to be applied there."""

    source: Changes
    batch: Batch
    """Its output's."""
    places: Places
    """What is to be computed of it."""
    taps: Tensor
    """`(h' * w', taps)` int64: the positions that the kernel sees."""
    reduce: Reduce
    channels: int
    """How many come out."""
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
        return self.places.changed / self.batch.changed.numel()

    def pointwise(self, function: Pointwise) -> Pending:
        """The images with a function applied to them, which may work in place and keeps the dtype."""
        return replace(self, functions=(*self.functions, function))

    @property
    def settled(self) -> Changes:
        """The images, computed now."""
        # The references by the same products as the changed positions: then both are rounded alike.
        listed, source = self.places.listed, self.source
        rows = workspace.take((len(listed) + 1, self.channels), self.rows)
        lookup = None if source.places is None else source.places.lookup
        compute(Seen(source.rows, lookup, source.batch.positions, self.taps, listed), self.reduce, self.functions, rows[:-1])
        rows[-1] = 0
        return Changes(self.batch, rows, self.places)
