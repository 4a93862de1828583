"""How much of a map lies on ball and paddle? Boxes are read from the RAM of Atari Breakout and Pong; the figures of docs/faithfulness.md.

python benchmarks/object_mass.py --game Breakout
python benchmarks/object_mass.py --game Pong --checkpoint pong-v4.model.80.tar
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import torch
from bench_agent import load_other
from numpy.typing import NDArray

from saliency_wrappers import (
    Background,
    Decision,
    FramePreprocessor,
    KLDivergence,
    LeaveOneOut,
    ObjectShapley,
    PerturbationSaliency,
    as_adapter,
    load_pretrained,
    memory_share,
)
from saliency_wrappers.faithfulness import spaced

Box = tuple[float, float, float, float]
"""First and last row, first and last column, in pixels of the 210x160 frame."""


def boxes(game: str, ram: NDArray[np.uint8]) -> list[Box]:
    """Where the ball and, in Breakout, the paddle are."""
    r = [int(value) for value in ram]
    if game == "Pong":
        y, x = r[54] - 12.5, r[49] - 48.5
        return [(y - 2, y + 2, x - 1, x + 1)] if r[54] else []
    y, x = r[101] + 10.5, r[99] - 48.5
    paddle = (189, 193, max(8, r[72] - 47), min(152, r[72] - 31))
    return [paddle, (y - 2, y + 2, x - 1, x + 1)] if r[101] else [paddle]


def inside(game: str, ram: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """`(80, 80)`: the boxes on the network input (rows 35 to 195, halved), grown by two pixels."""
    mask = np.zeros((80, 80), bool)
    for top, bottom, left, right in boxes(game, ram):
        rows = (top - 35) / 2 - 2, (bottom - 35) / 2 + 2
        columns = left / 2 - 2, right / 2 + 2
        (a, b), (c, d) = ((max(0, int(np.floor(low))), max(0, int(np.ceil(high)))) for low, high in (rows, columns))
        mask[a:b, c:d] = True
    return mask


def play(game: str, agent: Any, preprocessor: FramePreprocessor, seed: int, steps: int) -> tuple[list[Decision], list[Any]]:
    """One greedy episode: its decisions, and where the objects were."""
    adapter: Any = as_adapter(agent)
    env: Any = gym.make(f"ALE/{game}-v5", frameskip=4, repeat_action_probability=0.0)
    observation, _ = env.reset(seed=seed)
    state, decisions, masks = adapter.initial_state(1), [], []
    for _ in range(steps):
        inputs = torch.as_tensor(preprocessor(observation))[None]
        with torch.inference_mode():
            logits, value = adapter.evaluate(inputs, state, None)
            _, following = adapter.act(inputs, state)
        action = logits.argmax(dim=1)
        decisions.append(Decision.of(Decision(inputs, state, logits, value), action))
        masks.append(inside(game, env.unwrapped.ale.getRAM()))
        state = following
        observation, _, terminated, truncated, _ = env.step(int(action))
        if terminated or truncated:
            break
    return decisions, masks


def report(adapter: Any, decisions: list[Decision], masks: list[Any], count: int) -> None:
    """Print the mean fractions."""
    background, kl = Background(decisions), KLDivergence()
    chosen = [i for i in spaced(range(len(decisions)), count) if masks[i].any()]
    rows = [decisions[i] for i in chosen]
    objects = ObjectShapley(background)
    methods = {
        "default": PerturbationSaliency(),
        "change, blur": PerturbationSaliency(saliency_gen=kl, weighting="change"),
        "change, background": PerturbationSaliency(saliency_gen=kl, fill=background, weighting="change"),
        "object Shapley": objects,
        "leave one out": LeaveOneOut(background),
    }
    print(f"{len(rows)} decisions; area {np.mean([masks[i].mean() for i in chosen]):.3f}")
    for name, method in methods.items():
        maps = [np.abs(one.actor) for one in method(adapter, rows)]
        shares = [one[masks[i]].sum() / one.sum() for i, one in zip(chosen, maps, strict=True) if one.sum() > 0]
        print(f"{name}: {np.mean(shares):.3f}", flush=True)
    print(f"passes of object Shapley: {np.mean([objects.explain(adapter, row)[0].passes for row in rows]):.0f}")
    if rows[0].state is not None:
        shares = [memory_share(adapter, row, decisions[::5]) for row in rows]
        critic = np.mean([one.value_share for one in shares if one.value_share is not None])
        print(f"memory: actor {np.mean([one.share for one in shares]):.2f}, critic {critic:.2f}")


def main() -> None:
    """Play and report."""
    gym.register_envs(ale_py)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--game", choices=["Breakout", "Pong"], default="Breakout")
    parser.add_argument("--checkpoint", type=Path, help="an agent with inputs of 80x80 (default: the bundled agent)")
    parser.add_argument("--decisions", type=int, default=30)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    settings = parser.parse_args()
    agent, preprocessor = load_pretrained(f"ALE/{settings.game}-v5") if settings.checkpoint is None else load_other(settings.checkpoint)
    report(as_adapter(agent), *play(settings.game, agent, preprocessor, settings.seed, settings.steps), settings.decisions)


if __name__ == "__main__":
    main()
