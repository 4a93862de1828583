"""`compute_saliency`: the maps of what was recorded, later, anywhere: block by block, written beside the decisions they belong to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from xaitk_saliency.interfaces.gen_classifier_conf_sal import GenerateClassifierConfidenceSaliency
from xaitk_saliency.interfaces.perturb_image import PerturbImage

from saliency_wrappers.agents import AgentAdapter, as_adapter
from saliency_wrappers.compute.backends import Backend, Shared, run
from saliency_wrappers.decisions import Decision, StateTree
from saliency_wrappers.hooks.replay_check import replay
from saliency_wrappers.saliency.fills import Background, Fills, has_running_background, with_background
from saliency_wrappers.saliency.fingerprints import agent_fingerprint, fingerprint, method_description
from saliency_wrappers.saliency.perturbation import PerturbationSaliency, SaliencyMethod, maps_of, saliency_method
from saliency_wrappers.store.files import Location
from saliency_wrappers.store.reader import StoredBlock, StoredEpisode
from saliency_wrappers.store.store import EpisodeStore
from saliency_wrappers.store.tree_schema import dressed


@dataclass(frozen=True)
class ComputedSaliency:
    """What `compute_saliency` did."""

    fingerprint: str
    """Of method and agent: the maps are under it, for `StoredEpisode.maps(method=...)`."""
    explained: int
    """How many decisions were explained now."""
    reused: int
    """How many had their maps already."""


def compute_saliency(
    store: EpisodeStore | str | os.PathLike[str],
    agent: Any,
    *,
    method: str | SaliencyMethod = "xaitk",
    perturber: PerturbImage | None = None,
    saliency_gen: GenerateClassifierConfidenceSaliency | None = None,
    fill: Fills | None = None,
    episodes: Iterable[int | str] | None = None,
    decisions: slice | None = None,
    backend: Backend | None = None,
    n_jobs: int = -1,
    address: Any = None,
    state_lag: int = 0,
    verify: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> ComputedSaliency:
    """Make the maps of recorded decisions, and keep them in the store.

    What has maps of the same method and agent is not done again: a computation that was ended goes on where it was, and one of another
    method adds its maps to those that are there.

    Args:
        store: the store, its path or its URL.
        agent: the agent that acted: an `nn.Module`, or whatever `as_adapter` takes.
        method: the name of a preset (`"xaitk"`, `"change_weighted_two_fills"`, ...), or a `SaliencyMethod`.
        perturber: any xaitk `PerturbImage`. None: the method's own.
        saliency_gen: any xaitk `GenerateClassifierConfidenceSaliency`. None: the method's own.
        fill: what shows through where a mask is 0, see `Fill`; a list or tuple of several. None: the method's own. A running
            `Background` is replaced by the median of the store's inputs.
        episodes: indices or names of episodes. None: all.
        decisions: which, by their steps: `slice(639, 1240)` are the published frames 638 to 1238. None: all.
        backend: None: this process. `"loky"`: processes of this machine. `"dask"`, `"ray"`: the workers of a cluster.
        n_jobs: how many blocks at a time; -1: one for each processor.
        address: for Dask: the scheduler's address, or a `dask.distributed.Client`. None: a cluster of this machine.
        state_lag: 1 takes the state of the decision before, as the published figures do (the initial state at the first).
        verify: see that the agent has the weights that acted, and that the first decision of each episode replays.
        progress: called with the number of decisions that are done, and of all that are to be done now.

    Returns:
        The fingerprint of the maps, and how many decisions were explained.

    Raises:
        ValueError: another agent than the one that acted; one that learned while it acted; wrong parameters.
        ReplayMismatchError: replaying a first decision gave something else than was recorded.
        StoreError: the store is damaged.
        WorkerDiedError: a worker died; the same call again goes on with the rest.
    """
    store = store if isinstance(store, EpisodeStore) else EpisodeStore.open(store)
    adapter, chosen = as_adapter(agent), saliency_method(method, perturber, saliency_gen, fill)
    if isinstance(chosen, PerturbationSaliency) and has_running_background(chosen.fill):  # the order of blocks must not matter
        chosen = saliency_method(chosen, fill=with_background(chosen.fill, Background(store)))
    start, end, stride = _steps(decisions)
    if state_lag < 0:
        raise ValueError(f"Expected a state_lag of 0 or more, got {state_lag}.")
    acting = agent_fingerprint(adapter)
    description = method_description(chosen, acting, state_lag)
    location = Location(store.location.name, read_only=False)
    work = _Work(location, adapter, chosen, description, state_lag)
    picked = store.episodes if episodes is None else [store.episode(which) for which in episodes]
    if verify:
        for episode in picked:
            _check_agent(episode, adapter, acting)
    if backend is not None and location.in_this_process_only:
        raise ValueError(f"Expected a store that other processes can see for backend={backend!r}, got {location}.")
    todo, reused = _plan(work, picked, start, end, stride)
    explained, total = 0, sum(len(task.rows) for task in todo)
    for count in run(todo, backend, n_jobs, address):
        explained += count
        if progress is not None:
            progress(explained, total)
    return ComputedSaliency(work.fingerprint, explained, reused)


@dataclass(frozen=True, eq=False)
class _Work:
    """What every task needs to know."""

    location: Location
    adapter: AgentAdapter
    method: SaliencyMethod
    description: dict[str, Any]
    state_lag: int

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.description)


@dataclass(frozen=True, eq=False)
class _Task:
    """One block, or some decisions of it: read, explained and written by one worker."""

    shared: Shared[_Work]
    episode: str
    block: int
    rows: tuple[int, ...]

    def __call__(self) -> int:
        with self.shared.lock:
            return self._explain(self.shared.content)

    def _explain(self, work: _Work) -> int:
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
    """The decisions of a block, each with the state of the one `lag` rows before it."""

    def __init__(self, episode: StoredEpisode, index: int, adapter: AgentAdapter, lag: int) -> None:
        self._episode, self._index, self._lag = episode, index, lag
        self._like = _initial_state(adapter)
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


def _plan(work: _Work, episodes: Sequence[StoredEpisode], start: int, end: int | None, stride: int) -> tuple[list[_Task], int]:
    """What is still to be done, and how many decisions have their maps."""
    tasks: list[_Task] = []
    shared, reused = Shared(work), 0
    for episode in episodes:
        layer = episode.layer(work.fingerprint)
        for block in episode.blocks(start, end):
            chosen = [row for row, step in enumerate(block.steps.tolist()) if _is_chosen(step, start, end, stride)]
            done = layer.done(block.index)
            missing = tuple(row for row in chosen if not done[row])
            reused += len(chosen) - len(missing)
            if missing:
                tasks.append(_Task(shared, episode.name, block.index, missing))
    return tasks, reused


def _is_chosen(step: int, start: int, end: int | None, stride: int) -> bool:
    return step >= start and (end is None or step < end) and (step - start) % stride == 0


def _steps(decisions: slice | None) -> tuple[int, int | None, int]:
    if decisions is None:
        return 0, None, 1
    if not isinstance(decisions, slice):
        raise TypeError(f"Expected decisions as a slice of steps, such as slice(639, 1240), or None, got {type(decisions).__name__}.")
    start, end, stride = decisions.start or 0, decisions.stop, decisions.step or 1
    if start < 0 or (end is not None and end < start) or stride < 1:
        raise ValueError(f"Expected decisions as a slice of steps from 0 on, ascending, got {decisions}.")
    return start, end, stride


def _check_agent(episode: StoredEpisode, adapter: AgentAdapter, acting: str | None) -> None:
    header = episode.header
    if header.learned:
        raise ValueError(
            f"The agent's weights changed during the episode {episode.name}: no agent can replay all of it. Leave it out by episodes=..., "
            "or pass verify=False to explain it with the agent as it is now."
        )
    if header.agent is not None and acting is not None and header.agent != acting:
        raise ValueError(
            f"Expected the agent that acted in the episode {episode.name}, of fingerprint {header.agent[:16]}, got another one, "
            f"{acting[:16]}. Load the weights that acted, or pass verify=False to explain what this one would have looked at."
        )
    for stored in _first(episode.decisions()):
        replay(adapter, replace(stored.decision, state=dressed(stored.decision.state, _initial_state(adapter))))


def _first(decisions: Iterator[Any]) -> Iterator[Any]:
    for decision in decisions:
        yield decision
        return


def _initial_state(adapter: AgentAdapter) -> StateTree:
    try:
        return adapter.initial_state(1)
    except TypeError:  # the agent does not tell it
        return None
