"""`run_layers`: several convolutions at once, on one image after another, where there are compiled kernels for it.

What is between the layers is never put together: it stays in the processor's cache.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from saliency_wrappers.incremental.masking import MaskedInput, rows_of
from saliency_wrappers.incremental.places import Batch, Kernel
from saliency_wrappers.incremental.products import Pointwise, Product, direct, elu, packed, relu
from saliency_wrappers.incremental.threads import share
from saliency_wrappers.incremental.workspace import workspace

_LARGEST = 4_000_000
"""How many numbers may be known of an image, all layers together: each thread and each reference needs memory for them."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution, and what follows it."""

    kernel: Kernel
    product: Product
    function: Pointwise | None
    """`relu`, `elu`, or None."""

    @property
    def outputs(self) -> int:
        """How many channels come out."""
        return self.product.matrix.shape[1]


@dataclass(frozen=True, eq=False)
class Images:
    """What layers are run on, as the kernels want it."""

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
        """Images that are there: `(n * (positions + 1), C)`, the padding behind each image."""
        pictures = rows.view(len(batch.frames), batch.positions + 1, -1)
        return Images(pictures, pictures[batch.first], pictures[:1], rows.new_empty(0, batch.positions), batch.frames)

    @staticmethod
    def masked(parts: Sequence[MaskedInput]) -> Images:
        """Images that are made as they are needed, of one frame after another."""
        x, change = (torch.stack([getattr(one, name).flatten(1).T for one in parts]) for name in ("inputs", "change"))
        pictures = functional.pad(x, (0, 0, 0, 1))
        if all(one.replaced is parts[0].replaced for one in parts):
            return Images(pictures, pictures, change, parts[0].replaced.flatten(1), torch.cat([one.rows for one in parts]))
        shares = torch.cat([rows_of(one.replaced, one.rows).flatten(1) for one in parts])
        return Images(pictures, pictures, change, shares, torch.arange(len(shares)))


def kernels_for(layers: Sequence[Layer], images: Tensor, size: tuple[int, int, int]) -> ModuleType | None:
    """The kernels that run these layers on images `(C, h, w)` like the tensor. None where they do not."""
    channels, compiled = size[0], None
    if not images.is_cpu or images.dtype != torch.float32:
        return None
    for one in layers:
        compiled = direct(one.product.matrix, one.product.bias)
        if compiled is None or len(one.product.matrix) != channels * one.kernel.size[0] * one.kernel.size[1]:
            return None
        channels = one.outputs
    if compiled is None or _geometry(layers, size, compiled)[1] > _LARGEST:
        return None
    # What comes out is put together as whole images.
    return compiled if math.prod(_size_after(layers, size[1:])) * channels <= 4 * math.prod(size) else None


def run_layers(compiled: ModuleType, layers: Sequence[Layer], images: Images, batch: Batch) -> tuple[Tensor, Tensor]:
    """Run layers by the kernels for them.

    Args:
        compiled: the kernels.
        layers: what to run, first things first.
        images: what to run them on.
        batch: what the images are about.

    Returns:
        What comes out, `(n * (positions' + 1), C')`, the padding behind each image, and where that is changed, `(n, h', w')` bool.
    """
    n, height, width = batch.changed.shape
    channels, size = images.pictures.shape[2], _size_after(layers, (height, width))
    table, needed = _geometry(layers, (channels, height, width), compiled)
    out = workspace.take((n, math.prod(size) + 1, layers[-1].outputs), images.pictures)
    reached = workspace.take((n, math.prod(size)), batch.changed)
    memory = workspace.take((len(batch.first), needed), out).zero_()
    weights = torch.cat([packed(compiled, one.product.matrix) for one in layers])
    biases = torch.cat([weights.new_zeros(one.outputs) if one.product.bias is None else one.product.bias for one in layers])
    known, first = [tensor.detach().numpy() for tensor in (weights, biases, _runs(layers, channels, width))], memory.numpy()
    references = images.references.numpy()
    share(lambda begin, end: compiled.run_references(table, references, *known, first, begin, end), len(first), 1)
    given = [tensor.numpy() for tensor in (images.pictures, images.change, images.shares, images.masks)]
    places = (batch.changed.view(torch.uint8).numpy(), batch.frames.numpy(), first)
    results = (out.numpy(), reached.view(torch.uint8).numpy())

    def run(begin: int, end: int) -> None:
        compiled.run_layers(table, *given, *places, *known, _room.of(needed), *results, begin, end)

    share(run, n, _LEAST)
    return out.flatten(0, 1), reached.view(n, *size)


