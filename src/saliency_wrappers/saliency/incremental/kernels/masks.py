"""Kernels of images, of masks, and of where they change something."""

from __future__ import annotations

from typing import Any

import numpy as np

from saliency_wrappers.saliency.incremental.kernels.jit import compiled


@compiled
def count(changed: Any, counts: Any, begin: int, end: int) -> None:
    """Count the changed positions.

    Args:
        changed: `(n, positions)` uint8, 0 or 1.
        counts: to be filled, `(n,)` int64.
        begin: the first image.
        end: the one after the last.
    """
    for i in range(begin, end):
        total = np.int64(0)
        for p in range(changed.shape[1]):
            total += changed[i, p]
        counts[i] = total


@compiled
def spread(changed: Any, size: Any, stride: Any, padding: Any, dilation: Any, seen: Any, begin: int, end: int) -> None:
    """Find the outputs whose receptive field holds a changed position.

    Args:
        changed: `(n, h, w)` uint8, 0 or 1.
        size: of the kernel, vertical first.
        stride: the same.
        padding: the same.
        dilation: the same.
        seen: to be filled, `(n, h', w')` uint8, 0 or 1.
        begin: the first image.
        end: the one after the last.
    """
    # Unsigned indices: signed ones might count from the end, which keeps loops from being done several at a time.
    _, rows, columns = seen.shape
    step, reach = np.uintp(stride[1]), np.uintp((columns - 1) * stride[1] + 1)
    tall = np.zeros(padding[1] + max(changed.shape[2], reach + dilation[1] * size[1]), np.uint8)
    whole = np.empty(reach, np.uint8)
    for i in range(begin, end):
        for y in range(rows):
            found = _vertically(changed, i, y * stride[0] - padding[0], size[0], dilation[0], tall, np.uintp(padding[1]))
            for x in range(reach):
                whole[x] = 0
            for tap in range(size[1] if found else 0):
                shift = np.uintp(tap * dilation[1])
                for x in range(reach):  # also where the kernel steps over: to step costs more
                    whole[x] |= tall[x + shift]
            for x in range(columns):
                seen[i, y, x] = whole[np.uintp(x) * step]


@compiled
def _vertically(changed: Any, i: int, top: int, size: int, dilation: int, line: Any, first: int) -> Any:
    """Combine some rows of an image by `or` into `line` from `first` on, and return whether any bit is set."""
    width = np.uintp(changed.shape[2])
    for x in range(width):
        line[first + x] = 0
    for tap in range(size):
        row = top + tap * dilation
        if 0 <= row < changed.shape[1]:
            for x in range(width):
                line[first + x] |= changed[i, np.uintp(row), x]
    found = np.uint8(0)
    for x in range(width):
        found |= line[first + x]
    return found


@compiled
def enlist(changed: Any, frames: Any, firsts: Any, places: Any, lookup: Any, begin: int, end: int) -> None:
    """List the changed positions, and where each position's row is to be.

    Args:
        changed: `(n, positions)` uint8, 0 or 1.
        frames: `(n,)` int64: which reference an image belongs to.
        firsts: `(n,)` int64: the place of each image's first changed position.
        places: to be filled from `firsts` on, `(m, 2)` int32: image and position.
        lookup: to be filled, `(n, positions + 1)` int32; the padding's row is behind those of all places.
        begin: the first image.
        end: the one after the last.
    """
    positions = changed.shape[1]
    found = np.empty(positions + 1, np.int32)
    for i in range(begin, end):
        known, base, first = np.int64(0), frames[i] * positions, firsts[i]
        for p in range(positions):  # without a branch, which could not be foreseen: what is not changed is overwritten by what is
            found[known] = p
            lookup[i, p] = first + known if changed[i, p] else base + p
            known += np.int64(changed[i, p])
        for k in range(known):
            places[first + k, 0] = i
            places[first + k, 1] = found[k]
        lookup[i, positions] = len(places)


@compiled
def perturb(inputs: Any, change: Any, replaced: Any, rows: Any, images: Any, begin: int, end: int) -> None:
    """Apply masks.

    Args:
        inputs: x, `(positions, C)` float32.
        change: `f - x`, `(positions, C)` float32.
        replaced: `1 - m` of all masks, `(any, positions)` float32.
        rows: `(n,)` int64: which of them.
        images: to be filled, `(n, positions + 1, C)` float32, the padding behind each image.
        begin: the first image.
        end: the one after the last.
    """
    positions, channels = inputs.shape
    for i in range(begin, end):
        shares = replaced[rows[i]]
        for p in range(positions if channels == 1 else 0):  # several at a time
            images[i, p, 0] = inputs[p, 0] + shares[p] * change[p, 0]
        for p in range(positions if channels > 1 else 0):
            for c in range(channels):
                images[i, p, c] = inputs[p, c] + shares[p] * change[p, c]
        images[i, positions] = 0


@compiled
def weigh(replaced: Any, boxes: Any, scores: Any, total: Any, begin: int, end: int) -> None:
    """Accumulate masks, weighted by their scores.

    Args:
        replaced: `(n, h, w)` float32.
        boxes: `(n, 4)` int64: the first row and the one after the last, the first column and the one after the last; else a mask is 0.
        scores: `(n,)` float32.
        total: to be filled, `(h, w)` float32.
        begin: the first row of it.
        end: the one after the last.
    """
    total[begin:end] = 0
    for k in range(len(boxes)):
        left, length, score = boxes[k, 2], np.uintp(boxes[k, 3] - boxes[k, 2]), scores[k]
        for y in range(max(begin, boxes[k, 0]), min(end, boxes[k, 1])):
            row, mask = total[y, left:], replaced[k, y, left:]
            for x in range(length):
                row[x] += score * mask[x]
