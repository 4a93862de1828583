"""`Changes`: a batch of images that differ from reference images in few places, and how layers act on it by computing only there.

A perturbed input is the input itself outside a small window, and so is every convolution's output outside a somewhat larger one (the idea
of Krypton: Nakandala, Nagrecha, Kumar and Papakonstantinou, SIGMOD 2019). Here no windows are cut: the changed positions are listed,
whatever their outline, and each layer takes what it needs for them. `Pending` is what a layer will have computed, so that the functions
that follow it are applied while its numbers are still in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from saliency_wrappers.saliency.incremental.conv_chain import Images, Layer, run_layers
from saliency_wrappers.saliency.incremental.gathered_matmul import Pointwise, Product, Reduce, Seen, at_once, compute
from saliency_wrappers.saliency.incremental.masked_input import MaskedInput, masked_images
from saliency_wrappers.saliency.incremental.positions import Batch, ConvGeometry, Places, dilated, slide
from saliency_wrappers.saliency.incremental.scratch import workspace


@dataclass(frozen=True, eq=False)
class Changes:
    """A batch of images `(n, C, h, w)`: f reference images, and the values of each image's changed positions."""

    batch: Batch
    rows: Tensor
    """`(any, C)`: the channels at one position each: the references', then those of the changed positions, and last the padding, 0."""
    places: Places | None
    """Which positions `rows` are. None: all of all images, each image's padding behind it."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape `(n, C, h, w)`."""
        n, height, width = self.batch.changed.shape
        return n, self.rows.shape[1], height, width

    @property
    def share(self) -> float:
        """The fraction of positions that were computed, 0 to 1."""
        if self.places is None:
            return 1.0
        return self.places.changed / self.batch.changed.numel()

    @property
    def settled(self) -> Changes:
        """The images themselves, which are computed already."""
        return self

    @property
    def as_given(self) -> Images | None:
        """The input of a layer chain. None where changed positions are listed."""
        return Images.whole(self.rows, self.batch) if self.places is None else None

    def dense(self) -> Tensor:
        """Return all images, `(n, C, h, w)`."""
        n, channels, height, width = self.shape
        if self.places is None:
            rows = self.rows.view(n, -1, channels)[:, :-1].clone()
        else:
            rows = self.rows.index_select(0, self.places.lookup[:, :-1].flatten())
        return rows.view(n, height, width, channels).permute(0, 3, 1, 2)

    def pointwise(self, function: Pointwise) -> Changes:
        """Apply a function to the images, in place if it works in place."""
        rows = function(self.rows)
        padding = rows[-1:] if self.places is not None else rows.view(len(self.batch.frames), -1, rows.shape[1])[:, -1]
        padding.zero_()
        return replace(self, rows=rows)


def convolved(images: AnyImages, weight: Tensor, bias: Tensor | None, kernel: ConvGeometry) -> Pending:
    """Convolve images, which may be pending themselves, with `weight` `(C_out, C, *kernel.size)` and `bias` `(C_out,)`."""
    return Pending(images, kernel, Product(weight.permute(2, 3, 1, 0).reshape(-1, len(weight)), bias), len(weight))


@dataclass(frozen=True, eq=False)
class Masked:
    """Inputs under masks; no image has been computed yet."""

    batch: Batch
    parts: Sequence[MaskedInput]
    """One for each frame."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape `(n, C, h, w)`."""
        n, height, width = self.batch.changed.shape
        return n, len(self.parts[0].inputs), height, width

    @property
    def rows(self) -> Tensor:
        """A tensor of the images' dtype and device."""
        return self.parts[0].inputs

    @property
    def as_given(self) -> Images:
        """The input of a layer chain. None where changed positions are listed."""
        return Images.masked(self.parts)

    @cached_property
    def settled(self) -> Changes:
        """The images, computed now, the padding behind each."""
        n, channels, height, width = self.shape
        images = workspace.take((n, height * width + 1, channels), self.rows)
        for one, part in zip(self.parts, images.split([len(one.rows) for one in self.parts]), strict=True):
            masked_images(one, out=part)
        return Changes(self.batch, images.flatten(0, 1), None)

    def pointwise(self, function: Pointwise) -> Changes:
        """Apply a function to the images."""
        return self.settled.pointwise(function)


@dataclass(frozen=True, eq=False)
class Pending:
    """A layer, with fused activations, that has not been computed yet."""

    source: AnyImages
    kernel: ConvGeometry
    reduce: Reduce
    """Computes outputs from gathered receptive fields."""
    channels: int
    """Output channels."""
    taps: Tensor | None = None
    """`(h' * w', taps)` int64: the positions that the kernel sees. None: as `slide` gives them."""
    functions: tuple[Pointwise, ...] = ()

    @cached_property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape `(n, C_out, h', w')`."""
        n, _, height, width = self.source.shape
        return n, self.channels, self.kernel.outputs(0, height), self.kernel.outputs(1, width)

    @property
    def rows(self) -> Tensor:
        """A tensor of the output's dtype and device."""
        return self.source.rows

    @cached_property
    def batch(self) -> Batch:
        """The positions in which outputs differ from their references."""
        return replace(self.source.batch, changed=dilated(self.source.batch.changed, self.kernel))

    @cached_property
    def places(self) -> Places:
        """The positions that are to be computed."""
        return Places.of(self.batch)

    @property
    def share(self) -> float:
        """The fraction of positions that are to be computed, 0 to 1."""
        return self.places.changed / self.batch.changed.numel()

    @property
    def as_given(self) -> Images | None:
        """The input of a layer chain. None where changed positions are listed."""
        return self.settled.as_given

    def pointwise(self, function: Pointwise) -> Pending:
        """Apply a function to the images, which may work in place and keeps the dtype."""
        return replace(self, functions=(*self.functions, function))

    @cached_property
    def settled(self) -> Changes:
        """The images, computed now."""
        layers, images = self._layers
        given = images.as_given if layers else None
        done = None if given is None else run_layers(layers, given, images.batch)
        if done is None:
            return self._by_itself()
        result = Changes(replace(images.batch, changed=done[1]), done[0], None)
        for function in self.functions[layers[-1].function is not None :]:
            result = result.pointwise(function)
        return result

    @property
    def _layers(self) -> tuple[list[Layer], AnyImages]:
        """Return the layers that one kernel can compute, this one last, and their input images; none where this one cannot be fused."""
        images, layers = self, list[Layer]()
        while isinstance(images, Pending) and (layer := images._layer) is not None:
            if images is not self and len(images.functions) > (layer.function is not None):
                break
            layers.insert(0, layer)
            images = images.source
        return layers, images

    @property
    def _layer(self) -> Layer | None:
        """Return the layer with its fused activation, if the first function is one that can be fused."""
        if not isinstance(self.reduce, Product):
            return None
        return Layer(self.kernel, self.reduce, at_once(self.functions))

    def _by_itself(self) -> Changes:
        """Compute this layer by itself, from computed images."""
        # The references by the same products as the changed positions: then both are rounded alike.
        listed, source = self.places.listed, self.source.settled
        _, _, height, width = source.shape
        taps = slide(height, width, self.kernel, source.rows.device) if self.taps is None else self.taps
        rows = workspace.take((len(listed) + 1, self.channels), source.rows)
        lookup = None if source.places is None else source.places.lookup
        compute(Seen(source.rows, lookup, source.batch.positions, taps, listed), self.reduce, self.functions, rows[:-1])
        rows[-1] = 0
        return Changes(self.batch, rows, self.places)


AnyImages = Masked | Changes | Pending
"""Images in any stage of computation."""
