"""`tile` and `window_tile`: the innermost products as LLVM instructions, with all their sums in registers.

No loop in Python compiles to that.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from saliency_wrappers.saliency.incremental.kernels.llvm_vectors import ELU, LANES, RELU, VECTOR, WIDE, elu, fused, relu

_numba: Any = importlib.import_module("numba")
_core: Any = importlib.import_module("numba.core.cgutils")
_arrays: Any = importlib.import_module("numba.np.arrayobj")
_extending: Any = importlib.import_module("numba.extending")
_ir: Any = ir

HEIGHT = 10 if WIDE else 6
"""How many rows are multiplied at a time: as many as there are registers for."""

_WORD = _ir.IntType(64)


def tile(height: int, vectors: int) -> Any:
    """Return a micro-kernel that computes `height` rows by `vectors * LANES` columns of a product.

    Its arguments are those of `multiply`, with `weight` after `weights`: where those of its columns begin; and in place of the last two `i`
    and `column`: its first row and column.
    """

    @_extending.intrinsic
    def product(
        context: Any,
        rows: Any,
        lookup: Any,
        taps: Any,
        places: Any,
        weights: Any,
        weight: Any,
        biases: Any,
        begins: Any,
        idle: Any,
        follows: Any,
        out: Any,
        i: Any,
        column: Any,
    ) -> Any:
        kinds = (rows, lookup, taps, places, weights, weight, biases, begins, idle, follows, out, i, column)
        signature = _numba.types.void(*kinds)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _LookedUpTile(_Given(context, builder, signature.args, args, _LOOKED_UP), height, vectors).write()
            return context.get_dummy_value()

        return signature, generate

    return product


def window_tile(height: int, vectors: int) -> Any:
    """Return a micro-kernel for `height` rows by `vectors * LANES` columns of a layer whose windows are contiguous runs.

    Its arguments: `memory` 1-D float32 with what goes in and what comes out, `starts` and `targets` 1-D int64: where in it each window
    begins, and each result, `runs` 1-D int64: where in a window each run begins, of which those from `first` to `last` count, `length` of
    each, `weights` 1-D float32 whose `vectors * LANES` columns begin at `weight`, `biases` 1-D float32 from `bias` on, `follows`, `i`: the
    first row, and `column`: where in a result the first one goes.
    """

    @_extending.intrinsic
    def product(
        context: Any,
        memory: Any,
        starts: Any,
        targets: Any,
        runs: Any,
        first: Any,
        last: Any,
        length: Any,
        weights: Any,
        weight: Any,
        biases: Any,
        bias: Any,
        follows: Any,
        i: Any,
        column: Any,
    ) -> Any:
        kinds = (memory, starts, targets, runs, first, last, length, weights, weight, biases, bias, follows, i, column)
        signature = _numba.types.void(*kinds)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _WindowTile(_Given(context, builder, signature.args, args, _WINDOWS), height, vectors).write()
            return context.get_dummy_value()

        return signature, generate

    return product


def function_of(written: Callable[[Any, Any], Any]) -> Any:
    """Return a scalar function for kernels from one that emits its instructions."""

    @_extending.intrinsic
    def function(context: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return written(builder, args[0])

        return x(x), generate

    return function


def copier() -> Any:
    """Return a function `(source, target, at, length)` that copies `length` numbers, a multiple of `LANES`, at the same offset."""

    @_extending.intrinsic
    def copy(context: Any, source: Any, target: Any, at: Any, length: Any) -> Any:
        signature = _numba.types.void(source, target, at, length)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            given = _Given(context, builder, signature.args, args, ("source", "target", "at", "length"))
            with _core.for_range(builder, builder.udiv(given.numbers["length"], number_of(LANES))) as part:
                place = builder.add(given.numbers["at"], builder.mul(part.index, number_of(LANES)))
                builder.store(builder.load(given.vector("source", place), align=4), given.vector("target", place), align=4)
            return context.get_dummy_value()

        return signature, generate

    return copy


_LOOKED_UP = tuple("rows lookup taps places weights weight biases begins idle follows out i column".split())
_WINDOWS = tuple("memory starts targets runs first last length weights weight biases bias follows i column".split())


class _Given:
    """Arguments of a function whose instructions are emitted, by name: data and shapes of arrays, and numbers."""

    def __init__(self, context: Any, builder: Any, kinds: Sequence[Any], args: Sequence[Any], names: Sequence[str]) -> None:
        self.builder = builder
        self.data: dict[str, Any] = {}
        self.shapes: dict[str, Any] = {}
        self.numbers: dict[str, Any] = {}
        for name, kind, value in zip(names, kinds, args, strict=True):
            if isinstance(kind, _numba.types.Array):
                array = _arrays.make_array(kind)(context, builder, value)
                self.data[name], self.shapes[name] = array.data, _core.unpack_tuple(builder, array.shape, kind.ndim)
            else:
                self.numbers[name] = value if value.type == _WORD else builder.sext(value, _WORD)

    def vector(self, name: str, at: Any) -> Any:
        """Return the pointer to a vector of an array's numbers."""
        return self.builder.bitcast(self.builder.gep(self.data[name], [at]), VECTOR.as_pointer())


