"""Reading recorded episodes: `StoredEpisode` is one, `StoredBlock` one chunk's worth of it, `StoredDecision` one decision.

Stored data is untrusted: everything is checked against the episode's header, memory is bounded by the files' sizes, nothing is executed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saliency_wrappers.decisions import Decision, SaliencyMaps
from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.states import StateTree
from saliency_wrappers.step_saliency import StepSaliency
from saliency_wrappers.store.checks import ReadBudget, check_field
from saliency_wrappers.store.columns import STATE_FORM
from saliency_wrappers.store.files import Location, StoreError
from saliency_wrappers.store.header import GROUP, LARGEST_ARRAY_JSON, EpisodeHeader, attributes
from saliency_wrappers.store.maps import MAPS, MapLayer
from saliency_wrappers.store.tree_schema import check_structure, rebuilt
from saliency_wrappers.store.writer import LENGTH
from saliency_wrappers.store.zarr_array import LARGEST_LENGTH, ArrayField, read_metadata


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

    @cached_property
    def exists(self) -> bool:
        """Whether it is an episode: a group of ours."""
        found = attributes(self._location, self.name, verify=False)  # told when it is read
        return found is not None and "states" in found

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
        length = int(LENGTH.decode(content, f"{key} in {self._location}", 0)[0])
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
        return StoredBlock(self, self.header, index, rows)

    @property
    def methods(self) -> dict[str, dict[str, Any]]:
        """The methods whose maps are stored: descriptions by fingerprint."""
        found = {name: self.layer(name).description for name in self._location.names(f"{self.name}/{MAPS}")}
        return {name: description for name, description in found.items() if description}

    def layer(self, fingerprint: str) -> MapLayer:
        """Return the layer of maps with this fingerprint, which need not exist."""
        return MapLayer(self._location, self.name, fingerprint, self.block)

    def maps(self, start: int = 0, end: int | None = None, method: str | None = None) -> Iterator[tuple[StoredDecision, SaliencyMaps]]:
        """Iterate over the decisions of these steps that have maps, with their maps, in order.

        Args:
            start: the first step.
            end: the first step no longer. None: all.
            method: the fingerprint of a method, or its beginning. None: the only one there is.

        Raises:
            ValueError: no such method, or several.
        """
        layer = self.layer(self._fingerprint(method))
        for block in self.blocks(start, end):
            for decision, maps in zip(block.decisions, layer.read(block.index), strict=False):
                if maps is not None and start <= decision.step and (end is None or decision.step < end):
                    yield decision, maps

    def chunk(self, name: str, index: int, rows: int, budget: ReadBudget) -> NDArray[Any]:
        """Return the first rows of a field's block, `(rows, ...)`; `StoreError` when they are not there, or not as they were written."""
        field = self._field(name, index * self.block + rows)
        key = f"{self.name}/{field.key(index)}"
        place = f"{key} in {self._location}"
        content = self._location.get(key, field.most_bytes)
        budget.take(field.nbytes, 0 if content is None else len(content), place)
        return field.decode(content, place, index)[:rows]

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
        found = self.methods
        fitting = [name for name in found if method is None or name.startswith(method)]
        if len(fitting) != 1:
            known = ", ".join(f"{name} ({description.get('name', '?')})" for name, description in found.items()) or "none"
            raise ValueError(f"Expected one method whose maps are in {self.name} of {self._location}, got {method!r}; there are: {known}.")
        return fitting[0]


