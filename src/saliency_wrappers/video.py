"""`RecordSaliencyVideo`: Gymnasium's `RecordVideo` with each frame's saliency drawn on it; `StreamingWriter`: frames to an H.264 file."""

from __future__ import annotations

import gc
import math
import os
import signal
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import logger
from gymnasium.core import ActType, ObsType, RenderFrame

from saliency_wrappers.overlay import HEADS, Drawing, EpisodeScale, Frame, Scale, check_frame, draw_strip
from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.recorder import SaliencyRecorder
from saliency_wrappers.recording import Recording
from saliency_wrappers.records import StepSaliency


class StreamingWriter:
    """Streams frames to an H.264 file that plays while it grows, and keeps none of them.

        writer = StreamingWriter("episode.mp4", fps=30)
        writer.write(frame)
        writer.close()

    A killed process leaves all but the last frames; at garbage collection and at the interpreter's exit the file is finished.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float) -> None:
        """Nothing is written before the first frame.

        Args:
            path: the file, replaced if it exists. Its folder must exist.
            fps: frames per second, above 0.
        """
        self.path = Path(path).absolute()
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"Expected an existing folder for the video, actual: {self.path.parent} does not exist.")
        if not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"Expected a positive number of frames per second, got {fps}.")
        self._size: tuple[int, int] | None = None
        self._encoder = _Encoder(self.path, fps)
        self._finalizer = weakref.finalize(self, self._encoder.close)

    def write(self, frame: Frame) -> None:
        """Append a frame. One with an odd height or width gets a black row or column.

        Args:
            frame: `(H, W, 3)` uint8, RGB, as large as the first one. It is not modified.

        Raises:
            TypeError: not an array of uint8.
            ValueError: another shape, or another size than the first frame's.
            OSError: ffmpeg could not write the file (disk full, folder gone), in ffmpeg's words.
            RuntimeError: the writer is closed.
        """
        if not self._finalizer.alive:
            raise RuntimeError(f"Cannot write to {self.path}: it is closed.")
        check_frame(frame, self._size)
        height, width = self._size = (frame.shape[0], frame.shape[1])
        self._encoder.write(np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0))))

    def close(self) -> None:
        """Finish the file. More than once does no harm, nor does an ffmpeg that Ctrl-C ended; `OSError` for its other failures."""
        self._finalizer()


class RecordSaliencyVideo(gym.Wrapper[ObsType, ActType, ObsType, ActType], Generic[ObsType, ActType], gym.utils.RecordConstructorArgs):
    """Records videos of what the agent looked at: `gymnasium.wrappers.RecordVideo` with the maps of a `SaliencyRecorder` beneath.

        env = SaliencyRecorder(gym.make("ALE/Breakout-v5", render_mode="rgb_array"), hook)
        env = RecordSaliencyVideo(env, "videos", episode_trigger=lambda episode: episode % 10 == 0)

    Recording starts and stops, and files are named, as with `RecordVideo`. An episode of T steps gives T + 1 frames: the frame that was
    rendered before step t, which the agent saw, carries the maps of decision t; the last one, on which nothing was decided, is plain,
    and so are frames of steps without a decision. Frames are streamed: memory does not grow with the episode, and what was recorded
    survives an exception and, but for the last frames, a kill.
    """

    def __init__(
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
            strip: shows value, action probabilities and action below the frame, see `draw_strip`; legible from 320 pixels' width.
            zoom: enlarges every pixel to `zoom` x `zoom`.

        Raises:
            ValueError: a render mode without images, no `SaliencyRecorder` beneath, or a wrong drawing option.
        """
        gym.utils.RecordConstructorArgs.__init__(
            self,
            video_folder=video_folder,
            episode_trigger=episode_trigger,
            step_trigger=step_trigger,
            video_length=video_length,
            name_prefix=name_prefix,
            fps=fps,
            disable_logger=disable_logger,
            gc_trigger=gc_trigger,
            style=style,
            scale=scale,
            heads=heads,
            colormap=colormap,
            panels=panels,
            strip=strip,
            zoom=zoom,
        )
        gym.Wrapper.__init__(self, env)
        ...
