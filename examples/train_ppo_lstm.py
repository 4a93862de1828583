"""Train a recurrent agent (CNN + LSTM, actor and critic) on an Atari game with PPO.

    python examples/train_ppo_lstm.py --game Breakout --output runs/breakout --minutes 120

The same command continues a run that was interrupted: the output folder holds `checkpoint.pt` (weights, optimiser,
position in the schedule), `agent.<steps>.pt` (the weights at each evaluation), the TensorBoard scalars, and in `videos`
what the agent looked at in each evaluation: one watches it learn where to look. At the end `agent.safetensors` is written,
which `saliency_wrappers.load_checkpoint` loads like the others.

The agent sees one grey 84 x 84 frame at a time. It cannot tell from one frame where the ball is flying, so it has to
remember: the memory is the LSTM's. To keep that memory intact, PPO cuts its minibatches by environment, never by time,
and replays each environment's frames in order from the LSTM state that the rollout began with.

The games are those of plain `gymnasium.make("ALE/<game>-v5")`: sticky actions, 4 frames per action, no help with FIRE.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import ale_py
import click
import gymnasium
import numpy as np
import safetensors.torch
import torch
from ale_py.vector_env import AtariVectorEnv
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.utils.tensorboard import SummaryWriter

from saliency_wrappers import FramePreprocessor, RecordSaliencyVideo, RecurrentAgentHook, SaliencyRecorder, load_checkpoint
from saliency_wrappers.models.networks import AtariLSTM, LSTMState

ROLLOUT_STEPS = 64
EPOCHS = 3
MINIBATCHES = 8
LEARNING_RATE = 4e-4
DISCOUNT = 0.99
GAE_LAMBDA = 0.95
CLIP_RANGE = 0.1
VALUE_WEIGHT = 0.5
ENTROPY_WEIGHT = 0.01
MAX_GRADIENT_NORM = 0.5

STICKINESS = 0.25
FRAMES_PER_ACTION = 4
FILMED = 300  # frames of each evaluation that are filmed with what the agent looks at
CHECKPOINT_EVERY = 25  # updates

gymnasium.register_envs(ale_py)


@dataclass
class Options:
    """The options of the command line."""

    game: str
    steps: int
    minutes: float
    environments: int
    output: Path
    seed: int
    evaluate_every: int
    threads: int
    max_decisions: int
    initial: Path | None


@dataclass
class Rollout:
    """What the agent lived through; every tensor is `(ROLLOUT_STEPS, environments, ...)`."""

    frames: Tensor  # uint8
    episode_starts: Tensor  # 1.0 where the frame is the first of an episode
    actions: Tensor
    log_probabilities: Tensor
    values: Tensor
    rewards: Tensor
    life_ends: Tensor  # 1.0 where the action cost a life
    first_state: LSTMState  # the LSTM's state before the first frame
    next_values: Tensor  # `(environments,)`: the value of what follows the last action


@dataclass
class Progress:
    """How far the training has come."""

    steps: int = 0
    seconds: float = 0.0

    def fraction(self, max_steps: int, minutes: float) -> float:
        """From 0 to 1: whichever budget, steps or wall time, is further spent."""
        return min(1.0, max(self.steps / max_steps, self.seconds / (60 * minutes)))


class Games:
    """Many games played side by side, with the LSTM state and the score of each."""

    def __init__(self, options: Options, seed: int, model: AtariLSTM) -> None:
        count = options.environments
        self.environment = AtariVectorEnv(
            gymnasium.spec(f"ALE/{options.game}-v5").kwargs["game"],  # "SpaceInvaders" is the ROM "space_invaders".
            count,
            num_threads=options.threads,
            stack_num=1,
            frameskip=FRAMES_PER_ACTION,
            repeat_action_probability=STICKINESS,
            max_num_frames_per_episode=FRAMES_PER_ACTION * options.max_decisions,
            autoreset_mode=AutoresetMode.SAME_STEP,
            maxpool=False,
            noop_max=30,  # Else every episode begins alike, and the agent learns the beginning by heart.
            use_fire_reset=False,
            reward_clipping=False,  # We clip the rewards ourselves, to log the true score.
        )
        frames, infos = self.environment.reset(seed=seed)
        self.frames = torch.tensor(frames)
        self.episode_starts = torch.ones(count)
        self.state = model.initial_state(count)
        self.lives = infos["lives"].copy()
        self.scores = np.zeros(count)
        self.lengths = np.zeros(count, dtype=np.int64)
        self.finished: deque[tuple[float, int]] = deque(maxlen=100)  # score and length of the latest episodes

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Play one action in each game: the clipped rewards and where a life was lost."""
        frames, rewards, terminated, truncated, infos = self.environment.step(actions.numpy())
        ended = terminated | truncated
        life_ends = ended | (infos["lives"] < self.lives)
        self.frames = torch.tensor(frames)
        self.episode_starts = torch.tensor(ended, dtype=torch.float32)
        self.lives = infos["lives"].copy()
        self._keep_score(rewards, ended)
        return torch.tensor(np.sign(rewards), dtype=torch.float32), torch.tensor(life_ends, dtype=torch.float32)

    def _keep_score(self, rewards: NDArray[Any], ended: NDArray[np.bool_]) -> None:
        self.scores += rewards
        self.lengths += 1
        for index in np.flatnonzero(ended):
            self.finished.append((float(self.scores[index]), int(self.lengths[index])))
        self.scores[ended] = 0
        self.lengths[ended] = 0


