"""Train a recurrent Atari agent further with PPO, from weights as `examples/distill_atari.py` writes them.

    python examples/finetune_ppo.py --game Breakout --initial runs/distil/agent.safetensors --output runs/tuned --minutes 60

Recurrent PPO as in `train_ppo_lstm.py`, for the network `BabyA3CGRU` and its preprocessing `"greydanus2018"`. The games are those of plain
`ALE/<game>-v5` (sticky actions), which the agent's teacher never played. Minibatches are cut by environment, never by time.

`--sharpen 2` doubles the logits first: the same greedy policy, but one whose drawn actions are closer to it. PPO improves the policy that
draws; a distilled agent's is far worse than its greedy one.

The same command continues an interrupted run: the output folder holds `checkpoint.pt` and `agent.<decisions>.pt`, the weights on the way.
At the end `agent.safetensors` is written, in half precision.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from atari_games import AtariGames
from distill_atari import Progress, restore, save, save_checkpoint, save_half, sharpen, to_input
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional

from saliency_wrappers import load_checkpoint
from saliency_wrappers.models.networks import BabyA3CGRU

ROLLOUT_STEPS = 64
EPOCHS = 2
MINIBATCHES = 8
LEARNING_RATE = 2e-4
DISCOUNT = 0.99
GAE_LAMBDA = 0.95
CLIP_RANGE = 0.1
VALUE_WEIGHT = 0.25
ENTROPY_WEIGHT = 0.003
MAX_GRADIENT_NORM = 0.5


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    game: str
    initial: Path
    output: Path
    decisions: int
    minutes: float
    environments: int
    sharpen: float
    seed: int
    keep_every: int
    max_decisions: int
    threads: int


@dataclass(frozen=True)
class Rollout:
    """What the agent lived through; every tensor but `first_state` is `(ROLLOUT_STEPS, environments, ...)`."""

    frames: Tensor
    episode_starts: Tensor
    actions: Tensor
    log_probabilities: Tensor
    values: Tensor
    rewards: Tensor
    life_ends: Tensor
    """1.0 where the action cost a life."""
    first_state: Tensor
    """`(environments, 256)`: the state that went into the first decision."""
    next_values: Tensor
    """`(environments,)`: the value of what follows the last action."""


def forget(state: Tensor, starts: Tensor) -> Tensor:
    """Zero the state of the episodes that start."""
    return state * (1 - starts).unsqueeze(1)


@torch.no_grad()
def collect_rollout(model: BabyA3CGRU, games: AtariGames, state: Tensor) -> tuple[Rollout, Tensor]:
    """Play `ROLLOUT_STEPS` actions in every game, drawn from the policy; the rollout and the state after it."""
    first_state, records = state, []
    for _ in range(ROLLOUT_STEPS):
        frames, starts = games.frames, games.episode_starts
        values, logits, state = model((to_input(frames), forget(state, starts)))
        policy = Categorical(logits=logits)
        actions = policy.sample()
        rewards, life_ends = games.step(actions.numpy())
        clipped, ends = (torch.tensor(array, dtype=torch.float32) for array in (np.sign(rewards), life_ends))
        records.append((frames, starts, actions, policy.log_prob(actions), values.squeeze(1), clipped, ends))
    next_values, _, _ = model((to_input(games.frames), forget(state, games.episode_starts)))
    columns: list[Any] = [torch.stack(column) for column in zip(*records, strict=True)]
    columns += [first_state, next_values.squeeze(1)]
    return Rollout(*columns), state


def estimate_advantages(rollout: Rollout) -> Tensor:
    """Generalised advantage estimation, `(ROLLOUT_STEPS, environments)`; a lost life counts as an end, so that losing hurts."""
    advantages = torch.zeros_like(rollout.rewards)
    advantage, next_values = torch.zeros_like(rollout.next_values), rollout.next_values
    for step in reversed(range(ROLLOUT_STEPS)):
        goes_on = 1 - rollout.life_ends[step]
        surprise = rollout.rewards[step] + DISCOUNT * goes_on * next_values - rollout.values[step]
        advantage = surprise + DISCOUNT * GAE_LAMBDA * goes_on * advantage
        advantages[step] = advantage
        next_values = rollout.values[step]
    return advantages


def replay(model: BabyA3CGRU, rollout: Rollout, chosen: Tensor) -> tuple[Tensor, Categorical]:
    """Values and policies of the chosen environments' rollouts, with gradients through the memory."""
    features = model.features(to_input(rollout.frames[:, chosen].flatten(0, 1))).unflatten(0, (ROLLOUT_STEPS, len(chosen)))
    state, states = rollout.first_state[chosen], []
    for step in range(ROLLOUT_STEPS):
        state = model.gru(features[step], forget(state, rollout.episode_starts[step, chosen]))
        states.append(state)
    hidden = torch.stack(states)
    return model.critic_linear(hidden).squeeze(2), Categorical(logits=model.actor_linear(hidden))


