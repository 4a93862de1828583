"""`EpisodeFilming` records the videos of the command line, `DecisionPictures` its PNG files. `Cameras` holds their settings."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2

from saliency_wrappers.preprocessing import FramePreprocessor
from saliency_wrappers.step_saliency import StepSaliency
from saliency_wrappers.video.overlay import Frame, Scale
from saliency_wrappers.video.painter import DrawingOptions
from saliency_wrappers.video.writer import StreamingWriter
from saliency_wrappers.wrappers.features import drawn_beside
from saliency_wrappers.wrappers.recorder import SaliencyRecorder
from saliency_wrappers.wrappers.video import RecordSaliencyVideo


@dataclass(frozen=True)
class Cameras:
    """Settings: what to record of every episode, where to, and how to draw maps."""

    folder: Path
    """Where `saliency-episode-0.mp4`, `raw-episode-0.mp4` and `decision-17-episode-0.png` go."""
    first: int = 0
    """The first decision with a map, and the first frame of the saliency video; counted from 0 in each episode."""
    end: int | None = None
    """The end of that range, exclusive. None: the episode's end."""
    raw: bool = True
    """Whether there is a video of the whole episode as it was."""
    pictures: frozenset[int] = frozenset()
    """Decisions that are shown in a PNG of their own."""
    drawing: DrawingOptions = field(default_factory=DrawingOptions)
    """For videos. Pictures always have panels and no strip, and use the scale `"frame"` instead of `"episode"`."""

    def saliency_video(self, episode: int) -> Path:
        """The video of the explained decisions, with maps."""
        return self.folder / f"saliency-episode-{episode}.mp4"

    def raw_video(self, episode: int) -> Path:
        """The video of the whole episode, without maps."""
        return self.folder / f"raw-episode-{episode}.mp4"

    def picture(self, episode: int, step: int) -> Path:
        """The picture of one decision."""
        return self.folder / f"decision-{step}-episode-{episode}.png"

    def files(self, episode: int) -> list[Path]:
        """All files of an episode. Some are missing if it ends before `first` or before a picture's decision."""
        raw = [self.raw_video(episode)] if self.raw else []
        return [self.saliency_video(episode), *raw, *(self.picture(episode, step) for step in sorted(self.pictures))]


class EpisodeFilming:
    """Records videos of an environment, with maps and without, and pictures of single decisions."""

    def __init__(self, recorder: SaliencyRecorder[Any, Any], cameras: Cameras) -> None:
        """Wrap a recorder."""
        self.cameras = cameras
        features = drawn_beside(recorder.recording.method, recorder.env.observation_space)["features"]
        self._pictures = DecisionPictures(cameras, recorder.hook.preprocessor, features)
        recorder.recording.subscribe(self._pictures)
        self.env = RecordSaliencyVideo(
            recorder,
            cameras.folder,
            episode_trigger=lambda _: cameras.first == 0,
            **vars(cameras.drawing),
        )
        """The recorder's environment, filmed."""
        self._raw: StreamingWriter | None = None

    @property
    def explained(self) -> int:
        """How many decisions have their maps."""
        return self._pictures.count

    def files(self, episodes: int) -> list[Path]:
        """Return the paths for the first `episodes` episodes; see `Cameras.files`."""
        return [file for episode in range(episodes) for file in self.cameras.files(episode)]

    @contextmanager
    def episode(self) -> Generator[None]:
        """Record the video without maps, if wanted, from the reset to the end of the block."""
        if not self.cameras.raw:
            yield
            return
        with closing(StreamingWriter(self.cameras.raw_video(self.env.episode_id), self.env.frames_per_sec)) as self._raw:
            self.shown()
            yield
        self._raw = None

    def before(self, step: int) -> None:
        """Before decision `step`, start or stop the saliency video and save the frame for a picture.

        A recording starts with the frame after the next step, so it is started one decision early.
        """
        cameras = self.cameras
        if step + 1 == cameras.first:
            self.env.start_recording(cameras.saliency_video(self.env.episode_id).stem)
        if step == cameras.end and self.env.recording:
            self.env.stop_recording()
        if step in cameras.pictures:
            self._pictures.expect(self._frame())

    def shown(self) -> None:
        """Write the current frame to the video without maps."""
        if self._raw is not None:
            self._raw.write(self._frame())

    def _frame(self) -> Frame:
        frame: Any = self.env.render()
        return frame


class DecisionPictures:
    """Writes single decisions as PNG files: the frame, the actor's map and the critic's. A `SaliencyConsumer`."""

    def __init__(self, cameras: Cameras, preprocessor: FramePreprocessor | None, features: Sequence[str] | None = None) -> None:
        scale: Scale = "frame" if cameras.drawing.scale == "episode" else cameras.drawing.scale
        self.count = 0
        """How many decisions came with maps, pictured or not."""
        self._cameras = cameras
        self._painter = replace(cameras.drawing, scale=scale, panels=True, strip=False).painter(features=features)
        self._preprocessor = preprocessor
        self._expected: Frame | None = None
        self._waiting: dict[tuple[int, int], Frame] = {}

    def expect(self, frame: Frame) -> None:
        """Save this frame for the next decision's picture."""
        self._expected = frame.copy()

    def wants_step(self) -> bool:
        """Whether the next decision gets a picture."""
        return self._expected is not None

    def decided(self, saliency: StepSaliency) -> None:
        """Keep the frame of a decision, and draw it now if its maps are computed."""
        if self._expected is not None:
            self._waiting[saliency.episode, saliency.step] = self._expected
            self._expected = None
        if saliency.maps is not None:
            self.explained(saliency)

    def explained(self, saliency: StepSaliency) -> None:
        """Draw the picture of a decision. Without maps (computing them failed) there is none."""
        frame = self._waiting.pop((saliency.episode, saliency.step), None)
        self.count += saliency.maps is not None
        if frame is None or saliency.maps is None:
            return
        file = self._cameras.picture(saliency.episode, saliency.step)
        picture = self._painter.paint(frame, saliency, self._preprocessor)
        if not cv2.imwrite(str(file), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
            raise OSError(f"Cannot write {file}.")
