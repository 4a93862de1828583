"""Kernels of recurrent cells, and of what they see: by how much images differ from their references."""

from __future__ import annotations

from typing import Any

import numpy as np

from saliency_wrappers.saliency.incremental.kernels.jit import compiled
from saliency_wrappers.saliency.incremental.kernels.llvm_tiles import function_of
from saliency_wrappers.saliency.incremental.kernels.llvm_vectors import exponential

_exponential = function_of(exponential)


@compiled
def differ(images: Any, frames: Any, firsts: Any, changed: Any, rows: Any, lookup: Any, begin: int, end: int) -> None:
    """Compute the differences of images from their references.

    Args:
        images: `(n, positions + 1, C)` float32, the padding behind each image.
        frames: `(n,)` int64: which reference an image belongs to.
        firsts: `(f,)` int64: which image is each frame's reference.
        changed: `(n, positions)` uint8, 0 or 1: where images differ from it.
        rows: to be filled, `(n, positions + 1, C)` float32: by how much; 0 in the padding.
        lookup: to be filled, `(n, positions + 1)` int32: where in `rows` each changed position is; for others the first image's padding.
        begin: the first image.
        end: the one after the last.
    """
    positions, length = changed.shape[1], np.uintp(images.shape[1] * images.shape[2])
    for i in range(begin, end):
        own, reference, row = images[i].reshape(-1), images[firsts[frames[i]]].reshape(-1), rows[i].reshape(-1)
        for k in range(length):
            row[k] = own[k] - reference[k]
        for p in range(positions):
            lookup[i, p] = i * (positions + 1) + p if changed[i, p] else positions
        lookup[i, positions] = positions


@compiled
def gru(seen: Any, remembered: Any, states: Any, frames: Any, out: Any, begin: int, end: int) -> None:
    """Compute a GRU cell, as `torch.gru_cell`.

    Args:
        seen: what it makes of its input, `(n, 3 * hidden)` float32.
        remembered: what it makes of each frame's state, `(f, 3 * hidden)` float32.
        states: each frame's, `(f, hidden)` float32.
        frames: `(n,)` int64: which of them a row belongs to.
        out: to be filled, `(n, hidden)` float32.
        begin: the first row.
        end: the one after the last.
    """
    hidden = np.uintp(out.shape[1])
    for i in range(begin, end):
        row, known, state = seen[i], remembered[frames[i]], states[frames[i]]
        r, z, new = row[:hidden], row[hidden : 2 * hidden], row[2 * hidden :]
        known_r, known_z, known_new = known[:hidden], known[hidden : 2 * hidden], known[2 * hidden :]
        result = out[i]
        for j in range(hidden):
            candidate = _tanh(new[j] + _sigmoid(r[j], known_r[j]) * known_new[j])
            result[j] = candidate + _sigmoid(z[j], known_z[j]) * (state[j] - candidate)


@compiled
def lstm(seen: Any, remembered: Any, cells: Any, frames: Any, hidden: Any, cell: Any, begin: int, end: int) -> None:
    """Compute an LSTM cell, as `torch.lstm_cell`.

    Args:
        seen: what it makes of its input, `(n, 4 * hidden)` float32.
        remembered: what it makes of each frame's hidden state, `(f, 4 * hidden)` float32.
        cells: each frame's cell state, `(f, hidden)` float32.
        frames: `(n,)` int64: which of them a row belongs to.
        hidden: to be filled, `(n, hidden)` float32.
        cell: to be filled, the same.
        begin: the first row.
        end: the one after the last.
    """
    size = np.uintp(hidden.shape[1])
    for i in range(begin, end):
        row, known, before, after, shown = seen[i], remembered[frames[i]], cells[frames[i]], cell[i], hidden[i]
        for j in range(size):
            kept = _sigmoid(row[size + j], known[size + j]) * before[j]
            after[j] = kept + _sigmoid(row[j], known[j]) * _tanh(np.float64(row[2 * size + j]) + known[2 * size + j])
        for j in range(size):
            shown[j] = _sigmoid(row[3 * size + j], known[3 * size + j]) * _tanh(np.float64(after[j]))


# In double precision: what float32 loses in each gate is about as much as masks change outputs that hardly depend on them.
@compiled
def _sigmoid(x: Any, y: Any) -> Any:
    both = np.float64(x) + y
    share = _exponential(-abs(both))
    return (1.0 if both >= 0 else share) / (1.0 + share)


@compiled
def _tanh(x: Any) -> Any:
    share = _exponential(-2.0 * abs(x))
    size = (1.0 - share) / (1.0 + share)
    return size if x >= 0 else -size
