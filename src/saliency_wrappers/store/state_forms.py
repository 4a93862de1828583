"""`StateForms`: the forms that an episode's incoming state takes, and the tensors that each form stores.

The first state of a kind is stored as it is. A state of the same tree whose shapes differ (a memory that grows) is stored padded to
powers of two, so that growing takes few forms. Whatever else differs, keys, depth or dtypes, is a form of its own.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from saliency_wrappers.states import StateTree, state_leaves, structure
from saliency_wrappers.store.tree_schema import Structure, dtype_name, pad, structure_of

MOST_FORMS = 64
"""Forms of the state in an episode, at most."""
MOST_LEAVES = 4096
"""Tensors of all forms together, at most."""

_Capacity = tuple[int, ...] | None
"""The shape to which a tensor is padded. None: it is stored as it is."""


class StateForms:
    """Numbers the forms of states from 0, in order of appearance."""

    def __init__(self) -> None:
        self.structures: list[Structure] = []
        """What the header says of each form."""
        self._capacities: list[list[_Capacity]] = []
        self._by_structure: dict[Any, int] = {}
        self._by_capacity: dict[Any, int] = {}
        self._first_shapes: dict[Any, list[tuple[int, ...]]] = {}

    def form(self, state: StateTree) -> int:
        """Return the number of a state's form; a new one is added.

        Raises:
            TypeError: something that cannot be stored.
            ValueError: too many forms, or too many tensors.
        """
        exact = structure(state)
        form = self._by_structure.get(exact)
        if form is None:
            form = self._find(state, exact)
            if len(self._by_structure) >= MOST_LEAVES:
                self._by_structure.clear()
            self._by_structure[exact] = form
        return form

    def tensors(self, state: StateTree, form: int) -> list[Tensor]:
        """Return what a form stores of a state: each tensor, or the padded tensor and its shape."""
        leaves, capacities = state_leaves(state), self._capacities[form]
        if not any(capacities):
            return list(leaves)
        found: list[Tensor] = []
        for leaf, capacity in zip(leaves, capacities, strict=True):
            found.extend([leaf] if capacity is None else pad(leaf, capacity))
        return found

    def _find(self, state: StateTree, exact: Any) -> int:
        tree, leaves = _without_sizes(exact), list(state_leaves(state))
        first = self._first_shapes.setdefault(tree, [tuple(leaf.shape) for leaf in leaves])
        capacities = [_capacity(tuple(leaf.shape), shape) for leaf, shape in zip(leaves, first, strict=True)]
        key = tree, tuple(capacities)
        if key not in self._by_capacity:
            self._by_capacity[key] = self._add(state, capacities)
        return self._by_capacity[key]

    def _add(self, state: StateTree, capacities: list[_Capacity]) -> int:
        if len(self.structures) == MOST_FORMS or sum(map(len, self._capacities)) + len(capacities) > MOST_LEAVES:
            raise ValueError(
                f"Expected at most {MOST_FORMS} forms of the state in an episode, and {MOST_LEAVES} tensors in all of them, got another of "
                f"{len(capacities)} tensors. Keep a memory that grows in one tensor that grows, not in more and more tensors."
            )
        each = iter(capacities)
        self.structures.append(structure_of(state, lambda leaf: _leaf_structure(leaf, next(each))))
        self._capacities.append(capacities)
        return len(self.structures) - 1


def _leaf_structure(leaf: Tensor, capacity: _Capacity) -> Structure:
    return dtype_name(leaf) if capacity is None else {"ragged": dtype_name(leaf)}


def _capacity(shape: tuple[int, ...], first: tuple[int, ...]) -> _Capacity:
    if shape == first and all(shape):
        return None
    sizes = zip(shape, first, strict=True)
    return tuple([max(1, size) if size == before else 1 << max(0, size - 1).bit_length() for size, before in sizes])


def _without_sizes(exact: Any) -> Any:
    """Return a structure with numbers of axes instead of shapes."""
    if exact is None:
        return None
    kind, *rest = exact
    if kind == "tensor":
        shape, dtype = rest
        return kind, len(shape), dtype
    if kind == "mapping":
        return (kind, *[(name, _without_sizes(branch)) for name, branch in rest])
    return (kind, *map(_without_sizes, rest))
