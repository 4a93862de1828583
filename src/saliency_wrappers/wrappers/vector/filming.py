"""`EnvironmentFilming`: what the video wrappers for many environments share, of Gymnasium and of Stable-Baselines3."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from saliency_wrappers.faithfulness.detailed import has_details
from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.recording.clock import chosen_environments
from saliency_wrappers.recording.recording import Recording
from saliency_wrappers.video.camera import Camera, default_schedule, prepared_folder
from saliency_wrappers.video.overlay import Frame
from saliency_wrappers.video.painter import DrawingOptions
from saliency_wrappers.video.writer import check_rate

Shown = Callable[[int], tuple[Any, Frame | None]]
"""What an environment shows now: `(H, W, 3)` uint8, if all is well, and the agent's view beside it. None: the frame is the view."""


class EnvironmentFilming(ABC):
    """Films chosen environments of a recording, a video for each of their episodes, or from chosen steps on.

    A base class beside the wrapper's own, whose `__init__` calls `_prepare_filming`, and whose `reset` and `step` call the others.
    """

    def _chosen(self, recording: Recording, environments: Sequence[int] | None) -> list[int]:
        """Return the numbers of the filmed environments, by default the first recorded one; `ValueError` for unknown ones."""
        chosen = [min(recording.clocks)] if environments is None else chosen_environments(environments, recording.num_envs)
        return [recording.clock(index).environment for index in chosen]

    def _prepare_filming(
        self,
        recording: Recording,
        chosen: Sequence[int],
        video_folder: str | os.PathLike[str],
        episode_trigger: Callable[[int], bool] | None,
        step_trigger: Callable[[int], bool] | None,
        video_length: int,
        name_prefix: str,
        fps: float,
        disable_logger: bool,
        gc_trigger: Callable[[int], bool] | None,
        drawing: DrawingOptions,
        action_names: Sequence[str] | None,
        first_action: int,
        beside: Mapping[str, Any],
    ) -> None:
        """Create a camera for each environment; parameters as of `RecordVectorSaliencyVideo` and `DrawingOptions.painter`."""
        self._recording = recording
        self.episode_trigger = default_schedule() if episode_trigger is None and step_trigger is None else episode_trigger
        self.step_trigger = step_trigger
        self.video_length = video_length if video_length != 0 else math.inf
        self.name_prefix = name_prefix
        self.frames_per_sec = check_rate(fps)
        self._told = False
        self.step_id = -1
        painters = [drawing.painter(action_names, first_action, details=has_details(recording.method), **beside) for _ in chosen]
        self.video_folder = prepared_folder(
            video_folder, name_prefix, [f"env-{index}-{k}" for index in chosen for k in ("episode", "step")]
        )
        self._cameras = {
            index: Camera(recording, painter, self.frames_per_sec, disable_logger, gc_trigger, index)
            for index, painter in zip(chosen, painters, strict=True)
        }
        self._episodes = dict.fromkeys(chosen, -1)

    @property
    def recording(self) -> bool:
        """Whether any video is being recorded."""
        return any(camera.running for camera in self._cameras.values())

    @property
    def filmed(self) -> list[int]:
        """The numbers of the filmed environments."""
        return list(self._cameras)

    @property
    def video_path(self) -> Path | None:
        """The video file of the first filmed environment: the current one, or the last one. None before the first."""
        return next(iter(self._cameras.values())).film.path

    @property
    def _maps_on_frame(self) -> bool:
        """Whether maps lie on the frame, and are no bars beside it."""
        return next(iter(self._cameras.values())).maps_on_frame

    @abstractmethod
    def _geometry(self) -> FramePreprocessor | None:
        """Return how maps lie on what is shown. None: over the whole frame."""

    def _stop_all(self) -> None:
        """Finish the videos that are being recorded, every one, whatever fails."""
        with ExitStack() as stack:
            for index, camera in self._cameras.items():
                if camera.running:
                    stack.enter_context(camera.film.filming())
                    stack.callback(self.stop_recording, index)

    def start_recording(self, video_name: str, environment: int) -> None:
        """Film an environment, to `{video_folder}/{video_name}.mp4`, from the next frame on; a recording of it that is running ends."""
        camera = self._cameras[environment]
        if camera.running:
            self.stop_recording(environment)
        camera.start(Path(self.video_folder, f"{video_name}.mp4"), self._geometry())

    def stop_recording(self, environment: int) -> None:
        """Draw and write what is held of an environment's video, and finish the file; `RuntimeError` when it is not being filmed."""
        self._cameras[environment].stop(self._episodes[environment])

    def _film_step(self, index: int, starts: bool, ended: bool, final: Frame | None, shown: Shown) -> None:
        """Film what a step led to; `final` is what ended the episode, where the next one has begun. None: no picture of it."""
        if self._recording.clock(index).episode > self._episodes[index]:
            if ended:  # SAME_STEP: what is shown now is the next episode's
                self._capture_final(index, final, shown)
            self._begin(index)
        if starts:
            with self._cameras[index].film.filming():
                self.start_recording(f"{self.name_prefix}-env-{index}-step-{self.step_id}", index)
        self._capture(index, shown)

    def _begin(self, index: int) -> None:
        camera, episode = self._cameras[index], self._recording.clock(index).episode
        with camera.film.filming():
            if camera.running and self.video_length == math.inf:
                self.stop_recording(index)
        self._episodes[index] = episode
        with camera.film.filming():
            if self.episode_trigger and self.episode_trigger(episode):
                self.start_recording(f"{self.name_prefix}-env-{index}-episode-{episode}", index)

    def _starts(self) -> bool:
        with next(iter(self._cameras.values())).film.filming_step():
            return self.step_trigger is not None and bool(self.step_trigger(self.step_id))
        return False  # the trigger failed, and that is a warning

    def _capture(self, index: int, shown: Shown) -> None:
        camera = self._cameras[index]
        with camera.film.filming():
            camera.film.turn()
            if camera.running:
                camera.film.add(*shown(index))
                if camera.film.frames > self.video_length:
                    self.stop_recording(index)

    def _capture_final(self, index: int, final: Frame | None, shown: Shown) -> None:
        if final is None:
            return

        def enlarged(index: int) -> tuple[Frame, Frame | None]:
            height, width = shown(index)[0].shape[:2]
            return np.asarray(cv2.resize(final, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8), None

        self._capture(index, enlarged)

    @contextmanager
    def _rescued(self) -> Generator[None]:
        with ExitStack() as stack:
            for camera in self._cameras.values():
                stack.enter_context(camera.film.rescued())
            yield