def compute_loss(model: BabyA3CGRU, rollout: Rollout, advantages: Tensor, chosen: Tensor) -> tuple[Tensor, dict[str, float]]:
    """The PPO loss over the chosen environments, and what to print of it."""
    values, policy = replay(model, rollout, chosen)
    targets = advantages[:, chosen] + rollout.values[:, chosen]
    advantage = advantages[:, chosen]
    advantage = (advantage - advantages.mean()) / (advantages.std() + 1e-8)
    ratio = (policy.log_prob(rollout.actions[:, chosen]) - rollout.log_probabilities[:, chosen]).exp()
    policy_loss = -torch.min(ratio * advantage, ratio.clamp(1 - CLIP_RANGE, 1 + CLIP_RANGE) * advantage).mean()
    value_loss = functional.mse_loss(values, targets)
    entropy = policy.entropy().mean()
    loss = policy_loss + VALUE_WEIGHT * value_loss - ENTROPY_WEIGHT * entropy
    clipped = ((ratio - 1).abs() > CLIP_RANGE).float().mean()
    return loss, {"policy": policy_loss.item(), "value": value_loss.item(), "entropy": entropy.item(), "clipped": clipped.item()}


def update(model: BabyA3CGRU, optimizer: torch.optim.Optimizer, rollout: Rollout) -> dict[str, float]:
    """Improve the network on one rollout; the mean losses."""
    advantages, logs = estimate_advantages(rollout), []
    for _ in range(EPOCHS):
        for chosen in torch.randperm(advantages.shape[1]).chunk(MINIBATCHES):
            loss, log = compute_loss(model, rollout, advantages, chosen)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
            optimizer.step()
            logs.append(log)
    return {name: float(np.mean([log[name] for log in logs])) for name in logs[0]}


def load_initial(options: Options) -> BabyA3CGRU:
    """The network to begin with, its logits sharpened."""
    model = load_checkpoint(options.initial)
    if not isinstance(model, BabyA3CGRU):
        raise click.UsageError(f"Expected initial weights of BabyA3CGRU, got {type(model).__name__}.")
    sharpen(model, options.sharpen)
    moved: Any = model.float()  # torch's types do not know memory_format
    moved.to(memory_format=torch.channels_last)
    return model


def train(options: Options) -> None:
    """Alternate between playing and learning until the time is spent."""
    model = load_initial(options)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, eps=1e-5)
    progress = restore(options.output, model, optimizer)
    games = AtariGames(options.game, options.environments, options.seed + progress.decisions, options.max_decisions, options.threads)
    state, rounds = model.initial_state(options.environments), 0
    while (spent := progress.fraction(options.decisions, options.minutes)) < 1:
        began = time.monotonic()
        rollout, state = collect_rollout(model, games, state)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * max(0.05, 1 - spent)
        log = update(model, optimizer, rollout)
        rounds += 1
        before = progress.decisions // options.keep_every
        progress.decisions += rollout.actions.numel()
        progress.seconds += time.monotonic() - began
        if progress.decisions // options.keep_every > before:
            save(options.output / f"agent.{progress.decisions}.pt", model.state_dict())
        if rounds % 5 == 0:
            report(progress, games, log)
        if rounds % 25 == 0:
            save_checkpoint(options.output, model, optimizer, progress)
    save_checkpoint(options.output, model, optimizer, progress)
    save_half(options.output / "agent.safetensors", model)


def report(progress: Progress, games: AtariGames, log: dict[str, float]) -> None:
    """One line on the console."""
    scores = [score for score, _ in games.finished]
    mean = float(np.mean(scores)) if scores else float("nan")
    told = "  ".join(f"{name} {value:.4f}" for name, value in log.items())
    click.echo(f"{progress.decisions:>8} decisions  {progress.seconds / 60:6.1f} min  return {mean:6.1f} ({len(scores)} episodes)  {told}")


@click.command(help="Train a recurrent Atari agent further with PPO.")
@click.option("--game", default="Breakout", show_default=True, help="As in ALE/<game>-v5.")
@click.option("--initial", type=click.Path(exists=True, path_type=Path), required=True, help="The weights to begin with.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of checkpoints.")
@click.option("--decisions", default=10_000_000, show_default=True, help="Stop after this many decisions over all games.")
@click.option("--minutes", default=60.0, show_default=True, help="Stop after this much wall time.")
@click.option("--environments", default=32, show_default=True, help="How many games to play side by side.")
@click.option("--sharpen", default=1.0, show_default=True, help="Multiply the logits by this first.")
@click.option("--seed", default=0, show_default=True)
@click.option("--keep-every", default=50_000, show_default=True, help="Keep the weights after each so many decisions.")
@click.option("--max-decisions", default=4500, show_default=True, help="End an episode after so many.")
@click.option("--threads", default=1, show_default=True, help="Of the processor.")
def main(**options: Any) -> None:
    """Seed everything, then train."""
    settings = Options(**options)
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    settings.output.mkdir(parents=True, exist_ok=True)
    train(settings)


if __name__ == "__main__":
    main()
