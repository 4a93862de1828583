"""The kernels for processors, compiled by Numba: what the rest of this room does with PyTorch where Numba is missing.

Arrays are contiguous, and of the dtypes and shapes that are given: nothing is checked. Each function does a part of its work, from `begin`
to `end`, without holding the interpreter's lock, so that threads can share it.
"""

from __future__ import annotations

import numpy as np

from saliency_wrappers.saliency.incremental.kernels.cells import differ, gru, lstm
from saliency_wrappers.saliency.incremental.kernels.conv_chain import LAYER, run_layers, run_references
from saliency_wrappers.saliency.incremental.kernels.llvm_tiles import HEIGHT
from saliency_wrappers.saliency.incremental.kernels.llvm_vectors import ELU, IDENTITY, LANES, RELU
from saliency_wrappers.saliency.incremental.kernels.masks import count, enlist, perturb, spread, weigh
from saliency_wrappers.saliency.incremental.kernels.matmul import multiply, rearrange

__all__ = [
    "ELU",
    "HEIGHT",
    "IDENTITY",
    "LANES",
    "LAYER",
    "RELU",
    "count",
    "differ",
    "enlist",
    "gru",
    "lstm",
    "multiply",
    "perturb",
    "rearrange",
    "run_layers",
    "run_references",
    "spread",
    "warm_up",
    "weigh",
]


def warm_up() -> None:
    """Compile all kernels, or load them from Numba's cache."""
    number, byte, short, long = (np.zeros((1, 1), dtype) for dtype in (np.float32, np.uint8, np.int32, np.int64))
    line, one, pair = np.zeros((1, LANES), np.float32), (1, 1), np.zeros((1, 2), np.int32)
    count(byte, long[0], 0, 0)
    spread(byte[None], one, one, one, one, byte[None], 0, 0)
    enlist(byte, long[0], long[0], pair, short, 0, 0)
    perturb(number, number, number, long[0], number[None], 0, 0)
    weigh(number[None], np.zeros((1, 4), np.int64), number[0], number, 0, 0)
    rearrange(number[None], line[0], 0, 0)
    multiply(number, short, long, pair, line[0], line, long[0], -1, IDENTITY, line, 0, 0)
    differ(number[None], long[0], long[0], byte, number[None], short, 0, 0)
    gru(line, line, line, long[0], line, 0, 0)
    lstm(line, line, line, long[0], line, line, 0, 0)
    layers, pixel, many = np.zeros(1, LAYER), number[None], np.zeros(1, np.int64)
    run_references(layers, pixel, line[0], line[0], many, number, 0, 0)
    run_layers(layers, pixel, pixel, number, many, byte[None], many, number, line[0], line[0], many, line[0], pixel, byte, 0, 0)
