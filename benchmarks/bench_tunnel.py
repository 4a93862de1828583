"""Does the critic look at the tunnel? `python benchmarks/bench_tunnel.py`.

Plays the greedy Breakout agent, one episode for each seed, until it opens a tunnel: a column of the wall without bricks. For the seed whose
tunnel opens first (or `--seed`) the decisions around it are explained, and the share of the critic's mass on the tunnel's column, from the
ceiling to the wall's lower edge, is measured before and after it opens. `--picture STEP FILE` writes what `docs/breakout.png` shows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ale_py
import click
import cv2
import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from saliency_wrappers import (
    FramePreprocessor,
    RecurrentAgentHook,
    SaliencyMaps,
    SaliencyRecorder,
    load_checkpoint,
    load_pretrained,
)
from saliency_wrappers.step_saliency import StepSaliency
from saliency_wrappers.video.overlay import Drawing
from saliency_wrappers.video.painter import Painter

ENV_ID = "ALE/Breakout-v5"
CEILING, WALL = 32, (57, 93)
"""Rows of the screen: the ceiling's lower edge, and the wall of bricks."""
LEFT, BRICK, COLUMNS = 8, 8, 18
"""The wall's left edge, the width of a brick, and how many there are in a row."""

Shares = dict[str, list[tuple[int, float, float]]]
"""Before and after the opening: a decision, and the share of the critic's and of the actor's mass on the tunnel's column."""

gym.register_envs(ale_py)


@dataclass(frozen=True)
class Tunnel:
    """When and where an episode's first tunnel opens."""

    seed: int
    step: int
    """The first decision made on a frame with the tunnel."""
    column: int
    """From 0 at the left."""

    @property
    def pixels(self) -> tuple[slice, slice]:
        """Rows and columns of the screen: from the ceiling to the wall's lower edge, the brick and half a brick on both sides."""
        left = LEFT + BRICK * self.column
        return slice(CEILING, WALL[1]), slice(max(LEFT, left - BRICK // 2), min(LEFT + BRICK * COLUMNS, left + BRICK + BRICK // 2))


def open_columns(frame: NDArray[np.uint8]) -> list[int]:
    """The columns of the wall that have no brick left; the ball may be in one."""
    wall = frame[WALL[0] : WALL[1], LEFT : LEFT + BRICK * COLUMNS].max(axis=2) > 0
    bricks = wall.reshape(WALL[1] - WALL[0], COLUMNS, BRICK).sum(axis=(0, 2))
    return [int(column) for column in np.flatnonzero(bricks <= 8)]  # the ball has 2x4 pixels


def find_tunnel(agent: Any, preprocessor: FramePreprocessor, seed: int, decisions: int) -> tuple[Tunnel | None, float]:
    """The first tunnel of an episode, and the return when it opens, or at the end."""
    env = gym.make(ENV_ID, max_episode_steps=decisions)
    total = 0.0
    with RecurrentAgentHook(agent, preprocessor) as hook:
        frame, _ = env.reset(seed=seed)
        for step in range(decisions):
            opened = open_columns(frame)
            if opened:
                env.close()
                return Tunnel(seed, step, opened[0]), total
            frame, reward, terminated, truncated, _ = env.step(hook.act(frame))
            total += float(reward)
            if terminated or truncated:
                break
    env.close()
    return None, total


def shares_around(agent: Any, preprocessor: FramePreprocessor, tunnel: Tunnel, window: int, pictures: dict[int, Path]) -> Shares:
    """The shares of the decisions around the opening; `pictures` are drawn on the way."""
    first, last = tunnel.step - window, tunnel.step + window
    wanted = set(range(max(0, first), last)) | set(pictures)
    shares: Shares = {"before": [], "after": []}
    with RecurrentAgentHook(agent, preprocessor) as hook:
        env = SaliencyRecorder(gym.make(ENV_ID, render_mode="rgb_array"), hook, step_trigger=lambda step: step in wanted)
        frame, _ = env.reset(seed=tunnel.seed)
        names = env.unwrapped.get_action_meanings()
        painter = Painter(Drawing(panels=True), strip=True, action_names=names, zoom=2)
        for step in range(max(wanted) + 1):
            before = frame
            frame, _, terminated, truncated, info = env.step(hook.act(frame))
            if "saliency" in info:
                told = step_saliency(info["saliency"])
                if first <= step < last:
                    critic, actor = (mass_share(info["saliency"][head], preprocessor, tunnel) for head in ("critic", "actor"))
                    shares["before" if step < tunnel.step else "after"].append((step, critic, actor))
                if step in pictures:
                    write_picture(pictures[step], painter.paint(before, told, preprocessor))
            if terminated or truncated:
                break
        env.close()
    return shares


def mass_share(saliency: Any, preprocessor: FramePreprocessor, tunnel: Tunnel) -> float:
    """How much of a map lies on the tunnel's column."""
    laid = preprocessor.project(saliency, (210, 160))
    return float(laid[tunnel.pixels].sum() / laid.sum())


def step_saliency(info: dict[str, Any]) -> StepSaliency:
    """`info["saliency"]` as what a painter draws."""
    maps = SaliencyMaps(info["actor"], info["critic"])
    return StepSaliency(info["episode"], info["step"], info["action"], info["logits"], info["value"], maps)


def write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))


