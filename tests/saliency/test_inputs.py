"""Agents with several inputs: maps of each, and the share of each, where the truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from videos import frames_of

from saliency_wrappers import (
    Decision,
    EpisodeStore,
    FunctionAdapter,
    InputSaliency,
    PerturbationSaliency,
    QNetworkAdapter,
    RecordSaliencyVideo,
    RecurrentAgentHook,
    SaliencyRecorder,
    SlidingDisc,
    StoreError,
    VectorSaliencyRecorder,
    compute_saliency,
)
from saliency_wrappers.agents.dict_observation import ObservedState
from saliency_wrappers.agents.observation_parts import PartAdapter
from saliency_wrappers.store.input_maps import StoredInputs
from saliency_wrappers.video.episode_video import render_episode


class Ship(nn.Module):
    """Looks at two cameras and a vector of sensors; how much each counts is given."""

    def __init__(self, camera: float = 1.0, mirror: float = 0.0, sensors: float = 1.0) -> None:
        super().__init__()
        self.weights = camera, mirror, sensors
        self.head = nn.Identity()

    def forward(self, observation: Any) -> tuple[Tensor, Tensor]:
        camera, mirror, sensors = self.weights
        seen = camera * observation["camera"][:, 0, :6].mean(dim=(1, 2)) + mirror * observation["mirror"][:, 0, 6:].mean(dim=(1, 2))
        logit = self.head(seen + sensors * observation["sensors"][:, 0] + 0 * observation["gear"])
        return torch.stack([logit, -logit], dim=1), 3 * logit


def adapted(agent: nn.Module) -> FunctionAdapter:
    others = {"mirror": torch.zeros(1, 12, 12), "sensors": torch.zeros(3), "gear": torch.zeros(())}
    return FunctionAdapter(agent, lambda x, state, start: agent(x), image="camera", others=others)


def decisions(agent: nn.Module, n: int = 6) -> list[Decision]:
    random = torch.Generator().manual_seed(0)
    made = []
    for _ in range(n):
        camera, mirror = (torch.rand(1, 1, 12, 12, generator=random) for _ in range(2))
        rest = {"mirror": mirror, "sensors": torch.randn(1, 3, generator=random), "gear": torch.ones(1)}
        logits, value = agent({"camera": camera, **rest})
        made.append(Decision(camera, ObservedState(None, rest), logits, value, action=torch.tensor([0])))
    return made


def coarse() -> InputSaliency:
    return InputSaliency(PerturbationSaliency(SlidingDisc(radius=1, stride=3, sigma=1), fill=0.0))


def test_each_input_has_a_map_and_a_share() -> None:
    agent = Ship(sensors=0.1)
    made = coarse()(adapted(agent), decisions(agent))[3]
    assert made.inputs is not None
    assert list(made.inputs) == ["camera", "mirror", "sensors", "gear"]
    camera, mirror, sensors, gear = made.inputs.values()
    assert camera.maps is not None
    assert np.array_equal(camera.maps.actor, made.actor)
    assert made.actor[:6].sum() > 5 * made.actor[7:].sum() > 0
    assert mirror.maps is not None
    assert not mirror.maps.actor.any()
    assert sensors.maps is not None
    assert sensors.maps.features == ("feature 0", "feature 1", "feature 2")
    assert sensors.maps.actor[0] != 0
    assert not sensors.maps.actor[1:].any()
    assert gear.maps is None
    assert mirror.share == gear.share == 0
    assert camera.share + sensors.share == pytest.approx(1)
    assert sum(one.value_share or 0 for one in made.inputs.values()) == pytest.approx(1)


def test_the_second_camera_is_explained_as_the_first_would_be() -> None:
    agent = Ship(camera=0.0, mirror=1.0, sensors=0.0)
    made = coarse()(adapted(agent), decisions(agent))[2]
    assert made.inputs is not None
    assert not made.actor.any()
    mirror = made.inputs["mirror"]
    assert mirror.share == pytest.approx(1)
    assert mirror.maps is not None
    assert mirror.maps.actor[6:].sum() > 5 * mirror.maps.actor[:5].sum()


def test_shares_of_a_linear_value_are_those_of_its_terms() -> None:
    agent, moments = Ship(camera=1.0, mirror=2.0, sensors=3.0), None
    moments = decisions(agent, 8)
    made = InputSaliency(moments=moments, rows=8)(adapted(agent), [moments[0]])[0]

    def terms(one: Decision) -> Any:
        rest = one.state.observation  # type: ignore[union-attr]
        return np.array([one.inputs[0, 0, :6].mean(), 2 * rest["mirror"][0, 0, 6:].mean(), 3 * rest["sensors"][0, 0], 0])

    phi = np.abs(terms(moments[0]) - np.mean([terms(one) for one in moments], axis=0))
    assert made.inputs is not None
    assert np.allclose([one.value_share for one in made.inputs.values()], phi / phi.sum(), atol=1e-5)


def test_part_adapters_run_the_agent_itself() -> None:
    agent = Ship(1.0, 2.0, 3.0)
    adapter, decision = adapted(agent), decisions(agent, 1)[0]
    assert adapter.parts is not None
    for key in ("mirror", "sensors"):
        part = PartAdapter(adapter, adapter.parts, key, decision.inputs[0])
        seen = part.decision(decision)
        logits, _ = part.evaluate(seen.inputs.repeat(3, *[1] * (seen.inputs.ndim - 1)), part.repeat_state(seen.state, 3), None)
        assert torch.allclose(logits, decision.logits.expand(3, -1))
        assert part.initial_state(2).observation["camera"].shape == (2, 1, 12, 12)  # type: ignore[union-attr]


def test_an_agent_with_one_input_is_refused() -> None:
    decision = Decision(torch.zeros(1, 3), None, torch.zeros(1, 3), None)
    with pytest.raises(TypeError, match="InputSaliency needs an agent on a dictionary of inputs, got QNetworkAdapter with one input"):
        InputSaliency()(QNetworkAdapter(nn.Identity()), [decision])


class Bridge(gym.Env[Any, Any]):
    """Random observations of two cameras, sensors and a gear, channels first in [0, 1]."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self) -> None:
        picture = gym.spaces.Box(0, 1, (1, 12, 12), np.float32)
        sensors, gear = gym.spaces.Box(-9, 9, (3,), np.float32), gym.spaces.Box(0, 9, (), np.float32)
        self.observation_space = gym.spaces.Dict({"camera": picture, "mirror": picture, "sensors": sensors, "gear": gear})
        self.action_space = gym.spaces.Discrete(2)
        self.t = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self.observe(), 0.0, self.t >= 5, False, {}

    def observe(self) -> dict[str, Any]:
        cameras = {key: self.np_random.random((1, 12, 12), np.float32) for key in ("camera", "mirror")}
        return {**cameras, "sensors": self.np_random.normal(size=3).astype(np.float32), "gear": np.float32(1)}

    def render(self) -> Any:
        return np.full((180, 160, 3), 90, np.uint8)


