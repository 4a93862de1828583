"""`EpisodeFiles`: the files of an episode that is being written, in an order in which every moment can be read.

Arrays come first, then the header that announces them, then the length that commits the decisions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from saliency_wrappers.decisions import SaliencyMaps
from saliency_wrappers.store.columns import STATE_FORM, DecisionColumns, FilledBlock
from saliency_wrappers.store.files import Location
from saliency_wrappers.store.header import GROUP, EpisodeHeader, check_readable, optional_fields, write_group
from saliency_wrappers.store.maps import MapLayer
from saliency_wrappers.store.tree_schema import Structure
from saliency_wrappers.store.zarr_array import ArrayField

LENGTH = ArrayField("length", (), "int64", 1)
"""One number: how many decisions are there."""

_FIRST_BLOCKS = 16
"""Arrays are made for so many blocks, and for twice as many when these are full."""


@dataclass(frozen=True, eq=False)
class ExplainedBlock:
    """Maps that wait for the others of their block."""

    block: int
    fingerprint: str
    method: dict[str, Any]
    maps: list[tuple[int, SaliencyMaps]] = field(default_factory=list[tuple[int, SaliencyMaps]])
    """Each with its decision's place in the block."""


class EpisodeFiles:
    """Writes an episode's files; all of it in the background."""

    def __init__(self, location: Location, name: str, block: int, frames: bool, known: dict[str, Any]) -> None:
        self.location, self.name = location, name
        self._block, self._frames = block, frames
        self._known = known | optional_fields(known.get("seed"), known.get("env_spec"))
        self._last: FilledBlock | None = None
        """What was written last."""
        self._capacity = 0
        self._fields = 0
        self._forms = 0
        self._backfilled = False

    def check(self, columns: DecisionColumns) -> None:
        """Check at the first decision that a reader will accept the header; `StoreError` otherwise."""
        check_readable(self._header(columns, columns.states), f"the episode {self.name} of {self.location}")

    def write(self, columns: DecisionColumns, block: FilledBlock) -> None:
        """Write more decisions: first the arrays, then the header that announces them, then the length."""
        if block.count > self._capacity or self._fields != len(block.fields):
            while block.count > self._capacity:
                self._capacity = max(_FIRST_BLOCKS * self._block, 2 * self._capacity)
            self._make_arrays(block.fields, self._capacity)
        if block.second_form is not None and not self._backfilled:
            forms = next(one for one in block.fields if one.name == STATE_FORM)
            for before in range(block.second_form):
                self.location.put(f"{self.name}/{forms.key(before)}", forms.encode(forms.empty(), before, self.name))
            self._backfilled = True
        for one, rows in block.rows:
            self.location.put(f"{self.name}/{one.key(block.index)}", one.encode(rows, block.index, self.name))
        if self._forms != len(block.states):
            write_group(self.location, self.name, self._header(columns, block.states).content())
            self._forms = len(block.states)
        self.location.put(f"{self.name}/{LENGTH.key(0)}", LENGTH.encode(np.array([block.count]), 0, self.name))
        self._last = block

    def write_maps(self, explained: ExplainedBlock, count: int) -> None:
        """Write the maps of a block; `count` is the number of decisions of the episode until now."""
        layer = MapLayer(self.location, self.name, explained.fingerprint, self._block, self.name)
        rows, maps = zip(*explained.maps, strict=True)
        layer.write(explained.block, rows, maps, max(count, 1), explained.method)

    def finish(self, columns: DecisionColumns, complete: bool, learned: bool) -> None:
        """The arrays' final length, and what is known in the end; nothing of an episode of which nothing was written."""
        block = self._last
        if block is not None:
            self._make_arrays(block.fields, block.count)
            header = replace(self._header(columns, block.states), complete=complete, learned=learned, decisions=block.count)
            write_group(self.location, self.name, header.content())

    def _make_arrays(self, fields: list[ArrayField], rows: int) -> None:
        for one in fields:
            self.location.put(f"{self.name}/{one.name}/{GROUP}", one.metadata(rows))
        self.location.put(f"{self.name}/{LENGTH.name}/{GROUP}", LENGTH.metadata(1))
        self._fields = len(fields)

    def _header(self, columns: DecisionColumns, states: list[Structure]) -> EpisodeHeader:
        outputs: dict[str, Any] = columns.outputs
        fixed: dict[str, Any] = {"name": self.name, "block": self._block, "frames": self._frames, "action": columns.action}
        return EpisodeHeader(states=states, **fixed, **outputs, **self._known)