def build_model(num_actions: int) -> AtariLSTM:
    """The network with orthogonal weights: a nearly uniform policy to begin with, and gradients of a good size."""
    model = AtariLSTM(num_actions)
    gains: dict[nn.Conv2d | nn.Linear, float] = {model.conv1: 2**0.5, model.conv2: 2**0.5, model.linear: 2**0.5}
    gains |= {model.actor_linear: 0.01, model.critic_linear: 1.0}
    for layer, gain in gains.items():
        nn.init.orthogonal_(layer.weight, gain)
    nn.init.orthogonal_(model.lstm.weight_ih)
    nn.init.orthogonal_(model.lstm.weight_hh)
    for name, parameter in model.named_parameters():
        if "bias" in name:
            nn.init.zeros_(parameter)
    # On a CPU the convolutions are twice as fast in this memory format.
    moved: Any = model  # torch's types do not know memory_format
    moved.to(memory_format=torch.channels_last)
    return model


def count_actions(game: str) -> int:
    """How many actions the game knows."""
    environment = gymnasium.make(f"ALE/{game}-v5")
    environment.close()
    return int(cast(Discrete, environment.action_space).n)


def to_input(frames: Tensor) -> Tensor:
    """uint8 frames to what the network expects: float32 in [0, 1]."""
    return (frames.float() / 255).contiguous(memory_format=torch.channels_last)


def forget(state: LSTMState, episode_starts: Tensor) -> LSTMState:
    """Zero the state of the episodes that start. A lost life is no start: the agent plays on, and remembers."""
    keep = (1 - episode_starts).unsqueeze(1)
    return state[0] * keep, state[1] * keep


@torch.no_grad()
def collect_rollout(model: AtariLSTM, games: Games) -> Rollout:
    """Play `ROLLOUT_STEPS` actions in every game, drawn from the policy."""
    first_state = games.state
    records: list[tuple[Tensor, ...]] = []
    for _ in range(ROLLOUT_STEPS):
        frames, episode_starts = games.frames, games.episode_starts
        values, logits, games.state = model((to_input(frames), forget(games.state, episode_starts)))
        policy = Categorical(logits=logits)
        actions = policy.sample()
        rewards, life_ends = games.step(actions)
        records.append((frames, episode_starts, actions, policy.log_prob(actions), values.squeeze(1), rewards, life_ends))
    next_values, _, _ = model((to_input(games.frames), forget(games.state, games.episode_starts)))
    columns: list[Any] = [torch.stack(column) for column in zip(*records, strict=True)]
    columns += [first_state, next_values.squeeze(1)]
    return Rollout(*columns)


def estimate_advantages(rollout: Rollout) -> Tensor:
    """Generalised advantage estimation, `(ROLLOUT_STEPS, environments)`.

    A lost life counts as an end: nothing that follows is credited to the action that lost it, so that losing hurts.
    """
    advantages = torch.zeros_like(rollout.rewards)
    advantage, next_values = torch.zeros_like(rollout.next_values), rollout.next_values
    for step in reversed(range(ROLLOUT_STEPS)):
        goes_on = 1 - rollout.life_ends[step]
        surprise = rollout.rewards[step] + DISCOUNT * goes_on * next_values - rollout.values[step]
        advantage = surprise + DISCOUNT * GAE_LAMBDA * goes_on * advantage
        advantages[step] = advantage
        next_values = rollout.values[step]
    return advantages


def replay(model: AtariLSTM, rollout: Rollout, chosen: Tensor) -> tuple[Tensor, Categorical]:
    """Values and policies of the chosen environments' rollouts, now with gradients through the LSTM's memory."""
    frames = rollout.frames[:, chosen]
    # The convolutions have no memory: they see all frames at once. Only the LSTM goes step by step.
    features = model.features(to_input(frames.flatten(0, 1))).view(ROLLOUT_STEPS, len(chosen), -1)
    state = rollout.first_state[0][chosen], rollout.first_state[1][chosen]
    outputs = []
    for step in range(ROLLOUT_STEPS):
        state = model.lstm(features[step], forget(state, rollout.episode_starts[step, chosen]))
        outputs.append(state[0])
    hidden = torch.stack(outputs)
    return model.critic_linear(hidden).squeeze(2), Categorical(logits=model.actor_linear(hidden))


