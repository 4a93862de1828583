"""Train a recurrent agent with PPO in the manner of CleanRL, eight games side by side, and see what it looks at while it learns.

    python examples/vector_training.py --steps 1_000_000 --output runs/vector

All that concerns saliency is in `watched` and `report`: the first game is explained at every 100th step, for the console, and throughout
every 20th of its episodes, for the videos. The rest is a plain training loop, which would be the same without.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from ale_py.vector_env import AtariVectorEnv
from gymnasium.spaces import flatdim
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor, nn
from torch.distributions import Categorical

from saliency_wrappers import RecordVectorSaliencyVideo, RecurrentAgentHook, VectorSaliencyRecorder

REPORT_EVERY, FILM_EVERY = 100, 20  # steps, episodes

LEARNING_RATE = 2.5e-4
EPOCHS = MINIBATCHES = 4
DISCOUNT, GAE_LAMBDA = 0.99, 0.95
CLIP_RANGE, VALUE_WEIGHT, ENTROPY_WEIGHT, MAX_GRADIENT_NORM = 0.1, 0.5, 0.01, 0.5

Memory = tuple[Tensor, Tensor]


def watched(games: VectorEnv[Any, Any, Any], agent: nn.Module, folder: Path) -> VectorEnv[Any, Any, Any]:
    """The games, with saliency of the first one."""

    def filmed(episode: int) -> bool:
        return episode % FILM_EVERY == 0

    games = VectorSaliencyRecorder(
        games,
        RecurrentAgentHook(agent),
        environments=[0],
        step_trigger=lambda step: step % REPORT_EVERY == 0,
        episode_trigger=filmed,
        on_error="warn",  # a training run must not die of its pictures
    )
    return RecordVectorSaliencyVideo(games, folder, environments=[0], episode_trigger=filmed, zoom=4)


def report(step: int, infos: dict[str, Any]) -> None:
    """What the first game's agent looked at, now and then."""
    if step % REPORT_EVERY == 0 and "saliency" in infos:
        saliency = {name: values[0] for name, values in infos["saliency"].items()}
        row, column = np.unravel_index(saliency["actor"].argmax(), saliency["actor"].shape)
        moment = f"step {step} (episode {saliency['episode']}, step {saliency['step']})"
        click.echo(f"{moment}: value {saliency['value']:.2f}, the actor looks most at row {row}, column {column}")


class Agent(nn.Module):
    """CleanRL's recurrent agent for Atari: actor and critic share a CNN and an LSTM."""

    def __init__(self, num_actions: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            layer(nn.Conv2d(1, 32, 8, stride=4)),
            nn.ReLU(),
            layer(nn.Conv2d(32, 64, 4, stride=2)),
            nn.ReLU(),
            layer(nn.Conv2d(64, 64, 3, stride=1)),
            nn.ReLU(),
            nn.Flatten(),
            layer(nn.Linear(64 * 7 * 7, 512)),
            nn.ReLU(),
        )
        self.lstm = nn.LSTM(512, 128)
        self.actor = layer(nn.Linear(128, num_actions), gain=0.01)
        self.critic = layer(nn.Linear(128, 1), gain=1.0)

    def remember(self, x: Tensor, memory: Memory, done: Tensor) -> tuple[Tensor, Memory]:
        """The LSTM's outputs for frames `(steps * n, 1, 84, 84)` of n games, its memory cleared where an episode begins."""
        features = self.network(x / 255).reshape(-1, memory[0].shape[1], 512)
        outputs: list[Tensor] = []
        for step, begins in zip(features, done.reshape(len(features), -1), strict=True):
            keep = (1 - begins)[None, :, None]
            output, memory = self.lstm(step[None], (keep * memory[0], keep * memory[1]))
            outputs.append(output)
        return torch.cat(outputs).flatten(0, 1), memory

    def get_value(self, x: Tensor, memory: Memory, done: Tensor) -> Tensor:
        """How much is to be expected."""
        value: Tensor = self.critic(self.remember(x, memory, done)[0])
        return value

    def get_action_and_value(
        self, x: Tensor, memory: Memory, done: Tensor, action: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Memory]:
        """An action, or the one that is given, its log-probability, the policy's entropy, the value, and what to remember."""
        hidden, memory = self.remember(x, memory, done)
        policy = Categorical(logits=self.actor(hidden))
        action = policy.sample() if action is None else action
        return action, policy.log_prob(action), policy.entropy(), self.critic(hidden), memory


def layer(module: Any, gain: float = 2**0.5) -> Any:
    """A layer with orthogonal weights."""
    nn.init.orthogonal_(module.weight, gain)
    nn.init.zeros_(module.bias)
    return module


class Rollout(NamedTuple):
    """What happened: tensors `(steps, games, ...)`."""

    frames: Tensor
    done: Tensor
    actions: Tensor
    log_probabilities: Tensor
    values: Tensor
    rewards: Tensor


