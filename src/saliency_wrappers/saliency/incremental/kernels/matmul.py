"""Kernels of products: `multiply` takes its rows from where they lie, instead of having them gathered."""

from __future__ import annotations

from typing import Any

from saliency_wrappers.saliency.incremental.kernels.jit import compiled
from saliency_wrappers.saliency.incremental.kernels.llvm_tiles import HEIGHT, tile
from saliency_wrappers.saliency.incremental.kernels.llvm_vectors import LANES

_tile_of_two, _tile_of_one, _row_of_two, _row_of_one = tile(HEIGHT, 2), tile(HEIGHT, 1), tile(1, 2), tile(1, 1)


@compiled
def multiply(
    rows: Any,
    lookup: Any,
    taps: Any,
    places: Any,
    weights: Any,
    biases: Any,
    begins: Any,
    idle: int,
    follows: int,
    out: Any,
    begin: int,
    end: int,
) -> None:
    """Compute a gathered matrix product (implicit im2col) with a fused activation.

    Args:
        rows: `(any, C)` float32.
        lookup: `(n, positions + 1)` int32: where in `rows` an image's positions are. Empty: one after another.
        taps: `(positions', taps)` int64: the positions that the layer sees in each of its own.
        places: `(m, 2)` int32: of which image, and which position is computed.
        weights: `(any,)` float32: for each `2 * LANES` outputs, or the last `LANES`, `(taps, C, outputs)`.
        biases: `(any, C_out)` float32, of which `C_out` is a multiple of `LANES`.
        begins: `(n,)` int64: which of them an image has.
        idle: a row that is 0: a tap is left out where all rows of a tile are it. -1: none.
        follows: `IDENTITY`, `RELU` or `ELU`.
        out: to be filled, `(m, C_out)` float32.
        begin: the first place.
        end: the one after the last.
    """
    width, tiles = out.shape[1], begin + (end - begin) // HEIGHT * HEIGHT
    twos, size, at = width // (2 * LANES) * (2 * LANES), taps.shape[1] * rows.shape[1], 0
    for column in range(0, twos, 2 * LANES):
        for i in range(begin, tiles, HEIGHT):
            _tile_of_two(rows, lookup, taps, places, weights, at, biases, begins, idle, follows, out, i, column)
        for i in range(tiles, end):
            _row_of_two(rows, lookup, taps, places, weights, at, biases, begins, idle, follows, out, i, column)
        at += size * 2 * LANES
    for column in range(twos, width, LANES):
        for i in range(begin, tiles, HEIGHT):
            _tile_of_one(rows, lookup, taps, places, weights, at, biases, begins, idle, follows, out, i, column)
        for i in range(tiles, end):
            _row_of_one(rows, lookup, taps, places, weights, at, biases, begins, idle, follows, out, i, column)
        at += size * LANES


@compiled
def rearrange(weight: Any, weights: Any, begin: int, end: int) -> None:
    """Rearrange the weights of flattened images by positions, as `multiply` takes them.

    Args:
        weight: `(C_out, C, positions)` float32.
        weights: to be filled, `(any,)` float32: for each `2 * LANES` outputs, or the last `LANES`, `(positions, C, outputs)`.
        begin: the first vector of outputs.
        end: the one after the last.
    """
    outputs, channels, positions = weight.shape
    size, paired = channels * positions, outputs // (2 * LANES) * 2
    for vector in range(begin, end):
        first = vector * LANES
        line, place = (2 * LANES, vector // 2 * 2 * LANES * size + vector % 2 * LANES) if vector < paired else (LANES, first * size)
        for p in range(positions):
            for c in range(channels):
                for j in range(LANES):
                    weights[place + (p * channels + c) * line + j] = weight[first + j, c, p]
