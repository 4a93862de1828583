"""`EpisodeFilming`: films episodes as `Cameras` say, for the command line. `DecisionPictures`: the stills."""

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
    """What is filmed of every episode, into one folder, and how maps are drawn."""

    folder: Path
    """Where `saliency-episode-0.mp4`, `raw-episode-0.mp4` and `decision-17-episode-0.png` go."""
    first: int = 0
    """The first decision that is explained and in the saliency video, counted from 0 in each episode."""
    end: int | None = None
    """The first decision that no longer is. None: all until the episode's end."""
    raw: bool = True
    """Whether there is a video of the whole episode as it was."""
    pictures: frozenset[int] = frozenset()
    """Decisions that are shown in a PNG of their own."""
    drawing: DrawingOptions = field(default_factory=DrawingOptions)
    """Of videos; pictures have panels, no strip, and a scale of their own frame where that of videos is the episode's."""

    def saliency_video(self, episode: int) -> Path:
        """The video of the explained decisions, with maps."""
        return self.folder / f"saliency-episode-{episode}.mp4"

    def raw_video(self, episode: int) -> Path:
        """The video of the whole episode, without."""
        return self.folder / f"raw-episode-{episode}.mp4"

    def picture(self, episode: int, step: int) -> Path:
        """The picture of one decision."""
        return self.folder / f"decision-{step}-episode-{episode}.png"

    def files(self, episode: int) -> list[Path]:
        """All files of an episode that is long enough."""
        raw = [self.raw_video(episode)] if self.raw else []
        return [self.saliency_video(episode), *raw, *(self.picture(episode, step) for step in sorted(self.pictures))]


class EpisodeFilming:
    """Films what a recorder's environment shows: maps, the episode as it was, and pictures of single decisions."""

    def __init__(self, recorder: SaliencyRecorder[Any, Any], cameras: Cameras) -> None:
        """Set up the cameras around a recorder."""
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
        """Return what is written of so many episodes, if they are long enough."""
        return [file for episode in range(episodes) for file in self.cameras.files(episode)]

    @contextmanager
    def episode(self) -> Generator[None]:
        """Film the whole episode as it is, if that is wanted, after its reset."""
        if not self.cameras.raw:
            yield
            return
        with closing(StreamingWriter(self.cameras.raw_video(self.env.episode_id), self.env.frames_per_sec)) as self._raw:
            self.shown()
            yield
        self._raw = None

    def before(self, step: int) -> None:
        """Before decision `step`: start, stop, and take the picture. A recording starts with the frame after the next step."""
        cameras = self.cameras
        if step + 1 == cameras.first:
            self.env.start_recording(cameras.saliency_video(self.env.episode_id).stem)
        if step == cameras.end and self.env.recording:
            self.env.stop_recording()
        if step in cameras.pictures:
            self._pictures.expect(self._frame())

    def shown(self) -> None:
        """Film what is shown now."""
        if self._raw is not None:
            self._raw.write(self._frame())

    def _frame(self) -> Frame:
        frame: Any = self.env.render()
        return frame


class DecisionPictures:
    """Single decisions as PNG files: the frame, what the actor looked at, what the critic looked at. A `SaliencyConsumer`."""

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
        """The next decision, made on this frame, gets a picture."""
        self._expected = frame.copy()

    def wants_step(self) -> bool:
        """Whether the next decision gets a picture."""
        return self._expected is not None

    def decided(self, saliency: StepSaliency) -> None:
        """A decision. Its picture is made when its maps are there."""
        if self._expected is not None:
            self._waiting[saliency.episode, saliency.step] = self._expected
            self._expected = None
        if saliency.maps is not None:
            self.explained(saliency)

    def explained(self, saliency: StepSaliency) -> None:
        """A decision's maps. They are None when they could not be computed: then there is no picture."""
        frame = self._waiting.pop((saliency.episode, saliency.step), None)
        self.count += saliency.maps is not None
        if frame is None or saliency.maps is None:
            return
        file = self._cameras.picture(saliency.episode, saliency.step)
        picture = self._painter.paint(frame, saliency, self._preprocessor)
        if not cv2.imwrite(str(file), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
            raise OSError(f"Cannot write {file}.")