class StoredBlock:
    """A block of an episode; each field is read once, when it is asked for."""

    def __init__(self, episode: StoredEpisode, header: EpisodeHeader, index: int, rows: int) -> None:
        self.index = index
        self.rows = rows
        self._episode = episode
        self._header = header
        self._read: dict[str, NDArray[Any]] = {}
        self._budget = ReadBudget()

    @property
    def steps(self) -> NDArray[np.int64]:
        """`(rows,)` int64: the steps of its decisions, ascending."""
        return self.field("step")

    @property
    def decisions(self) -> list[StoredDecision]:
        """Its decisions."""
        return [StoredDecision(self, row) for row in range(self.rows)]

    def field(self, name: str) -> NDArray[Any]:
        """`(rows, ...)`: a field of its decisions."""
        if name not in self._read:
            self._read[name] = self._episode.chunk(name, self.index, self.rows, self._budget)
        return self._read[name]

    def decision(self, row: int) -> Decision:
        """Return inputs, state and outputs as new tensors, `(1, ...)`; the action is the index of a logit."""
        header = self._header
        action = self.action(row)
        return Decision(
            inputs=self._row("inputs", header.inputs, row),
            state=self.state(row),
            logits=self._row("logits", header.logits, row),
            value=None if header.value is None else self._row("value", header.value, row),
            episode_start=None if header.episode_start is None else self._row("episode_start", header.episode_start, row),
            action=_index_of(action, header.first_action),
        )

    def action(self, row: int) -> Any:
        """Return the action that the environment was given: an int, an array, or a tuple or dictionary of arrays."""
        structure = self._header.action
        tree = rebuilt(structure, self._leaves("action", structure, row))
        if isinstance(tree, Tensor):
            return int(tree) if tree.ndim == 0 and not tree.is_floating_point() else tree.numpy()
        return _arrays(tree)

    def frame(self, row: int) -> NDArray[np.uint8] | None:
        """Return the frame `(H, W, 3)` uint8. None when frames were not kept."""
        return self.field("frames")[row] if self._header.frames else None

    def state(self, row: int) -> StateTree:
        """Return the incoming state."""
        states = self._header.states
        form = int(self.field(STATE_FORM)[row]) if len(states) > 1 else 0
        if form >= len(states):
            raise StoreError(f"Expected a form of state below {len(states)} in {self._episode.name}, got {form}.")
        return rebuilt(states[form], self._leaves(f"state.{form}", states[form], row))

    def _leaves(self, name: str, structure: Any, row: int) -> Iterator[Tensor]:
        count = len(list(check_structure(structure, name)))
        return (torch.from_numpy(np.array(self.field(f"{name}.{index}")[row])) for index in range(count))

    def _row(self, name: str, dtype: str, row: int) -> Tensor:
        tensor = rebuilt(dtype, iter([torch.from_numpy(self.field(name)[row : row + 1].copy())]))
        if not isinstance(tensor, Tensor):
            raise StoreError(f"Expected {name} to be one tensor in {self._episode.name}.")
        return tensor


@dataclass(frozen=True, eq=False)
class StoredDecision:
    """One decision of a stored episode; its content is read when it is asked for."""

    block: StoredBlock
    row: int

    @property
    def step(self) -> int:
        """Its step in the episode, from 0."""
        return int(self.block.steps[self.row])

    @property
    def decision(self) -> Decision:
        """Inputs, state and outputs."""
        return self.block.decision(self.row)

    @property
    def action(self) -> Any:
        """The action that the environment was given."""
        return self.block.action(self.row)

    @property
    def record(self) -> StepSaliency:
        """The record of its step as it was written, without maps. Its `episode` is 0: a stored episode does not know its place."""
        return StepSaliency.capture(self.decision, self.action, 0, self.step, by_reference=True)

    @property
    def reward(self) -> float:
        """The reward of the step; NaN when the step failed."""
        return float(self.block.field("reward")[self.row])

    @property
    def frame(self) -> NDArray[np.uint8] | None:
        """The frame `(H, W, 3)` uint8 that the agent saw. None when frames were not kept."""
        return self.block.frame(self.row)


def _index_of(action: Any, first: int) -> Tensor | None:
    """Return the index `(1,)` of an action's logit. None for an action that is no number."""
    if not isinstance(action, int):
        return None
    largest = torch.iinfo(torch.int64).max
    return torch.tensor([max(-largest, min(action - first, largest))])


def _arrays(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.numpy()
    if isinstance(tree, dict):
        return {key: _arrays(branch) for key, branch in tree.items()}
    return tuple([_arrays(branch) for branch in tree])
