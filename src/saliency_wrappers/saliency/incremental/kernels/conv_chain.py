"""Kernels that run several layers on one image after another, while all that is known of it stays in the processor's cache.

Each image begins as its reference: of every layer's activations only those that its changes reach are computed, and put back afterwards.
`LAYER` says what a layer is and where its things are. Arrays are given as `run_layers` says; nothing is checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from saliency_wrappers.saliency.incremental.kernels.jit import compiled
from saliency_wrappers.saliency.incremental.kernels.llvm_tiles import HEIGHT, copier, window_tile
from saliency_wrappers.saliency.incremental.kernels.llvm_vectors import LANES

_PAIRS = "size stride padding dilation".split()
_PLACES = "height width channels rows columns outputs follows weights biases first_run last_run run_length".split()
_WHERE = "from_ line to_ to_line to_padding marks list_".split()
LAYER = np.dtype([(name, np.int64) for name in _PLACES + _WHERE] + [(f"{name}_{axis}", np.int64) for name in _PAIRS for axis in ("y", "x")])
"""A convolution `(height, width, channels)` to `(rows, columns, outputs)`, and the function that follows.

`weights`, `biases`, `first_run`, `last_run`: where its own are in the arrays of all layers; `run_length`: numbers of a window that lie
together. `from_`, `to_`: where its input and output begin in an image's memory, padding included; `line`, `to_line`: positions from row to
row there; `to_padding`: positions until the first output that is not padding. `marks`: where its outputs' marks begin. `list_`: where the
list of computed outputs begins.
"""

_tile_of_two, _tile_of_one, _copy = window_tile(HEIGHT, 2), window_tile(HEIGHT, 1), copier()


@compiled
def run_references(layers: Any, images: Any, weights: Any, biases: Any, runs: Any, memory: Any, begin: int, end: int) -> None:
    """Run the layers on whole reference images.

    Args:
        layers: as for `run_layers`.
        images: `(f, positions + 1, C)` float32, the padding behind each image.
        weights: as for `run_layers`.
        biases: the same.
        runs: the same.
        memory: to be filled, `(f, any)` float32, 0 where padding is.
        begin: the first frame.
        end: the one after the last.
    """
    most = 0
    for number in range(len(layers)):
        most = max(most, layers[number].rows * layers[number].columns)
    starts, targets = np.empty(most + HEIGHT, np.int64), np.empty(most + HEIGHT, np.int64)
    for frame in range(begin, end):
        first = layers[0]
        _put(first, images[frame], memory[frame], 0, first.height, 0, first.width)
        for number in range(len(layers)):
            layer, count = layers[number], 0
            for y in range(layer.rows):
                for x in range(layer.columns):
                    starts[count], targets[count] = _place(layer, y, x)
                    count += 1
            _multiply(layer, memory[frame], starts, targets, count, weights, biases, runs)


@compiled
def run_layers(
    layers: Any,
    images: Any,
    change: Any,
    shares: Any,
    masks: Any,
    changed: Any,
    frames: Any,
    references: Any,
    weights: Any,
    biases: Any,
    runs: Any,
    memory: Any,
    out: Any,
    reached: Any,
    begin: int,
    end: int,
) -> None:
    """Run the layers on what images change.

    Args:
        layers: `(l,)` of `LAYER`.
        images: `(n, positions + 1, C)` float32, the padding behind each image; where there are masks, that many references instead.
        change: `(f, positions, C)` float32: what a mask of 1 adds to each reference. Anything where there are no masks.
        shares: `(any, positions)` float32: how much of it masks add. Empty: there are none, the images are as they are.
        masks: `(n,)` int64: which of them an image has. Anything where there are none.
        changed: `(n, h, w)` uint8, 0 or 1: where they differ from their references.
        frames: `(n,)` int64, ascending: which reference an image belongs to.
        references: `(f, any)` float32: the references' memory, as `run_references` filled it.
        weights: of all layers, float32: for each `2 * LANES` outputs, or the last `LANES`, `(size, channels, outputs)`.
        biases: of all layers, float32.
        runs: of all layers, int64: where in a window each run begins.
        memory: of the size of one of `references`, to work in.
        out: to be filled, `(n, positions' + 1, C')` float32, the padding behind each image.
        reached: to be filled, `(n, positions')` uint8: where `out` may differ from its reference.
        begin: the first image.
        end: the one after the last.
    """
    last = layers[len(layers) - 1]
    lists, room = last.list_ + last.rows * last.columns + HEIGHT, last.marks + last.rows * last.columns
    starts, targets = np.empty(lists, np.int64), np.empty(lists, np.int64)
    flags, tall = np.empty(room, np.uint8), np.empty(_widest(layers), np.uint8)
    counts = np.zeros(len(layers), np.int64)
    frame, outputs = np.int64(-1), last.rows * last.columns * last.outputs
    for i in range(begin, end):
        if frames[i] != frame:
            frame = frames[i]
            _transfer(references[frame], memory)
        y0, y1, x0, x1 = _box(changed[i], tall)
        top, bottom, left, right = _seen(layers[0], y0, y1, x0, x1)
        first = layers[0]
        if len(shares):
            _mask(first, images[frame], change[frame], shares[masks[i]], memory, top, bottom, left, right)
        else:
            _put(first, images[i], memory, top, bottom, left, right)
        marks = changed[i].reshape(-1)
        for number in range(len(layers)):
            layer = layers[number]
            y0, y1, x0, x1 = _reach(layer, marks, flags[layer.marks :], tall, y0, y1, x0, x1)
            marks = flags[layer.marks :]
            counts[number] = _list(layer, flags, starts, targets, y0, y1, x0, x1)
            _multiply(layer, memory, starts[layer.list_ :], targets[layer.list_ :], counts[number], weights, biases, runs)
        _transfer(memory[last.to_ : last.to_ + outputs], out[i].reshape(-1))
        out[i, last.rows * last.columns] = 0
        _transfer(flags[last.marks :], reached[i])
        _take_back(layers, counts, targets, references[frame], memory, top, bottom, left, right)


@compiled
def _transfer(source: Any, target: Any) -> None:
    """Copy all of the source. An array assignment would take as long to compile as the rest of the module."""
    for k in range(np.uintp(len(source))):
        target[k] = source[k]


@compiled
def _widest(layers: Any) -> int:
    widest = 0
    for number in range(len(layers)):
        widest = max(widest, layers[number].width + 2 * layers[number].padding_x)
    return widest


@compiled
def _box(changed: Any, columns: Any) -> Any:
    """Return the bounding box of an image's changes, `(top, bottom, left, right)`."""
    height, width = changed.shape
    columns[:] = 0
    top, bottom = height, 0
    for y in range(height):
        row, found = changed[y], np.uint8(0)
        for x in range(np.uintp(width)):
            found |= row[x]
        if found:
            top, bottom = min(top, y), y + 1
            for x in range(np.uintp(width)):
                columns[x] |= row[x]
    left, right = 0, width
    while left < width and not columns[left]:
        left += 1
    while right > left and not columns[right - 1]:
        right -= 1
    return top, bottom, left, right


