"""Maps made from a store are those made at the step: here, in other processes, on a cluster, after an interruption."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import pytest
import torch
from counting import Blackout, CountingAgent, CountingEnv, always_acting, check_maps, play, recorded
from tiny_agents import TinyGRU, seeded
from xaitk_saliency.impls.perturb_image.sliding_window import SlidingWindow

from saliency_wrappers import (
    Decision,
    EpisodeStore,
    FramePreprocessor,
    PerturbationSaliency,
    RecurrentAgentHook,
    ReplayMismatchError,
    SaliencyMaps,
    SaliencyRecorder,
    as_adapter,
    compute_saliency,
    load_checkpoint,
)
from saliency_wrappers.compute.backends import WorkerDiedError
from saliency_wrappers.models.networks import BabyA3CGRU
from saliency_wrappers.saliency.fingerprints import agent_fingerprint, fingerprint, method_description

gym.register_envs(ale_py)

PUBLISHED = slice(639, 651)
FEW_MASKS = PerturbationSaliency(SlidingWindow((20, 20), (20, 20)), batch_size=8)


class Tally:
    """A method that remembers which decisions it was asked about, by their grey."""

    def __init__(self, fails_at: float = -1.0) -> None:
        self.seen: list[list[int]] = []
        self.fails_at = fails_at
        self.method = PerturbationSaliency(Blackout(), fill=0.0)

    def __call__(self, adapter: Any, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
        self.seen.append([round(255 * float(one.inputs.mean())) - 1 for one in decisions])
        if self.fails_at in self.seen[-1]:
            raise RuntimeError("the machine is on fire")
        return self.method(adapter, decisions)


class Suicide:
    """A method that kills its process, unless a file says that this has happened."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __call__(self, adapter: Any, decisions: Sequence[Decision]) -> list[SaliencyMaps]:
        if not self.file.exists():
            self.file.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return FEW_MASKS(adapter, decisions)


def count_into(folder: Path, steps: int = 21, block: int = 8, frames: bool = False) -> tuple[CountingEnv, CountingAgent]:
    env, agent = CountingEnv((steps,)), CountingAgent()
    with recorded(env, agent, mode="capture", store=EpisodeStore(folder, block=2 * block, frames=frames)) as recorder:
        play(recorder, agent)
    return env, agent


def steps_with_maps(folder: Path, method: str | None = None) -> list[int]:
    return [stored.step for stored, _ in EpisodeStore.open(folder).episodes[0].maps(method=method)]


def same(found: SaliencyMaps, right: SaliencyMaps, tolerance: float = 1e-6) -> None:
    """Within a millionth of the largest value."""
    for head in ("actor", "critic"):
        a, b = getattr(found, head), getattr(right, head)
        assert np.abs(a - b).max() <= tolerance * b.max()
        assert b.max() > 0


# In this process


def test_maps_are_those_of_each_decision(tmp_path: Path) -> None:
    env, agent = count_into(tmp_path)
    done = compute_saliency(tmp_path, agent, perturber=Blackout(), fill=0.0)
    assert (done.explained, done.reused) == (21, 0)
    (episode,) = EpisodeStore.open(tmp_path).episodes
    found = list(episode.maps())
    assert [stored.step for stored, _ in found] == list(range(21))
    for stored, maps in found:
        check_maps(maps, always_acting(env, 0, stored.step))


@pytest.mark.parametrize("decisions", [slice(5, 11), slice(8, 16), slice(0, 21, 4), slice(7, 8), slice(20, 99), slice(3, 3)])
def test_decisions_are_chosen_by_their_steps(tmp_path: Path, decisions: slice) -> None:
    _, agent = count_into(tmp_path)
    right = list(range(21))[decisions]
    method = Tally()
    assert compute_saliency(tmp_path, agent, method=method, decisions=decisions).explained == len(right)
    assert [step for block in method.seen for step in block] == right
    if right:
        assert steps_with_maps(tmp_path) == right


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    env, agent = count_into(tmp_path)
    first, second = Tally(), Tally()
    compute_saliency(tmp_path, agent, method=first, decisions=slice(5, 11))
    done = compute_saliency(tmp_path, agent, method=second)
    assert (done.explained, done.reused) == (15, 6)
    assert second.seen == [[0, 1, 2, 3, 4], [11, 12, 13, 14, 15], [16, 17, 18, 19, 20]]
    third = Tally()
    assert compute_saliency(tmp_path, agent, method=third).reused == 21
    assert third.seen == []
    for stored, maps in EpisodeStore.open(tmp_path).episodes[0].maps():
        check_maps(maps, always_acting(env, 0, stored.step))


