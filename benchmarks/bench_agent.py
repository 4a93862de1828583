"""What a bundled agent can do, and whether it looks where it should: `python benchmarks/bench_agent.py`.

Plays a game as plain `gym.make` gives it (sticky actions) and prints the mean return; then, for Breakout, measures how much of the actor
map's mass lies near the ball and the paddle, against the share of the screen that these places take.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ale_py
import click
import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from saliency_wrappers import FramePreprocessor, RecurrentAgentHook, SaliencyMaps, SaliencyRecorder, load_checkpoint, load_pretrained
from saliency_wrappers.models.networks import AtariLSTM

ENV_ID = "ALE/Breakout-v5"
MAX_DECISIONS = 4500
"""An agent that never presses FIRE would play for ever."""

RADIUS = 12
"""Pixels of the screen around the ball's and the paddle's centre."""

BELOW_THE_BRICKS = (95, 185)
"""Rows of the screen between the bricks and the paddle."""

gym.register_envs(ale_py)


@dataclass(frozen=True)
class Objects:
    """Where ball and paddle are on the screen, in pixels.

    Read from the console's memory at the addresses that the AtariARI benchmark (Anand et al. 2019) lists; the offsets were measured on 900
    frames: the ball, 2x4 pixels, has its left edge at byte 99 - 49 and its top at byte 101 + 9; the paddle, 16x4 pixels, has its left edge
    at byte 72 - 47 and its top at row 189.
    """

    ball: tuple[float, float]
    """Row and column of its centre."""
    paddle: tuple[float, float]
    """Row and column of its centre."""

    @staticmethod
    def of(memory: NDArray[np.uint8]) -> Objects:
        """Read the console's 128 bytes."""
        return Objects(
            ball=(float(memory[101]) + 10.5, float(memory[99]) - 48.5),
            paddle=(190.5, float(memory[72]) - 39.5),
        )

    @property
    def ball_is_below_the_bricks(self) -> bool:
        """Whether the ball flies free; without a ball its row is far above."""
        return BELOW_THE_BRICKS[0] <= self.ball[0] <= BELOW_THE_BRICKS[1]

    def nearby(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """`(H, W)` bool: within `RADIUS` of either centre."""
        rows, columns = np.ogrid[: shape[0], : shape[1]]
        near = [(rows - y) ** 2 + (columns - x) ** 2 <= RADIUS**2 for y, x in (self.ball, self.paddle)]
        return near[0] | near[1]


def attention(maps: SaliencyMaps, objects: Objects, preprocessor: FramePreprocessor, shape: tuple[int, int]) -> tuple[float, float]:
    """The share of the actor map's mass near ball and paddle, and the share of the screen that is near them."""
    saliency = preprocessor.project(maps.actor, shape)
    near = objects.nearby(shape)
    return float(saliency[near].sum() / saliency.sum()), float(near.mean())


def play(env_id: str, hook: RecurrentAgentHook, seed: int, greedy: bool) -> float:
    """The return of one episode."""
    env = gym.make(env_id, max_episode_steps=MAX_DECISIONS)
    hook.new_episode()
    observation, _ = env.reset(seed=seed)
    total, ended = 0.0, False
    while not ended:
        observation, reward, terminated, truncated, _ = env.step(hook.act(observation, greedy=greedy))
        total += float(reward)
        ended = terminated or truncated
    env.close()
    return total


def watch(agent: Any, preprocessor: FramePreprocessor, decisions: int, greedy: bool) -> list[tuple[float, float]]:
    """Shares of mass and area of every 7th decision with the ball below the bricks, until there are `decisions` of them."""
    shares: list[tuple[float, float]] = []
    with RecurrentAgentHook(agent, preprocessor, seed=0) as hook:
        env = SaliencyRecorder(
            gym.make(ENV_ID, render_mode="rgb_array", max_episode_steps=MAX_DECISIONS), hook, step_trigger=lambda _: wanted
        )
        seen, episode, wanted, ended = 0, 0, False, True
        while len(shares) < decisions:
            if ended:
                observation, _ = env.reset(seed=100 + episode)
                episode += 1
            objects = Objects.of(env.unwrapped.ale.getRAM())
            seen += objects.ball_is_below_the_bricks
            wanted = objects.ball_is_below_the_bricks and seen % 7 == 0
            shape = observation.shape[:2]
            observation, _, terminated, truncated, info = env.step(hook.act(observation, greedy=greedy))
            ended = terminated or truncated
            if "saliency" in info:
                saliency = info["saliency"]
                shares.append(attention(SaliencyMaps(saliency["actor"], saliency["critic"]), objects, preprocessor, shape))
        env.close()
    return shares


def describe(shares: NDArray[np.float64]) -> dict[str, Any]:
    """What to report of `watch`."""
    return {
        "decisions": len(shares),
        "share of the actor map's mass near ball and paddle": float(shares[:, 0].mean()),
        "share of the screen near ball and paddle": float(shares[:, 1].mean()),
        "ratio": float(shares[:, 0].mean() / shares[:, 1].mean()),
    }


def load_other(checkpoint: Path) -> tuple[Any, FramePreprocessor]:
    """Another agent, with the preprocessing that its kind is trained with."""
    agent = load_checkpoint(checkpoint)
    return agent, FramePreprocessor.named("atari84" if isinstance(agent, AtariLSTM) else "greydanus2018")


@click.command()
@click.option("--env", "env_id", default=ENV_ID, show_default=True)
@click.option("--checkpoint", type=click.Path(exists=True, path_type=Path), help="Another agent for the same game.")
@click.option("--episodes", default=20, show_default=True, help="With seeds 0, 1, 2...")
@click.option("--decisions", default=50, show_default=True)
@click.option("--greedy/--sample", default=True, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="JSON file.")
def main(env_id: str, checkpoint: Path | None, episodes: int, decisions: int, greedy: bool, output: Path | None) -> None:
    """Measure a bundled agent's return and where it looks."""
    agent, preprocessor = load_pretrained(env_id) if checkpoint is None else load_other(checkpoint)
    returns = []
    for seed in range(episodes):
        with RecurrentAgentHook(agent, preprocessor, seed=seed) as hook:
            returns.append(play(env_id, hook, seed, greedy))
    report: dict[str, Any] = {
        "environment": env_id,
        "policy": "greedy" if greedy else "sampled",
        "returns": returns,
        "mean return": float(np.mean(returns)),
    }
    if env_id == ENV_ID:
        report |= describe(np.array(watch(agent, preprocessor, decisions, greedy)))
    text = json.dumps(report, indent=2)
    click.echo(text)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
