"""`other_kind`: what to do with an environment of a kind that a wrapper does not take."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv


def is_env_pool(env: Any) -> bool:
    """Return whether an environment is one of EnvPool's: many environments that call themselves one `gymnasium.Env`."""
    return isinstance(env, gym.Env) and any("envpool" in base.__module__.split(".")[0] for base in type(env).__mro__)


def other_kind(env: Any) -> str:
    """Return the sentence of an error that names the remedy for an environment of another kind."""
    if any(base.__module__.split(".")[0] == "pettingzoo" for base in type(env).__mro__) or hasattr(env, "possible_agents"):
        return (
            "Environments of PettingZoo have several agents: convert a parallel one with supersuit, by pettingzoo_env_to_vec_env_v1 and "
            'concat_vec_envs_v1(env, 1, base_class="gymnasium"), and use VectorSaliencyRecorder.'
        )
    if is_env_pool(env):
        return (
            "EnvPool's environments are many in one: wrap them into a gymnasium.vector.VectorEnv with num_envs and single_action_space, "
            "and use VectorSaliencyRecorder."
        )
    if isinstance(env, VectorEnv):
        return "Vector environments need VectorSaliencyRecorder."
    if isinstance(env, gym.Env):
        return "A single environment needs SaliencyRecorder."
    if hasattr(env, "env_is_wrapped"):
        return "A VecEnv of SB3 needs SaliencyVecEnv."
    return "Wrap it into a gymnasium.Env, or a gymnasium.vector.VectorEnv."
