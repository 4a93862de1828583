"""The film of learning: what an agent looks at, from checkpoint to checkpoint, on the same seed.

`record_take` plays one checkpoint and measures how much of its maps lies on the moving objects, `Take` is what came of it, and
`sequence` and `side_by_side` make the pictures of one video from several takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from saliency_wrappers.cli.game_objects import Mask, boxes_mask, moving_objects, moving_pixels
from saliency_wrappers.decisions import Array, SaliencyMaps
from saliency_wrappers.hooks.hook import RecurrentAgentHook
from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.saliency.method import SaliencyMethod
from saliency_wrappers.step_saliency import StepSaliency
from saliency_wrappers.video.overlay import Frame
from saliency_wrappers.video.painter import Painter
from saliency_wrappers.wrappers.recorder import SaliencyRecorder

MARGIN = 2
"""Pixels of the network input by which objects are grown: a map is no sharper."""
CURVE_HEIGHT = 90
"""Height in pixels of the curves below the pictures."""


@dataclass(frozen=True, eq=False)
class Take:
    """What one checkpoint did and looked at; the lists have one entry for each filmed decision."""

    name: str
    """Of the checkpoint."""
    frames: list[Frame]
    saliency: list[StepSaliency]
    preprocessor: FramePreprocessor
    mass: NDArray[np.float64]
    """`(decisions, 2)` in [0, 1]: the fraction of the actor's and the critic's map that lies on the objects; NaN for an empty map."""
    area: float
    """The mean fraction of what the agent sees that the objects cover: the mass of a map that is the same everywhere."""
    target: str
    """What the mass is measured on: "ball and paddle" or "moving pixels"."""
    total: float
    """The return of the filmed decisions."""

    @property
    def mean_mass(self) -> tuple[float, float]:
        """The mean of `mass` over the decisions, actor and critic; NaN when all maps are empty."""
        actor, critic = (column[np.isfinite(column)] for column in self.mass.T)
        return tuple(float(column.mean()) if len(column) else float("nan") for column in (actor, critic))  # pyright: ignore[reportReturnType]


def record_take(
    env: gym.Env[Any, Any],
    hook: RecurrentAgentHook,
    name: str,
    method: str | SaliencyMethod = "xaitk",
    *,
    seed: int = 0,
    start: int = 0,
    decisions: int = 150,
    greedy: bool = True,
    watch: Callable[[], object] = lambda: None,
) -> Take:
    """Play one checkpoint and explain its decisions from `start` on.

    Args:
        env: shows the RGB frames that the agent acts on; it is closed in the end.
        hook: of the checkpoint's agent, with its preprocessor.
        name: of the checkpoint.
        method: as for `SaliencyRecorder`.
        seed: of the environment.
        start: the first decision that is filmed, counted from 0 and over the ends of episodes.
        decisions: how many are filmed.
        greedy: take the most probable action; otherwise sample.
        watch: is called after every decision.

    Returns:
        The take. When an episode ends, the next one is played.

    Raises:
        ValueError: the hook has no preprocessor, so that nothing says where on the frame a map lies.
    """
    preprocessor = hook.preprocessor
    if preprocessor is None:
        raise ValueError("Expected a hook with a preprocessor, got one without: nothing says where on the frame a map lies.")
    frames: list[Frame] = []
    told: list[StepSaliency] = []
    boxes: list[Any] = []
    total = 0.0
    recorder = SaliencyRecorder(env, hook, method, step_trigger=lambda steps: steps >= start)
    try:
        observation, _ = recorder.reset(seed=seed)
        for step in range(start + decisions):
            before, objects = np.array(recorder.render()), moving_objects(env)
            observation, reward, terminated, truncated, info = recorder.step(hook.act(observation, greedy=greedy))
            if step >= start:
                frames.append(before)
                boxes.append(objects)
                told.append(_step_saliency(info["saliency"]))
                total += float(reward)
            watch()
            if terminated or truncated:
                observation, _ = recorder.reset()
    finally:
        recorder.close()
    known = all(objects is not None for objects in boxes)
    margin = _margin(preprocessor, frames[0].shape)
    masks = [boxes_mask(objects, frames[0].shape[:2], margin) for objects in boxes] if known else moving_pixels(frames)
    mass, area = _measure(told, masks, preprocessor)
    return Take(name, frames, told, preprocessor, mass, area, "ball and paddle" if known else "moving pixels", total)


def mass_fraction(saliency: Array | None, mask: Mask, preprocessor: FramePreprocessor) -> float:
    """How much of a map `(h, w)`, laid on the frame, is within the mask `(H, W)`: in [0, 1], NaN for an empty map or None."""
    if saliency is None:
        return float("nan")
    flat = saliency if saliency.ndim == 2 else saliency.sum(axis=0)
    laid = preprocessor.project(flat, (mask.shape[0], mask.shape[1]))
    total = float(laid.sum())
    return float(laid[mask].sum()) / total if total > 0 else float("nan")


def sequence(takes: Sequence[Take], painter: Painter) -> Iterator[Frame]:
    """The takes one after another; below, the mean mass of each so far, over the checkpoints."""
    means = np.full((len(takes), 2), np.nan)
    peak = _peak(np.concatenate([take.mass for take in takes]))
    for index, take in enumerate(takes):
        for step in range(len(take.frames)):
            means[index] = _running_mean(take.mass[: step + 1])
            picture = _titled(take, step, painter)
            yield np.vstack([picture, _curves(picture.shape[1], means, index, take, peak)])


def side_by_side(takes: Sequence[Take], painter: Painter) -> Iterator[Frame]:
    """The takes next to each other, decision by decision; below each, its mass so far, over the decisions."""
    peak = _peak(np.concatenate([take.mass for take in takes]))
    for step in range(min(len(take.frames) for take in takes)):
        columns = []
        for take in takes:
            picture = _titled(take, step, painter)
            seen = np.full_like(take.mass, np.nan)
            seen[: step + 1] = take.mass[: step + 1]
            column = np.vstack([picture, _curves(picture.shape[1], seen, step, take, peak)])
            columns.append(np.pad(column, ((0, 0), (0, _GAP), (0, 0))))
        yield np.hstack(columns)


_ACTOR, _CRITIC, _LIGHT, _GREY, _DARK = (110, 150, 255), (255, 100, 100), (235, 235, 235), (110, 110, 110), (24, 24, 24)
_TITLE, _GAP = 22, 4


def _step_saliency(info: dict[str, Any]) -> StepSaliency:
    maps = SaliencyMaps(info["actor"], info["critic"])
    return StepSaliency(info["episode"], info["step"], info["action"], info["logits"], info["value"], maps)


def _margin(preprocessor: FramePreprocessor, shape: tuple[int, ...]) -> tuple[float, float]:
    """`MARGIN` in pixels of the frame: rows, columns."""
    seen = preprocessor.covers((shape[0], shape[1]))
    rows, columns = np.count_nonzero(seen.any(axis=1)), np.count_nonzero(seen.any(axis=0))
    return MARGIN * rows / preprocessor.size[0], MARGIN * columns / preprocessor.size[1]


def _measure(told: Sequence[StepSaliency], masks: Sequence[Mask], preprocessor: FramePreprocessor) -> tuple[NDArray[np.float64], float]:
    seen = preprocessor.covers((masks[0].shape[0], masks[0].shape[1]))
    mass = np.full((len(told), 2), np.nan)
    for row, (saliency, mask) in enumerate(zip(told, masks, strict=True)):
        maps = saliency.maps
        if maps is not None:
            mass[row] = [mass_fraction(one, mask, preprocessor) for one in (maps.actor, maps.critic)]
    return mass, float(np.mean([mask[seen].mean() for mask in masks]))


def _running_mean(mass: NDArray[np.float64]) -> NDArray[np.float64]:
    there = np.isfinite(mass)
    counts = there.sum(axis=0)
    return np.where(counts > 0, np.where(there, mass, 0.0).sum(axis=0) / np.maximum(counts, 1), np.nan)


def _titled(take: Take, step: int, painter: Painter) -> Frame:
    picture = painter.paint(take.frames[step], take.saliency[step], take.preprocessor)
    title = np.full((_TITLE, picture.shape[1], 3), _DARK, np.uint8)
    cv2.putText(title, f"{take.name}  decision {take.saliency[step].step}", (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.38, _LIGHT, 1, cv2.LINE_AA)
    return np.vstack([title, picture])


def _peak(mass: NDArray[np.float64]) -> float:
    """The upper end of the curves' axis, the same for all of them: the largest mass, but at least 0.1."""
    return max(0.1, float(np.nanmax(mass)) if np.isfinite(mass).any() else 0.0)