@compiled
def _seen(layer: Any, top: int, bottom: int, left: int, right: int) -> Any:
    """Return the receptive field of all outputs that depend on a box, which may hold changes that are not computed."""
    if top >= bottom:
        return top, bottom, left, right
    tall, wide = (layer.size_y - 1) * layer.dilation_y, (layer.size_x - 1) * layer.dilation_x
    return max(0, top - tall), min(layer.height, bottom + tall), max(0, left - wide), min(layer.width, right + wide)


@compiled
def _put(layer: Any, image: Any, memory: Any, top: int, bottom: int, left: int, right: int) -> None:
    """Write some rows and columns of an image `(positions + 1, C)`."""
    length = (right - left) * layer.channels
    for y in range(top, bottom):
        first = (y * layer.width + left) * layer.channels
        _transfer(image.reshape(-1)[first : first + length], memory[_corner(layer, y, left) :])


@compiled
def _mask(layer: Any, image: Any, change: Any, share: Any, memory: Any, top: int, bottom: int, left: int, right: int) -> None:
    """Write some rows and columns of an image `(positions + 1, C)` under a mask."""
    length, channels = np.uintp(right - left), np.uintp(layer.channels)
    for y in range(top, bottom):
        first = y * layer.width + left
        row, difference = image.reshape(-1)[first * layer.channels :], change.reshape(-1)[first * layer.channels :]
        line, shown = memory[_corner(layer, y, left) :], share[first:]
        if channels == 1:  # several at a time
            for x in range(length):
                line[x] = row[x] + shown[x] * difference[x]
        else:
            for x in range(length):
                for c in range(channels):
                    line[x * channels + c] = row[x * channels + c] + shown[x] * difference[x * channels + c]


