"""Functions of vectors of float32, as LLVM instructions: `fused` multiplies and adds, `relu` and `elu` are activations."""

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
VECTOR = _ir.VectorType(_ir.FloatType(), LANES)

IDENTITY, RELU, ELU = 0, 1, 2
"""What follows a product."""

_LOG2_E, _LOG_2_HIGH, _LOG_2_LOW = 1.44269504088896341, 0.693359375, -2.12194440e-4
_SERIES = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)


def fused(builder: Any, x: Any, y: Any, z: Any) -> Any:
    """`x * y + z`, rounded once."""
    return _called(builder, "fma", [x, y, z])


def relu(builder: Any, x: Any) -> Any:
    """`max(x, 0)`; NaN stays."""
    return builder.select(builder.fcmp_ordered("<=", x, _constant(0.0)), _constant(0.0), x)


def elu(builder: Any, x: Any) -> Any:
    """`x` where it is positive, else `exp(x) - 1`, within 1e-7: the series of Cephes' `expf`. NaN stays."""
    low, one = _constant(-87.0), _constant(1.0)
    part = builder.select(builder.fcmp_ordered(">", x, low), x, low)
    part = builder.select(builder.fcmp_ordered("<", part, _constant(0.0)), part, _constant(0.0))
    whole = _called(builder, "floor", [fused(builder, part, _constant(_LOG2_E), _constant(0.5))])
    part = fused(builder, whole, _constant(-_LOG_2_HIGH), part)
    part = fused(builder, whole, _constant(-_LOG_2_LOW), part)
    series = _constant(_SERIES[0])
    for factor in _SERIES[1:]:
        series = fused(builder, series, part, _constant(factor))
    less_one = fused(builder, builder.fmul(series, part), part, part)
    power = _power_of_two(builder, whole)
    result = fused(builder, power, less_one, builder.fsub(power, one))
    return builder.select(builder.fcmp_ordered("<=", x, _constant(0.0)), result, x)


def _power_of_two(builder: Any, whole: Any) -> Any:
    integers = _ir.VectorType(_ir.IntType(32), LANES)
    bits = builder.add(builder.fptosi(whole, integers), _ir.Constant(integers, [127] * LANES))
    return builder.bitcast(builder.shl(bits, _ir.Constant(integers, [23] * LANES)), VECTOR)


def _called(builder: Any, name: str, arguments: Sequence[Any]) -> Any:
    kind = _ir.FunctionType(VECTOR, [VECTOR] * len(arguments))
    return builder.call(_core.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32"), arguments)


def _constant(value: float) -> Any:
    return _ir.Constant(VECTOR, [value] * LANES)
