"""`BlockTask`: one block of an episode, read, explained and written by one worker. `Work` is what all tasks share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from saliency_wrappers.agents import AgentAdapter
from saliency_wrappers.compute.backends import Shared
from saliency_wrappers.decisions import Decision
from saliency_wrappers.saliency.fingerprints import fingerprint
from saliency_wrappers.saliency.method import SaliencyMethod, maps_of
from saliency_wrappers.states import StateTree
from saliency_wrappers.store.files import Location, StoreError
from saliency_wrappers.store.reader import StoredBlock, StoredEpisode
from saliency_wrappers.store.tree_schema import dressed


@dataclass(frozen=True, eq=False)
class Work:
    """What all tasks share: where to, which agent and method."""

    location: Location
    adapter: AgentAdapter
    method: SaliencyMethod
    description: dict[str, Any]
    state_lag: int

    @property
    def fingerprint(self) -> str:
        """The fingerprint of method and agent, under which maps are stored."""
        return fingerprint(self.description)


@dataclass(frozen=True)
class Done:
    """Result of a task."""

    episode: str
    count: int
    """How many decisions were explained."""
    error: str | None = None
    """Why the block could not be read. None when it could."""


@dataclass(frozen=True, eq=False)
class BlockTask:
    """Computes the maps of some decisions of one block: read, computed and written by one worker."""

    shared: Shared[Work]
    episode: str
    block: int
    rows: tuple[int, ...]

    def __call__(self) -> Done:
        """Compute the maps of the rows that have none. A block that cannot be read is reported in the result, not raised."""
        with self.shared.lock:
            try:
                return Done(self.episode, self._explain(self.shared.content))
            except StoreError as error:
                return Done(self.episode, 0, str(error))

    def _explain(self, work: Work) -> int:
        episode = StoredEpisode(work.location, self.episode)
        layer = episode.layer(work.fingerprint)
        there = layer.done(self.block)
        rows = [row for row in self.rows if not there[row]]  # another run may have been here
        if not rows:
            return 0
        content = _BlockWithStates(episode, self.block, work.adapter, work.state_lag)
        maps = maps_of(work.method, work.adapter, [content.decision(row) for row in rows])
        layer.write(self.block, rows, maps, len(episode), work.description)
        return len(rows)


class _BlockWithStates:
    """The decisions of a block, each with the state of the decision `lag` rows before."""

    def __init__(self, episode: StoredEpisode, index: int, adapter: AgentAdapter, lag: int) -> None:
        self._episode, self._index, self._lag = episode, index, lag
        self._like = initial_state(adapter)
        self._blocks: dict[int, StoredBlock] = {}

    def decision(self, row: int) -> Decision:
        decision = self._block(self._index).decision(row)
        block, lagged = divmod(max(self._index * self._episode.block + row - self._lag, 0), self._episode.block)
        state = decision.state if not self._lag else self._block(block).state(lagged)
        return replace(decision, state=dressed(state, self._like))

    def _block(self, index: int) -> StoredBlock:
        if index not in self._blocks:
            self._blocks[index] = self._episode.block_at(index)
        return self._blocks[index]


def initial_state(adapter: AgentAdapter) -> StateTree:
    """Return the initial state of an episode. None when the agent has none or its initial state is unknown."""
    try:
        return adapter.initial_state(1)
    except TypeError:  # the agent does not tell it
        return None