class _Tile:
    """Emits the instructions of a micro-kernel: sums in registers, and what is accumulated in them."""

    def __init__(self, given: _Given, height: int, vectors: int) -> None:
        self.builder, self.vector = given.builder, given.vector
        self.data, self.shapes, self.numbers = given.data, given.shapes, given.numbers
        self.height, self.vectors = height, vectors
        self.sums = [[_core.alloca_once(self.builder, VECTOR) for _ in range(vectors)] for _ in range(height)]

    def begin(self, name: str, starts: Sequence[Any]) -> None:
        """Load the initial sums of each row."""
        for start, sums in zip(starts, self.sums, strict=True):
            for bias, total in zip(self.vectors_at(name, start), sums, strict=True):
                self.builder.store(bias, total)

    def add(self, name: str, starts: Sequence[Any], length: Any, line: Any) -> None:
        """Add the products of so many numbers from each start on with as many lines of the weights, from a line on."""
        builder, width = self.builder, number_of(self.vectors * LANES)
        first = builder.add(self.numbers["weight"], builder.mul(line, width))
        with _core.for_range(builder, length) as place:
            weights = self.vectors_at("weights", builder.add(first, builder.mul(place.index, width)))
            for start, sums in zip(starts, self.sums, strict=True):
                number = self._everywhere(builder.load(builder.gep(self.data[name], [builder.add(start, place.index)])))
                for weight, total in zip(weights, sums, strict=True):
                    builder.store(fused(builder, number, weight, builder.load(total)), total)

    def end(self, name: str, starts: Sequence[Any]) -> None:
        """Apply the fused activation to the sums and store them."""
        for code, function in ((RELU, relu), (ELU, elu)):
            with self.builder.if_then(self.builder.icmp_signed("==", self.numbers["follows"], number_of(code))):
                for total in itertools.chain(*self.sums):
                    self.builder.store(function(self.builder, self.builder.load(total)), total)
        for start, sums in zip(starts, self.sums, strict=True):
            for j, total in enumerate(sums):
                place = self.vector(name, self.builder.add(start, number_of(j * LANES)))
                self.builder.store(self.builder.load(total), place, align=4)

    def integer(self, name: str, at: Any) -> Any:
        """Load a number of an array of integers."""
        value = self.builder.load(self.builder.gep(self.data[name], [at]))
        return value if value.type == _WORD else self.builder.sext(value, _WORD)

    def vectors_at(self, name: str, at: Any) -> list[Any]:
        """Load as many numbers as the tile is wide."""
        places = [self.builder.add(at, number_of(j * LANES)) for j in range(self.vectors)]
        return [self.builder.load(self.vector(name, place), align=4) for place in places]

    def _everywhere(self, value: Any) -> Any:
        nothing, index = _ir.Constant(VECTOR, _ir.Undefined), _ir.IntType(32)
        single = self.builder.insert_element(nothing, value, _ir.Constant(index, 0))
        return self.builder.shuffle_vector(single, nothing, _ir.Constant(_ir.VectorType(index, LANES), [0] * LANES))


class _LookedUpTile(_Tile):
    """A tile whose rows are looked up for each tap; a tap is skipped where all rows of the tile are zero."""

    def write(self) -> None:
        """Emit the whole tile."""
        builder, idle = self.builder, self.numbers["idle"]
        width, channels, column = self.shapes["out"][1], self.shapes["rows"][1], self.numbers["column"]
        lines = [builder.add(self.numbers["i"], number_of(r)) for r in range(self.height)]
        places = [[self.integer("places", builder.add(builder.mul(line, number_of(2)), number_of(k))) for k in (0, 1)] for line in lines]
        self.begin("biases", [builder.add(builder.mul(self.integer("begins", image), width), column) for image, _ in places])
        windows = [self._window(*place) for place in places]
        with _core.for_range(builder, self.shapes["taps"][1]) as tap:
            rows = [self._row(image, position, tap.index) for image, position in windows]
            busy = builder.icmp_signed("<", idle, number_of(0))
            for row in rows:
                busy = builder.or_(busy, builder.icmp_signed("!=", row, idle))
            with builder.if_then(busy):
                self.add("rows", [builder.mul(row, channels) for row in rows], channels, builder.mul(tap.index, channels))
        self.end("out", [builder.add(builder.mul(line, width), column) for line in lines])

    def _window(self, image: Any, position: Any) -> tuple[Any, Any]:
        """Return the offsets of an image in `lookup` and of a position in `taps`."""
        return self.builder.mul(image, self.shapes["lookup"][1]), self.builder.mul(position, self.shapes["taps"][1])

    def _row(self, image: Any, position: Any, tap: Any) -> Any:
        """Return the row that a tap reads, by `lookup` where there is one."""
        builder = self.builder
        at = builder.add(image, self.integer("taps", builder.add(position, tap)))
        row = _core.alloca_once_value(builder, at)
        with builder.if_then(builder.icmp_signed("!=", self.shapes["lookup"][0], number_of(0))):
            builder.store(self.integer("lookup", at), row)
        return builder.load(row)


class _WindowTile(_Tile):
    """A tile whose windows have runs of one length at the same offsets."""

    def write(self) -> None:
        """Emit the whole tile."""
        builder, numbers = self.builder, self.numbers
        self.begin("biases", [builder.add(numbers["bias"], numbers["column"])] * self.height)
        rows = [builder.add(numbers["i"], number_of(r)) for r in range(self.height)]
        windows = [self.integer("starts", row) for row in rows]
        with _core.for_range(builder, builder.sub(numbers["last"], numbers["first"])) as run:
            shift = self.integer("runs", builder.add(numbers["first"], run.index))
            starts = [builder.add(window, shift) for window in windows]
            self.add("memory", starts, numbers["length"], builder.mul(run.index, numbers["length"]))
        self.end("memory", [builder.add(self.integer("targets", row), numbers["column"]) for row in rows])


def number_of(value: int) -> Any:
    """Return a compile-time constant."""
    return _ir.Constant(_WORD, value)
