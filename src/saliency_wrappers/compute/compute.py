"""`compute_saliency`: the maps of recorded decisions, later, anywhere: block by block, written beside the decisions they belong to.

`ComputedSaliency` says what was done, `DamagedEpisodesError` which episodes could not be read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from xaitk_saliency.interfaces.gen_classifier_conf_sal import GenerateClassifierConfidenceSaliency
from xaitk_saliency.interfaces.perturb_image import PerturbImage

from saliency_wrappers.agents import AgentAdapter, as_adapter
from saliency_wrappers.compute.backends import Backend, Shared, run
from saliency_wrappers.compute.tasks import BlockTask, Work, initial_state
from saliency_wrappers.hooks.replay_check import replay
from saliency_wrappers.progress import Progress, reporting
from saliency_wrappers.saliency.feature_names import known_features
from saliency_wrappers.saliency.features import FeatureMethod
from saliency_wrappers.saliency.fills import Background, Fills, has_running_background, with_background
from saliency_wrappers.saliency.fingerprints import agent_fingerprint, method_description
from saliency_wrappers.saliency.inputs import InputSaliency
from saliency_wrappers.saliency.method import SaliencyMethod
from saliency_wrappers.saliency.perturbation import PerturbationSaliency
from saliency_wrappers.saliency.presets import saliency_method
from saliency_wrappers.states import state_leaves
from saliency_wrappers.store.files import Location, StoreError
from saliency_wrappers.store.reader import StoredEpisode
from saliency_wrappers.store.store import EpisodeStore
from saliency_wrappers.store.tree_schema import dressed

_FIRST_DECISIONS = 64
"""Among so many decisions of an episode one with memory is looked for; an agent without memory has none."""


@dataclass(frozen=True)
class ComputedSaliency:
    """Result of `compute_saliency`."""

    fingerprint: str
    """Of method and agent: the maps are under it, for `StoredEpisode.maps(method=...)`."""
    explained: int
    """How many decisions were explained now."""
    reused: int
    """How many had their maps already."""


class DamagedEpisodesError(StoreError):
    """Some episodes could not be read; the maps of all others were computed."""

    def __init__(self, failed: dict[str, str], computed: ComputedSaliency) -> None:
        reasons = " ".join(f"{name}: {reason}" for name, reason in failed.items())
        super().__init__(f"Expected {len(failed)} more episodes that can be read; the others are computed. Failed: {reasons}")
        self.failed = failed
        """Why, by the names of the episodes."""
        self.computed = computed
        """What was done with the others."""

    def __reduce__(self) -> tuple[Any, ...]:
        return DamagedEpisodesError, (self.failed, self.computed)


def compute_saliency(
    store: EpisodeStore | str | os.PathLike[str],
    agent: Any,
    *,
    method: str | SaliencyMethod | None = None,
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
    progress: Progress = None,
) -> ComputedSaliency:
    """Compute the maps of recorded decisions, and write them into the store.

    Decisions that have maps of the same method and agent are skipped: an interrupted computation continues where it was, and one of another
    method adds its maps to those that are there. A damaged episode does not keep the others from being computed.

    Args:
        store: the store, its path or its URL.
        agent: the agent that acted: an `nn.Module`, or whatever `as_adapter` takes.
        method: the name of a method (`"xaitk"`, `"change_weighted_two_fills"`, ..., `"features"` for vectors), or a `SaliencyMethod`.
            None: `"features"` where the store's inputs are vectors, otherwise `"xaitk"`. A fill for vectors that has no values of its own
            takes those of the store's inputs.
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
        verify: check that the agent has the weights that acted, and that two decisions of each episode replay: the first, and the first
            with a non-initial state (a state that is dropped does not show before).
        progress: True shows a bar on stderr. A function is called with the number of decisions that are done, and of all that are to be
            done now. None: no progress is shown.

    Returns:
        The fingerprint of the maps, and how many decisions were explained.

    Raises:
        ValueError: another agent than the one that acted; one that learned while it acted; wrong parameters.
        TypeError: wrong types of parameters.
        ReplayMismatchError: replaying a decision gave something else than was recorded.
        DamagedEpisodesError: episodes could not be read; raised after the maps of all others were computed. A `StoreError`.
        WorkerDiedError: a worker died; the same call again goes on with the rest.
    """
    store = store if isinstance(store, EpisodeStore) else EpisodeStore.open(store)
    adapter, chosen = as_adapter(agent), _method_for(store, method, perturber, saliency_gen, fill)
    if isinstance(chosen, PerturbationSaliency) and has_running_background(chosen.fill):  # the order of blocks must not matter
        chosen = saliency_method(chosen, fill=with_background(chosen.fill, Background(store)))
    start, end, stride = _steps(decisions)
    if state_lag < 0:
        raise ValueError(f"Expected a state_lag of 0 or more, got {state_lag}.")
    acting = agent_fingerprint(adapter)
    description = method_description(chosen, acting, state_lag)
    location = Location(store.location.name, read_only=False, durable=store.location.durable)
    work = Work(location, adapter, chosen, description, state_lag)
    picked = store.episodes if episodes is None else [store.episode(which) for which in episodes]
    failed: dict[str, str] = {}
    if verify:
        picked = [episode for episode in picked if _readable(episode, failed, lambda one: _check_agent(one, adapter, acting))]
    if backend is not None and location.in_this_process_only:
        raise ValueError(f"Expected a store that other processes can see for backend={backend!r}, got {location}.")
    plan = _Plan(work, start, end, stride)
    for episode in picked:
        _readable(episode, failed, plan.add)
    computed = _run(plan, backend, n_jobs, address, progress, failed)
    if failed:
        raise DamagedEpisodesError(failed, computed)
    return computed


def _method_for(store: EpisodeStore, method: str | SaliencyMethod | None, *parts: Any) -> SaliencyMethod:
    """The method, by the store's inputs where it is None; of a method for vectors with their names, and a fill that does not change."""
    shape, env_id = _input_form(store)
    if method is None:
        method = "features" if len(shape) == 1 else "xaitk"
    chosen = saliency_method(method, *parts)
    if isinstance(chosen, InputSaliency):
        return chosen.fixed(store)
    if not isinstance(chosen, FeatureMethod) or len(shape) != 1:
        return chosen
    return chosen.named(known_features(env_id, shape[0])).fixed(store)


