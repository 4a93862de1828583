"""MiniGrid's and PettingZoo's own environments: views beside the frame, whole grids on it, symbolic cells, a refusal that helps."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from minigrid.wrappers import FullyObsWrapper, ImgObsWrapper, RGBImgPartialObsWrapper
from pettingzoo.utils.env import ParallelEnv
from torch import Tensor, nn
from videos import frames_of
from xaitk_saliency.impls.perturb_image.sliding_window import SlidingWindow

from saliency_wrappers import QNetworkAdapter, RecordSaliencyVideo, RecurrentAgentHook, SaliencyRecorder, VectorSaliencyRecorder

WINDOWS: dict[str, Any] = {"perturber": SlidingWindow((3, 3), (2, 2)), "fill": 0.0}


class Cells(nn.Module):
    """Q-values of `(n, 3, size, size)` cells or pixels."""

    def __init__(self, size: int, symbolic: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.symbolic = symbolic
        self.see = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * size * size, 7))

    def forward(self, x: Tensor) -> Tensor:
        return self.see(x.long().float() if self.symbolic else x.float())


def grid(*wrappers: Any) -> gym.Env[Any, Any]:
    env: Any = gym.make("MiniGrid-Empty-5x5-v0", render_mode="rgb_array", max_steps=4)
    for wrapper in wrappers:
        env = wrapper(env)
    return env


def planes(observations: Any) -> Tensor:
    return torch.as_tensor(np.moveaxis(observations, -1, -3).copy()).reshape(-1, 3, *observations.shape[-3:-1])


@pytest.mark.parametrize(
    ("wrappers", "size", "width"),
    [
        ((ImgObsWrapper,), 7, 320),
        ((RGBImgPartialObsWrapper, ImgObsWrapper), 56, 320),
        ((FullyObsWrapper, ImgObsWrapper), 5, 160),
    ],
)
def test_a_view_is_drawn_beside_the_frame_and_a_whole_grid_on_it(wrappers: Any, size: int, width: int, tmp_path: Path) -> None:
    agent = Cells(size)
    recorder = SaliencyRecorder(grid(*wrappers), RecurrentAgentHook(QNetworkAdapter(agent)), **WINDOWS)
    env = RecordSaliencyVideo(recorder, tmp_path)
    observation, _ = env.reset(seed=0)
    ended = False
    while not ended:
        action = int(agent(planes(observation)).argmax())
        observation, _, terminated, truncated, info = env.step(action)
        ended = terminated or truncated
        assert info["saliency"]["actor"].shape == (size, size)
    env.close()
    frames = frames_of(tmp_path / "saliency-episode-0.mp4")
    assert {frame.shape for frame in frames} == {(160, width, 3)}
    assert len(frames) == 5


def test_a_vector_of_grids_shows_the_view_of_each(tmp_path: Path) -> None:
    agent = Cells(7)
    envs = gym.vector.SyncVectorEnv([lambda: grid(ImgObsWrapper)] * 2)
    filmed = RecordSaliencyVideo(VectorSaliencyRecorder(envs, RecurrentAgentHook(QNetworkAdapter(agent)), **WINDOWS), tmp_path)
    observations, _ = filmed.reset(seed=0)
    for _ in range(3):
        observations, *_ = filmed.step(agent(planes(observations)).argmax(dim=1).numpy())
    filmed.close()
    assert {frame.shape for frame in frames_of(tmp_path / "saliency-env-0-episode-0.mp4")} == {(160, 320, 3)}


def test_an_agent_of_symbols_is_told_to_take_one_hot_planes() -> None:
    agent = Cells(7, symbolic=True)
    env = SaliencyRecorder(grid(ImgObsWrapper), RecurrentAgentHook(QNetworkAdapter(agent, input_range=(0.0, 10.0))), **WINDOWS)
    observation, _ = env.reset(seed=0)
    agent(planes(observation))
    with pytest.warns(UserWarning, match=r"cuts its inputs down to whole numbers .*one-hot planes"):
        env.step(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent(planes(observation))
        env.step(0)  # once is enough


def test_an_environment_of_several_agents_is_refused_with_a_way_out() -> None:
    class Duel(ParallelEnv[str, Any, Any]):
        metadata = {"name": "duel"}  # noqa: RUF012
        possible_agents = ["left", "right"]  # noqa: RUF012

    for record in (SaliencyRecorder, VectorSaliencyRecorder):
        with pytest.raises(TypeError, match=r"several agents: convert a parallel one with supersuit, by pettingzoo_env_to_vec_env_v1"):
            record(Duel(), RecurrentAgentHook(Cells(7)))  # type: ignore[arg-type]