_LEAST = 16
"""How many images a thread takes at least: it copies a reference for them."""


class _Room(threading.local):
    """Memory of each thread, kept for the next time."""

    def __init__(self) -> None:
        self._kept: NDArray[np.float32] = np.empty(0, np.float32)

    def of(self, size: int) -> NDArray[np.float32]:
        """So many numbers, whatever they are."""
        if len(self._kept) < size:
            self._kept = np.empty(size, np.float32)
        return self._kept[:size]


_room = _Room()


def _size_after(layers: Sequence[Layer], size: tuple[int, int]) -> tuple[int, int]:
    height, width = size
    for one in layers:
        height, width = one.kernel.outputs(0, height), one.kernel.outputs(1, width)
    return height, width


def _runs(layers: Sequence[Layer], channels: int, width: int) -> Tensor:
    parts: list[Tensor] = []
    for one in layers:
        parts.append(_runs_of(one.kernel, channels, width + 2 * one.kernel.padding[1]))
        channels, width = one.outputs, one.kernel.outputs(1, width)
    return torch.cat(parts)


@lru_cache(maxsize=256)
def _runs_of(kernel: Kernel, channels: int, line: int) -> Tensor:
    """Where in a window each run begins, in an image with `line` positions from row to row."""
    down = torch.arange(kernel.size[0])[:, None] * kernel.dilation[0] * line
    along = torch.zeros(1, dtype=torch.int64) if kernel.dilation[1] == 1 else torch.arange(kernel.size[1]) * kernel.dilation[1]
    return ((down + along) * channels).flatten()


def _geometry(layers: Sequence[Layer], size: tuple[int, int, int], compiled: ModuleType) -> tuple[NDArray[Any], int]:
    """The layers' table, and how many numbers are known of an image."""
    codes = {None: compiled.IDENTITY, relu: compiled.RELU, elu: compiled.ELU}
    return _table(tuple((one.kernel, one.outputs, codes[one.function]) for one in layers), size, compiled)


@lru_cache(maxsize=64)
def _table(
    layers: tuple[tuple[Kernel, int, int], ...], size: tuple[int, int, int], compiled: ModuleType
) -> tuple[NDArray[Any], int]:
    table = np.zeros(len(layers), compiled.LAYER)
    paddings = [kernel.padding for kernel, _, _ in layers[1:]] + [(0, 0)]
    channels, height, width = size
    memory = marks = weights = biases = runs = listed = 0
    for own, (kernel, outputs, follows), (above, beside) in zip(table, layers, paddings, strict=True):
        rows, columns = kernel.outputs(0, height), kernel.outputs(1, width)
        together = kernel.size[1] if kernel.dilation[1] == 1 else 1
        count = kernel.size[0] * kernel.size[1] // together
        line, to_line = width + 2 * kernel.padding[1], columns + 2 * beside
        next_memory = memory + (height + 2 * kernel.padding[0]) * line * channels
        values: dict[str, int] = {
            **{"height": height, "width": width, "channels": channels, "rows": rows, "columns": columns, "outputs": outputs},
            **{"follows": follows, "weights": weights, "biases": biases, "list_": listed, "run_length": together * channels},
            **{"first_run": runs, "last_run": runs + count, "from_": memory, "line": line, "to_": next_memory, "to_line": to_line},
            **{"to_padding": above * to_line + beside, "marks": marks},
        }
        for name in ("size", "stride", "padding", "dilation"):
            values[f"{name}_y"], values[f"{name}_x"] = getattr(kernel, name)
        for name, value in values.items():
            own[name] = value
        weights, biases, runs = weights + count * together * channels * outputs, biases + outputs, runs + count
        listed, marks = listed + rows * columns + compiled.HEIGHT, marks + rows * columns
        memory, height, width, channels = next_memory, rows, columns, outputs
    return table, memory + height * width * channels
