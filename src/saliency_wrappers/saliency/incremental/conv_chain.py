"""`run_layers`: a chain of convolutions, run image by image with compiled kernels.

Intermediate activations of one image stay in the processor's cache; they are never stored for the whole batch.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from saliency_wrappers.saliency.incremental.gathered_matmul import Pointwise, Product, code_of, direct, packed
from saliency_wrappers.saliency.incremental.masked_input import MaskedInput, rows_of
from saliency_wrappers.saliency.incremental.memory_layout import LayerForm, layout
from saliency_wrappers.saliency.incremental.parallel import parallel_for
from saliency_wrappers.saliency.incremental.positions import Batch, ConvGeometry
from saliency_wrappers.saliency.incremental.scratch import workspace

_LARGEST = 4_000_000
"""Most activations of one image, all layers together: each thread and each reference needs memory for them."""

_WIDENING = 4
"""Most outputs of the last layer, in multiples of the inputs: they are stored as whole images."""

_MIN_CHUNK = 16
"""Fewest images that a thread takes: it copies a reference for them."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution with an optional fused activation."""

    kernel: ConvGeometry
    product: Product
    function: Pointwise | None
    """The fused activation. None: there is none."""

    @property
    def outputs(self) -> int:
        """The number of output channels."""
        return self.product.matrix.shape[1]


@dataclass(frozen=True, eq=False)
class Images:
    """Input images of a layer chain, as the kernels take them."""

    pictures: Tensor
    """`(n, positions + 1, C)`, the padding behind each image; where there are masks, each frame's reference instead, `(f, ...)`."""
    references: Tensor
    """Each frame's reference, `(f, positions + 1, C)`."""
    change: Tensor
    """`(f, positions, C)`: what a mask of 1 adds to each reference. Anything where there are no masks."""
    shares: Tensor
    """`(any, positions)`: how much of it masks add. Empty where there are none."""
    masks: Tensor
    """`(n,)` int64: which of them an image has. Anything where there are none."""

    @staticmethod
    def whole(rows: Tensor, batch: Batch) -> Images:
        """Return stored images `(n * (positions + 1), C)`, the padding behind each image."""
        pictures = rows.view(len(batch.frames), batch.positions + 1, -1)
        return Images(pictures, pictures[batch.first], pictures[:1], rows.new_empty(0, batch.positions), batch.frames)

    @staticmethod
    def masked(parts: Sequence[MaskedInput]) -> Images:
        """Return images that are computed from masks when they are needed, one frame after another."""
        x, change = (torch.stack([getattr(one, name).flatten(1).T for one in parts]) for name in ("inputs", "change"))
        pictures = functional.pad(x, (0, 0, 0, 1))
        if all(one.replaced is parts[0].replaced for one in parts):
            return Images(pictures, pictures, change, parts[0].replaced.flatten(1), torch.cat([one.rows for one in parts]))
        shares = torch.cat([rows_of(one.replaced, one.rows).flatten(1) for one in parts])
        return Images(pictures, pictures, change, shares, torch.arange(len(shares)))


def run_layers(layers: Sequence[Layer], images: Images, batch: Batch) -> tuple[Tensor, Tensor] | None:
    """Run layers with the compiled kernels.

    Args:
        layers: in execution order.
        images: their input.
        batch: where the images differ from their references.

    Returns:
        The outputs `(n * (positions' + 1), C')`, the padding behind each image, and where they are changed, `(n, h', w')` bool. None
        where no kernels fit or the chain needs too much memory.
    """
    kernels = _kernels_for(layers, images.pictures)
    if kernels is None:
        return None
    n, height, width = batch.changed.shape
    channels = images.pictures.shape[2]
    forms = tuple(LayerForm(one.kernel, one.outputs, code_of(kernels, one.function)) for one in layers)
    found = layout(forms, channels, height, width, kernels)
    positions = found.height * found.width
    if found.size > _LARGEST or positions * found.channels > _WIDENING * height * width * channels:
        return None
    out = workspace.take((n, positions + 1, found.channels), images.pictures)
    reached = workspace.take((n, positions), batch.changed)
    memory = workspace.take((len(batch.first), found.size), out).zero_()
    weights = torch.cat([packed(kernels, one.product.matrix) for one in layers])
    biases = torch.cat([one.product.biases for one in layers])
    known = (weights.detach().numpy(), biases.detach().numpy(), found.runs)
    references, first = images.references.numpy(), memory.numpy()
    parallel_for(lambda begin, end: kernels.run_references(found.table, references, *known, first, begin, end), len(first), 1)
    given = [tensor.numpy() for tensor in (images.pictures, images.change, images.shares, images.masks)]
    places = (batch.changed.view(torch.uint8).numpy(), batch.frames.numpy(), first)
    results = (out.numpy(), reached.view(torch.uint8).numpy())

    def run(begin: int, end: int) -> None:
        kernels.run_layers(found.table, *given, *places, *known, _room.of(found.size), *results, begin, end)

    parallel_for(run, n, _MIN_CHUNK)
    return out.flatten(0, 1), reached.view(n, found.height, found.width)


def _kernels_for(layers: Sequence[Layer], pictures: Tensor) -> ModuleType | None:
    """Return the kernels where the weights of all layers fit one another and the images; else None."""
    channels, kernels = pictures.shape[2], None
    if not pictures.is_cpu or pictures.dtype != torch.float32:
        return None
    for one in layers:
        kernels = direct(one.product.matrix, one.product.bias)
        if kernels is None or len(one.product.matrix) != channels * math.prod(one.kernel.size):
            return None
        channels = one.outputs
    return kernels


class _Room(threading.local):
    """One scratch buffer per thread, reused between calls."""

    def __init__(self) -> None:
        self._kept: NDArray[np.float32] = np.empty(0, np.float32)

    def of(self, size: int) -> NDArray[np.float32]:
        """Return an uninitialised buffer of `size` float32 numbers."""
        if len(self._kept) < size:
            self._kept = np.empty(size, np.float32)
        return self._kept[:size]


_room = _Room()
