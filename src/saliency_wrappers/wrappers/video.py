"""`RecordSaliencyVideo`: Gymnasium's `RecordVideo`, with what the agent looked at drawn on each frame.

The frames are kept in order by a `Film` and written by a `StreamingWriter`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, Self, SupportsFloat, overload

import gymnasium as gym
import numpy as np
from gymnasium import logger
from gymnasium.core import ActType, ObsType, RenderFrame
from gymnasium.vector import VectorEnv

from saliency_wrappers.faithfulness.detailed import has_details
from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.video.camera import Camera, default_schedule, prepared_folder, tell_of_whole_frame
from saliency_wrappers.video.overlay import HEADS, Scale
from saliency_wrappers.video.painter import DrawingOptions
from saliency_wrappers.video.writer import check_rate
from saliency_wrappers.wrappers.actions import action_names, first_action
from saliency_wrappers.wrappers.egocentric import is_egocentric, view_picture
from saliency_wrappers.wrappers.features import drawn_beside
from saliency_wrappers.wrappers.recorder import SaliencyRecorder
from saliency_wrappers.wrappers.vector.video import RecordVectorSaliencyVideo


class RecordSaliencyVideo(gym.Wrapper[ObsType, ActType, ObsType, ActType], Generic[ObsType, ActType], gym.utils.RecordConstructorArgs):
    """Records videos of what the agent looked at: `gymnasium.wrappers.RecordVideo` with the maps of a `SaliencyRecorder` beneath.

        env = SaliencyRecorder(gym.make("ALE/Breakout-v5", render_mode="rgb_array"), hook)
        env = RecordSaliencyVideo(env, "videos", episode_trigger=lambda episode: episode % 10 == 0)

    Recording starts and stops, and files are named, as with `RecordVideo`. An episode of T steps gives T + 1 frames: the frame that was
    rendered before step t, which the agent saw, carries the maps of decision t; the last one, on which nothing was decided, is plain,
    and so are frames of steps without a decision. Frames are streamed: memory does not grow with the episode, and what was recorded
    survives an exception and, but for the last frames, a kill. Where the recorder has `on_error="warn"`, a failure of the filming (a full
    disk) ends the video with a warning, and the episode goes on.

    Of vector observations the maps are drawn as bars beside the frame, a row for each feature: the actor's blue, the critic's red, hollow
    where a part is negative.

    Where the agent sees its surroundings and the frame shows the whole world (MiniGrid), the observation is drawn beside the frame, in the
    layout in which the network gets it, and carries the maps.

    For a vector of environments, `RecordSaliencyVideo(envs, ...)` is a `RecordVectorSaliencyVideo`, which also takes `environments`; for a
    `SaliencyVecEnv` of Stable-Baselines3 it is a `RecordSaliencyVecVideo`.
    """

    @overload
    def __new__(cls, env: VectorEnv[Any, Any, Any], *args: Any, **options: Any) -> RecordVectorSaliencyVideo: ...

    @overload
    def __new__(cls, env: gym.Env[ObsType, ActType], *args: Any, **options: Any) -> Self: ...

    def __new__(cls, env: Any = None, *args: Any, **options: Any) -> Any:
        """Create the wrapper for the kind of environment, as `pathlib.Path` does for paths."""
        if cls is RecordSaliencyVideo and not isinstance(env, gym.Env):
            # The attribute is that of a SaliencyVecEnv of SB3, which this module does not know.
            make = RecordVectorSaliencyVideo if isinstance(env, VectorEnv) else getattr(env, "saliency_video_wrapper", None)
            if make is not None:
                return make(env, *args, **options)
        return super().__new__(cls)

    def __init__(  # pyright: ignore[reportInconsistentConstructor]
        self,
        env: gym.Env[ObsType, ActType],
        video_folder: str | os.PathLike[str],
        episode_trigger: Callable[[int], bool] | None = None,
        step_trigger: Callable[[int], bool] | None = None,
        video_length: int = 0,
        name_prefix: str = "saliency",
        fps: float | None = None,
        disable_logger: bool = True,
        gc_trigger: Callable[[int], bool] | None = None,
        *,
        style: str = "xaitk",
        scale: Scale = "frame",
        heads: Sequence[str] = HEADS,
        colormap: str | None = None,
        panels: bool = False,
        strip: bool = False,
        zoom: int = 1,
    ) -> None:
        """Record what `env` shows.

        Args:
            env: has a `SaliencyRecorder` beneath, and a render mode that returns images.
            video_folder: where the videos go; made if it does not exist.
            episode_trigger: starts a recording at the episodes for which it is True. With neither trigger Gymnasium's
                `capped_cubic_video_schedule`: episodes 0, 1, 8, 27, ... and every thousandth.
            step_trigger: starts a recording at the steps, counted since construction, for which it is True.
            video_length: the recording ends when it has more frames than this, at any episode; 0: when the episode does.
            name_prefix: files are `{name_prefix}-episode-{episode}.mp4` and `{name_prefix}-step-{step}.mp4`.
            fps: frames per second. None: `render_fps` of the environment's metadata, or 30.
            disable_logger: False says, as moviepy does, when a video is ready.
            gc_trigger: collects garbage after the episodes for which it is True. None never does: streaming leaves nothing to collect.
            style: as in `draw`.
            scale: as in `draw`; or `"episode"`: by the peak of the episode so far, see `EpisodeScale`.
            heads: as in `draw`.
            colormap: as in `draw`.
            panels: as in `draw`.
            strip: shows value, action probabilities and action below the frame, see `draw_strip`, and the recorder's `details`; legible
                from 320 pixels' width.
            zoom: enlarges every pixel to `zoom` x `zoom`.

        Raises:
            ValueError: a render mode without images, no `SaliencyRecorder` beneath, or a wrong drawing option.
        """
        drawing = DrawingOptions(style, scale, tuple(heads), colormap, panels, strip, zoom)
        filmed: dict[str, Any] = {"video_length": video_length, "name_prefix": name_prefix, "fps": fps, **vars(drawing)}
        when: dict[str, Any] = {"episode_trigger": episode_trigger, "step_trigger": step_trigger, "gc_trigger": gc_trigger}
        gym.utils.RecordConstructorArgs.__init__(self, video_folder=video_folder, disable_logger=disable_logger, **when, **filmed)
        _check_render_mode(env)
        gym.Wrapper.__init__(self, env)
        self.episode_trigger = default_schedule() if episode_trigger is None and step_trigger is None else episode_trigger
        self.step_trigger = step_trigger
        self.video_length = video_length if video_length != 0 else math.inf
        self.name_prefix = name_prefix
        self.frames_per_sec = check_rate(self.metadata.get("render_fps", 30) if fps is None else fps)
        self.disable_logger = disable_logger
        self.gc_trigger = gc_trigger
        self._told = False
        self.step_id = -1
        self.episode_id = -1
        self.render_history: list[RenderFrame] = []
        self._recorder = _recorder_beneath(env)
        self._egocentric = is_egocentric(env)
        details = has_details(self._recorder.recording.method)
        beside = drawn_beside(self._recorder.recording.method, self._recorder.env.observation_space)
        painter = drawing.painter(action_names(env.unwrapped), first_action(env.action_space), details=details, **beside)
        self.video_folder = prepared_folder(video_folder, name_prefix)
        self._camera = Camera(self._recorder.recording, painter, self.frames_per_sec, disable_logger, gc_trigger)
        self._film = self._camera.film

    @property
    def recording(self) -> bool:
        """Whether a video is being recorded."""
        return self._film.running

    @property
    def video_path(self) -> Path | None:
        """The current video file, or the last one. None before the first."""
        return self._film.path

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[ObsType, dict[str, Any]]:
        """Reset the environment, end the episode's recording and perhaps start a new one."""
        with self._film.rescued():
            observation, info = self.env.reset(seed=seed, options=options)
            self.episode_id += 1
            with self._film.filming():
                if self.recording and self.video_length == math.inf:
                    self.stop_recording()
            with self._film.filming():
                if self.episode_trigger and self.episode_trigger(self.episode_id):
                    self.start_recording(f"{self.name_prefix}-episode-{self.episode_id}")
                self._capture_frame(observation)
        return observation, info

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment, recording what the agent saw and what it sees now.

        Where filming fails once the environment has stepped, the transition is returned, and the error is raised by the next `step`,
        `reset` or `close` (or is a warning, by the recorder's `on_error`).
        """
        with self._film.rescued():
            observation, reward, terminated, truncated, info = self.env.step(action)
            self.step_id += 1
            with self._film.filming_step():
                if self.step_trigger and self.step_trigger(self.step_id):
                    self.start_recording(f"{self.name_prefix}-step-{self.step_id}")
                self._capture_frame(observation)
        return observation, reward, terminated, truncated, info

    def render(self) -> RenderFrame | list[RenderFrame] | None:
        """Return what the environment renders, without maps; frames of a list are recorded, too."""
        with self._film.rescued():
            rendered = self.env.render()
        history, self.render_history = self.render_history, []
        return history + rendered if isinstance(rendered, list) else rendered

    def close(self) -> None:
        """Finish the video that is being recorded and close the environment."""
        try:
            with self._film.filming():
                if self.recording:
                    self.stop_recording()
        finally:
            super().close()

    def start_recording(self, video_name: str) -> None:
        """Start a recording, to `{video_folder}/{video_name}.mp4`, from the next frame on; one that is running ends."""
        if self.recording:
            self.stop_recording()
        self._camera.start(Path(self.video_folder, f"{video_name}.mp4"), self._geometry())

    def stop_recording(self) -> None:
        """Compute pending maps, draw and write the frames, and finish the file; `RuntimeError` when nothing is being recorded."""
        self._camera.stop(self.episode_id)

    def _geometry(self) -> FramePreprocessor | None:
        preprocessor = self._recorder.hook.preprocessor
        if preprocessor is None and not self._told and not self._egocentric and self._camera.maps_on_frame:
            self._told = True
            tell_of_whole_frame()
        return preprocessor

    def _capture_frame(self, observation: Any) -> None:
        self._film.turn()
        if not self.recording:
            return
        frame: Any = self.env.render()
        if isinstance(frame, list):
            if not frame:
                logger.warn("Trying to capture render frame but 'env.render()' has just been called. The frame cannot be captured.")
                return
            self.render_history += frame
            frame = frame[-1]
        if not isinstance(frame, np.ndarray):
            self.stop_recording()
            logger.warn("Recording stopped: expected type of frame returned by render to be a numpy array, got instead %s.", type(frame))
            return
        self._film.add(frame, view_picture(observation) if self._egocentric else None)
        if self._film.frames > self.video_length:
            self.stop_recording()


def _check_render_mode(env: Any) -> None:
    if not isinstance(env, gym.Env):
        raise TypeError(
            f"Expected a gymnasium.Env with a SaliencyRecorder beneath, got {type(env).__name__}. "
            "A VecEnv of Stable-Baselines3 needs SaliencyVecEnv first: RecordSaliencyVideo(SaliencyVecEnv(venv, hook), video_folder)."
        )
    if env.render_mode in {None, "human", "ansi"}:
        raise ValueError(
            f"Render mode is {env.render_mode}, which is incompatible with RecordSaliencyVideo. "
            "Initialize your environment with a render_mode that returns an image, such as rgb_array."
        )


def _recorder_beneath(env: gym.Env[Any, Any]) -> SaliencyRecorder[Any, Any]:
    beneath: Any = env
    while isinstance(beneath, gym.Wrapper):
        if isinstance(beneath, SaliencyRecorder):
            return beneath
        beneath = beneath.env
    raise ValueError(
        f"Expected a SaliencyRecorder beneath RecordSaliencyVideo, found none in {env}. "
        "The recorder comes first: env = RecordSaliencyVideo(SaliencyRecorder(env, hook), video_folder)."
    )