@compiled
def _corner(layer: Any, y: int, x: int) -> int:
    """Return the offset of a position's channels."""
    return layer.from_ + ((y + layer.padding_y) * layer.line + x + layer.padding_x) * layer.channels


@compiled
def _place(layer: Any, y: int, x: int) -> Any:
    """Return the offsets of an output's window and of the output itself."""
    start = layer.from_ + (y * layer.stride_y * layer.line + x * layer.stride_x) * layer.channels
    return start, layer.to_ + (layer.to_padding + y * layer.to_line + x) * layer.outputs


@compiled
def _reach(layer: Any, marks: Any, flags: Any, tall: Any, top: int, bottom: int, left: int, right: int) -> Any:
    """Mark the outputs whose receptive field holds a mark, within a box, and return the box of the new marks."""
    flags[: layer.rows * layer.columns] = 0
    if top >= bottom:
        return 0, 0, 0, 0
    y0, y1 = _between(top, bottom, layer.size_y, layer.stride_y, layer.padding_y, layer.dilation_y, layer.rows)
    x0, x1 = _between(left, right, layer.size_x, layer.stride_x, layer.padding_x, layer.dilation_x, layer.columns)
    tall[:] = 0
    seen, length = tall[left + layer.padding_x :], np.uintp(right - left)
    for y in range(y0, y1):
        for x in range(length):
            seen[x] = 0
        for tap in range(layer.size_y):
            row = y * layer.stride_y - layer.padding_y + tap * layer.dilation_y
            if top <= row < bottom:
                line = marks[row * layer.width + left :]
                for x in range(length):
                    seen[x] |= line[x]
        to = flags[y * layer.columns :]
        for x in range(x0, x1):
            found = np.uint8(0)
            for tap in range(layer.size_x):
                found |= tall[np.uintp(x * layer.stride_x + tap * layer.dilation_x)]
            to[np.uintp(x)] = found
    return y0, y1, x0, x1


@compiled
def _between(begin: int, end: int, size: int, stride: int, padding: int, dilation: int, outputs: int) -> Any:
    """Return the range of outputs whose windows overlap the inputs from `begin` to `end`."""
    first = -(-(begin + padding - (size - 1) * dilation) // stride)
    return min(max(0, first), outputs), max(0, min(outputs, (end - 1 + padding) // stride + 1))


@compiled
def _list(layer: Any, flags: Any, starts: Any, targets: Any, y0: int, y1: int, x0: int, x1: int) -> int:
    """List the marked outputs; how many they are."""
    count = layer.list_
    for y in range(y0, y1):
        for x in range(x0, x1):
            if flags[layer.marks + y * layer.columns + x]:
                starts[count], targets[count] = _place(layer, y, x)
                count += 1
    return count - layer.list_


@compiled
def _multiply(layer: Any, memory: Any, starts: Any, targets: Any, count: int, weights: Any, biases: Any, runs: Any) -> None:
    """Compute the listed outputs; the list has room for a tile more than there are."""
    whole = -(-count // HEIGHT) * HEIGHT
    for k in range(count, whole):  # the last tile's spare rows do the last one again
        starts[k], targets[k] = starts[count - 1], targets[count - 1]
    twos, place = layer.outputs // (2 * LANES) * (2 * LANES), layer.weights
    first, last, length, follows = layer.first_run, layer.last_run, layer.run_length, layer.follows
    for column in range(0, twos, 2 * LANES):
        for i in range(0, whole, HEIGHT):
            _tile_of_two(memory, starts, targets, runs, first, last, length, weights, place, biases, layer.biases, follows, i, column)
        place += (last - first) * length * 2 * LANES
    for column in range(twos, layer.outputs, LANES):
        for i in range(0, whole, HEIGHT):
            _tile_of_one(memory, starts, targets, runs, first, last, length, weights, place, biases, layer.biases, follows, i, column)
        place += (last - first) * length * LANES


@compiled
def _take_back(layers: Any, counts: Any, targets: Any, reference: Any, memory: Any, top: int, bottom: int, left: int, right: int) -> None:
    """Restore the reference in the scratch buffer."""
    first = layers[0]
    length = (right - left) * first.channels
    for y in range(top, bottom):
        at = _corner(first, y, left)
        _transfer(reference[at : at + length], memory[at : at + length])
    for number in range(len(layers)):
        layer = layers[number]
        for k in range(layer.list_, layer.list_ + counts[number]):
            _copy(reference, memory, targets[k], layer.outputs)
