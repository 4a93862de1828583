"""`MemoryLayout`: the offsets of activations, weights and paddings in the flat arrays that the kernels take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saliency_wrappers.saliency.incremental.positions import ConvGeometry


@dataclass(frozen=True)
class LayerForm:
    """Form of one layer, without its weights."""

    kernel: ConvGeometry
    outputs: int
    """Output channels."""
    follows: int
    """The kernels' code of the fused activation."""


@dataclass(frozen=True, eq=False)
class MemoryLayout:
    """Offsets for a chain of layers on images of one size."""

    table: NDArray[Any]
    """`(layers,)` of the kernels' `LAYER`."""
    runs: NDArray[np.int64]
    """Offset of each contiguous run within a receptive field, layer by layer."""
    size: int
    """float32 numbers of one image: the input and every layer's output, with padding except that behind the image."""
    channels: int
    """Output channels of the last layer."""
    height: int
    """Output height of the last layer."""
    width: int
    """Output width of the last layer."""


@lru_cache(maxsize=64)
def layout(forms: Sequence[LayerForm], channels: int, height: int, width: int, kernels: ModuleType) -> MemoryLayout:
    """Compute the offsets of a tuple of layers for input images `(channels, height, width)`."""
    runs: list[NDArray[np.int64]] = []
    table: NDArray[Any] = np.zeros(len(forms), kernels.LAYER)
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
        begins["list_"] += rows * columns + kernels.HEIGHT
        begins["weights"] += len(own) * run_length * form.outputs
        begins["biases"] += form.outputs
        begins |= {"from_": to_, "first_run": begins["first_run"] + len(own)}
        runs.append(own)
        channels, height, width = form.outputs, rows, columns
    return MemoryLayout(table, np.concatenate(runs), begins["from_"] + channels * height * width, channels, height, width)


def _runs(kernel: ConvGeometry, channels: int, line: int) -> tuple[NDArray[np.int64], int]:
    """Return the offset of each contiguous run of a window, in an image with `line` positions per row, and their length."""
    together = kernel.size[1] if kernel.dilation[1] == 1 else 1
    down = np.arange(kernel.size[0], dtype=np.int64)[:, None] * kernel.dilation[0] * line
    along = np.arange(0, kernel.size[1], together, dtype=np.int64) * kernel.dilation[1]
    return ((down + along) * channels).flatten(), together * channels