def _curves(width: int, mass: NDArray[np.float64], current: int, take: Take, peak: float) -> Frame:
    """Curves of `(n, 2)` numbers in [0, `peak`], NaN where there is none yet; the dashed line is the objects' area."""
    panel = np.full((CURVE_HEIGHT, width, 3), _DARK, np.uint8)
    top, bottom, left, right = 20, CURVE_HEIGHT - 8, 8, width - 8

    def place(index: int, number: float) -> tuple[int, int]:
        across = left if len(mass) == 1 else left + round(index * (right - left) / (len(mass) - 1))
        return across, bottom - round(number / peak * (bottom - top))

    cv2.putText(panel, f"mass on {take.target}, 0 to {peak:.2f}", (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.36, _LIGHT, 1, cv2.LINE_AA)
    height = place(0, min(take.area, peak))[1]
    for x in range(left, right, 8):
        cv2.line(panel, (x, height), (min(x + 3, right), height), _GREY, 1)
    for head, colour in enumerate((_ACTOR, _CRITIC)):
        points = [place(index, float(number)) for index, number in enumerate(mass[:, head]) if np.isfinite(number)]
        if points:
            cv2.polylines(panel, [np.array(points, np.int32)], False, colour, 1, cv2.LINE_AA)
        if np.isfinite(mass[current, head]):
            cv2.circle(panel, place(current, float(mass[current, head])), 3, colour, -1, cv2.LINE_AA)
    return panel
