"""Functions of numbers and of vectors of float32, as LLVM instructions: `fused` multiplies and adds, `relu` and `elu` are activations."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Sequence
from typing import Any

from llvmlite import binding, ir

_core: Any = importlib.import_module("numba.core.cgutils")
_ir: Any = ir

_features: dict[str, bool] = dict(binding.get_host_cpu_features())  # pyright: ignore
WIDE = _features.get("avx512f", False)
"""Whether vectors are of 512 bits."""
MULTIPLIES_AND_ADDS = _features.get("fma", False) or platform.machine() in ("aarch64", "arm64")
"""Whether the processor does both in one instruction; else the kernels would be slower than PyTorch."""
LANES = 16 if WIDE else 8
"""How many float32 are in a vector."""
_FLOAT, _DOUBLE = _ir.FloatType(), _ir.DoubleType()
VECTOR = _ir.VectorType(_FLOAT, LANES)

IDENTITY, RELU, ELU = 0, 1, 2
"""What follows a product."""

_LOG2_E = 1.44269504088896341
_LOG_2 = (0.693359375, -2.12194440e-4)
"""Added up, of more digits than one number has."""
_SERIES = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)


def fused(builder: Any, x: Any, y: Any, z: Any) -> Any:
    """Emit `x * y + z`, rounded once."""
    return _called(builder, "fma", [x, y, z])


def relu(builder: Any, x: Any) -> Any:
    """Emit `max(x, 0)`; NaN stays NaN."""
    zero = _constant(x, 0.0)
    return builder.select(builder.fcmp_ordered("<=", x, zero), zero, x)


def elu(builder: Any, x: Any) -> Any:
    """Emit `x` where it is positive, else `exp(x) - 1`, within 1e-7. NaN stays NaN."""
    less_one, power = _power_of_e(builder, x)
    return _where_not_positive(builder, x, fused(builder, power, less_one, builder.fsub(power, _constant(x, 1.0))))


def exponential(builder: Any, x: Any) -> Any:
    """Emit `exp(x)` of numbers that are not positive. NaN stays NaN."""
    less_one, power = _power_of_e(builder, x)
    return _where_not_positive(builder, x, fused(builder, power, less_one, power))


def _where_not_positive(builder: Any, x: Any, result: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<=", x, _constant(x, 0.0)), result, x)


def _power_of_e(builder: Any, x: Any) -> tuple[Any, Any]:
    """Emit `exp(x)` of negative numbers as `(1 + first) * second`, a power of two, by the series of Cephes' `expf`."""
    low, zero = _constant(x, -87.0), _constant(x, 0.0)
    part = builder.select(builder.fcmp_ordered(">", x, low), x, low)
    part = builder.select(builder.fcmp_ordered("<", part, zero), part, zero)
    whole = _called(builder, "floor", [fused(builder, part, _constant(x, _LOG2_E), _constant(x, 0.5))])
    for share in _LOG_2:
        part = fused(builder, whole, _constant(x, -share), part)
    series = _constant(x, _SERIES[0])
    for factor in _SERIES[1:]:
        series = fused(builder, series, part, _constant(x, factor))
    return fused(builder, builder.fmul(series, part), part, part), _power_of_two(builder, whole)


def _power_of_two(builder: Any, whole: Any) -> Any:
    # There is an instruction to make a long of a double on few processors: an int is made first.
    kind, bits, middle, shift = (_DOUBLE, 64, 1023, 52) if whole.type == _DOUBLE else (whole.type, 32, 127, 23)
    short, integers = (_ir.IntType(size) if kind != VECTOR else _ir.VectorType(_ir.IntType(size), LANES) for size in (32, bits))
    exponent = builder.fptosi(whole, short)
    exponent = builder.sext(exponent, integers) if bits > 32 else exponent
    return builder.bitcast(builder.shl(builder.add(exponent, _repeated(integers, middle)), _repeated(integers, shift)), whole.type)


def _called(builder: Any, name: str, arguments: Sequence[Any]) -> Any:
    kind = arguments[0].type
    function = _ir.FunctionType(kind, [kind] * len(arguments))
    suffix = {_FLOAT: "f32", _DOUBLE: "f64"}.get(kind, f"v{LANES}f32")
    return builder.call(_core.get_or_insert_function(builder.module, function, f"llvm.{name}.{suffix}"), arguments)


def _constant(like: Any, value: float) -> Any:
    return _repeated(like.type, value)


def _repeated(kind: Any, value: float) -> Any:
    return _ir.Constant(kind, [value] * LANES if isinstance(kind, ir.VectorType) else value)
