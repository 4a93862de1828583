"""`Layout`: where everything that layers need is in the arrays that kernels are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saliency_wrappers.saliency.incremental.positions import Kernel


@dataclass(frozen=True)
class LayerForm:
    """One layer, whatever its weights are."""

    kernel: Kernel
    outputs: int
    """How many channels come out."""
    follows: int
    """What is done with them, a number of the kernels'."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Where layers find their things, for images of one size."""

    table: NDArray[Any]
    """`(layers,)` of the kernels' `LAYER`."""
    runs: NDArray[np.int64]
    """Where in a window each run of numbers begins, layer by layer."""
    size: int
    """How many numbers are known of an image, from what goes in to what comes out, with all padding but that behind the image."""
    channels: int
    """How many come out."""
    height: int
    """Of what comes out."""
    width: int
    """The same."""


@lru_cache(maxsize=64)
def layout(forms: Sequence[LayerForm], channels: int, height: int, width: int, compiled: ModuleType) -> Layout:
    """The layout of layers, a tuple, for images of a size."""
    runs: list[NDArray[np.int64]] = []
    table: NDArray[Any] = np.zeros(len(forms), compiled.LAYER)
    paddings = [form.kernel.padding for form in forms[1:]] + [(0, 0)]
    begins = dict.fromkeys(("from_", "marks", "list_", "weights", "biases", "first_run"), 0)
    for number, (form, (above, beside)) in enumerate(zip(forms, paddings, strict=True)):
        rows, columns = (form.kernel.outputs(axis, length) for axis, length in enumerate((height, width)))
        line, to_line = width + 2 * form.kernel.padding[1], columns + 2 * beside
        own, run_length = _runs(form.kernel, channels, line)
        to_ = begins["from_"] + (height + 2 * form.kernel.padding[0]) * line * channels
        values = {"height": height, "width": width, "channels": channels, "rows": rows, "columns": columns, "outputs": form.outputs}
        values |= {"follows": form.follows, "last_run": begins["first_run"] + len(own), "run_length": run_length}
        values |= {"line": line, "to_": to_, "to_line": to_line, "to_padding": above * to_line + beside}
        for name in ("size", "stride", "padding", "dilation"):
            values[f"{name}_y"], values[f"{name}_x"] = getattr(form.kernel, name)
        for name, value in (begins | values).items():
            table[name][number] = value
        begins["marks"] += rows * columns
        begins["list_"] += rows * columns + compiled.HEIGHT
        begins["weights"] += len(own) * run_length * form.outputs
        begins["biases"] += form.outputs
        begins |= {"from_": to_, "first_run": begins["first_run"] + len(own)}
        runs.append(own)
        channels, height, width = form.outputs, rows, columns
    return Layout(table, np.concatenate(runs), begins["from_"] + channels * height * width, channels, height, width)


def _runs(kernel: Kernel, channels: int, line: int) -> tuple[NDArray[np.int64], int]:
    """Where in a window each run begins, in an image with `line` positions from row to row, and how long they are."""
    together = kernel.size[1] if kernel.dilation[1] == 1 else 1
    down = np.arange(kernel.size[0], dtype=np.int64)[:, None] * kernel.dilation[0] * line
    along = np.arange(0, kernel.size[1], together, dtype=np.int64) * kernel.dilation[1]
    return ((down + along) * channels).flatten(), together * channels
