"""`tile`: the innermost product as LLVM instructions, with all its sums in registers. No loop in Python compiles to that."""

from __future__ import annotations

import importlib
import platform
from typing import Any

from llvmlite import binding, ir

_numba: Any = importlib.import_module("numba")
_core: Any = importlib.import_module("numba.core.cgutils")
_arrays: Any = importlib.import_module("numba.np.arrayobj")
_extending: Any = importlib.import_module("numba.extending")
_ir: Any = ir

_features: dict[str, bool] = dict(binding.get_host_cpu_features())  # pyright: ignore
_WIDE = _features.get("avx512f", False)

MULTIPLIES_AND_ADDS = _features.get("fma", False) or platform.machine() in ("aarch64", "arm64")
"""Whether the processor does both in one instruction; else the kernels would be slower than PyTorch."""
LANES = 16 if _WIDE else 8
"""How many float32 are multiplied at a time."""
HEIGHT = 10 if _WIDE else 6
"""How many rows are multiplied at a time: as many as there are registers for."""


def tile(height: int, vectors: int) -> Any:
    """A function for kernels: `height` rows by `vectors * LANES` columns of what `multiply` fills, from row `i` and `column` on.

    Its arguments are those of `multiply`, up to `idle`, then `out, i, column`.
    """

    @_extending.intrinsic
    def product(
        context: Any, rows: Any, lookup: Any, taps: Any, places: Any, matrix: Any, bias: Any, idle: Any, out: Any, i: Any, column: Any
    ) -> Any:
        signature = _numba.types.void(rows, lookup, taps, places, matrix, bias, idle, out, i, column)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _Tile(context, builder, signature.args, args, height, vectors).write()
            return context.get_dummy_value()

        return signature, generate

    return product


_WORD = _ir.IntType(64)
_VECTOR = _ir.VectorType(_ir.FloatType(), LANES)


def _number(value: int) -> Any:
    return _ir.Constant(_WORD, value)


class _Tile:
    """Writes the instructions of one tile."""

    def __init__(self, context: Any, builder: Any, kinds: Any, args: Any, height: int, vectors: int) -> None:
        names = ("rows", "lookup", "taps", "places", "matrix", "bias", "idle", "out", "i", "column")
        given = dict(zip(names, zip(kinds, args, strict=True), strict=True))
        arrays = {name: _arrays.make_array(given[name][0])(context, builder, given[name][1]) for name in names if name not in _SCALARS}
        self.data = {name: array.data for name, array in arrays.items()}
        self.idle, self.i, self.column = (given[name][1] for name in _SCALARS)
        self.channels, self.taps, self.width = (_columns(builder, arrays[name]) for name in ("rows", "taps", "matrix"))
        self.known, self.positions = _core.unpack_tuple(builder, arrays["lookup"].shape, 2)
        self.builder, self.height, self.vectors = builder, height, vectors
        self.sums = [[_core.alloca_once(builder, _VECTOR) for _ in range(vectors)] for _ in range(height)]

    def write(self) -> None:
        """The whole tile: sums begin with the bias, and get something added by each tap that is not idle."""
        builder = self.builder
        for j, bias in enumerate(self._vectors_at("bias", self.column)):
            for sums in self.sums:
                builder.store(bias, sums[j])
        places = [self._place(r) for r in range(self.height)]
        with _core.for_range(builder, self.taps) as tap:
            rows = [self._row(image, position, tap.index) for image, position in places]
            busy = builder.icmp_signed("<", self.idle, _number(0))
            for row in rows:
                busy = builder.or_(busy, builder.icmp_signed("!=", row, self.idle))
            with builder.if_then(busy):
                self._add(rows, tap.index)
        for r, sums in enumerate(self.sums):
            start = builder.add(builder.mul(builder.add(self.i, _number(r)), self.width), self.column)
            for j in range(self.vectors):
                builder.store(builder.load(sums[j]), self._vector("out", builder.add(start, _number(j * LANES))), align=4)

    def _place(self, r: int) -> tuple[Any, Any]:
        """Where in `lookup` the image of row `r` begins, and where in `taps` its position."""
        builder = self.builder
        at = builder.mul(builder.add(self.i, _number(r)), _number(2))
        image, position = (self._integer("places", builder.add(at, _number(k))) for k in (0, 1))
        return builder.mul(image, self.positions), builder.mul(position, self.taps)

    def _row(self, image: Any, position: Any, tap: Any) -> Any:
        """Which of `rows` a tap sees: by `lookup` where there is one."""
        builder = self.builder
        at = builder.add(image, self._integer("taps", builder.add(position, tap)))
        row = _core.alloca_once_value(builder, at)
        with builder.if_then(builder.icmp_signed("!=", self.known, _number(0))):
            builder.store(self._integer("lookup", at), row)
        return builder.load(row)

    def _add(self, rows: list[Any], tap: Any) -> None:
        """Add to the sums what a tap sees, times its lines of the matrix."""
        builder = self.builder
        fma = _core.get_or_insert_function(builder.module, _ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fma.v{LANES}f32")
        starts = [builder.mul(row, self.channels) for row in rows]
        first = builder.mul(tap, self.channels)
        with _core.for_range(builder, self.channels) as channel:
            line = builder.mul(builder.add(first, channel.index), self.width)
            weights = self._vectors_at("matrix", builder.add(line, self.column))
            for start, sums in zip(starts, self.sums, strict=True):
                number = self._everywhere(builder.load(builder.gep(self.data["rows"], [builder.add(start, channel.index)])))
                for weight, total in zip(weights, sums, strict=True):
                    builder.store(builder.call(fma, [number, weight, builder.load(total)]), total)

    def _integer(self, name: str, at: Any) -> Any:
        value = self.builder.load(self.builder.gep(self.data[name], [at]))
        return value if value.type == _WORD else self.builder.sext(value, _WORD)

    def _vector(self, name: str, at: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(self.data[name], [at]), _VECTOR.as_pointer())

    def _vectors_at(self, name: str, at: Any) -> list[Any]:
        places = [self.builder.add(at, _number(j * LANES)) for j in range(self.vectors)]
        return [self.builder.load(self._vector(name, place), align=4) for place in places]

    def _everywhere(self, value: Any) -> Any:
        nothing, index = _ir.Constant(_VECTOR, _ir.Undefined), _ir.IntType(32)
        single = self.builder.insert_element(nothing, value, _ir.Constant(index, 0))
        return self.builder.shuffle_vector(single, nothing, _ir.Constant(_ir.VectorType(index, LANES), [0] * LANES))


_SCALARS = ("idle", "i", "column")


def _columns(builder: Any, array: Any) -> Any:
    return _core.unpack_tuple(builder, array.shape, 2)[1]