def compute_loss(
    model: AtariLSTM, rollout: Rollout, advantages: Tensor, chosen: Tensor, entropy_weight: float
) -> tuple[Tensor, dict[str, float]]:
    """The PPO loss over the chosen environments, and what to log of it."""
    values, policy = replay(model, rollout, chosen)
    targets = advantages[:, chosen] + rollout.values[:, chosen]
    advantage = advantages[:, chosen]
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    ratio = (policy.log_prob(rollout.actions[:, chosen]) - rollout.log_probabilities[:, chosen]).exp()
    clipped_ratio = ratio.clamp(1 - CLIP_RANGE, 1 + CLIP_RANGE)
    policy_loss = -torch.min(ratio * advantage, clipped_ratio * advantage).mean()
    value_loss = nn.functional.mse_loss(values, targets)
    entropy = policy.entropy().mean()
    loss = policy_loss + VALUE_WEIGHT * value_loss - entropy_weight * entropy
    return loss, {
        "loss/policy": policy_loss.item(),
        "loss/value": value_loss.item(),
        "policy/entropy": entropy.item(),
        "policy/clip_fraction": ((ratio - 1).abs() > CLIP_RANGE).float().mean().item(),
    }


def update(model: AtariLSTM, optimizer: torch.optim.Optimizer, rollout: Rollout, remaining: float) -> dict[str, float]:
    """Improve the network on one rollout. `remaining` falls from 1 to 0 over the training."""
    for group in optimizer.param_groups:
        group["lr"] = LEARNING_RATE * remaining
    advantages = estimate_advantages(rollout)
    environments = advantages.shape[1]
    logs: list[dict[str, float]] = []
    for _ in range(EPOCHS):
        for chosen in torch.randperm(environments).chunk(MINIBATCHES):
            loss, log = compute_loss(model, rollout, advantages, chosen, ENTROPY_WEIGHT * remaining)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
            optimizer.step()
            logs.append(log)
    means = {name: float(np.mean([log[name] for log in logs])) for name in logs[0]}
    targets = advantages + rollout.values
    means["loss/explained_variance"] = 1 - (advantages.var() / targets.var().clamp(min=1e-8)).item()
    means["schedule/learning_rate"] = LEARNING_RATE * remaining
    return means


def evaluate(model: AtariLSTM, options: Options, steps: int) -> float:
    """Play one episode of the plain game, always with the likeliest action, and film what the agent looks at: the score."""
    # The same pixels as AtariVectorEnv makes without pooling: the whole screen, grey, resized by area.
    hook = RecurrentAgentHook(model, replace(FramePreprocessor.named("atari84"), determines_input=True))
    plain_game = gymnasium.make(f"ALE/{options.game}-v5", render_mode="rgb_array", max_episode_steps=options.max_decisions)
    recorder = SaliencyRecorder(plain_game, hook, mode="deferred", on_error="warn")
    videos, name = options.output / "videos", f"saliency-{steps:09d}"
    # Only what is filmed is explained: the rest of the episode is played at full speed.
    environment = RecordSaliencyVideo(recorder, videos, episode_trigger=lambda _: True, video_length=FILMED, name_prefix=name)
    observation, _ = environment.reset(seed=options.seed)
    score, ended = 0.0, False
    while not ended:
        observation, reward, terminated, truncated, _ = environment.step(hook.act(observation))
        score += float(reward)
        ended = terminated or truncated
    environment.close()
    return score


def save(path: Path, contents: Mapping[str, Any]) -> None:
    """Write a file that is either complete or not there, whenever the process is stopped."""
    temporary = path.with_suffix(".temporary")
    torch.save(contents, temporary)
    temporary.replace(path)