def test_a_computation_that_failed_goes_on(tmp_path: Path) -> None:
    _, agent = count_into(tmp_path)
    with pytest.raises(RuntimeError, match="on fire"):
        compute_saliency(tmp_path, agent, method=Tally(fails_at=9))
    assert steps_with_maps(tmp_path) == list(range(8))
    assert compute_saliency(tmp_path, agent, method=Tally()).explained == 13


def test_an_episode_that_is_still_recorded_is_explained_as_far_as_it_is(tmp_path: Path) -> None:
    env, agent = CountingEnv((30,)), CountingAgent()
    store = EpisodeStore(tmp_path, block=16)
    counts: list[int] = []

    def between() -> None:
        if env.t % 10 == 0:
            recorder.flush()
            counts.append(compute_saliency(tmp_path, agent, perturber=Blackout(), fill=0.0).explained)

    with recorded(env, agent, mode="capture", store=store) as recorder:
        play(recorder, agent, between=between)
    assert counts == [10, 10, 10]
    for stored, maps in EpisodeStore.open(tmp_path).episodes[0].maps():
        check_maps(maps, always_acting(env, 0, stored.step))


def test_methods_lie_side_by_side(tmp_path: Path) -> None:
    _, agent = count_into(tmp_path)
    one = compute_saliency(tmp_path, agent, perturber=Blackout(), fill=0.0)
    other = compute_saliency(tmp_path, agent, perturber=Blackout(), fill=0.5, decisions=slice(3, 5))
    assert one.fingerprint != other.fingerprint
    (episode,) = EpisodeStore.open(tmp_path).episodes
    assert {name: method["fill"] for name, method in episode.methods.items()} == {one.fingerprint: 0.0, other.fingerprint: 0.5}
    assert len(steps_with_maps(tmp_path, one.fingerprint)) == 21
    assert steps_with_maps(tmp_path, other.fingerprint[:6]) == [3, 4]
    with pytest.raises(ValueError, match="got None; there are: "):
        next(episode.maps())


def test_the_state_of_the_decision_before(tmp_path: Path) -> None:
    env, agent = count_into(tmp_path)
    done = compute_saliency(tmp_path, agent, perturber=Blackout(), fill=0.0, state_lag=1)
    for stored, maps in EpisodeStore.open(tmp_path).episodes[0].maps(method=done.fingerprint):
        t = stored.step
        seen, before = env.level(0, t), max(t - 1, 0)
        last = env.level(0, before - 1) if before else 0
        np.testing.assert_allclose(maps.actor, 0.5 * seen**2 * (1 + (1 + before) ** 2), rtol=1e-4)
        np.testing.assert_allclose(maps.critic, 0.5 * (seen * (100 + before + last)) ** 2, rtol=1e-4)


def test_episodes_are_chosen_by_index_or_name(tmp_path: Path) -> None:
    env, agent = CountingEnv((5, 6, 7)), CountingAgent()
    with recorded(env, agent, mode="capture", store=tmp_path) as recorder:
        play(recorder, agent, episodes=3)
    name = EpisodeStore.open(tmp_path).episodes[0].name
    assert compute_saliency(tmp_path, agent, episodes=[name, -1], perturber=Blackout()).explained == 12
    for wrong in (3, "nobody"):
        with pytest.raises(ValueError, match="of an episode in the store"):
            compute_saliency(tmp_path, agent, episodes=[wrong])


def test_states_are_given_back_in_the_agents_own_form(tmp_path: Path) -> None:
    from collections import namedtuple

    memory = namedtuple("memory", "counts")
    agent = CountingAgent(pack=lambda tensor: memory(tensor), unpack=lambda state: state.counts)
    env = CountingEnv((5,))
    with recorded(env, agent, mode="capture", store=tmp_path) as recorder:
        play(recorder, agent)
    assert compute_saliency(tmp_path, agent, perturber=Blackout()).explained == 5


def test_progress_counts_decisions(tmp_path: Path) -> None:
    _, agent = count_into(tmp_path)
    told: list[tuple[int, int]] = []
    compute_saliency(
        tmp_path, agent, perturber=Blackout(), decisions=slice(2, None), progress=lambda done, total: told.append((done, total))
    )
    assert told == [(6, 19), (14, 19), (19, 19)]


# The agent must be the one that acted


