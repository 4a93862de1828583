"""Count the modules that an inline `env.step` enters, and the moves between them: `python benchmarks/count_module_moves.py`.

A move is a call from one module of the package to another, or a return; calls of other packages in between do not count.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import click
import gymnasium as gym
import torch

import saliency_wrappers
from saliency_wrappers import RecurrentAgentHook, SaliencyRecorder, load_pretrained

PACKAGE = f"{Path(saliency_wrappers.__file__).parent}/"


class ModuleMoves:
    """A profile function that follows which module of the package runs."""

    def __init__(self) -> None:
        self.entered: Counter[str] = Counter()
        """How often each module was entered from another one, or from outside."""
        self.moves: Counter[tuple[str, str]] = Counter()
        """How often each pair of modules was moved between, by a call or a return."""
        self._stack: list[str] = []

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """As `sys.setprofile` calls it."""
        file = frame.f_code.co_filename
        if not file.startswith(PACKAGE):
            return
        module = file[len(PACKAGE) :]
        if event == "call":
            if not self._stack or self._stack[-1] != module:
                self.entered[module] += 1
                self._move(module)
            self._stack.append(module)
        elif event == "return" and self._stack:
            left = self._stack.pop()
            if self._stack and self._stack[-1] != left:
                self.moves[left, self._stack[-1]] += 1

    def _move(self, module: str) -> None:
        if self._stack:
            self.moves[self._stack[-1], module] += 1


def count(env_id: str, warm_up: int = 8) -> ModuleMoves:
    """Return the moves of one step, after some steps in which checks and measurements are made."""
    agent, preprocessor = load_pretrained(env_id)
    env = SaliencyRecorder(gym.make(env_id, render_mode="rgb_array"), RecurrentAgentHook(agent, preprocessor))
    moves = ModuleMoves()
    frame, _ = env.reset(seed=1)
    state = agent.initial_state(1)  # pyright: ignore[reportCallIssue]
    for step in range(warm_up + 1):
        with torch.no_grad():
            _, logits, state = agent((torch.from_numpy(preprocessor(frame))[None], state))
        sys.setprofile(moves if step == warm_up else None)
        frame, *_ = env.step(int(logits.argmax()))
        sys.setprofile(None)
    env.close()
    return moves


@click.command()
@click.option("--game", default="ALE/Breakout-v5", show_default=True, help="A game with a bundled agent.")
def main(game: str) -> None:
    """Count and print."""
    import ale_py

    gym.register_envs(ale_py)
    moves = count(game)
    own = [module for module in moves.entered if not module.startswith("saliency/")]
    between = sum(times for pair, times in moves.moves.items() if not all(module.startswith("saliency/") for module in pair))
    click.echo(f"modules: {len(moves.entered)}, moves: {moves.moves.total()}")
    click.echo(f"outside saliency/: {len(own)} modules, {between} moves to, from and between them")
    for module, times in moves.entered.most_common():
        click.echo(f"  {times:4d} {module}")


if __name__ == "__main__":
    main()
