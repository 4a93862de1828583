"""Maps of agents with several inputs in a store: `stored_arrays` names their arrays, `StoredInputs` puts what was read together again.

The inputs are numbered in the order of their keys in the layer's description: `input.1.actor` is the actor's map of the second one.
`shares` holds each one's share of actor and critic, NaN for none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saliency_wrappers.decisions import Array, InputMaps, SaliencyMaps
from saliency_wrappers.store.files import StoreError

_MOST_INPUTS = 256
_SHARES = "shares"


def stored_arrays(maps: SaliencyMaps) -> dict[str, Array]:
    """Return the arrays of a decision's maps by their names in the store."""
    arrays = {head: one for head, one in (("actor", maps.actor), ("critic", maps.critic)) if one is not None}
    if maps.inputs is None:
        return arrays
    for number, one in enumerate(maps.inputs.values()):
        if one.maps is not None and one.maps.actor is not maps.actor:
            heads = (("actor", one.maps.actor), ("critic", one.maps.critic))
            arrays |= {f"input.{number}.{head}": raw for head, raw in heads if raw is not None}
    shares = [(one.share, np.nan if one.value_share is None else one.value_share) for one in maps.inputs.values()]
    return arrays | {_SHARES: np.array(shares, np.float32)}


def described_inputs(maps: SaliencyMaps) -> dict[str, Any]:
    """Return what a layer's description tells of the inputs; empty where the maps have none."""
    if maps.inputs is None:
        return {}
    inputs: list[dict[str, Any]] = []
    for key, one in maps.inputs.items():
        kind = "none" if one.maps is None else "own" if one.maps.actor is maps.actor else "maps"
        features = None if one.maps is None or one.maps.features is None else list(one.maps.features)
        inputs.append({"key": key, "kind": kind, "features": features})
    return {"inputs": inputs}


@dataclass(frozen=True, eq=False)
class StoredInputs:
    """The maps of all inputs of a block's decisions."""

    described: list[dict[str, Any]]
    """As `described_inputs` gives it; empty where there are none."""
    arrays: dict[str, NDArray[Any]]
    """`(rows, ...)` by their names."""

    @staticmethod
    def read(described: Any, chunk: Callable[[str], NDArray[Any] | None], place: str) -> StoredInputs:
        """Read the arrays that a description tells of; none for None.

        Raises:
            StoreError: the description is not what `described_inputs` gives, or an array is missing.
        """
        if described is None:
            return StoredInputs([], {})
        if not isinstance(described, list) or len(described) > _MOST_INPUTS or not all(map(_is_described, described)):
            raise StoreError(f"Expected a list of at most {_MOST_INPUTS} inputs in the description of {place}.")
        names = [f"input.{number}.{head}" for number, one in enumerate(described) if one["kind"] == "maps" for head in ("actor", "critic")]
        found = {name: array for name in (*names, _SHARES) if (array := chunk(name)) is not None}
        needed = {_SHARES: (len(described), 2)} | {name: None for name in names if name.endswith("actor")}
        for name, shape in needed.items():
            if name not in found or (shape is not None and found[name].shape[1:] != shape):
                raise StoreError(f"Expected an array {name} for the inputs of {place}.")
        return StoredInputs(described, found)

    def added(self, own: SaliencyMaps, row: int) -> SaliencyMaps:
        """Return the maps of the layer itself with those of all inputs of this decision; as they are where there are none."""
        if not self.described:
            return own
        made: dict[str, InputMaps] = {}
        for number, one in enumerate(self.described):
            share, value_share = (float(part) for part in self.arrays[_SHARES][row, number])
            maps = own if one["kind"] == "own" else self._maps(number, row)
            made[one["key"]] = InputMaps(maps, share, None if np.isnan(value_share) else value_share)
        return replace(own, inputs=made)

    def _maps(self, number: int, row: int) -> SaliencyMaps | None:
        actor, critic = (self.arrays.get(f"input.{number}.{head}") for head in ("actor", "critic"))
        if actor is None:
            return None
        names = self.described[number]["features"]
        features = tuple(names) if names is not None and actor.shape[1:] == (len(names),) else None
        return SaliencyMaps(actor[row].copy(), None if critic is None else critic[row].copy(), features=features)


def _is_described(one: Any) -> bool:
    if not isinstance(one, dict) or not isinstance(one.get("key"), str) or one.get("kind") not in ("none", "own", "maps"):
        return False
    names = one.get("features", 0)
    return names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names))