def batched(observation: Any) -> dict[str, Tensor]:
    return {key: torch.as_tensor(part)[None] for key, part in observation.items()}


@pytest.mark.parametrize(("mode", "scale"), [("inline", "frame"), ("deferred", "episode")])
def test_recorders_and_films_show_all_inputs(tmp_path: Path, mode: Any, scale: Any) -> None:
    agent = Ship(1.0, 1.0, 1.0)
    env = SaliencyRecorder(Bridge(), RecurrentAgentHook(adapted(agent)), coarse(), mode=mode)
    film = RecordSaliencyVideo(env, tmp_path, scale=scale)
    observation, _ = film.reset(seed=0)
    for _ in range(5):
        logits, _ = agent(batched(observation))
        observation, *_, info = film.step(int(logits.argmax()))
    film.close()
    frames = frames_of(tmp_path / "saliency-episode-0.mp4")
    assert all(frame.shape == (180, 160 + 260, 3) for frame in frames)
    assert len(frames) == 6
    assert frames[3][:, 160:].max() > 150
    if mode == "inline":
        inputs = info["saliency"]["inputs"]
        assert inputs["mirror"]["actor"].shape == (12, 12)
        assert inputs["sensors"]["features"] == ("feature 0", "feature 1", "feature 2")
        assert inputs["gear"]["actor"] is None
        assert sum(one["share"] for one in inputs.values()) == pytest.approx(1)


def test_a_vector_of_environments_has_inputs_in_rows() -> None:
    agent = Ship(1.0, 1.0, 1.0)
    envs = VectorSaliencyRecorder(gym.vector.SyncVectorEnv([Bridge] * 2), RecurrentAgentHook(adapted(agent)), coarse())
    observation, _ = envs.reset(seed=0)
    for _ in range(2):
        logits, _ = agent({key: torch.as_tensor(part) for key, part in observation.items()})
        observation, *_, infos = envs.step(logits.argmax(dim=1).numpy())
    envs.close()
    assert infos["saliency"]["inputs"]["mirror"]["actor"].shape == (2, 12, 12)
    assert infos["saliency"]["inputs"]["sensors"]["share"].shape == (2,)


def test_a_store_keeps_the_maps_of_all_inputs(tmp_path: Path) -> None:
    agent = Ship(1.0, 1.0, 1.0)
    store = EpisodeStore(tmp_path / "store", frames=True)
    env = SaliencyRecorder(Bridge(), RecurrentAgentHook(adapted(agent)), coarse(), store=store)
    observation, _ = env.reset(seed=0)
    told = []
    for _ in range(5):
        logits, _ = agent(batched(observation))
        observation, *_, info = env.step(int(logits.argmax()))
        told.append(info["saliency"]["inputs"])
    env.close()
    episode = EpisodeStore.open(tmp_path / "store").episode(0)
    for (_, maps), one in zip(episode.maps(), told, strict=True):
        read = maps.info()["inputs"]
        assert list(read) == list(one)
        for key in read:
            for name in ("actor", "critic", "share", "value_share"):
                assert (read[key][name] is None) == (one[key][name] is None)
                assert read[key][name] is None or np.allclose(read[key][name], one[key][name])
        assert read["sensors"]["features"] == one["sensors"]["features"]
    assert render_episode(episode, tmp_path / "film.mp4") == 5
    assert frames_of(tmp_path / "film.mp4")[0].shape == (180, 160 + 260, 3)
    computed = compute_saliency(tmp_path / "store", adapted(agent), method=coarse())
    assert computed.explained == 5
    made = [maps for _, maps in episode.maps(method=computed.fingerprint)]
    assert all(maps.inputs is not None and maps.inputs["mirror"].share > 0 for maps in made)


def test_a_damaged_description_of_inputs_is_refused(tmp_path: Path) -> None:
    for described in ("x", [{"key": 1, "kind": "own", "features": None}], [{"key": "a", "kind": "maps", "features": None}]):
        with pytest.raises(StoreError, match="Expected a"):
            StoredInputs.read(described, lambda name: None, "a test")
