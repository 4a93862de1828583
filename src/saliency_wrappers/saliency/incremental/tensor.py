"""`IncrementalBatch`: perturbed images that an agent runs on as on any tensor, while only what they change is computed.

The agent's own code runs, whatever it is. Each operator that it asks PyTorch for is done on the `Changes` where `operators` knows how, else
on the whole batch, which is an ordinary tensor from there on: the result is the same, only slower. `Step` says which it was.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from saliency_wrappers.saliency.incremental.feature_ops import on_features
from saliency_wrappers.saliency.incremental.image_ops import on_images
from saliency_wrappers.saliency.incremental.sparse_images import AnyImages


@dataclass(frozen=True)
class Step:
    """An operator that an agent called."""

    operator: str
    """PyTorch's name of it."""
    incremental: bool
    """Whether only changed positions were computed; else the whole batch was, then and in all that followed."""
    shape: tuple[int, ...]
    """What came out, `(n, C, h, w)`; where it was not incremental, what went in."""
    share: float
    """How many of all positions were computed, 0 to 1."""

    def __str__(self) -> str:
        computed = f"{self.share:.1%} of the positions" if self.incremental else "whole, and all that follows"
        return f"{self.operator:12} {' x '.join(map(str, self.shape[1:])):14} {computed}"


class IncrementalBatch(Tensor):
    """A tensor subclass of images `(n, C, h, w)` or flattened features `(n, C * h * w)`, stored as `Changes`."""

    changes: AnyImages | None
    """None once an operator needed the whole batch."""
    flat: bool
    """Whether it is the features."""
    whole: Tensor | None
    """The batch as an ordinary tensor. None until an operator needs it."""
    steps: list[Step] | None
    """What was done until now, shared by all batches that come from the same images. None: tracing off."""

    def __new__(cls, changes: AnyImages, steps: list[Step] | None = None, flat: bool = False) -> Self:
        """Create a tensor without storage, with the shape, dtype and device of the batch."""
        n, channels, height, width = changes.shape
        shape = (n, channels * height * width) if flat else (n, channels, height, width)
        make: Any = Tensor._make_wrapper_subclass  # pyright: ignore
        return make(cls, shape, dtype=changes.rows.dtype, device=changes.rows.device)

    def __init__(self, changes: AnyImages, steps: list[Step] | None = None, flat: bool = False) -> None:
        """Wrap the changes of a batch."""
        self.changes, self.flat, self.whole, self.steps = changes, flat, None, steps

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        name = str(getattr(func, "__name__", func))
        if name in _FACTS or (name == "__get__" and func.__self__.__name__ in _FACTS):
            with torch._C.DisableTorchFunctionSubclass():  # pyright: ignore
                return func(*args, **kwargs)
        if name in _FACTORIES and args[0].changes is not None:
            return func(args[0].changes.rows, *args[1:], **kwargs)
        if args and isinstance(args[0], IncrementalBatch):
            done = args[0]._incrementally(func, name, args[1:], kwargs)
            if done is not NotImplemented:
                return done
        plain: Any = tree_map_only(IncrementalBatch, lambda batch: batch.whole_batch(name), (args, kwargs))
        return func(*plain[0], **plain[1])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError(f"{func} on an IncrementalBatch, past __torch_function__.")

    def _incrementally(self, operator: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Apply an operator to the changes; `NotImplemented` where it needs the whole batch."""
        changes = self.changes
        if changes is None:
            return NotImplemented
        if not self.flat and name in _FLATTENING:
            flattens = _flattens(tuple(self.shape), name, args, kwargs)
            return IncrementalBatch(changes.settled, self.steps, flat=True) if flattens else NotImplemented
        if name in _ALIASES:  # what is done to it in place later is to be seen here, too
            self.changes = changes = changes.settled
        in_place = kwargs.get("inplace") is True or re.fullmatch(r"[a-z0-9]+_|__i[a-z]+__", name) is not None
        if self.flat:
            done = NotImplemented if in_place else on_features(changes.settled, name, args, kwargs)
        else:
            done = on_images(changes, operator, name, args, dict(kwargs))
        if done is NotImplemented:
            return done
        if self.steps is not None:
            self.steps.append(Step(name, True, tuple(self.shape) if self.flat else done.shape, 1.0 if self.flat else done.share))
        if in_place:
            self.changes = done
            return self
        return done if self.flat else IncrementalBatch(done, self.steps)

    def whole_batch(self, operator: str = "output") -> Tensor:
        """Return the batch as an ordinary tensor, which replaces the changes from now on: the operator may modify it in place."""
        if self.changes is not None:
            dense = self.changes.settled.dense()
            self.whole, self.changes = dense.flatten(1) if self.flat else dense, None
            if self.steps is not None:
                self.steps.append(Step(operator, False, tuple(self.shape), 1.0))
        return cast(Tensor, self.whole)


_FACTS = set(
    "shape dtype device ndim layout requires_grad is_leaf is_cuda is_cpu is_sparse is_quantized is_meta itemsize nbytes is_nested dim size "
    "numel nelement ndimension __len__ is_floating_point is_complex get_device is_inference element_size stride is_contiguous".split()
)
"""Attributes that do not depend on the content."""

_FLATTENING = {"flatten", "view", "reshape"}
_ALIASES = {"contiguous", "detach", "to", "float", "double", "half", "bfloat16", "dropout", "dropout2d"}
_FACTORIES = {"new_zeros", "new_ones", "new_empty", "new_full", "new_tensor"}


def _flattens(shape: tuple[int, ...], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether the operator gives `(n, C * h * w)`."""
    if name == "flatten":
        axes = (*args, *[kwargs[key] for key in ("start_dim", "end_dim") if key in kwargs])
        return axes in ((1,), (1, -1), (1, 3))
    sizes = args[0] if len(args) == 1 and isinstance(args[0], tuple | list) else args
    n, features = shape[0], math.prod(shape[1:])
    return len(sizes) == 2 and tuple(sizes) in ((n, features), (n, -1), (-1, features))
