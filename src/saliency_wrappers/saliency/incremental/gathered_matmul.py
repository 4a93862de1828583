"""`compute`: what a layer makes of the rows that it sees (`Seen`) in each of its places, and the functions that follow it.

A `Product` is done by the compiled kernel where there is one; for everything else the rows are gathered, a cache-sized piece at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from saliency_wrappers.saliency.incremental.kernels import load_kernels
from saliency_wrappers.saliency.incremental.parallel import parallel_for
from saliency_wrappers.saliency.incremental.scratch import workspace

PIECE = 1_000_000
"""How many numbers are gathered at a time."""

Pointwise = Callable[[Tensor], Tensor]
"""A function of the channels of each position, `(any, C)` to `(any, C)`."""

Reduce = Callable[[Tensor, Tensor], object]
"""What a layer makes of the positions that its kernel sees: from `(m, taps, C)` into `(m, C_out)`."""


@dataclass(frozen=True, eq=False)
class Seen:
    """Rows of the receptive field in each of m output positions (implicit im2col)."""

    rows: Tensor
    """`(any, C)`."""
    lookup: Tensor | None
    """`(n, positions + 1)` int32: where in `rows` an image's positions are. None: one after another, image by image."""
    positions: int
    """How many an image has."""
    taps: Tensor
    """`(positions', taps)` int64: the positions that the layer sees in each of its own."""
    places: Tensor
    """`(m, 2)` int32: of which image, and which position of the layer is wanted."""
    idle: int = -1
    """A row that is 0, if many places see it. -1: none."""

    @property
    def images(self) -> int:
        """The number of images."""
        return len(self.rows) // (self.positions + 1) if self.lookup is None else len(self.lookup)

    def gather(self, begin: int, end: int, out: Tensor) -> Tensor:
        """Gather the rows of some output positions into `out`, `(end - begin, taps, C)`."""
        image, position = self.places[begin:end].long().unbind(1)
        rows = self.taps.index_select(0, position).add_(image[:, None] * (self.positions + 1)).flatten()
        if self.lookup is not None:
            rows = self.lookup.view(-1).index_select(0, rows)
        if self.rows.shape[1] == 1:  # several times as fast as rows of one number
            torch.index_select(self.rows.view(-1), 0, rows, out=out.view(-1))
        else:
            torch.index_select(self.rows, 0, rows, out=out.view(-1, out.shape[2]))
        return out


@dataclass(frozen=True, eq=False)
class Product:
    """Matrix product with `matrix` `(taps * C, C_out)`, plus `bias` `(C_out,)`."""

    matrix: Tensor
    bias: Tensor | None

    @property
    def biases(self) -> Tensor:
        """The initial values of the sums, `(C_out,)`: the bias, or 0."""
        return self.matrix.new_zeros(self.matrix.shape[1]) if self.bias is None else self.bias

    def __call__(self, seen: Tensor, out: Tensor) -> None:
        """Multiply `(m, taps, C)` into `(m, C_out)`."""
        torch.mm(seen.flatten(1), self.matrix, out=out)
        if self.bias is not None:
            out.add_(self.bias)  # in half the time that addmm takes for it

    def fits(self, seen: Seen, out: Tensor) -> bool:
        """Whether the matrix fits the rows: kernels do not ask, where PyTorch would complain."""
        expected = (seen.taps.shape[1] * seen.rows.shape[1], out.shape[1])
        return self.matrix.shape == expected and self.matrix.dtype == seen.rows.dtype == out.dtype


def compute(seen: Seen, reduce: Reduce, functions: Sequence[Pointwise], out: Tensor) -> None:
    """Compute a gathered matrix product (implicit im2col) with fused activations into `out`, `(m, C_out)`."""
    if isinstance(reduce, Product) and reduce.fits(seen, out) and (kernels := direct(reduce.matrix, reduce.bias)) is not None:
        _at_once(kernels, seen, reduce, functions, out)
    else:
        _piece_by_piece(seen, reduce, functions, out)


