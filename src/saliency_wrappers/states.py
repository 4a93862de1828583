"""Trees of recurrent state in one canonical form.

Mappings are visited by sorted keys. `structure` tells which trees have the same form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

StateTree = Tensor | tuple["StateTree", ...] | Mapping[str, "StateTree"] | None
"""A recurrent state: a tensor, a tuple or NamedTuple of states, a mapping of states, or None for an agent without memory."""

Structure = tuple[Any, ...] | None
"""What two trees have in common when they have the same form; hashable."""

_NO_STATE = "Expected a recurrent state made of tensors, tuples, mappings or None, got {}."


def map_state(function: Callable[[Tensor], Tensor], state: StateTree) -> StateTree:
    """Apply `function` to every tensor of a state, in the order of `state_leaves`.

    Returns:
        A tree of the same structure: NamedTuples stay NamedTuples, and mappings become dictionaries in their own order of keys.

    Raises:
        TypeError: the state holds something other than tensors, tuples, mappings and None.
    """
    if isinstance(state, Tensor):
        return function(state)
    if state is None:
        return None
    if isinstance(state, Mapping):
        mapped = {name: map_state(function, state[name]) for name in sorted_keys(state)}
        return {name: mapped[name] for name in state}
    if isinstance(state, tuple):
        branches = [map_state(function, branch) for branch in state]
        make = getattr(type(state), "_make", tuple)
        return make(branches)
    raise TypeError(_NO_STATE.format(type(state).__name__))


def state_leaves(state: StateTree) -> Iterator[Tensor]:
    """Return the tensors of a state: tuples in order, mappings by sorted keys; none for None."""
    if isinstance(state, Tensor):
        return iter((state,))
    if state is None:
        return iter(())
    if isinstance(state, Mapping):
        return chain.from_iterable([state_leaves(state[name]) for name in sorted_keys(state)])
    if not isinstance(state, tuple):
        raise TypeError(_NO_STATE.format(type(state).__name__))
    return chain.from_iterable(map(state_leaves, state))


def structure(state: StateTree) -> Structure:
    """Return the form of a tree: kinds, sorted keys, shapes and dtypes. NamedTuples count as tuples.

    Two states are joined in a batch, or share arrays in a store, only when their structures are equal.
    """
    if isinstance(state, Tensor):
        return ("tensor", tuple(state.shape), state.dtype)
    if state is None:
        return None
    if isinstance(state, Mapping):
        return ("mapping", *[(name, structure(state[name])) for name in sorted_keys(state)])
    if isinstance(state, tuple):
        return ("tuple", *map(structure, state))
    raise TypeError(_NO_STATE.format(type(state).__name__))


def copy_state(state: StateTree) -> StateTree:
    """Return an independent copy of a state, of ordinary tensors."""
    if isinstance(state, Tensor):
        return copy_tensor(state)
    if type(state) is tuple:  # most states are: at every pass, half of the calls
        return tuple([copy_state(branch) for branch in state])
    return map_state(copy_tensor, state)


def copy_tensor(tensor: Tensor) -> Tensor:
    """Return an ordinary copy (never an inference tensor), without gradient history."""
    copy = tensor.clone()  # most copies are ordinary, and each call on a tensor takes time: clone first, look afterwards
    if copy.is_inference():
        with torch.inference_mode(False), torch.no_grad():
            return tensor.detach().clone() if not tensor.is_inference() else tensor.clone()
    return copy.detach() if copy.requires_grad else copy


def sorted_keys(tree: Mapping[Any, Any]) -> list[Any]:
    """Return the keys of a mapping in canonical order: by their text."""
    return sorted(tree, key=str)
