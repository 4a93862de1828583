"""State trees have one canonical form: the order of keys is of no consequence, everything else is."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from saliency_wrappers.states import StateTree, copy_state, map_state, state_leaves, structure


class _Memory(NamedTuple):
    hidden: torch.Tensor
    cell: torch.Tensor


def test_leaves_are_visited_by_sorted_keys() -> None:
    h, c = torch.zeros(1, 2), torch.ones(1, 2)
    one, other = list(state_leaves({"h": h, "c": c})), list(state_leaves({"c": c, "h": h}))
    assert [leaf is c for leaf in one] == [leaf is c for leaf in other] == [True, False]


def test_a_mapped_tree_keeps_the_order_of_its_keys_and_its_named_tuples() -> None:
    mapped = map_state(lambda leaf: leaf + 1, {"z": torch.zeros(1), "a": _Memory(torch.zeros(1), torch.ones(1))})
    assert isinstance(mapped, dict)
    assert list(mapped) == ["z", "a"]
    assert isinstance(mapped["a"], _Memory)
    assert [float(leaf) for leaf in state_leaves(mapped)] == [1, 2, 1]


def test_calls_come_in_the_order_of_the_leaves() -> None:
    tree: StateTree = {"z": torch.tensor(0.0), "a": torch.tensor(1.0)}
    numbers = iter([5.0, 6.0])
    mapped = map_state(lambda _: torch.tensor(next(numbers)), tree)
    assert [float(leaf) for leaf in state_leaves(mapped)] == [5, 6]


def test_structure_ignores_the_order_of_keys_only() -> None:
    h, c = torch.zeros(1, 2), torch.ones(1, 3)
    reference = structure({"h": h, "c": c})
    assert reference == structure({"c": c + 1, "h": h + 1})
    others: list[StateTree] = [{"h": h}, {"h": c, "c": h}, {"h": h, "k": c}, {"h": h, "c": c.double()}, (c, h), None, h]
    assert all(structure(other) != reference for other in others)
    assert structure(_Memory(h, c)) == structure((h, c)) != structure(((h,), c))
    assert hash(reference) == hash(structure({"c": c, "h": h}))


def test_what_is_no_tree_is_refused() -> None:
    for function in (structure, lambda tree: list(state_leaves(tree)), copy_state):
        with pytest.raises(TypeError, match="Expected a recurrent state"):
            function([torch.zeros(1)])  # pyright: ignore[reportArgumentType]