def _input_form(store: EpisodeStore) -> tuple[tuple[int, ...], str]:
    """The shape of the inputs and the id of the environment, of the first episode that has decisions; empty where there is none."""
    for episode in store.episodes:
        try:
            first = next(episode.decisions(), None)
            if first is not None:
                return tuple(first.decision.inputs.shape[1:]), str((episode.header.env_spec or {}).get("id"))
        except StoreError:  # told when the episode is read
            continue
    return (), ""


def _readable(episode: StoredEpisode, failed: dict[str, str], use: Callable[[StoredEpisode], None]) -> bool:
    """Use an episode and return whether it could be read; if not, its reason is added to `failed`."""
    try:
        use(episode)
    except StoreError as error:
        failed[episode.name] = str(error)
    return episode.name not in failed


def _run(
    plan: _Plan,
    backend: Backend | None,
    n_jobs: int,
    address: Any,
    progress: Progress,
    failed: dict[str, str],
) -> ComputedSaliency:
    """Compute what is planned; episodes that turn out to be damaged are noted in `failed`."""
    explained, total = 0, sum(len(task.rows) for task in plan.tasks)
    with reporting(progress, "saliency", "decisions") as tell:
        for done in run(plan.tasks, backend, n_jobs, address):
            explained += done.count
            if done.error is None:
                tell(explained, total)
            else:
                failed.setdefault(done.episode, done.error)
    return ComputedSaliency(plan.work.fingerprint, explained, plan.reused)


class _Plan:
    """The blocks that are still to be computed."""

    def __init__(self, work: Work, start: int, end: int | None, stride: int) -> None:
        """Start with an empty plan; steps are chosen as by a slice."""
        self.work = work
        self.tasks: list[BlockTask] = []
        self.reused = 0
        """How many decisions have their maps."""
        self._shared = Shared(work)
        self._steps = start, end, stride

    def add(self, episode: StoredEpisode) -> None:
        """Add an episode; nothing is added of one that cannot be read."""
        layer = episode.layer(self.work.fingerprint)
        start, end, stride = self._steps
        tasks: list[BlockTask] = []
        reused = 0
        for block in episode.blocks(start, end):
            chosen = [row for row, step in enumerate(block.steps.tolist()) if _is_chosen(step, start, end, stride)]
            done = layer.done(block.index)
            missing = tuple(row for row in chosen if not done[row])
            reused += len(chosen) - len(missing)
            if missing:
                tasks.append(BlockTask(self._shared, episode.name, block.index, missing))
        self.tasks += tasks
        self.reused += reused


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
    _check_replay(episode, adapter)


def _check_replay(episode: StoredEpisode, adapter: AgentAdapter) -> None:
    """Replay the first decision and the first that has another state, since a dropped state does not show before."""
    like, first = initial_state(adapter), None
    for stored in islice(episode.decisions(), _FIRST_DECISIONS):
        decision = stored.decision
        leaves = list(state_leaves(decision.state))
        if first is None or not _equal(leaves, first):
            replay(adapter, replace(decision, state=dressed(decision.state, like)))
            if first is not None or not leaves:
                return
        first = leaves if first is None else first


def _equal(leaves: list[Tensor], others: list[Tensor]) -> bool:
    return len(leaves) == len(others) and all(torch.equal(one, other) for one, other in zip(leaves, others, strict=True))