def direct(matrix: Tensor, bias: Tensor | None) -> ModuleType | None:
    """Return the kernels for a product with `matrix` `(any, C_out)` and `bias` `(C_out,)`. None where there are none."""
    width, parts = matrix.shape[1], [part for part in (matrix, bias) if part is not None]
    found = load_kernels(matrix) if all(part.dtype == torch.float32 and part.is_cpu for part in parts) else None
    fitting = found is not None and width > 0 and width % found.LANES == 0 and (bias is None or bias.shape == (width,))
    return found if fitting else None


def relu(rows: Tensor) -> Tensor:
    """Apply `relu` in place."""
    return rows.relu_()


def elu(rows: Tensor) -> Tensor:
    """Apply `elu` in place, within 1e-7, in three quarters of PyTorch's time."""
    return torch.maximum(rows, rows.clamp(max=0).exp_().sub_(1), out=rows)


def at_once(functions: Sequence[Pointwise]) -> Pointwise | None:
    """Return the first activation if kernels can fuse it with their product; else None."""
    return functions[0] if functions and functions[0] in (relu, elu) else None


def code_of(kernels: ModuleType, function: Pointwise | None) -> int:
    """Return the kernels' code of a fused activation."""
    codes: dict[Pointwise | None, int] = {None: kernels.IDENTITY, relu: kernels.RELU, elu: kernels.ELU}
    return codes[function]


def _piece_by_piece(seen: Seen, reduce: Reduce, functions: Sequence[Pointwise], out: Tensor) -> None:
    m, taps, channels = len(out), seen.taps.shape[1], seen.rows.shape[1]
    size = max(1, PIECE // (taps * channels + 2 * out.shape[1]))
    scratch = workspace.take((min(m, size), taps, channels), seen.rows)
    for begin in range(0, m, size):
        end = min(begin + size, m)
        reduce(seen.gather(begin, end, out=scratch[: end - begin]), out[begin:end])
        for function in functions:
            _apply(function, out[begin:end])


def _apply(function: Pointwise, rows: Tensor) -> None:
    result = function(rows)
    if result.data_ptr() != rows.data_ptr():
        rows[:] = result


def _at_once(kernels: ModuleType, seen: Seen, product: Product, functions: Sequence[Pointwise], out: Tensor) -> None:
    first = at_once(functions)
    begins = seen.taps.new_zeros(seen.images)
    multiply(kernels, seen, packed(kernels, product.matrix), product.biases[None], begins, out, code_of(kernels, first))
    for function in functions[first is not None :]:
        _apply(function, out)


def packed(kernels: ModuleType, matrix: Tensor) -> Tensor:
    """Pack a matrix `(any, C_out)` as `multiply` takes it: blocks of two vectors of columns, the last one with the rest."""
    return torch.cat([block.flatten() for block in matrix.split(2 * kernels.LANES, dim=1)])


def multiply(kernels: ModuleType, seen: Seen, weights: Tensor, biases: Tensor, begins: Tensor, out: Tensor, follows: int = 0) -> None:
    """Compute the product by the kernel.

    Args:
        kernels: the kernels.
        seen: what is multiplied.
        weights: the matrix, `packed`.
        biases: what sums begin with, `(any, C_out)`.
        begins: which of them an image's do, `(n,)` int64.
        out: to be filled, `(m, C_out)`.
        follows: what follows, a number of the kernels'. 0: nothing.
    """
    lookup = seen.places.new_empty(0, seen.positions + 1) if seen.lookup is None else seen.lookup
    tensors = (seen.rows, lookup, seen.taps, seen.places, weights, biases, begins)
    arrays: list[Any] = [tensor.detach().contiguous().numpy() for tensor in tensors]
    result, least = out.numpy(), max(32, 3_000_000 // weights.numel())
    parallel_for(lambda begin, end: kernels.multiply(*arrays, seen.idle, follows, result, begin, end), len(out), least)
