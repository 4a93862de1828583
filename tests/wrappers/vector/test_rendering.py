"""Only the environments that are filmed or recorded are rendered: the others may have no render mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting import CountingAgent, CountingEnv
from counting_vector import recorded_vector, vector_input
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from videos import frames_of

from saliency_wrappers import RecordSaliencyVideo
from saliency_wrappers.wrappers.vector.rendering import can_render, render_environments


class Strict(CountingEnv):
    """Fails where it is rendered without a render mode, as ALE does."""

    def __init__(self, render_mode: str | None, length: int = 3) -> None:
        super().__init__((length,), render_mode=render_mode)

    def step(self, action: Any) -> Any:
        mode, self.render_mode = self.render_mode, "rgb_array"
        try:
            return super().step(action)
        finally:
            self.render_mode = mode

    reset_frame = CountingEnv.frame

    def render(self) -> Any:
        if self.render_mode is None:
            raise RuntimeError("rendered without a render mode")
        return super().render()

    def reset(self, **options: Any) -> Any:
        mode, self.render_mode = self.render_mode, "rgb_array"
        try:
            return super().reset(**options)
        finally:
            self.render_mode = mode


def make(kind: Any, modes: list[str | None]) -> Any:
    return kind([lambda mode=mode: Strict(mode) for mode in modes])


@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_only_the_chosen_environments_are_rendered(kind: Any) -> None:
    envs = RecordEpisodeStatistics(make(kind, ["rgb_array", None, "rgb_array"]))
    envs.reset()
    assert [frame is not None for frame in render_environments(envs, [0, 2])] == [True, False, True]
    assert can_render(envs, [0, 2])
    assert not can_render(envs, [1])
    envs.close()


@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
@pytest.mark.parametrize("renders", [True, False])
def test_one_environment_of_four_is_filmed(kind: Any, renders: bool, tmp_path: Path) -> None:
    """With its render mode, or on its observations."""
    agent, modes = CountingAgent(), ["rgb_array" if renders else None, None, None, None]
    envs = RecordSaliencyVideo(recorded_vector(make(kind, modes), agent, environments=[0]), tmp_path, environments=[0])
    observations, _ = envs.reset()
    state = agent.initial_state(4)
    for _ in range(3):
        _, _, state = agent((vector_input(observations), state))
        observations, *_ = envs.step(np.zeros(4, np.int64))
    envs.close()
    assert len(frames_of(tmp_path / "saliency-env-0-episode-0.mp4")) == 4
