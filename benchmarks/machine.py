"""What the times are measured on: processor, versions, load, the peak of its arithmetic, and how much arithmetic an agent needs."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from measuring import torch_threads
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from saliency_wrappers import Decision

SIZES = (512, 768, 1024, 1536)
"""Of the square matrices whose products are timed: which is fastest depends on the processor."""


def facts() -> dict[str, str]:
    """The processor and the versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": f"{models[0] if models else platform.processor()}, {os.cpu_count()} cores",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, {_numba()}",
    }


def _numba() -> str:
    try:
        return f"numba {metadata.version('numba')}"
    except metadata.PackageNotFoundError:
        return "without numba"


def load() -> str:
    """How busy the machine is: times that are measured beside other work mislead."""
    return ", ".join(f"{average:.2f}" for average in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"


def peak_rate(threads: int, sizes: Sequence[int] = SIZES, repeats: int = 8) -> float:
    """The rate of the fastest float32 matrix product, in FLOP/s: what the arithmetic of this machine can do at this moment."""
    rates: list[float] = []
    with torch_threads(threads):
        for size in sizes:
            matrix, out = torch.ones(size, size), torch.empty(size, size)
            for _ in range(repeats):
                start = time.perf_counter()
                torch.mm(matrix, matrix, out=out)
                rates.append(2 * size**3 / (time.perf_counter() - start))
    return max(rates)


def flops_of_a_pass(agent: nn.Module, decision: Decision) -> int:
    """The floating-point operations of one forward pass on one image: of its convolutions and matrix products, as PyTorch counts them."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        agent((decision.inputs, decision.state))
    return counter.get_total_flops()
