"""The agents in the package: they load, are small, play, and the Breakout agent looks at the ball and the paddle."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

import ale_py
import gymnasium as gym
import numpy as np
import pytest
import safetensors.torch
import torch

from saliency_wrappers import FramePreprocessor, RecurrentAgentHook, as_adapter, load_pretrained, pretrained_agents
from saliency_wrappers.models.networks import BabyA3CGRU

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from bench_agent import watch

BREAKOUT, PONG = "ALE/Breakout-v5", "ALE/Pong-v5"
DATA = resources.files("saliency_wrappers") / "data"
gym.register_envs(ale_py)


def play(env_id: str, decisions: int) -> float:
    """The return of the first greedy decisions with seed 0."""
    agent, preprocessor = load_pretrained(env_id)
    env = gym.make(env_id)
    hook = RecurrentAgentHook(agent, preprocessor)
    frame, _ = env.reset(seed=0)
    total = 0.0
    for _ in range(decisions):
        frame, reward, terminated, truncated, _ = env.step(hook.act(frame))
        total += float(reward)
        if terminated or truncated:
            break
    env.close()
    return total


@pytest.mark.parametrize(("env_id", "name", "actions"), [(BREAKOUT, "breakout", 4), (PONG, "pong", 6)])
def test_an_agent_ships_with_the_package_small_and_with_a_card(env_id: str, name: str, actions: int) -> None:
    agent, preprocessor = load_pretrained(env_id)
    assert isinstance(agent, BabyA3CGRU)
    assert not agent.training
    assert agent.actor_linear.out_features == actions
    assert all(parameter.dtype == torch.float32 for parameter in agent.parameters())
    assert preprocessor == FramePreprocessor.named("greydanus2018")
    assert as_adapter(agent).input_range == (0.0, 1.0)
    stored = (DATA / f"{name}.safetensors").read_bytes()
    assert len(stored) <= 2_000_000
    assert all(weight.dtype == torch.float16 for weight in safetensors.torch.load(stored).values())
    card = (DATA / f"{name}.md").read_text(encoding="utf-8")
    assert all(said in card for said in (env_id, "baby-a3c", "Apache-2.0", "What it is bad at"))


def test_the_package_data_is_smaller_than_7_mb() -> None:
    assert sum(len(file.read_bytes()) for file in DATA.iterdir() if file.is_file()) < 7_000_000


def test_for_a_game_without_an_agent_those_that_ship_are_named() -> None:
    assert pretrained_agents() == [BREAKOUT, PONG]
    with pytest.raises(ValueError, match=r"No agent for 'ALE/Chess-v5' ships with .*\['ALE/Breakout-v5', 'ALE/Pong-v5'\]"):
        load_pretrained("ALE/Chess-v5")


def test_it_plays_breakout() -> None:
    assert play(BREAKOUT, 900) >= 30  # a random player gets 1 or 2 in a whole episode


def test_it_plays_pong() -> None:
    assert play(PONG, 700) >= 3  # a random player loses nearly every point


def test_the_breakout_actor_looks_at_ball_and_paddle_three_times_as_much_as_at_the_rest() -> None:
    shares = np.array(watch(*load_pretrained(BREAKOUT), decisions=8, greedy=True))
    assert shares[:, 0].mean() >= 3 * shares[:, 1].mean()
