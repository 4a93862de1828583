"""`LiveEpisode`: the numbers and pictures of one episode while it is recorded."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saliency_wrappers.decisions import Array, SaliencyMaps
from saliency_wrappers.hooks.replay_check import FramesNow
from saliency_wrappers.recording.recording import Recording
from saliency_wrappers.step_saliency import StepSaliency
from saliency_wrappers.viewer.episodes import LONGEST_NAME, action_of_page, number_of_page, picture_of_page

RECENT = 16
"""The newest decision with a picture is shown when it is at most so many old, else the newest of all."""


class LiveEpisode:
    """One episode of one environment. Its decisions are known when their rewards are."""

    def __init__(self, index: int, environment: int, number: int, name: str, seed: int | None, wait: int) -> None:
        """Begin an episode.

        Args:
            index: its place among all episodes since the page was started.
            environment: of the vector.
            number: the recorder's number of the episode in this environment.
            name: the environment's id.
            seed: of the reset. None: not known.
            wait: for how many decisions the newest picture with maps is shown instead of the newest picture; where maps come in blocks.
        """
        self.index, self.environment, self.number, self.name, self.seed = index, environment, number, name, seed
        self.steps: list[int] = []
        self.rewards: list[float | None] = []
        self.logits: list[Array] = []
        self.values: list[float | None] = []
        self.actions: list[Any] = []
        self.memory: list[float | None] = []
        self.confidence: list[float | None] = []
        self.objects: list[str | None] = []
        self.told: set[str] = set()
        """Which of memory, confidence and objects there are."""
        self.pictures: dict[int, NDArray[np.uint8]] = {}
        self.maps: dict[int, SaliencyMaps] = {}
        self._wait = wait
        self.complete = False
        self.awaits_reward = False
        self._total = 0.0
        self.geometry: dict[str, Any] | None = None
        """Size of its pictures, see `picture_of_page`. None: it has none yet."""
        self._pictured = -1
        self._explained = -1
        self._rows: dict[int, int] = {}

    @property
    def known(self) -> int:
        """How many decisions have their rewards."""
        return len(self.rewards)

    def decide(self, record: StepSaliency) -> None:
        """Keep a decision's numbers, before the environment steps."""
        logits, value = record.logits, record.value
        if self.awaits_reward:
            self.reward(math.nan)  # its step failed
        self._rows[record.step] = len(self.steps)
        self.steps.append(record.step)
        self.logits.append(logits)
        self.values.append(value)
        self.actions.append(record.action)
        for told in (self.memory, self.confidence, self.objects):
            told.append(None)
        self.awaits_reward = True

    def reward(self, reward: float) -> None:
        """What the environment returned for the last decision; NaN when it is not known."""
        self.rewards.append(number_of_page(reward))
        self._total += reward if math.isfinite(reward) else 0.0
        self.awaits_reward = False

    def explain(self, saliency: StepSaliency) -> int | None:
        """Keep a decision's maps; return its row, None when it is not of this episode."""
        row = self._rows.get(saliency.step)
        if row is not None and saliency.maps is not None:
            self.maps[row] = saliency.maps
            self._tell_details(row, saliency.maps)
            if row in self.pictures:
                self._explained = max(row, self._explained)
        return row

    def _tell_details(self, row: int, maps: SaliencyMaps) -> None:
        details = maps.details
        if details is None:
            return
        for told, name in ((self.memory, "memory"), (self.confidence, "confidence")):
            number = getattr(details, name)
            told[row] = None if number is None else number_of_page(number)
            self.told |= {name} if number is not None else set()
        self.objects[row] = None if details.sentence is None else details.sentence[:LONGEST_NAME]
        self.told |= {"objects"} if details.sentence is not None else set()

    def take_picture(self, record: StepSaliency, frames: FramesNow, recording: Recording) -> NDArray[np.uint8] | None:
        """Keep what the environment shows at the last decision, or the newest plane of the network input; None for neither."""
        shown = frames()
        frame = shown[record.environment] if shown else None
        inputs = record.inputs[0] if record.inputs is not None and record.inputs.ndim == 4 else None
        if frame is None and inputs is None:
            return None
        picture = _grey(inputs, recording.hook.adapter.input_range) if frame is None else np.array(frame)
        if self.geometry is None:
            size = None if inputs is None else (int(inputs.shape[-2]), int(inputs.shape[-1]))
            self.geometry = picture_of_page(picture.shape[:2], size, None if frame is None else recording.hook.preprocessor)
        self._pictured = len(self.steps) - 1
        self.pictures[self._pictured] = picture
        return picture

    def forget(self, row: int) -> None:
        """Forget a decision's picture and maps."""
        self.pictures.pop(row, None)
        self.maps.pop(row, None)

    def finish(self, complete: bool) -> None:
        """Nothing follows; `complete` when the environment said so."""
        if self.awaits_reward:
            self.reward(math.nan)
        self.complete = complete

    def row(self) -> dict[str, Any]:
        """Return its row in the list."""
        return {
            "index": self.index,
            "slot": self.environment,
            "episode": self.number,
            "name": f"episode {self.number}",
            "environment": self.name,
            "seed": self.seed,
            "decisions": self.known,
            "return": number_of_page(self._total),
            "complete": self.complete,
        }

    def numbers(self) -> dict[str, Any]:
        """Return its row, size of pictures and numbers, as `episode_numbers` does for stored episodes."""
        told = self.since(0, self.known)
        discrete = all(isinstance(action, int) for action in told["actions"])
        return {**self.row(), **told, "block": 1, "picture": self.geometry, "discrete": discrete}

    def since(self, first: int, most: int) -> dict[str, Any]:
        """Return the numbers of at most so many decisions from `first` on, and which decision is the newest to show.

        Args:
            first: the first row.
            most: how many rows.
        """
        end = min(self.known, first + most)
        rows = slice(first, end)
        values = [None if value is None else number_of_page(value) for value in self.values[rows]]
        last = self.known - 1
        newest = self._pictured if self._pictured >= last - RECENT else last
        newest = self._explained if self._wait and self._explained >= last - self._wait else newest
        return {
            "steps": self.steps[rows],
            "rewards": self.rewards[rows],
            "logits": [[number_of_page(logit) for logit in logits.tolist()] for logits in self.logits[rows]],
            "values": None if self.values and self.values[0] is None else values,
            "actions": [action_of_page(action) for action in self.actions[rows]],
            **{name: getattr(self, name)[rows] for name in ("memory", "confidence", "objects")},
            "told": sorted(self.told),
            "decisions": self.known,
            "return": number_of_page(self._total),
            "complete": self.complete,
            "show": min(max(newest, 0), max(end - 1, 0)),
        }


def _grey(inputs: Any, input_range: tuple[float, float]) -> NDArray[np.uint8]:
    """The newest plane of a network input `(C, h, w)` as `(h, w, 3)` uint8."""
    plane = inputs[-1].detach().cpu().float().numpy()
    low, high = (float(end) for end in input_range)
    if not (math.isfinite(low) and math.isfinite(high) and high > low):
        low, high = float(plane.min()), float(plane.max())
    grey = np.rint(np.clip((plane - low) * (255.0 / ((high - low) or 1.0)), 0, 255)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