def ignore(step: int, infos: dict[str, Any]) -> None:
    """Nothing to report."""


class Training:
    """PPO on a vector of games."""

    def __init__(
        self, games: VectorEnv[Any, Any, Any], agent: Agent, seed: int, see: Callable[[int, dict[str, Any]], None] = ignore
    ) -> None:
        self.games, self.agent, self.see = games, agent, see
        self.steps = 0
        self.optimizer = torch.optim.Adam(agent.parameters(), LEARNING_RATE, eps=1e-5)
        self.frames = torch.as_tensor(games.reset(seed=seed)[0])
        self.done = torch.ones(games.num_envs)
        self.memory: Memory = (torch.zeros(1, games.num_envs, 128), torch.zeros(1, games.num_envs, 128))

    def play(self, steps: int) -> Rollout:
        """So many steps of all games."""
        records: list[tuple[Tensor, ...]] = []
        for _ in range(steps):
            frames, done = self.frames, self.done
            with torch.no_grad():
                action, log_probability, _, value, self.memory = self.agent.get_action_and_value(frames, self.memory, done)
            observations, rewards, terminations, truncations, infos = self.games.step(action.numpy())
            self.see(self.steps, infos)
            self.steps += 1
            self.frames = torch.as_tensor(observations)
            self.done = torch.as_tensor(terminations | truncations).float()
            records.append((frames, done, action, log_probability, value.flatten(), torch.as_tensor(rewards).float()))
        return Rollout(*(torch.stack(column) for column in zip(*records, strict=True)))

    def advantages(self, rollout: Rollout) -> Tensor:
        """Generalised advantage estimation, `(steps, games)`."""
        with torch.no_grad():
            next_value = self.agent.get_value(self.frames, self.memory, self.done).flatten()
        advantages, advantage, done = torch.zeros_like(rollout.rewards), torch.zeros_like(next_value), self.done
        for step in reversed(range(len(advantages))):
            surprise = rollout.rewards[step] + DISCOUNT * (1 - done) * next_value - rollout.values[step]
            advantages[step] = advantage = surprise + DISCOUNT * GAE_LAMBDA * (1 - done) * advantage
            next_value, done = rollout.values[step], rollout.done[step]
        return advantages

    def one_round(self, steps: int) -> None:
        """Play, and learn from it; minibatches are cut by game, so that memories stay whole."""
        first = self.memory
        rollout = self.play(steps)
        advantages = self.advantages(rollout)
        for _ in range(EPOCHS):
            for chosen in torch.randperm(self.games.num_envs).chunk(MINIBATCHES):
                part = Rollout(*(column[:, chosen].flatten(0, 1) for column in rollout))
                memory = (first[0][:, chosen], first[1][:, chosen])
                self.learn(part, memory, advantages[:, chosen].flatten())

    def learn(self, part: Rollout, memory: Memory, advantages: Tensor) -> None:
        """One step of the optimizer."""
        _, log_probability, entropy, values, _ = self.agent.get_action_and_value(part.frames, memory, part.done, part.actions)
        ratio = (log_probability - part.log_probabilities).exp()
        scaled = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        policy_loss = -torch.min(scaled * ratio, scaled * ratio.clamp(1 - CLIP_RANGE, 1 + CLIP_RANGE)).mean()
        value_loss = 0.5 * (values.flatten() - advantages - part.values).square().mean()
        loss = policy_loss + VALUE_WEIGHT * value_loss - ENTROPY_WEIGHT * entropy.mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.agent.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()


def make_games(count: int) -> AtariVectorEnv:
    """Breakout, one grey frame at a time: what moves where has to be remembered."""
    return AtariVectorEnv("breakout", count, stack_num=1, episodic_life=True, autoreset_mode=AutoresetMode.SAME_STEP)


@click.command(help="Train a recurrent agent on Breakout and film what it looks at.")
@click.option("--steps", default=1_000_000, show_default=True, help="Of all games together.")
@click.option("--environments", default=8, show_default=True, help="How many games to play side by side.")
@click.option("--rollout", default=128, show_default=True, help="Steps of each game between two updates.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="The folder of the videos and the weights.")
@click.option("--seed", default=1, show_default=True)
def main(steps: int, environments: int, rollout: int, output: Path, seed: int) -> None:
    """Train, and save the agent."""
    torch.manual_seed(seed)
    games = make_games(environments)
    agent = Agent(num_actions=flatdim(games.single_action_space))
    training = Training(watched(games, agent, output), agent, seed, report)
    for _ in range(max(1, steps // (environments * rollout))):
        training.one_round(rollout)
    training.games.close()
    torch.save(agent.state_dict(), output / "agent.pt")


if __name__ == "__main__":
    main()
