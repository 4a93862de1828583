"""PyTorch's operators on `Changes`: `on_images`. What follows once they are flattened is in `features`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from saliency_wrappers.saliency.incremental.gathered_matmul import elu, relu
from saliency_wrappers.saliency.incremental.positions import ConvGeometry, slide
from saliency_wrappers.saliency.incremental.sparse_images import AnyImages, Changes, Pending, convolved

Operator = Callable[..., Any]

POINTWISE = set(
    "relu relu6 elu leaky_relu gelu silu tanh sigmoid softplus hardtanh hardswish hardsigmoid mish selu celu logsigmoid softsign "
    "tanhshrink abs neg exp square clamp clip add sub subtract mul multiply div divide true_divide pow rsub __radd__ __rsub__ __rmul__ "
    "__neg__ __add__ __sub__ __mul__ __truediv__ __pow__ __iadd__ __isub__ __imul__ __itruediv__ float double half bfloat16 clone".split()
)
"""Operators on each number by itself, as long as their other arguments are no tensors but scalars; and the same with `_`, in place."""


def on_images(images: AnyImages, operator: Operator, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Apply an operator of PyTorch on images `(n, C, h, w)` to their changes.

    Args:
        images: what is known of them.
        operator: what was asked for.
        name: its name.
        args: its other arguments.
        kwargs: and those by name.

    Returns:
        `Changes` or `Pending`; `NotImplemented` where the whole batch is needed.
    """
    if name in POINTWISE or name.removesuffix("_") in POINTWISE:
        others = (*args, *(value for key, value in kwargs.items() if key != "inplace"))
        if any((isinstance(other, Tensor) and other.ndim) or other is True for other in others):
            return NotImplemented
        usual = not args and all(value in _USUAL.get(key, ()) for key, value in kwargs.items())
        if name in _CASTS:
            return images.settled.pointwise(lambda rows: operator(rows, *args, **kwargs))
        fast = _FAST.get(name) if isinstance(images, Pending) and usual else None
        return images.pointwise(fast or (lambda rows: operator(rows, *args, **kwargs)))
    if name == "conv2d":
        return _convolution(images, *args, **kwargs)
    rule = _LAYERS.get(name)
    return NotImplemented if rule is None else rule(images.settled, operator, *args, **kwargs)


_CASTS = {"float", "double", "half", "bfloat16"}
_USUAL = {"alpha": [1.0], "inplace": [True, False]}
_FAST: dict[str, Callable[[Tensor], Tensor]] = {"elu": elu, "relu": relu}
"""In place, for rows without another reference."""


def _convolution(
    images: AnyImages,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Pending:
    if groups != 1 or isinstance(padding, str):
        return NotImplemented
    kernel = ConvGeometry((weight.shape[2], weight.shape[3]), _pair(stride), _pair(padding), _pair(dilation))
    return convolved(images, weight, bias, kernel)


def _max_pooling(
    changes: Changes,
    operator: Operator,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Pending:
    if ceil_mode or return_indices:
        return NotImplemented
    kernel = ConvGeometry(_pair(kernel_size), _pair(stride or kernel_size), _pair(padding), _pair(dilation))
    _, _, height, width = changes.shape
    taps = slide(height, width, kernel, changes.rows.device)
    if bool((taps.amin(dim=1) == height * width).any()):  # nothing but padding is seen somewhere: minus infinity
        return NotImplemented
    # Padding is no candidate: another place that the kernel sees stands for it.
    taps = torch.where(taps == height * width, taps.amin(dim=1, keepdim=True), taps)
    return Pending(changes, kernel, lambda seen, out: torch.amax(seen, dim=1, out=out), changes.shape[1], taps)


def _average_pooling(
    changes: Changes,
    operator: Operator,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Pending:
    kernel = ConvGeometry(_pair(kernel_size), _pair(stride or kernel_size), _pair(padding))
    if ceil_mode or divisor_override is not None or not (count_include_pad or kernel.padding == (0, 0)):
        return NotImplemented
    return Pending(changes, kernel, lambda seen, out: torch.mean(seen, dim=1, out=out), changes.shape[1])


def _normalisation(changes: Changes, operator: Operator, *args: Any, **kwargs: Any) -> Changes:
    training = kwargs.get("training", args[4] if len(args) > 4 else False)
    known = kwargs.get("running_mean", args[0] if args else None) is not None
    return changes.pointwise(lambda rows: operator(rows, *args, **kwargs)) if known and not training else NotImplemented


def _channelwise(changes: Changes, operator: Operator, weight: Tensor) -> Changes:
    return changes.pointwise(lambda rows: operator(rows, weight))


def _dropout(changes: Changes, operator: Operator, p: float = 0.5, training: bool = True, inplace: bool = False) -> Changes:
    return NotImplemented if training else changes


def _conversion(changes: Changes, operator: Operator, *args: Any, **kwargs: Any) -> Changes:
    kwargs.pop("memory_format", None)
    converted = changes.pointwise(lambda rows: operator(rows, *args, **kwargs))
    return converted if converted.rows.device == changes.rows.device else NotImplemented


def _as_it_is(changes: Changes, operator: Operator, *args: Any, **kwargs: Any) -> Changes:
    return changes


_LAYERS: dict[str, Operator] = {
    "max_pool2d": _max_pooling,
    "avg_pool2d": _average_pooling,
    "batch_norm": _normalisation,
    "prelu": _channelwise,
    "dropout": _dropout,
    "dropout2d": _dropout,
    "to": _conversion,
    "contiguous": _as_it_is,
    "detach": _as_it_is,
}


def _pair(value: Any) -> tuple[int, int]:
    """Return one number for both axes as two."""
    if isinstance(value, int):
        return value, value
    numbers = tuple(int(number) for number in value)
    return (numbers[0], numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])
