"""State trees on disk: their structure as JSON (`structure_of`), their tensors in order, and back (`rebuilt`).

A tensor's structure is the name of its dtype, a tuple's `{"tuple": [...]}`, a mapping's `{"mapping": [[key, ...], ...]}` by sorted keys,
None's null. A tensor whose shape changes is `{"ragged": dtype}`: padded with zeros, followed by its shape as int64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from saliency_wrappers.states import StateTree, sorted_keys
from saliency_wrappers.store.files import StoreError

_DEPTH = 16
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    )
}
"""The dtypes that a tensor on disk may have, by their names."""

Structure = Any
"""What `json.loads` makes of a structure."""


def structure_of(tree: StateTree, leaf: Callable[[Tensor], Structure] | None = None) -> Structure:
    """Return a tree's structure; a NamedTuple is a tuple.

    Args:
        tree: the tree.
        leaf: makes the structure of each tensor, called in the order of `state_leaves`. None: the name of its dtype.

    Raises:
        TypeError: something else than tensors, tuples, mappings by strings and None, or a dtype that cannot be stored.
    """
    if tree is None:
        return None
    if isinstance(tree, Tensor):
        return dtype_name(tree) if leaf is None else leaf(tree)
    if isinstance(tree, Mapping):
        if not all(isinstance(key, str) for key in tree):
            raise TypeError(f"Expected a mapping by strings, to be stored, got keys {list(tree)!r}.")
        return {"mapping": [[key, structure_of(tree[key], leaf)] for key in sorted_keys(tree)]}
    if isinstance(tree, tuple):
        return {"tuple": [structure_of(branch, leaf) for branch in tree]}
    raise TypeError(f"Expected tensors, tuples, mappings or None, to be stored, got {type(tree).__name__}.")


def pad(tensor: Tensor, capacity: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return a tensor padded with zeros to a larger shape, and its shape, `(ndim,)` int64."""
    padded = tensor.new_zeros(capacity)
    padded[tuple([slice(size) for size in tensor.shape])] = tensor
    return padded, torch.tensor(tensor.shape, dtype=torch.int64)


def dtype_name(tensor: Tensor) -> str:
    """Return the name of a tensor's dtype; `TypeError` for one that cannot be stored."""
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise TypeError(f"Expected tensors of a dtype among {', '.join(_DTYPES)}, to be stored, got {tensor.dtype}.")
    return name


def check_structure(structure: Structure, place: str, depth: int = 0) -> Iterator[str]:
    """Validate a structure and yield the names of its tensors' dtypes, in order.

    Raises:
        StoreError: what comes from the disk is no structure.
    """
    if depth > _DEPTH:
        raise StoreError(f"Expected a tree at most {_DEPTH} levels deep in {place}.")
    match structure:
        case None:
            return
        case str() if structure in _DTYPES:
            yield structure
        case {"ragged": str() as dtype, **rest} if not rest and dtype in _DTYPES:
            yield from (dtype, "int64")
        case {"tuple": [*branches], **rest} if not rest:
            for branch in branches:
                yield from check_structure(branch, place, depth + 1)
        case {"mapping": [*pairs], **rest} if not rest and _are_pairs(pairs):
            for _, branch in pairs:
                yield from check_structure(branch, place, depth + 1)
        case _:
            raise StoreError(f"Expected the structure of a tree in {place}, got {str(structure)[:80]!r}.")


def rebuilt(structure: Structure, tensors: Iterator[Tensor]) -> StateTree:
    """Rebuild the tree of a validated structure from tensors, converted to their original dtypes."""
    if structure is None:
        return None
    if isinstance(structure, str):
        return next(tensors).to(_DTYPES[structure])
    if "ragged" in structure:
        padded, shape = next(tensors), next(tensors)
        return _without_padding(padded, shape).to(_DTYPES[structure["ragged"]])
    if "tuple" in structure:
        return tuple([rebuilt(branch, tensors) for branch in structure["tuple"]])
    return {key: rebuilt(branch, tensors) for key, branch in structure["mapping"]}


def dressed(tree: StateTree, like: StateTree) -> StateTree:
    """Return a tree with the NamedTuples and the order of keys of another; as it is where they differ."""
    if isinstance(tree, tuple) and isinstance(like, tuple) and len(tree) == len(like):
        branches = [dressed(*pair) for pair in zip(tree, like, strict=True)]
        make = getattr(type(like), "_make", tuple)
        return make(branches)
    if isinstance(tree, Mapping) and isinstance(like, Mapping) and tree.keys() == like.keys():
        return {key: dressed(tree[key], like[key]) for key in like}
    return tree


def _are_pairs(pairs: list[Any]) -> bool:
    """Whether these are pairs of different keys and something."""
    fitting = all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs)
    return fitting and len({pair[0] for pair in pairs}) == len(pairs)


def _without_padding(padded: Tensor, shape: Tensor) -> Tensor:
    sizes: list[Any] = shape.tolist() if shape.ndim == 1 else []
    if len(sizes) != padded.ndim or not all(0 <= size <= most for size, most in zip(sizes, padded.shape, strict=True)):
        raise StoreError(f"Expected a shape within {tuple(padded.shape)} of a tensor whose shape changes, got {sizes}.")
    return padded[tuple([slice(size) for size in sizes])].clone()
