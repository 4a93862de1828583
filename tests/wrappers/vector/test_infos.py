"""Vector infos have Gymnasium's form, actions are split by environment, and environments of other kinds are told their remedy."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from counting import CountingAgent, CountingEnv
from counting_vector import NEXT_STEP, World, recorded_vector
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList

from saliency_wrappers import RecurrentAgentHook, SaliencyRecorder, VectorSaliencyRecorder

SPACES = [Discrete(4), Box(-1, 1, (2,)), Tuple((Discrete(2), Discrete(3))), Dict({"move": Discrete(3), "aim": Box(-1, 1, (2,))})]


@pytest.mark.parametrize("mode", ["inline", "deferred"])
@pytest.mark.parametrize("critic", [True, False])
@pytest.mark.parametrize("space", SPACES)
def test_infos_become_lists(space: Any, critic: bool, mode: str) -> None:
    class Acting(CountingEnv):
        def __init__(self) -> None:
            super().__init__((5,))
            self.action_space = space

        def step(self, action: Any) -> Any:
            return super().step(0)

    agent = CountingAgent(critic=critic)
    envs = DictInfoToList(recorded_vector(SyncVectorEnv([Acting, Acting]), agent, environments=[1], mode=mode, verify="never"))
    envs.reset(seed=0)
    envs.action_space.seed(0)
    agent((np_input(), agent.initial_state(2)))
    nothing, info = envs.step(envs.action_space.sample())[-1]
    assert "saliency" not in nothing
    saliency = info["saliency"]
    assert (saliency["episode"], saliency["step"]) == (0, 0)
    assert (saliency["value"] is None) == (not critic)
    if mode == "inline":
        assert saliency["actor"].shape == (8, 8)
        assert (saliency["critic"] is None) == (not critic)
    envs.close()


def np_input() -> Any:
    import torch

    return torch.full((2, 1, 8, 8), 0.5)


def test_an_action_space_that_is_not_batched_is_taken_by_rows() -> None:
    """As EnvPool has it: `action_space` is that of one environment."""
    agent, world = CountingAgent(), World([[5], [5]], NEXT_STEP)
    vector = world.make()
    recorder = recorded_vector(vector, agent, verify="never")
    recorder.reset()
    recorder.action_space = vector.action_space = Discrete(4)
    agent((np_input(), agent.initial_state(2)))
    assert recorder.recording.decide(_split(recorder, np.array([1, 2])))[1].action == 2  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="Expected an action for each of 2 environments, got 3"):
        _split(recorder, np.zeros(3, np.int64))
    recorder.close()


def _split(recorder: Any, actions: Any) -> Any:
    from saliency_wrappers.wrappers.vector.recorder import _each

    return _each(recorder.env.action_space, actions, recorder.num_envs)


class Parallel:
    possible_agents = ("first", "second")


class Pool(gym.Env[Any, Any]):
    __module__ = "envpool.atari"


def test_environments_of_other_kinds_are_told_their_remedy() -> None:
    hook: Any = RecurrentAgentHook()
    for recorder in (SaliencyRecorder, VectorSaliencyRecorder):
        with pytest.raises(TypeError, match="supersuit, by pettingzoo_env_to_vec_env_v1"):
            recorder(Parallel(), hook)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="EnvPool's environments are many in one"):
            recorder(Pool(), hook)  # type: ignore[arg-type]