def test_another_agent_is_refused_unless_it_is_wanted(tmp_path: Path) -> None:
    count_into(tmp_path)
    other = CountingAgent()
    torch.nn.init.constant_(other.gain, 2.0)
    with pytest.raises(ValueError, match=r"Expected the agent that acted .* got another one.*verify=False"):
        compute_saliency(tmp_path, other, perturber=Blackout())
    assert compute_saliency(tmp_path, other, perturber=Blackout(), verify=False).explained == 21


def test_an_agent_that_is_called_otherwise_is_found_by_replay(tmp_path: Path) -> None:
    _, agent = count_into(tmp_path)
    agent.unpack = lambda state: state + 1
    with pytest.raises(ReplayMismatchError, match="other logits than the acting pass"):
        compute_saliency(tmp_path, agent, perturber=Blackout())


def test_fingerprints_tell_weights_and_parameters_apart() -> None:
    agent, other = seeded(TinyGRU), seeded(TinyGRU)
    first = agent_fingerprint(as_adapter(agent))
    assert first == agent_fingerprint(as_adapter(other)) == agent_fingerprint(as_adapter(torch.nn.DataParallel(other)))
    with torch.no_grad():
        next(other.parameters())[0] += 1e-6
    assert first != agent_fingerprint(as_adapter(other))
    made = [
        PerturbationSaliency(),
        PerturbationSaliency(tolerance=0.1),
        PerturbationSaliency(fill=0.5),
        PerturbationSaliency(fill=np.zeros(3)),
        PerturbationSaliency(fill=np.ones(3)),
        PerturbationSaliency(SlidingWindow((20, 20), (20, 20))),
        PerturbationSaliency(SlidingWindow((20, 20), (10, 20))),
    ]
    descriptions = [method_description(method, first, lag) for method in made for lag in (0, 1)] + [method_description(made[0], "other")]
    assert len({fingerprint(description) for description in descriptions}) == len(descriptions)
    assert fingerprint(method_description(PerturbationSaliency(batch_size=3), first)) == fingerprint(descriptions[0])
    assert descriptions[0]["name"] == "xaitk"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"decisions": [1, 2]}, TypeError, "as a slice of steps"),
        ({"decisions": slice(5, 3)}, ValueError, "ascending"),
        ({"decisions": slice(-5, 3)}, ValueError, "from 0 on"),
        ({"state_lag": -1}, ValueError, "state_lag of 0 or more"),
        ({"method": "magic"}, ValueError, "one of"),
        ({"backend": "slurm"}, ValueError, r"Expected a backend among \(None, 'loky', 'dask', 'ray'\), got 'slurm'"),
    ],
)
def test_wrong_parameters_are_refused(tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    _, agent = count_into(tmp_path, 3)
    with pytest.raises(error, match=message):
        compute_saliency(tmp_path, agent, **options)


def test_a_store_in_memory_is_computed_in_its_process(tmp_path: Path) -> None:
    place = f"memory://{tmp_path.name}"
    env, agent = CountingEnv((9,)), CountingAgent()
    with recorded(env, agent, mode="capture", store=place) as recorder:
        play(recorder, agent)
    with pytest.raises(ValueError, match="a store that other processes can see"):
        compute_saliency(place, agent, backend="loky")
    assert compute_saliency(place, agent, perturber=Blackout(), fill=0.0).explained == 9


# Elsewhere: the published frames of the Breakout reference episode


@pytest.fixture(scope="module")
def breakout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any, dict[int, SaliencyMaps]]]:
    """The reference episode up to the last of the published decisions that are looked at, its agent, and their maps, made at the step."""
    folder = Path(__file__).parents[3] / "shared"
    if not (folder / "reference").is_dir():
        pytest.skip(f"needs the trained agents and reference maps in {folder}, which are not part of the repository")
    agent = load_checkpoint(folder / "agents/breakout-v4.model.80.tar")
    store = tmp_path_factory.mktemp("breakout")
    env = gym.make("ALE/Breakout-v5", frameskip=4, repeat_action_probability=0.0, render_mode="rgb_array")
    hook = RecurrentAgentHook(agent, FramePreprocessor.named("greydanus2018"))
    wanted = range(PUBLISHED.start, PUBLISHED.stop)
    inline: dict[int, SaliencyMaps] = {}
    made = PerturbationSaliency(batch_size=64)
    with SaliencyRecorder(env, hook, made, store=store, step_trigger=lambda step: step in wanted) as recorder:
        frame, _ = recorder.reset(seed=1)
        for _ in range(PUBLISHED.stop):
            frame, _, _, _, info = recorder.step(hook.act(frame))
            if "saliency" in info:
                inline[info["saliency"]["step"]] = SaliencyMaps(info["saliency"]["actor"], info["saliency"]["critic"])
    assert list(inline) == list(wanted)
    stored = {stored.step: maps for stored, maps in EpisodeStore.open(store).episodes[0].maps()}
    for step in wanted:
        same(stored[step], inline[step], 0.0)
    for layer in (store / EpisodeStore.open(store).episodes[0].name / "maps").iterdir():
        shutil.rmtree(layer)
    return store, agent, inline


