"""The agent in the package: it loads, sees the pixels it was trained on, plays, and looks at the ball and the paddle."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

import ale_py
import gymnasium as gym
import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv

from saliency_wrappers import RecurrentAgentHook, as_adapter, load_pretrained, pretrained_agents
from saliency_wrappers.models.networks import AtariLSTM

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from bench_agent import watch

ENV_ID = "ALE/Breakout-v5"
gym.register_envs(ale_py)


def test_it_ships_with_the_package_small_and_with_a_card():
    agent, preprocessor = load_pretrained(ENV_ID)
    assert isinstance(agent, AtariLSTM)
    assert not agent.training
    assert preprocessor.input_shape == (1, 84, 84)
    folder = resources.files("saliency_wrappers") / "data"
    assert len((folder / "breakout.safetensors").read_bytes()) <= 5_000_000
    assert "ALE/Breakout-v5" in (folder / "breakout.md").read_text()


def test_for_a_game_without_an_agent_those_that_ship_are_named():
    assert pretrained_agents() == [ENV_ID]
    with pytest.raises(ValueError, match=r"No agent for 'ALE/Pong-v5' ships with saliency_wrappers, only for \['ALE/Breakout-v5'\]"):
        load_pretrained("ALE/Pong-v5")


def test_it_is_fed_the_pixels_of_its_training_exactly():
    _, preprocessor = load_pretrained(ENV_ID)
    actions = np.random.default_rng(0).integers(4, size=150)
    vector = AtariVectorEnv(
        "breakout", 1, stack_num=1, frameskip=4, repeat_action_probability=0.0, maxpool=False, noop_max=0, use_fire_reset=False
    )
    plain = gym.make(ENV_ID, frameskip=4, repeat_action_probability=0.0)
    trained_on, _ = vector.reset(seed=1)
    frame, _ = plain.reset(seed=1)
    for action in actions:
        np.testing.assert_array_equal(preprocessor(frame) * 255, trained_on[0])
        trained_on, *_ = vector.step(np.array([action]))
        frame, *_ = plain.step(action)
    vector.close()
    plain.close()


def test_it_plays_breakout():
    agent, preprocessor = load_pretrained(ENV_ID)
    env = gym.make(ENV_ID)
    hook = RecurrentAgentHook(agent, preprocessor, seed=0)
    frame, _ = env.reset(seed=0)
    total = 0.0
    for _ in range(300):
        frame, reward, terminated, truncated, _ = env.step(hook.act(frame, greedy=False))
        total += float(reward)
        if terminated or truncated:
            break
    env.close()
    assert total >= 5  # a random player gets 1 or 2 in a whole episode
    assert as_adapter(agent).input_range == (0.0, 1.0)


def test_its_actor_looks_at_ball_and_paddle_three_times_as_much_as_at_the_rest():
    shares = np.array(watch(*load_pretrained(ENV_ID), decisions=8, greedy=False))
    assert shares[:, 0].mean() >= 3 * shares[:, 1].mean()