def save_checkpoint(output: Path, model: AtariLSTM, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Everything that a later run needs to continue, in plain types: `torch.load(weights_only=True)` reads it."""
    contents = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "steps": progress.steps,
        "seconds": progress.seconds,
    }
    save(output / "checkpoint.pt", contents)


def restore(output: Path, model: AtariLSTM, optimizer: torch.optim.Optimizer) -> Progress:
    """Continue where the folder's checkpoint left off, or begin at the beginning."""
    path = output / "checkpoint.pt"
    if not path.exists():
        return Progress()
    checkpoint = torch.load(path, weights_only=True)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    return Progress(checkpoint["steps"], checkpoint["seconds"])


def report(writer: SummaryWriter, games: Games, progress: Progress, scalars: dict[str, float]) -> None:
    """One line on the console, and all scalars to TensorBoard."""
    if games.finished:
        scores, lengths = zip(*games.finished, strict=True)
        scalars |= {"episode/return": float(np.mean(scores)), "episode/length": float(np.mean(lengths))}
    for name, value in scalars.items():
        writer.add_scalar(name, value, progress.steps)
    click.echo(
        f"{progress.steps:>9} steps  {progress.seconds / 60:6.1f} min  {scalars['speed/steps_per_second']:5.0f}/s  "
        f"return {scalars.get('episode/return', float('nan')):6.1f}  "
        f"length {scalars.get('episode/length', float('nan')):5.0f}  "
        f"entropy {scalars['policy/entropy']:.3f}  clipped {scalars['policy/clip_fraction']:.3f}  "
        f"policy loss {scalars['loss/policy']:7.4f}  value loss {scalars['loss/value']:.4f}  "
        f"explained {scalars['loss/explained_variance']:5.2f}"
    )


def train_one_round(
    model: AtariLSTM, optimizer: torch.optim.Optimizer, games: Games, progress: Progress, remaining: float
) -> dict[str, float]:
    """Play, learn, and move the progress on: what to log."""
    began = time.monotonic()
    rollout = collect_rollout(model, games)
    scalars = update(model, optimizer, rollout, remaining)
    played = rollout.actions.numel()
    scalars["speed/steps_per_second"] = played / (time.monotonic() - began)
    progress.steps += played
    return scalars


def evaluate_and_keep(model: AtariLSTM, options: Options, writer: SummaryWriter, steps: int) -> None:
    """Log the score of one episode and keep the weights that played it."""
    save(options.output / f"agent.{steps}.pt", model.state_dict())
    score = evaluate(model, options, steps)
    writer.add_scalar("evaluation/return", score, steps)
    click.echo(f"evaluation after {steps} steps: {score:.0f}")


def train(options: Options) -> None:
    """Alternate between playing and learning until a budget is spent."""
    model = build_model(count_actions(options.game))
    if options.initial is not None:
        model.load_state_dict(load_checkpoint(options.initial).state_dict())
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, eps=1e-5)
    progress = restore(options.output, model, optimizer)
    began = time.monotonic() - progress.seconds
    seed = options.seed + progress.steps  # A continued run plays other games than the ones it has seen.
    games = Games(options, seed, model)
    writer = SummaryWriter(options.output, purge_step=progress.steps or None)
    rounds, evaluations = 0, progress.steps // options.evaluate_every
    while (spent := progress.fraction(options.steps, options.minutes)) < 1:
        scalars = train_one_round(model, optimizer, games, progress, remaining=1 - spent)
        progress.seconds = time.monotonic() - began
        report(writer, games, progress, scalars)
        rounds += 1
        if rounds % CHECKPOINT_EVERY == 0:
            save_checkpoint(options.output, model, optimizer, progress)
        if progress.steps // options.evaluate_every > evaluations:
            evaluations = progress.steps // options.evaluate_every
            evaluate_and_keep(model, options, writer, progress.steps)
    save_checkpoint(options.output, model, optimizer, progress)
    weights = {name: weight.contiguous() for name, weight in model.state_dict().items()}
    safetensors.torch.save_file(weights, options.output / "agent.safetensors")
    writer.close()


@click.command(help="Train a recurrent agent on an Atari game with PPO.")
@click.option("--game", default="Breakout", show_default=True, help="As in ALE/<game>-v5.")
@click.option("--steps", default=10_000_000, show_default=True, help="Stop after this many actions over all games.")
@click.option("--minutes", default=150.0, show_default=True, help="Stop after this much wall time.")
@click.option("--environments", default=32, show_default=True, help="How many games to play side by side.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of checkpoints and logs.")
@click.option("--seed", default=0, show_default=True)
@click.option("--evaluate-every", default=500_000, show_default=True, help="In steps.")
@click.option("--threads", default=os.cpu_count() or 1, show_default=True)
@click.option(
    "--initial", type=click.Path(exists=True, path_type=Path), help="Begin a new run with these weights, as of agent.safetensors."
)
@click.option("--max-decisions", default=4500, show_default=True, help="End an episode after so many: without FIRE it would never end.")
def main(**options: Any) -> None:
    """Seed everything, then train."""
    settings = Options(**options)
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    settings.output.mkdir(parents=True, exist_ok=True)
    train(settings)


if __name__ == "__main__":
    main()
