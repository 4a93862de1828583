"""`compiled`: how functions become kernels, by Numba, where the processor is one for them."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from saliency_wrappers.saliency.incremental.kernels import llvm_tiles, llvm_vectors

_numba: Any = importlib.import_module("numba")
if _numba.config.DISABLE_JIT or _numba.config.CPU_NAME or _numba.config.CPU_FEATURES or not llvm_vectors.MULTIPLIES_AND_ADDS:
    raise ImportError("Compiled kernels need FMA and an unmodified Numba CPU target.")

# What Numba keeps is named by it: it takes a kernel for new only when the kernel's own file has changed.
_SOURCE = hashlib.sha256(b"".join(Path(file).read_bytes() for file in (__file__, llvm_tiles.__file__, llvm_vectors.__file__))).hexdigest()[
    :12
]


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function at its first call, or load it from Numba's cache."""
    function.__qualname__ += f"_{_SOURCE}"
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return _numba.njit(function, cache=True, **options)
    except RuntimeError:  # no folder to keep it in: it is compiled anew in each process
        return _numba.njit(function, **options)
