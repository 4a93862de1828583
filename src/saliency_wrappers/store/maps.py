"""`MapLayer`: the maps that one method made of one episode's decisions, beside them in the store, under the fingerprint of both.

A block's maps are written before its marks, which say for each decision whether its maps are there. Two computations may write one block at
the same time: in one process and in a local folder a lock keeps them apart, elsewhere the content decides. A row without a map holds
`ABSENT`, so that a mark whose map was overwritten by another writer does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saliency_wrappers.decisions import Array, SaliencyMaps
from saliency_wrappers.store.exclusive import exclusive
from saliency_wrappers.store.files import Location, StoreError
from saliency_wrappers.store.header import GROUP, LARGEST_ARRAY_JSON, attributes, write_group
from saliency_wrappers.store.input_maps import StoredInputs, described_inputs, stored_arrays
from saliency_wrappers.store.zarr_array import ArrayField, read_metadata

MAPS = "maps"
ABSENT = np.array(0x7FC5A11E, np.uint32).view(np.float32)[()]
"""The number that fills a row without a map: a NaN of a bit pattern that arithmetic does not give."""


class MapLayer:
    """Reads and writes the maps of one method, a block at a time."""

    def __init__(self, location: Location, episode: str, fingerprint: str, block: int, owner: str | None = None) -> None:
        """Name a layer; it need not exist.

        Args:
            location: the store.
            episode: the episode's group.
            fingerprint: of the method and the agent.
            block: decisions in a chunk.
            owner: the name that the episode's chunks carry (`EpisodeHeader.name`). None: an earlier version wrote the episode; chunks of
                maps carry their field and index only.
        """
        self._owner = "" if owner is None else f"{owner}/{MAPS}/{fingerprint}"
        self.fingerprint = fingerprint
        self._location = location
        self._episode = episode
        self._group = f"{episode}/{MAPS}/{fingerprint}"
        self._done = ArrayField("done", (), "bool", block)
        self._fields: dict[str, ArrayField | None] = {}
        self._rows = 0
        """For how many rows the arrays were made here."""
        self._method: dict[str, Any] = {}
        """The description, once maps were read; empty before."""
        self._enlarged = 0
        """How many rows the arrays had when they were read last."""

    @property
    def description(self) -> dict[str, Any]:
        """The description of method, parts and agent; empty when there is no such layer."""
        found = attributes(self._location, self._group)
        method = {} if found is None else found.get("method")
        return method if isinstance(method, dict) else {}

    def done(self, block: int) -> NDArray[np.bool_]:
        """Return `(block,)` bool: which decisions of a block have maps, by marks and content."""
        return self._content(block)[0]

    def marked(self, block: int) -> NDArray[np.bool_]:
        """Return `(block,)` bool: the marks only, without reading the maps."""
        content = self._location.get(f"{self._group}/{self._done.key(block)}", self._done.most_bytes)
        return self._done.empty() if content is None else self._decoded(self._done, content, block)

    def read(self, block: int) -> list[SaliencyMaps | None]:
        """Return the maps of a block's decisions; None where there are none.

        Raises:
            StoreError: what the marks promise is missing or damaged.
        """
        done, actor, critic = self._content(block)
        if actor is None:
            return [None] * len(done)
        method = self._method = self._method or self.description
        names = _features(method, actor.shape[1:])
        place = f"{self._group} of {self._location}"
        inputs = StoredInputs.read(method.get("inputs"), lambda name: self._chunk(name, block), place)
        own = [SaliencyMaps(one.copy(), None if critic is None else critic[row].copy(), features=names) for row, one in enumerate(actor)]
        return [inputs.added(one, row) if there else None for row, (one, there) in enumerate(zip(own, done, strict=True))]

    def write(self, block: int, rows: Sequence[int], maps: Sequence[SaliencyMaps], length: int, method: dict[str, Any]) -> None:
        """Add maps to a block.

        Args:
            block: the block.
            rows: the decisions' places in it.
            maps: one for each of them.
            length: how many decisions the episode has, at least.
            method: the layer's description.
        """
        with exclusive(self._location, self._episode):
            done, *present = self._content(block)
            fields = self._prepare(maps[0], length, method)
            known = dict(zip(("actor", "critic"), present, strict=True))
            arrays = [stored_arrays(one) for one in maps]
            for name, field in fields.items():
                chunk = known[name] if name in known else self._chunk(name, block) if done.any() else None
                chunk = field.empty() if chunk is None else chunk
                chunk[~done] = ABSENT
                for row, one in zip(rows, arrays, strict=True):
                    chunk[row] = _fitting(one, name, field.shape)
                self._location.put(f"{self._group}/{field.key(block)}", field.encode(chunk, block, self._owner))
            done[list(rows)] = True
            self._location.put(f"{self._group}/{self._done.key(block)}", self._done.encode(done, block, self._owner))

    def _content(self, block: int) -> tuple[NDArray[np.bool_], NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """What is there of a block: which rows, `(block,)` bool, and the maps of both heads; None and False where nothing is."""
        done = self.marked(block)
        if not done.any():
            return done, None, None
        actor, critic = self._chunk("actor", block), self._chunk("critic", block)
        if actor is None:
            raise StoreError(f"Expected maps of the actor in {self._group} of the store {self._location}.")
        if critic is None and "critic" in self._heads():
            raise StoreError(f"Expected maps of the critic in {self._group} of the store {self._location}.")
        for chunk in (actor, critic):
            if chunk is not None:
                done &= ~_absent(chunk)
        return done, actor, critic

    def _heads(self) -> list[Any]:
        """Which heads have maps, as the layer's header says; empty where an earlier version wrote it."""
        found = attributes(self._location, self._group) or {}
        heads = found.get("heads")
        return heads if isinstance(heads, list) else []

    def _prepare(self, maps: SaliencyMaps, length: int, method: dict[str, Any]) -> dict[str, ArrayField]:
        """Create the arrays, or extend those that are too short."""
        block = self._done.block
        fields = {name: self._made_like(name, one) for name, one in stored_arrays(maps).items()}
        rows = -(-length // block) * block
        if rows > self._rows:
            self._fields.clear()
            if self._field("actor") is None:
                names = {} if maps.features is None else {"features": list(maps.features)}
                content = {"method": method | names | described_inputs(maps), "heads": [*fields]}
                write_group(self._location, self._group, content)
            rows = max(rows, self._enlarged)  # by another writer, who knew of more decisions
            for field in (*fields.values(), self._done):
                self._location.put(f"{self._group}/{field.name}/{GROUP}", field.metadata(rows))
            self._rows = rows
            self._fields.clear()
        return fields

    def _made_like(self, head: str, one: Array) -> ArrayField:
        there = self._field(head)
        return ArrayField(head, one.shape, "float32", self._done.block, None if there is None else there.separator)

    def _chunk(self, head: str, block: int) -> NDArray[Any] | None:
        field = self._field(head)
        if field is None:
            return None
        content = self._location.get(f"{self._group}/{field.key(block)}", field.most_bytes)
        return self._decoded(field, content, block)

    def _field(self, head: str) -> ArrayField | None:
        if self._fields.get(head) is None:
            place = f"{self._group}/{head}/{GROUP}"
            content = self._location.get(place, LARGEST_ARRAY_JSON)
            self._fields[head] = None
            if content is not None:
                self._fields[head], self._enlarged = read_metadata(head, content, f"{place} in {self._location}")
        field = self._fields[head]
        if field is not None and (field.block != self._done.block or field.dtype != "float32" or len(field.shape) not in (1, 2, 3)):
            raise StoreError(f"Expected float32 maps in blocks of {self._done.block} in {self._group}, got {field}.")
        return field

    def _decoded(self, field: ArrayField, content: bytes | None, block: int) -> NDArray[Any]:
        return field.decode(content, f"{self._group}/{field.key(block)} in {self._location}", block, self._owner)


def _features(method: dict[str, Any], shape: tuple[int, ...]) -> tuple[str, ...] | None:
    """The names of the entries of maps `(features,)`, numbers where a description tells none. None for maps of images."""
    if len(shape) != 1:
        return None
    names = method.get("features")
    told = isinstance(names, list) and len(names) == shape[0] and all(isinstance(name, str) for name in names)
    return tuple(names) if told and names is not None else tuple(f"feature {i}" for i in range(shape[0]))


def _fitting(arrays: dict[str, Array], name: str, shape: tuple[int, ...]) -> Array:
    one = arrays.get(name)
    if one is None or one.shape != shape:
        raise ValueError(f"Expected {name} maps of one shape, {shape}, from a method, got {None if one is None else one.shape}.")
    return one


def _absent(chunk: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return `(block,)` bool: which rows of a chunk hold no map."""
    first = chunk.reshape(len(chunk), -1)[:, 0]
    return np.ascontiguousarray(first).view(np.uint32) == ABSENT.view(np.uint32)
