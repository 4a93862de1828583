"""Where the objects of a game are: `moving_objects` reads them from an Atari console's memory, `moving_pixels` finds them in frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
"""Top, left, bottom and right in pixels of the frame; bottom and right are exclusive."""
Mask = NDArray[np.bool_]


def moving_objects(env: gym.Env[Any, Any]) -> list[Box] | None:
    """Return the boxes of ball and own paddle of Breakout or Pong on the current screen.

    Positions are read from the console's memory, at the addresses that the AtariARI benchmark (Anand et al. 2019) lists, with offsets
    measured on frames.

    Args:
        env: the environment, in any number of wrappers.

    Returns:
        Their boxes; a ball that is out of play is left out. None: this environment's objects are not known.
    """
    spec, console = env.unwrapped.spec, getattr(env.unwrapped, "ale", None)
    read = None if spec is None else _READERS.get(spec.id.removeprefix("ALE/").split("-")[0].removesuffix("NoFrameskip"))
    if read is None or console is None:
        return None
    return read([int(byte) for byte in console.getRAM()])


def boxes_mask(boxes: Sequence[Box], shape: tuple[int, int], margin: tuple[float, float] = (0.0, 0.0)) -> Mask:
    """Return `(H, W)` bool, True in any of the boxes, each grown by `margin` `(rows, columns)` on every side."""
    mask = np.zeros(shape, np.bool_)
    for top, left, bottom, right in boxes:
        rows = slice(max(0, round(top - margin[0])), max(0, round(bottom + margin[0])))
        columns = slice(max(0, round(left - margin[1])), max(0, round(right + margin[1])))
        mask[rows, columns] = True
    return mask


def moving_pixels(frames: Sequence[NDArray[np.uint8]]) -> list[Mask]:
    """Return the pixels in which each frame differs from the background, the median of all frames.

    Args:
        frames: `(H, W, 3)` uint8 each, of one size.

    Returns:
        `(H, W)` bool for each frame: True where a channel differs by more than 8 of 255.
    """
    stacked = np.stack(frames)
    background = np.median(stacked, axis=0).astype(np.int16)
    return [(np.abs(frame.astype(np.int16) - background) > 8).any(axis=2) for frame in stacked]


def _breakout(memory: Sequence[int]) -> list[Box]:
    left = float(memory[72] - 47)
    paddle = (189.0, max(8.0, left), 193.0, min(152.0, left + 16))
    if memory[101] == 0:
        return [paddle]
    row, column = memory[101] + 10.5, memory[99] - 48.5
    return [(row - 1.5, column - 0.5, row + 2.5, column + 1.5), paddle]


def _pong(memory: Sequence[int]) -> list[Box]:
    paddle = (max(34.0, float(memory[51] - 13)), 140.0, min(194.0, float(memory[51] + 3)), 144.0)
    if memory[54] == 0:
        return [paddle]
    row, column = memory[54] - 12.5, memory[49] - 48.5
    return [(row - 1.5, column - 0.5, row + 2.5, column + 1.5), paddle]


_READERS: dict[str, Callable[[Sequence[int]], list[Box]]] = {"Breakout": _breakout, "Pong": _pong}