def check_backend(breakout: tuple[Path, Any, dict[int, SaliencyMaps]], name: float, **options: Any) -> None:
    """Compute the published decisions, under a fingerprint of their own, and compare."""
    store, agent, inline = breakout
    method = PerturbationSaliency(batch_size=64, tolerance=name * 1e-12)
    done = compute_saliency(store, agent, method=method, decisions=PUBLISHED, **options)
    assert done.explained == len(inline)
    found = {stored.step: maps for stored, maps in EpisodeStore.open(store).episodes[0].maps(method=done.fingerprint)}
    assert list(found) == list(inline)
    for step, maps in found.items():
        same(maps, inline[step])


def test_this_process_makes_the_inline_maps(breakout: Any) -> None:
    check_backend(breakout, 1)


def test_loky_makes_the_inline_maps(breakout: Any) -> None:
    check_backend(breakout, 2, backend="loky", n_jobs=2)


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")  # Dask's own, of ports that are taken and of the machine
def test_a_dask_cluster_makes_the_inline_maps(breakout: Any) -> None:
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        check_backend(breakout, 3, backend="dask", address=cluster.scheduler_address)
        with Client(cluster) as client:
            assert compute_saliency(breakout[0], breakout[1], decisions=slice(5, 7), backend="dask", address=client).explained == 2


@pytest.fixture
def ray() -> Iterator[None]:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_ray_cluster_makes_the_inline_maps(breakout: Any, ray: None) -> None:
    check_backend(breakout, 5, backend="ray", n_jobs=2)


def test_the_published_figures_are_those_of_the_state_before(breakout: Any, shared: Path) -> None:
    """`hx[ix - 1]` beside `ins[ix]`: the store reproduces what was published."""
    store, agent, inline = breakout
    done = compute_saliency(store, agent, decisions=slice(640, 642), state_lag=1)
    episode = EpisodeStore.open(store).episodes[0]
    rows = list(episode.decisions(639, 642))
    for number, (stored, maps) in enumerate(episode.maps(method=done.fingerprint)):
        decision = stored.decision
        lagged = Decision(decision.inputs, rows[number].decision.state, decision.logits, decision.value, action=decision.action)
        same(maps, PerturbationSaliency()(as_adapter(agent), [lagged])[0], 1e-5)
        assert np.abs(maps.actor - inline[stored.step].actor).max() > 1e-3 * inline[stored.step].actor.max()


# A worker that dies


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[Path, Any]:
    """A store of four blocks of an untrained agent of the package, which workers can import."""
    agent = seeded(BabyA3CGRU, 4)
    adapter = as_adapter(agent)
    state = adapter.initial_state(1)
    with EpisodeStore(tmp_path / "store", block=8).new_episode(agent=agent_fingerprint(adapter)) as episode:
        for t in range(16):
            inputs = torch.rand(1, 1, 80, 80, generator=torch.Generator().manual_seed(t))
            logits, value = adapter.evaluate(inputs, state, None)
            episode.append(Decision(inputs, state, logits, value), 0, 0.0)
    return tmp_path / "store", agent


def test_a_worker_that_dies_is_told_and_the_rest_is_done_by_the_next_run(tiny: tuple[Path, Any], tmp_path: Path) -> None:
    store, agent = tiny
    method = Suicide(tmp_path / "died")
    with pytest.raises(WorkerDiedError, match=r"A worker died .* only the rest is computed"):
        compute_saliency(store, agent, method=method, backend="loky", n_jobs=2)
    done = compute_saliency(store, agent, method=method, backend="loky", n_jobs=2)
    assert done.explained + done.reused == 16
    assert steps_with_maps(store) == list(range(16))


def test_hooked_agents_travel(tiny: tuple[Path, Any]) -> None:
    store, agent = tiny
    with RecurrentAgentHook(agent):
        done = compute_saliency(store, agent, method=FEW_MASKS, backend="loky", n_jobs=2)
    assert done.explained == 16
    method = FEW_MASKS
    for stored, maps in EpisodeStore.open(store).episodes[0].maps():
        same(maps, method(as_adapter(agent), [stored.decision])[0], tolerance=1e-4)  # each process chooses its path by measurement
