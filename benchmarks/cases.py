"""Whom the benchmarks measure: agents, each with decisions that it made on frames of real games."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from numpy.typing import NDArray
from torch import Tensor, nn

from saliency_wrappers import Decision, FramePreprocessor, RecurrentAgentHook, load_checkpoint, load_pretrained
from saliency_wrappers.models.networks import GreydanusLSTM

SHARED = Path(__file__).resolve().parents[2] / "shared"
"""Where the reference agents and their episodes lie."""

BREAKOUT = "ALE/Breakout-v5"
PUBLISHED_GAME: dict[str, Any] = {"frameskip": 4, "repeat_action_probability": 0.0}
"""How the reference agents' episodes were played."""

gym.register_envs(ale_py)


@dataclass(frozen=True)
class Case:
    """An agent and decisions that it made."""

    name: str
    description: str
    agent: nn.Module
    decisions: list[Decision]
    """Of one row each."""


@dataclass(frozen=True)
class Player:
    """A reference agent and the actions of its episode."""

    agent: nn.Module
    actions: NDArray[Any]
    description: str


class NatureCNN(nn.Module):
    """The network of DQN (Mnih et al. 2015), without memory, with an actor and a critic: four stacked frames of 84x84."""

    def __init__(self, num_actions: int = 4) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *(nn.Conv2d(4, 32, 8, stride=4), nn.ReLU()),
            *(nn.Conv2d(32, 64, 4, stride=2), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3), nn.ReLU()),
        )
        self.hidden = nn.Linear(64 * 7 * 7, 512)
        self.critic = nn.Linear(512, 1)
        self.actor = nn.Linear(512, num_actions)

    def forward(self, inputs: tuple[Tensor, None]) -> tuple[Tensor, Tensor, None]:
        """Value, logits, and no state."""
        x, _ = inputs
        hidden = torch.relu(self.hidden(self.convolutions(x).flatten(1)))
        return self.critic(hidden), self.actor(hidden), None

    def initial_state(self, n: int) -> None:
        """It remembers nothing."""
        return


def cases(count: int) -> Iterator[Case]:
    """The agents, one after another, each with `count` decisions (or as many as its episode has)."""
    for game in ("Breakout", "Pong"):
        player = reference_player(game)
        if player is not None:
            yield Case(game, player.description, player.agent, recorded(player, count, game))
    if reference_player("Breakout") is None:
        player = fresh_player()
        yield Case("Breakout", player.description, player.agent, recorded(player, count))
    agent, preprocessor = load_pretrained(BREAKOUT)
    yield Case("bundled", f"the bundled Breakout agent, {type(agent).__name__}", agent, played(agent, preprocessor, count))
    nature = responsive(NatureCNN())
    yield Case("Nature-CNN", "DQN's network, freshly initialised, 4x84x84", nature, watched(nature, count))


def breakout_player() -> Player:
    """The reference agent on Breakout, or a fresh one where there is none."""
    return reference_player("Breakout") or fresh_player()


def reference_player(game: str) -> Player | None:
    """The reference agent of a game. None where it is absent."""
    checkpoint = SHARED / "agents" / f"{game.lower()}-v4.model.80.tar"
    episode = SHARED / "reference" / f"{game.lower()}.npz"
    if not (checkpoint.is_file() and episode.is_file()):
        return None
    with np.load(episode) as arrays:
        return Player(load_checkpoint(checkpoint), arrays["actions"], f"{checkpoint.name}, its greedy episode")


def fresh_player() -> Player:
    """An agent that learned nothing, and random actions."""
    actions = np.random.default_rng(1).integers(4, size=1500)
    description = f"a freshly initialised GreydanusLSTM: there is no reference agent in {SHARED}"
    return Player(responsive(GreydanusLSTM(num_actions=4)), actions, description)


def responsive(agent: nn.Module) -> nn.Module:
    """Weights with which a fresh agent's outputs depend on its input well above the rounding errors."""
    generator = torch.Generator().manual_seed(1)
    for parameter in agent.parameters():
        if parameter.ndim > 1:
            nn.init.orthogonal_(parameter, gain=2.0, generator=generator)
        else:
            nn.init.zeros_(parameter)
    return agent.eval()


def recorded(player: Player, count: int, game: str = "Breakout") -> list[Decision]:
    """Play a game with the player's actions and take `count` of the agent's decisions (or as many as there are), evenly spread."""
    env = gym.make(f"ALE/{game}-v5", **PUBLISHED_GAME)
    every = max(1, len(player.actions) // count)
    decisions: list[Decision] = []
    with RecurrentAgentHook(player.agent, preprocessor="greydanus2018") as hook:
        window = hook.open_window(num_envs=1)
        frame, _ = env.reset(seed=1)
        for step, action in enumerate(player.actions[: every * count]):
            hook.act(frame)
            decided = hook.take(window)
            if step % every == 0 and decided is not None:
                decisions.append(Decision.of(decided))
            frame, _, terminated, truncated, _ = env.step(int(action))
            if terminated or truncated:
                frame, _ = env.reset()
                hook.new_episode()
    env.close()
    return decisions


def played(agent: nn.Module, preprocessor: FramePreprocessor, count: int, every: int = 11) -> list[Decision]:
    """Let an agent choose its own actions in Breakout and take one decision of `every`."""
    env = gym.make(BREAKOUT)
    decisions: list[Decision] = []
    with RecurrentAgentHook(agent, preprocessor) as hook:
        window = hook.open_window(num_envs=1)
        frame, _ = env.reset(seed=1)
        for step in range(every * count):
            action = hook.act(frame)
            decided = hook.take(window)
            if step % every == 0 and decided is not None:
                decisions.append(Decision.of(decided))
            frame, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                frame, _ = env.reset()
                hook.new_episode()
    env.close()
    return decisions


def watched(agent: nn.Module, count: int, every: int = 11) -> list[Decision]:
    """What an agent without memory decides on stacked frames of Breakout, while actions are random."""
    env = FrameStackObservation(AtariPreprocessing(gym.make(BREAKOUT, frameskip=1), scale_obs=True), 4)
    env.action_space.seed(1)
    frames, _ = env.reset(seed=1)
    decisions: list[Decision] = []
    for step in range(every * count):
        if step % every == 0:
            inputs = torch.as_tensor(np.asarray(frames, np.float32))[None]
            with torch.no_grad():
                value, logits, _ = agent((inputs, None))
            decisions.append(Decision(inputs, None, logits, value))
        frames, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            frames, _ = env.reset()
    env.close()
    return decisions