def describe(tunnel: Tunnel, shares: Shares, preprocessor: FramePreprocessor) -> dict[str, Any]:
    """What to report of `shares_around`."""
    seen = preprocessor.covers((210, 160))
    report: dict[str, Any] = {"seed": tunnel.seed, "tunnel opens at decision": tunnel.step, "column": tunnel.column}
    report["the column's part of what the agent sees"] = float(seen[tunnel.pixels].sum() / seen.sum())
    for when, told in shares.items():
        for head, place in (("critic", 1), ("actor", 2)):
            report[f"{head}'s mass on the column, {when}"] = float(np.mean([one[place] for one in told]))
    ranked = sorted((one for told in shares.values() for one in told), key=lambda one: -one[1])
    report["most on the column by the critic"] = [(step, round(share, 3)) for step, share, _ in ranked[:5]]
    return report


@click.command()
@click.option("--checkpoint", type=click.Path(exists=True, path_type=Path), help="Another agent that sees what the bundled one sees.")
@click.option("--seeds", default=20, show_default=True, help="Look for tunnels with seeds 0, 1, 2...")
@click.option("--seed", type=int, help="Only this seed.")
@click.option("--decisions", default=1500, show_default=True, help="Look for a tunnel in so many.")
@click.option("--window", default=100, show_default=True, help="Decisions before and after the opening that are measured.")
@click.option("--picture", type=(int, click.Path(path_type=Path)), multiple=True, help="Also draw this decision. Repeatable.")
@click.option("--output", type=click.Path(path_type=Path), help="JSON file.")
def main(checkpoint: Path | None, seeds: int, seed: int | None, decisions: int, window: int, picture: Any, output: Path | None) -> None:
    """Find the seeds whose episodes tunnel, and measure where the critic looks around the opening."""
    agent, preprocessor = load_pretrained(ENV_ID)
    agent = agent if checkpoint is None else load_checkpoint(checkpoint)
    found: list[Tunnel] = []
    for tried in range(seeds) if seed is None else [seed]:
        tunnel, total = find_tunnel(agent, preprocessor, tried, decisions)
        where = "no tunnel" if tunnel is None else f"column {tunnel.column} at {tunnel.step}"
        click.echo(f"seed {tried}: {where}, return {total:g}", err=True)
        found += [] if tunnel is None else [tunnel]
    if not found:
        raise click.ClickException(f"No tunnel in {decisions} decisions.")
    tunnel = min(found, key=lambda one: one.step)
    shares = shares_around(agent, preprocessor, tunnel, window, dict(picture))
    text = json.dumps(describe(tunnel, shares, preprocessor), indent=2)
    click.echo(text)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
