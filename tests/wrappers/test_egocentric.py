"""An observation of the agent's surroundings is drawn beside the frame, and carries the maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from counting import Blackout, CountingAgent, CountingEnv
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from torch import Tensor, as_tensor, nn
from videos import frames_of

from saliency_wrappers import RecordSaliencyVideo, RecurrentAgentHook, SaliencyRecorder, VectorSaliencyRecorder
from saliency_wrappers.wrappers.egocentric import any_egocentric, is_egocentric, view_picture


class Grid(CountingEnv):
    """Frames of 64x64 of the whole world; the agent observes codes of the 7x7 cells around it."""

    agent_view_size = 7

    def __init__(self) -> None:
        super().__init__((3,), size=(64, 64))
        self.observation_space = gym.spaces.Dict({"image": gym.spaces.Box(0, 255, (7, 7, 3), np.uint8)})  # type: ignore[assignment]

    def reset(self, **options: Any) -> Any:
        super().reset(**options)
        return self.see(), {}

    def step(self, action: Any) -> Any:
        return self.see(), *super().step(action)[1:]

    def see(self) -> Any:
        return {"image": np.full((7, 7, 3), 6, np.uint8)}


class FullyObsWrapper(gym.Wrapper[Any, Any, Any, Any]):
    """Named as MiniGrid's."""


def as_input(observation: Any) -> Tensor:
    return as_tensor(observation["image"][None, None, :, :, 0].copy()).float() / 255


@pytest.mark.parametrize("mode", ["inline", "deferred"])
def test_the_observation_is_drawn_beside_the_frame(mode: Any, tmp_path: Path) -> None:
    env, agent = Grid(), CountingAgent()
    recorder = SaliencyRecorder(env, RecurrentAgentHook(agent), perturber=Blackout(), fill=0.0, mode=mode)
    filmed = RecordSaliencyVideo(recorder, tmp_path, scale=(-1.0, 0.0), heads=("actor",))
    observation, _ = filmed.reset()
    state = agent.initial_state(1)
    for _ in range(3):
        _, _, state = agent((as_input(observation), state))
        observation, *_ = filmed.step(0)
    filmed.close()
    frames = frames_of(tmp_path / "saliency-episode-0.mp4")
    assert [frame.shape for frame in frames] == [(64, 128, 3)] * 4
    for frame in frames:
        assert np.ptp(frame[8:56, 8:56].mean(axis=(0, 1))) < 4  # the frame is plain
    red, _, blue = frames[0][8:56, 72:120].mean(axis=(0, 1))
    assert blue - red > 60  # the view carries the map
    assert np.ptp(frames[-1][8:56, 72:120].mean(axis=(0, 1))) < 4  # nothing was decided on the last one


def test_an_observation_of_the_whole_grid_lies_on_the_frame() -> None:
    assert is_egocentric(Grid())
    assert is_egocentric(gym.Wrapper(Grid()))
    assert not is_egocentric(FullyObsWrapper(Grid()))
    assert not is_egocentric(CountingEnv())


def test_codes_are_stretched_and_colours_are_not() -> None:
    codes = np.full((7, 7, 3), 10, np.uint8)
    picture = view_picture({"image": codes})
    assert picture is not None
    assert picture.max() == 170
    assert codes.max() == 10
    colours = np.full((56, 56, 3), 200, np.uint8)
    np.testing.assert_array_equal(view_picture(colours), colours)
    assert view_picture(np.zeros(4)) is None


class GridAgent(nn.Module):
    """Looks at the first channel of `(n, 7, 7, 3)` cells."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = CountingAgent()

    def initial_state(self, n: int) -> Tensor:
        return self.inner.initial_state(n)

    def forward(self, inputs: Any) -> Any:
        return self.inner(inputs)


def vector_input(observations: Any) -> Tensor:
    return as_tensor(observations["image"][:, None, :, :, 0].copy()).float() / 255


@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_the_observation_is_drawn_beside_the_frame_of_an_environment_of_a_vector(kind: Any, tmp_path: Path) -> None:
    envs, agent = kind([Grid, Grid]), GridAgent()
    recorder = VectorSaliencyRecorder(envs, RecurrentAgentHook(agent), perturber=Blackout(), fill=0.0)
    filmed = RecordSaliencyVideo(recorder, tmp_path, scale=(-1.0, 0.0), heads=("actor",), environments=[1])
    observations, _ = filmed.reset()
    state = agent.initial_state(2)
    for _ in range(4):
        _, _, state = agent((vector_input(observations), state))
        observations, *_ = filmed.step(np.zeros(2, int))
    filmed.close()
    frames = frames_of(tmp_path / "saliency-env-1-episode-0.mp4")
    assert {frame.shape for frame in frames} == {(64, 128, 3)}
    red, _, blue = frames[0][8:56, 72:120].mean(axis=(0, 1))
    assert blue - red > 60
    assert np.ptp(frames[0][8:56, 8:56].mean(axis=(0, 1))) < 4


def test_vectors_are_egocentric_by_their_first_environment() -> None:
    for kind in (SyncVectorEnv, AsyncVectorEnv):
        for make, egocentric in ((Grid, True), (CountingEnv, False)):
            envs = kind([make])
            assert any_egocentric(envs, envs.single_observation_space) is egocentric
            envs.close()
    assert any_egocentric(SyncVectorEnv([lambda: FullyObsWrapper(Grid())]), Grid().observation_space) is False
