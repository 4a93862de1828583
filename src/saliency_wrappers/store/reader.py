"""`StoredEpisode`: a recorded episode, read block by block.

Stored data is untrusted: everything is checked against the episode's header, memory is bounded by the files' sizes, nothing is executed.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from functools import cached_property, partial
from html import escape
from typing import Any

from numpy.typing import NDArray

from saliency_wrappers.decisions import SaliencyMaps
from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.store.checks import ReadBudget, check_field
from saliency_wrappers.store.episode_files import LENGTH
from saliency_wrappers.store.files import Location, StoreError
from saliency_wrappers.store.header import GROUP, LARGEST_ARRAY_JSON, EpisodeHeader, attributes
from saliency_wrappers.store.maps import MAPS, MapLayer
from saliency_wrappers.store.stored_block import StoredBlock, StoredDecision
from saliency_wrappers.store.zarr_array import LARGEST_LENGTH, ArrayField, read_metadata

_WHOLE = re.compile("[0-9a-f]{16}")
"""A method's fingerprint, not only its beginning: the others need not be looked at."""


class StoredEpisode:
    """One episode of a store, read lazily, block by block."""

    def __init__(self, location: Location, name: str) -> None:
        self.name = name
        self._location = location
        self._fields: dict[str, ArrayField] = {}
        self._finished: EpisodeHeader | None = None
        """The header, when it will not change any more."""

    def __repr__(self) -> str:
        return f"StoredEpisode({self.name!r}, {len(self)} decisions)"

    def _repr_html_(self) -> str:
        """Return a table of what it is, for notebooks."""
        header = self.header
        facts = {
            "environment": (header.env_spec or {}).get("id", "unknown"),
            "seed": header.seed,
            "decisions": len(self),
            "frames": "kept" if header.frames else "not kept",
            "maps": ", ".join(str(about.get("name", "?")) for about in self.methods.values()) or "none",
            "complete": "yes" if header.complete else "no",
        }
        rows = "".join(f"<tr><th>{name}</th><td>{escape(str(fact))}</td></tr>" for name, fact in facts.items())
        return f"<table><caption>{escape(self.name)}</caption>{rows}</table>"

    @property
    def exists(self) -> bool:
        """Whether it is an episode, a group of ours, with decisions; a header whose first decisions were never committed is none.

        The header's digest is not looked at here: an episode that was changed is an error when it is read.
        """
        found = attributes(self._location, self.name, verify=False)
        if found is None or "states" not in found:
            return False
        finished = found.get("complete") is True or found.get("decisions") is not None
        return finished or self._location.exists(f"{self.name}/{LENGTH.key(0)}")

    @property
    def header(self) -> EpisodeHeader:
        """The current metadata."""
        if self._finished is not None:
            return self._finished
        found = attributes(self._location, self.name)
        if found is None:
            raise StoreError(f"Expected an episode {self.name} in the store {self._location}, found none.")
        header = EpisodeHeader.read(found, f"the episode {self.name} of {self._location}")
        self._finished = header if header.decisions is not None else None
        return header

    @cached_property
    def block(self) -> int:
        """Decisions in a chunk."""
        return self.header.block

    @cached_property
    def _owner(self) -> str | None:
        """The name that its chunks carry. None: an earlier version wrote it."""
        return self.header.name

    @property
    def preprocessor(self) -> FramePreprocessor | None:
        """The preprocessor of its frames. None: not known."""
        return self.header.frame_preprocessor

    def __len__(self) -> int:
        """Return the current number of decisions; more may follow while it is recorded.

        Raises:
            StoreError: the length is damaged, or another one than the header of a finished episode says.
        """
        length = self._length()
        header = self.header
        if length is None and not header.complete and header.decisions is None:
            return 0
        if header.decisions is not None and length != header.decisions:  # read once more: it may have grown before the header was read
            length = self._length()
        if length is None or header.decisions not in (None, length):
            found = "no length" if length is None else f"a length of {length}"
            expected = "a length" if header.decisions is None else f"{header.decisions} decisions"
            raise StoreError(f"Expected {expected} in the finished episode {self.name} of {self._location}, got {found}.")
        return length

    def _length(self) -> int | None:
        key = f"{self.name}/{LENGTH.key(0)}"
        content = self._location.get(key, LENGTH.most_bytes)
        if content is None:
            return None
        length = int(LENGTH.decode(content, f"{key} in {self._location}", 0, self._owner or "")[0])
        if not 0 <= length <= LARGEST_LENGTH:
            raise StoreError(f"Expected at most {LARGEST_LENGTH} decisions in {self.name} of {self._location}, got {length}.")
        return length

    def decisions(self, start: int = 0, end: int | None = None) -> Iterator[StoredDecision]:
        """Iterate over the decisions of the steps `start` to `end`, exclusive, in order; a block is read with its first decision.

        Raises:
            StoreError: a chunk is missing or damaged, or an array is not what the episode's header says.
        """
        for block in self.blocks(start, end):
            for decision in block.decisions:
                if start <= decision.step and (end is None or decision.step < end):
                    yield decision

    def blocks(self, start: int = 0, end: int | None = None) -> Iterator[StoredBlock]:
        """Iterate over the blocks with the decisions of these steps."""
        count = -(-len(self) // self.block)
        first = bisect_left(range(count), start, key=lambda index: int(self.block_at(index).steps[-1]))
        for index in range(first, count):
            block = self.block_at(index)
            if end is not None and int(block.steps[0]) >= end:
                return
            yield block

    def block_at(self, index: int) -> StoredBlock:
        """Return the index-th block, with its current decisions."""
        rows = min(self.block, len(self) - index * self.block)
        if rows < 1:
            raise StoreError(f"Expected a block {index} in the episode {self.name} of {self._location}, which has {len(self)} decisions.")
        return StoredBlock(self.header, index, rows, partial(self._chunk, index, rows), self.name)

    @property
    def methods(self) -> dict[str, dict[str, Any]]:
        """The methods whose maps are stored: descriptions by fingerprint."""
        found = {name: self.layer(name).description for name in self._location.names(f"{self.name}/{MAPS}")}
        return {name: description for name, description in found.items() if description}

    def layer(self, fingerprint: str) -> MapLayer:
        """Return the layer of maps with this fingerprint, which need not exist."""
        return MapLayer(self._location, self.name, fingerprint, self.block, self._owner)

    def maps(self, start: int = 0, end: int | None = None, method: str | None = None) -> Iterator[tuple[StoredDecision, SaliencyMaps]]:
        """Iterate over the decisions of these steps that have maps, with their maps, in order.

        Args:
            start: the first step.
            end: the end of the range, exclusive. None: all.
            method: the fingerprint of a method, or its beginning. None: the only one there is.

        Raises:
            ValueError: no such method, or several.
        """
        layer = self.layer(self._fingerprint(method))
        for block in self.blocks(start, end):
            for decision, maps in zip(block.decisions, layer.read(block.index), strict=False):
                if maps is not None and start <= decision.step and (end is None or decision.step < end):
                    yield decision, maps

    def _chunk(self, index: int, rows: int, name: str, budget: ReadBudget) -> NDArray[Any]:
        """Return the first rows of a field's block, `(rows, ...)`; `StoreError` when they are not there, or not as they were written."""
        field = self._field(name, index * self.block + rows)
        key = f"{self.name}/{field.key(index)}"
        place = f"{key} in {self._location}"
        content = self._location.get(key, field.most_bytes)
        budget.take(field.nbytes, 0 if content is None else len(content), place)
        return field.decode(content, place, index, self._owner or "")[:rows]

    def _field(self, name: str, rows: int) -> ArrayField:
        if name not in self._fields:
            place = f"{self.name}/{name}/{GROUP}"
            content = self._location.get(place, LARGEST_ARRAY_JSON)
            if content is None:
                raise StoreError(f"An array is missing: {place} in {self._location}.")
            field, there = read_metadata(name, content, f"{place} in {self._location}")
            check_field(field, self.header, f"{place} in {self._location}")
            if there < rows or field.block != self.block:
                raise StoreError(f"Expected {rows} rows in blocks of {self.block} in {place} of {self._location}, got {there} in {field}.")
            self._fields[name] = field
        return self._fields[name]

    def _fingerprint(self, method: str | None) -> str:
        if method is not None and _WHOLE.fullmatch(method) and self.layer(method).description:
            return method
        found = self.methods
        fitting = [name for name in found if method is None or name.startswith(method)]
        if len(fitting) != 1:
            known = ", ".join(f"{name} ({description.get('name', '?')})" for name, description in found.items()) or "none"
            raise ValueError(f"Expected one method whose maps are in {self.name} of {self._location}, got {method!r}; there are: {known}.")
        return fitting[0]
