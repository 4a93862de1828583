"""Vector observations through hook, recorders, store, computation and films."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gauges import Dials, Gauges, NamedGauges, RecurrentDials
from tiny_agents import seeded
from videos import frames_of

from saliency_wrappers import (
    EpisodeStore,
    FeatureShapley,
    Marginal,
    RecordSaliencyVideo,
    RecurrentAgentHook,
    SaliencyMaps,
    SaliencyRecorder,
    VectorSaliencyRecorder,
    as_adapter,
    compute_saliency,
)
from saliency_wrappers.step_saliency import StepSaliency
from saliency_wrappers.video.bars import FeatureBars


def play(env: gym.Env[Any, Any], act: Any, steps: int = 7) -> list[dict[str, Any]]:
    """One episode from a reset; the maps of its steps."""
    observation, info = env.reset(seed=0)
    told = []
    for _ in range(steps):
        observation, _, terminated, truncated, info = env.step(act(observation))
        told.append(info.get("saliency"))
        if terminated or truncated:
            break
    return told


def greedy(agent: Any) -> Any:
    return lambda observation: int(agent(torch.as_tensor(observation, dtype=torch.float32)[None])[0].argmax())


@pytest.mark.filterwarnings("ignore:Dials was called as module")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_module_on_vectors_gets_maps_with_one_number_for_each_feature(dtype: Any) -> None:
    agent = seeded(Dials)
    env = SaliencyRecorder(Gauges(dtype=dtype), RecurrentAgentHook(agent))
    told = play(env, greedy(agent))
    env.close()
    assert len(told) == 7
    assert all(one["actor"].shape == one["critic"].shape == (4,) for one in told)
    assert told[0]["features"] == ("feature 0", "feature 1", "feature 2", "feature 3")
    assert not told[0]["actor"].any()  # there is no other moment yet
    assert all(one["actor"].any() and one["critic"].any() for one in told[1:])


@pytest.mark.filterwarnings("ignore:Dials was called as module")
def test_names_come_from_the_environment_or_the_method() -> None:
    agent = seeded(Dials)
    env = SaliencyRecorder(gym.wrappers.TimeLimit(NamedGauges(), 5), RecurrentAgentHook(agent))
    assert play(env, greedy(agent))[0]["features"] == NamedGauges.feature_names
    env.close()
    method = FeatureShapley(names=list("abcd"), groups={"first two": ["a", 1]})
    env = SaliencyRecorder(NamedGauges(), RecurrentAgentHook(agent), method)
    told = play(env, greedy(agent))[-1]
    env.close()
    assert told["features"] == ("first two", "c", "d")
    assert told["actor"].shape == (3,)
    cart_agent = seeded(Dials, 4, 2)
    env = SaliencyRecorder(gym.make("CartPole-v1"), RecurrentAgentHook(cart_agent))
    assert play(env, greedy(cart_agent))[0]["features"][2] == "pole angle"
    env.close()


def test_an_agent_with_memory_is_explained_with_its_memory_held() -> None:
    agent, values = seeded(RecurrentDials), np.random.default_rng(0).normal(size=(20, 4))
    hook = RecurrentAgentHook(agent)
    env = SaliencyRecorder(Gauges(), hook, FeatureShapley(Marginal(values, rows=5)))
    told = play(env, hook.act)
    env.close()
    with torch.no_grad():
        state = agent.initial_state(1)
        observation, _ = (world := Gauges()).reset(seed=0)
        for one in told:
            x = torch.as_tensor(observation)[None]
            value, _, after = agent((x, state))
            rows = torch.as_tensor(values[np.linspace(0, 19, 5).round().astype(int)], dtype=torch.float32)
            expected = value.item() - agent((rows, state.repeat(5, 1)))[0].mean().item()
            assert one["critic"].sum() == pytest.approx(expected, abs=1e-5)
            state = after
            observation, *_ = world.step(0)


@pytest.mark.filterwarnings("ignore:Dials was called as module")
def test_a_vector_of_environments_has_maps_in_rows() -> None:
    agent = seeded(Dials)
    envs = VectorSaliencyRecorder(gym.vector.SyncVectorEnv([NamedGauges] * 3), RecurrentAgentHook(agent))
    observations, _ = envs.reset(seed=0)
    for _ in range(3):
        actions = agent(torch.as_tensor(observations))[0].argmax(dim=1).numpy()
        observations, *_, infos = envs.step(actions)
    envs.close()
    assert infos["saliency"]["actor"].shape == infos["saliency"]["critic"].shape == (3, 4)
    assert infos["saliency"]["actor"].all()
    assert list(infos["saliency"]["features"]) == [NamedGauges.feature_names] * 3


@pytest.mark.filterwarnings("ignore:Dials was called as module")
def test_deferred_maps_and_the_store_hold_the_same(tmp_path: Path) -> None:
    agent, values = seeded(Dials), np.random.default_rng(0).normal(size=(20, 4))
    inline = SaliencyRecorder(NamedGauges(), RecurrentAgentHook(agent), FeatureShapley(Marginal(values)))
    expected = play(inline, greedy(agent))
    inline.close()
    store = EpisodeStore(tmp_path / "store", frames=True)
    deferred = SaliencyRecorder(
        NamedGauges(), RecurrentAgentHook(agent), FeatureShapley(Marginal(values)), mode="deferred", keep=True, store=store
    )
    play(deferred, greedy(agent))
    deferred.close()
    kept = [maps for _, maps in EpisodeStore.open(tmp_path / "store").episode(0).maps()]
    for maps, one in zip(kept, expected, strict=True):
        assert maps.features == NamedGauges.feature_names
        assert np.array_equal(maps.actor, one["actor"])
        assert np.array_equal(maps.critic, one["critic"])


@pytest.mark.filterwarnings("ignore:Dials was called as module")
def test_maps_of_a_store_compare_with_all_of_its_moments(tmp_path: Path) -> None:
    agent = seeded(Dials)
    recorder = SaliencyRecorder(Gauges(), RecurrentAgentHook(agent), mode="capture", store=tmp_path / "store")
    play(recorder, greedy(agent))
    play(recorder, greedy(agent))
    recorder.close()
    done = compute_saliency(tmp_path / "store", seeded(Dials))
    assert (done.explained, done.reused) == (14, 0)
    assert compute_saliency(tmp_path / "store", seeded(Dials)).reused == 14
    episode = EpisodeStore.open(tmp_path / "store").episode(1)
    made = [maps for _, maps in episode.maps()]
    assert all(maps.actor.any() for maps in made)
    method = FeatureShapley(Marginal(EpisodeStore.open(tmp_path / "store")))
    expected = method(as_adapter(agent), [stored.decision for stored in episode.decisions()])
    assert all(np.allclose(a.actor, b.actor) for a, b in zip(made, expected, strict=True))


@pytest.mark.filterwarnings("ignore:Dials was called as module")
@pytest.mark.parametrize(("mode", "scale"), [("inline", "frame"), ("deferred", "episode")])
def test_a_film_shows_bars_beside_every_frame(tmp_path: Path, mode: Any, scale: Any) -> None:
    agent, values = seeded(Dials), np.random.default_rng(0).normal(size=(20, 4))
    env = SaliencyRecorder(NamedGauges(), RecurrentAgentHook(agent), FeatureShapley(Marginal(values)), mode=mode)
    env = RecordSaliencyVideo(env, tmp_path, scale=scale, strip=True)
    play(env, greedy(agent))
    env.close()
    frames = frames_of(tmp_path / "saliency-episode-0.mp4")
    assert len(frames) == 8
    assert all(frame.shape == (120 + 56, 160 + 260, 3) for frame in frames)
    blue = [int((frame[20:120, 160:, 2].astype(int) - frame[20:120, 160:, 0] > 80).sum()) for frame in frames]
    assert min(blue[:-1]) > 50
    assert blue[-1] == 0  # on the last frame nothing was decided
    assert np.abs(frames[0][10:110, 10:150].astype(int) - 90).max() < 12  # the frame itself is as it was


@pytest.mark.filterwarnings("ignore:Dials was called as module")
def test_a_film_of_a_vector_shows_bars(tmp_path: Path) -> None:
    agent = seeded(Dials)
    envs = VectorSaliencyRecorder(gym.vector.SyncVectorEnv([NamedGauges] * 2), RecurrentAgentHook(agent))
    filmed = RecordSaliencyVideo(envs, tmp_path, environments=[1])
    observations, _ = filmed.reset(seed=0)
    for _ in range(7):
        observations, *_ = filmed.step(agent(torch.as_tensor(observations))[0].argmax(dim=1).numpy())
    filmed.close()
    assert frames_of(tmp_path / "saliency-env-1-episode-0.mp4")[0].shape == (120, 420, 3)


@pytest.mark.filterwarnings("ignore:Dials was called as module")
def test_a_vector_that_is_not_finite_is_refused_before_the_environment_steps() -> None:
    agent = seeded(Dials)
    world = Gauges()
    env = SaliencyRecorder(world, RecurrentAgentHook(agent), verify="never")
    env.reset(seed=0)
    agent(torch.tensor([[0.0, np.nan, 0.0, 0.0]]))
    with pytest.raises(ValueError, match="Expected a vector of finite numbers as network input"):
        env.step(0)
    assert world.t == 0
    env.close()


@pytest.mark.filterwarnings("ignore:Dials was called as module")
def test_a_method_for_images_says_what_to_take_for_vectors() -> None:
    agent = seeded(Dials)
    env = SaliencyRecorder(Gauges(), RecurrentAgentHook(agent), "xaitk")
    with pytest.raises(ValueError, match=r"an image \(1, C, h, w\), got \(1, 4\). For vectors use method='features'"):
        play(env, greedy(agent))
    env.close()


def test_every_row_of_bars_has_the_same_layout() -> None:
    maps = SaliencyMaps(np.ones(4, np.float32), None)
    panel = FeatureBars("abcd", ("actor",), "frame").draw(120, StepSaliency(0, 0, 0, np.zeros(2, np.float32), None, maps))
    blue = (panel == (110, 150, 255)).all(axis=2)
    left = {int(row.argmax()) for row in blue[20:] if row.sum() > 100}
    assert len(left) == 1


@pytest.mark.parametrize(("features", "height"), [(1, 2), (3, 5), (300, 120), (40, 84)])
def test_bars_fit_any_height(features: int, height: int) -> None:
    maps = SaliencyMaps(np.linspace(-1, 1, features, dtype=np.float32), np.ones(features, np.float32))
    bars = FeatureBars([str(i) for i in range(features)], ("actor", "critic"), (0.0, 1.0))
    panel = bars.draw(height, StepSaliency(0, 0, 0, np.zeros(2, np.float32), 0.0, maps))
    assert panel.shape == (height, 260, 3)
    assert (panel == (255, 100, 100)).all(axis=2).any()
    with pytest.raises(ValueError, match="Expected a finite actor map"):
        bars.draw(height, StepSaliency(0, 0, 0, np.zeros(2, np.float32), 0.0, SaliencyMaps(np.full(features, np.nan, np.float32), None)))
